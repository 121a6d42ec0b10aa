"""What a data set holds, counted from its pixels: classes, object sizes, void."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from thingstuff.data.checking.pixels import SeenPicture
from thingstuff.data.checking.records import ListedCategory, ListedPicture

SMALL, LARGE = 32**2, 96**2
"""Pixels below which COCO calls an object small, and from which it calls it large (cocodataset.org/#detection-eval)."""
PERCENTILES = (5, 25, 50, 75, 95)
"""Of the objects' sizes."""


@dataclass(frozen=True, slots=True)
class ClassCount:
    """How often one class occurs in one split.

    Attributes:
        pictures: In which it occurs.
        segments: Of it, also crowds.
        share: Of all pixels of the split, from 0 to 1.
    """

    pictures: int
    segments: int
    share: float


@dataclass(frozen=True, slots=True)
class ObjectSizes:
    """Sizes of the things of one split without crowds, as they are in the files.

    Attributes:
        small: Objects below 32 x 32 pixels.
        medium: Objects in between.
        large: Objects of at least 96 x 96 pixels.
        sides: Square root of the area at the percentiles ``PERCENTILES``; nothing where there is no object.
    """

    small: int
    medium: int
    large: int
    sides: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class SplitSummary:
    """What one split holds.

    Attributes:
        split: Its name.
        pictures: With annotation.
        segments: With at least one pixel.
        void: Share of the pixels that nobody labelled, from 0 to 1; None where no PNG file can be read.
        void_median: The same of the picture in the middle.
        objects: Sizes of its things.
        classes: By category id.
    """

    split: str
    pictures: int
    segments: int
    void: float | None
    void_median: float | None
    objects: ObjectSizes
    classes: dict[int, ClassCount]


def order_categories(categories: Iterable[ListedCategory]) -> tuple[ListedCategory, ...]:
    """In class order: stuff by id, then things by id; a category that does not say stands with the things."""
    return tuple(sorted(categories, key=lambda category: (category.isthing is not False, category.id)))


def summarize(
    split: str,
    categories: Sequence[ListedCategory],
    pictures: Sequence[ListedPicture],
    seen: Sequence[SeenPicture],
) -> SplitSummary:
    """Count what a split holds.

    Args:
        split: Its name.
        categories: Of the data set.
        pictures: What the JSON file lists.
        seen: What the files of each show.
    """
    things = {category.id for category in categories if category.isthing is not False}
    in_pictures, segments, pixels = ({category.id: 0 for category in categories} for _ in range(3))
    objects: list[int] = []
    for picture, shown in zip(pictures, seen, strict=True):
        present = set()
        for segment, area in zip(picture.segments, shown.areas or (), strict=False):
            category_id = segment.category_id
            if area == 0 or category_id not in segments:
                continue
            present.add(category_id)
            segments[category_id] += 1
            pixels[category_id] += area
            if category_id in things and not segment.crowd:
                objects.append(area)
        for category_id in present:
            in_pictures[category_id] += 1
    total = sum(shown.pixels for shown in seen)
    shares = [shown.void / shown.pixels for shown in seen if shown.pixels]
    classes = {
        identity: ClassCount(in_pictures[identity], count, pixels[identity] / max(total, 1))
        for identity, count in segments.items()
    }
    return SplitSummary(
        split=split,
        pictures=len(pictures),
        segments=sum(segments.values()),
        void=sum(shown.void for shown in seen) / total if total else None,
        void_median=float(np.median(shares)) if shares else None,
        objects=_sizes(objects),
        classes=classes,
    )


def _sizes(areas: Sequence[int]) -> ObjectSizes:
    if not areas:
        return ObjectSizes(0, 0, 0, ())
    counted = np.array(areas, dtype=np.int64)
    small, large = int((counted < SMALL).sum()), int((counted >= LARGE).sum())
    sides = np.percentile(np.sqrt(counted), PERCENTILES)
    return ObjectSizes(small, len(counted) - small - large, large, tuple(float(side) for side in sides))
