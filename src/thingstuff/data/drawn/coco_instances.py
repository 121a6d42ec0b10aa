"""COCO's instance annotations, with COCO's stuff annotations where they lie beside them.

Understood layouts: a JSON file; a folder with ``annotations/instances_<split>.json`` and pictures in ``<split>/``,
``images/<split>/`` or ``images/`` (COCO, CVAT, Label Studio); ``<split>/_annotations.coco.json`` beside its pictures
(Roboflow); ``annotations.json`` or ``labels.json``, in a folder of its split or not, with pictures beside it, in
``images/`` or in ``data/`` (FiftyOne). Of the path of a picture the longest end counts that is there. Beside
``instances_<split>.json`` may lie stuff: ``stuff_<split>.json``, or a folder ``stuff_<split>_pixelmaps`` or
``stuff_<split>`` of PNG files with category ids, named by the categories of ``stuff_<split>.json`` or by a
``classes.txt`` in the folder.

Source: https://cocodataset.org/#format-data, https://github.com/nightrome/cocostuff
"""

import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from thingstuff.data.coco_json import read_images
from thingstuff.data.drawn.drawing import Drawing, DrawnCategory, Piece
from thingstuff.data.drawn.label_png import pieces_of, read_label_png, read_names
from thingstuff.data.drawn.lookup import field as checked
from thingstuff.data.drawn.lookup import find_by_end, read_json, read_size, refuse_missing, refuse_repeated
from thingstuff.data.drawn.polygons import Placed, crop, fill_polygons, read_points
from thingstuff.data.drawn.run_lengths import read_run_lengths
from thingstuff.data.drawn.splitting import split_name
from thingstuff.errors import InputError
from thingstuff.structures import Size

_OTHER_TASKS = ("stuff_", "person_keypoints_", "captions_", "panoptic_", "image_info_")
_ROBOFLOW = "_annotations.coco.json"
_IN_SPLITS = ("annotations.json", "labels.json")
"""Names that a file may have in the folder of its split."""
_KEY = re.compile(rb'"(\w+)"\s*:')
_ALL_THINGS = (183, "other")
"""The category that COCO's stuff gives to all pixels of things."""


@dataclass(frozen=True, slots=True)
class _Stuff:
    """The stuff of one split: annotations by picture, or a folder of PNG files with category ids."""

    path: Path
    names: Mapping[int, str | None]
    annotations: Mapping[int | str, Sequence[Any]] = field(default_factory=dict)
    folder: Path | None = None


@dataclass(frozen=True, slots=True)
class _Split:
    """One JSON file of instances."""

    path: Path
    name: str | None
    names: Mapping[int, str]
    annotations: Mapping[int | str, Sequence[Any]]
    stuff: _Stuff | None


@dataclass(frozen=True, slots=True)
class _Picture:
    identity: int | str
    path: Path
    size: Size
    split: _Split


@dataclass(frozen=True)
class CocoInstances:
    """Made by ``open_coco_instances``."""

    categories: tuple[DrawnCategory, ...]
    pictures: tuple[_Picture, ...]

    def __len__(self) -> int:
        return len(self.pictures)

    def read(self, index: int) -> Drawing:
        """Decode the outlines and run lengths of one picture; stuff lies below things."""
        picture = self.pictures[index]
        split = picture.split
        pieces = [] if split.stuff is None else _read_stuff(split.stuff, picture)
        for annotation in split.annotations.get(picture.identity, ()):
            pieces.append(_read_annotation(annotation, split.names, picture, split.path))
        return Drawing(picture.path, picture.size, tuple(pieces), split.name)


def recognize(source: Path) -> bool:
    """Whether there is a JSON file of COCO instances."""
    try:
        return bool(_find_files(source))
    except OSError:
        return False


