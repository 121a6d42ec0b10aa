import contextlib
import io
import json
import sys
from dataclasses import astuple, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from pycocotools import mask as mask_api
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from thingstuff.errors import InputError
from thingstuff.evaluation.ap import (
    Detections,
    TruthInstances,
    average_precision,
    encode_masks,
    truth_instances,
)
from thingstuff.labels import LabelSet
from thingstuff.structures import Panoptic, Segment

# Of pycocotools, which here decodes masks and serves as the reference.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

CAT, DOG, SKY = 3, 7, 1
LABELS = LabelSet.from_coco(
    [
        {"id": CAT, "name": "cat", "isthing": 1},
        {"id": DOG, "name": "dog", "isthing": 1},
        {"id": SKY, "name": "sky", "isthing": 0},
    ],
    "test",
)
SIZE = (40, 60)
KINDS = pytest.mark.parametrize("kind", ["box", "mask"])


def masks_of(boxes):
    masks = np.zeros((len(boxes), *SIZE), dtype=bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[y1:y2, x1:x2] = True
    return tuple(encode_masks(masks))


def decoded(masks):
    return np.stack([mask_api.decode(mask) for mask in masks]).astype(bool)


def floats(boxes):
    return np.array(boxes, dtype=np.float64).reshape(-1, 4)


def truth_of(boxes, categories, crowd=None):
    corners = floats(boxes)
    return TruthInstances(
        boxes=corners,
        areas=(corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1]),
        category_ids=np.array(categories, dtype=np.int64),
        crowd=np.array(crowd or [False] * len(boxes), dtype=bool),
        masks=masks_of(boxes),
    )


def found(boxes, categories, scores):
    return Detections(
        boxes=floats(boxes),
        scores=np.array(scores, dtype=np.float32),
        category_ids=np.array(categories, dtype=np.int64),
        masks=masks_of(boxes),
    )


NO_TRUTH, NOTHING_FOUND = truth_of([], []), found([], [], [])


@KINDS
def test_perfect_detections(kind, capfd):
    boxes = [(0, 0, 10, 10), (20, 5, 60, 40)]
    result = average_precision([truth_of(boxes, [CAT, DOG])], [found(boxes, [CAT, DOG], [0.9, 0.8])], LABELS, kind=kind)
    assert result.ap == pytest.approx(1)
    assert result.small == pytest.approx(1)
    assert result.medium == pytest.approx(1)
    assert (result.large, result.recall_large) == (None, None)
    assert (result.recall_1, result.recall_100) == (1, 1)
    assert result.per_class == {CAT: pytest.approx(1), DOG: pytest.approx(1)}
    assert capfd.readouterr() == ("", "")


@KINDS
def test_thresholds_by_hand(kind):
    """IoU 0.8 is found at 0.5 to 0.75 (six thresholds of ten) and, up to rounding, at 0.8."""
    result = average_precision(
        [truth_of([(0, 0, 10, 10)], [CAT])], [found([(0, 0, 10, 8)], [CAT], [0.5])], LABELS, kind=kind
    )
    assert result.ap50 == result.ap75 == pytest.approx(1)
    assert result.ap == pytest.approx(0.7)
    assert result.recall_100 == pytest.approx(0.7)
    assert result.per_class[CAT] == result.ap
    assert result.per_class[DOG] is None


@KINDS
def test_a_confident_false_detection_halves_precision(kind):
    wrong_first = found([(30, 20, 40, 30), (0, 0, 10, 10)], [CAT, CAT], [0.9, 0.5])
    right_first = found([(30, 20, 40, 30), (0, 0, 10, 10)], [CAT, CAT], [0.5, 0.9])
    truths = [truth_of([(0, 0, 10, 10)], [CAT])]
    assert average_precision(truths, [wrong_first], LABELS, kind=kind).ap == pytest.approx(0.5)
    assert average_precision(truths, [right_first], LABELS, kind=kind).ap == pytest.approx(1)
    assert average_precision(truths, [wrong_first], LABELS, kind=kind).recall_1 == 0


@KINDS
def test_false_detections_count_only_among_objects_of_their_size(kind):
    detections = found([(10, 0, 60, 40), (0, 0, 5, 5)], [CAT, CAT], [0.9, 0.5])
    result = average_precision([truth_of([(0, 0, 5, 5)], [CAT])], [detections], LABELS, kind=kind)
    assert (result.ap, result.small, result.medium) == (pytest.approx(0.5), pytest.approx(1), None)


@KINDS
def test_crowd_is_neither_missed_nor_wrong_to_find(kind):
    truth = truth_of([(0, 0, 10, 10), (20, 0, 60, 40)], [CAT, CAT], [False, True])
    inside = found([(25, 5, 35, 15), (40, 5, 50, 15), (0, 0, 10, 10)], [CAT] * 3, [0.9, 0.8, 0.7])
    assert average_precision([truth], [inside], LABELS, kind=kind).ap == pytest.approx(1)


