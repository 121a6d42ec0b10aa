"""PANet's parts against numbers of its official code, and its neck in mmdetection's form against mmdetection's.

The official classes begin with background; ours are things, then background. Weights and expected values change places
here, as a converter would have them do.
"""

import json
import math
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from thingstuff.model.box_head import HeavyBoxHead, LightBoxHead, fully_connected_entry
from thingstuff.model.mask_head import ConvMaskHead, FusedMaskHead, convolution_entry
from thingstuff.model.neck import FPN, BottomUpPath
from thingstuff.model.pooling import AdaptivePool
from thingstuff.structures import Pyramid
from thingstuff.training.losses import mask_loss

GOLDEN = Path(__file__).parents[2] / ".." / "shared" / "golden" / "panet"
STRIDES = (4, 8, 16, 32)
CHANNELS, WIDTH, THINGS, REGIONS = 64, 128, 4, 5

pytestmark = [
    pytest.mark.reference,
    pytest.mark.skipif(not GOLDEN.exists(), reason="needs PANet's numbers in ../shared/golden/panet"),
]

NECK = {
    "lateral.3": "conv_top",
    "lateral.2": "topdown_lateral_modules.0.conv_lateral",
    "lateral.1": "topdown_lateral_modules.1.conv_lateral",
    "lateral.0": "topdown_lateral_modules.2.conv_lateral",
    "output.3": "posthoc_modules.0",
    "output.2": "posthoc_modules.1",
    "output.1": "posthoc_modules.2",
    "output.0": "posthoc_modules.3",
    **{f"bottom_up.down.{i}": f"panet_buttomup_conv1_modules.{i}" for i in range(3)},
    **{f"bottom_up.output.{i}": f"panet_buttomup_conv2_modules.{i}" for i in range(3)},
}
NECK = {ours: f"Conv_Body.{theirs}" for ours, theirs in NECK.items()}
PLAIN_NECK = {f"{ours}.0": theirs for ours, theirs in NECK.items()}  # without norm, a layer is its convolution
MMDET_NECK = {
    "lateral.{}.0": "neck.lateral_convs.{}.conv",
    "output.{}.0": "neck.fpn_convs.{}.conv",
    "bottom_up.down.{}.0": "neck.downsample_convs.{}.conv",
    "bottom_up.output.{}.0": "neck.pafpn_convs.{}.conv",
}
MMDET_NECK = {ours.format(i): theirs.format(i) for ours, theirs in MMDET_NECK.items() for i in range(4)}
HEAVY = {
    "pool.entries": "Box_Head.conv1_head",
    "head.convs.0.0": "Box_Head.convs.0",
    "head.convs.0.1": "Box_Head.convs.1",
    "head.convs.1.0": "Box_Head.convs.3",
    "head.convs.1.1": "Box_Head.convs.4",
    "head.convs.2.0": "Box_Head.convs.6",
    "head.convs.2.1": "Box_Head.convs.7",
    "head.hidden.1": "Box_Head.fc",
    "head.outputs.classes": "Box_Outs.cls_score",
    "head.outputs.deltas": "Box_Outs.bbox_pred",
}
LIGHT = {
    **{f"pool.entries.{i}.{1 + part}": f"Box_Head.fc1.{i}.{part}" for i in range(4) for part in (0, 1)},
    "head.hidden": "Box_Head.fc2",
    "head.outputs.classes": "Box_Outs.cls_score",
    "head.outputs.deltas": "Box_Outs.bbox_pred",
}
MASK = {
    "pool.entries": "Mask_Head.mask_conv1",
    "head.convs.0.0": "Mask_Head.conv_fcn.0",
    "head.convs.0.1": "Mask_Head.conv_fcn.1",
    "head.convs.1.0": "Mask_Head.conv_fcn.3",
    "head.convs.1.1": "Mask_Head.conv_fcn.4",
    "head.convs.2.0": "Mask_Head.conv_fcn.6",
    "head.convs.2.1": "Mask_Head.conv_fcn.7",
    "head.upsample": "Mask_Head.upconv",
    "head.predictor": "Mask_Outs.classify",
}
FUSED = {
    **{ours: theirs for ours, theirs in MASK.items() if "convs.2" not in ours},
    "head.conv_fcn": "Mask_Head.mask_conv4",
    "head.conv_fc.0": "Mask_Head.mask_conv4_fc",
    "head.conv_fc.1": "Mask_Head.mask_conv5_fc",
    "head.fc": "Mask_Head.mask_fc.0",
}
"""What our names begin with, and what theirs begin with."""


