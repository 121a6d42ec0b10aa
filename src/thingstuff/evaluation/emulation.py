"""panopticapi's answer, whatever it is: a number over 1, or the exception that it stops with.

For comparing with results that were published: it trusts areas, lets sizes broadcast and checks what panopticapi
checks, in its order. ``files.score`` is what to use otherwise; for files without faults both give the same bits.

Source: the behaviour of cocodataset/panopticapi ``evaluation.py`` at commit 7bb4655.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from thingstuff.errors import InputError
from thingstuff.evaluation.pq import (
    ClassCounts,
    ClassScore,
    GroupScore,
    MatchedPair,
    PictureMatch,
    Score,
    count_classes,
)

_VOID = 0
_BASE = 256**3


def emulate(
    gt: Path,
    pred: Path,
    gt_folder: Path | str | None,
    pred_folder: Path | str | None,
    reference_cores: int,
    progress: Callable[[Iterable[Any], int], Iterable[Any]] | None = None,
) -> tuple[Score, int]:
    """Score files as panopticapi does.

    Args:
        gt: JSON file of the truth.
        pred: JSON file of the predictions.
        gt_folder: PNG files of the truth; by default the path of the JSON file without ``.json``.
        pred_folder: The same of the predictions.
        reference_cores: Number of cores of the machine that it is imagined to run on.
        progress: See ``files.score_files``.

    Returns:
        Its score and the number of pictures.

    Raises:
        InputError: panopticapi would fail; the message is its own.
    """
    try:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return _evaluate(gt, pred, gt_folder, pred_folder, reference_cores, progress)
    except InputError:
        raise
    except Exception as error:
        # Whatever it may be: this reproduces failures.
        raise InputError(f"panopticapi fails here with {type(error).__name__}: {error}") from error


def _evaluate(
    gt: Path,
    pred: Path,
    gt_folder: Path | str | None,
    pred_folder: Path | str | None,
    reference_cores: int,
    progress: Callable[[Iterable[Any], int], Iterable[Any]] | None,
) -> tuple[Score, int]:
    truth, predictions = (json.loads(path.read_bytes()) for path in (gt, pred))
    folders = [
        str(path).replace(".json", "") if folder is None else str(folder)
        for path, folder in ((gt, gt_folder), (pred, pred_folder))
    ]
    categories = {category["id"]: category for category in truth["categories"]}
    for folder, what in zip(folders, ("ground truth", "predicted"), strict=True):
        if not Path(folder).is_dir():
            raise Exception(f"Folder {folder} with {what} segmentations doesn't exist")
    by_image = {annotation["image_id"]: annotation for annotation in predictions["annotations"]}
    pairs = []
    for annotation in truth["annotations"]:
        if annotation["image_id"] not in by_image:
            raise Exception(f"no prediction for the image with id: {annotation['image_id']}")
        pairs.append((annotation, by_image[annotation["image_id"]]))
    matches = [
        _compare(true, predicted, folders, categories)
        for true, predicted in (pairs if progress is None else progress(pairs, len(pairs)))
    ]
    return _average(count_classes(matches, reference_cores=reference_cores), categories), len(pairs)


def _compare(
    truth: Mapping[str, Any], predicted: Mapping[str, Any], folders: list[str], categories: Mapping[Any, Any]
) -> PictureMatch:
    true_map, predicted_map = (
        _decode(Path(folder) / annotation["file_name"])
        for folder, annotation in zip(folders, (truth, predicted), strict=True)
    )
    true_segments, segments = (
        {segment["id"]: segment for segment in annotation["segments_info"]} for annotation in (truth, predicted)
    )
    areas = _predicted_areas(predicted_map, segments, categories, truth["image_id"])
    keys, counts = np.unique(true_map.astype(np.uint64) * _BASE + predicted_map.astype(np.uint64), return_counts=True)
    shared = {
        divmod(key, _BASE): count
        # Counts stay numpy's numbers: dividing them by zero yields infinity, not an error.
        for key, count in zip(keys.tolist(), counts, strict=True)
    }
    pairs = []
    for (true_id, predicted_id), area in shared.items():
        if true_id not in true_segments or predicted_id not in segments:
            continue
        segment = true_segments[true_id]
        if segment["iscrowd"] == 1 or segment["category_id"] != segments[predicted_id]["category_id"]:
            continue
        union = areas[predicted_id] + segment["area"] - area - shared.get((_VOID, predicted_id), 0)
        if (iou := area / union) > 0.5:
            pairs.append(MatchedPair(true_id, predicted_id, segment["category_id"], float(iou)))
    missed, crowds = _missed(true_segments, {pair.truth_id for pair in pairs})
    used = {pair.predicted_id for pair in pairs}
    invented = []
    for identity, segment in segments.items():
        excused = shared.get((_VOID, identity), 0) + shared.get((crowds.get(segment["category_id"]), identity), 0)
        if identity not in used and not excused / areas[identity] > 0.5:
            invented.append(segment["category_id"])
    return PictureMatch(tuple(pairs), tuple(invented), missed)


def _decode(path: Path) -> np.ndarray:
    """Ids of any picture; what is not RGB fails as it does there."""
    with Image.open(path) as image:
        pixels = np.array(image, dtype=np.uint32)
    if pixels.ndim == 3:
        return pixels[:, :, 0] + 256 * pixels[:, :, 1] + 256 * 256 * pixels[:, :, 2]
    return np.array(int(pixels[0] + 256 * pixels[1] + 256 * 256 * pixels[2]))


def _predicted_areas(
    predicted_map: np.ndarray, segments: Mapping[Any, Any], categories: Mapping[Any, Any], image_id: Any
) -> dict[Any, Any]:
    left = {segment["id"] for segment in segments.values()}
    areas = {}
    for identity, area in zip(
        *(column.tolist() for column in np.unique(predicted_map, return_counts=True)), strict=True
    ):
        if identity not in segments:
            if identity == _VOID:
                continue
            raise KeyError(
                f"In the image with ID {image_id} segment with ID {identity} is presented in PNG "
                "and not presented in JSON."
            )
        areas[identity] = area
        left.remove(identity)
        category = segments[identity]["category_id"]
        if category not in categories:
            raise KeyError(
                f"In the image with ID {image_id} segment with ID {identity} has unknown category_id {category}."
            )
    if left:
        raise KeyError(
            f"In the image with ID {image_id} the following segment IDs {list(left)} are presented in JSON "
            "and not presented in PNG."
        )
    return areas


def _missed(segments: Mapping[Any, Any], found: set[Any]) -> tuple[tuple[Any, ...], dict[Any, Any]]:
    """Categories of the missed segments, and the last crowd of each category."""
    missed, crowds = [], {}
    for identity, segment in segments.items():
        if identity in found:
            continue
        if segment["iscrowd"] == 1:
            crowds[segment["category_id"]] = identity
        else:
            missed.append(segment["category_id"])
    return tuple(missed), crowds


def _average(counts: Mapping[Any, ClassCounts], categories: Mapping[Any, Any]) -> Score:
    per_class = {}
    for identity, category in categories.items():
        c = counts.get(identity, ClassCounts())
        segments = c.tp + 0.5 * c.fp + 0.5 * c.fn
        ratios = (c.iou / segments, c.iou / c.tp if c.tp else 0.0, c.tp / segments) if segments else (0.0, 0.0, 0.0)
        name, isthing = str(category.get("name", identity)), category.get("isthing") == 1
        per_class[identity] = ClassScore(identity, name, isthing, *ratios, c.tp, c.fp, c.fn, c.iou)
    everything = _group(per_class.values())
    # Its averages of things and stuff come after that of all, and read a field that may be missing.
    isthing = {identity: category["isthing"] == 1 for identity, category in categories.items()}
    things = _group(score for identity, score in per_class.items() if isthing[identity])
    stuff = _group(score for identity, score in per_class.items() if not isthing[identity])
    return Score(everything.pq, everything.sq, everything.rq, everything.n, things, stuff, per_class)


def _group(scores: Iterable[ClassScore]) -> GroupScore:
    counted = [score for score in scores if score.tp + score.fp + score.fn]
    # Whole numbers, so that nothing divided by nothing fails with its message.
    pq: float = 0
    sq: float = 0
    rq: float = 0
    for score in counted:
        pq, sq, rq = pq + score.pq, sq + score.sq, rq + score.rq
    return GroupScore(pq / len(counted), sq / len(counted), rq / len(counted), len(counted))