@KINDS
def test_nothing_found_is_zero(kind):
    result = average_precision([truth_of([(0, 0, 5, 5)], [CAT]), NO_TRUTH], [NOTHING_FOUND] * 2, LABELS, kind=kind)
    assert (result.ap, result.ap50, result.small, result.recall_100) == (0, 0, 0, 0)
    assert (result.large, result.per_class) == (None, {CAT: 0, DOG: None})


@KINDS
@pytest.mark.parametrize(
    ("truths", "detections"),
    [([], []), ([NO_TRUTH], [NOTHING_FOUND]), ([NO_TRUTH], [found([(0, 0, 5, 5)], [CAT], [0.9])])],
)
def test_no_truth_at_all_is_undefined(truths, detections, kind):
    result = average_precision(truths, detections, LABELS, kind=kind)
    assert astuple(result) == (*[None] * 12, {CAT: None, DOG: None})


@KINDS
def test_labels_without_things_are_undefined(kind):
    labels = LabelSet.from_coco([{"id": SKY, "name": "sky", "isthing": 0}], "test")
    assert average_precision([NO_TRUTH], [NOTHING_FOUND], labels, kind=kind).per_class == {}


@KINDS
def test_pictures_without_objects_change_nothing_but_false_detections_there_do(kind):
    truth, right = truth_of([(0, 0, 10, 10)], [CAT]), found([(0, 0, 10, 10)], [CAT], [0.5])
    invented = found([(5, 5, 15, 15)], [CAT], [0.9])
    empty = average_precision([NO_TRUTH, truth], [NOTHING_FOUND, right], LABELS, kind=kind)
    wrong = average_precision([NO_TRUTH, truth], [invented, right], LABELS, kind=kind)
    assert (empty.ap, wrong.ap) == (pytest.approx(1), pytest.approx(0.5))


def test_masks_and_boxes_are_compared_apart():
    truth = truth_of([(0, 0, 10, 10)], [CAT])
    detection = found([(0, 0, 10, 10)], [CAT], [0.9])
    other_mask = replace(detection, masks=masks_of([(30, 20, 40, 30)]))
    assert average_precision([truth], [other_mask], LABELS, kind="box").ap == pytest.approx(1)
    assert average_precision([truth], [other_mask], LABELS, kind="mask").ap == 0
    only_boxes = replace(detection, masks=None)
    assert average_precision([truth], [only_boxes], LABELS, kind="box").ap == pytest.approx(1)


def test_averaging_leaves_the_records_as_they_were():
    truth, detection = truth_of([(1, 2, 11, 12)], [CAT]), found([(1, 2, 11, 12)], [CAT], [0.9])
    first = average_precision([truth], [detection], LABELS, kind="box")
    assert average_precision([truth], [detection], LABELS, kind="box") == first
    assert detection.boxes.tolist() == truth.boxes.tolist() == [[1, 2, 11, 12]]
    average_precision([truth], [detection], LABELS, kind="mask")
    assert detection.masks == masks_of([(1, 2, 11, 12)])


def test_encoded_masks_are_coco_run_lengths():
    masks = np.random.default_rng(0).random((3, 7, 5)) > 0.5
    encoded = encode_masks(masks)
    expected = mask_api.encode(np.asfortranarray(masks.transpose(1, 2, 0), dtype=np.uint8))
    assert encoded == expected
    assert decoded(encoded).tolist() == masks.tolist()
    assert encode_masks(np.zeros((0, 7, 5), dtype=bool)) == []


def test_truth_instances_are_the_things_of_a_map():
    ids = np.zeros((6, 8), dtype=np.int32)
    ids[1:3, 2:7] = 300
    ids[2, 3] = 0
    ids[4:, :] = 9
    ids[5, 0] = 70000
    segments = (
        Segment(9, SKY, "sky", False, None, 15, (0, 4, 8, 2)),
        Segment(300, CAT, "cat", True, None, 9, (2, 1, 5, 2)),
        Segment(70000, DOG, "dog", True, None, 1, (0, 5, 1, 1), iscrowd=True),
    )
    instances = truth_instances(Panoptic(ids, segments))
    assert instances.boxes.tolist() == [[2, 1, 7, 3], [0, 5, 1, 6]]
    assert instances.areas.tolist() == [9, 1]
    assert instances.category_ids.tolist() == [CAT, DOG]
    assert instances.crowd.tolist() == [False, True]
    assert instances.masks is not None
    assert decoded(instances.masks).tolist() == [(ids == 300).tolist(), (ids == 70000).tolist()]
    empty = truth_instances(Panoptic(ids, segments[:1]))
    assert (empty.boxes.shape, empty.masks) == ((0, 4), ())


# --- errors ---


def refused(truths, detections, message, kind: Literal["box", "mask"] = "mask"):
    with pytest.raises(InputError, match=message) as error:
        average_precision(truths, detections, LABELS, kind=kind)
    assert "\n" not in str(error.value)