def raw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.Generator(np.random.Philox(key=zlib.crc32(name.encode()))).standard_normal(shape)


def fill(name: str, shape: tuple[int, ...]) -> Tensor:
    """Weights by the rule of the golden files."""
    values = raw(name, shape)
    if len(shape) > 1:
        values = values * np.sqrt(2 / np.prod(shape[1:]))
    else:
        values = 0.1 * values + (1 if name.endswith(".weight") else 0)
    return torch.from_numpy(values.astype(np.float32))


def their_name(name: str, modules: Mapping[str, str]) -> str:
    (prefix,) = (prefix for prefix in modules if name.startswith(f"{prefix}."))
    return modules[prefix] + name.removeprefix(prefix)


def reordered(name: str, shape: tuple[int, ...]) -> Tensor:
    """Weights of an official layer, its classes in our order."""
    match name.split(".")[:2]:
        case ["Box_Outs", "cls_score"]:
            return fill(name, shape).roll(-1, 0)
        case ["Box_Outs", "bbox_pred"]:
            return fill(name, (shape[0] + 4, *shape[1:]))[4:]
        case ["Mask_Outs", "classify"]:
            return fill(name, (shape[0] + 1, *shape[1:]))[1:]
        case _:
            return fill(name, shape)


def load(module: nn.Module, modules: Mapping[str, str]) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    module.load_state_dict({name: reordered(their_name(name, modules), shape) for name, shape in shapes.items()})


def arrays(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"{name}.npz") as file:
        return dict(file)


def assert_close(actual: Tensor, expected: np.ndarray) -> None:
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-4, atol=5e-6 * np.abs(expected).max())


def backbone_features() -> Pyramid:
    shapes = {level: (2, 8 << level, 64 >> level, 96 >> level) for level in range(2, 6)}
    return Pyramid(
        {
            2**level: torch.from_numpy(raw(f"input.small.C{level}", shape).astype(np.float32))
            for level, shape in shapes.items()
        }
    )


@pytest.mark.parametrize(
    ("golden", "bottom_up", "modules"),
    [
        ("bup_small_gn", lambda: BottomUpPath(CHANNELS, "group", conv_bias=True), NECK),
        ("bup_small_nogn", lambda: BottomUpPath(CHANNELS, relu=False), PLAIN_NECK),
        ("mmdet_pafpn_small", lambda: BottomUpPath(CHANNELS, relu=False, order="mmdet"), MMDET_NECK),
    ],
)
@torch.inference_mode()
def test_neck(golden: str, bottom_up: Callable[[], BottomUpPath], modules: Mapping[str, str]) -> None:
    expected = arrays(golden)
    neck = FPN((32, 64, 128, 256), CHANNELS, "group" if golden.endswith("_gn") else "none", bottom_up=bottom_up())
    load(neck, modules)
    after = neck(backbone_features()).features
    neck.bottom_up = None
    before = neck(backbone_features()).features
    for level in range(2, 7):
        assert_close(after[2**level], expected[f"N{level}"])
    for level in range(3, 6):
        assert_close(before[2**level], expected[f"P{level}"])
    assert torch.equal(after[4], before[4])
    if "spatial_scale" in expected:
        assert [1 / stride for stride in reversed(after)] == expected["spatial_scale"].tolist()


@pytest.fixture(scope="module")
def pyramid() -> Pyramid:
    levels = arrays("bup_small_gn")
    return Pyramid({2**level: torch.from_numpy(levels[f"N{level}"]) for level in range(2, 7)})


