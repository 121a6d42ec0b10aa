"""Which of two models is better, by how much, how sure that is, and where each loses.

Differences are the second model minus the first; how sure they are, ``bootstrap`` finds.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from thingstuff.errors import InputError
from thingstuff.evaluation.bootstrap import bootstrap_differences
from thingstuff.evaluation.documents import Listing, read_predictions, read_truth
from thingstuff.evaluation.files import Progress, compare_pictures, load_extra
from thingstuff.evaluation.losses import CAUSES, Cause, Change, mend
from thingstuff.evaluation.pictures import ComparedPicture
from thingstuff.evaluation.pq import ClassCounts, GroupScore, PictureMatch, Score, average_classes, count_classes
from thingstuff.evaluation.problems import CountedWarning, Problems, count_warnings
from thingstuff.evaluation.table import Spread, difference_table
from thingstuff.labels import Category


@dataclass(frozen=True, slots=True)
class Difference:
    """How much larger a number of the second model is, as fractions of 1.

    Attributes:
        value: On all pictures; None where the number does not exist for one of them, as for the other attributes.
        low: Lower end of the confidence interval.
        high: Upper end of the confidence interval.
        better: Share of the resampled data sets on which the second model is better; draws count half.
    """

    value: float | None
    low: float | None
    high: float | None
    better: float | None

    def spread(self) -> Spread:
        """As the tables take it."""
        return self.value, self.low, self.high, self.better


@dataclass(frozen=True, slots=True)
class GroupDifference:
    """Differences of a class or of a group of classes.

    Attributes:
        name: Of the class; ``all``, ``things`` or ``stuff``.
        pq: Panoptic quality.
        sq: Segmentation quality.
        rq: Recognition quality.
    """

    name: str
    pq: Difference
    sq: Difference
    rq: Difference


@dataclass(frozen=True, slots=True)
class PictureQuality:
    """Both models on one picture: IoU of all pairs over ``tp + fp / 2 + fn / 2``, all classes together.

    Attributes:
        image_id: The data set's own id.
        a: Of the first model; None if nothing was counted.
        b: Of the second model.
    """

    image_id: int | str
    a: float | None
    b: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models on the same pictures.

    Attributes:
        a: Score of the first model.
        b: Score of the second model.
        groups: Differences of all classes, things and stuff; a group without classes is left out.
        per_class: Differences by category id.
        losses_a: PQ that the first model would gain if one cause of errors were mended (see ``losses``).
        losses_b: The same of the second model.
        pictures: In the order of the truth.
        resamples: How many data sets were drawn.
        confidence: Of the intervals.
        warnings: What was wrong with the files and did not stop the comparison.
    """

    a: Score
    b: Score
    groups: tuple[GroupDifference, ...]
    per_class: Mapping[int, GroupDifference]
    losses_a: Mapping[Cause, float]
    losses_b: Mapping[Cause, float]
    pictures: tuple[PictureQuality, ...]
    resamples: int
    confidence: float
    warnings: tuple[CountedWarning, ...]

    def table(self) -> str:
        """The numbers in percent, for people."""
        groups = (*self.groups, *self.per_class.values())
        rows = [(group.name, group.pq.spread(), group.sq.spread(), group.rq.spread()) for group in groups]
        losses = [(cause, self.losses_a[cause], self.losses_b[cause]) for cause in CAUSES]
        return difference_table((self.a.pq, self.b.pq), rows, losses, self.confidence)

    def to_json(self) -> dict[str, Any]:
        """The numbers as fractions, for machines."""
        return {
            "a": self.a.to_json(),
            "b": self.b.to_json(),
            "differences": [asdict(group) for group in self.groups],
            "per_class": [{"category_id": key, **asdict(group)} for key, group in self.per_class.items()],
            "losses": {"a": dict(self.losses_a), "b": dict(self.losses_b)},
            "pictures": [asdict(picture) for picture in self.pictures],
            "resamples": self.resamples,
            "confidence": self.confidence,
            "warnings": [asdict(warning) for warning in self.warnings],
        }


