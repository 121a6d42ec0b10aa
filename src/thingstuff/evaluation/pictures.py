"""One picture of two files: the truth is recounted and checked, then compared with the prediction.

Whatever is wrong goes to ``Problems``: an error, or a warning where the caller is lenient. Nothing that was listed is
believed: areas and ids come from the PNG files, so no IoU can exceed 1.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int32

from thingstuff.errors import InputError
from thingstuff.evaluation import fast
from thingstuff.evaluation.documents import ListedPicture
from thingstuff.evaluation.matching import (
    Overlaps,
    PictureMatch,
    TruthTable,
    joint_histogram,
    match_tables,
    overlaps_of,
)
from thingstuff.evaluation.png import read_ids, read_packed
from thingstuff.evaluation.problems import Problems
from thingstuff.structures import VOID_ID

_ID_BITS = 24


@dataclass(frozen=True, slots=True)
class ComparedPicture:
    """What all measures of one picture are made of.

    Attributes:
        truth: The true segments, recounted.
        predicted: Category of each predicted segment by id.
        overlaps: Pixels that they share.
        truth_picture: What the truth's JSON says; None if the picture is not from files.
        predicted_picture: What the prediction's JSON says; None if there is no prediction, too.
    """

    truth: TruthTable
    predicted: Mapping[int, int]
    overlaps: Overlaps
    truth_picture: ListedPicture | None = None
    predicted_picture: ListedPicture | None = None

    def match(self) -> PictureMatch:
        """Which segments are the same object."""
        return match_tables(self.truth, self.predicted, self.overlaps)

    def maps(self) -> tuple[Int32[np.ndarray, "H W"], Int32[np.ndarray, "H W"]]:
        """The true and the predicted id map, read once more; void where an id is not in the tables.

        Raises:
            InputError: The picture is not from files.
        """
        if self.truth_picture is None:
            raise InputError("the picture was compared in memory and has no files; compare the files")
        true_ids = _listed_only(read_ids(self.truth_picture.path), self.truth.categories)
        if self.predicted_picture is None or not self.predicted:
            return true_ids, np.zeros_like(true_ids)
        return true_ids, _listed_only(read_ids(self.predicted_picture.path), self.predicted)


def compare_picture(
    truth: ListedPicture, predicted: ListedPicture | None, extra: fast.Fast | None, problems: Problems
) -> ComparedPicture | None:
    """Read the PNG files of a picture and compare them.

    Args:
        truth: The true segments.
        predicted: The predicted ones; None if there is no prediction.
        extra: The compiled code, where it is to be used.
        problems: Gets what is wrong.

    Returns:
        None where the truth is of no use, which only lenient scoring survives.

    Raises:
        InputError: Something is wrong and scoring is not lenient.
    """
    overlaps = _read_overlaps(truth, predicted, extra, problems)
    if overlaps is None:
        return None
    overlaps, table = _check_truth(truth, overlaps, problems)
    categories = _check_predicted(truth, predicted, overlaps, problems)
    return ComparedPicture(table, categories, overlaps, truth, predicted)


def _listed_only(ids: Int32[np.ndarray, "H W"], listed: Mapping[int, int]) -> Int32[np.ndarray, "H W"]:
    return np.where(np.isin(ids, list(listed)), ids, VOID_ID).astype(np.int32)


def _read_overlaps(
    truth: ListedPicture, predicted: ListedPicture | None, extra: fast.Fast | None, problems: Problems
) -> Overlaps | None:
    if extra is not None and predicted is not None:
        packed = read_packed(truth.path)
        other = read_packed(predicted.path)
        if packed is not None and other is not None and packed.size == other.size:
            counted = fast.count_files(extra, packed, other)
            if counted is not None:
                return overlaps_of(*counted)
    true_ids = _read_map(truth, "picture left out", "leaves the picture out", problems)
    if true_ids is None:
        return None
    return joint_histogram(true_ids, _read_prediction(truth, predicted, true_ids, problems), extra)


def _read_prediction(
    truth: ListedPicture, predicted: ListedPicture | None, true_ids: Int32[np.ndarray, "H W"], problems: Problems
) -> Int32[np.ndarray, "H W"]:
    """The predicted map, void where it is of no use."""
    mending = "takes the picture for not predicted"
    ids = predicted and _read_map(predicted, "prediction left out", mending, problems)
    if predicted is None or ids is None:
        return np.zeros_like(true_ids)
    if ids.shape != true_ids.shape:
        size, true_size = (f"{shape[0]} x {shape[1]}" for shape in (ids.shape, true_ids.shape))
        fault = f"{predicted.path}: {size} pixels (height x width), but {truth.path} has {true_size}"
        problems.add("prediction of another size", fault, "predict at the size of the truth", mending)
        return np.zeros_like(true_ids)
    return ids


def _read_map(picture: ListedPicture, kind: str, mending: str, problems: Problems) -> Int32[np.ndarray, "_ _"] | None:
    try:
        return read_ids(picture.path)
    except InputError as error:
        fault, _, remedy = str(error).rpartition("; ")
        problems.add(kind, fault, remedy, mending)
        return None


def _check_truth(truth: ListedPicture, overlaps: Overlaps, problems: Problems) -> tuple[Overlaps, TruthTable]:
    ids, areas, boxes = _recount(overlaps)
    counted = dict(zip(ids, areas, strict=True))
    box_of = dict(zip(ids, boxes, strict=True))
    drawn = []
    for segment in truth.segments:
        where = f"{truth.path}: true segment {segment.id}"
        area = counted.get(segment.id)
        if area is None:
            fault = f"{where} is listed in the JSON, but has no pixel"
            problems.add("segment without pixels", fault, "take it out of the JSON", "leaves it out")
            continue
        if segment.area is not None and segment.area != area:
            fault = f"{where} has {area} pixels, the JSON says area {segment.area}"
            problems.add("wrong area", fault, "correct the JSON", "uses the pixels")
        box = box_of[segment.id]
        if segment.bbox is not None and not all(abs(a - b) < 1 for a, b in zip(segment.bbox, box, strict=True)):
            problems.note("wrong bbox", f"{where} has the box {box}, the JSON says {segment.bbox}")
        drawn.append(segment)
    listed = {segment.id for segment in truth.segments}
    if unlisted := [identity for identity in ids if identity not in listed and identity != VOID_ID]:
        fault = f"{truth.path}: true segment {unlisted[0]} has {counted[unlisted[0]]} pixels, but the JSON lacks it"
        remedy = f"list every id of the map ({VOID_ID} is void)"
        problems.add("segment not listed", fault, remedy, "takes its pixels for void")
        overlaps = _as_void(overlaps, unlisted)
    crowds = [segment for segment in drawn if segment.crowd]
    if len({segment.category_id for segment in crowds}) < len(crowds):
        fault = f"{truth.path}: several crowds of a class: only the last listed excuses predictions, as in panopticapi"
        problems.note("several crowds of a class", fault)
    return overlaps, TruthTable(
        {segment.id: segment.category_id for segment in drawn},
        {segment.id: counted[segment.id] for segment in drawn},
        [segment.id for segment in crowds],
    )


def _recount(overlaps: Overlaps) -> tuple[list[int], list[int], list[tuple[int, ...]]]:
    """Id, area and box ``(x, y, width, height)`` of everything in the true map."""
    starts = np.flatnonzero(np.diff(overlaps.truth_ids, prepend=-1))
    if not starts.size:
        return [], [], []
    low = np.minimum.reduceat(overlaps.boxes[:, :2], starts)
    size = np.maximum.reduceat(overlaps.boxes[:, 2:], starts) - low
    boxes = [tuple(box) for box in np.hstack([low, size]).tolist()]
    return overlaps.truth_ids[starts].tolist(), np.add.reduceat(overlaps.areas, starts).tolist(), boxes


def _as_void(overlaps: Overlaps, ids: list[int]) -> Overlaps:
    """Give the pixels of true ids to void."""
    truth_ids = np.where(np.isin(overlaps.truth_ids, ids), VOID_ID, overlaps.truth_ids)
    keys = truth_ids << _ID_BITS | overlaps.predicted_ids
    order = np.argsort(keys, kind="stable")
    starts = np.flatnonzero(np.diff(keys[order], prepend=-1))
    boxes = overlaps.boxes[order]
    facts = np.column_stack(
        [
            np.add.reduceat(overlaps.areas[order], starts),
            np.minimum.reduceat(boxes[:, :2], starts),
            np.maximum.reduceat(boxes[:, 2:], starts),
        ]
    )
    return overlaps_of(keys[order][starts], facts)


def _check_predicted(
    truth: ListedPicture, predicted: ListedPicture | None, overlaps: Overlaps, problems: Problems
) -> dict[int, int]:
    if predicted is None:
        return {}
    drawn = set(overlaps.predicted_ids.tolist())
    categories = {segment.id: segment.category_id for segment in predicted.segments}
    if unlisted := sorted(drawn - categories.keys() - {VOID_ID}):
        fault = f"{predicted.path}: predicted segment {unlisted[0]} has pixels, but the JSON lacks it"
        remedy = f"list every id of the map ({VOID_ID} is void)"
        problems.add("predicted segment not listed", fault, remedy, "takes its pixels for not predicted")
    # A prediction that could not be read has no pixels at all, which has been said.
    if undrawn := sorted(categories.keys() - drawn):
        if drawn - {VOID_ID} or not problems.found:
            fault = f"{predicted.path}: predicted segment {undrawn[0]} is listed in the JSON, but has no pixel"
            problems.add("predicted segment without pixels", fault, "take it out of the JSON", "leaves it out")
        categories = {identity: category for identity, category in categories.items() if identity in drawn}
    return categories
