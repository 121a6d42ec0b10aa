"""Repairs that need no decision: what pixels and JSON file together say without doubt.

The original of every file that is changed stays beside it, as ``.bak``; nothing is painted over, and nothing is dropped
but list entries without a pixel.
"""

import io
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32
from PIL import Image

from thingstuff.data.checking.check import CheckedData
from thingstuff.data.checking.listing import read_json
from thingstuff.data.checking.pixels import CountedIds, WrongMapError, count_ids, read_map, same_box
from thingstuff.data.checking.records import SplitFiles, relative, shown
from thingstuff.data.coco_json import MAX_ID
from thingstuff.errors import InputError
from thingstuff.structures import VOID_ID, encode_ids

_Entry = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that was repaired.

    Attributes:
        what: What was done, the same words for all repairs of a sort.
        file: The PNG file of the picture, relative to the root where it lies below it.
        segment: Id of the segment before the repair.
        text: What stood there and what stands there now.
    """

    what: str
    file: str
    segment: int
    text: str


@dataclass(frozen=True, slots=True)
class Mended:
    """What was repaired.

    Attributes:
        changes: One for each segment and repair.
        kept: The originals of the files that were changed.
    """

    changes: tuple[Change, ...]
    kept: tuple[Path, ...]

    def to_json(self) -> dict[str, Any]:
        """Everything for a program."""
        changes = [{"what": c.what, "file": c.file, "segment": c.segment, "text": c.text} for c in self.changes]
        return {"changes": changes, "originals": [str(path) for path in self.kept]}


def mend(checked: CheckedData, files: Sequence[SplitFiles]) -> Mended:
    """Repair what is safe to repair.

    Args:
        checked: What the check found.
        files: Where the splits lie that were checked.

    Raises:
        InputError: A file cannot be written; what was repaired before is kept.
    """
    changes: list[Change] = []
    kept: list[Path] = []
    for split in files:
        wanted = {f.file for f in checked.findings if f.kind.mendable and f.split == split.split}
        if not wanted:
            continue
        content = read_json(split.json)
        names = Counter(name for _, name in _annotations(content))
        sizes = _sizes(content)
        before = len(changes)
        painted: list[tuple[Path, bytes]] = []
        for annotation, name in _annotations(content):
            path = split.maps / name
            file = relative(path, checked.root)
            if file not in wanted:
                continue
            try:
                ids = read_map(str(path))
            except WrongMapError:
                continue
            # A map of another size may be that of another picture.
            if sizes.get(_key(annotation.get("image_id")), ids.shape) != ids.shape:
                continue
            mending = _Mending(annotation["segments_info"], ids.copy(), file, paintable=names[name] == 1)
            mending.run()
            changes += mending.changes
            if mending.painted:
                buffer = io.BytesIO()
                Image.fromarray(encode_ids(mending.ids)).save(buffer, "PNG")
                painted.append((path, buffer.getvalue()))
        if len(changes) > before:
            kept += _replace_together([*painted, (split.json, json.dumps(content).encode())])
    return Mended(tuple(changes), tuple(kept))


def _annotations(content: dict[str, Any]) -> Iterator[tuple[_Entry, str]]:
    """The annotations that name a PNG file and list segments."""
    annotations = content.get("annotations")
    for annotation in annotations if isinstance(annotations, list) else ():
        if isinstance(annotation, dict) and isinstance(annotation.get("segments_info"), list):
            name = annotation.get("file_name")
            if isinstance(name, str) and name and "\0" not in name:
                yield annotation, name


def _sizes(content: dict[str, Any]) -> dict[object, tuple[object, object]]:
    images = content.get("images")
    return {
        _key(image.get("id")): (image.get("height"), image.get("width"))
        for image in (images if isinstance(images, list) else ())
        if isinstance(image, dict)
    }


def _key(value: object) -> object:
    return value if isinstance(value, int | str) else None


class _Mending:
    """Repairs the annotation of one picture, in place.

    Args:
        entries: ``segments_info``.
        ids: The id map.
        file: For what is reported.
        paintable: The PNG file belongs to this annotation alone, so ids in it may be changed.
    """

    def __init__(self, entries: list[Any], ids: Int32[np.ndarray, "H W"], file: str, *, paintable: bool) -> None:
        self.entries, self.ids, self.file, self.paintable = entries, ids, file, paintable
        self.counted = count_ids(ids)
        self.painted = False
        self.changes: list[Change] = []

    def run(self) -> None:
        """Do all repairs."""
        self._drop_repeated()
        if self.paintable:
            self._part_shared()
            self._number_zero()
        self._drop_empty()
        self._recount()

    def _usable(self) -> list[_Entry]:
        return [entry for entry in self.entries if isinstance(entry, dict) and _is_id(entry.get("id"))]

    def _shared(self) -> dict[int, list[_Entry]]:
        """The entries of every id that several have."""
        times = Counter(entry["id"] for entry in self._usable())
        return {
            identity: [entry for entry in self._usable() if entry["id"] == identity]
            for identity, count in times.items()
            if count > 1
        }

    def _change(self, what: str, segment: int, text: str) -> None:
        self.changes.append(Change(what, self.file, segment, text))

    def _remove(self, entry: _Entry) -> None:
        self.entries[:] = [other for other in self.entries if other is not entry]

    def _drop_repeated(self) -> None:
        for identity, entries in self._shared().items():
            for entry in entries[1:]:
                if entry == entries[0]:
                    self._remove(entry)
                    self._change("repeated entry removed", identity, "the same entry stands there twice")

    def _part_shared(self) -> None:
        for identity, entries in self._shared().items():
            masks = [self._told_apart(entry) for entry in entries]
            told = [mask for mask in masks if mask is not None]
            total = sum(int(mask.sum()) for mask in told)
            whole = np.logical_or.reduce(told).sum() if told else 0
            # Every pixel of the id belongs to exactly one entry.
            if identity == VOID_ID or len(told) < len(entries) or not total == whole == self._area(identity):
                continue
            for entry, mask in zip(entries[1:], told[1:], strict=True):
                fresh = self._fresh_id()
                self._paint(mask, fresh)
                entry["id"] = fresh
                self._change("id renumbered", identity, f"shared with another segment, now {fresh}")

    def _told_apart(self, entry: _Entry) -> np.ndarray | None:
        """The pixels of the entry's id inside its box, if area and box fit them exactly."""
        box, area = entry.get("bbox"), entry.get("area")
        if not isinstance(box, list) or len(box) != 4 or not all(map(_is_id, box)) or min(box) < 0 or max(box) > 2**31:
            return None
        left, top, width, height = box
        mask = np.zeros(self.ids.shape, dtype=bool)
        inside = np.s_[top : top + height, left : left + width]
        mask[inside] = self.ids[inside] == entry["id"]
        if not mask.any() or int(mask.sum()) != area:
            return None
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        tight = [columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]]
        return mask if tight == box else None

    def _number_zero(self) -> None:
        zeros = [entry for entry in self._usable() if entry["id"] == VOID_ID]
        area = self._area(VOID_ID)
        if len(zeros) != 1 or not area or zeros[0].get("area") != area:
            return
        box = zeros[0].get("bbox")
        if box is not None and not _fits(box, _box_of(self.counted, VOID_ID)):
            return
        fresh = self._fresh_id()
        self._paint(self.ids == VOID_ID, fresh)
        zeros[0]["id"] = fresh
        self._change("id renumbered", VOID_ID, f"0 means void, now {fresh}")

    def _drop_empty(self) -> None:
        listed = {entry["id"] for entry in self._usable()}
        # Where the map has ids that nobody lists, the segment may be there under another one.
        if set(self.counted.ids.tolist()) - listed - {VOID_ID}:
            return
        for entry in self._usable():
            if 0 <= entry["id"] <= MAX_ID and not self._area(entry["id"]):
                self._remove(entry)
                self._change("empty segment removed", entry["id"], f"category {shown(entry.get('category_id'))}")

    def _recount(self) -> None:
        shared = self._shared()
        for entry in self._usable():
            identity, area = entry["id"], self._area(entry["id"])
            if identity in shared or identity == VOID_ID or not area:
                continue
            if not _is_number(entry.get("area")) or entry["area"] != area:
                self._change("area recounted", identity, f"{shown(entry.get('area'))}, now {area}")
                entry["area"] = area
            box = _box_of(self.counted, identity)
            if not _fits(entry.get("bbox"), box):
                listed = entry.get("bbox")
                text = ", ".join(map(shown, listed)) if isinstance(listed, list) else shown(listed)
                self._change("box recounted", identity, f"[{text}], now {box}" if listed else f"{text}, now {box}")
                entry["bbox"] = box
            if "iscrowd" not in entry:
                self._change("iscrowd written", identity, "missing, now 0")
                entry["iscrowd"] = 0

    def _area(self, identity: int) -> int:
        return int(self.counted.areas[self.counted.ids == identity].sum()) if 0 <= identity <= MAX_ID else 0

    def _fresh_id(self) -> int:
        taken = {*self.counted.ids.tolist(), *(entry["id"] for entry in self._usable())}
        return next(identity for identity in range(1, MAX_ID + 1) if identity not in taken)

    def _paint(self, mask: np.ndarray, identity: int) -> None:
        self.ids[mask] = identity
        self.counted = count_ids(self.ids)
        self.painted = True


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _box_of(counted: CountedIds, identity: int) -> list[int]:
    return counted.boxes[counted.ids == identity][0].tolist()


