"""YOLO's segmentation labels: a text file for every picture, a line ``class x1 y1 x2 y2 ...`` for every object.

Coordinates are shares of width and height. Understood layouts: ``data.yaml``, or the folder with it, whose ``train``,
``val`` and ``test`` name folders of pictures or text files that list them; else, as Label Studio writes it, a folder
with ``images/``, ``labels/`` and ``classes.txt``, which has the name of a class in each line, perhaps with a folder for
each split in both. The labels of ``images/a.jpg`` lie in ``labels/a.txt``, else beside the picture; a picture without
labels has no object. Lists may have the paths of another machine, whose ends are looked for in the folder of
``data.yaml``.

Source: https://docs.ultralytics.com/datasets/segment/
"""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from thingstuff.data.drawn.drawing import Drawing, DrawnCategory, Piece
from thingstuff.data.drawn.label_png import NAME_FILES
from thingstuff.data.drawn.lookup import find_by_end, is_file, picture_size
from thingstuff.data.drawn.polygons import fill_polygons, read_points
from thingstuff.data.drawn.splitting import split_name
from thingstuff.data.images import is_picture
from thingstuff.errors import InputError
from thingstuff.structures import Size

_SPLITS = ("train", "val", "valid", "test")
_CLASS_LISTS = ("classes.txt", "obj.names")
_NO_LABELS = (*NAME_FILES, "notes.txt", "train.txt", "val.txt", "test.txt")
"""Text files that lie beside labels."""


@dataclass(frozen=True)
class YoloSegmentation:
    """Made by ``open_yolo``.

    Attributes:
        names: Name of each class number.
        pictures: Each with its split.
    """

    names: Mapping[int, str]
    pictures: tuple[tuple[Path, str | None], ...]

    @property
    def categories(self) -> tuple[DrawnCategory, ...]:
        """Objects, all of them."""
        return tuple(DrawnCategory(name, True) for name in dict.fromkeys(self.names.values()))

    def __len__(self) -> int:
        return len(self.pictures)

    def read(self, index: int) -> Drawing:
        """Fill the outlines of one picture."""
        image, split = self.pictures[index]
        size, path = picture_size(image), label_path(image)
        lines = _read_text(path).splitlines() if path.is_file() else []
        pieces = [
            _read_line(line.split(), self.names, size, f"{path}: line {number}")
            for number, line in enumerate(lines, start=1)
            if line.strip()
        ]
        return Drawing(image, size, tuple(pieces), split)