def open_coco_instances(source: Path) -> CocoInstances:
    """Open a file or folder of COCO instances.

    Raises:
        InputError: There is none, it is damaged, or pictures are missing.
    """
    files = _find_files(source)
    if not files:
        raise InputError(f"{source}: no JSON file with images, annotations and categories; give the file or its folder")
    categories: dict[str, DrawnCategory] = {}
    pictures: list[_Picture] = []
    splits: list[_Split] = []
    for path in files:
        document = _read_lists(path)
        listed = _read_categories(document["categories"], path, isthing=True)
        word = _split_word(path)
        stuff = None
        if path.stem.startswith("instances_"):
            stuff, stuff_categories = _find_stuff(path, word)
            for each in stuff_categories:
                _merge(categories, each, path)
        for each in listed.values():
            _merge(categories, each, path)
        split = _Split(
            path,
            _known_split(word) or (word if path.stem.startswith("instances_") else None),
            {identity: each.name for identity, each in listed.items()},
            _by_picture(document["annotations"], path),
            stuff,
        )
        pictures += _find_pictures(document, split, word)
        splits.append(split)
    if not pictures:
        raise InputError(f"{files[0]}: 'images' is empty; the data set has no picture")
    refuse_repeated((picture.path for picture in pictures), source)
    _warn_of_crowds_alone(splits, categories, source)
    return CocoInstances(tuple(categories.values()), tuple(pictures))


# --- opening ---


def _find_files(source: Path) -> list[Path]:
    if source.is_file():
        return [source] if _looks_like_instances(source) else []
    inside = [path for folder in (source, source / "annotations") for path in sorted(folder.glob("*.json"))]
    inside += sorted(source.glob(f"*/{_ROBOFLOW}"))
    found = [path for path in inside if not path.name.startswith(_OTHER_TASKS) and _looks_like_instances(path)]
    # File names of COCO and Roboflow tell the task, so that a damaged file is no missing split; among others whatever
    # fits is taken.
    for named in ("instances_", _ROBOFLOW):
        if any(path.name.startswith(named) for path in found):
            return [path for path in inside if path.name.startswith(named)]
    return found or _find_in_splits(source)


def _find_in_splits(source: Path) -> list[Path]:
    for name in _IN_SPLITS:
        inside = [path for path in sorted(source.glob(f"*/{name}")) if _known_split(path.parent.name)]
        if any(_looks_like_instances(path) for path in inside):
            return inside
    return []


def _split_word(path: Path) -> str:
    """What a file or its folder calls the split."""
    folder = path.parent.name
    if path.name == _ROBOFLOW or (path.name in _IN_SPLITS and _known_split(folder)):
        return folder
    return path.stem.removeprefix("instances_")


def _known_split(word: str) -> str | None:
    name = split_name(word)
    return name if name in ("train", "val", "test") else None


def _looks_like_instances(path: Path) -> bool:
    """Judge by the ends of the file, which name its lists and show what an entry looks like."""
    try:
        with path.open("rb") as file:
            text = file.read(65536)
            file.seek(max(path.stat().st_size - 65536, 0))
            text += file.read(65536)
    except OSError:
        return False
    # Only keys count: what stands for a name may be any word.
    keys = set(_KEY.findall(text))
    images, annotations, categories = (key in keys for key in (b"images", b"annotations", b"categories"))
    # Of a large file whose annotations come first, the list of pictures is out of sight.
    has_lists = (images and (annotations or categories)) or (annotations and categories and b"image_id" in keys)
    # Objects, too, may have an attribute that is called caption.
    captions = b"caption" in keys and b"segmentation" not in keys
    other = b"segments_info" in keys or captions
    return text.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"{" and has_lists and not other


def _read_lists(path: Path) -> dict[str, list[Any]]:
    document = read_json(path)
    return {name: checked(document, name, list, str(path)) for name in ("images", "annotations", "categories")}


