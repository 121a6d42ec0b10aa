"""The few layers that several parts share: convolution with a norm, initialisations by their names in the papers."""

import math
from typing import assert_never

import torch
from torch import Tensor, nn

from thingstuff.structures import NormKind


def make_norm(kind: NormKind, channels: int) -> nn.Module:
    """Build a norm layer for ``channels`` channels; group norm has at most 32 groups of at least two channels."""
    match kind:
        case "none":
            return nn.Identity()
        case "batch":
            return nn.BatchNorm2d(channels)
        case "sync_batch":
            return nn.SyncBatchNorm(channels)
        case "group":
            # A group of one channel would be a single value where the map is a single pixel: nothing to normalise by.
            groups = math.gcd(32, channels)
            return nn.GroupNorm(max(1, groups // 2) if groups == channels else groups, channels)
        case _:
            assert_never(kind)


def conv_norm(in_channels: int, out_channels: int, kernel_size: int, norm: NormKind, *, relu: bool) -> nn.Sequential:
    """A convolution that keeps the size, its norm and perhaps a ReLU; it has a bias where it has no norm."""
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=norm == "none")
    layers: list[nn.Module] = [conv]
    if norm != "none":
        layers.append(make_norm(norm, out_channels))
    if relu:
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def has_own_steps(features: Tensor) -> bool:
    """Whether this package's steps are the faster ones: on processors, and not in a graph, which has its operators."""
    return features.device.type == "cpu" and not torch.compiler.is_compiling()


def init_msra(module: nn.Module) -> None:
    """Initialise every convolution and linear layer with Kaiming's normal scheme (fan-out, ReLU), biases 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            _zero(layer.bias)


def init_xavier(module: nn.Module) -> None:
    """Initialise convolutions and linear layers uniformly within ``sqrt(3 / fan_in)`` (Caffe2's Xavier), biases 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_uniform_(layer.weight, a=1)
            _zero(layer.bias)


def init_normal(layer: nn.Conv2d | nn.Linear, std: float) -> None:
    """Initialise one layer with normal weights of deviation ``std``, bias 0."""
    nn.init.normal_(layer.weight, std=std)
    _zero(layer.bias)


def _zero(bias: Tensor | None) -> None:
    if bias is not None:
        nn.init.zeros_(bias)