def recognize(source: Path) -> bool:
    """Whether there is a YAML file that names classes and a folder of pictures, or text files of outlines."""
    try:
        path = _find_yaml(source)
        if path is None:
            return source.is_dir() and _has_outlines(source)
        keys = _top_keys(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return False
    # A file that only counts its classes is one of YOLO as well; opening it asks for the names.
    return not keys.isdisjoint(("names", "nc")) and not keys.isdisjoint(_SPLITS)


def open_yolo(source: Path) -> YoloSegmentation:
    """Open a data set that a ``data.yaml`` describes, or a folder with ``classes.txt``.

    Raises:
        InputError: The file is missing or damaged, a folder that it names is not there, or there are no labels.
    """
    path = _find_yaml(source)
    pictures: list[tuple[Path, str | None]]
    if path is not None:
        content = _read_yaml(path)
        if content.get("kpt_shape") is not None:
            raise InputError(
                f"{path}: has kpt_shape, so its labels are of poses, which have no outlines; export segmentation, or "
                "take the line out if the labels are outlines"
            )
        names = _read_class_names(content.get("names"), path)
        pictures = [
            (picture, split)
            for split in _SPLITS
            for entry in _listed(content.get(split), split, path)
            for picture in _find_pictures(entry, content.get("path"), split, path)
        ]
        where = "in train, val or test; correct the paths"
    else:
        path = _find_class_list(source)
        names = dict(enumerate(line.strip() for line in _read_text(path).strip().splitlines()))
        pictures = list(_find_in_folders(source))
        where = f"in {source}; put them into images/, and the labels into labels/"
    if not pictures:
        raise InputError(f"{path}: no pictures {where}")
    if not any(label_path(picture).is_file() for picture, _ in pictures):
        raise InputError(
            f"{path}: none of {len(pictures)} pictures has a label file; {label_path(pictures[0][0])} would be that of "
            "the first; move the labels there"
        )
    _warn_of_labels_without_picture([picture for picture, _ in pictures], path)
    return YoloSegmentation(names, tuple(dict.fromkeys(pictures)))


def _warn_of_labels_without_picture(pictures: Sequence[Path], path: Path) -> None:
    used = {label_path(picture) for picture in pictures}
    # Beside pictures may lie text files of all kinds.
    folders = sorted({labels.parent for labels in used} - {picture.parent for picture in pictures})
    unused = [labels for folder in folders for labels in sorted(folder.glob("*.txt")) if labels not in used]
    unused = [labels for labels in unused if labels.name not in _NO_LABELS]
    if unused:
        warnings.warn(f"{path}: pictures of {len(unused)} label files are missing, first {unused[0]}", stacklevel=3)


def label_path(image: Path) -> Path:
    """The text file of a picture: in ``labels/`` instead of the last ``images/`` of its path, else beside it."""
    parts = list(image.parts)
    for position in range(len(parts) - 2, -1, -1):
        if parts[position] == "images":
            parts[position] = "labels"
            return Path(*parts).with_suffix(".txt")
    return image.with_suffix(".txt")


# --- data.yaml ---


def _find_yaml(source: Path) -> Path | None:
    if source.is_file():
        return source if source.suffix.lower() in (".yaml", ".yml") else None
    found = _yaml_files(source)
    named = [path for path in found if path.stem in ("data", "dataset")]
    return named[0] if named else found[0] if len(found) == 1 else None


def _yaml_files(folder: Path) -> list[Path]:
    return sorted(path for suffix in ("yaml", "yml") for path in folder.glob(f"*.{suffix}"))


class _TextLoader(yaml.SafeLoader):
    """Reads plain words as text, and nothing as None: classes may be named yes and no, or 1.50."""


_TextLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.endswith((":null", ":merge"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _top_keys(text: str) -> set[Any]:
    """The keys of a YAML file, also of a damaged one: what is wrong with it is said when it is opened."""
    try:
        content = yaml.load(text, _TextLoader)
    except (yaml.YAMLError, ValueError, RecursionError):
        return {line.split(":")[0].strip() for line in text.splitlines() if ":" in line and not line[:1].isspace()}
    return set(content) if isinstance(content, dict) else set()


def _read_yaml(path: Path) -> dict[str, Any]:
    text = _read_text(path)
    try:
        content = yaml.load(text, _TextLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not YAML ({' '.join(str(error).split())}); correct the line") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: has no fields; it needs names, train and val")
    return content


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as text ({error}); write it again") from error


def _read_class_names(names: Any, path: Path) -> dict[int, str]:
    """Names by number, from a list or from a table; numbers may be names, too."""
    numbered = dict(enumerate(names)) if isinstance(names, list) else names
    if not isinstance(numbered, dict) or not numbered:
        found = "missing" if names is None else repr(names)
        raise InputError(f"{path}: names is {found}; write a list of names, or a table of numbers and names")
    for number, name in numbered.items():
        if not str(number).isdecimal() or not isinstance(name, str):
            raise InputError(f"{path}: names has the entry {number!r}: {name!r}; write a number and a name")
    return {int(number): name for number, name in numbered.items()}


def _listed(value: Any, split: str, path: Path) -> list[str]:
    entries = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(entry, str) and entry for entry in entries):
        raise InputError(f"{path}: {split} is {value!r}; write a folder, a text file that lists pictures, or several")
    return entries


def _find_pictures(entry: str, root: Any, split: str, path: Path) -> Iterator[Path]:
    """The pictures that one entry of ``data.yaml`` means."""
    base = path.parent
    named = [base / root] if isinstance(root, str) else []
    # `path` is often that of another machine, and Roboflow writes ../train/images for train/images.
    candidates = [folder / entry for folder in (*named, base)] + [base / entry.removeprefix("../")]
    place = next((candidate for candidate in candidates if candidate.exists()), None)
    if place is None:
        if split == "test":
            return  # often named, rarely there
        raise InputError(
            f"{path}: {split} is {entry!r}, which is not there; looked at {_list_places(candidates)}; correct the "
            "path, or put it there"
        )
    if place.is_dir():
        yield from sorted(p for p in place.rglob("*") if is_picture(p))
        return
    for line in _read_text(place).splitlines():
        if line.strip():
            # Lists of CVAT begin at the folder of data.yaml, those with ./ at the list's own.
            yield _find_listed(line.strip(), place, (place.parent, *named, base))


def _find_listed(line: str, place: Path, folders: Sequence[Path]) -> Path:
    """The picture of a line in a list; the last folder is that of ``data.yaml``."""
    if ".." in line.replace("\\", "/").split("/"):
        raise InputError(f"{place}: {line!r} leads out of the list's folder; write a path inside it")
    listed = [folder / line for folder in folders]
    picture = next((each for each in listed if is_file(each)), None)
    if picture is None:
        # A list of another machine has the folders of that machine before those of the export; CVAT's has data/.
        picture = find_by_end(line, folders[-1:], f"{place}: {line}")
    if picture is None:
        raise InputError(
            f"{place}: the picture {line!r} is not there; looked at {_list_places(listed)}, and for ever shorter ends "
            f"of the path in {folders[-1]}; put it there, or take the line out"
        )
    return picture


def _list_places(places: Sequence[Path]) -> str:
    return ", ".join(map(str, dict.fromkeys(places)))


# --- classes.txt ---


def _find_class_list(source: Path) -> Path:
    places = (source, source / "labels")
    found = next((place / name for place in places for name in _CLASS_LISTS if (place / name).is_file()), None)
    if found is None:
        if len(several := _yaml_files(source)) > 1:
            listed = ", ".join(path.name for path in several)
            raise InputError(f"{source}: has several YAML files ({listed}); give the one with names, train and val")
        raise InputError(
            f"{source}: nothing names the classes; write {source / 'classes.txt'} with a name in each line, that of "
            "class 0 first, or give the data.yaml with names, train and val"
        )
    return found


def _has_outlines(folder: Path) -> bool:
    """Whether one of the first label files in ``labels/``, or beside the list of classes, has an outline or a box."""
    labels = folder / "labels"
    if not labels.is_dir():
        if not any((folder / name).is_file() for name in _CLASS_LISTS):
            return False
        labels = folder
    files = (path for path in labels.rglob("*.txt") if path.name not in _NO_LABELS)
    return any(_is_outline(line) for path in islice(files, 20) for line in _first_lines(path))


def _first_lines(path: Path) -> list[str]:
    with path.open(encoding="utf-8", errors="replace") as file:
        return list(islice(file, 5))


def _is_outline(line: str) -> bool:
    words = line.split()
    try:
        return len(words) >= 5 and words[0].isdecimal() and all(math.isfinite(float(word)) for word in words[1:])
    except ValueError:
        return False


def _find_in_folders(source: Path) -> Iterator[tuple[Path, str | None]]:
    """All pictures with the split that a folder on their way stands for."""
    images = source / "images" if (source / "images").is_dir() else source
    for path in sorted(images.rglob("*")):
        if is_picture(path):
            words = (split_name(part) for part in path.relative_to(images).parts[:-1])
            yield path, next((word for word in words if word in ("train", "val", "test")), None)


# --- labels ---


def _read_line(words: list[str], names: Mapping[int, str], size: Size, where: str) -> Piece:
    try:
        numbers = [float(word) for word in words]
    except ValueError as error:
        raise InputError(f"{where}: {' '.join(words)[:60]!r} are not numbers; write class x1 y1 x2 y2 ...") from error
    if not numbers[0].is_integer() or int(numbers[0]) not in names:
        raise InputError(f"{where}: the class {words[0]} is not among the {len(names)} that are named; add its name")
    if len(numbers) == 5:
        raise InputError(
            f"{where}: a box (class x y width height), no outline; a panoptic map needs segmentation labels"
        )
    if len(numbers) < 7 or len(numbers) % 2 == 0:
        raise InputError(f"{where}: {len(numbers) - 1} coordinates; an outline has three or more pairs x y")
    shares = np.array(numbers[1:]).reshape(-1, 2)
    if np.isfinite(shares).all() and shares.max() > 2:
        raise InputError(f"{where}: coordinates up to {shares.max():g}; YOLO's are shares of width and height, 0 to 1")
    outline = read_points((shares * np.array([size[1], size[0]])).tolist(), size, where)
    mask, corner = fill_polygons([outline], size)
    return Piece(names[int(numbers[0])], mask, corner, where=where)
