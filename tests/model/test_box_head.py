"""Class logits and deltas of regions: layout, sizes, initialisation."""

import math
from typing import get_args

import pytest
import torch
from torch import nn

from thingstuff.model.box_head import BoxOutputs, HeavyBoxHead, LightBoxHead, fully_connected_entry
from thingstuff.model.mask_head import convolution_entry
from thingstuff.model.pooling import AdaptivePool
from thingstuff.structures import NormKind


def test_outputs_are_things_then_background_and_one_box_for_each_thing() -> None:
    outputs = BoxOutputs(8, num_things=3)
    with torch.no_grad():
        outputs.classes.bias.copy_(torch.tensor([1.0, 2, 3, 4]))
        outputs.deltas.bias.copy_(torch.arange(12.0))
        predictions = outputs(torch.zeros(2, 8))
    assert predictions.class_logits.tolist() == [[1, 2, 3, 4]] * 2
    assert predictions.deltas.tolist() == [[[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]] * 2


@pytest.mark.parametrize("regions", [0, 1, 5])
@pytest.mark.parametrize("class_agnostic", [False, True])
def test_shapes(class_agnostic: bool, regions: int) -> None:
    predictions = LightBoxHead(16, 4, class_agnostic)(torch.zeros(regions, 16))
    assert predictions.class_logits.shape == (regions, 5)
    assert predictions.deltas.shape == (regions, 1 if class_agnostic else 4, 4)


def test_layers_and_initialisation_are_detectron2s() -> None:
    torch.manual_seed(0)
    entry, head = fully_connected_entry(256, 7, 1024), LightBoxHead(1024, 80)
    first, second = entry[1], head.hidden[0]
    assert isinstance(first, nn.Linear)
    assert isinstance(second, nn.Linear)
    assert first.weight.shape == (1024, 12544)
    for layer, fan_in in ((first, 12544), (second, 1024)):
        bound = math.sqrt(3 / fan_in)
        assert 0.99 * bound < layer.weight.abs().max().item() <= bound
    assert head.outputs.classes.weight.shape == (81, 1024)
    assert head.outputs.deltas.weight.shape == (320, 1024)
    assert head.outputs.classes.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert head.outputs.deltas.weight.std().item() == pytest.approx(0.001, rel=0.05)
    for layer in (first, second, head.outputs.classes, head.outputs.deltas):
        assert (layer.bias == 0).all()


def test_entry_flattens_channel_by_channel() -> None:
    entry = fully_connected_entry(2, 3, 4)
    features = torch.randn(5, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    linear = entry[1]
    assert isinstance(linear, nn.Linear)
    expected = torch.einsum("rcij,ocij->ro", features, linear.weight.view(4, 2, 3, 3)).relu()
    torch.testing.assert_close(entry(features), expected)


def count(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


# --- norms ---


@pytest.mark.parametrize(
    ("norm", "layer"),
    [("none", None), ("batch", nn.BatchNorm1d), ("sync_batch", nn.SyncBatchNorm), ("group", nn.GroupNorm)],
)
def test_norm_follows_every_fully_connected_layer_which_keeps_its_bias(
    norm: NormKind, layer: type[nn.Module] | None
) -> None:
    entry, head = fully_connected_entry(2, 3, 4, norm), LightBoxHead(4, 5, norm=norm)
    norms = [] if layer is None else [layer]
    assert [type(part) for part in entry] == [nn.Flatten, nn.Linear, *norms, nn.ReLU]
    assert [type(part) for part in head.hidden] == [nn.Linear, *norms, nn.ReLU]
    assert {"1.weight", "1.bias"} <= set(entry.state_dict())
    assert {"hidden.0.weight", "hidden.0.bias"} <= set(head.state_dict())


def test_group_norm_of_a_table_divides_by_the_biased_deviation() -> None:
    head = LightBoxHead(8, 2, norm="group")
    linear, norm = head.hidden[0], head.hidden[1]
    assert isinstance(linear, nn.Linear)
    nn.init.eye_(linear.weight)
    assert norm(linear(torch.arange(8.0)[None]))[0].tolist() == pytest.approx([-0.99998, 0.99998] * 4, abs=1e-5)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("regions", [0, 2, 5])
@pytest.mark.parametrize("norm", get_args(NormKind))
def test_any_norm_takes_any_number_of_regions(norm: NormKind, regions: int, training: bool) -> None:
    features = torch.randn(regions, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    light = nn.Sequential(fully_connected_entry(4, 3, 16, norm), LightBoxHead(16, 2, norm=norm))
    heavy = nn.Sequential(convolution_entry(4, 8, norm), HeavyBoxHead(8, 3, 16, 2, norm=norm))
    for head in (light, heavy):
        predictions = head.train(training)(features)
        assert predictions.class_logits.shape == (regions, 3)
        assert predictions.deltas.shape == (regions, 2, 4)
        assert predictions.class_logits.isfinite().all()
        torch.cat([part.flatten() for part in predictions]).sum().backward()
        assert all(parameter.grad is not None for parameter in head.parameters())


# --- convolutions before the fully connected layer ---


@pytest.mark.parametrize("class_agnostic", [False, True])
@pytest.mark.parametrize("size", [1, 7])
def test_shapes_of_the_heavy_head(size: int, class_agnostic: bool) -> None:
    head = HeavyBoxHead(6, size, 16, 4, class_agnostic_boxes=class_agnostic)
    predictions = head(torch.zeros(3, 6, size, size))
    assert predictions.class_logits.shape == (3, 5)
    assert predictions.deltas.shape == (3, 1 if class_agnostic else 4, 4)


@pytest.mark.parametrize("num_convs", [1, 2, 4])
def test_number_of_convolutions_of_the_heavy_head_counts_the_entry(num_convs: int) -> None:
    head = HeavyBoxHead(6, 7, 16, 4, num_convs, norm="group")
    assert sum(isinstance(layer, nn.Conv2d) for layer in head.modules()) == num_convs - 1
    assert sum(isinstance(layer, nn.GroupNorm) for layer in head.modules()) == num_convs - 1
    assert head(torch.zeros(2, 6, 7, 7)).class_logits.shape == (2, 5)


def test_heavy_head_flattens_channel_by_channel() -> None:
    torch.manual_seed(0)
    head = HeavyBoxHead(2, 3, 4, 5, num_convs=1)
    features = torch.randn(5, 2, 3, 3)
    linear = head.hidden[1]
    assert isinstance(linear, nn.Linear)
    hidden = torch.einsum("rcij,ocij->ro", features, linear.weight.view(4, 2, 3, 3)).relu()
    for mine, expected in zip(head(features), head.outputs(hidden), strict=True):
        torch.testing.assert_close(mine, expected)


def test_initialisation_of_the_heavy_head_is_the_official_one() -> None:
    torch.manual_seed(0)
    head = HeavyBoxHead(64, 7, 256, 80)
    for layer in head.convs.modules():
        if isinstance(layer, nn.Conv2d):
            assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / (64 * 9)), rel=0.05)
            assert layer.bias is not None
            assert (layer.bias == 0).all()
    linear = head.hidden[1]
    assert isinstance(linear, nn.Linear)
    bound = math.sqrt(3 / (64 * 49))
    assert 0.99 * bound < linear.weight.abs().max().item() <= bound
    assert head.outputs.classes.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert head.outputs.deltas.weight.std().item() == pytest.approx(0.001, rel=0.05)
    for layer in (linear, head.outputs.classes, head.outputs.deltas):
        assert (layer.bias == 0).all()


def test_heads_on_four_levels_have_as_many_parameters_as_the_official_ones() -> None:
    with torch.device("meta"):
        heavy = HeavyBoxHead(256, 7, 1024, 80, norm="group")
        heavy_pool = AdaptivePool(7, [convolution_entry(256, 256, "group") for _ in range(4)])
        light = LightBoxHead(1024, 80, norm="group")
        light_pool = AdaptivePool(7, [fully_connected_entry(256, 7, 1024, "group") for _ in range(4)])
    outputs = count(heavy.outputs)
    assert outputs == count(light.outputs) == 415_125 - 4 * 1025  # without boxes of background
    assert count(heavy, heavy_pool) - outputs == 16_978_432
    assert count(light, light_pool) - outputs == 52_444_160
