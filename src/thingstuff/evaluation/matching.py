"""Which predicted segments are which true ones: panoptic quality's matching rules for one picture.

``count_overlaps`` reduces two id maps to the areas their segments share, ``match_tables`` applies the rules;
``match_picture`` joins them.

Rules that are easy to get wrong:

* A pair matches when its IoU is *strictly* over 0.5; only the truth's void is taken off the union.
* A crowd is never matched and never missed. A prediction that lies mostly (strictly over half) on void and on the crowd
  of its class is not counted as invented; of several crowds of one class only the last listed does so.

The truth is trusted, as panopticapi does: the areas written in its segments enter the IoU and its ids are not compared
with the map, so callers recount it beforehand.

Sources: Kirillov et al. 2019, "Panoptic Segmentation" (arXiv 1801.00868), section 4; cocodataset/panopticapi
``evaluation.py`` at commit 7bb4655.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Int32, Int64

from thingstuff.errors import InputError
from thingstuff.evaluation import fast
from thingstuff.structures import VOID_ID, Panoptic, Segment

_ID_BITS = 24
"""Ids of the COCO panoptic format are below ``2**24``."""


@dataclass(frozen=True, slots=True)
class Overlaps:
    """How many pixels each pair of a true and a predicted id shares, by ascending true, then predicted id.

    Attributes:
        truth_ids: Id in the true map, void included.
        predicted_ids: Id in the predicted map, void included.
        areas: Pixels that have both, at least 1.
        boxes: Tight ``xyxy`` box of those pixels, in pixels of the maps.
    """

    truth_ids: Int64[np.ndarray, " n"]
    predicted_ids: Int64[np.ndarray, " n"]
    areas: Int64[np.ndarray, " n"]
    boxes: Int64[np.ndarray, "n 4"]


@dataclass(frozen=True, slots=True)
class MatchedPair:
    """A true and a predicted segment of one class that are the same object.

    Attributes:
        truth_id: Id of the true segment.
        predicted_id: Id of the predicted segment.
        category_id: Their category.
        iou: Intersection over union, over 0.5.
    """

    truth_id: int
    predicted_id: int
    category_id: int
    iou: float


@dataclass(frozen=True, slots=True)
class PictureMatch:
    """All that one picture contributes to panoptic quality.

    Attributes:
        pairs: True positives by ascending true, then predicted id, the order in which their IoUs are added.
        false_positives: Category of each predicted segment that matches nothing and is not excused.
        false_negatives: Category of each true segment that was missed.
    """

    pairs: tuple[MatchedPair, ...]
    false_positives: tuple[int, ...]
    false_negatives: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TruthTable:
    """What the matching rules need to know of the true segments of one picture.

    Attributes:
        categories: Category by id.
        areas: Pixels by id, as they enter the IoU.
        crowds: Ids of crowds, in the order listed.
    """

    categories: Mapping[int, int]
    areas: Mapping[int, int | float]
    crowds: Sequence[int]


def match_picture(truth: Panoptic, prediction: Panoptic, *, picture: str = "picture") -> PictureMatch:
    """Match a predicted panoptic map with the true one.

    Args:
        truth: The areas in its segments are trusted (see the module's description).
        prediction: Of the same size. Areas are recounted from its map.
        picture: What to call the picture in messages.

    Raises:
        InputError: The sizes differ, or the predicted map and its segments do not list the same ids.
    """
    overlaps = count_overlaps(truth.ids, prediction.ids, picture=picture)
    predicted = {segment.id: segment.category_id for segment in prediction.segments}
    _check_listed(predicted.keys(), set(overlaps.predicted_ids.tolist()), picture)
    return match_tables(truth_table(truth.segments), predicted, overlaps)


def count_overlaps(
    truth_ids: Int32[np.ndarray, "H W"], predicted_ids: Int32[np.ndarray, "_ _"], *, picture: str = "picture"
) -> Overlaps:
    """Count the pixels that each true id shares with each predicted id.

    Neighbouring pixels mostly agree, so horizontal runs are counted instead of pixels. The extra ``[fast]`` is used
    where it is installed, from the thousandth pair on.

    Args:
        truth_ids: From 0 to ``2**24 - 1``.
        predicted_ids: Of the same size.
        picture: What to call the picture in messages.

    Raises:
        InputError: The sizes differ.
    """
    if truth_ids.shape != predicted_ids.shape:
        true_size, predicted_size = (" x ".join(map(str, ids.shape)) for ids in (truth_ids, predicted_ids))
        raise InputError(
            f"{picture}: the predicted id map is {predicted_size} pixels (height x width), the true one {true_size}; "
            "predict at the size of the truth"
        )
    return joint_histogram(truth_ids, predicted_ids, fast.load_when_busy())


def joint_histogram(
    truth_ids: Int32[np.ndarray, "H W"], predicted_ids: Int32[np.ndarray, "H W"], extra: fast.Fast | None
) -> Overlaps:
    """``count_overlaps`` with the extra or without."""
    count = _count_maps if extra is None else partial(fast.count_maps, extra)
    return overlaps_of(*count(truth_ids, predicted_ids))


def overlaps_of(keys: Int64[np.ndarray, " n"], facts: Int64[np.ndarray, "n 5"]) -> Overlaps:
    """Overlaps from pairs (true id times ``2**24`` plus predicted id) and their area, left, top, right and bottom."""
    return Overlaps(keys >> _ID_BITS, keys & (1 << _ID_BITS) - 1, facts[:, 0], facts[:, 1:])


def _count_maps(
    truth_ids: Int32[np.ndarray, "H W"], predicted_ids: Int32[np.ndarray, "H W"]
) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, "n 5"]]:
    """The same as ``fast.count_maps``."""
    height, width = truth_ids.shape
    joint = truth_ids.astype(np.int64)
    joint <<= _ID_BITS
    joint |= predicted_ids
    starts_run = np.ones((height, width), dtype=bool)
    np.not_equal(joint[:, 1:], joint[:, :-1], out=starts_run[:, 1:])
    starts = np.flatnonzero(starts_run)
    lengths = np.diff(starts, append=joint.size)
    runs = joint.ravel()[starts]
    # Sorting the keys and looking them up again is twice as fast as the inverse of np.unique, which sorts indices.
    keys = np.unique(runs)
    row = np.searchsorted(keys, runs)
    facts = np.empty((keys.size, 5), dtype=np.int64)
    facts[:, 0] = np.bincount(row, weights=lengths, minlength=keys.size)
    if keys.size:
        # Small integers are sorted by counting, and equal ones keep their order: top to bottom.
        order = np.argsort(row.astype(np.uint16) if keys.size <= 1 << 16 else row, kind="stable")
        first = np.searchsorted(row[order], np.arange(keys.size))
        top, left = np.divmod(starts[order], width)
        facts[:, 1] = np.minimum.reduceat(left, first)
        facts[:, 2] = top[first]
        facts[:, 3] = np.maximum.reduceat(left + lengths[order], first)
        facts[:, 4] = top[np.append(first[1:], top.size) - 1] + 1
    return keys, facts


def truth_table(segments: Iterable[Segment]) -> TruthTable:
    """Table of the segments of a true map, areas trusted; of several with one id, the last counts."""
    by_id = {segment.id: segment for segment in segments}
    return TruthTable(
        {segment.id: segment.category_id for segment in by_id.values()},
        {segment.id: segment.area for segment in by_id.values()},
        [segment.id for segment in by_id.values() if segment.iscrowd],
    )


@dataclass(frozen=True, slots=True)
class FoundSegments:
    """``PictureMatch`` by segment instead of by category.

    Attributes:
        pairs: True positives.
        invented: Ids of predicted segments that match nothing and are not excused.
        missed: Ids of true segments that were missed.
    """

    pairs: tuple[MatchedPair, ...]
    invented: tuple[int, ...]
    missed: tuple[int, ...]


def match_tables(
    truth: TruthTable,
    predicted: Mapping[int, int],
    overlaps: Overlaps,
    limits: Mapping[tuple[int, int], float] | None = None,
) -> PictureMatch:
    """Apply the matching rules to one picture; arguments as for ``find_segments``."""
    found = find_segments(truth, predicted, overlaps, limits)
    return PictureMatch(
        found.pairs,
        tuple(predicted[identity] for identity in found.invented),
        tuple(truth.categories[identity] for identity in found.missed),
    )


def find_segments(
    truth: TruthTable,
    predicted: Mapping[int, int],
    overlaps: Overlaps,
    limits: Mapping[tuple[int, int], float] | None = None,
) -> FoundSegments:
    """Apply the matching rules to one picture.

    Like panopticapi, it treats a listed id 0 as any segment.

    Args:
        truth: The true segments.
        predicted: Category of each predicted segment by id. Each occurs in ``overlaps``.
        overlaps: Of the two maps.
        limits: The most that the IoU of each true and predicted id may be, 0 where not given; None for no limits.
    """
    areas: dict[int, int] = {}
    on_void: dict[int, int] = {}
    candidates: list[tuple[int, int, int]] = []
    crowds = {truth.categories[identity]: identity for identity in truth.crowds}
    on_crowd: dict[int, int] = {}
    crowd_ids = set(truth.crowds)
    columns = (overlaps.truth_ids.tolist(), overlaps.predicted_ids.tolist(), overlaps.areas.tolist())
    for true_id, predicted_id, area in zip(*columns, strict=True):
        areas[predicted_id] = areas.get(predicted_id, 0) + area
        if true_id == VOID_ID:
            on_void[predicted_id] = area
        category = truth.categories.get(true_id)
        if category is None or predicted.get(predicted_id) != category:
            continue
        if true_id not in crowd_ids:
            candidates.append((true_id, predicted_id, area))
        elif crowds[category] == true_id:
            on_crowd[predicted_id] = area
    pairs = tuple(_matched_pairs(truth, candidates, areas, on_void, limits))
    found = {pair.truth_id for pair in pairs} | crowd_ids
    used = {pair.predicted_id for pair in pairs}
    return FoundSegments(
        pairs,
        tuple(
            identity
            for identity in predicted
            # Excused: it lies mostly where nothing can be said about it.
            if identity not in used
            and not (on_void.get(identity, 0) + on_crowd.get(identity, 0)) / areas[identity] > 0.5
        ),
        tuple(identity for identity in truth.categories if identity not in found),
    )


def _check_listed(listed: Set[int], drawn: Set[int], picture: str) -> None:
    if unlisted := drawn - listed - {VOID_ID}:
        raise InputError(
            f"{picture}: the predicted map has pixels of id {min(unlisted)}, which is not among its segments; "
            f"list every id of the map ({VOID_ID} is void)"
        )
    if undrawn := listed - drawn:
        raise InputError(
            f"{picture}: predicted segment {min(undrawn)} has no pixel in the predicted map; "
            "leave it out of the segments"
        )


def _matched_pairs(
    truth: TruthTable,
    candidates: Iterable[tuple[int, int, int]],
    areas: Mapping[int, int],
    on_void: Mapping[int, int],
    limits: Mapping[tuple[int, int], float] | None,
) -> Iterator[MatchedPair]:
    for true_id, predicted_id, area in candidates:
        union = areas[predicted_id] + truth.areas[true_id] - area - on_void.get(predicted_id, 0)
        # Only a wrong true area leaves no union; the reference divides by zero in floating point there.
        iou = area / union if union else math.inf
        if limits is not None:
            iou = min(iou, limits.get((true_id, predicted_id), 0.0))
        if iou > 0.5:
            yield MatchedPair(true_id, predicted_id, truth.categories[true_id], iou)
