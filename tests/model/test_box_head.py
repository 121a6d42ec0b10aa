"""Class logits and deltas of regions: layout, sizes, initialisation."""

import math

import pytest
import torch
from torch import nn

from thingstuff.model.box_head import BoxOutputs, LightBoxHead, fully_connected_entry


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
