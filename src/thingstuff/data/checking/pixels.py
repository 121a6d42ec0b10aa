"""What the files of one picture show: the photograph's kind, size and turn, and the pixels of every segment."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int32, Int64, UInt8
from PIL import Image

from thingstuff.data.checking.kinds import Kind
from thingstuff.data.checking.photo import (
    ANY_DAMAGE,
    Sight,
    bits_per_channel,
    look_at_photo,
    png_bits,
    reason,
    refuse_pipe,
    size_text,
)
from thingstuff.data.checking.records import ListedSegment, shown
from thingstuff.data.coco_json import MAX_ID
from thingstuff.data.images import find_runs
from thingstuff.structures import VOID_ID, Size

TINY = 10
"""Pixels below which a segment is noted as tiny."""
MOSTLY = 0.9
"""Share of void above which a picture is noted as mostly void."""


@dataclass(frozen=True, slots=True)
class PictureFiles:
    """What to look at.

    Attributes:
        photo: The picture's file; None where there is none.
        map: The PNG file; None where there is none.
        size: What the JSON file says.
        segments: What the JSON file says.
    """

    photo: str | None
    map: str | None
    size: Size | None
    segments: tuple[ListedSegment, ...]


@dataclass(frozen=True, slots=True)
class SeenPicture:
    """What the files of a picture show.

    Attributes:
        sights: What is wrong.
        channels: Channels and bits of the picture, for example ``(3, 8)``; None where it cannot be read.
        thumb: Its thumbnail (see ``likeness``), upright.
        areas: Counted pixels of each listed segment; None where the PNG file cannot be read.
        void: Pixels of id 0.
        pixels: Pixels of the PNG file.
    """

    sights: tuple[Sight, ...]
    channels: tuple[int, int] | None = None
    thumb: UInt8[np.ndarray, "9 9"] | None = None
    areas: tuple[int, ...] | None = None
    void: int = 0
    pixels: int = 0


@dataclass(frozen=True, slots=True)
class CountedIds:
    """All ids of a map.

    Attributes:
        ids: Ascending.
        areas: Pixels of each.
        boxes: Box of each as ``(x, y, width, height)``.
    """

    ids: Int64[np.ndarray, " n"]
    areas: Int64[np.ndarray, " n"]
    boxes: Int64[np.ndarray, "n 4"]


def look_at(files: PictureFiles) -> SeenPicture:
    """Decode the files of a picture and compare them with what the JSON file says."""
    with warnings.catch_warnings():
        # Pillow warns of large pictures, which are welcome, and of damaged side data, which is not used.
        warnings.simplefilter("ignore")
        sights: list[Sight] = []
        channels, thumb = (None, None) if files.photo is None else look_at_photo(files.photo, files.size, sights)
        if files.map is None:
            return SeenPicture(tuple(sights), channels, thumb)
        try:
            ids = read_map(files.map)
        except WrongMapError as error:
            return SeenPicture((*sights, Sight(error.kind, str(error))), channels, thumb)
        if files.size is not None and ids.shape != files.size:
            text = f"{size_text(ids.shape)} pixels, but the JSON file says {size_text(files.size)}"
            sights.append(Sight(Kind.WRONG_MAP_SIZE, text))
        counted = count_ids(ids)
        areas = _compare(files.segments, counted, sights)
    void = int(counted.areas[counted.ids == VOID_ID].sum())
    if files.segments and void > MOSTLY * ids.size:
        sights.append(Sight(Kind.MOSTLY_VOID, f"{100 * void / ids.size:.1f} % of the pixels"))
    return SeenPicture(tuple(sights), channels, thumb, areas, void, ids.size)


# --- the map ---


class WrongMapError(ValueError):
    """A PNG file with labels cannot be read.

    Attributes:
        kind: Damaged, or of another format.
    """

    def __init__(self, kind: Kind, text: str) -> None:
        super().__init__(text)
        self.kind = kind


def read_map(path: str) -> Int32[np.ndarray, "H W"]:
    """Read an id map; twice as fast as ``images.read_id_map``, and it says which defect a wrong file has.

    Raises:
        WrongMapError: The file is damaged, or not an 8-bit RGB PNG.
    """
    try:
        refuse_pipe(path)
        with Image.open(path) as image:
            bits = png_bits(image) if image.format == "PNG" else bits_per_channel(image)
            if image.format != "PNG" or bits != 8 or image.mode not in ("RGB", "RGBA"):
                raise WrongMapError(Kind.WRONG_MAP_FORMAT, f"{bits}-bit {image.format} file of mode {image.mode}")
            image.load()
            width, height = image.size
            # Pillow keeps three channels in four bytes: this is its memory as it is, the ids and a byte to mask out.
            pixels = np.frombuffer(image.tobytes("raw", "RGBX" if image.mode == "RGB" else "RGBA"), dtype="<i4")
    except WrongMapError:
        raise
    except ANY_DAMAGE as error:
        raise WrongMapError(Kind.DAMAGED_MAP, reason(path, error)) from error
    return (pixels & 0xFFFFFF).astype(np.int32, copy=False).reshape(height, width)


def count_ids(ids: Int32[np.ndarray, "H W"]) -> CountedIds:
    """Find all ids of a map with their areas and boxes."""
    runs = find_runs(ids)
    areas, boxes = runs.measure(runs.of_value, len(runs.values))
    boxes[:, 2:] -= boxes[:, :2]
    return CountedIds(runs.values.astype(np.int64), areas, boxes)


def same_box(listed: Sequence[int | float], counted: Sequence[int]) -> bool:
    """Whether a listed box is the counted one; parts of a pixel are forgiven."""
    return all(abs(a - b) < 1 for a, b in zip(listed, counted, strict=True))


def _compare(segments: tuple[ListedSegment, ...], counted: CountedIds, sights: list[Sight]) -> tuple[int, ...]:
    """Compare listed segments with the pixels; the counted area of each comes back."""
    area_of = dict(zip(counted.ids.tolist(), counted.areas.tolist(), strict=True))
    box_of = dict(zip(counted.ids.tolist(), counted.boxes.tolist(), strict=True))
    times: dict[int, int] = {}
    for segment in segments:
        times[segment.id] = times.get(segment.id, 0) + 1
    for segment in segments:
        area = area_of.get(segment.id, 0)
        if area == 0:
            # Other ids cannot be in a PNG file, which has been said.
            if 0 <= segment.id <= MAX_ID:
                sights.append(Sight(Kind.NO_PIXELS, "no pixel has this id", segment=segment.id))
            continue
        # What a shared id counts belongs to no one entry, and what is 0 in the map may be void.
        if times[segment.id] > 1 or segment.id == VOID_ID:
            continue
        if segment.area is not None and segment.area != area:
            text = f"the JSON file says {shown(segment.area)}, counted {area}"
            sights.append(Sight(Kind.WRONG_AREA, text, segment=segment.id))
        if segment.bbox is not None and not same_box(segment.bbox, box_of[segment.id]):
            listed = ", ".join(shown(side) for side in segment.bbox)
            text = f"the JSON file says [{listed}], counted {box_of[segment.id]}"
            sights.append(Sight(Kind.WRONG_BBOX, text, segment=segment.id))
        if area < TINY:
            sights.append(Sight(Kind.TINY_SEGMENT, _pixels_text(area), segment=segment.id))
    for identity, area in area_of.items():
        if identity != VOID_ID and identity not in times:
            sights.append(Sight(Kind.UNLISTED_ID, _pixels_text(area), segment=identity))
    # A shared id is counted once.
    seen: set[int] = set()
    areas = []
    for segment in segments:
        fresh = segment.id not in seen and segment.id != VOID_ID
        areas.append(area_of.get(segment.id, 0) if fresh else 0)
        seen.add(segment.id)
    return tuple(areas)


# --- words ---


def _pixels_text(count: int) -> str:
    return f"{count} pixel" if count == 1 else f"{count} pixels"
