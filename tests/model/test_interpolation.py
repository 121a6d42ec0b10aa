"""Resizing against torch's, by hand, and the same bits for a window and for the whole."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from thingstuff.model.interpolation import nearest, resize_masks, sample, surround, upsample_all, upsample_window

seeds = st.integers(0, 2**31)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def corners(*boxes: tuple[int, int, int, int]) -> Tensor:
    return torch.tensor(boxes, dtype=torch.int64).view(-1, 4)


def resized(masks: Tensor, boxes: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Masks of all boxes at the given pixels."""
    side = masks.shape[1]
    y = sample(boxes[:, 1], boxes[:, 3], side, rows[None])
    return resize_masks(masks, y, sample(boxes[:, 0], boxes[:, 2], side, columns[None]))


def patch(mask: Tensor, box: tuple[int, int, int, int]) -> Tensor:
    """One mask at all pixels of its box."""
    x1, y1, x2, y2 = box
    return resized(mask[None], corners(box), torch.arange(y1, y2 + 1), torch.arange(x1, x2 + 1))[0]


# --- logits, four times larger ---


@settings(deadline=None)
@given(st.integers(1, 3), st.integers(1, 12), st.integers(1, 12), seeds)
def test_upsampling_is_torchs_but_for_rounding(channels: int, height: int, width: int, seed: int) -> None:
    logits = noise(channels, height, width, seed=seed)
    full = upsample_all(surround(logits), (4 * height, 4 * width))
    expected = F.interpolate(logits[None], scale_factor=4, mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(full, expected, rtol=0, atol=2e-6)


def test_upsampling_of_eighths_is_exact() -> None:
    logits = (noise(4, 9, 7) * 16).round() / 8
    expected = F.interpolate(logits[None], scale_factor=4, mode="bilinear", align_corners=False)[0]
    assert torch.equal(upsample_all(surround(logits), (36, 28)), expected)


def test_upsampling_by_hand() -> None:
    full = upsample_all(surround(torch.tensor([[[0.0, 8.0]]])), (4, 8))
    assert full[0].tolist() == [[0, 0, 1, 3, 5, 7, 8, 8]] * 4


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), seeds, st.data())
def test_a_window_has_the_bits_of_the_whole(height: int, width: int, seed: int, data: st.DataObject) -> None:
    cells = surround(noise(1, height, width, seed=seed), 3, 2)
    top, bottom = sorted(data.draw(st.tuples(*[st.integers(0, 4 * height)] * 2)))
    left, right = sorted(data.draw(st.tuples(*[st.integers(0, 4 * width)] * 2)))
    whole = upsample_all(cells, (4 * height, 4 * width))[0]
    assert torch.equal(upsample_window(cells[0], top, left, bottom, right), whole[top:bottom, left:right])


# --- masks, to their boxes ---


@settings(deadline=None)
@given(st.integers(1, 30), st.integers(1, 60), st.integers(1, 60), seeds)
def test_a_mask_is_resized_as_by_torch(side: int, height: int, width: int, seed: int) -> None:
    mask = noise(side, side, seed=seed)
    expected = F.interpolate(mask[None, None], size=(height, width), mode="bilinear", align_corners=False)[0, 0]
    torch.testing.assert_close(patch(mask, (3, 5, 3 + width - 1, 5 + height - 1)), expected, rtol=0, atol=2e-5)


def test_masks_of_usual_size_are_torchs_within_a_millionth() -> None:
    for height, width in ((1, 1), (3, 2), (28, 28), (57, 130), (200, 333)):
        mask = torch.rand(28, 28, generator=torch.Generator().manual_seed(0))
        expected = F.interpolate(mask[None, None], size=(height, width), mode="bilinear", align_corners=False)[0, 0]
        torch.testing.assert_close(patch(mask, (0, 0, width - 1, height - 1)), expected, rtol=0, atol=3e-6)