@pytest.fixture(scope="module")
def boxes() -> list[Tensor]:
    """Regions of both pictures, in the order of the golden rows."""
    rois = torch.from_numpy(arrays("afp_pool_small")["rois"])
    assert (rois[1:, 0] >= rois[:-1, 0]).all()
    return [rois[rois[:, 0] == picture, 1:] for picture in range(2)]


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    return arrays("heads_small")


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize(("name", "size"), [("box7", 7), ("mask14", 14)])
def test_pooling(pyramid: Pyramid, boxes: list[Tensor], name: str, size: int, requires_grad: bool) -> None:
    expected = arrays("afp_pool_small")
    features = {stride: level.clone().requires_grad_(requires_grad) for stride, level in pyramid.features.items()}
    for level, stride in enumerate(STRIDES, start=2):
        pool = AdaptivePool(size, [nn.Identity()], [stride], sampling_ratio=2, aligned=False)
        pooled = pool(Pyramid(features), boxes).detach()
        assert pooled.shape == (REGIONS, CHANNELS, size, size)
        assert_close(pooled[:, ::8], expected[f"{name}_l{level}"])


def pool_of(size: int, entry: Callable[[], nn.Module]) -> AdaptivePool:
    return AdaptivePool(size, [entry() for _ in STRIDES], STRIDES, sampling_ratio=2, aligned=False)


