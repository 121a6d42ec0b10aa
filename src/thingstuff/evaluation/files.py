"""Scores of predictions in files: COCO panoptic JSON with folders of PNG files, written by any tool.

Pictures are read one after the other (by several threads at once), compared and forgotten; only what was counted stays.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from thingstuff.errors import InputError
from thingstuff.evaluation import ap, fast
from thingstuff.evaluation.documents import ListedPicture, Listing, read_predictions, read_truth
from thingstuff.evaluation.emulation import emulate
from thingstuff.evaluation.miou import MeanIou, mean_iou
from thingstuff.evaluation.pictures import ComparedPicture, compare_picture
from thingstuff.evaluation.pq import PictureMatch, Score, average_classes, count_classes
from thingstuff.evaluation.problems import CountedWarning, Problems, count_warnings
from thingstuff.evaluation.table import TableStyle, cityscapes_table, score_table
from thingstuff.evaluation.variants import Rules, confusion_of, instances_of, match_by_rules
from thingstuff.labels import Category, LabelSet

Progress = Callable[[Iterable[Any], int], Iterable[Any]]
"""Goes through items, of which there are so many, and shows how far it is."""
_FEW_PICTURES = 100
"""Up to so many pictures are scored sooner than the compiled code is loaded."""
_CHUNK = 8
"""Pictures that a thread takes at once."""


@dataclass(frozen=True, slots=True)
class FileScore:
    """What was found in the files.

    Attributes:
        panoptic: Panoptic quality.
        semantic: Mean IoU of the classes of all pixels, if it was asked for; classes as in ``LabelSet``.
        box: Average precision of the boxes of things, if it was asked for.
        mask: Average precision of the masks of things, if it was asked for.
        pictures: Number of pictures counted.
        warnings: What was wrong with the files and did not stop the scoring.
        loading_seconds: Processor time for loading the extra ``[fast]``; some seconds the first time on a computer.
    """

    panoptic: Score
    semantic: MeanIou | None
    box: ap.AveragePrecision | None
    mask: ap.AveragePrecision | None
    pictures: int
    warnings: tuple[CountedWarning, ...]
    loading_seconds: float

    def table(self, style: TableStyle = "plain") -> str:
        """The numbers in percent, class by class, for people.

        Args:
            style: ``cityscapes`` for the layout of that data set's own script: classes first, without counts.
        """
        if style == "cityscapes":
            return cityscapes_table(self.panoptic)
        named = (("mIoU", self.semantic and self.semantic.miou), ("box AP", self.box and self.box.ap))
        others = (*named, ("mask AP", self.mask and self.mask.ap))
        wanted = (self.semantic, self.box, self.mask)
        lines = [
            f"{name} {'-' if value is None else f'{100 * value:.1f}'}"
            for (name, value), record in zip(others, wanted, strict=True)
            if record is not None
        ]
        return "\n".join((score_table(self.panoptic), *([""] if lines else []), *lines))

    def to_json(self) -> dict[str, Any]:
        """The numbers as fractions, for machines."""
        warnings = [{"kind": w.kind, "count": w.count, "example": w.example} for w in self.warnings]
        records = (("semantic", self.semantic), ("box_ap", self.box), ("mask_ap", self.mask))
        others = {name: asdict(record) for name, record in records if record is not None}
        return self.panoptic.to_json() | others | {"pictures": self.pictures, "warnings": warnings}


def score(
    gt: Path | str,
    pred: Path | str,
    *,
    gt_folder: Path | str | None = None,
    pred_folder: Path | str | None = None,
    workers: int | None = None,
    reference_cores: int = 1,
    lenient: bool = False,
    emulate_panopticapi: bool = False,
) -> Score:
    """Panoptic quality of predictions in the COCO panoptic format, whichever tool wrote them.

    The result equals panopticapi's to the last bit, but the truth is checked instead of trusted: its areas are
    recounted, and whatever is wrong in the files is an error that names file, segment and remedy.

    Args:
        gt: JSON file of the truth.
        pred: JSON file of the predictions.
        gt_folder: PNG files of the truth; by default the path of the JSON file without its suffix.
        pred_folder: PNG files of the predictions; by default the path of the JSON file without its suffix.
        workers: Threads that read pictures; by default one for each processor core.
        reference_cores: Add in the order in which panopticapi adds on a machine with that many cores.
        lenient: Recount or leave out what is wrong in the files; ``warnings`` of the result say what, and how often.
        emulate_panopticapi: Give panopticapi's answer whatever it is, and its error as an ``InputError``; slower.

    Raises:
        InputError: A file is missing or wrong, or an option does not fit.
    """
    result = score_files(
        gt,
        pred,
        gt_folder=gt_folder,
        pred_folder=pred_folder,
        workers=workers,
        reference_cores=reference_cores,
        lenient=lenient,
        emulate_panopticapi=emulate_panopticapi,
    )
    return replace(result.panoptic, warnings=result.warnings)


def score_files(
    gt: Path | str,
    pred: Path | str,
    *,
    gt_folder: Path | str | None = None,
    pred_folder: Path | str | None = None,
    workers: int | None = None,
    reference_cores: int = 1,
    lenient: bool = False,
    emulate_panopticapi: bool = False,
    rules: Rules = "panopticapi",
    with_miou: bool = False,
    with_ap: bool = False,
    progress: Progress | None = None,
    use_fast: bool | None = None,
) -> FileScore:
    """``score`` with everything else that is wanted of the same files, in one pass.

    Args:
        gt: See ``score``, as for all that is not described here.
        pred: See there.
        gt_folder: See there.
        pred_folder: See there.
        workers: See there.
        reference_cores: See there.
        lenient: See there.
        emulate_panopticapi: See there.
        rules: How segments are matched: ``panopticapi``, or one of the ``variants``.
        with_miou: Mean IoU too, of the classes that the segments give to the pixels.
        with_ap: Average precision too, of the things, ranked by the ``score`` in their ``segments_info``.
        progress: Is given the pictures to go through and their number, and shows how far it is.
        use_fast: Use the extra ``[fast]``; by default where it is installed and there are enough pictures to gain.

    Raises:
        InputError: A file is missing or wrong, or an option does not fit.
    """
    if emulate_panopticapi:
        if lenient or rules != "panopticapi" or with_miou or with_ap:
            raise InputError("emulate_panopticapi excludes lenient, rules, with_miou and with_ap; leave them out")
        emulated, pictures = emulate(Path(gt), Path(pred), gt_folder, pred_folder, reference_cores, progress)
        return FileScore(emulated, None, None, None, pictures, (), 0.0)
    problems = Problems(lenient)
    truth = read_truth(Path(gt), _path(gt_folder), problems)
    predicted = read_predictions(Path(pred), _path(pred_folder), truth, problems)
    extra = load_extra(len(truth.pictures), use_fast)
    judge = _Judge(_label_set(truth.categories), rules, with_miou, with_ap)
    judged = compare_pictures(truth, predicted, judge, extra, workers, problems)
    watched = judged if progress is None else progress(judged, len(truth.pictures))
    tally = _Tally(judge.labels)
    for judgement in filter(None, watched):
        tally.add(judgement)
    return FileScore(
        average_classes(count_classes(tally.matches, reference_cores=reference_cores), truth.categories),
        mean_iou(tally.confusion) if with_miou else None,
        tally.average_precision("box") if with_ap else None,
        tally.average_precision("mask") if with_ap else None,
        len(tally.matches),
        count_warnings(problems.found),
        0.0 if extra is None else extra.seconds,
    )


class _Judgement(NamedTuple):
    match: PictureMatch
    confusion: np.ndarray | None
    instances: tuple[ap.TruthInstances, ap.Detections] | None


class _Judge(NamedTuple):
    """What is wanted of each picture."""

    labels: LabelSet
    rules: Rules
    with_miou: bool
    with_ap: bool

    def __call__(self, compared: ComparedPicture) -> _Judgement:
        return _Judgement(
            match_by_rules(compared, self.labels, self.rules),
            confusion_of(compared, self.labels) if self.with_miou else None,
            instances_of(compared, self.labels) if self.with_ap else None,
        )


class _Tally:
    """What was counted in the pictures so far."""

    def __init__(self, labels: LabelSet) -> None:
        self.labels = labels
        self.matches: list[PictureMatch] = []
        self.truths: list[ap.TruthInstances] = []
        self.detections: list[ap.Detections] = []
        self.confusion = np.zeros((len(labels), len(labels) + 1), dtype=np.int64)

    def add(self, judgement: _Judgement) -> None:
        self.matches.append(judgement.match)
        if judgement.confusion is not None:
            self.confusion += judgement.confusion
        if judgement.instances is not None:
            self.truths.append(judgement.instances[0])
            self.detections.append(judgement.instances[1])

    def average_precision(self, kind: Literal["box", "mask"]) -> ap.AveragePrecision:
        return ap.average_precision(self.truths, self.detections, self.labels, kind=kind)


def _label_set(categories: Iterable[Category]) -> LabelSet:
    """The categories in class order."""
    return LabelSet(tuple(sorted(categories, key=lambda category: (category.isthing, category.id))))


def load_extra(num_pictures: int, use_fast: bool | None) -> fast.Fast | None:
    """The extra ``[fast]``, if it is wanted or worth its loading.

    Raises:
        InputError: It is wanted and not installed.
    """
    if use_fast is None:
        return fast.load() if num_pictures > _FEW_PICTURES else None
    extra = fast.load() if use_fast else None
    if use_fast and extra is None:
        raise InputError("use_fast needs the extra, which is not installed; run: pip install 'thingstuff[fast]'")
    return extra


def compare_pictures(
    truth: Listing,
    predicted: Listing,
    judge: Callable[[ComparedPicture], Any],
    extra: fast.Fast | None,
    workers: int | None,
    problems: Problems,
) -> Iterator[Any]:
    """Compare all pictures, in the order of the truth.

    Args:
        truth: The truth.
        predicted: The predictions.
        judge: What is wanted of each picture.
        extra: The compiled code, where it is to be used.
        workers: Number of threads; None for one on each processor core.
        problems: Gets what is wrong.

    Yields:
        What ``judge`` said, None for a picture that was left out.
    """

    def work(pictures: Sequence[ListedPicture]) -> list[tuple[Any, list[tuple[str, str]]]]:
        answers = []
        for picture in pictures:
            own = Problems(problems.lenient)
            compared = compare_picture(picture, predicted.pictures.get(picture.image_id), extra, own)
            answers.append((compared and judge(compared), own.found))
        return answers

    if workers is not None and workers < 1:
        raise InputError(f"workers is {workers}; give the number of threads, at least 1")
    everything = iter(truth.pictures.values())
    chunks = iter(lambda: tuple(islice(everything, _CHUNK)), ())
    for answers in _in_order(work, chunks, workers or _num_cores()):
        for answer, found in answers:
            problems.found.extend(found)
            yield answer


def _in_order(work: Callable[[Any], Any], items: Iterator[Any], workers: int) -> Iterator[Any]:
    """Results in the order of the items, with a bounded number of them under way."""
    if workers == 1:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[Any]] = deque(pool.submit(work, item) for item in islice(items, 2 * workers))
        try:
            while waiting:
                result = waiting.popleft().result()
                waiting.extend(pool.submit(work, item) for item in islice(items, 1))
                yield result
        finally:
            pool.shutdown(cancel_futures=True)


def _num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _path(path: Path | str | None) -> Path | None:
    return None if path is None else Path(path)
