"""Deformable convolution: by hand, against torchvision's operator in value and gradient, and as a graph."""

import dataclasses
import inspect
import math
from collections.abc import Callable, Iterator

import jaxtyping
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from thingstuff import structures
from thingstuff.model import deformable
from thingstuff.model.backbone import Backbone
from thingstuff.model.deformable import DeformableConv2d, deform_conv2d_by_sampling
from thingstuff.model.semantic import DeformableHead
from thingstuff.structures import Pyramid


def operands(
    size: tuple[int, int],
    scale: float,
    *,
    kernel_size: int = 3,
    stride: int = 1,
    padding: int = 1,
    dilation: int = 1,
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features, offsets that deviate by ``scale`` pixels, weight and bias."""
    generator = torch.Generator().manual_seed(0)
    reach = dilation * (kernel_size - 1) - 2 * padding
    height, width = ((side - reach - 1) // stride + 1 for side in size)
    features = torch.randn(2, 3, *size, dtype=dtype, generator=generator)
    offset = scale * torch.randn(2, 2 * kernel_size**2, height, width, dtype=dtype, generator=generator)
    weight = torch.randn(4, 3, kernel_size, kernel_size, dtype=dtype, generator=generator)
    return features, offset, weight, torch.randn(4, dtype=dtype, generator=generator)


def assert_equals_torchvision(inputs: tuple[Tensor, ...], stride: int, padding: int, dilation: int, **close) -> None:
    mine, theirs = ([tensor.clone().requires_grad_() for tensor in inputs] for _ in range(2))
    numbers = (stride, stride), (padding, padding), (dilation, dilation)
    actual = deform_conv2d_by_sampling(mine[0], mine[1], mine[2], mine[3], *numbers)
    expected = deform_conv2d(theirs[0], theirs[1], theirs[2], theirs[3], *numbers)
    torch.testing.assert_close(actual, expected, **close)
    direction = torch.randn(actual.shape, dtype=actual.dtype, generator=torch.Generator().manual_seed(1))
    (actual * direction).sum().backward()
    (expected * direction).sum().backward()
    for my_tensor, their_tensor in zip(mine, theirs, strict=True):
        torch.testing.assert_close(my_tensor.grad, their_tensor.grad, **close)


def one_tap(row: int, column: int, dy: float, dx: float) -> Tensor:
    """A picture of 3x4 that counts from 0, seen through one tap of a 3x3 kernel that is moved by ``dy`` and ``dx``."""
    features = torch.arange(12.0).view(1, 1, 3, 4)
    weight = torch.zeros(1, 1, 3, 3)
    weight[0, 0, row, column] = 1
    offset = torch.full((1, 9, 2, 3, 4), 77.0)  # what the other taps see does not count
    offset[0, 3 * row + column] = torch.tensor([dy, dx])[:, None, None]
    offset = offset.view(1, 18, 3, 4)
    bias = torch.tensor([100.0])
    result = deform_conv2d_by_sampling(features, offset, weight, bias, padding=(1, 1))
    torch.testing.assert_close(deform_conv2d(features, offset, weight, bias, padding=(1, 1)), result)
    return result[0, 0] - 100


# --- the form for training on a processor ---


def test_offsets_go_down_then_right_tap_by_tap() -> None:
    # Between pixels (0, 0), (0, 1), (1, 0), (1, 1), that is 0, 1, 4, 5: half down, a quarter to the right.
    assert one_tap(1, 1, 0.5, 0.25)[0, 0].item() == pytest.approx(2.25)
    assert one_tap(1, 1, 1, 0).tolist() == [[4, 5, 6, 7], [8, 9, 10, 11], [0, 0, 0, 0]]
    assert one_tap(1, 1, 0, 1).tolist() == [[1, 2, 3, 0], [5, 6, 7, 0], [9, 10, 11, 0]]
    # The tap at the lower left, moved back to the middle.
    assert one_tap(2, 0, -1, 1).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def test_samples_fade_out_over_one_pixel_beyond_the_border() -> None:
    assert one_tap(1, 1, -0.25, 0)[0].tolist() == [0, 0.75, 1.5, 2.25]
    assert one_tap(1, 1, -1, 0)[0].tolist() == [0, 0, 0, 0]
    assert one_tap(1, 1, 0.25, 0)[2].tolist() == [6, 6.75, 7.5, 8.25]
    assert one_tap(1, 1, 0, 0.75)[:, 3].tolist() == [0.75, 1.75, 2.75]
    assert (one_tap(1, 1, 0, 4) == 0).all()
    assert (one_tap(1, 1, -1e9, 0) == 0).all()


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    scale=st.sampled_from([0, 0.3, 2, 20]),
    kernel_size=st.sampled_from([1, 3]),
    stride=st.integers(1, 3),
    padding=st.integers(1, 3),
    dilation=st.integers(1, 2),
)
def test_equals_torchvision_in_value_and_gradient(
    size: tuple[int, int], scale: float, kernel_size: int, stride: int, padding: int, dilation: int
) -> None:
    padding = max(padding, dilation)  # the kernel fits in
    inputs = operands(size, scale, kernel_size=kernel_size, stride=stride, padding=padding, dilation=dilation)
    assert_equals_torchvision(inputs, stride, padding, dilation, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("scale", [0, 1, 10])
def test_equals_torchvision_in_single_precision(scale: float) -> None:
    features, offset, weight, bias = operands((37, 50), scale, dtype=torch.float32)
    inputs = (features, offset, weight / 27**0.5, bias)  # results of about 1
    assert_equals_torchvision(inputs, 1, 1, 1, rtol=1e-4, atol=5e-4)
    actual = deform_conv2d_by_sampling(*inputs, padding=(1, 1))
    torch.testing.assert_close(actual, deform_conv2d(*inputs, padding=(1, 1)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("whole", [0.0, 1.0, -2.0])
def test_gradient_at_whole_pixels_is_the_one_towards_the_next_pixel_as_in_torchvision(whole: float) -> None:
    """Every training begins there; which of the two one-sided slopes is taken depends on the last bit."""
    features, offset, weight, bias = operands((37, 50), 0, dtype=torch.float32)
    assert_equals_torchvision((features, offset + whole, weight, bias), 1, 1, 1, rtol=1e-4, atol=5e-4)


def test_memory_format_of_the_inputs_does_not_matter() -> None:
    features, offset, weight, bias = operands((5, 7), 1)
    others = [tensor.contiguous(memory_format=torch.channels_last) for tensor in (features, offset, weight)]
    expected = deform_conv2d_by_sampling(features, offset, weight, bias, padding=(1, 1))
    torch.testing.assert_close(deform_conv2d_by_sampling(*others, bias=bias, padding=(1, 1)), expected)


@pytest.mark.parametrize("samples", [1, 2 * 3 * 9 * 7 * 2])  # one row at a time, and two
def test_strips_make_no_difference(monkeypatch: pytest.MonkeyPatch, samples: int) -> None:
    features, offset, weight, bias = operands((5, 7), 1)
    expected = deform_conv2d_by_sampling(features, offset, weight, bias, padding=(1, 1))
    monkeypatch.setattr(deformable, "_SAMPLES_AT_ONCE", samples)
    torch.testing.assert_close(deform_conv2d_by_sampling(features, offset, weight, bias, padding=(1, 1)), expected)


# --- the layer ---


def spread_offsets(module: nn.Module, std: float = 0.3) -> None:
    """Let taps look elsewhere, as after some training."""
    generator = torch.Generator().manual_seed(2)
    for name, parameter in module.named_parameters():
        if "offset." in name:
            nn.init.normal_(parameter, std=std, generator=generator)


def layer(**options) -> DeformableConv2d:
    torch.manual_seed(0)
    made = DeformableConv2d(4, 6, **options)
    if made.bias is not None:
        nn.init.normal_(made.bias)
    return made


FEATURES = torch.randn(2, 4, 9, 14, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("learning", [True, False])
@pytest.mark.parametrize(
    "options", [{}, {"stride": 2}, {"padding": 2, "dilation": 2}, {"bias": False}, {"kernel_size": 1, "padding": 0}]
)
def test_new_layer_is_an_ordinary_convolution(options: dict[str, int], learning: bool) -> None:
    made = layer(**options).requires_grad_(learning)
    numbers = (made.stride, made.padding, made.dilation)
    expected = F.conv2d(FEATURES, made.weight, made.bias, *numbers)
    torch.testing.assert_close(made(FEATURES), expected, rtol=1e-5, atol=1e-5)


def test_parameters_and_initialisation() -> None:
    torch.manual_seed(0)
    made = DeformableConv2d(64, 128)
    shapes = {name: tuple(parameter.shape) for name, parameter in made.named_parameters()}
    assert shapes == {"weight": (128, 64, 3, 3), "bias": (128,), "offset.weight": (18, 64, 3, 3), "offset.bias": (18,)}
    assert made.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 64)), rel=0.02)
    assert all((parameter == 0).all() for name, parameter in made.named_parameters() if name != "weight")
    assert "bias" not in dict(DeformableConv2d(4, 6, bias=False).named_parameters())


@pytest.mark.parametrize("stride", [1, 2])
def test_layer_convolves_where_its_offsets_say(stride: int) -> None:
    made = layer(stride=stride)
    spread_offsets(made)
    offset = made.offset(FEATURES)
    assert offset.std() > 0.5
    expected = deform_conv2d(FEATURES, offset, made.weight, made.bias, (stride, stride), (1, 1))
    torch.testing.assert_close(made(FEATURES), expected, rtol=1e-5, atol=1e-5)


def test_layer_learns_weights_and_offsets_from_the_first_step_on() -> None:
    made, features = layer(), FEATURES.clone().requires_grad_()
    made(features).square().sum().backward()
    for parameter in (*made.parameters(), features):
        assert parameter.grad is not None
        assert (parameter.grad != 0).any()


def test_autocast_does_not_touch_positions_and_samples() -> None:
    made = layer()
    spread_offsets(made)
    for learning in (True, False):
        made.requires_grad_(learning)
        exact = made(FEATURES)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(made(FEATURES), exact)
            rounded = made(FEATURES.bfloat16())
            assert rounded.dtype == torch.bfloat16
            assert torch.equal(rounded, made(FEATURES.bfloat16().float()).bfloat16())


def test_one_pixel_and_no_picture() -> None:
    assert layer()(torch.zeros(1, 4, 1, 1)).shape == (1, 6, 1, 1)
    assert layer()(torch.zeros(0, 4, 8, 8)).shape == (0, 6, 8, 8)


# --- as a graph ---


class Levels(nn.Module):
    """A part of a network as exporters want it: tensors in, a tuple of tensors out."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        if isinstance(self.part, DeformableHead):
            return (self.part(Pyramid(dict(zip((4, 8, 16, 32), inputs, strict=True)))).logits,)
        result = self.part(*inputs)
        return (result,) if isinstance(result, Tensor) else tuple(result.features.values())


@pytest.fixture
def as_in_production() -> Iterator[None]:
    """Shape checks, which only tests have, are taken out: the exporter cannot see through them."""
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        for record in vars(structures).values():
            if dataclasses.is_dataclass(record) and isinstance(record, type):
                patch.setattr(record, "__init__", inspect.unwrap(record.__init__))
        yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("as_in_production")
@pytest.mark.parametrize(
    ("make", "shapes", "operators"),
    [
        (layer, [(2, 4, 9, 14)], 1),
        (lambda: DeformableHead(4, 6, 5, 2), [(2, 4, 64 // stride, 96 // stride) for stride in (4, 8, 16, 32)], 8),
        (lambda: Backbone("resnet14t", deformable_stages=3), [(2, 3, 64, 96)], 3),
    ],
    ids=["layer", "head", "backbone"],
)
def test_exported_graph_equals_eager(
    make: Callable[[], nn.Module], shapes: list[tuple[int, ...]], operators: int
) -> None:
    torch.manual_seed(0)
    part, inputs = make(), [torch.randn(shape) for shape in shapes]
    network = Levels(part).eval()
    spread_offsets(network, std=0.05)
    program = torch.export.export(network, tuple(inputs), strict=True)
    targets = [node.target for node in program.graph.nodes]
    assert targets.count(torch.ops.torchvision.deform_conv2d.default) == operators
    assert torch.ops.higher_order.wrap_with_autocast not in targets
    for actual, expected in zip(program.module()(*inputs), network(*inputs), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
