"""Pasting of masks, on pictures small enough to check by hand."""

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from thingstuff.model.pasting import find_paste, paste_in_box, paste_in_inclusive_pixels, paste_in_whole_pixels
from thingstuff.structures import Size


def paste(probabilities: Tensor, box: Sequence[float], size: Size) -> Tensor:
    """The mask at the size of the picture."""
    mask, (top, left) = paste_in_box(probabilities, torch.tensor(box, dtype=torch.float32), size)
    full = torch.zeros(size, dtype=torch.bool)
    full[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
    return full


def test_a_full_mask_fills_the_pixels_whose_centres_are_in_its_box() -> None:
    full = paste(torch.ones(28, 28), [2, 1, 5, 3], (6, 8))
    assert full.nonzero().tolist() == [[y, x] for y in (1, 2) for x in (2, 3, 4)]


def test_pixels_of_the_mask_become_pixels_of_the_box() -> None:
    pattern = torch.tensor([[1.0, 0, 1], [0, 0, 1]]).repeat_interleave(14, 0)[:28].repeat_interleave(10, 1)[:, 1:29]
    full = paste(pattern, [1, 1, 4, 3], (5, 5))
    assert full.int().tolist() == [[0, 0, 0, 0, 0], [0, 1, 0, 1, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 0], [0] * 5]


def test_one_half_is_inside() -> None:
    assert paste(torch.full((4, 4), 0.5), [1, 1, 3, 3], (4, 4)).sum() == 4
    assert paste(torch.full((4, 4), 0.4999), [1, 1, 3, 3], (4, 4)).sum() == 0


@pytest.mark.parametrize(
    ("box", "pixels"),
    [
        ([0, 0, 1, 1], [[0, 0]]),
        ([3, 3, 4, 4], [[3, 3]]),
        ([1.2, 1.2, 1.4, 1.4], []),  # between pixel centres
        ([1.4, 1.4, 1.6, 1.6], [[1, 1]]),
    ],
)
def test_boxes_of_a_pixel_and_less(box: list[float], pixels: list[list[int]]) -> None:
    assert paste(torch.ones(28, 28), box, (4, 4)).nonzero().tolist() == pixels


@settings(deadline=None)
@given(st.tuples(*[st.floats(0, 23.875, width=32)] * 4), st.integers(0, 2**31))
def test_window_holds_all_of_the_mask(corners: tuple[float, ...], seed: int) -> None:
    x1, x2 = sorted(corners[:2])
    y1, y2 = sorted(corners[2:])
    x2, y2 = x2 + 0.125, y2 + 0.125
    size = (24, 32)
    probabilities = torch.rand(5, 5, generator=torch.Generator().manual_seed(seed))
    ys = ((torch.arange(24.0) + 0.5 - y1) / (y2 - y1) * 2 - 1)[:, None].expand(size)
    xs = ((torch.arange(32.0) + 0.5 - x1) / (x2 - x1) * 2 - 1)[None].expand(size)
    grid = torch.stack([xs, ys], dim=-1)[None]
    everywhere = F.grid_sample(probabilities[None, None], grid, mode="bilinear", align_corners=False)[0, 0]
    differs = paste(probabilities, [x1, y1, x2, y2], size) != (everywhere >= 0.5)
    assert ((everywhere[differs] - 0.5).abs() < 1e-4).all()  # rounding alone


# --- whole pixels ---


def test_in_whole_pixels_a_box_has_a_border_and_includes_its_last_pixel() -> None:
    # 4 cells and a border of 2 half boxes: from 2 - 1 to 6 + 1, that is 7 pixels for 6 cells.
    window, corner = paste_in_whole_pixels(torch.ones(4, 4), torch.tensor([2.0, 2.0, 6.0, 6.0]), (10, 12))
    assert corner == (1, 1)
    assert window.shape == (7, 7)
    assert window[1:6, 1:6].all()
    assert not window[0].any()
    assert not window[:, 6].any()


def test_in_inclusive_pixels_a_thin_box_still_has_a_pixel() -> None:
    window, _ = paste_in_inclusive_pixels(torch.ones(4, 4), torch.tensor([2.0, 2.0, 2.2, 6.0]), (10, 12))
    assert window.shape[1] == 1


def test_in_inclusive_pixels_a_box_ends_with_its_last_pixel() -> None:
    # The box covers pixels 2 to 5; named by its last pixel it is (2, 2, 5, 5), and with the border (1.25, 5.75).
    window, corner = paste_in_inclusive_pixels(torch.ones(4, 4), torch.tensor([2.0, 2.0, 6.0, 6.0]), (10, 12))
    assert corner == (1, 1)
    assert window.shape == (5, 5)
    named = paste_in_whole_pixels(torch.ones(4, 4), torch.tensor([2.0, 2.0, 5.0, 5.0]), (10, 12))
    assert torch.equal(window, named[0])


def test_in_whole_pixels_what_lies_outside_of_the_picture_is_cut() -> None:
    window, corner = paste_in_whole_pixels(torch.ones(4, 4), torch.tensor([-4.0, -4.0, 4.0, 4.0]), (3, 3))
    assert corner == (0, 0)
    assert window.tolist() == [[True] * 3] * 3


def test_each_kind_has_its_paste() -> None:
    assert find_paste("pixel_centers") is paste_in_box
    assert find_paste("whole_pixels") is paste_in_whole_pixels
    assert find_paste("inclusive_pixels") is paste_in_inclusive_pixels
