"""COCO's average precision of boxes and masks, counted by faster-coco-eval.

Keep one ``TruthInstances`` and one ``Detections`` for each picture; masks in them are run-length encoded, so a data set
fits into memory and the records can be gathered from several processes. ``average_precision`` compares them at the end.

Source: Lin et al. 2014, "Microsoft COCO: Common Objects in Context" (arXiv 1405.0312), and COCO's detection evaluation.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, TypedDict

import numpy as np
from jaxtyping import Bool, Float, Int64

from thingstuff.errors import InputError
from thingstuff.labels import LabelSet
from thingstuff.structures import Panoptic, Size


class RunLengths(TypedDict):
    """A mask as COCO's compressed run-length encoding, as pycocotools writes it.

    Attributes:
        size: Height and width.
        counts: Compressed run lengths, column by column.
    """

    size: list[int]
    counts: bytes


@dataclass(frozen=True, slots=True)
class TruthInstances:
    """The objects annotated in one picture, in the frame of the original picture.

    Attributes:
        boxes: ``xyxy``.
        areas: Pixels of each mask; they decide what is small, medium and large.
        category_ids: The data set's own category ids.
        crowd: Crowd flag: matched by any number of detections, never counted as missed.
        masks: One for each object; may be None where only boxes are compared.
    """

    boxes: Float[np.ndarray, "n 4"]
    areas: Float[np.ndarray, " n"]
    category_ids: Int64[np.ndarray, " n"]
    crowd: Bool[np.ndarray, " n"]
    masks: tuple[RunLengths, ...] | None


@dataclass(frozen=True, slots=True)
class Detections:
    """The objects detected in one picture, in the frame of the original picture.

    Attributes:
        boxes: ``xyxy``.
        scores: Confidence; only its order matters.
        category_ids: The data set's own category ids.
        masks: One for each object; may be None where only boxes are compared.
    """

    boxes: Float[np.ndarray, "n 4"]
    scores: Float[np.ndarray, " n"]
    category_ids: Int64[np.ndarray, " n"]
    masks: tuple[RunLengths, ...] | None


@dataclass(frozen=True, slots=True)
class AveragePrecision:
    """COCO's twelve numbers, as fractions; None where the truth has no object to find (-1 in COCO).

    Attributes:
        ap: Average precision over IoU thresholds 0.5 to 0.95 and classes.
        ap50: At IoU 0.5.
        ap75: At IoU 0.75.
        small: AP of objects up to 32 x 32 pixels.
        medium: AP of objects up to 96 x 96 pixels.
        large: AP of larger objects.
        recall_1: Average recall with one detection of each class in each picture.
        recall_10: With ten.
        recall_100: With a hundred, as all numbers above and below.
        recall_small: Average recall of small objects.
        recall_medium: Of medium objects.
        recall_large: Of large objects.
        per_class: AP by category id of each thing class.
    """

    ap: float | None
    ap50: float | None
    ap75: float | None
    small: float | None
    medium: float | None
    large: float | None
    recall_1: float | None
    recall_10: float | None
    recall_100: float | None
    recall_small: float | None
    recall_medium: float | None
    recall_large: float | None
    per_class: Mapping[int, float | None]


def encode_masks(masks: Bool[np.ndarray, "n H W"]) -> list[RunLengths]:
    """Encode masks as COCO writes them.

    Raises:
        InputError: faster-coco-eval is not installed.
    """
    return _library().mask.encode(np.asfortranarray(masks.transpose(1, 2, 0), dtype=np.uint8))


def truth_instances(panoptic: Panoptic) -> TruthInstances:
    """The things of a true panoptic map.

    Raises:
        InputError: faster-coco-eval is not installed.
    """
    things = [segment for segment in panoptic.segments if segment.isthing]
    # One mask at a time, and column by column as the encoder reads it.
    ids = np.asfortranarray(panoptic.ids)
    masks = tuple(encode_masks((ids == segment.id)[None])[0] for segment in things)
    corners = np.array([segment.bbox for segment in things], dtype=np.float64).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    return TruthInstances(
        boxes=corners,
        areas=np.array([segment.area for segment in things], dtype=np.float64),
        category_ids=np.array([segment.category_id for segment in things], dtype=np.int64),
        crowd=np.array([segment.iscrowd for segment in things], dtype=bool),
        masks=masks,
    )


def average_precision(
    truths: Sequence[TruthInstances],
    detections: Sequence[Detections],
    labels: LabelSet,
    *,
    kind: Literal["box", "mask"],
) -> AveragePrecision:
    """Compare detections with the truth as COCO does.

    Args:
        truths: One for each picture.
        detections: Of the same pictures, in the same order. Equal scores rank by this order.
        labels: Whose things are the classes.
        kind: What overlaps are measured on.

    Raises:
        InputError: The numbers of pictures differ, a category is no thing of the label set, masks are missing or not of
            one size in a picture, or faster-coco-eval is not installed.
    """
    library = _library()
    if len(truths) != len(detections):
        raise InputError(f"{len(detections)} pictures with detections, {len(truths)} with truth; give one each")
    category_ids = sorted(category.id for category in labels.categories if category.isthing)
    if not truths or not category_ids:
        return AveragePrecision(*[None] * 12, per_class=dict.fromkeys(category_ids))
    sizes = []
    for picture, (truth, found) in enumerate(zip(truths, detections, strict=True)):
        _check_categories({*truth.category_ids.tolist(), *found.category_ids.tolist()}, set(category_ids), picture)
        sizes.append(_mask_size(truth, found, picture) if kind == "mask" else (0, 0))
    true_rows = (row for picture, truth in enumerate(truths) for row in _truth_rows(truth, picture, kind))
    found_rows = (row for picture, found in enumerate(detections) for row in _detection_rows(found, picture, kind))
    evaluator = library.COCOeval_faster(
        _index(library, true_rows, sizes, category_ids),
        _index(library, found_rows, sizes, category_ids),
        "segm" if kind == "mask" else "bbox",
    )
    evaluator.run()
    numbers = [_defined(number) for number in evaluator.stats]
    # Axes: IoU threshold, recall, class, area range ("all" first), number of detections (100 last).
    precision = evaluator.eval["precision"][:, :, :, 0, -1]
    per_class = {category_id: _mean(precision[:, :, row]) for row, category_id in enumerate(category_ids)}
    return AveragePrecision(*numbers, per_class=per_class)


def _library() -> ModuleType:
    try:
        import faster_coco_eval
    except ImportError as error:
        raise InputError(
            "average precision needs faster-coco-eval, which is not installed; run: pip install 'thingstuff[train]'"
        ) from error
    return faster_coco_eval


def _check_categories(found: Set[int], known: Set[int], picture: int) -> None:
    if unknown := found - known:
        raise InputError(
            f"picture {picture}: category {min(unknown)} is not one of the {len(known)} thing classes of the label "
            "set; use its category ids and leave stuff out"
        )


def _mask_size(truth: TruthInstances, found: Detections, picture: int) -> Size:
    if truth.masks is None or found.masks is None:
        side = "truth" if truth.masks is None else "detections"
        raise InputError(f"picture {picture}: the {side} have no masks; give them, or compare boxes (kind='box')")
    sizes = {(mask["size"][0], mask["size"][1]) for mask in (*truth.masks, *found.masks)}
    if len(sizes) > 1:
        raise InputError(
            f"picture {picture}: masks of different sizes {sorted(sizes)} (height, width); "
            "give all at the size of the original picture"
        )
    return sizes.pop() if sizes else (0, 0)


def _index(
    library: ModuleType, rows: Iterable[dict[str, Any]], sizes: Sequence[Size], category_ids: Sequence[int]
) -> Any:
    """The library's index of annotations of the pictures."""
    return library.COCO(
        {
            "images": [
                {"id": picture, "height": height, "width": width} for picture, (height, width) in enumerate(sizes)
            ],
            "categories": [{"id": category_id, "name": str(category_id)} for category_id in category_ids],
            # From 1: the library reads a match with annotation 0 as no match.
            "annotations": [{"id": position, **row} for position, row in enumerate(rows, start=1)],
        }
    )


