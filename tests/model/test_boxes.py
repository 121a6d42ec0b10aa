"""Box arithmetic against hand-computed values and naive loops."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thingstuff.model import boxes as box_ops

coordinate = st.floats(-500, 500, width=32)
side = st.floats(0.5, 500, width=32)
box = st.tuples(coordinate, coordinate, side, side).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))
grid_box = st.tuples(*[st.integers(0, 12)] * 4).map(
    lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3]))
)
UNIT = (1.0, 1.0, 1.0, 1.0)
WEIGHTS = (10.0, 10.0, 5.0, 5.0)
weights = st.tuples(*[st.floats(1, 20)] * 4)  # no growth of 3 or less is clamped


def naive_iou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union


def test_area_by_hand() -> None:
    boxes = torch.tensor([[[0.0, 0, 2, 3], [1.5, 1, 2, 5]], [[4, 4, 4, 9], [0, 0, 1, 1]]])
    assert box_ops.area(boxes).tolist() == [[6, 2], [0, 1]]


def test_iou_by_hand() -> None:
    first = torch.tensor([[0.0, 0, 2, 2], [3, 3, 3, 5]])
    second = torch.tensor([[1.0, 1, 3, 3], [0, 0, 2, 2], [2, 0, 4, 2], [3, 3, 3, 5]])
    expected = [[1 / 7, 1, 0, 0], [0, 0, 0, 0]]
    torch.testing.assert_close(box_ops.iou(first, second), torch.tensor(expected))


@settings(deadline=None)
@given(st.lists(grid_box, max_size=5), st.lists(grid_box, max_size=5))
def test_iou_equals_a_naive_loop(first: list[tuple[int, ...]], second: list[tuple[int, ...]]) -> None:
    actual = box_ops.iou(
        torch.tensor(first, dtype=torch.float64).view(-1, 4), torch.tensor(second, dtype=torch.float64).view(-1, 4)
    )
    expected = [[naive_iou(a, b) for b in second] for a in first]
    assert actual.shape == (len(first), len(second))
    assert actual.tolist() == expected


def test_encode_by_hand() -> None:
    reference = torch.tensor([[0.0, 0, 10, 20]])
    target = torch.tensor([[5.0, 5, 25, 15]])
    deltas = box_ops.encode(target, reference, WEIGHTS)
    torch.testing.assert_close(deltas, torch.tensor([[10.0, 0, 5 * math.log(2), -5 * math.log(2)]]))


@settings(deadline=None)
@given(st.lists(st.tuples(box, box), min_size=1, max_size=6), weights)
def test_decode_inverts_encode(pairs: list, factors: tuple[float, float, float, float]) -> None:
    boxes, references = (torch.tensor(side, dtype=torch.float64) for side in zip(*pairs, strict=True))
    # Beyond this growth decoding is clamped on purpose.
    growth = (boxes[:, 2:] - boxes[:, :2]) / (references[:, 2:] - references[:, :2])
    fits = (growth < 1000 / 16).all(dim=1)
    decoded = box_ops.decode(box_ops.encode(boxes, references, factors), references, factors)
    torch.testing.assert_close(decoded[fits], boxes[fits], rtol=1e-4, atol=1e-2, check_dtype=False)


@settings(deadline=None)
@given(box, st.tuples(*[st.floats(-3, 3, width=32)] * 4), weights)
def test_encode_inverts_decode(reference: tuple, deltas: tuple, factors: tuple[float, float, float, float]) -> None:
    references = torch.tensor([reference], dtype=torch.float64)
    wanted = torch.tensor([deltas], dtype=torch.float64)
    boxes = box_ops.decode(wanted, references, factors)
    torch.testing.assert_close(
        box_ops.encode(boxes.double(), references, factors), wanted, rtol=1e-3, atol=2e-2, check_dtype=False
    )


def test_decode_limits_growth_but_not_shrinkage() -> None:
    reference = torch.tensor([[0.0, 0, 16, 16]])
    (grown,) = box_ops.decode(torch.tensor([[0.0, 0, 99, 99]]), reference, UNIT).tolist()
    assert grown == pytest.approx([8 - 500, 8 - 500, 8 + 500, 8 + 500], rel=1e-5)
    (shrunk,) = box_ops.decode(torch.tensor([[0.0, 0, -99, -99]]), reference, UNIT).tolist()
    assert shrunk == [8, 8, 8, 8]
    assert pytest.approx(4.135166556742356) == box_ops.MAX_LOG_RATIO


def test_decode_broadcasts_one_reference_over_classes() -> None:
    deltas = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    references = torch.tensor([[0.0, 0, 8, 8], [4, 4, 20, 12], [1, 2, 3, 4]])
    together = box_ops.decode(deltas, references[:, None], WEIGHTS)
    for column in range(5):
        alone = box_ops.decode(deltas[:, column], references, WEIGHTS)
        assert torch.equal(together[:, column], alone)


def test_decode_is_exact_for_half_precision_deltas() -> None:
    deltas = torch.tensor([[0.5, -0.25, 0, 0]], dtype=torch.bfloat16)
    decoded = box_ops.decode(deltas, torch.tensor([[1000.0, 1000, 1008, 1016]]), UNIT)
    assert decoded.dtype == torch.float32
    assert decoded.tolist() == [[1004, 996, 1012, 1012]]


def test_clip_by_hand() -> None:
    boxes = torch.tensor([[-3.0, -1, 50, 20], [2, 3, 4, 5], [40, 30, 60, 70]])
    expected = [[0, 0, 30, 10], [2, 3, 4, 5], [30, 10, 30, 10]]
    assert box_ops.clip(boxes, 10, 30).tolist() == expected
    assert box_ops.clip(boxes, torch.tensor(10.0), torch.tensor(30)).tolist() == expected


def test_clip_takes_a_size_for_each_picture() -> None:
    boxes = torch.tensor([[[0.0, 0, 9, 9]], [[0, 0, 9, 9]]])
    height, width = torch.tensor([[5.0], [7]]), torch.tensor([[6.0], [8]])
    assert box_ops.clip(boxes, height, width).tolist() == [[[0, 0, 6, 5]], [[0, 0, 8, 7]]]


@settings(deadline=None)
@given(st.lists(box, min_size=1, max_size=5), st.integers(1, 400), st.integers(1, 400))
def test_clipped_boxes_lie_inside_and_stay_when_clipped_again(boxes: list, height: int, width: int) -> None:
    clipped = box_ops.clip(torch.tensor(boxes), height, width)
    assert (clipped >= 0).all()
    assert (clipped <= torch.tensor([width, height, width, height])).all()
    assert (clipped[:, :2] <= clipped[:, 2:]).all()
    assert torch.equal(box_ops.clip(clipped, height, width), clipped)


def test_rescale_by_hand() -> None:
    boxes = torch.tensor([[10.0, 20, 30, 45], [0, 0, 200, 100]])
    assert box_ops.rescale(boxes, (50, 100), (100, 50)).tolist() == [[5, 40, 15, 90], [0, 0, 50, 100]]
