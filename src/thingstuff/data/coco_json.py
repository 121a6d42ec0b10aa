"""What the JSON files and the file listing of a COCO panoptic data set say, checked before any pixel is read.

Source: https://cocodataset.org/#format-data
"""

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from thingstuff.errors import InputError
from thingstuff.labels import LabelSet
from thingstuff.structures import Size, TruthSegment

MAX_ID = 2**24 - 1
"""Largest segment id that the format can hold."""


@dataclass(frozen=True, slots=True)
class AnnotatedPicture:
    """What the JSON file says of one picture.

    Attributes:
        image_id: The data set's own id.
        file_name: Of the picture, in ``images/``.
        size: Of the upright picture.
        map_name: Of the PNG file with the id map.
        segments: Of the id map.
        areas: Pixels of each segment, None where the file does not say.
    """

    image_id: int | str
    file_name: str
    size: Size
    map_name: str
    segments: tuple[TruthSegment, ...]
    areas: tuple[int | None, ...]


def read_document(path: Path) -> dict[str, Any]:
    """Read a COCO JSON file and check that it has the three lists, and at least one annotation."""
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: this is no file; give the JSON file of the COCO panoptic format")
        document = json.loads(path.read_bytes())
    except (ValueError, OSError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: cannot be read as JSON ({error}); write or download it again") from error
    if not isinstance(document, dict):
        raise InputError(f"{path}: holds a {type(document).__name__}, not an object with images and annotations")
    for field in ("images", "annotations", "categories"):
        if not isinstance(document.get(field), list):
            raise InputError(f"{path}: lacks the list '{field}'; the COCO format has images, annotations, categories")
    if not document["annotations"]:
        raise InputError(f"{path}: 'annotations' is empty; the data set has no annotated picture")
    return document


def read_images(images: Sequence[Any], path: Path) -> dict[int | str, tuple[str, Size]]:
    """File name and size of every picture by its id."""
    read: dict[int | str, tuple[str, Size]] = {}
    for position, image in enumerate(images):
        where = f"{path}: images[{position}]"
        identity = _field(image, "id", (int, str), where)
        file_name = _field(image, "file_name", (str,), where)
        height, width = (_field(image, side, (int,), where) for side in ("height", "width"))
        if height < 1 or width < 1:
            raise InputError(f"{where} ({file_name}): {width} x {height} pixels; write the picture's width and height")
        if identity in read:
            raise InputError(f"{where} ({file_name}): another picture has the id {identity!r}; give each its own")
        read[identity] = (file_name, (height, width))
    return read


def read_annotations(
    annotations: Sequence[Any], images: Mapping[int | str, tuple[str, Size]], labels: LabelSet, path: Path
) -> tuple[AnnotatedPicture, ...]:
    """What the JSON file says of every annotated picture, in the order of the annotations."""
    pictures: dict[int | str, AnnotatedPicture] = {}
    for position, annotation in enumerate(annotations):
        where = f"{path}: annotations[{position}]"
        image_id = _field(annotation, "image_id", (int, str), where)
        map_name = _field(annotation, "file_name", (str,), where)
        if image_id not in images:
            raise InputError(f"{where} ({map_name}): no picture in 'images' has the id {image_id!r}; add it there")
        if image_id in pictures:
            raise InputError(f"{where} ({map_name}): picture {image_id!r} is annotated twice; keep one")
        file_name, size = images[image_id]
        listed = _field(annotation, "segments_info", (list,), where)
        segments, areas = _read_segments(listed, labels, f"{where} ({map_name})")
        pictures[image_id] = AnnotatedPicture(image_id, file_name, size, map_name, segments, areas)
    return tuple(pictures.values())


def _read_segments(
    listed: Sequence[Any], labels: LabelSet, where: str
) -> tuple[tuple[TruthSegment, ...], tuple[int | None, ...]]:
    segments: dict[int, TruthSegment] = {}
    areas = []
    for position, segment in enumerate(listed):
        here = f"{where}: segments_info[{position}]"
        identity = _field(segment, "id", (int,), here)
        if not 1 <= identity <= MAX_ID:
            remedy = "0 means void; number segments from 1" if identity == 0 else f"ids are from 1 to {MAX_ID}"
            raise InputError(f"{here}: id is {identity}; {remedy}")
        if identity in segments:
            raise InputError(f"{here}: another segment of the picture has the id {identity}; give each its own")
        category_id = _field(segment, "category_id", (int,), here)
        if category_id not in labels.index:
            raise InputError(f"{here}: category_id {category_id} is not among 'categories'; add it or correct it")
        crowd = segment.get("iscrowd", 0)
        if crowd not in (0, 1):
            raise InputError(f"{here}: iscrowd is {crowd!r}; write 1 for a group of objects, else 0")
        segments[identity] = TruthSegment(identity, labels.index[category_id], bool(crowd))
        areas.append(_read_area(segment, here))
    return tuple(segments.values()), tuple(areas)


def _read_area(segment: Mapping[str, Any], where: str) -> int | None:
    if "area" not in segment:
        return None
    area = _field(segment, "area", (int, float), where)
    if not float(area).is_integer():
        raise InputError(f"{where}: area is {area}; write the number of pixels that the PNG file has of the segment")
    return int(area)


def _field(record: Any, name: str, kinds: tuple[type, ...], where: str) -> Any:
    """A field of a JSON object, if it is there and of the right kind."""
    if not isinstance(record, dict):
        raise InputError(f"{where} is {record!r}, not an object")
    value = record.get(name)
    if not isinstance(value, kinds) or isinstance(value, bool):
        expected = {(int, str): "whole number or text", (int,): "whole number", (int, float): "number", (str,): "text"}
        words = expected.get(kinds, "list")
        raise InputError(f"{where}: {name} is {'missing' if name not in record else repr(value)}; expected a {words}")
    return value


def check_files(folder: Path, names: Iterable[str], what: str) -> None:
    """Look for all files by listing each folder once, which stays fast with 100 000 of them on a network drive."""
    by_parent: dict[str, list[str]] = defaultdict(list)
    for name in names:
        by_parent[str(PurePath(name).parent)].append(name)
    missing = []
    for parent, expected in by_parent.items():
        present = set(os.listdir(folder / parent)) if (folder / parent).is_dir() else set()
        unlisted = [name for name in expected if PurePath(name).name not in present]
        # File systems that ignore case or accents find more than the listing shows.
        missing += [name for name in unlisted if not (folder / name).is_file()]
    if missing:
        raise InputError(f"{folder}: {len(missing)} {what} are missing, the first is {missing[0]}; put them there")


def read_instances(
    path: Path, pictures: Sequence[AnnotatedPicture], labels: LabelSet
) -> tuple[tuple[Mapping[str, Any], ...], ...]:
    """The annotations of each picture in an instances file; those of other pictures are left out."""
    if not path.exists():
        raise InputError(f"{path}: there is no such file; overlapping instances need it, put it there")
    by_picture: dict[int | str, list[Mapping[str, Any]]] = {picture.image_id: [] for picture in pictures}
    for position, annotation in enumerate(read_document(path)["annotations"]):
        where = f"{path}: annotations[{position}]"
        image_id = _field(annotation, "image_id", (int, str), where)
        if image_id not in by_picture:
            continue
        category_id = _field(annotation, "category_id", (int,), where)
        if labels.index.get(category_id, -1) < labels.num_stuff:
            raise InputError(
                f"{where}: category_id {category_id} is no thing among the categories of the panoptic JSON file; "
                "correct it or leave the annotation out"
            )
        if not isinstance(annotation.get("segmentation"), (list, dict)):
            raise InputError(f"{where}: lacks a segmentation; write polygons or a run-length encoding")
        by_picture[image_id].append(annotation)
    return tuple(tuple(annotations) for annotations in by_picture.values())
