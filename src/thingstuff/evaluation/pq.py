"""Panoptic quality, equal to the reference evaluator panopticapi to the last bit.

``match_picture`` (see ``matching``) says what one picture contributes, ``panoptic_quality`` averages over pictures and
classes. A ``PictureMatch`` is plain data: gather them from any number of processes, put them in the order of the
pictures and average once. A class with nothing to count is left out of the averages; a class with false positives alone
counts with 0.

Sources: Kirillov et al. 2019, "Panoptic Segmentation" (arXiv 1801.00868), section 4; cocodataset/panopticapi
``evaluation.py`` at commit 7bb4655.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, astuple, dataclass
from typing import Any

import numpy as np

from thingstuff.errors import InputError
from thingstuff.evaluation.matching import MatchedPair, PictureMatch, count_overlaps, match_picture
from thingstuff.evaluation.problems import CountedWarning
from thingstuff.labels import Category, LabelSet

__all__ = [
    "ClassCounts",
    "ClassScore",
    "GroupScore",
    "MatchedPair",
    "PictureMatch",
    "Score",
    "average_classes",
    "count_classes",
    "count_overlaps",
    "match_picture",
    "panoptic_quality",
]


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
        warnings: What was wrong with the files that were scored, if any were.
    """

    pq: float | None
    sq: float | None
    rq: float | None
    n: int
    things: GroupScore | None
    stuff: GroupScore | None
    per_class: Mapping[int, ClassScore]
    warnings: tuple[CountedWarning, ...] = ()

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
