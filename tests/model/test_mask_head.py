"""The mask head: sizes, layers, initialisation."""

import math
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from thingstuff.errors import InputError
from thingstuff.model.mask_head import ConvMaskHead, FusedMaskHead, convolution_entry
from thingstuff.model.pooling import AdaptivePool
from thingstuff.structures import NormKind
from thingstuff.training.losses import mask_loss


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


# --- with a fully connected branch ---


def count(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


class Says(nn.Module):
    """Says the same of every region."""

    def __init__(self, values: list[list[list[float]]]) -> None:
        super().__init__()
        self.values = torch.tensor(values)

    def forward(self, features: Tensor) -> Tensor:
        return self.values.expand(len(features), -1, -1, -1)


@pytest.mark.parametrize(
    ("fc_relu", "expected"),
    [
        (True, [[[-1, 2.5], [0.5, 0]], [[0, 0.5], [1, 2]]]),
        (False, [[[-3, 2.5], [0.5, 0]], [[-2, 0.5], [1, 2]]]),
    ],
)
def test_worked_example_of_the_fully_connected_branch(fc_relu: bool, expected: list[list[list[float]]]) -> None:
    head = FusedMaskHead(4, 2, size=1, fc_relu=fc_relu)
    head.register_module("predictor", Says([[[-1.0, 2], [0.5, -3]], [[0, 0], [1, -1]]]))
    nn.init.zeros_(head.fc.weight)
    head.fc.bias.data = torch.tensor([-2, 0.5, 0, 3])
    logits = head(torch.zeros(3, 4, 1, 1))
    torch.testing.assert_close(logits, torch.tensor(expected).expand(3, -1, -1, -1))
    if fc_relu:
        probabilities = [[[0.268941, 0.924142], [0.622459, 0.5]], [[0.5, 0.622459], [0.731059, 0.880797]]]
        torch.testing.assert_close(logits[0].sigmoid(), torch.tensor(probabilities), rtol=0, atol=1e-6)


def fused(channels: int = 8, num_masks: int = 5, size: int = 6, **options) -> FusedMaskHead:
    torch.manual_seed(0)
    head = FusedMaskHead(channels, num_masks, size, **options)
    nn.init.normal_(head.fc.weight)  # large enough to be seen
    return head


def without_branch(head: FusedMaskHead, num_masks: int = 5, **options) -> ConvMaskHead:
    """The convolutional path alone, with the same weights."""
    plain = ConvMaskHead(head.predictor.in_channels, num_masks, **options)
    renamed = {
        name.replace("conv_fcn", f"convs.{len(head.convs)}"): tensor
        for name, tensor in head.state_dict().items()
        if not name.startswith(("conv_fc.", "fc."))
    }
    plain.load_state_dict(renamed)
    return plain


FEATURES = torch.randn(3, 8, 6, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("num_convs", [2, 3, 4])
@pytest.mark.parametrize("norm", get_args(NormKind))
@pytest.mark.parametrize("fc_relu", [False, True])
def test_branch_adds_the_same_to_every_class(fc_relu: bool, norm: NormKind, num_convs: int) -> None:
    head = fused(norm=norm, num_convs=num_convs, fc_relu=fc_relu).eval()
    plain = without_branch(head, norm=norm, num_convs=num_convs).eval()
    added = head(FEATURES) - plain(FEATURES)
    assert len(head.convs) == num_convs - 2  # the branch leaves behind the last convolution but one
    torch.testing.assert_close(added, head.foreground(head.convs(FEATURES)).expand(-1, 5, -1, -1), rtol=0, atol=1e-4)
    assert (added < -1e-4).any() == (not fc_relu)
    nn.init.zeros_(head.fc.weight)
    assert torch.equal(head(FEATURES), plain(FEATURES))


def test_branch_flattens_channel_by_channel_and_fills_row_by_row() -> None:
    head = fused()
    hidden = head.conv_fc(FEATURES)
    assert hidden.shape == (3, 4, 6, 6)
    expected = torch.einsum("rcij,yxcij->ryx", hidden, head.fc.weight.view(12, 12, 4, 6, 6))
    torch.testing.assert_close(head.foreground(FEATURES)[:, 0], expected, rtol=1e-4, atol=1e-4)


def test_convolutions_do_not_know_the_place_but_the_branch_does() -> None:
    head = fused(size=14)
    spot = torch.zeros(1, 8, 14, 14)
    spot[:, :, 6:8, 6:8] = FEATURES[:1, :, :2, :2]
    moved = spot.roll((1, 2), dims=(2, 3))
    torch.testing.assert_close(
        without_branch(head)(moved), without_branch(head)(spot).roll((2, 4), dims=(2, 3)), rtol=1e-4, atol=1e-6
    )
    branch, branch_moved = head.foreground(head.convs(spot)), head.foreground(head.convs(moved))
    assert not torch.allclose(branch_moved, branch.roll((2, 4), dims=(2, 3)), atol=0.1)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("regions", [0, 2])
@pytest.mark.parametrize("norm", get_args(NormKind))
def test_fused_masks_of_any_number_of_regions(norm: NormKind, regions: int, training: bool) -> None:
    head = nn.Sequential(convolution_entry(3, 8, norm), fused(norm=norm)).train(training)
    logits = head(torch.randn(regions, 3, 6, 6))
    assert logits.shape == (regions, 5, 12, 12)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in head.parameters())


def test_a_branch_needs_a_convolution_to_leave_behind() -> None:
    with pytest.raises(InputError, match="num_convs is 1; a fused mask head needs at least 2"):
        FusedMaskHead(8, 5, num_convs=1)


def test_fused_head_has_the_official_layers_and_initialisation() -> None:
    torch.manual_seed(0)
    head = FusedMaskHead(256, 80, norm="group")
    pool = AdaptivePool(14, [convolution_entry(256, 256, "group") for _ in range(4)])
    assert count(head, pool) - count(head.predictor) == 24_950_032
    assert count(head.predictor) == 20_817 - 257  # without a mask of background
    assert (count(head.fc), count(head.conv_fc[1]), count(pool)) == (19_669_776, 295_168, 2_361_344)
    assert [norm.num_groups for norm in head.modules() if isinstance(norm, nn.GroupNorm)] == [32] * 5
    for conv in (*convolutions(head.convs), *convolutions(head.conv_fcn), *convolutions(head.conv_fc)):
        assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / (conv.out_channels * 9)), rel=0.05)
    assert head.upsample.weight.std().item() == pytest.approx(math.sqrt(2 / (256 * 4)), rel=0.05)
    assert head.predictor.weight.std().item() == pytest.approx(math.sqrt(2 / 80), rel=0.05)
    assert head.fc.weight.std().item() == pytest.approx(0.01, rel=0.05)
    for layer in (head.upsample, head.predictor, head.fc):
        assert layer.bias is not None
        assert (layer.bias == 0).all()


# --- what the loss teaches ---


def test_worked_example_of_the_mask_loss() -> None:
    logits = torch.tensor([[[0.0, 2], [-1, 1]]])
    wanted = torch.tensor([[[1.0, 0], [1, 1]]])
    assert (mask_loss(logits, wanted) / wanted.numel()).item() == pytest.approx(1.111650, abs=1e-6)


def test_only_masks_of_the_true_classes_learn_but_every_region_teaches_the_branch() -> None:
    head, classes = fused(), torch.tensor([1, 3, 1])
    added: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        output.retain_grad()
        added.append(output)

    head.fc.register_forward_hook(keep)
    logits = head(FEATURES)
    mask_loss(logits[torch.arange(3), classes], torch.ones(3, 12, 12)).backward()
    gradient = head.predictor.weight.grad
    assert gradient is not None
    assert gradient.flatten(1).any(dim=1).tolist() == [False, True, False, True, False]
    assert added[0].grad is not None
    assert (added[0].grad != 0).any(dim=1).all()
