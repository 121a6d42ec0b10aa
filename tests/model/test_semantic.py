"""The semantic branch: how levels reach stride 4 and are added."""

import math

import pytest
import torch
from torch import nn

from thingstuff.model.semantic import UpsampleSumHead
from thingstuff.structures import Pyramid

STRIDES = (4, 8, 16, 32, 64)


def pyramid(channels: int, values: tuple[float, ...] = (0, 0, 0, 0, 0), height: int = 64, width: int = 96) -> Pyramid:
    shapes = {stride: (2, channels, math.ceil(height / stride), math.ceil(width / stride)) for stride in STRIDES}
    return Pyramid(
        {stride: torch.full(shape, float(value)) for (stride, shape), value in zip(shapes.items(), values, strict=True)}
    )


def passing_through(**options) -> UpsampleSumHead:
    """A head of one channel whose convolutions change nothing."""
    head = UpsampleSumHead(1, 1, 1, norm="none", **options)
    for module in head.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.dirac_(module.weight)
    return head


def test_logits_stand_at_stride_4() -> None:
    assert UpsampleSumHead(6, 8, 5)(pyramid(6)).logits.shape == (2, 5, 16, 24)


def test_levels_are_added() -> None:
    logits = passing_through()(pyramid(1, (1, 20, 300, 4000, 50000))).logits
    assert logits.unique().tolist() == [4321]


def test_only_the_given_levels_count() -> None:
    logits = passing_through(strides=(4, 8))(pyramid(1, (1, 20, 300, 4000, 50000))).logits
    assert logits.unique().tolist() == [21]


def test_each_level_is_rectified_before_the_sum() -> None:
    assert passing_through()(pyramid(1, (-5, 20, -300, 4000, 0))).logits.unique().tolist() == [4020]


@pytest.mark.parametrize(("position", "stride"), list(enumerate((8, 16, 32), start=1)))
def test_upsampling_is_bilinear_in_steps_of_two(position: int, stride: int) -> None:
    features = dict(pyramid(1).features)
    features[stride] = torch.rand(features[stride].shape, generator=torch.Generator().manual_seed(0))
    expected = features[stride]
    for _ in range(position):
        expected = nn.functional.interpolate(expected, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(passing_through()(Pyramid(features)).logits, expected)


def test_layers_and_initialisation_are_those_of_the_paper() -> None:
    torch.manual_seed(0)
    head = UpsampleSumHead(256, 128, 54)
    assert sum(parameter.numel() for parameter in head.parameters()) == 1_630_774
    convs = [[m for m in level.modules() if isinstance(m, nn.Conv2d)] for level in head.levels]
    assert [[conv.in_channels for conv in level] for level in convs] == [[256], [256], [256, 128], [256, 128, 128]]
    norms = [module for module in head.modules() if isinstance(module, nn.GroupNorm)]
    assert [norm.num_groups for norm in norms] == [32] * 7
    for level in convs:
        for conv in level:
            assert conv.bias is None
            assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / (128 * 9)), rel=0.05)
    assert head.predictor.weight.std().item() == pytest.approx(math.sqrt(2 / 54), rel=0.05)


def test_logits_are_in_full_precision() -> None:
    head = UpsampleSumHead(6, 8, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert head(pyramid(6)).logits.dtype == torch.float32