def test_wrong_input_is_refused():
    truth, detection = truth_of([(0, 0, 5, 5)], [CAT]), found([(0, 0, 5, 5)], [CAT], [0.9])
    refused([truth], [detection] * 2, "2 pictures with detections, 1 with truth")
    refused([truth], [found([(0, 0, 5, 5)], [SKY], [0.9])], "picture 0: category 1 is not one of the 2 thing classes")
    refused([truth, truth_of([(0, 0, 5, 5)], [8])], [detection] * 2, "picture 1: category 8 is not one of", "box")
    without = replace(detection, masks=None)
    refused([truth], [without], "picture 0: the detections have no masks; give them, or compare boxes")
    small = replace(detection, masks=tuple(encode_masks(np.ones((1, 5, 5), dtype=bool))))
    refused([truth], [small], r"picture 0: masks of different sizes \[\(5, 5\), \(40, 60\)\] \(height, width\)")


def test_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    refused([], [], r"needs faster-coco-eval, which is not installed; run: pip install 'thingstuff\[train\]'")


# --- the reference ---

ANNOTATIONS = Path(__file__).parents[2] / "../shared/data/coco_things/instances_val.json"


def decode_truth(coco, image):
    annotations = coco.imgToAnns[image]
    corners = floats([annotation["bbox"] for annotation in annotations])
    corners[:, 2:] += corners[:, :2]
    return TruthInstances(
        boxes=corners,
        areas=np.array([annotation["area"] for annotation in annotations], dtype=np.float64),
        category_ids=np.array([annotation["category_id"] for annotation in annotations], dtype=np.int64),
        crowd=np.array([annotation["iscrowd"] == 1 for annotation in annotations], dtype=bool),
        masks=tuple(coco.annToRLE(annotation) for annotation in annotations),
    )


def perturbed(truth, category_ids, rng):
    """Detections made from the truth: shifted, dropped, doubled, relabelled, in random order of confidence."""
    repeats = rng.choice([0, 1, 1, 1, 2, 3], size=len(truth.boxes))
    rows = np.repeat(np.arange(len(truth.boxes)), repeats)
    masks, boxes = [], []
    for row in rows:
        shift = np.rint(rng.normal(0, 0.06, 2) * (truth.boxes[row, 2:] - truth.boxes[row, :2])).astype(int)
        mask = np.roll(mask_api.decode(truth.masks[row]), shift[::-1], (0, 1))
        masks.append(mask_api.encode(np.asfortranarray(mask)))
        boxes.append(truth.boxes[row] + np.tile(shift, 2) + rng.normal(0, 1, 4))
    relabelled = rng.random(len(rows)) < 0.1
    return Detections(
        boxes=floats(boxes).astype(np.float32),
        scores=np.round(rng.random(len(rows)), 2).astype(np.float32),
        category_ids=np.where(relabelled, rng.choice(category_ids, len(rows)), truth.category_ids[rows]),
        masks=tuple(masks),
    )


def pycocotools_numbers(coco, images, detections, kind):
    results = []
    for image, detection in zip(images, detections, strict=True):
        corners = detection.boxes.astype(np.float64)
        corners[:, 2:] -= corners[:, :2]
        columns = (corners.tolist(), detection.masks, detection.category_ids.tolist(), detection.scores.tolist())
        for box, mask, category_id, score in zip(*columns, strict=True):
            shape = {"bbox": box} if kind == "box" else {"segmentation": mask}
            results.append({"image_id": image, "category_id": category_id, "score": score, **shape})
    evaluator = COCOeval(coco, coco.loadRes(results), "bbox" if kind == "box" else "segm")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    return evaluator


@pytest.mark.reference
@pytest.mark.skipif(not ANNOTATIONS.exists(), reason="needs the pictures' annotations in ../shared/data/coco_things")
@KINDS
def test_twelve_numbers_equal_pycocotools(kind):
    labels = LabelSet.from_coco(
        [category | {"isthing": 1} for category in json.loads(ANNOTATIONS.read_text())["categories"]], "instances_val"
    )
    rng = np.random.default_rng(7)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(ANNOTATIONS)
        images = sorted(coco.imgs)
        truths = [decode_truth(coco, image) for image in images]
        detections = [perturbed(truth, labels.category_ids, rng) for truth in truths]
        reference = pycocotools_numbers(coco, images, detections, kind)
    result = average_precision(truths, detections, labels, kind=kind)
    numbers = astuple(result)[:12]
    # pycocotools adds 2.2e-16 to the number of detections, so its precision of a single right one is not quite 1.
    assert numbers[:6] == pytest.approx(tuple(reference.stats[:6]), rel=0, abs=2.3e-16)
    assert numbers[6:] == tuple(reference.stats[6:])
    assert all(0.1 < number < 1 for number in numbers if number is not None)
    precision = reference.eval["precision"][:, :, :, 0, -1]
    for row, category_id in enumerate(reference.params.catIds):
        reached = precision[:, :, row][precision[:, :, row] > -1]
        expected = pytest.approx(reached.mean(), rel=0, abs=2.3e-16) if reached.size else None
        assert result.per_class[category_id] == expected