def _fits(listed: object, box: list[int]) -> bool:
    if not isinstance(listed, list) or len(listed) != 4:
        return False
    if not all(_is_number(side) and abs(side) < 2**53 for side in listed):
        return False
    return same_box(tuple(listed), box)


def _replace_together(files: Sequence[tuple[Path, bytes]]) -> list[Path]:
    """Replace files that belong together: all, or where one cannot be written none."""
    kept: list[Path] = []
    try:
        for path, data in files:
            kept.append(_replace(path, data))
    except InputError:
        for (path, _), original in zip(files, kept, strict=False):
            original.replace(path.resolve())
        raise
    return kept


def _replace(path: Path, data: bytes) -> Path:
    """Replace a file in one step and keep the original beside it; where it is kept comes back."""
    path = path.resolve()
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        shutil.copymode(path, aside)
        kept = _keep(path)
        aside.replace(path)
    except OSError as error:
        with suppress(OSError):
            aside.unlink()
        reason = error.strerror or str(error)
        raise InputError(
            f"{path}: cannot be written ({reason}); check that the folder is yours and has space"
        ) from error
    return kept


def _keep(path: Path) -> Path:
    """Copy a file to the first free name that ends in .bak, .bak2, .bak3 ..."""
    number = 1
    while True:
        kept = path.with_name(f"{path.name}.bak{number if number > 1 else ''}")
        try:
            with kept.open("xb") as file:
                file.write(path.read_bytes())
                file.flush()
                os.fsync(file.fileno())
        except FileExistsError:
            number += 1
        else:
            shutil.copystat(path, kept)
            return kept