def level_shares(pool: AdaptivePool, pyramid: Pyramid, boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Share of each region's features that each level won, ties to the finest; share of features that are 0."""
    alone = [
        AdaptivePool(pool.size, [entry], [stride], sampling_ratio=2, aligned=False)(pyramid, boxes).flatten(1)
        for stride, entry in zip(STRIDES, pool.entries, strict=True)
    ]
    values, winner = torch.stack(alone).max(dim=0)
    shares = torch.stack([(winner == level).float().mean(dim=1) for level in range(len(STRIDES))], dim=1)
    return shares, (values == 0).float().mean()


@pytest.mark.parametrize(("name", "modules"), [("xconv1fc", HEAVY), ("2fc", LIGHT)])
@torch.inference_mode()
def test_box_heads(
    pyramid: Pyramid,
    boxes: list[Tensor],
    expected: dict[str, np.ndarray],
    name: str,
    modules: Mapping[str, str],
) -> None:
    if name == "2fc":
        pool = pool_of(7, lambda: fully_connected_entry(CHANNELS, 7, WIDTH, "group"))
        head = LightBoxHead(WIDTH, THINGS, norm="group")
    else:
        pool = pool_of(7, lambda: convolution_entry(CHANNELS, CHANNELS, "group"))
        head = HeavyBoxHead(CHANNELS, 7, WIDTH, THINGS, norm="group")
    load(nn.ModuleDict({"pool": pool, "head": head}), modules)
    features = pool(pyramid, boxes)
    if isinstance(head, HeavyBoxHead):
        features = head.convs(features)
    assert_close(head.hidden(features), expected[f"{name}_feat"])

    logits, deltas = head(pool(pyramid, boxes))
    assert_close(logits, np.roll(expected[f"{name}_cls_logits"], -1, axis=1))
    assert_close(logits.softmax(dim=1), np.roll(expected[f"{name}_cls_prob"], -1, axis=1))
    assert_close(deltas.flatten(1), expected[f"{name}_bbox_pred"][:, 4:])

    shares, zeros = level_shares(pool, pyramid, boxes)
    np.testing.assert_allclose(shares, expected[f"{name}_level_win_frac"], atol=1e-3)
    assert zeros.item() == pytest.approx(float(expected[f"{name}_all_zero_frac"]), abs=1e-3)


def mask_pool() -> AdaptivePool:
    return pool_of(14, lambda: convolution_entry(CHANNELS, CHANNELS, "group"))


@torch.inference_mode()
def test_mask_head_with_fully_connected_branch(
    pyramid: Pyramid, boxes: list[Tensor], expected: dict[str, np.ndarray]
) -> None:
    pool, head = mask_pool(), FusedMaskHead(CHANNELS, THINGS, norm="group", fc_relu=True)
    # The last norm has 32 groups of one channel each in this small head, which ours avoids; of 256 channels, both
    # make 32 groups.
    last_norm = head.conv_fc[1][1]  # pyright: ignore[reportIndexIssue]
    assert isinstance(last_norm, nn.GroupNorm)
    last_norm.num_groups = 32
    load(nn.ModuleDict({"pool": pool, "head": head}), FUSED)
    logits = head(pool(pyramid, boxes))
    assert_close(logits, expected["adp_ff_logits"][:, 1:])

    shared = head.convs(pool(pyramid, boxes))
    upsampled = head.upsample(head.conv_fcn(shared)).relu()
    foreground = head.foreground(shared)
    assert_close(upsampled[:, ::16, ::4, ::4], expected["adp_ff_fcn_feat"])
    assert_close(head.predictor(upsampled)[:, :, ::2, ::2], expected["adp_ff_fcn_logits"][:, 1:])
    assert_close(foreground.flatten(1), expected["adp_ff_fc"])
    head.fc_relu = False
    assert_close(head.foreground(shared).flatten(1), expected["adp_ff_fc_prerelu"])


@torch.inference_mode()
def test_mask_head_without_fully_connected_branch(
    pyramid: Pyramid, boxes: list[Tensor], expected: dict[str, np.ndarray]
) -> None:
    pool, head = mask_pool(), ConvMaskHead(CHANNELS, THINGS, norm="group")
    load(nn.ModuleDict({"pool": pool, "head": head}), MASK)
    assert_close(head(pool(pyramid, boxes))[:, :, ::2, ::2], expected["adp_logits"][:, 1:])


def test_mask_loss(expected: dict[str, np.ndarray]) -> None:
    classes = expected["mask_labels"] - 1
    assert (classes >= 0).all()
    logits = torch.from_numpy(expected["adp_ff_logits"][:, 1:])[torch.arange(REGIONS), torch.from_numpy(classes)]
    wanted = torch.stack([torch.from_numpy(raw(f"target.mask.{i}", (28, 28)) > 0) for i in range(REGIONS)]).float()
    loss = mask_loss(logits, wanted) / wanted.numel()
    assert loss.item() == pytest.approx(float(expected["mask_loss"]), rel=1e-5)


@pytest.mark.parametrize("kind", ["mask", "det", "det2fc"])
def test_parts_have_the_official_tensors(kind: str) -> None:
    """Names and shapes of neck and heads at full size, with the rows of background added."""
    shapes = {name: tuple(shape) for name, shape in json.loads((GOLDEN / f"keys_{kind}.json").read_text()).items()}
    with torch.device("meta"):
        neck = FPN((256, 512, 1024, 2048), 256, "group", bottom_up=BottomUpPath(256, "group", conv_bias=True))
        if kind == "det2fc":
            entries = [fully_connected_entry(256, 7, 1024, "group") for _ in STRIDES]
            head = LightBoxHead(1024, 80, norm="group")
        else:
            entries = [convolution_entry(256, 256, "group") for _ in STRIDES]
            head = HeavyBoxHead(256, 7, 1024, 80, norm="group")
        parts = [
            (neck, NECK),
            (nn.ModuleDict({"pool": AdaptivePool(7, entries), "head": head}), LIGHT if kind == "det2fc" else HEAVY),
        ]
        if kind == "mask":
            entries = [convolution_entry(256, 256, "group") for _ in STRIDES]
            mask_head = FusedMaskHead(256, 80, norm="group")
            parts.append((nn.ModuleDict({"pool": AdaptivePool(14, entries), "head": mask_head}), FUSED))
    ours = {
        their_name(name, modules): tuple(tensor.shape)
        for part, modules in parts
        for name, tensor in part.state_dict().items()
    }
    for name in ours:
        more = {"Box_Outs.bbox_pred": 4, "Mask_Outs.classify": 1}.get(name.rpartition(".")[0], 0)
        ours[name] = (ours[name][0] + more, *ours[name][1:])
    assert ours == {
        name: shape for name, shape in shapes.items() if not name.startswith(("Conv_Body.conv_body.", "RPN."))
    }
    if kind == "mask":
        assert sum(math.prod(shape) for shape in shapes.values()) == 73_356_357
