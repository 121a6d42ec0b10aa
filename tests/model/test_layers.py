"""Norms, the convolution with a norm, and initialisations by their formulas."""

import math

import pytest
import torch
from torch import nn

from thingstuff.model.layers import conv_norm, init_msra, init_normal, init_xavier, make_norm


def weight(layer: nn.Module) -> torch.Tensor:
    assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)
    return layer.weight


def bias(layer: nn.Module) -> torch.Tensor:
    assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)
    assert layer.bias is not None
    return layer.bias


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("none", nn.Identity), ("batch", nn.BatchNorm2d), ("sync_batch", nn.SyncBatchNorm), ("group", nn.GroupNorm)],
)
def test_norms(kind, expected: type[nn.Module]) -> None:
    assert type(make_norm(kind, 64)) is expected


@pytest.mark.parametrize(("channels", "groups"), [(128, 32), (256, 32), (64, 32), (48, 16), (24, 8), (16, 8), (7, 1)])
def test_group_norm_has_the_most_groups_of_at_least_two_channels_up_to_32(channels: int, groups: int) -> None:
    norm = make_norm("group", channels)
    assert isinstance(norm, nn.GroupNorm)
    assert (norm.num_groups, norm.num_channels, norm.eps) == (groups, channels, 1e-5)


@pytest.mark.parametrize(
    ("norm", "relu", "expected"),
    [
        ("none", False, [nn.Conv2d]),
        ("none", True, [nn.Conv2d, nn.ReLU]),
        ("group", False, [nn.Conv2d, nn.GroupNorm]),
        ("batch", True, [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]),
    ],
)
def test_convolution_has_a_bias_where_it_has_no_norm(norm, relu: bool, expected: list[type]) -> None:
    layers = conv_norm(4, 8, 3, norm, relu=relu)
    assert [type(layer) for layer in layers] == expected
    assert isinstance(layers[0], nn.Conv2d)
    assert (layers[0].bias is not None) == (norm == "none")


@pytest.mark.parametrize("kernel_size", [1, 3])
def test_convolution_keeps_the_size(kernel_size: int) -> None:
    assert conv_norm(2, 5, kernel_size, "none", relu=True)(torch.zeros(1, 2, 7, 9)).shape == (1, 5, 7, 9)


def test_msra_deviation_follows_fan_out() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(64, 128, 3), nn.ConvTranspose2d(64, 32, 2), nn.Linear(300, 500))
    init_msra(module)
    # torch counts the outputs of a transposed convolution as its inputs, and so does Detectron2, which calls it.
    for layer, fan_out in zip(module, (128 * 9, 64 * 4, 500), strict=True):
        assert weight(layer).std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.05)
        assert (bias(layer) == 0).all()


def test_xavier_bound_follows_fan_in() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(64, 128, 3), nn.Linear(300, 500))
    init_xavier(module)
    for layer, fan_in in zip(module, (64 * 9, 300), strict=True):
        bound = math.sqrt(3 / fan_in)
        assert bound * 0.99 < weight(layer).abs().max().item() <= bound
        assert (bias(layer) == 0).all()


def test_normal_deviation() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(300, 500)
    init_normal(layer, std=0.01)
    assert weight(layer).std().item() == pytest.approx(0.01, rel=0.05)
    assert (bias(layer) == 0).all()


def test_layers_without_bias_can_be_initialised() -> None:
    layer = nn.Conv2d(3, 4, 3, bias=False)
    init_msra(layer)
    init_xavier(layer)
    init_normal(layer, 0.1)
    assert layer.bias is None
