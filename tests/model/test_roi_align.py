"""RoIAlign over a pyramid against torchvision's operator, in value and in gradient."""

import pytest
import torch
from torch import Tensor
from torchvision.ops import roi_align

from thingstuff.model.roi_align import roi_align_pyramid

STRIDES = (4, 8, 16, 32)


def pyramid(requires_grad: bool = True) -> list[Tensor]:
    """Features of two pictures of 96x160 pixels."""
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(2, 3, 96 // stride, 160 // stride, generator=generator).requires_grad_(requires_grad)
        for stride in STRIDES
    ]


def scattered_regions(count: int) -> Tensor:
    """Regions of all sizes, a third of them beyond the border."""
    generator = torch.Generator().manual_seed(1)
    center = torch.rand(count, 2, generator=generator) * torch.tensor([190.0, 120]) - 15
    half = 2 ** (torch.rand(count, 2, generator=generator) * 6 - 1)
    picture = torch.arange(count)[:, None] % 2
    return torch.cat([picture, center - half, center + half], dim=1)


def by_torchvision(
    features: list[Tensor], regions: Tensor, levels: Tensor, size: int, sampling_ratio: int, aligned: bool
) -> Tensor:
    pooled = torch.zeros(len(regions), 3, size, size)
    for position, stride in enumerate(STRIDES):
        part = roi_align(features[position], regions, size, 1 / stride, sampling_ratio, aligned)
        pooled = torch.where((levels == position)[:, None, None, None], part, pooled)
    return pooled


def assert_equals_torchvision(regions: Tensor, levels: Tensor, size: int, sampling_ratio: int, aligned: bool) -> None:
    mine, theirs = pyramid(), pyramid()
    actual = roi_align_pyramid(mine, regions, levels, size, STRIDES, sampling_ratio, aligned)
    expected = by_torchvision(theirs, regions, levels, size, sampling_ratio, aligned)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    direction = torch.randn(actual.shape, generator=torch.Generator().manual_seed(2))
    (actual * direction).sum().backward()
    (expected * direction).sum().backward()
    for my_level, their_level in zip(mine, theirs, strict=True):
        torch.testing.assert_close(my_level.grad, their_level.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
@pytest.mark.parametrize("size", [1, 7])
def test_equals_torchvision_on_all_levels(size: int, sampling_ratio: int, aligned: bool) -> None:
    regions = scattered_regions(60)
    assert_equals_torchvision(regions, torch.arange(60) % 4, size, sampling_ratio, aligned)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
@pytest.mark.parametrize(
    "box",
    [
        (0, 0, 160, 96),
        (0, 0, 1, 1),
        (159, 95, 160, 96),
        (-40, -40, 200, 140),
        (150, 90, 400, 400),
        (300, 300, 340, 330),
        (20.5, 30.25, 21, 80),
    ],
    ids=str,
)
def test_equals_torchvision_at_the_border(box: tuple[float, ...], sampling_ratio: int, aligned: bool) -> None:
    regions = torch.tensor([[1, *box]] * 4, dtype=torch.float32)
    assert_equals_torchvision(regions, torch.arange(4), 5, sampling_ratio, aligned)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_equals_torchvision_on_regions_without_extent(sampling_ratio: int, aligned: bool) -> None:
    boxes = [[0, 0, 0, 0, 0], [0, 30, 30, 30, 50], [1, 30, 30, 50, 30], [1, 50, 40, 30, 20], [0, 10, 10, 60, 60]]
    regions = torch.tensor(boxes, dtype=torch.float32)
    assert_equals_torchvision(regions, torch.tensor([0, 1, 2, 3, 0]), 3, sampling_ratio, aligned)
    assert_equals_torchvision(regions[:1], torch.tensor([0]), 3, sampling_ratio, aligned)


@pytest.mark.parametrize("aligned", [True, False])
def test_constant_features_are_pooled_to_the_constant(aligned: bool) -> None:
    features = [torch.full((1, 2, 96 // stride, 160 // stride), 10.0 + stride) for stride in STRIDES]
    regions = torch.tensor([[0.0, 16, 16, 60, 50]] * 4)
    pooled = roi_align_pyramid(features, regions, torch.arange(4), 7, STRIDES, 0, aligned)
    expected = torch.tensor([14.0, 18, 26, 42])[:, None, None, None].expand(4, 2, 7, 7)
    torch.testing.assert_close(pooled, expected)


def test_no_region_gives_an_empty_result_that_can_be_differentiated() -> None:
    features = pyramid()
    pooled = roi_align_pyramid(features, torch.zeros(0, 5), torch.zeros(0, dtype=torch.int64), 7, STRIDES, 0, True)
    assert pooled.shape == (0, 3, 7, 7)
    pooled.sum().backward()
    for level in features:
        assert level.grad is not None
        assert (level.grad == 0).all()
