"""timm networks as pyramids: strides, channels, norms, frozen stages, stride placement, deformable stages, refusals."""

import pytest
import timm
import torch
from timm.layers.norm_act import BatchNormAct2d, FrozenBatchNormAct2d, SyncBatchNormAct
from timm.models.resnet import Bottleneck
from torch import nn
from torchvision.ops.misc import FrozenBatchNorm2d

from thingstuff.errors import InputError
from thingstuff.model.backbone import STRIDES, Backbone
from thingstuff.model.deformable import DeformableConv2d

PLAIN = "test_resnet"
"""A very small ResNet whose norms are plain batch norms."""
WITH_ACTIVATION = "cs3darknet_s"
"""Its norms carry the activation that follows them."""
BOTTLENECKS = "resnet14t"
"""A ResNet with one bottleneck in each stage."""
IMAGES = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def build(name: str = PLAIN, **options) -> Backbone:
    torch.manual_seed(0)
    return Backbone(name, **options)


def give_norms_statistics(backbone: Backbone) -> None:
    """Let batch norms see a few pictures, so that their statistics say something."""
    backbone.train()
    with torch.no_grad():
        for _ in range(3):
            backbone(IMAGES)
    backbone.eval()


def assert_same_features(first: Backbone, second: Backbone) -> None:
    with torch.no_grad():
        features, others = first(IMAGES).features, second(IMAGES).features
    for stride in STRIDES:
        torch.testing.assert_close(features[stride], others[stride], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        PLAIN,
        WITH_ACTIVATION,
        "resnet18",
        "test_convnext",
        "test_efficientnet",
        "mambaout_femto",  # channels last
        "dla34",  # lists more features than it returns by default
    ],
)
def test_features_have_the_promised_sizes(name: str) -> None:
    backbone = build(name).eval()
    with torch.no_grad():
        features = backbone(IMAGES).features
    assert list(features) == [4, 8, 16, 32]
    for channels, (stride, feature) in zip(backbone.channels, features.items(), strict=True):
        assert feature.shape == (2, channels, 64 // stride, 96 // stride)


@pytest.mark.parametrize("in_channels", [1, 4])
def test_pictures_may_have_other_channels(in_channels: int) -> None:
    features = build(in_channels=in_channels)(torch.zeros(2, in_channels, 64, 64)).features
    assert features[32].shape == (2, 96, 2, 2)


# --- norms ---


@pytest.mark.parametrize("name", [PLAIN, WITH_ACTIVATION])
@pytest.mark.parametrize("norm", ["frozen_batch", "sync_batch"])
def test_converted_batch_norms_predict_the_same(name: str, norm) -> None:
    batch, converted = build(name, norm="batch"), build(name, norm=norm)
    give_norms_statistics(batch)
    state = batch.state_dict()
    frozen = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    converted.load_state_dict(frozen if norm == "frozen_batch" else state)
    assert_same_features(batch, converted.eval())


@pytest.mark.parametrize(
    ("name", "norm", "kind"),
    [
        (PLAIN, "batch", nn.BatchNorm2d),
        (PLAIN, "sync_batch", nn.SyncBatchNorm),
        (PLAIN, "frozen_batch", FrozenBatchNorm2d),
        (PLAIN, "group", nn.GroupNorm),
        (WITH_ACTIVATION, "batch", BatchNormAct2d),
        (WITH_ACTIVATION, "sync_batch", SyncBatchNormAct),
        (WITH_ACTIVATION, "frozen_batch", FrozenBatchNormAct2d),
        (WITH_ACTIVATION, "group", nn.GroupNorm),
    ],
)
def test_every_norm_becomes_the_chosen_kind(name: str, norm, kind: type) -> None:
    def norms(backbone: Backbone) -> list[type]:
        types = [type(module) for module in backbone.modules()]
        return [t for t in types if "Norm" in t.__name__ and "Conv" not in t.__name__]

    assert len(norms(build(name, norm=norm))) == len(norms(build(name))) > 5
    assert all(issubclass(made, kind) for made in norms(build(name, norm=norm)))


def test_frozen_norms_keep_the_type_of_features() -> None:
    norm = next(
        module for module in build(PLAIN, norm="frozen_batch").modules() if isinstance(module, FrozenBatchNorm2d)
    )
    norm.weight.fill_(2)  # pyright: ignore[reportCallIssue]
    features = torch.randn(1, len(norm.weight), 4, 5)  # pyright: ignore[reportArgumentType]
    plain = FrozenBatchNorm2d(features.shape[1])
    plain.load_state_dict(norm.state_dict())
    torch.testing.assert_close(norm(features), plain(features))
    assert norm(features.bfloat16()).dtype == torch.bfloat16


def test_group_norm_keeps_the_activation_that_the_batch_norm_carried() -> None:
    def activations(backbone: Backbone) -> int:
        return sum(isinstance(module, nn.SiLU) for module in backbone.modules())

    batch, group = build(WITH_ACTIVATION), build(WITH_ACTIVATION, norm="group")
    assert activations(group) == activations(batch) > 10
    with torch.no_grad():
        for feature in group(IMAGES).features.values():
            assert feature.min() >= -0.2785  # the minimum of SiLU
            assert feature.max() > 0.5


def test_group_norm_sees_each_picture_alone() -> None:
    backbone = build(norm="group").train()
    with torch.no_grad():
        together, alone = backbone(IMAGES).features, backbone(IMAGES[:1]).features
    for stride in STRIDES:
        torch.testing.assert_close(together[stride][:1], alone[stride], rtol=1e-3, atol=1e-4)


def test_frozen_batch_norms_have_nothing_to_learn_and_keep_their_statistics() -> None:
    backbone = build(norm="frozen_batch").train()
    assert all(parameter.ndim == 4 for parameter in backbone.parameters())
    before = {name: buffer.clone() for name, buffer in backbone.named_buffers()}
    assert any(name.endswith("running_mean") for name in before)
    backbone(IMAGES)
    for name, buffer in backbone.named_buffers():
        assert torch.equal(buffer, before[name])


def test_networks_without_batch_norm_keep_what_they_have() -> None:
    types = [type(module) for module in build("test_convnext").modules()]
    for norm in ("frozen_batch", "sync_batch", "group"):
        assert [type(module) for module in build("test_convnext", norm=norm).modules()] == types


# --- frozen stages ---


@pytest.mark.parametrize("name", [PLAIN, WITH_ACTIVATION, "test_convnext"])
def test_frozen_stages_do_not_learn_and_stay_in_evaluation_mode(name: str) -> None:
    counts = []
    for frozen_stages in range(5):
        backbone = build(name, norm="batch", frozen_stages=frozen_stages).train()
        statistics = {key: buffer.clone() for key, buffer in backbone.named_buffers() if key.endswith("running_mean")}
        torch.stack([feature.square().mean() for feature in backbone(IMAGES).features.values()]).sum().backward()
        frozen = [parameter for parameter in backbone.parameters() if not parameter.requires_grad]
        assert all(parameter.grad is None for parameter in frozen)
        assert all(p.grad is not None for p in backbone.parameters() if p.requires_grad)
        for key, before in statistics.items():
            norm = backbone.get_submodule(key.removesuffix(".running_mean"))
            learns = any(parameter.requires_grad for parameter in norm.parameters())
            assert norm.training == learns
            assert torch.equal(norm.get_buffer("running_mean"), before) != learns
        counts.append(len(frozen))
    assert counts[0] == 0
    assert counts == sorted(set(counts))
    assert not any(parameter.requires_grad for parameter in build(name, frozen_stages=5).parameters())


def test_evaluation_mode_reaches_everything() -> None:
    backbone = build(frozen_stages=2)
    assert backbone.train().training
    assert not any(module.training for module in backbone.train().eval().modules())


def test_freezing_as_detectron2_does_freezes_eleven_weights_of_resnet50() -> None:
    with torch.device("meta"):
        backbone = Backbone("resnet50", norm="frozen_batch", frozen_stages=2)
    frozen = [name for name, parameter in backbone.named_parameters() if not parameter.requires_grad]
    assert len(frozen) == 11
    assert {name.split(".")[1] for name in frozen} == {"conv1", "layer1"}
    assert sum(parameter.numel() for parameter in backbone.parameters()) == 23_454_912


# --- stride placement ---


@pytest.mark.parametrize("first", [True, False])
def test_stride_is_on_the_convolution_asked_for(first: bool) -> None:
    with torch.device("meta"):
        backbone = Backbone("resnet50", stride_in_first_conv=first).eval()
        features = backbone(torch.zeros(1, 3, 64, 96)).features
    strides = [
        (block.conv1.stride, block.conv2.stride, block.conv3.stride)
        for block in backbone.modules()
        if isinstance(block, Bottleneck)
    ]
    keep, halve = ((1, 1),) * 3, ((2, 2), (1, 1), (1, 1)) if first else ((1, 1), (2, 2), (1, 1))
    assert strides == [keep] * 3 + [halve] + [keep] * 3 + [halve] + [keep] * 5 + [halve] + [keep] * 2
    assert [tuple(f.shape[1:]) for f in features.values()] == [
        (256, 16, 24),
        (512, 8, 12),
        (1024, 4, 6),
        (2048, 2, 3),
    ]


# --- deformable stages ---


def blocks(backbone: Backbone) -> list[Bottleneck]:
    return [module for module in backbone.modules() if isinstance(module, Bottleneck)]


def spread_offsets(backbone: Backbone) -> None:
    """Let taps look elsewhere, as after some training."""
    for name, parameter in backbone.named_parameters():
        if ".offset." in name:
            nn.init.normal_(parameter, std=0.05)


@pytest.mark.parametrize("stride_in_first_conv", [True, False])
def test_new_deformable_stages_compute_what_plain_ones_do(stride_in_first_conv: bool) -> None:
    options = {"stride_in_first_conv": stride_in_first_conv}
    plain = build(BOTTLENECKS, **options).eval()
    assert not any(isinstance(module, DeformableConv2d) for module in plain.modules())
    for deformable_stages in (1, 3, 4):
        deformable = build(BOTTLENECKS, deformable_stages=deformable_stages, **options).eval()
        kinds = [type(block.conv2) for block in blocks(deformable)]
        assert kinds == [nn.Conv2d] * (4 - deformable_stages) + [DeformableConv2d] * deformable_stages
        assert_same_features(plain, deformable)
        state = deformable.state_dict()
        for key, value in plain.state_dict().items():
            assert torch.equal(state.pop(key), value)
        assert all(".conv2.offset." in key for key in state)
        assert len(state) == 2 * deformable_stages


def test_deformable_stages_learn_and_then_differ() -> None:
    plain, deformable = build(BOTTLENECKS).train(), build(BOTTLENECKS, deformable_stages=2).train()
    for block in (*blocks(plain), *blocks(deformable)):
        block.bn3.get_parameter("weight").data.fill_(1)  # timm begins with 0, as if the block were not there
    deformable(IMAGES).features[32].square().sum().backward()
    for block in blocks(deformable)[2:]:
        for parameter in block.conv2.parameters():
            assert parameter.grad is not None
            assert (parameter.grad != 0).any()
    spread_offsets(deformable)
    with torch.no_grad():
        features, others = plain(IMAGES).features, deformable(IMAGES).features
    assert torch.allclose(features[8], others[8])
    assert not torch.allclose(features[16], others[16], atol=0.01)


def test_deformable_stages_of_upsnet_are_thirty_blocks_of_resnet101() -> None:
    with torch.device("meta"):
        plain = Backbone("resnet101", stride_in_first_conv=True)
        deformable = Backbone("resnet101", stride_in_first_conv=True, deformable_stages=3)
    assert deformable.state_dict()["body.layer2.0.conv2.offset.weight"].shape == (18, 128, 3, 3)
    convs = [block.conv2 for block in blocks(deformable) if isinstance(block.conv2, DeformableConv2d)]
    assert [conv.weight.shape[0] for conv in convs] == [128] * 4 + [256] * 23 + [512] * 3
    assert all(conv.bias is None and conv.stride == (1, 1) for conv in convs)
    # The whole ResNet-101 has 44,549,160, of which 2,049,000 classify. Offsets: a 3x3 convolution with bias in a block.
    assert sum(parameter.numel() for parameter in plain.parameters()) == 42_500_160
    offsets = sum(count * 18 * (9 * width + 1) for count, width in ((4, 128), (23, 256), (3, 512)))
    assert offsets == 1_286_172
    assert sum(parameter.numel() for parameter in deformable.parameters()) == 42_500_160 + offsets


@pytest.mark.parametrize("stride_in_first_conv", [True, False])
def test_deformable_convolution_has_the_stride_of_the_one_it_replaces(stride_in_first_conv: bool) -> None:
    with torch.device("meta"):
        backbone = Backbone("resnet50", stride_in_first_conv=stride_in_first_conv, deformable_stages=3)
    keep, first = (1, 1), (1, 1) if stride_in_first_conv else (2, 2)
    strides = [block.conv2.stride for block in blocks(backbone)[3:]]
    assert strides == [first] + [keep] * 3 + [first] + [keep] * 5 + [first] + [keep] * 2


@pytest.mark.parametrize("norm", ["frozen_batch", "group"])
def test_frozen_deformable_stages_do_not_learn_offsets_either(norm) -> None:
    backbone = build(BOTTLENECKS, norm=norm, frozen_stages=3, deformable_stages=4).train()
    backbone(IMAGES).features[32].sum().backward()
    offsets = {name: parameter for name, parameter in backbone.named_parameters() if ".offset." in name}
    assert len(offsets) == 8
    for name, parameter in offsets.items():
        learns = "layer3" in name or "layer4" in name
        assert parameter.requires_grad == learns
        assert (parameter.grad is not None) == learns


# --- refusals ---


def test_unknown_name_is_refused_with_near_ones() -> None:
    with pytest.raises(InputError, match=r"timm has no network named 'resnet5000'; near: .*resnet"):
        build("resnet5000")
    with pytest.raises(InputError, match=r"timm has no network named 'nonsense'$"):
        build("nonsense")


def test_unknown_weights_are_refused() -> None:
    with pytest.raises(InputError, match=r"'resnet50.nope' .*Invalid pretrained tag \(nope\)"):
        build("resnet50.nope")


@pytest.mark.parametrize("error", [OSError("no\n network"), RuntimeError("no weights"), ValueError("no file")])
def test_trained_weights_that_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    create = timm.create_model

    def fail(name: str, *, pretrained: bool = False, **options: object) -> nn.Module:
        if pretrained:
            raise error
        return create(name, pretrained=False, **options)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(InputError, match=r"trained weights of 'resnet18' cannot be fetched \(no \w+\); connect to"):
        Backbone("resnet18", pretrained=True)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "test_vit"])
