"""The feature pyramid: what flows down, what comes out."""

import math

import pytest
import torch
from torch import Tensor, nn

from thingstuff.model.neck import FPN
from thingstuff.structures import Pyramid


def constant_pyramid(values: dict[int, float], height: int = 64, width: int = 96) -> Pyramid:
    return Pyramid(
        {
            stride: torch.full((1, 1, math.ceil(height / stride), math.ceil(width / stride)), value)
            for stride, value in values.items()
        }
    )


def passing_through() -> FPN:
    """A pyramid of one channel whose convolutions change nothing."""
    neck = FPN((1, 1, 1, 1), channels=1)
    for layers in (neck.lateral, neck.output):
        for conv in layers.modules():
            if isinstance(conv, nn.Conv2d):
                nn.init.dirac_(conv.weight)
    return neck


def test_what_is_coarse_flows_down_to_what_is_fine() -> None:
    features = passing_through()(constant_pyramid({4: 1.0, 8: 20.0, 16: 300.0, 32: 4000.0})).features
    expected = {4: 4321, 8: 4320, 16: 4300, 32: 4000, 64: 4000}
    assert {stride: feature.unique().tolist() for stride, feature in features.items()} == {
        stride: [value] for stride, value in expected.items()
    }


def test_upsampling_repeats_pixels() -> None:
    pyramid = constant_pyramid({4: 0.0, 8: 0.0, 16: 0.0, 32: 0.0})
    coarse = torch.arange(6.0).view(1, 1, 2, 3)
    features = passing_through()(Pyramid({**pyramid.features, 32: coarse})).features
    for stride in (4, 8, 16):
        times = 32 // stride
        assert torch.equal(features[stride], coarse.repeat_interleave(times, 2).repeat_interleave(times, 3))


def test_stride_64_is_every_second_pixel_of_stride_32() -> None:
    coarse = torch.arange(15.0).view(1, 1, 3, 5)
    pyramid = constant_pyramid({4: 0.0, 8: 0.0, 16: 0.0}, 96, 160)
    features = passing_through()(Pyramid({**pyramid.features, 32: coarse})).features
    assert features[64].tolist() == [[[[0, 2, 4], [10, 12, 14]]]]


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 96), (96, 160), (70, 50)])
def test_sizes(height: int, width: int) -> None:
    channels = {4: 3, 8: 5, 16: 7, 32: 9}
    pyramid = Pyramid({s: torch.zeros(2, c, math.ceil(height / s), math.ceil(width / s)) for s, c in channels.items()})
    features = FPN(tuple(channels.values()), channels=6)(pyramid).features
    assert {stride: tuple(feature.shape) for stride, feature in features.items()} == {
        stride: (2, 6, math.ceil(height / stride), math.ceil(width / stride)) for stride in (4, 8, 16, 32, 64)
    }


def convolutions(neck: FPN) -> list[nn.Conv2d]:
    return [module for module in neck.modules() if isinstance(module, nn.Conv2d)]


def test_layers_are_those_of_the_paper() -> None:
    torch.manual_seed(0)
    neck = FPN((256, 512, 1024, 2048))
    assert [(c.in_channels, c.out_channels, c.kernel_size[0]) for c in convolutions(neck)] == [
        *((width, 256, 1) for width in (256, 512, 1024, 2048)),
        *((256, 256, 3) for _ in range(4)),
    ]
    assert sum(parameter.numel() for parameter in neck.parameters()) == 26_799_296 - 23_454_912
    for conv in convolutions(neck):
        bias = conv.bias
        assert isinstance(bias, Tensor)
        assert (bias == 0).all()
        bound = math.sqrt(3 / conv.weight[0].numel())
        assert 0.99 * bound < conv.weight.abs().max() <= bound


def test_norm_replaces_the_bias() -> None:
    neck = FPN((3, 3, 3, 3), channels=8, norm="group")
    assert all(conv.bias is None for conv in convolutions(neck))
    assert sum(isinstance(module, nn.GroupNorm) for module in neck.modules()) == 8
