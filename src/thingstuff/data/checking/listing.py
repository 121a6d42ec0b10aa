"""What the JSON file of a split lists, read as far as it can be used; everything else becomes a finding.

Unlike the reader for training (``data.coco_json``), which stops at the first thing wrong, nothing stops this one.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeGuard

from thingstuff.data.checking.kinds import Finding, Kind
from thingstuff.data.checking.records import (
    ListedCategory,
    ListedPicture,
    ListedSegment,
    Listing,
    SplitFiles,
    relative,
    shown,
)
from thingstuff.data.coco_json import MAX_ID
from thingstuff.errors import InputError
from thingstuff.labels import MAX_CATEGORIES
from thingstuff.structures import VOID_ID, Size


def read_json(path: Path) -> dict[str, Any]:
    """The content of a JSON file, which has to be an object.

    Raises:
        InputError: It is none, or cannot be read.
    """
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, OSError, RecursionError) as error:
        raise InputError(f"{path.name}: cannot be read as JSON ({error})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path.name}: holds {shown(content)}, not an object with images and annotations")
    return content


def read_listing(files: SplitFiles, root: Path) -> Listing:
    """Read the JSON file of a split."""
    reader = _Reader(files, root)
    try:
        content = read_json(files.json)
    except InputError as error:
        reader.find(Kind.UNREADABLE_JSON, str(error))
        return Listing(files, (), (), (), False, tuple(reader.findings))
    lists = {name: content.get(name) for name in ("images", "annotations", "categories")}
    for name, value in lists.items():
        if not isinstance(value, list):
            reader.find(Kind.UNREADABLE_JSON, f"'{name}' is {shown(value)}, not a list")
    images, annotations, categories = (value if isinstance(value, list) else [] for value in lists.values())
    listed = reader.read_categories(categories)
    sizes = reader.read_images(images)
    pictures = reader.read_annotations(annotations, sizes, {category.id: category for category in listed})
    if isinstance(lists["annotations"], list) and not annotations:
        reader.find(Kind.NOTHING_ANNOTATED, "'annotations' is empty")
    complete = all(isinstance(value, list) for value in lists.values())
    return Listing(files, listed, pictures, tuple(reader.names), complete, tuple(reader.findings))


@dataclass
class _Reader:
    """Goes through one JSON file and collects what is wrong in it."""

    files: SplitFiles
    root: Path
    findings: list[Finding] = field(default_factory=list)
    names: Counter[str] = field(default_factory=Counter)

    def find(self, kind: Kind, text: str) -> None:
        """Something is wrong with the JSON file itself."""
        self.findings.append(Finding(kind, self.files.split, relative(self.files.json, self.root), text))

    def find_in(self, picture: ListedPicture, kind: Kind, text: str, segment: int | None = None) -> None:
        """Something is wrong with a picture's annotation."""
        file = self.files.json if picture.map_name is None else self.files.maps / picture.map_name
        finding = Finding(kind, self.files.split, relative(file, self.root), text, segment, picture.file_name)
        self.findings.append(finding)

    # --- categories ---

    def read_categories(self, listed: Sequence[Any]) -> tuple[ListedCategory, ...]:
        read: dict[int, ListedCategory] = {}
        names: set[str] = set()
        for where, entry in self._objects(listed, "categories"):
            identity, name = entry.get("id"), entry.get("name")
            if not _is_whole(identity) or identity < 0:
                self.find(Kind.MALFORMED_ENTRY, f"{where}: id is {shown(identity)}; expected a whole number from 0")
                continue
            if not isinstance(name, str) or not name:
                self.find(Kind.MALFORMED_ENTRY, f"{where}: name is {shown(name)}; expected a text")
                name = f"category {identity}"
            where = f"{where} ({shown(name)})"
            isthing = entry.get("isthing")
            if isthing not in (0, 1):
                self.find(Kind.ISTHING_MISSING, f"{where}: isthing is {shown(isthing)}")
                isthing = None
            color = entry.get("color")
            if color is not None and not _is_color(color):
                self.find(
                    Kind.MALFORMED_ENTRY, f"{where}: color is {shown(color)}; expected three numbers from 0 to 255"
                )
                color = None
            if identity in read:
                self.find(Kind.DUPLICATE_CATEGORY, f"{where}: id {identity} is that of {shown(read[identity].name)}")
                continue
            if name in names:
                self.find(Kind.DUPLICATE_CATEGORY, f"{where}: another category has this name")
            names.add(name)
            rgb = None if not color else (color[0], color[1], color[2])
            read[identity] = ListedCategory(identity, name, None if isthing is None else bool(isthing), rgb)
        if len(read) > MAX_CATEGORIES:
            self.find(Kind.TOO_MANY_CATEGORIES, f"{len(read)} categories; at most {MAX_CATEGORIES} can be told apart")
        return tuple(read.values())

    # --- pictures ---

    def read_images(self, listed: Sequence[Any]) -> dict[int | str, tuple[str | None, Size | None]]:
        """File name and size of every picture by its id."""
        read: dict[int | str, tuple[str | None, Size | None]] = {}
        for where, entry in self._objects(listed, "images"):
            identity, name = entry.get("id"), self._name(entry, where)
            if name is not None:
                self.names[name] += 1
                if self.names[name] == 2:
                    self.find(Kind.DUPLICATE_FILE_NAME, f"{where}: picture {shown(name)} is listed before")
            if not _is_whole(identity) and not isinstance(identity, str):
                expected = "expected a whole number or a text"
                self.find(Kind.MALFORMED_ENTRY, f"{where}: id is {shown(identity)}; {expected}")
                continue
            size = self._size(entry, where)
            if identity in read:
                other = shown(read[identity][0])
                self.find(Kind.DUPLICATE_IMAGE_ID, f"{where} ({shown(name)}): id {shown(identity)} is that of {other}")
                continue
            read[identity] = (name, size)
        return read

    def _name(self, entry: Mapping[str, Any], where: str) -> str | None:
        name = entry.get("file_name")
        # No file system has such names, and paths cannot be made of them.
        if isinstance(name, str) and name and "\0" not in name:
            return name
        self.find(Kind.MALFORMED_ENTRY, f"{where}: file_name is {shown(name)}; expected the name of a file")
        return None

    def _size(self, entry: Mapping[str, Any], where: str) -> Size | None:
        height, width = entry.get("height"), entry.get("width")
        if _is_whole(height) and _is_whole(width) and height > 0 and width > 0:
            return height, width
        text = f"{where} ({shown(entry.get('file_name'))}): width is {shown(width)}, height {shown(height)}"
        self.find(Kind.MALFORMED_ENTRY, f"{text}; expected whole numbers from 1")
        return None

    # --- annotations ---

    def read_annotations(
        self,
        listed: Sequence[Any],
        images: Mapping[int | str, tuple[str | None, Size | None]],
        categories: Mapping[int, ListedCategory],
    ) -> tuple[ListedPicture, ...]:
        pictures: list[ListedPicture] = []
        annotated: set[int | str] = set()
        map_names: Counter[str] = Counter()
        for where, entry in self._objects(listed, "annotations"):
            map_name = self._name(entry, where)
            where = f"{where} ({shown(map_name)})"
            identity = entry.get("image_id")
            image: tuple[str | None, Size | None] = (None, None)
            if not _is_whole(identity) and not isinstance(identity, str):
                self.find(Kind.MALFORMED_ENTRY, f"{where}: image_id is {shown(identity)}; expected an id of 'images'")
            elif identity not in images:
                self.find(Kind.UNKNOWN_IMAGE, f"{where}: no picture has the id {shown(identity)}")
            elif identity in annotated:
                name = shown(images[identity][0])
                self.find(Kind.ANNOTATED_TWICE, f"{where}: picture {shown(identity)} ({name}) is annotated before")
            else:
                annotated.add(identity)
                image = images[identity]
            if map_name is not None:
                map_names[map_name] += 1
                if map_names[map_name] == 2:
                    self.find(Kind.DUPLICATE_FILE_NAME, f"{where}: the PNG file is listed before")
            picture = ListedPicture(*image, map_name, ())
            picture = replace(picture, segments=tuple(self._segments(entry.get("segments_info"), where, picture)))
            self._judge(picture, categories)
            pictures.append(picture)
        for identity, (name, _) in images.items():
            if identity not in annotated:
                finding = Finding(
                    Kind.NOT_ANNOTATED,
                    self.files.split,
                    relative(self.files.images / self.files.stored(name or ""), self.root),
                    f"picture {shown(identity)} has no annotation",
                    picture=name,
                )
                self.findings.append(finding)
        return tuple(pictures)

    def _segments(self, listed: object, where: str, picture: ListedPicture) -> Iterator[ListedSegment]:
        if not isinstance(listed, list):
            self.find(Kind.MALFORMED_ENTRY, f"{where}: segments_info is {shown(listed)}; expected a list")
            return
        for here, entry in self._objects(listed, f"{where}: segments_info"):
            identity, category_id, crowd = entry.get("id"), entry.get("category_id"), entry.get("iscrowd", 0)
            if not _is_whole(identity):
                self.find(Kind.MALFORMED_ENTRY, f"{here}: id is {shown(identity)}; expected a whole number")
                continue
            if not _is_whole(category_id):
                text = f"{here}: category_id is {shown(category_id)}; expected an id of 'categories'"
                self.find(Kind.MALFORMED_ENTRY, text)
                category_id = None
            if crowd not in (0, 1):
                self.find(Kind.MALFORMED_ENTRY, f"{here}: iscrowd is {shown(crowd)}; expected 0 or 1")
                crowd = 0
            area, bbox = entry.get("area"), entry.get("bbox")
            if area is not None and not _is_number(area):
                self.find_in(picture, Kind.WRONG_AREA, f"area is {shown(area)}, not a number of pixels", identity)
                area = None
            if bbox is not None and not _is_box(bbox):
                self.find_in(picture, Kind.WRONG_BBOX, f"bbox is {shown(bbox)}, not [x, y, width, height]", identity)
                bbox = None
            box = None if bbox is None else (bbox[0], bbox[1], bbox[2], bbox[3])
            lacking = [name for name in ("area", "bbox", "iscrowd") if name not in entry]
            if lacking:
                self.find_in(picture, Kind.INCOMPLETE_SEGMENT, f"lacks {', '.join(lacking)}", identity)
            yield ListedSegment(identity, category_id, area, box, bool(crowd))

    def _judge(self, picture: ListedPicture, categories: Mapping[int, ListedCategory]) -> None:
        """Look at ids, categories and crowds of a picture's segments."""
        ids = Counter(segment.id for segment in picture.segments)
        pieces: dict[int, list[int]] = defaultdict(list)
        kinds = set()
        for segment in picture.segments:
            if segment.id == VOID_ID:
                area = "" if segment.area is None else f", area {shown(segment.area)}"
                self.find_in(picture, Kind.ZERO_ID, f"category {shown(segment.category_id)}{area}", VOID_ID)
            elif not 0 < segment.id <= MAX_ID:
                self.find_in(picture, Kind.ID_OUT_OF_RANGE, f"id {shown(segment.id)}")
            if segment.category_id is None:
                continue
            category = categories.get(segment.category_id)
            if category is None:
                text = f"category_id {shown(segment.category_id)}"
                self.find_in(picture, Kind.UNKNOWN_CATEGORY, text, segment.id)
            else:
                kinds.add(category.isthing)
                if category.isthing is False:
                    pieces[category.id].append(segment.id)
                    if segment.crowd:
                        self.find_in(picture, Kind.CROWD_ON_STUFF, shown(category.name), segment.id)
        for identity, count in ids.items():
            if count > 1:
                self.find_in(picture, Kind.DUPLICATE_SEGMENT_ID, f"{count} entries", identity)
        for category_id, found in pieces.items():
            if len(set(found)) > 1:
                text = f"{shown(categories[category_id].name)} has {len(found)} segments"
                self.find_in(picture, Kind.STUFF_IN_PIECES, text)
        present = {category.isthing for category in categories.values()}
        if not picture.segments:
            self.find_in(picture, Kind.NOTHING_LABELLED, "no segment is listed")
        elif True in present and False in present:
            # Where no picture can have things, or stuff, none is missing.
            if True not in kinds:
                self.find_in(picture, Kind.NO_THING, f"segments: {len(picture.segments)}, all stuff")
            if False not in kinds:
                self.find_in(picture, Kind.NO_STUFF, f"segments: {len(picture.segments)}, all things")

    def _objects(self, listed: Sequence[Any], name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """The entries of a list that are objects, and what to call each."""
        for position, entry in enumerate(listed):
            where = f"{name}[{position}]"
            if isinstance(entry, dict):
                yield where, entry
            else:
                self.find(Kind.MALFORMED_ENTRY, f"{where} is {shown(entry)}; expected an object")


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> TypeGuard[float]:
    # Larger ones cannot be computed with, and no picture has so many pixels.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**53


def _is_box(value: object) -> TypeGuard[list[float]]:
    return isinstance(value, list) and len(value) == 4 and all(map(_is_number, value))


def _is_color(value: object) -> TypeGuard[list[int]]:
    if not isinstance(value, list) or (value and len(value) != 3):
        return False
    return all(_is_whole(part) and 0 <= part <= 255 for part in value)
