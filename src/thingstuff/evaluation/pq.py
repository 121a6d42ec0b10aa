"""Panoptic quality, equal to the reference evaluator panopticapi to the last bit.

Three steps, each usable alone: ``count_overlaps`` reduces two id maps to the areas their segments share,
``match_segments`` applies the matching rules to one picture, ``panoptic_quality`` averages over pictures and classes.
``match_picture`` joins the first two. A ``PictureMatch`` is plain data: gather them from any number of processes, put
them in the order of the pictures and average once.

Rules that are easy to get wrong:

* A pair matches when its IoU is *strictly* over 0.5; only the truth's void is taken off the union.
* A crowd is never matched and never missed. A prediction that lies mostly (strictly over half) on void and on the crowd
  of its class is not counted as invented; of several crowds of one class only the last listed does so.
* A class with nothing to count is left out of the averages; a class with false positives alone counts with 0.

The truth is trusted, as panopticapi does: the areas written in its segments enter the IoU and its ids are not compared
with the map, so callers recount it beforehand.

Sources: Kirillov et al. 2019, "Panoptic Segmentation" (arXiv 1801.00868), section 4; cocodataset/panopticapi
``evaluation.py`` at commit 7bb4655.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import asdict, astuple, dataclass
from typing import Any

import numpy as np
from jaxtyping import Int32, Int64

from thingstuff.errors import InputError
from thingstuff.labels import Category, LabelSet
from thingstuff.structures import VOID_ID, Panoptic, Segment


@dataclass(frozen=True, slots=True)
class Overlaps:
    """How many pixels each pair of a true and a predicted id shares, by ascending true, then predicted id.

    Attributes:
        truth_ids: Id in the true map, void included.
        predicted_ids: Id in the predicted map, void included.
        areas: Pixels that have both, at least 1.
    """

    truth_ids: Int64[np.ndarray, " n"]
    predicted_ids: Int64[np.ndarray, " n"]
    areas: Int64[np.ndarray, " n"]


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
class ClassCounts:
    """What was counted of one class.

    Attributes:
        tp: True positives: matched pairs.
        fp: False positives: invented segments.
        fn: False negatives: missed segments.
        iou: Sum of the pairs' IoU.
    """

    tp: int = 0
    fp: int = 0
    fn: int = 0
    iou: float = 0.0


@dataclass(frozen=True, slots=True)
class ClassScore:
    """Panoptic quality of one class, as fractions.

    Attributes:
        category_id: The data set's own category id.
        name: Name of the category.
        isthing: A countable object, not amorphous stuff.
        pq: Panoptic quality; 0 for a class of which nothing was counted, which no average includes.
        sq: Segmentation quality: mean IoU of the pairs, 0 without pairs.
        rq: Recognition quality: F1 score of finding segments.
        tp: True positives.
        fp: False positives.
        fn: False negatives.
        iou: Sum of the pairs' IoU.
    """

    category_id: int
    name: str
    isthing: bool
    pq: float
    sq: float
    rq: float
    tp: int
    fp: int
    fn: int
    iou: float


@dataclass(frozen=True, slots=True)
class GroupScore:
    """Means over the classes of a group.

    Attributes:
        pq: Mean panoptic quality; None where no class was counted, as for the next two.
        sq: Mean segmentation quality.
        rq: Mean recognition quality.
        n: Number of classes counted.
    """

    pq: float | None
    sq: float | None
    rq: float | None
    n: int


@dataclass(frozen=True, slots=True)
class Score:
    """Panoptic quality of a set of pictures, as fractions.

    Attributes:
        pq: Mean panoptic quality of all classes; None where nothing at all was counted, as for the next two.
        sq: Mean segmentation quality.
        rq: Mean recognition quality.
        n: Number of classes counted.
        things: Means over thing classes, or None where the label set has none.
        stuff: Means over stuff classes, or None where the label set has none.
        per_class: By category id, in the order in which classes were averaged.
    """

    pq: float | None
    sq: float | None
    rq: float | None
    n: int
    things: GroupScore | None
    stuff: GroupScore | None
    per_class: Mapping[int, ClassScore]

    def to_json(self) -> dict[str, Any]:
        """The score as JSON holds it: groups as objects or null, ``per_class`` as a list."""
        return {
            "pq": self.pq,
            "sq": self.sq,
            "rq": self.rq,
            "n": self.n,
            "things": self.things and asdict(self.things),
            "stuff": self.stuff and asdict(self.stuff),
            "per_class": [asdict(score) for score in self.per_class.values()],
        }


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
    return match_segments(truth.segments, prediction.segments, overlaps, picture=picture)


def count_overlaps(
    truth_ids: Int32[np.ndarray, "H W"], predicted_ids: Int32[np.ndarray, "_ _"], *, picture: str = "picture"
) -> Overlaps:
    """Count the pixels that each true id shares with each predicted id.

    Neighbouring pixels mostly agree, so horizontal runs are counted instead of pixels.

    Args:
        truth_ids: No id is negative.
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
    truth, predicted = truth_ids.ravel(), predicted_ids.ravel()
    starts_run = np.ones(truth.size, dtype=bool)
    starts_run[1:] = (truth[1:] != truth[:-1]) | (predicted[1:] != predicted[:-1])
    starts = np.flatnonzero(starts_run)
    lengths = np.diff(starts, append=truth.size)
    keys = truth[starts].astype(np.int64) << 32 | predicted[starts]
    # Sorting the keys and looking them up again is twice as fast as the inverse of np.unique, which sorts indices.
    pairs = np.unique(keys)
    areas = np.bincount(np.searchsorted(pairs, keys), weights=lengths, minlength=pairs.size).astype(np.int64)
    return Overlaps(pairs >> 32, pairs & 0xFFFFFFFF, areas)