@given(st.floats(-50, 50, width=32), st.integers(0, 40), st.integers(0, 40))
def test_a_constant_mask_stays_exactly_constant(value: float, right: int, bottom: int) -> None:
    assert (patch(torch.full((28, 28), value), (0, 0, right, bottom)) == value).all()


@pytest.mark.parametrize("width", [1, 5, 28, 100])
def test_a_ramp_is_reproduced(width: int) -> None:
    ramp = torch.arange(28.0).expand(28, 28)
    expected = ((torch.arange(width) + 0.5) * 28 / width - 0.5).clamp(0, 27).expand(3, width)
    torch.testing.assert_close(patch(ramp, (2, 4, 2 + width - 1, 6)), expected, rtol=0, atol=4e-6)
    torch.testing.assert_close(patch(ramp.T, (4, 2, 6, 2 + width - 1)), expected.T, rtol=0, atol=4e-6)


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.integers(-20, 40)] * 4), min_size=1, max_size=4), seeds)
def test_many_masks_at_all_pixels_have_the_bits_of_each_at_those_of_its_box(
    boxes: list[tuple[int, int, int, int]], seed: int
) -> None:
    boxes = [(min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)) for x1, y1, x2, y2 in boxes]
    masks = noise(len(boxes), 7, 7, seed=seed)
    together = resized(masks, corners(*boxes), torch.arange(24), torch.arange(30))
    for mask, plane, box in zip(masks, together, boxes, strict=True):
        x1, y1, x2, y2 = box
        alone = patch(mask, box)[max(-y1, 0) : max(24 - y1, 0), max(-x1, 0) : max(30 - x1, 0)]
        assert torch.equal(plane[max(y1, 0) : max(y2 + 1, 0), max(x1, 0) : max(x2 + 1, 0)], alone)
    assert together.isfinite().all()


def test_masks_of_one_cell_and_boxes_of_less_than_a_pixel() -> None:
    pixels = torch.arange(4)
    assert (resized(torch.full((1, 1, 1), 3.0), corners((0, 0, 3, 3)), pixels, pixels) == 3).all()
    mask = torch.tensor([[[0.0, 2.0], [4.0, 6.0]]])
    assert resized(mask, corners((2, 2, 1, 0)), pixels[2:3], pixels[2:3]).tolist() == [[[3.0]]]


def test_no_masks() -> None:
    assert resized(torch.zeros(0, 28, 28), corners(), torch.arange(3), torch.arange(5)).shape == (0, 3, 5)


def test_gradients_reach_the_mask() -> None:
    masks = noise(2, 5, 5).double().requires_grad_()
    pixels = torch.arange(9)
    assert torch.autograd.gradcheck(
        lambda values: resized(values, corners((0, 0, 8, 5), (2, 3, 4, 4)), pixels, pixels), masks
    )


# --- label maps ---


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 90), st.integers(1, 90))
def test_labels_are_those_at_the_centres(height: int, width: int, new_height: int, new_width: int) -> None:
    plane = torch.arange(height * width, dtype=torch.int32).view(height, width)
    resized = nearest(plane, (new_height, new_width))
    assert resized.dtype == plane.dtype
    rows = [int((2 * row + 1) * height // (2 * new_height)) for row in range(new_height)]
    columns = [int((2 * column + 1) * width // (2 * new_width)) for column in range(new_width)]
    assert resized.tolist() == [[row * width + column for column in columns] for row in rows]


@pytest.mark.parametrize("size", [(3, 4), (6, 8), (5, 7), (1, 1), (12, 3)])
def test_labels_are_torchs_nearest_exact(size: tuple[int, int]) -> None:
    plane = torch.arange(48.0).view(6, 8)
    expected = F.interpolate(plane[None, None], size=size, mode="nearest-exact")[0, 0]
    assert torch.equal(nearest(plane, size), expected)


def test_of_the_same_size_labels_are_left_alone() -> None:
    plane = torch.arange(6).view(2, 3)
    assert nearest(plane, (2, 3)) is plane
