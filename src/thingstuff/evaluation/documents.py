"""JSON files of the COCO panoptic format as any tool writes them, checked before a single picture is read.

Source: https://cocodataset.org/#format-data
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from thingstuff.errors import InputError
from thingstuff.evaluation.problems import Problems
from thingstuff.labels import Category, LabelSet

MAX_ID = 2**24 - 1
"""Largest segment id that the format can hold."""


class ListedSegment(NamedTuple):
    """What a JSON file says of one segment.

    Attributes:
        id: Its value in the id map.
        category_id: One of the truth's categories.
        crowd: A group of objects; False in predictions.
        area: Pixels; None where the file does not say, and in predictions.
        bbox: ``(x, y, width, height)``; None where the file does not say, and in predictions.
        score: Confidence of a prediction, where the file says one.
    """

    id: int
    category_id: int
    crowd: bool = False
    area: int | None = None
    bbox: tuple[float, ...] | None = None
    score: float | None = None


@dataclass(frozen=True, slots=True)
class ListedPicture:
    """What a JSON file says of one picture.

    Attributes:
        image_id: The data set's own id.
        path: Its PNG file.
        segments: Each id occurs once.
    """

    image_id: int | str
    path: Path
    segments: tuple[ListedSegment, ...]


@dataclass(frozen=True, slots=True)
class Listing:
    """A JSON file.

    Attributes:
        path: The file.
        categories: In the order of the file; averages add in this order. Empty for predictions.
        pictures: By image id, in the order of the file.
    """

    path: Path
    categories: tuple[Category, ...]
    pictures: Mapping[int | str, ListedPicture]


def read_truth(path: Path, folder: Path | None, problems: Problems) -> Listing:
    """Read the JSON file of the truth.

    Args:
        path: The file.
        folder: Of its PNG files; None for the path without its suffix.
        problems: Gets what is wrong.

    Raises:
        InputError: It cannot be read, or, unless lenient, something in it is wrong.
    """
    document = _read(path, ("annotations", "categories"))
    if not document["annotations"]:
        raise InputError(f"{path}: 'annotations' is empty; there is no picture to score")
    labels = LabelSet.from_coco(document["categories"], str(path))
    categories = tuple(labels.categories[labels.index[entry["id"]]] for entry in document["categories"])
    reader = _Reader(path, _folder(path, folder, "truth"), frozenset(labels.index), True, problems)
    return Listing(path, categories, reader.pictures(document["annotations"]))


def read_predictions(path: Path, folder: Path | None, truth: Listing, problems: Problems) -> Listing:
    """Read the JSON file of predictions for the pictures of a truth.

    Args:
        path: The file.
        folder: Of its PNG files; None for the path without its suffix.
        truth: The truth.
        problems: Gets what is wrong.

    Raises:
        InputError: It cannot be read, or, unless lenient, something in it is wrong.
    """
    document = _read(path, ("annotations",))
    known = frozenset(category.id for category in truth.categories)
    reader = _Reader(path, _folder(path, folder, "predictions"), known, False, problems)
    pictures = reader.pictures(document["annotations"])
    return Listing(path, (), _matching_ids(pictures, truth, path, problems))


def _read(path: Path, lists: Sequence[str]) -> dict[str, Any]:
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: this is no file; give the JSON file of the COCO panoptic format")
        document = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file; give the JSON file of the COCO panoptic format") from error
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: cannot be read as JSON ({error}); write or download it again") from error
    if not isinstance(document, dict):
        kind = type(document).__name__
        raise InputError(f"{path}: holds a {kind}, not an object; write {{'annotations': [...]}} around it")
    for name in lists:
        if not isinstance(document.get(name), list):
            raise InputError(f"{path}: lacks the list '{name}'; write the COCO panoptic format")
    return document


def _folder(path: Path, folder: Path | None, what: str) -> Path:
    chosen = path.with_suffix("") if folder is None else folder
    if not chosen.is_dir():
        option = "gt_folder" if what == "truth" else "pred_folder"
        raise InputError(f"{chosen}: there is no such folder with the PNG files of the {what}; name it by {option}")
    return chosen


def _matching_ids(
    pictures: Mapping[int | str, ListedPicture], truth: Listing, path: Path, problems: Problems
) -> Mapping[int | str, ListedPicture]:
    """Predictions by the image id of the truth.

    Where no id is known to the truth, as where pictures were predicted that lay in a folder, the names of the PNG files
    say which picture is which.
    """
    if set(map(str, truth.pictures)).isdisjoint(map(str, pictures)):
        pictures = _named_alike(pictures, truth, path, problems)
    by_text = {str(image_id): picture for image_id, picture in pictures.items()}
    matched: dict[int | str, ListedPicture] = {}
    for image_id in truth.pictures:
        picture = pictures.get(image_id)
        if picture is None and (picture := by_text.get(str(image_id))) is not None:
            fault = f"{path}: image_id {picture.image_id!r} is {image_id!r} in {truth.path}"
            problems.add("image id of another type", fault, "write it as there", "takes them for the same")
        if picture is None:
            fault = f"{path}: no prediction for the picture with image_id {image_id!r} of {truth.path}"
            remedy = "predict it, if only without segments"
            problems.add("missing prediction", fault, remedy, "counts all its segments as missed")
        else:
            matched[image_id] = picture
    used = {picture.image_id for picture in matched.values()}
    for image_id in pictures:
        if image_id not in used:
            problems.note("prediction without truth", f"{path}: image_id {image_id!r} is not in {truth.path}: ignored")
    return matched


def _named_alike(
    pictures: Mapping[int | str, ListedPicture], truth: Listing, path: Path, problems: Problems
) -> Mapping[int | str, ListedPicture]:
    """Predictions under the image ids of the truth where their PNG files have the same names; else as they were."""
    ids = {picture.path.name: image_id for image_id, picture in truth.pictures.items()}
    named = {picture.path.name: picture for picture in pictures.values()}
    if len(ids) < len(truth.pictures) or len(named) < len(pictures) or not ids.keys() & named.keys():
        return pictures
    problems.note(
        "image ids of another data set",
        f"{path}: no image_id is in {truth.path}, but PNG files have the same names: these tell which picture is which",
    )
    renamed = (replace(picture, image_id=ids.get(name, picture.image_id)) for name, picture in named.items())
    return {picture.image_id: picture for picture in renamed}


class _Damaged(Exception):
    """An entry that lenient scoring leaves out."""


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads the annotations of one file; its fields are what all messages and checks need."""

    path: Path
    folder: Path
    categories: frozenset[int]
    is_truth: bool
    problems: Problems

    def pictures(self, annotations: Sequence[Any]) -> dict[int | str, ListedPicture]:
        pictures: dict[int | str, ListedPicture] = {}
        for position, annotation in enumerate(annotations):
            where = f"{self.path}: annotations[{position}]"
            mending = "leaves the picture out" if self.is_truth else "takes the picture for not predicted"
            try:
                image_id = self._field(annotation, "image_id", (int, str), where, mending)
                file_name = self._field(annotation, "file_name", (str,), f"{where} (image_id {image_id!r})", mending)
                listed = self._field(annotation, "segments_info", (list,), f"{where} ({file_name})", mending)
            except _Damaged:
                continue
            if image_id in pictures:
                fault = f"{where} ({file_name}): image_id {image_id!r} occurs twice"
                self.problems.add("picture listed twice", fault, "keep one of the two", "uses the last one")
            segments = self._segments(listed, f"{self.path}: {file_name}")
            pictures[image_id] = ListedPicture(image_id, self.folder / file_name, segments)
        return pictures

    def _segments(self, listed: Sequence[Any], where: str) -> tuple[ListedSegment, ...]:
        segments: dict[int, ListedSegment] = {}
        for position, entry in enumerate(listed):
            here = f"{where}: segments_info[{position}]"
            try:
                segment = self._segment(entry, here)
            except _Damaged:
                continue
            if segment.id in segments:
                fault = f"{here}: segment {segment.id} is listed twice"
                self.problems.add("segment listed twice", fault, "give each segment its own id", "uses the last one")
            segments[segment.id] = segment
        return tuple(segments.values())

    def _segment(self, entry: Any, where: str) -> ListedSegment:
        identity = self._number(entry, "id", where)
        here = f"{where} (segment {identity})"
        if not 1 <= identity <= MAX_ID:
            meaning = "0 means void" if identity == 0 else f"ids are from 1 to {MAX_ID}"
            self._skip(f"{where}: segment id {identity}", f"{meaning}; number segments from 1")
        category_id = self._number(entry, "category_id", here)
        if category_id not in self.categories:
            fault = f"{here}: category_id {category_id} is not among the truth's categories"
            self._skip(fault, "add or correct it")
        if not self.is_truth:
            score = entry.get("score")
            return ListedSegment(identity, category_id, score=score if isinstance(score, (int, float)) else None)
        return ListedSegment(identity, category_id, self._crowd(entry, here), self._area(entry, here), _bbox(entry))

    def _crowd(self, entry: Any, where: str) -> bool:
        crowd = entry.get("iscrowd")
        if crowd not in (0, 1):
            fault = f"{where}: iscrowd is {_shown(entry, 'iscrowd')}"
            remedy = "write 1 for a group of objects, else 0"
            self.problems.add("iscrowd", fault, remedy, f"reads it as {int(crowd == '1')}")
        return crowd in (1, "1")

    def _area(self, entry: Any, where: str) -> int | None:
        area = entry.get("area")
        if isinstance(area, bool) or not isinstance(area, (int, float)) or not float(area).is_integer():
            fault = f"{where}: area is {_shown(entry, 'area')}"
            remedy = "write the number of pixels that the PNG file has of it"
            self.problems.add("area", fault, remedy, "counts the pixels")
            return None
        return int(area)

    def _number(self, entry: Any, name: str, where: str) -> int:
        value = entry.get(name) if isinstance(entry, dict) else None
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        number = _as_whole(value)
        fault = f"{where}: {name} is {_shown(entry, name)}"
        if number is None:
            self._skip(fault, "write a whole number")
        self.problems.add("number of the wrong type", fault, "write a whole number", f"reads it as {number}")
        return number or 0

    def _skip(self, fault: str, remedy: str) -> None:
        meaning = "void" if self.is_truth else "not predicted"
        self.problems.add("segment left out", fault, remedy, f"takes its pixels for {meaning}")
        raise _Damaged

    def _field(self, entry: Any, name: str, kinds: tuple[type, ...], where: str, mending: str) -> Any:
        value = entry.get(name) if isinstance(entry, dict) else None
        if isinstance(value, kinds) and not isinstance(value, bool):
            return value
        expected = {(int, str): "a whole number or a text", (str,): "a text", (list,): "a list"}[kinds]
        fault = f"{where}: {name} is {_shown(entry, name)}"
        self.problems.add("picture left out", fault, f"write {expected}", mending)
        raise _Damaged


def _shown(entry: Any, name: str) -> str:
    if not isinstance(entry, dict):
        return f"missing, for the entry is {entry!r}"
    return repr(entry[name]) if name in entry else "missing"


def _as_whole(value: Any) -> int | None:
    """The whole number that a value of another type stands for."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else None


def _bbox(entry: Any) -> tuple[float, ...] | None:
    bbox = entry.get("bbox")
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(isinstance(number, (int, float)) for number in bbox):
        return None
    return tuple(map(float, bbox))