def match_segments(
    truth: Sequence[Segment], predicted: Sequence[Segment], overlaps: Overlaps, *, picture: str = "picture"
) -> PictureMatch:
    """Apply the matching rules to the segments of one picture.

    Like panopticapi, it treats a listed id 0 as any segment, and of several segments with one id uses the last.

    Args:
        truth: Segments of the true map, areas trusted.
        predicted: Segments of the predicted map, areas ignored.
        overlaps: Of the two maps.
        picture: What to call the picture in messages.

    Raises:
        InputError: The predicted map and its segments do not list the same ids.
    """
    areas: Counter[int] = Counter()
    shared: dict[tuple[int, int], int] = {}
    for true_id, predicted_id, area in zip(
        overlaps.truth_ids.tolist(), overlaps.predicted_ids.tolist(), overlaps.areas.tolist(), strict=True
    ):
        shared[true_id, predicted_id] = area
        areas[predicted_id] += area
    true_by_id = {segment.id: segment for segment in truth}
    predicted_by_id = {segment.id: segment for segment in predicted}
    _check_listed(predicted_by_id.keys(), areas.keys(), picture)
    pairs = tuple(_matched_pairs(true_by_id, predicted_by_id, shared, areas))
    found = {pair.truth_id for pair in pairs}
    used = {pair.predicted_id for pair in pairs}
    crowds = {segment.category_id: segment.id for segment in true_by_id.values() if segment.iscrowd}
    unmatched = [segment for segment in predicted_by_id.values() if segment.id not in used]
    return PictureMatch(
        pairs,
        tuple(segment.category_id for segment in unmatched if not _is_excused(segment, crowds, shared, areas)),
        tuple(s.category_id for s in true_by_id.values() if not s.iscrowd and s.id not in found),
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
    truth: Mapping[int, Segment],
    predicted: Mapping[int, Segment],
    shared: Mapping[tuple[int, int], int],
    areas: Mapping[int, int],
) -> Iterator[MatchedPair]:
    for (true_id, predicted_id), area in shared.items():
        segment, candidate = truth.get(true_id), predicted.get(predicted_id)
        if segment is None or candidate is None or segment.iscrowd or segment.category_id != candidate.category_id:
            continue
        union = areas[predicted_id] + segment.area - area - shared.get((VOID_ID, predicted_id), 0)
        # Only a wrong true area leaves no union; the reference divides by zero in floating point there.
        iou = area / union if union else math.inf
        if iou > 0.5:
            yield MatchedPair(true_id, predicted_id, segment.category_id, iou)


def _is_excused(
    segment: Segment, crowds: Mapping[int, int], shared: Mapping[tuple[int, int], int], areas: Mapping[int, int]
) -> bool:
    """Whether an unmatched prediction lies mostly where nothing can be said about it."""
    excused = shared.get((VOID_ID, segment.id), 0)
    if segment.category_id in crowds:
        excused += shared.get((crowds[segment.category_id], segment.id), 0)
    return excused / areas[segment.id] > 0.5