def compare(
    a: Path | str,
    b: Path | str,
    gt: Path | str,
    *,
    a_folder: Path | str | None = None,
    b_folder: Path | str | None = None,
    gt_folder: Path | str | None = None,
    workers: int | None = None,
    lenient: bool = False,
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
    progress: Progress | None = None,
) -> Comparison:
    """Compare the predictions of two models in the COCO panoptic format.

    Args:
        a: JSON file of the first model's predictions.
        b: JSON file of the second model's predictions.
        gt: JSON file of the truth.
        a_folder: PNG files of the first; by default the path of the JSON file without its suffix.
        b_folder: PNG files of the second; by default the path of the JSON file without its suffix.
        gt_folder: PNG files of the truth; by default the path of the JSON file without its suffix.
        workers: Threads that read pictures; by default one for each processor core.
        lenient: Recount or leave out what is wrong in the files, and warn.
        resamples: Data sets to draw for the confidence intervals.
        confidence: Of the intervals, over 0 and below 1.
        seed: Of the draws.
        progress: Is given the pictures to go through and their number, and shows how far it is.

    Raises:
        InputError: A file is missing or wrong, or an option does not fit.
    """
    _check_options(resamples, confidence)
    problems = Problems(lenient)
    truth = read_truth(Path(gt), None if gt_folder is None else Path(gt_folder), problems)
    models = []
    for path, folder in ((a, a_folder), (b, b_folder)):
        predicted = read_predictions(Path(path), None if folder is None else Path(folder), truth, problems)
        models.append(_Tally.read(truth, predicted, workers, problems, progress))
    first, second = models
    scores = [average_classes(count_classes(model.matches), truth.categories) for model in models]
    draws = bootstrap_differences(first.counts, second.counts, truth.categories, resamples, seed)
    all_groups = _differences(scores, draws, truth.categories, confidence)
    present = {"all": True, "things": scores[0].things is not None, "stuff": scores[0].stuff is not None}
    return Comparison(
        a=scores[0],
        b=scores[1],
        groups=tuple(group for group in all_groups[:3] if present[group.name]),
        per_class={category.id: group for category, group in zip(truth.categories, all_groups[3:], strict=True)},
        losses_a=first.losses(truth.categories, scores[0]),
        losses_b=second.losses(truth.categories, scores[1]),
        pictures=tuple(_qualities(first, second)),
        resamples=resamples,
        confidence=confidence,
        warnings=count_warnings(problems.found),
    )


def _check_options(resamples: int, confidence: float) -> None:
    if resamples < 1:
        raise InputError(f"resamples is {resamples}; draw at least 1, better 10000")
    if not 0 < confidence < 1:
        raise InputError(f"confidence is {confidence}; give a fraction between 0 and 1, for example 0.95")


def _differences(
    scores: Sequence[Score],
    draws: Float[np.ndarray, "groups 3 resamples"],
    categories: Sequence[Category],
    confidence: float,
) -> list[GroupDifference]:
    """All, things, stuff, then every class."""
    first, second = (_exact(score, categories) for score in scores)
    names = ["all", "things", "stuff", *(category.name for category in categories)]
    return [
        GroupDifference(
            name, *(_difference(value, drawn, confidence) for value, drawn in zip(values, own, strict=True))
        )
        for name, values, own in zip(names, (second - first).tolist(), draws, strict=True)
    ]


class _Judged(NamedTuple):
    match: PictureMatch
    changes: dict[Cause, list[Change]]


def _judge(compared: ComparedPicture) -> _Judged:
    return _Judged(compared.match(), mend(compared))


