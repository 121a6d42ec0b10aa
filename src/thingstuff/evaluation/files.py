"""Scores of predictions in files: COCO panoptic JSON with folders of PNG files, written by any tool.

Pictures are read one after the other (by several threads at once), compared and forgotten; only what was counted stays.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from thingstuff.errors import InputError
from thingstuff.evaluation import fast
from thingstuff.evaluation.documents import ListedPicture, Listing, read_predictions, read_truth
from thingstuff.evaluation.emulation import emulate
from thingstuff.evaluation.pictures import ComparedPicture, compare_picture
from thingstuff.evaluation.pq import PictureMatch, Score, average_classes, count_classes
from thingstuff.evaluation.problems import CountedWarning, Problems, count_warnings
from thingstuff.evaluation.table import score_table

Progress = Callable[[Iterable[Any], int], Iterable[Any]]
"""Goes through items, of which there are so many, and shows how far it is."""
_FEW_PICTURES = 64
"""Up to so many pictures are scored sooner than the compiled code is loaded."""
_CHUNK = 8
"""Pictures that a thread takes at once."""


@dataclass(frozen=True, slots=True)
class FileScore:
    """What was found in the files.

    Attributes:
        panoptic: Panoptic quality.
        pictures: Number of pictures counted.
        warnings: What was wrong with the files and did not stop the scoring.
        loading_seconds: Processor time for loading the extra ``[fast]``; some seconds the first time on a computer.
    """

    panoptic: Score
    pictures: int
    warnings: tuple[CountedWarning, ...]
    loading_seconds: float

    def table(self) -> str:
        """The numbers in percent, class by class, for people."""
        return score_table(self.panoptic)

    def to_json(self) -> dict[str, Any]:
        """The numbers as fractions, for machines."""
        warnings = [{"kind": w.kind, "count": w.count, "example": w.example} for w in self.warnings]
        return self.panoptic.to_json() | {"pictures": self.pictures, "warnings": warnings}


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
    progress: Progress | None = None,
    use_fast: bool | None = None,
) -> FileScore:
    """``score`` with everything else that was found.

    Args:
        gt: See ``score``, as for all that is not described here.
        pred: See there.
        gt_folder: See there.
        pred_folder: See there.
        workers: See there.
        reference_cores: See there.
        lenient: See there.
        emulate_panopticapi: See there.
        progress: Is given the pictures to go through and their number, and shows how far it is.
        use_fast: Use the extra ``[fast]``; by default where it is installed and there are enough pictures to gain.

    Raises:
        InputError: A file is missing or wrong, or an option does not fit.
    """
    if emulate_panopticapi:
        if lenient:
            raise InputError("emulate_panopticapi and lenient exclude each other; panopticapi mends nothing")
        return FileScore(*emulate(Path(gt), Path(pred), gt_folder, pred_folder, reference_cores, progress), (), 0.0)
    problems = Problems(lenient)
    truth = read_truth(Path(gt), _path(gt_folder), problems)
    predicted = read_predictions(Path(pred), _path(pred_folder), truth, problems)
    extra = load_extra(len(truth.pictures), use_fast)

    judged = compare_pictures(truth, predicted, _match, extra, workers, problems)
    watched = judged if progress is None else progress(judged, len(truth.pictures))
    matches: list[PictureMatch] = [match for match in watched if match is not None]
    counts = count_classes(matches, reference_cores=reference_cores)
    return FileScore(
        average_classes(counts, truth.categories),
        len(matches),
        count_warnings(problems.found),
        0.0 if extra is None else extra.seconds,
    )


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


def _match(compared: ComparedPicture) -> PictureMatch:
    return compared.match()


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