def panoptic_quality(matches: Iterable[PictureMatch], labels: LabelSet, *, reference_cores: int = 1) -> Score:
    """Average over pictures and classes, classes by ascending category id as COCO lists them.

    Args:
        matches: In the order of the pictures.
        labels: The classes.
        reference_cores: Add in the order in which panopticapi adds on a machine with that many cores. The last bits
            of its result depend on it.

    Raises:
        InputError: A counted segment's category is not in the label set, or ``reference_cores`` is below 1.
    """
    counts = count_classes(matches, reference_cores=reference_cores)
    if unknown := counts.keys() - labels.index.keys():
        raise InputError(
            f"segments have category {min(unknown)}, which is not among the {len(labels)} classes of the label set; "
            "use its category ids in truth and predictions"
        )
    return average_classes(counts, sorted(labels.categories, key=lambda category: category.id))


def count_classes(matches: Iterable[PictureMatch], *, reference_cores: int = 1) -> dict[int, ClassCounts]:
    """Add up what the pictures contribute to each category, in the order of panopticapi on so many cores.

    Args:
        matches: In the order of the pictures.
        reference_cores: Its number of worker processes: each adds up one contiguous chunk of the pictures.

    Returns:
        By category id; categories of which nothing was counted are absent.

    Raises:
        InputError: ``reference_cores`` is below 1.
    """
    if reference_cores < 1:
        raise InputError(f"reference_cores is {reference_cores}; give the number of cores to imitate, at least 1")
    pictures = list(matches)
    total: dict[int, ClassCounts] = {}
    for chunk in np.array_split(np.arange(len(pictures)), reference_cores):
        for category_id, counts in _count_chunk(pictures[index] for index in chunk).items():
            so_far = total.get(category_id, ClassCounts())
            total[category_id] = ClassCounts(*(a + b for a, b in zip(astuple(so_far), astuple(counts), strict=True)))
    return total


def _count_chunk(pictures: Iterable[PictureMatch]) -> dict[int, ClassCounts]:
    tp: Counter[int] = Counter()
    fp: Counter[int] = Counter()
    fn: Counter[int] = Counter()
    # Added one by one: `sum` compensates rounding from Python 3.12 on, which changes the last bits.
    iou: defaultdict[int, float] = defaultdict(float)
    for picture in pictures:
        for pair in picture.pairs:
            tp[pair.category_id] += 1
            iou[pair.category_id] += pair.iou
        fp.update(picture.false_positives)
        fn.update(picture.false_negatives)
    return {
        category_id: ClassCounts(tp[category_id], fp[category_id], fn[category_id], iou[category_id])
        for category_id in tp.keys() | fp.keys() | fn.keys()
    }


def average_classes(counts: Mapping[int, ClassCounts], categories: Iterable[Category]) -> Score:
    """Average what was counted over all classes, things and stuff.

    Args:
        counts: By category id. Those of no category listed are ignored, as panopticapi does.
        categories: In the order to add them; panopticapi follows the order of the truth's JSON file.
    """
    per_class = {c.id: _score_class(c, counts.get(c.id, ClassCounts())) for c in categories}
    things = [score for score in per_class.values() if score.isthing]
    stuff = [score for score in per_class.values() if not score.isthing]
    everything = _average(per_class.values())
    return Score(
        pq=everything.pq,
        sq=everything.sq,
        rq=everything.rq,
        n=everything.n,
        things=_average(things) if things else None,
        stuff=_average(stuff) if stuff else None,
        per_class=per_class,
    )


def _score_class(category: Category, counts: ClassCounts) -> ClassScore:
    tp, fp, fn, iou = counts.tp, counts.fp, counts.fn, counts.iou
    segments = tp + 0.5 * fp + 0.5 * fn
    return ClassScore(
        category_id=category.id,
        name=category.name,
        isthing=category.isthing,
        pq=iou / segments if segments else 0.0,
        sq=iou / tp if tp else 0.0,
        rq=tp / segments if segments else 0.0,
        tp=tp,
        fp=fp,
        fn=fn,
        iou=iou,
    )


def _average(scores: Iterable[ClassScore]) -> GroupScore:
    pq = sq = rq = 0.0
    n = 0
    for score in scores:
        if score.tp + score.fp + score.fn:
            pq, sq, rq, n = pq + score.pq, sq + score.sq, rq + score.rq, n + 1
    return GroupScore(pq / n, sq / n, rq / n, n) if n else GroupScore(None, None, None, 0)
