"""The semantic branch: how levels reach stride 4, and how they are added or laid side by side."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thingstuff.model.deformable import DeformableConv2d
from thingstuff.model.semantic import DeformableHead, UpsampleSumHead
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


def test_few_classes_may_begin_undecided() -> None:
    """Kaiming's deviation is 1 for two classes, so that logits of this branch begin far from 0."""
    torch.manual_seed(0)
    assert UpsampleSumHead(8, 64, 2).predictor.weight.std().item() == pytest.approx(1.0, rel=0.2)
    predictor = UpsampleSumHead(8, 64, 2, predictor_std=0.01).predictor
    assert predictor.weight.std().item() == pytest.approx(0.01, rel=0.2)
    assert predictor.bias is not None
    assert not predictor.bias.any()


def test_logits_are_in_full_precision() -> None:
    head = UpsampleSumHead(6, 8, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert head(pyramid(6)).logits.dtype == torch.float32


# --- one deformable network for all levels (UPSNet) ---


def deformable_head(*arguments, **options) -> DeformableHead:
    """A head that has learned: its taps look elsewhere, its logits differ."""
    torch.manual_seed(0)
    head = DeformableHead(*arguments, **options)
    for name, parameter in head.named_parameters():
        if "offset" in name or "predictor" in name:
            nn.init.normal_(parameter, std=0.3)
    return head


def random_pyramid(channels: int, height: int = 64, width: int = 96) -> Pyramid:
    generator = torch.Generator().manual_seed(1)
    zeros = pyramid(channels, height=height, width=width).features
    return Pyramid({stride: torch.randn(level.shape, generator=generator) for stride, level in zeros.items()})


def as_published(head: DeformableHead, features: Pyramid) -> Tensor:
    """The logits as the paper has it: every level at stride 4, side by side, then the 1x1 convolution."""
    levels = []
    for stride in (4, 8, 16, 32):
        level = features.features[stride]
        for layer in head.layers:
            level = layer(level)
        size = features.features[4].shape[-2:]
        levels.append(level if stride == 4 else F.interpolate(level, size, mode="bilinear", align_corners=False))
    return head.predictor(torch.cat(levels, dim=1))


@pytest.mark.parametrize("num_layers", [2, 3])
@pytest.mark.parametrize("size", [(64, 96), (72, 100)])
def test_levels_lie_side_by_side_at_stride_4(num_layers: int, size: tuple[int, int]) -> None:
    head, features = deformable_head(6, 8, 5, num_layers), random_pyramid(6, *size)
    with torch.no_grad():
        logits = head(features).logits
        assert logits.shape == (2, 5, size[0] // 4, size[1] // 4)
        torch.testing.assert_close(logits, as_published(head, features), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("position", "stride"), list(enumerate((4, 8, 16, 32))))
def test_predictor_sees_the_levels_finest_first(position: int, stride: int) -> None:
    head = DeformableHead(6, 8, 5, 2)
    nn.init.zeros_(head.predictor.weight)
    nn.init.ones_(head.predictor.weight[:, 8 * position : 8 * (position + 1)])
    changed = random_pyramid(6)
    with torch.no_grad():
        head.predictor.get_parameter("bias").fill_(0.25)
        before = head(changed).logits
        changed.features[stride].zero_()
        assert (head(changed).logits == 0.25).all()
        assert (before > 0.3).any()


def test_only_the_given_levels_count_and_stride_64_does_not() -> None:
    features = random_pyramid(6)
    with torch.no_grad():
        full, two = deformable_head(6, 8, 5, 2), deformable_head(6, 8, 5, 2, strides=(4, 8))
        first = full(features).logits, two(features).logits
        features.features[64].zero_()
        assert torch.equal(full(features).logits, first[0])
        features.features[16].zero_()
        assert not torch.equal(full(features).logits, first[0])
        assert torch.equal(two(features).logits, first[1])
    assert two.predictor.in_channels == 16


@pytest.mark.parametrize(
    ("num_layers", "num_classes", "widths", "count"),
    [
        # A layer has 9 * a * b weights and b biases, its offsets 9 * a * 18 weights and 18 biases.
        (3, 133, [(256, 256), (256, 128), (128, 128)], 590_080 + 295_040 + 147_584 + 41_490 * 2 + 20_754 + 68_229),
        (2, 19, [(256, 128), (128, 128)], 295_040 + 147_584 + 41_490 + 20_754 + 9_747),
    ],
    ids=["COCO", "Cityscapes"],
)
def test_layers_of_the_deformable_network_are_those_of_the_paper(
    num_layers: int, num_classes: int, widths: list[tuple[int, int]], count: int
) -> None:
    torch.manual_seed(0)
    head = DeformableHead(256, 128, num_classes, num_layers)
    assert sum(parameter.numel() for parameter in head.parameters()) == count
    assert round(count / 1e6, 3) == {133: 1.205, 19: 0.515}[num_classes]
    convs = [module for module in head.modules() if isinstance(module, DeformableConv2d)]
    assert [tuple(conv.weight.shape[1::-1]) for conv in convs] == widths
    for conv in convs:
        assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * conv.weight.shape[1])), rel=0.02)
        assert conv.bias is not None
        assert (conv.bias == 0).all()
        assert (conv.offset.weight == 0).all()
    assert head.predictor.weight.shape == (num_classes, 512, 1, 1)
    assert head.predictor.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert (head.predictor.bias == 0).all()


def test_names_of_the_deformable_head() -> None:
    names = {f"layers.{i}.0.{name}" for i in range(2) for name in ("weight", "bias", "offset.weight", "offset.bias")}
    assert set(DeformableHead(6, 8, 5, 2).state_dict()) == names | {"predictor.weight", "predictor.bias"}


def test_norm_stands_between_convolution_and_relu() -> None:
    head = DeformableHead(6, 8, 5, 2, norm="group")
    kinds = [[type(module) for module in layer.children()] for layer in head.layers]
    assert kinds == [[DeformableConv2d, nn.GroupNorm, nn.ReLU]] * 2
    assert not any(name.endswith(".0.bias") for name in head.state_dict())
    assert head(random_pyramid(6)).logits.shape == (2, 5, 16, 24)


def test_gradients_reach_every_parameter_and_level() -> None:
    head, features = deformable_head(6, 8, 5), random_pyramid(6)
    levels = [features.features[stride].requires_grad_() for stride in (4, 8, 16, 32)]
    head(features).logits.square().sum().backward()
    assert all((tensor.grad != 0).any() for tensor in (*head.parameters(), *levels))


def test_deformable_logits_are_in_full_precision() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert DeformableHead(6, 8, 5)(pyramid(6)).logits.dtype == torch.float32
