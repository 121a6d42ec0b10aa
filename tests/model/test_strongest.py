"""The strongest channel found by tiles, against that of all channels at full size."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from thingstuff.model.interpolation import surround, upsample_all
from thingstuff.model.strongest import pad_to_tiles, strongest, strongest_in_graph, touched_tiles
from thingstuff.structures import Size

shapes = st.tuples(st.integers(1, 20), st.integers(1, 40), st.integers(1, 40))
kinds = st.sampled_from(["noise", "smooth", "equal", "huge"])


def make_logits(shape: tuple[int, int, int], kind: str, seed: int) -> Tensor:
    """White noise, a few blobs, small whole numbers (which tie everywhere), or values far from 0."""
    generator = torch.Generator().manual_seed(seed)
    if kind == "smooth":
        coarse = 5 * torch.randn(1, shape[0], 3, 3, generator=generator)
        return F.interpolate(coarse, size=shape[1:], mode="bilinear")[0]
    logits = torch.randn(shape, generator=generator)
    return logits.round() if kind == "equal" else logits * (1e30 if kind == "huge" else 1)


def full_size(logits: Tensor) -> tuple[Tensor, Size]:
    size = 4 * logits.shape[1], 4 * logits.shape[2]
    return upsample_all(surround(logits), size), size


@settings(deadline=None)
@given(shapes, kinds, st.integers(0, 2**31))
def test_values_and_channels_are_those_of_all_channels_at_full_size(
    shape: tuple[int, int, int], kind: str, seed: int
) -> None:
    logits = make_logits(shape, kind, seed)
    full, size = full_size(logits)
    found = strongest(pad_to_tiles(logits), size)
    assert torch.equal(found.values, full.amax(dim=0))
    assert torch.equal(found.channels.long(), full.argmax(dim=0))
    values, channels = strongest_in_graph(surround(logits), size)
    assert torch.equal(values, found.values)
    assert torch.equal(channels, found.channels)


@settings(deadline=None)
@given(shapes, kinds, st.integers(0, 2**31), st.floats(-2, 4))
def test_only_what_is_relevant_has_to_be_right(
    shape: tuple[int, int, int], kind: str, seed: int, relevant: float
) -> None:
    logits = make_logits(shape, kind, seed)
    full, size = full_size(logits)
    cells = pad_to_tiles(logits)
    limit = torch.full_like(strongest(cells, size).bounds, relevant)
    found = strongest(cells, size, limit)
    right = full.amax(dim=0) >= relevant
    assert torch.equal(found.values[right], full.amax(dim=0)[right])
    assert torch.equal(found.channels[right].long(), full.argmax(dim=0)[right])
    assert (found.values <= full.amax(dim=0)).all()


def test_bounds_are_below_the_values_of_their_tile() -> None:
    logits = make_logits((6, 40, 24), "smooth", 0)
    full, size = full_size(logits)
    bounds = strongest(pad_to_tiles(logits), size).bounds
    assert bounds.shape == (6, 4)  # 41 x 25 gaps between cells, in tiles of 8
    for y, row in enumerate(bounds.tolist()):
        for x, bound in enumerate(row):
            tile = full.amax(dim=0)[max(32 * y - 2, 0) : 32 * y + 30, max(32 * x - 2, 0) : 32 * x + 30]
            assert (tile >= bound - 1e-4).all()
    assert (bounds > full.amax(dim=0).min()).any()


def test_of_equal_channels_the_first_wins_whatever_its_tile_needs() -> None:
    logits = torch.zeros(20, 24, 24)
    logits[7, :8] = 1
    logits[3, 16:] = 1
    found = strongest(pad_to_tiles(logits), (96, 96))
    assert found.channels[[0, 48, 95], 40].tolist() == [7, 0, 3]


def test_no_channel() -> None:
    found = strongest(pad_to_tiles(torch.zeros(3, 5, 9))[3:], (20, 36))
    assert (found.values == -torch.inf).all()
    assert (found.channels == 0).all()
    assert (found.bounds == -torch.inf).all()
    values, channels = strongest_in_graph(surround(torch.zeros(3, 5, 9))[3:], (20, 36))
    assert torch.equal(values, found.values)
    assert torch.equal(channels, found.channels)


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_broken_logits_break_nothing_elsewhere(value: float) -> None:
    logits = make_logits((5, 20, 40), "noise", 1)
    full, size = full_size(logits)
    logits[2, 10, 35] = value
    found = strongest(pad_to_tiles(logits), size)
    assert torch.equal(found.values[:, :96], full.amax(dim=0)[:, :96])
    assert torch.equal(found.channels[:, :96].long(), full.argmax(dim=0)[:, :96])


@given(st.tuples(*[st.integers(0, 140)] * 2), st.tuples(*[st.integers(0, 140)] * 2))
def test_touched_tiles(rows: tuple[int, int], columns: tuple[int, int]) -> None:
    (top, bottom), (left, right) = sorted(rows), sorted(columns)
    touched = torch.zeros(6, 6, dtype=torch.bool)
    touched[touched_tiles(top, left, bottom + 1, right + 1)] = True
    for y in range(6):
        for x in range(6):
            inside_y = any(32 * y - 2 <= pixel < 32 * y + 30 for pixel in range(top, bottom + 1))
            inside_x = any(32 * x - 2 <= pixel < 32 * x + 30 for pixel in range(left, right + 1))
            assert touched[y, x] == (inside_y and inside_x)