def _read_categories(listed: Sequence[Any], path: Path, isthing: bool) -> dict[int, DrawnCategory]:
    categories: dict[int, DrawnCategory] = {}
    for position, category in enumerate(listed):
        where = f"{path}: categories[{position}]"
        identity, name = checked(category, "id", int, where), checked(category, "name", str, where)
        if identity in categories:
            raise InputError(f"{where} ({name!r}): another category has the id {identity}; give each its own")
        said = category.get("isthing")
        categories[identity] = DrawnCategory(name, isthing if said not in (0, 1) else bool(said))
    return categories


def _merge(categories: dict[str, DrawnCategory], category: DrawnCategory, path: Path) -> None:
    """Add a category; exports list one name twice, and splits list the same names."""
    other = categories.setdefault(category.name, category)
    if other.isthing != category.isthing:
        raise InputError(f"{path}: the category {category.name!r} is both thing and stuff; rename one of them")


def _by_picture(annotations: Sequence[Any], path: Path) -> dict[int | str, list[Any]]:
    by_picture: dict[int | str, list[Any]] = {}
    for position, annotation in enumerate(annotations):
        where = f"{path}: annotations[{position}]"
        by_picture.setdefault(checked(annotation, "image_id", (int, str), where), []).append(annotation)
    return by_picture


def _find_pictures(document: Mapping[str, Any], split: _Split, word: str) -> list[_Picture]:
    images = read_images(document["images"], split.path)
    for identity, annotations in split.annotations.items():
        if identity not in images:
            raise InputError(
                f"{split.path}: annotation {_name(annotations[0])} is of picture {identity!r}, which 'images' does not "
                "list; add it there or remove the annotation"
            )
    base = split.path.parent
    roots = [base.parent, base] if base.name.lower() in ("annotations", "labels", "json") else [base]
    places = (word, f"images/{word}", "images", "", "data")
    folders = [root / place for root in roots for place in places]
    found: list[_Picture] = []
    missing: list[str] = []
    for identity, (file_name, size) in images.items():
        where = f"{split.path}: picture {identity!r}"
        if not file_name:
            raise InputError(f"{where}: file_name is empty; write the picture's path inside the export's folder")
        path = find_by_end(file_name, folders, where)
        if path is None:
            missing.append(file_name)
        else:
            found.append(_Picture(identity, path, read_size(*size, f"{split.path}: {file_name}"), split))
    refuse_missing(missing, split.path, [folder for folder in folders if folder.is_dir()])
    refuse_repeated((picture.path for picture in found), split.path)
    return found


def _warn_of_crowds_alone(splits: Sequence[_Split], categories: Mapping[str, DrawnCategory], source: Path) -> None:
    """Warn of things that are nothing but crowds of run lengths: tools write masks of single objects so."""
    counts, crowds = Counter[str](), Counter[str]()
    for split in splits:
        for annotation in (each for annotations in split.annotations.values() for each in annotations):
            identity = annotation.get("category_id")
            name = split.names.get(identity) if isinstance(identity, int) else None
            if name is not None and categories[name].isthing:
                counts[name] += 1
                crowds[name] += annotation.get("iscrowd") == 1 and isinstance(annotation.get("segmentation"), dict)
    alone = ", ".join(f"{name} ({count})" for name, count in counts.items() if crowds[name] == count)
    if alone:
        warnings.warn(
            f"{source}: every annotation of these things is a crowd (iscrowd 1) of run lengths, none a single object: "
            f"{alone}; CVAT and Datumaro mark masks so in COCO files: if they are objects, export polygons, CVAT's own "
            "XML or Datumaro's own format",
            stacklevel=3,
        )


