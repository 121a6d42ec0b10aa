"""The feature pyramid: what flows down, what comes out."""

import math
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from thingstuff.model.neck import FPN, BottomUpPath
from thingstuff.structures import BottomUpOrder, NormKind, Pyramid


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


def convolutions(neck: nn.Module) -> list[nn.Conv2d]:
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


# --- mean of the coarsest level ---


def test_global_average_is_added_to_the_top_and_flows_down() -> None:
    neck = FPN((1, 1, 1, 1), channels=1, global_average=True)
    neck.load_state_dict(passing_through().state_dict(), strict=False)
    assert neck.global_average is not None
    nn.init.constant_(neck.global_average.weight, 0.5)
    nn.init.constant_(neck.global_average.bias, 1.0)
    pyramid = constant_pyramid({4: 1.0, 8: 20.0, 16: 300.0, 32: 0.0})
    coarse = torch.arange(6.0).view(1, 1, 2, 3)  # its mean is 2.5
    features = neck(Pyramid({**pyramid.features, 32: coarse})).features
    torch.testing.assert_close(features[32], coarse + 2.25)
    for stride, below in {16: 300, 8: 320, 4: 321}.items():
        times = 32 // stride
        expected = coarse.repeat_interleave(times, 2).repeat_interleave(times, 3) + 2.25 + below
        torch.testing.assert_close(features[stride], expected)


