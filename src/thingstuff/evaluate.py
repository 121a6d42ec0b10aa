"""A model meets a data set: every picture is predicted, compared with its truth and counted."""

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from jaxtyping import UInt8

from thingstuff.data.coco import panoptic_truth
from thingstuff.data.loader import PictureSource
from thingstuff.errors import InputError
from thingstuff.evaluation import ap
from thingstuff.evaluation.miou import MeanIou, confusion_matrix, mean_iou
from thingstuff.evaluation.pq import PictureMatch, Score, match_picture, panoptic_quality
from thingstuff.labels import LabelSet, find_difference
from thingstuff.predict import Model
from thingstuff.recipe_model import TTAConfig
from thingstuff.result import Result
from thingstuff.structures import VOID_LABEL, Panoptic, Sample


@dataclass(frozen=True, slots=True)
class PictureEvaluation:
    """One picture, predicted and compared.

    Attributes:
        sample: The picture and its truth.
        truth: The truth as a panoptic map.
        result: What the model sees.
        match: How the panoptic maps compare; None if the model makes none.
        seconds: Time of the prediction.
    """

    sample: Sample
    truth: Panoptic
    result: Result
    match: PictureMatch | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How good a model is on a data set; what it does not do is None.

    Attributes:
        panoptic: Panoptic quality.
        box: Average precision of boxes.
        mask: Average precision of masks.
        semantic: Mean IoU of the semantic branch, in the order of its outputs.
        pictures: Number of pictures judged.
        seconds: Median time of a prediction.
        skipped: What was wrong with the pictures left out.
        tta: Settings of the test-time augmentation; None: one look at each picture.
    """

    panoptic: Score | None
    box: ap.AveragePrecision | None
    mask: ap.AveragePrecision | None
    semantic: MeanIou | None
    pictures: int
    seconds: float
    skipped: tuple[str, ...] = ()
    tta: TTAConfig | None = None

    def to_json(self) -> dict[str, Any]:
        """The numbers as fractions; panoptic quality at the top, as everywhere in this package."""
        values: dict[str, Any] = {} if self.panoptic is None else self.panoptic.to_json()
        for name, record in (("box_ap", self.box), ("mask_ap", self.mask), ("semantic", self.semantic)):
            if record is not None:
                values[name] = asdict(record)
        return values | {
            "pictures": self.pictures,
            "seconds_per_picture": self.seconds,
            "skipped": list(self.skipped),
            "tta": None if self.tta is None else self.tta.model_dump(mode="json"),
        }

    def headline(self) -> float:
        """The one number that decides which checkpoint is best: PQ, else mask AP, box AP or mean IoU."""
        candidates = (
            self.panoptic and self.panoptic.pq,
            self.mask and self.mask.ap,
            self.box and self.box.ap,
            self.semantic and self.semantic.miou,
        )
        return next((float(value) for value in candidates if value is not None), 0.0)


@dataclass
class Tally:
    """Collects what the numbers of an evaluation are made of, picture by picture.

    Attributes:
        labels: The classes.
        with_ap: Also collect what average precision needs.
        tta: Settings of the test-time augmentation, to be written down; None: one look at each picture.
    """

    labels: LabelSet
    with_ap: bool
    tta: TTAConfig | None = None
    matches: list[PictureMatch] = field(default_factory=list)
    truths: list[ap.TruthInstances] = field(default_factory=list)
    detections: list[ap.Detections] = field(default_factory=list)
    confusion: np.ndarray | None = None
    seconds: list[float] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def add(self, picture: PictureEvaluation) -> None:
        """Count one picture."""
        self.seconds.append(picture.seconds)
        if picture.match is not None:
            self.matches.append(picture.match)
        if self.with_ap and picture.result.instances is not None:
            self.truths.append(ap.truth_instances(picture.truth))
            self.detections.append(_detections(picture.result))
        predicted = picture.result.semantic_indices()
        if predicted is not None:
            num_classes = picture.result.num_semantic_classes()
            truth = _semantic_truth(picture.sample, num_classes)
            confusion = confusion_matrix(truth, predicted, num_classes, picture=picture.sample.file_name)
            self.confusion = confusion if self.confusion is None else self.confusion + confusion

    def merge(self, others: Iterable["Tally"]) -> "Tally":
        """One tally of what several processes counted."""
        merged = Tally(self.labels, self.with_ap, self.tta)
        for other in (self, *others):
            for name in ("matches", "truths", "detections", "seconds", "skipped"):
                getattr(merged, name).extend(getattr(other, name))
            if other.confusion is not None:
                merged.confusion = other.confusion if merged.confusion is None else merged.confusion + other.confusion
        return merged

    def evaluation(self) -> Evaluation:
        """The numbers."""
        box = mask = None
        if self.truths:
            box = ap.average_precision(self.truths, self.detections, self.labels, kind="box")
            if all(found.masks is not None for found in self.detections):
                mask = ap.average_precision(self.truths, self.detections, self.labels, kind="mask")
        return Evaluation(
            panoptic=panoptic_quality(self.matches, self.labels) if self.matches else None,
            box=box,
            mask=mask,
            semantic=None if self.confusion is None else mean_iou(self.confusion),
            pictures=len(self.seconds),
            seconds=float(np.median(self.seconds)) if self.seconds else 0.0,
            skipped=tuple(self.skipped),
            tta=self.tta,
        )


def evaluate_pictures(
    model: Model,
    source: PictureSource,
    indices: Iterable[int],
    *,
    with_ap: bool,
    skip_damaged: bool = False,
    on_picture: Callable[[PictureEvaluation], None] | None = None,
) -> Tally:
    """Predict pictures of a data set at their own size and compare them with the truth.

    Args:
        model: Whose classes are those of the data set (see ``check_labels``).
        source: The data set.
        indices: Which pictures.
        with_ap: Also compare instances, as COCO does.
        skip_damaged: Leave pictures out that cannot be read, and list them, instead of stopping.
        on_picture: Called with every picture.

    Raises:
        InputError: A picture or its annotation is damaged.
    """
    tally = Tally(model.labels, with_ap, model.tta)
    for index in indices:
        try:
            sample = source.read(index)
        except InputError as error:
            if not skip_damaged:
                raise
            tally.skipped.append(str(error))
            continue
        started = time.perf_counter()
        result = model(sample.image)
        seconds = time.perf_counter() - started
        truth = panoptic_truth(sample, model.labels)
        match = None
        if result.panoptic is not None:
            match = match_picture(truth, result.panoptic, picture=sample.file_name)
        picture = PictureEvaluation(sample, truth, result, match, seconds)
        tally.add(picture)
        if on_picture is not None:
            on_picture(picture)
    return tally


def check_labels(model: LabelSet, data: LabelSet, where: str) -> None:
    """See that a model and a data set speak of the same classes.

    Raises:
        InputError: A class differs.
    """
    if difference := find_difference(model, data):
        identity, ours, theirs = difference
        raise InputError(
            f"{where}: category {identity} is {ours} in the model and {theirs} in the data; "
            "evaluate a model on the classes it was trained on"
        )


def _detections(result: Result) -> ap.Detections:
    found = result.instances
    assert found is not None
    masks = None
    if found.mask_probabilities is not None:
        # One at a time: all full-size masks of a picture at once would be its largest piece of memory.
        masks = tuple(ap.encode_masks(found.mask(row)[None])[0] for row in range(len(found)))
    return ap.Detections(found.boxes.astype(np.float64), found.scores.astype(np.float64), found.category_ids, masks)


def _semantic_truth(sample: Sample, num_classes: int) -> UInt8[np.ndarray, "H W"]:
    """Truth in terms of the semantic branch: things are its last class where it merges them."""
    truth = sample.truth
    assert truth is not None
    table = np.full(1 + max((segment.id for segment in truth.segments), default=0), VOID_LABEL, dtype=np.uint8)
    for segment in truth.segments:
        table[segment.id] = min(segment.label, num_classes - 1)
    return table[truth.ids]
