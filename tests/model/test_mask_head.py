"""The mask head: sizes, layers, initialisation."""

import math

import pytest
import torch
from torch import nn

from thingstuff.model.mask_head import ConvMaskHead, convolution_entry


def convolutions(module: nn.Module) -> list[nn.Conv2d]:
    return [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]


@pytest.mark.parametrize("regions", [0, 1, 3])
@pytest.mark.parametrize("size", [7, 14])
def test_masks_are_twice_as_large_as_the_features(size: int, regions: int) -> None:
    features = convolution_entry(6, 8)(torch.zeros(regions, 6, size, size))
    assert ConvMaskHead(8, 5)(features).shape == (regions, 5, 2 * size, 2 * size)


@pytest.mark.parametrize("num_convs", [1, 2, 4])
def test_number_of_convolutions_counts_the_entry(num_convs: int) -> None:
    head = ConvMaskHead(8, 5, num_convs)
    assert len(convolutions(convolution_entry(6, 8))) == 1
    assert [conv.kernel_size for conv in convolutions(head)] == [(3, 3)] * (num_convs - 1) + [(1, 1)]


def test_layers_and_initialisation_are_detectron2s() -> None:
    torch.manual_seed(0)
    entry, head = convolution_entry(256, 256), ConvMaskHead(256, 80)
    counts = sum(parameter.numel() for module in (entry, head) for parameter in module.parameters())
    assert counts == 4 * (256 * 256 * 9 + 256) + (256 * 256 * 4 + 256) + (256 * 80 + 80)
    for conv in (*convolutions(entry), *convolutions(head.convs)):
        assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / (256 * 9)), rel=0.05)
    assert head.upsample.weight.std().item() == pytest.approx(math.sqrt(2 / (256 * 4)), rel=0.05)
    assert head.predictor.weight.std().item() == pytest.approx(0.001, rel=0.05)
    assert (head.predictor.bias == 0).all()


def test_norm_follows_every_convolution() -> None:
    head, entry = ConvMaskHead(8, 5, 3, "group"), convolution_entry(6, 8, "group")
    norms = [sum(isinstance(layer, nn.GroupNorm) for layer in module.modules()) for module in (entry, head)]
    assert norms == [1, 2]
    assert all(conv.bias is None for conv in (*convolutions(entry), *convolutions(head.convs)))