def test_global_average_sees_the_backbone_not_the_lateral() -> None:
    torch.manual_seed(0)
    neck = FPN((3, 4, 5, 6), channels=2, global_average=True)
    channels = {4: 3, 8: 4, 16: 5, 32: 6}
    pyramid = Pyramid({stride: torch.randn(2, width, 64 // stride, 64 // stride) for stride, width in channels.items()})
    assert neck.global_average is not None
    added = neck.global_average(pyramid.features[32].mean(dim=(2, 3)))
    without = FPN((3, 4, 5, 6), channels=2)
    without.load_state_dict(neck.state_dict(), strict=False)
    lateral = without.lateral[3]
    lateral.register_forward_hook(lambda _module, _inputs, output: output + added[..., None, None])
    for stride, feature in neck(pyramid).features.items():
        torch.testing.assert_close(feature, without(pyramid).features[stride])


def test_global_average_is_upsnets() -> None:
    torch.manual_seed(0)
    neck = FPN((256, 512, 1024, 2048), global_average=True)
    assert sum(parameter.numel() for parameter in neck.parameters()) == 3_868_928
    assert neck.global_average is not None
    # torch's own initialisation of a linear layer: weights and biases uniform within 1 / sqrt(inputs).
    for parameter in (neck.global_average.weight, neck.global_average.bias):
        assert 0.95 / math.sqrt(2048) < parameter.abs().max() <= 1 / math.sqrt(2048)


# --- from fine to coarse ---


def worked_example(*, relu: bool, order: BottomUpOrder) -> list[list[list[float]]]:
    """N2, N3 and N4 of a path of one channel over 4x4, 2x2 and 1x1 pixels."""
    path = BottomUpPath(1, levels=3, relu=relu, order=order)
    for layers, corner in ((path.down, 1.0), (path.output, -1.0)):
        for conv in convolutions(layers):
            nn.init.zeros_(conv.weight)
            conv.weight.data[0, 0, 1, 1] = 1.0
            conv.weight.data[0, 0, 2, 2] = corner
    levels = [
        torch.arange(16.0).view(1, 1, 4, 4),
        torch.tensor([[[[-30.0, 5], [10, -80]]]]),
        torch.full((1, 1, 1, 1), 7.0),
    ]
    assert path.down[0](levels[0]).tolist() == [[[[5, 9], [21, 25]]]]
    return [level[0, 0].tolist() for level in path(levels)]


@pytest.mark.parametrize(
    ("relu", "order", "third", "fourth"),
    [
        (True, "paper", [[30, 14], [31, 0]], 37),
        (False, "paper", [[30, 14], [31, -55]], -18),
        (False, "mmdet", [[30, 14], [31, -55]], -73),
    ],
)
def test_bottom_up_path_of_one_channel(
    relu: bool, order: BottomUpOrder, third: list[list[float]], fourth: float
) -> None:
    finest = torch.arange(16.0).view(4, 4).tolist()
    assert worked_example(relu=relu, order=order) == [finest, third, [[fourth]]]


def random_levels(channels: int, height: int, width: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(2, channels, math.ceil(height / s), math.ceil(width / s), generator=generator)
        for s in (4, 8, 16, 32)
    ]


@given(height=st.integers(1, 200), width=st.integers(1, 200), order=st.sampled_from(["paper", "mmdet"]))
@settings(max_examples=30, deadline=None)
def test_bottom_up_path_keeps_all_sizes_and_the_finest_level(height: int, width: int, order: BottomUpOrder) -> None:
    levels = random_levels(2, height, width)
    path = BottomUpPath(2, order=order)(levels)
    assert [level.shape for level in path] == [level.shape for level in levels]
    assert torch.equal(path[0], levels[0])


@pytest.mark.parametrize("order", ["paper", "mmdet"])
def test_a_path_that_passes_nothing_up_keeps_the_pyramid(order: BottomUpOrder) -> None:
    path, levels = BottomUpPath(3, relu=False, order=order), random_levels(3, 100, 84)
    for conv in convolutions(path.down):
        nn.init.zeros_(conv.weight)
    for conv in convolutions(path.output):
        nn.init.dirac_(conv.weight)
    for mine, level in zip(path(levels), levels, strict=True):
        assert torch.equal(mine, level)


def test_an_empty_pyramid_is_filled_from_its_finest_level() -> None:
    path, levels = BottomUpPath(3), random_levels(3, 100, 84)
    results = path([levels[0], *(torch.zeros_like(level) for level in levels[1:])])
    expected = levels[0]
    for result, down, output in zip(results[1:], path.down, path.output, strict=True):
        expected = output(down(expected))
        torch.testing.assert_close(result, expected)


@pytest.mark.parametrize("passing", [False, True])
def test_the_two_orders_part_from_the_third_level_on(passing: bool) -> None:
    torch.manual_seed(0)
    paper, mmdet = BottomUpPath(3, relu=False), BottomUpPath(3, relu=False, order="mmdet")
    if passing:
        for conv in convolutions(paper.output):
            nn.init.dirac_(conv.weight)
    mmdet.load_state_dict(paper.state_dict())
    levels = random_levels(3, 128, 96)
    equal = [torch.allclose(a, b) for a, b in zip(paper(levels), mmdet(levels), strict=True)]
    assert equal == [True, True, passing, passing]


@pytest.mark.parametrize("has_path", [False, True])
def test_edges_of_the_finest_level_reach_the_coarsest_by_the_path_alone(has_path: bool) -> None:
    torch.manual_seed(0)
    neck = FPN((3, 3, 3, 3), channels=4, bottom_up=BottomUpPath(4) if has_path else None)
    finest = torch.randn(1, 3, 16, 24, requires_grad=True)
    others = {stride: torch.randn(1, 3, 64 // stride, 96 // stride) for stride in (8, 16, 32)}
    coarsest = neck(Pyramid({4: finest, **others})).features[32]
    (gradient,) = torch.autograd.grad(coarsest.square().sum(), finest, allow_unused=True)
    assert (gradient is not None and bool((gradient != 0).any())) == has_path


@pytest.mark.parametrize("norm", get_args(NormKind))
def test_bottom_up_path_follows_the_pyramid_and_precedes_stride_64(norm: NormKind) -> None:
    torch.manual_seed(0)
    channels = {4: 3, 8: 5, 16: 7, 32: 9}
    pyramid = Pyramid({s: torch.randn(2, c, math.ceil(160 / s), math.ceil(224 / s)) for s, c in channels.items()})
    path = BottomUpPath(8, norm)
    neck = FPN(tuple(channels.values()), 8, bottom_up=path)
    features = neck(pyramid).features
    neck.bottom_up = None
    before = neck(pyramid).features
    expected = path([before[stride] for stride in channels])
    for stride, level in zip(channels, expected, strict=True):
        torch.testing.assert_close(features[stride], level)
    assert torch.equal(features[4], before[4])
    assert (features[4] < 0).any()
    for stride in (8, 16, 32):
        assert (features[stride] >= 0).all()
    assert torch.equal(features[64], features[32][:, :, ::2, ::2])


@pytest.mark.parametrize(
    ("norm", "conv_bias", "count"),
    [
        ("none", False, 3_540_480),
        ("none", True, 3_540_480),
        ("group", True, 3_543_552),
        ("group", False, 3_543_552 - 6 * 256),
        ("sync_batch", False, 3_543_552 - 6 * 256),
    ],
)
def test_layers_of_the_bottom_up_path(norm: NormKind, conv_bias: bool, count: int) -> None:
    torch.manual_seed(0)
    path = BottomUpPath(256, norm, conv_bias=conv_bias)
    assert sum(parameter.numel() for parameter in path.parameters()) == count
    assert [conv.stride for conv in (*convolutions(path.down), *convolutions(path.output))] == [(2, 2)] * 3 + [
        (1, 1)
    ] * 3
    bound = math.sqrt(3 / (256 * 9))
    for conv in convolutions(path):
        assert 0.99 * bound < conv.weight.abs().max() <= bound
        assert (conv.bias is not None) == (conv_bias or norm == "none")
        assert conv.bias is None or (conv.bias == 0).all()


@pytest.mark.parametrize(
    ("norm", "relu", "layers"),
    [
        ("none", False, [nn.Conv2d]),
        ("none", True, [nn.Conv2d, nn.ReLU]),
        ("batch", False, [nn.Conv2d, nn.BatchNorm2d]),
        ("group", True, [nn.Conv2d, nn.GroupNorm, nn.ReLU]),
    ],
)
def test_order_of_layers(norm: NormKind, relu: bool, layers: list[type]) -> None:
    path = BottomUpPath(4, norm, relu=relu)
    for group in (*path.down, *path.output):
        assert isinstance(group, nn.Sequential)
        assert [type(layer) for layer in group] == layers


def test_names_of_weights_are_those_of_checkpoints() -> None:
    names = set(FPN((1, 1, 1, 1), 2).state_dict())
    assert names == {
        f"{part}.{level}.0.{leaf}"
        for part in ("lateral", "output")
        for level in range(4)
        for leaf in ("weight", "bias")
    }
    added = set(FPN((1, 1, 1, 1), 2, global_average=True, bottom_up=BottomUpPath(2)).state_dict()) - names
    assert added == {"global_average.weight", "global_average.bias"} | {
        f"bottom_up.{part}.{level}.0.{leaf}"
        for part in ("down", "output")
        for level in range(3)
        for leaf in ("weight", "bias")
    }
