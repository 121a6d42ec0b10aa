"""Suppression against a naive version in numpy."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thingstuff.model.nms import ignore_deprecation, keep_mask, multiclass_nms

grid_box = st.tuples(*[st.integers(0, 8)] * 4).map(
    lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3]))
)
grade = st.integers(1, 6).map(lambda grade: grade / 8)  # few values, so that scores tie


def naive_nms(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> list[int]:
    """Indices of the survivors, best first; of equal scores the first."""
    boxes = boxes.astype(np.float64)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept: list[int] = []
    suppressed = np.zeros(len(boxes), dtype=bool)
    for index in np.argsort(-scores, kind="stable"):
        if suppressed[index]:
            continue
        kept.append(int(index))
        low = np.maximum(boxes[index, :2], boxes[:, :2])
        high = np.minimum(boxes[index, 2:], boxes[:, 2:])
        common = np.clip(high - low, 0, None).prod(axis=1)
        union = area[index] + area - common
        suppressed |= (common > 0) & (common > threshold * union)
    return kept


def naive_multiclass(
    boxes: np.ndarray, scores: np.ndarray, threshold: float, iou_threshold: float, count: int, class_agnostic: bool
) -> list[tuple[int, int]]:
    """(row, class) of the results, best first."""
    pairs = [(row, label) for row, label in np.ndindex(*scores.shape) if scores[row, label] > threshold]
    groups = [pairs] if class_agnostic else [[p for p in pairs if p[1] == t] for t in range(scores.shape[1])]
    survivors = []
    for group in groups:
        chosen = np.array([boxes[row, label if boxes.shape[1] > 1 else 0] for row, label in group]).reshape(-1, 4)
        kept = naive_nms(chosen, np.array([scores[pair] for pair in group]), iou_threshold)
        survivors += [group[index] for index in kept]
    return sorted(survivors, key=lambda pair: (-scores[pair], pair))[:count]


def assert_equals_naive(boxes: np.ndarray, scores: np.ndarray, count: int, class_agnostic: bool = False) -> None:
    rows, labels, valid = multiclass_nms(
        torch.from_numpy(boxes),
        torch.from_numpy(scores),
        score_threshold=0.25,
        iou_threshold=0.5,
        count=count,
        class_agnostic=class_agnostic,
    )
    assert len(rows) == len(labels) == len(valid) == count
    expected = naive_multiclass(boxes, scores, 0.25, 0.5, count, class_agnostic)
    assert valid.tolist() == [True] * len(expected) + [False] * (count - len(expected))
    assert list(zip(rows[valid].tolist(), labels[valid].tolist(), strict=True)) == expected
    assert ((rows >= 0) & (rows < len(boxes)) & (labels >= 0) & (labels < scores.shape[1])).all()


@settings(deadline=None)
@given(st.lists(st.tuples(grid_box, grade), max_size=12))
def test_keep_mask_equals_naive_with_ties_and_boxes_without_area(candidates: list) -> None:
    boxes = np.array([box for box, _ in candidates], dtype=np.float32).reshape(-1, 4)
    scores = np.array([score for _, score in candidates], dtype=np.float32)
    mask = keep_mask(torch.from_numpy(boxes), torch.from_numpy(scores), 0.5)
    assert mask.nonzero()[:, 0].tolist() == sorted(naive_nms(boxes, scores, 0.5))


def test_overlap_of_exactly_the_threshold_survives() -> None:
    boxes = torch.tensor([[0.0, 0, 4, 2], [0, 0, 2, 2], [0, 0, 3, 2]])
    assert keep_mask(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5).tolist() == [True, True, False]


def test_equal_scores_keep_their_order() -> None:
    boxes = torch.tensor([[0.0, 0, 4, 4]] * 3)
    assert keep_mask(boxes, torch.tensor([0.5, 0.5, 0.5]), 0.5).tolist() == [True, False, False]


def test_candidates_that_are_ruled_out_suppress_nobody() -> None:
    boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 4]])
    assert keep_mask(boxes, torch.tensor([-torch.inf, 0.5]), 0.5).tolist() == [False, True]


@pytest.mark.parametrize("survivors", [0, 1, 2])
def test_keep_mask_of_very_few_boxes(survivors: int) -> None:
    boxes = torch.tensor([[0.0, 0, 1, 1], [5, 5, 6, 6]])[:survivors]
    assert keep_mask(boxes, torch.ones(survivors), 0.5).tolist() == [True] * survivors


@settings(deadline=None)
@given(
    st.integers(1, 4).flatmap(
        lambda classes: st.lists(
            st.tuples(
                st.lists(grid_box, min_size=classes, max_size=classes),
                st.lists(grade, min_size=classes, max_size=classes),
            ),
            min_size=1,
            max_size=7,
        )
    ),
    st.integers(1, 12),
    st.booleans(),
    st.booleans(),
)
def test_multiclass_equals_naive(candidates: list, count: int, class_agnostic: bool, one_box: bool) -> None:
    boxes = np.array([boxes for boxes, _ in candidates], dtype=np.float32)
    scores = np.array([scores for _, scores in candidates], dtype=np.float32)
    assert_equals_naive(boxes[:, :1] if one_box else boxes, scores, count, class_agnostic)


@pytest.mark.parametrize("class_agnostic", [False, True])
@pytest.mark.parametrize("count", [100, 2000])
def test_every_one_of_many_candidates_takes_part(class_agnostic: bool, count: int) -> None:
    random = np.random.default_rng(0)
    corners = random.uniform(0, 300, (600, 3, 2))
    boxes = np.concatenate([corners, corners + random.uniform(5, 60, (600, 3, 2))], axis=2).astype(np.float32)
    scores = random.uniform(0, 1, (600, 3)).astype(np.float32)
    assert (scores > 0.25).sum() > 1300
    assert_equals_naive(boxes, scores, count, class_agnostic)


def test_many_classes_far_from_the_origin_do_not_touch_each_other() -> None:
    random = np.random.default_rng(1)
    box = np.array([1300.25, 700.5, 1330.75, 799.125], dtype=np.float32)
    boxes = np.tile(box, (2, 133, 1)) + random.uniform(0, 20, (2, 133, 4)).astype(np.float32)
    scores = random.uniform(0.3, 1, (2, 133)).astype(np.float32)
    assert_equals_naive(boxes, scores, 266)


def test_scores_of_exactly_the_threshold_are_dropped() -> None:
    boxes = np.array([[[0, 0, 1, 1]], [[5, 5, 6, 6]]], dtype=np.float32)
    assert_equals_naive(boxes, np.array([[0.25], [0.2501]], dtype=np.float32), 3)


@pytest.mark.parametrize("good", [0, 1, 2])
def test_very_few_candidates(good: int) -> None:
    boxes = np.array([[[0, 0, 1, 1]], [[5, 5, 6, 6]], [[9, 9, 9, 9]]], dtype=np.float32)
    scores = np.array([[0.9], [0.8], [0.7]], dtype=np.float32) * (np.arange(3) < good)[:, None].astype(np.float32)
    assert_equals_naive(boxes, scores, 4)


def test_of_deprecations_one_alone_is_not_shown() -> None:
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        ignore_deprecation()
        for name in ("create_unbacked_symint", "something_else"):
            warnings.warn(f"`{name}` is deprecated, please use another", FutureWarning, stacklevel=1)
    assert [str(warning.message).split("`")[1] for warning in shown] == ["something_else"]
