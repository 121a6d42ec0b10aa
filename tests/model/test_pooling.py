"""Which level a region is pooled from, and what comes out, with and without gradient."""

import pytest
import torch
from torch import nn
from torchvision.ops import roi_align

from thingstuff.model.pooling import AssignedLevelPool, assign_level, with_batch_index
from thingstuff.structures import Pyramid

STRIDES = (4, 8, 16, 32)


def pyramid(requires_grad: bool, dtype: torch.dtype = torch.float32) -> Pyramid:
    """Features of two pictures of 512x512 pixels; stride 64 is never pooled from."""
    generator = torch.Generator().manual_seed(0)
    features = {
        stride: torch.randn(2, 2, 512 // stride, 512 // stride, generator=generator).to(dtype)
        for stride in (*STRIDES, 64)
    }
    return Pyramid({stride: feature.requires_grad_(requires_grad) for stride, feature in features.items()})


def squares(*sides: float) -> torch.Tensor:
    return torch.tensor([[10, 10, 10 + side, 10 + side] for side in sides], dtype=torch.float32).view(-1, 4)


@pytest.mark.parametrize(
    ("side", "stride"),
    [(0, 4), (1, 4), (56, 4), (111.9, 4), (112, 8), (223.9, 8), (224, 16), (447.9, 16), (448, 32), (5000, 32)],
)
def test_level_of_a_square(side: float, stride: int) -> None:
    (position,) = assign_level(squares(side), STRIDES).tolist()
    assert STRIDES[position] == stride


def test_level_follows_the_area_not_the_shape() -> None:
    boxes = torch.tensor([[0.0, 0, 448, 112], [0, 0, 112, 448], [0, 0, 448, 111]])
    assert [STRIDES[position] for position in assign_level(boxes, STRIDES).tolist()] == [16, 16, 8]


def test_level_among_other_strides() -> None:
    boxes = squares(10, 112, 224, 448, 900)
    assert [(8, 16)[position] for position in assign_level(boxes, (8, 16)).tolist()] == [8, 8, 16, 16, 16]
    levels = assign_level(boxes, (4, 8, 16, 32, 64)).tolist()
    assert [(4, 8, 16, 32, 64)[position] for position in levels] == [4, 8, 16, 32, 64]


def test_rows_begin_with_the_number_of_their_picture() -> None:
    boxes = [squares(1, 2), squares(), squares(3)]
    expected = [[0, 10, 10, 11, 11], [0, 10, 10, 12, 12], [2, 10, 10, 13, 13]]
    assert with_batch_index(boxes).tolist() == expected


BOXES = [
    torch.tensor([[3.0, 5, 40, 60], [20, 30, 180, 190], [0, 0, 300, 260], [0, 0, 512, 512], [7, 7, 8, 8]]),
    torch.tensor([[100.0, 100, 600, 700], [511, 511, 512, 512], [0, 0, 0, 0]]),
]


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_equals_torchvision_on_the_assigned_level(sampling_ratio: int, aligned: bool, requires_grad: bool) -> None:
    features = pyramid(requires_grad)
    pool = AssignedLevelPool(7, nn.Identity(), sampling_ratio=sampling_ratio, aligned=aligned)
    pooled = pool(features, BOXES)
    assert pooled.shape == (8, 2, 7, 7)
    regions = with_batch_index(BOXES)
    for row, position in enumerate(assign_level(regions[:, 1:], STRIDES).tolist()):
        stride = STRIDES[position]
        alone = roi_align(
            features.features[stride], regions[row : row + 1], 7, 1 / stride, sampling_ratio, aligned=aligned
        )
        torch.testing.assert_close(pooled[row : row + 1], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_features_of_other_levels_do_not_matter(sampling_ratio: int, requires_grad: bool) -> None:
    features = {
        stride: torch.full((1, 1, 512 // stride, 512 // stride), 1e6, requires_grad=requires_grad)
        for stride in (*STRIDES, 64)
    }
    features[8] = torch.full_like(features[8], 3.0).requires_grad_(requires_grad)
    pooled = AssignedLevelPool(3, nn.Identity(), sampling_ratio=sampling_ratio)(Pyramid(features), [squares(120, 200)])
    torch.testing.assert_close(pooled, torch.full((2, 1, 3, 3), 3.0))


@pytest.mark.parametrize("requires_grad", [False, True])
def test_rows_that_only_fill_up_are_pooled_to_zero(requires_grad: bool) -> None:
    pooled = AssignedLevelPool(3, nn.Identity())(pyramid(requires_grad), [torch.zeros(4, 4), torch.zeros(0, 4)])
    assert torch.equal(pooled, torch.zeros(4, 2, 3, 3))


@pytest.mark.parametrize("requires_grad", [False, True])
def test_no_region_at_all(requires_grad: bool) -> None:
    entry = nn.Sequential(nn.Flatten(), nn.Linear(18, 5))
    assert AssignedLevelPool(3, entry)(pyramid(requires_grad), [torch.zeros(0, 4)] * 2).shape == (0, 5)


def test_entry_follows_pooling() -> None:
    entry = nn.Conv2d(2, 4, 3)
    pool = AssignedLevelPool(7, entry)
    features = pyramid(False)
    assert torch.equal(pool(features, BOXES), entry(pool.pool(features, BOXES)))


@pytest.mark.parametrize("requires_grad", [False, True])
def test_half_precision_features_are_pooled_in_full(requires_grad: bool) -> None:
    half, pool = pyramid(requires_grad, torch.bfloat16), AssignedLevelPool(7, nn.Identity())
    full = Pyramid({stride: feature.float() for stride, feature in half.features.items()})
    pooled = pool(half, BOXES)
    assert pooled.dtype == torch.float32
    torch.testing.assert_close(pooled, pool(full, BOXES))