def test_network_with_one_stride_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=rf"'{name}' has features at strides .*\[4, 8, 32\] is missing; choose"):
        build(name)


def test_network_that_takes_one_size_is_refused() -> None:
    with pytest.raises(InputError, match=r"'coat_tiny' does not take pictures of any size \(.*224.*\); choose"):
        build("coat_tiny")


def test_stride_placement_is_refused_without_bottlenecks() -> None:
    with pytest.raises(InputError, match=r"stride_in_first_conv is for ResNets with bottlenecks .* not 'resnet18'"):
        build("resnet18", stride_in_first_conv=True)


def test_freezing_is_refused_where_stages_cannot_be_told_apart() -> None:
    with pytest.raises(InputError, match=r"frozen_stages needs .* not 'test_efficientnet'"):
        build("test_efficientnet", frozen_stages=1)


@pytest.mark.parametrize("name", ["resnet18", "test_convnext"])
def test_deformable_stages_are_refused_without_bottlenecks(name: str) -> None:
    with pytest.raises(InputError, match=rf"deformable_stages is for ResNets with bottlenecks .* not '{name}'"):
        build(name, deformable_stages=1)


def test_deformable_stages_are_refused_with_groups() -> None:
    message = r"without groups, but those of 'resnext50_32x4d' have 32; choose a plain"
    with torch.device("meta"), pytest.raises(InputError, match=message):
        build("resnext50_32x4d", deformable_stages=1)


def test_more_deformable_stages_than_there_are_are_refused() -> None:
    with pytest.raises(InputError, match=r"deformable_stages is 5, but 'resnet14t' has 4 stages; give fewer"):
        build(BOTTLENECKS, deformable_stages=5)