def _find_stuff(path: Path, word: str) -> tuple[_Stuff | None, list[DrawnCategory]]:
    """The stuff that lies beside a file of instances, and its categories without that of all things."""
    json_path = path.with_name(f"stuff_{word}.json")
    document = _read_lists(json_path) if json_path.is_file() else None
    categories: dict[int, DrawnCategory] = {}
    if document is not None:
        categories = _read_categories(document["categories"], json_path, isthing=False)
    names: dict[int, str | None] = {
        identity: None if (identity, each.name) == _ALL_THINGS else each.name for identity, each in categories.items()
    }
    listed = [each for identity, each in categories.items() if names[identity] is not None]
    if document is not None and document["annotations"]:
        return _Stuff(json_path, names, _by_picture(document["annotations"], json_path)), listed
    places = (path.parent, path.parent.parent) if path.parent.name.lower() == "annotations" else (path.parent,)
    for folder in (place / name for place in places for name in (f"stuff_{word}_pixelmaps", f"stuff_{word}")):
        if not folder.is_dir():
            continue
        if not names:
            named = read_names(folder)
            if named is None:
                raise InputError(f"{folder}: its numbers have no names; put a classes.txt or {json_path.name} there")
            names = dict(named.by_value)
            listed = [DrawnCategory(name, False) for name in named.by_value.values()]
        return _Stuff(json_path, names, folder=folder), listed
    return None, []


# --- reading ---


def _read_stuff(stuff: _Stuff, picture: _Picture) -> list[Piece]:
    if stuff.folder is None:
        annotations = stuff.annotations.get(picture.identity, ())
        pieces = (_read_annotation(annotation, stuff.names, picture, stuff.path) for annotation in annotations)
        # What things cover is no void of its own, which would lie over them or below.
        return [piece for piece in pieces if piece.category is not None]
    path = stuff.folder / f"{picture.path.stem}.png"
    values = read_label_png(path).values
    if values.shape != picture.size:
        raise InputError(
            f"{path}: {values.shape[1]} x {values.shape[0]} pixels (width x height), but the picture has "
            f"{picture.size[1]} x {picture.size[0]}; export it again"
        )
    # 0 is what nobody labelled, 183 what instances cover.
    names = {0: None, 255: None, _ALL_THINGS[0]: None} | dict(stuff.names)
    return pieces_of(values, None, names, str(path))


def _read_annotation(annotation: Any, names: Mapping[int, str | None], picture: _Picture, path: Path) -> Piece:
    where = f"{path.name}: annotation {_name(annotation)} of {picture.path.name}"
    category_id = checked(annotation, "category_id", int, where)
    if category_id not in names:
        raise InputError(f"{where}: category_id {category_id} is not among 'categories'; add it there or correct it")
    crowd = annotation.get("iscrowd", 0)
    if crowd not in (0, 1):
        raise InputError(f"{where}: iscrowd is {crowd!r}; write 1 for a group of objects, else 0")
    mask, corner = _read_segmentation(annotation.get("segmentation"), picture.size, where)
    name = names[category_id]
    return Piece(name, mask, corner, crowd=bool(crowd), where=f"{where} ({name!r})")


def _read_segmentation(segmentation: Any, size: Size, where: str) -> Placed:
    if not segmentation:
        raise InputError(f"{where}: it has a box, but no outline; a panoptic map needs masks, so draw it or remove it")
    if isinstance(segmentation, dict):
        return crop(read_run_lengths(segmentation, size, where))
    if not isinstance(segmentation, list) or not all(isinstance(polygon, list) for polygon in segmentation):
        raise InputError(f"{where}: its segmentation is neither polygons nor run lengths; write [[x1, y1, x2, ...]]")
    outlines = []
    for polygon in segmentation:
        if len(polygon) % 2:
            raise InputError(
                f"{where}: a polygon has {len(polygon)} numbers, which are no pairs; write x and y in turn"
            )
        pairs = [[x, y] for x, y in zip(polygon[::2], polygon[1::2], strict=True)]
        # A few of COCO's own have two corners: no area, no pixel.
        if len(pairs) >= 3:
            outlines.append(read_points(pairs, size, where))
    return fill_polygons(outlines, size)


def _name(annotation: Any) -> str:
    return repr(annotation.get("id", "without id")) if isinstance(annotation, dict) else repr(annotation)
