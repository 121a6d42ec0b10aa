"""Folders of pictures and of PNG files with the same names; TIFF and BMP files keep numbers as well.

Understood layouts: ``images/`` and ``semantic/``, perhaps with ``instance/``, each perhaps with a folder for every
split, or all in a folder for every split; Pascal VOC's ``JPEGImages/``, ``SegmentationClass/``,
``SegmentationObject/`` and ``ImageSets/Segmentation/<split>.txt``, as CVAT, Datumaro and labelme write it.
"""

import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from thingstuff.data.drawn.drawing import Drawing, DrawnCategory
from thingstuff.data.drawn.label_png import ValueNames, pieces_of, read_label_png, read_names, semantic_values
from thingstuff.data.drawn.splitting import split_name
from thingstuff.data.images import PICTURE_SUFFIXES
from thingstuff.errors import InputError

_IMAGES = ("images", "image", "imgs", "img", "jpegimages", "rgb", "photos")
_SEMANTIC = (
    *("semantic", "semantics", "semantic_masks", "semantic_labels", "segmentationclass", "segmentationclasspng"),
    *("masks", "mask", "labels", "label", "annotations", "gt"),
)
_MASKS = (".png", ".tif", ".tiff", ".bmp")
_JPEG = (".jpg", ".jpeg")
"""No masks, but beside them perhaps previews; where there is nothing else, their reader says why."""
_INSTANCE = (
    "instance",
    "instances",
    "instance_masks",
    "instance_labels",
    "segmentationobject",
    "segmentationobjectpng",
)


@dataclass(frozen=True, slots=True)
class _Folders:
    """Where the files of a data set, or of one split of it, lie."""

    images: Path
    semantic: Path
    instance: Path | None
    split: str | None


@dataclass(frozen=True, slots=True)
class _Entry:
    """The files of one picture."""

    image: Path
    semantic: Path
    instance: Path | None
    split: str | None


@dataclass(frozen=True)
class PngFolders:
    """Made by ``open_png_folders``."""

    categories: tuple[DrawnCategory, ...]
    entries: tuple[_Entry, ...]
    names: ValueNames | None

    def __len__(self) -> int:
        return len(self.entries)

    def read(self, index: int) -> Drawing:
        """Decode the PNG files of one picture."""
        entry = self.entries[index]
        values, names = semantic_values(read_label_png(entry.semantic), self.names, str(entry.semantic))
        objects = None
        if entry.instance is not None:
            objects = read_label_png(entry.instance).values
            if objects.shape != values.shape:
                raise InputError(
                    f"{entry.instance}: {objects.shape[1]} x {objects.shape[0]} pixels (width x height), but "
                    f"{entry.semantic} has {values.shape[1]} x {values.shape[0]}; both must be of the picture's size"
                )
        pieces = pieces_of(values, objects, names, str(entry.semantic))
        return Drawing(entry.image, (values.shape[0], values.shape[1]), tuple(pieces), entry.split)


def recognize_png_folders(source: Path, with_instances: bool) -> bool:
    """Whether there are folders of pictures and PNG files, with or without one of objects."""
    try:
        return any((folders.instance is not None) == with_instances for folders in _find_folders(source))
    except OSError:
        return False


def open_png_folders(source: Path, with_instances: bool) -> PngFolders:
    """Open folders of PNG files. Pictures without a semantic PNG file are left out, with a warning.

    Raises:
        InputError: A folder or file is missing, no file says what the values mean and one of them is damaged, or all
            values are 0 and 255, and 255 has no name.
    """
    wanted = f"{source}: no folders images/ and semantic/{' and instance/' if with_instances else ''} with PNG files"
    found = list(_find_folders(source))
    if not found or (with_instances and any(folders.instance is None for folders in found)):
        if (masks := find_masks_alone(source)) is not None:
            raise InputError(f"{source}: {describe_masks_alone(masks)}")
        raise InputError(f"{wanted}; give the folder that holds them")
    lists = _read_lists(source)
    entries = [entry for folders in found for entry in _find_entries(folders, with_instances, lists)]
    if left_out := _pictures_without_mask(found, entries):
        warnings.warn(
            f"{source}: {len(left_out)} of {len(left_out) + len(entries)} pictures have no mask and are left out, "
            f"first {left_out[0]}",
            stacklevel=3,
        )
    names = next((read for place in _name_places(source, found) if (read := read_names(place)) is not None), None)
    _refuse_binary(entries, names, source)
    if names is None:
        values = sorted({name for entry in entries for name in _used_names(entry)}, key=lambda name: (len(name), name))
        return PngFolders(tuple(DrawnCategory(name) for name in values), tuple(entries), None)
    color_of = {name: (c & 255, c >> 8 & 255, c >> 16) for c, name in names.by_color.items()}
    distinct = dict.fromkeys([*names.by_value.values(), *names.by_color.values()])
    categories = tuple(DrawnCategory(name, color=color_of.get(name)) for name in distinct)
    return PngFolders(categories, tuple(entries), names)