@dataclass(frozen=True, slots=True)
class _Tally:
    """What one model did in all pictures.

    Attributes:
        image_ids: The pictures.
        matches: Of each.
        counts: IoU, tp, fp and fn of each picture and class.
        gains: What mending changes in them altogether, by cause.
    """

    image_ids: list[int | str]
    matches: list[PictureMatch]
    counts: Float[np.ndarray, "pictures classes 4"]
    gains: dict[Cause, Float[np.ndarray, "classes 4"]]

    @classmethod
    def read(
        cls, truth: Listing, predicted: Listing, workers: int | None, problems: Problems, progress: Progress | None
    ) -> "_Tally":
        rows = {category.id: row for row, category in enumerate(truth.categories)}
        counts = np.zeros((len(truth.pictures), len(rows), 4), dtype=np.float32)
        tally = cls([], [], counts, {cause: np.zeros((len(rows), 4)) for cause in CAUSES})
        extra = load_extra(len(truth.pictures), None)
        judged = compare_pictures(truth, predicted, _judge, extra, workers, problems)
        watched = judged if progress is None else progress(judged, len(truth.pictures))
        for image_id, answer in zip(truth.pictures, watched, strict=True):
            if answer is not None:
                tally.add(image_id, answer, rows)
        return cls(tally.image_ids, tally.matches, counts[: len(tally.matches)], tally.gains)

    def add(self, image_id: int | str, judged: _Judged, rows: Mapping[int, int]) -> None:
        own = self.counts[len(self.matches)]
        self.image_ids.append(image_id)
        self.matches.append(judged.match)
        for pair in judged.match.pairs:
            own[rows[pair.category_id], :2] += (pair.iou, 1)
        for column, categories in ((2, judged.match.false_positives), (3, judged.match.false_negatives)):
            for category in categories:
                own[rows[category], column] += 1
        for cause, changes in judged.changes.items():
            for change in changes:
                self.gains[cause][rows[change.category_id]] += (change.iou, change.tp, change.fp, change.fn)

    def losses(self, categories: Sequence[Category], score: Score) -> dict[Cause, float]:
        """PQ regained by mending each cause."""
        regained = {}
        for cause, gains in self.gains.items():
            mended = {}
            for category, (iou, tp, fp, fn) in zip(categories, gains.tolist(), strict=True):
                own = score.per_class[category.id]
                numbers = (own.tp + round(tp), own.fp + round(fp), own.fn + round(fn))
                mended[category.id] = ClassCounts(*numbers, own.iou + iou)
            regained[cause] = (average_classes(mended, categories).pq or 0.0) - (score.pq or 0.0)
        return regained


def _exact(score: Score, categories: Iterable[Category]) -> Float[np.ndarray, "groups 3"]:
    """The same numbers of the whole data set, from the score."""
    undefined = GroupScore(None, None, None, 0)
    groups = [GroupScore(score.pq, score.sq, score.rq, score.n), score.things or undefined, score.stuff or undefined]
    rows: list[tuple[float | None, ...]] = [(group.pq, group.sq, group.rq) for group in groups]
    for category in categories:
        own = score.per_class[category.id]
        rows.append((own.pq, own.sq, own.rq) if own.tp + own.fp + own.fn else (None, None, None))
    return np.array(rows, dtype=np.float64)


def _difference(value: float, draws: Float[np.ndarray, " n"], confidence: float) -> Difference:
    draws = draws[~np.isnan(draws)]
    if np.isnan(value) or not draws.size:
        return Difference(None, None, None, None)
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2]).tolist()
    better = float((draws > 0).mean() + (draws == 0).mean() / 2)
    return Difference(float(value), low, high, better)


def _qualities(first: _Tally, second: _Tally) -> Iterable[PictureQuality]:
    for image_id, *counts in zip(first.image_ids, first.counts.sum(1), second.counts.sum(1), strict=True):
        yield PictureQuality(image_id, _quality(counts[0]), _quality(counts[1]))


def _quality(counts: Float[np.ndarray, " 4"] | Int[np.ndarray, " 4"]) -> float | None:
    iou, tp, fp, fn = counts.tolist()
    return iou / (tp + fp / 2 + fn / 2) if tp + fp + fn else None