def _truth_rows(truth: TruthInstances, picture: int, kind: str) -> Iterator[dict[str, Any]]:
    columns = (truth.category_ids.tolist(), truth.areas.tolist(), truth.crowd.tolist())
    for shape, category_id, area, crowd in zip(_shapes(truth, kind), *columns, strict=True):
        yield {"image_id": picture, "category_id": category_id, "area": area, "iscrowd": int(crowd), **shape}


def _detection_rows(found: Detections, picture: int, kind: str) -> Iterator[dict[str, Any]]:
    shapes = _shapes(found, kind)
    if kind == "mask":
        areas = _library().mask.area([shape["segmentation"] for shape in shapes])
    else:
        areas = [shape["bbox"][2] * shape["bbox"][3] for shape in shapes]
    columns = (found.category_ids.tolist(), found.scores.tolist(), areas)
    for shape, category_id, score, area in zip(shapes, *columns, strict=True):
        yield {"image_id": picture, "category_id": category_id, "score": score, "area": float(area), **shape}


def _shapes(record: TruthInstances | Detections, kind: str) -> list[dict[str, Any]]:
    """What overlaps are measured on, as COCO writes it."""
    if kind == "mask":
        return [{"segmentation": mask} for mask in record.masks or ()]
    boxes = record.boxes.astype(np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    return [{"bbox": box} for box in boxes.tolist()]


def _defined(number: float) -> float | None:
    """COCO writes -1 where nothing is to be found."""
    return None if number == -1 else float(number)


def _mean(precision: Float[np.ndarray, "_ _"]) -> float | None:
    reached = precision[precision > -1]
    return float(reached.mean()) if reached.size else None