def _find_folders(source: Path) -> Iterator[_Folders]:
    if not source.is_dir():
        return
    for place in (source, *sorted(path for path in source.iterdir() if path.is_dir())):
        inside = _folders_in(place)
        images, instance, semantic = _first(inside, _IMAGES), _first(inside, _INSTANCE), _find_semantic(inside)
        if images is not None and semantic is not None:
            yield _Folders(images, semantic, instance, None if place == source else place.name)


def find_masks_alone(source: Path) -> Path | None:
    """A folder of masks without one of pictures beside it, as Pascal VOC's layout is exported without pictures."""
    inside = _folders_in(source) if source.is_dir() else {}
    return None if _first(inside, _IMAGES) is not None else _find_semantic(inside)


def describe_masks_alone(masks: Path) -> str:
    """What to do about it."""
    name = "JPEGImages" if masks.name.startswith("Segmentation") else "images"
    return (
        f"{masks.name}/ has masks, but the pictures are not there; export with pictures, or put them "
        f"into {masks.parent / name}, named like the masks"
    )


def _folders_in(place: Path) -> dict[str, Path]:
    """By their names in lower case."""
    return {path.name.lower(): path for path in place.iterdir() if path.is_dir()}


def _find_semantic(inside: dict[str, Path]) -> Path | None:
    return next((inside[name] for name in _SEMANTIC if name in inside and _has_masks(inside[name])), None)


def _first(folders: dict[str, Path], names: tuple[str, ...]) -> Path | None:
    return next((folders[name] for name in names if name in folders), None)


def _has_masks(folder: Path) -> bool:
    """Whether a folder holds masks at some depth, and no JSON files: beside those, PNG files mean something else."""
    return not any(folder.glob("*.json")) and any(path.suffix.lower() in _MASKS + _JPEG for path in folder.rglob("*"))


def _files_by_name(folder: Path, suffixes: Collection[str]) -> dict[Path, Path]:
    """The files of some formats at any depth, by their path in the folder without suffix."""
    files: dict[Path, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in suffixes and path.is_file():
            files.setdefault(path.relative_to(folder).with_suffix(""), path)
    return files


def _read_lists(source: Path) -> dict[str, str]:
    """The split of every name that Pascal VOC's lists have; those of one split at most."""
    split_of: dict[str, str] = {}
    for path in sorted((source / "ImageSets" / "Segmentation").glob("*.txt")):
        # trainval.txt holds what train.txt and val.txt hold too.
        if (split := split_name(path.stem)) in ("train", "val", "test"):
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                if line.strip():
                    split_of.setdefault(line.strip(), split)
    return split_of


def _find_entries(folders: _Folders, with_instances: bool, lists: dict[str, str]) -> Iterator[_Entry]:
    pictures = _files_by_name(folders.images, PICTURE_SUFFIXES)
    objects = _files_by_name(folders.instance, _MASKS) if with_instances and folders.instance is not None else {}
    masks = _files_by_name(folders.semantic, _MASKS) or _files_by_name(folders.semantic, _JPEG)
    for key, semantic in masks.items():
        if key not in pictures:
            raise InputError(
                f"{semantic}: {folders.images} has no picture of this name ({key}.jpg or another format); add it there"
            )
        instance = objects.get(key)
        if with_instances and instance is None:
            assert folders.instance is not None
            raise InputError(f"{folders.instance / f'{key}.png'}: is missing, but {semantic} is there; both are needed")
        inner = key.parts[0] if len(key.parts) > 1 and split_name(key.parts[0]) in ("train", "val", "test") else None
        yield _Entry(pictures[key], semantic, instance, lists.get(key.as_posix()) or inner or folders.split)


def _pictures_without_mask(found: Sequence[_Folders], entries: Sequence[_Entry]) -> list[Path]:
    used = {entry.image for entry in entries}
    pictures = [path for folders in found for path in _files_by_name(folders.images, PICTURE_SUFFIXES).values()]
    return [path for path in pictures if path not in used]


def _refuse_binary(entries: Sequence[_Entry], names: ValueNames | None, source: Path) -> None:
    """Refuse masks of 0 and 255 alone, whose objects would be void. The first with another value ends the search."""
    any_object = False
    for entry in entries:
        try:
            png = read_label_png(entry.semantic)
        except InputError:
            continue  # said when the picture is read
        if png.colored:
            return
        values, named = semantic_values(png, names, str(entry.semantic))
        objects = values == 255
        if named.get(255, "") is not None or not (objects | (values == 0)).all():
            return
        any_object = any_object or bool(objects.any())
    if any_object:
        by_value = {} if names is None else names.by_value
        path = source / "classes.txt" if names is None else names.path
        raise InputError(
            f"{source}: all masks have the values 0 and 255 only, as binary masks do, but 255 means void here; name "
            f"both in {path} by the lines '0 {by_value.get(0, 'background')}' and '255 {by_value.get(1, 'object')}', "
            "or save the masks with 1 instead of 255"
        )


def _name_places(source: Path, found: list[_Folders]) -> Iterator[Path]:
    yield source
    for folders in found:
        yield folders.semantic.parent
        yield folders.semantic


def _used_names(entry: _Entry) -> set[str]:
    values, names = semantic_values(read_label_png(entry.semantic), None, str(entry.semantic))
    return {name for value in np.unique(values).tolist() if (name := names[value]) is not None}
