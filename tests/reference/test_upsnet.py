"""The way of UPSNet's weights to ours: by the names and shapes of its published files, with made-up values."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from thingstuff.checkpoint import Checkpoint, load_checkpoint
from thingstuff.convert import convert, upsnet
from thingstuff.convert.classes import cityscapes_labels, coco_labels
from thingstuff.convert.foreign import ForeignWeights
from thingstuff.convert.mapping import foreign_names, network_shapes
from thingstuff.convert.upsnet import convert_upsnet, upsnet_modules
from thingstuff.errors import InputError
from thingstuff.labels import Category, LabelSet
from thingstuff.model.build import build_network
from thingstuff.recipe import Recipe, derive
from thingstuff.recipes import (
    upsnet_r50_cityscapes,
    upsnet_r50_coco,
    upsnet_r101_cityscapes,
    upsnet_r101_dcn_coco,
)
from thingstuff.training.transfer import transfer

KEYS = Path(__file__).parents[2] / ".." / "shared" / "specs" / "keys"

pytestmark = pytest.mark.reference
needs_keys = pytest.mark.skipif(not KEYS.exists(), reason="needs UPSNet's names in ../shared/specs/keys")


@dataclass(frozen=True)
class Published:
    """A network of UPSNet.

    Attributes:
        file: Its names and shapes.
        recipe: Ours.
        labels: Its classes.
        total: Parameters, with weight and bias of the frozen norms and the outputs for background.
        trainable: Those that learn.
    """

    file: str
    recipe: Callable[[], Recipe]
    labels: Callable[[], LabelSet]
    total: int
    trainable: int


PUBLISHED = (
    Published("upsnet_resnet50_coco_16gpu", upsnet_r50_coco, coco_labels, 46_129_904, 45_854_384),
    Published("upsnet_resnet101_dcn_coco_3x_16gpu", upsnet_r101_dcn_coco, coco_labels, 66_408_204, 66_080_460),
    Published("upsnet_resnet50_cityscapes_16gpu", upsnet_r50_cityscapes, cityscapes_labels, 44_527_804, 44_252_284),
)
published = pytest.mark.parametrize("network", PUBLISHED, ids=[network.file for network in PUBLISHED])

SAMPLES = {
    "backbone.body.conv1.weight": "resnet_backbone.conv1.conv1.weight",
    "backbone.body.bn1.running_var": "resnet_backbone.conv1.bn1.running_var",
    "backbone.body.layer1.0.downsample.0.weight": "resnet_backbone.res2.layers.0.downsample.0.weight",
    "backbone.body.layer2.0.downsample.1.running_mean": "resnet_backbone.res3.layers.0.downsample.1.running_mean",
    "backbone.body.layer2.3.bn2.bias": "resnet_backbone.res3.layers.3.bn2.bias",
    "backbone.body.layer3.5.conv3.weight": "resnet_backbone.res4.layers.5.conv3.weight",
    "backbone.body.layer4.2.conv2.weight": "resnet_backbone.res5.layers.2.conv2.weight",
    "backbone.body.layer4.2.conv2.offset.weight": "resnet_backbone.res5.layers.2.conv2_offset.weight",
    "backbone.body.layer2.1.conv2.offset.bias": "resnet_backbone.res3.layers.1.conv2_offset.bias",
    "neck.lateral.0.0.weight": "fpn.fpn_p2_1x1.weight",
    "neck.lateral.3.0.bias": "fpn.fpn_p5_1x1.bias",
    "neck.output.0.0.bias": "fpn.fpn_p2.bias",
    "neck.output.2.0.weight": "fpn.fpn_p4.weight",
    "neck.global_average.weight": "fpn.fpn_gap.weight",
    "rpn.conv.weight": "rpn.conv_proposal.0.weight",
    "rpn.objectness.bias": "rpn.cls_score.bias",
    "rpn.deltas.weight": "rpn.bbox_pred.weight",
    "region.box_pool.entry.1.weight": "rcnn.fc6.0.weight",
    "region.box_head.hidden.0.bias": "rcnn.fc7.0.bias",
    "region.mask_pool.entry.0.weight": "mask_branch.mask_conv1.0.weight",
    "region.mask_head.convs.0.0.weight": "mask_branch.mask_conv2.0.weight",
    "region.mask_head.convs.2.0.bias": "mask_branch.mask_conv4.0.bias",
    "region.mask_head.upsample.weight": "mask_branch.mask_deconv1.0.weight",
    "semantic.layers.0.0.offset.weight": "fcn_head.fcn_subnet.conv.0.0.conv_offset.weight",
    "semantic.layers.1.0.weight": "fcn_head.fcn_subnet.conv.1.0.conv.weight",
    "semantic.layers.2.0.bias": "fcn_head.fcn_subnet.conv.2.0.conv.bias",
    "semantic.predictor.weight": "fcn_head.score.weight",
}
"""Names of UPSNet by ours, written down by hand; a network has those of its parts."""


def read_shapes(file: str) -> dict[str, tuple[int, ...]]:
    rows = (line.split("\t") for line in (KEYS / f"{file}.tsv").read_text(encoding="utf-8").splitlines())
    return {name: () if shape == "scalar" else tuple(map(int, shape.split("x"))) for name, shape in rows}


def fill(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """A constant of its own for every tensor; in the outputs for classes, row ``i`` is ``i``."""
    tensors = {}
    for number, (name, shape) in enumerate(shapes.items(), start=1):
        if re.match(r"(rcnn|mask_branch)\.(cls_score|bbox_pred|mask_score)\.|fcn_head\.score\.", name):
            rows = torch.arange(shape[0]).float()
            tensors[name] = rows.view(-1, *[1] * (len(shape) - 1)).expand(shape)
        else:
            tensors[name] = torch.tensor(float(number)).expand(shape)
    return tensors


def read_instead(monkeypatch: pytest.MonkeyPatch, tensors: dict[str, Tensor]) -> None:
    monkeypatch.setattr(upsnet, "read_weights", lambda _: ForeignWeights(tensors))


def made_up(recipe: Recipe, labels: LabelSet) -> dict[str, Tensor]:
    """Weights of a recipe's network by UPSNet's names, with zeros for background."""
    shapes = network_shapes(recipe, labels)
    tensors = {
        name: torch.zeros(()).expand(shapes[ours])
        for name, ours in foreign_names(shapes, upsnet_modules(recipe)).items()
    }
    for layer, rows in (("rcnn.bbox_pred", 4), ("mask_branch.mask_score", 1)):
        for leaf in ("weight", "bias"):
            known = tensors[f"{layer}.{leaf}"]
            tensors[f"{layer}.{leaf}"] = torch.zeros(()).expand(len(known) + rows, *known.shape[1:])
    return tensors


# --- the published files ---


@needs_keys
@published
def test_every_tensor_finds_its_place(monkeypatch: pytest.MonkeyPatch, network: Published) -> None:
    tensors = fill(read_shapes(network.file))
    read_instead(monkeypatch, tensors)
    checkpoint = convert_upsnet("published.pth")
    assert checkpoint.recipe == network.recipe()
    assert checkpoint.labels == network.labels()
    assert {name: tensor.shape for name, tensor in checkpoint.weights.items()} == network_shapes(
        checkpoint.recipe, checkpoint.labels
    )
    outputs = ("region.box_head.outputs.", "region.mask_head.predictor.", "semantic.predictor.")
    landed = {tensor.flatten()[0].item() for name, tensor in checkpoint.weights.items() if not name.startswith(outputs)}
    constants = {
        tensor.flatten()[0].item()
        for name, tensor in tensors.items()
        if not re.match(r".*num_batches_tracked|rcnn\.(cls|bbox)|mask_branch\.mask_score|fcn_head\.score", name)
    }
    assert landed == constants
    for ours, theirs in SAMPLES.items():
        assert (ours in checkpoint.weights) == (theirs in tensors), ours
        if theirs in tensors:
            assert torch.equal(checkpoint.weights[ours], tensors[theirs]), ours


@needs_keys
@published
def test_outputs_are_in_our_order(monkeypatch: pytest.MonkeyPatch, network: Published) -> None:
    """Theirs: background, then things; stuff, then things. Ours: things, then background; stuff, then things."""
    read_instead(monkeypatch, fill(read_shapes(network.file)))
    weights, labels = convert_upsnet("published.pth").weights, network.labels()
    things = list(range(1, labels.num_things + 1))
    for leaf in ("weight", "bias"):
        rows = {
            name: [float(row.flatten()[0]) for row in weights[f"{name}.{leaf}"]]
            for name in (
                "region.box_head.outputs.classes",
                "region.box_head.outputs.deltas",
                "region.mask_head.predictor",
                "semantic.predictor",
            )
        }
        assert rows["region.box_head.outputs.classes"] == [*things, 0]
        assert rows["region.box_head.outputs.deltas"] == list(range(4, 4 * labels.num_things + 4))
        assert rows["region.mask_head.predictor"] == things
        assert rows["semantic.predictor"] == list(range(len(labels)))


@needs_keys
@published
def test_parameter_counts(network: Published) -> None:
    """Theirs count the outputs for background that have no meaning: four numbers of a box and a mask."""
    shapes = read_shapes(network.file)
    counted = {
        name: shape for name, shape in shapes.items() if not re.search(r"running_(mean|var)|num_batches_tracked", name)
    }
    assert sum(torch.Size(shape).numel() for shape in counted.values()) == network.total
    with torch.device("meta"):
        ours = build_network(network.recipe(), network.labels())
    background = 4 * (1024 + 1) + (256 + 1)
    learned = sum(parameter.numel() for parameter in ours.parameters() if parameter.requires_grad)
    every = sum(tensor.numel() for name, tensor in ours.state_dict().items() if ".running_" not in name)
    assert every + background == network.total
    assert learned + background == network.trainable


# --- other files ---


def test_the_whole_way(tmp_path: Path) -> None:
    """From a file that was trained on several GPUs to a checkpoint of the classes named."""
    own = LabelSet((Category(4, "sky", False, (0, 0, 9)), Category(2, "cat", True, (9, 0, 0))))
    labels = tmp_path / "labels.toml"
    labels.write_text(
        '[[category]]\nid = 2\nname = "cat"\nisthing = true\ncolor = [9, 0, 0]\n'
        '[[category]]\nid = 4\nname = "sky"\nisthing = false\ncolor = [0, 0, 9]\n'
    )
    tensors = made_up(upsnet_r50_cityscapes(), own)
    tensors["rcnn.cls_score.bias"] = torch.tensor([5.0, 6.0])
    tensors["resnet_backbone.conv1.bn1.num_batches_tracked"] = torch.tensor(7)
    torch.save({f"module.{name}": tensor for name, tensor in tensors.items()}, tmp_path / "own.pth")
    convert("upsnet", tmp_path / "own.pth", tmp_path / "own.safetensors", labels)
    checkpoint = load_checkpoint(tmp_path / "own.safetensors")
    assert checkpoint.labels == own
    assert checkpoint.recipe == upsnet_r50_cityscapes()
    assert checkpoint.weights["region.box_head.outputs.classes.bias"].tolist() == [6.0, 5.0]
    assert checkpoint.credit == (
        "converted from own.pth of UPSNet (Uber Non-Commercial License); the licence is that of this file"
    )
    assert checkpoint.recipe.picture.channel_order == "bgr"
    region = checkpoint.recipe.model.region
    assert region is not None
    assert region.inclusive_boxes
    assert not region.aligned
    assert region.rpn.anchor_kind == "legacy"
    checkpoint.network()


def test_coco_network_to_begin_cityscapes_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network of the same parts on COCO fits as a whole: new classes alone begin anew."""
    on_coco = derive(upsnet_r101_cityscapes(), name="on_coco")
    read_instead(monkeypatch, made_up(on_coco, coco_labels()))
    checkpoint = convert_upsnet("upsnet_resnet_101_coco_pretrained_for_cityscapes.pth")
    assert checkpoint.recipe.name == "upsnet_r101_coco"
    assert checkpoint.recipe.model.backbone == upsnet_r101_cityscapes().model.backbone
    assert checkpoint.recipe.picture == upsnet_r50_coco().picture
    read_instead(monkeypatch, made_up(on_coco, cityscapes_labels()))
    assert convert_upsnet("upsnet_resnet_101_cityscapes_w_coco_3000.pth").recipe == upsnet_r101_cityscapes()
    with torch.device("meta"):
        own = build_network(upsnet_r101_cityscapes(), cityscapes_labels()).state_dict()
    found = transfer(checkpoint, own, upsnet_r101_cityscapes(), cityscapes_labels(), "coco")
    assert found.weights.keys() == own.keys()
    assert found.lines[-1] == "new classes (4): pole, traffic sign, terrain, rider"


@pytest.mark.parametrize("folded", [False, True])
def test_a_resnet_to_begin_with(monkeypatch: pytest.MonkeyPatch, folded: bool) -> None:
    """Caffe's, by torchvision's names; statistics of its norms may be part of scale and shift."""
    shapes = network_shapes(upsnet_r50_coco(), coco_labels())
    tensors = {
        name.removeprefix("backbone.body."): torch.full((), 2.0).expand(shape)
        for name, shape in shapes.items()
        if name.startswith("backbone.") and not (folded and ".running_" in name)
    }
    read_instead(monkeypatch, tensors | {"fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)})
    checkpoint: Checkpoint = convert_upsnet("resnet-50-caffe.pth")
    assert checkpoint.weights.keys() == {name for name in shapes if name.startswith("backbone.")}
    assert checkpoint.recipe.picture == upsnet_r50_coco().picture
    assert checkpoint.weights["backbone.body.layer1.0.bn1.running_mean"][0] == (0 if folded else 2)
    variance = checkpoint.weights["backbone.body.bn1.running_var"][0].item()
    assert variance == pytest.approx(1 - 1e-5 if folded else 2)


def test_other_files_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(changes: dict[str, Tensor], drop: str = "-") -> str:
        read_instead(monkeypatch, {name: t for name, t in (tensors | changes).items() if not name.startswith(drop)})
        with pytest.raises(InputError) as caught:
            convert_upsnet("own.pth")
        assert "\n" not in str(caught.value)
        return str(caught.value)

    tensors = made_up(upsnet_r50_coco(), coco_labels())
    assert refused({}, "rcnn.") == (
        "own.pth: has no 'rcnn.cls_score.weight', so it is not a UPSNet; convert a checkpoint of that network"
    )
    assert "has no 'fcn_head.score.weight'" in refused({}, "fcn_head.score")
    assert "has 80 thing classes but 19 semantic outputs" in refused({"fcn_head.score.weight": torch.zeros(19, 512)})
    assert "has 80 thing and 20 stuff classes, which are not COCO's" in refused(
        {"fcn_head.score.weight": torch.zeros(100, 512)}
    )
    assert "lacks 2 (fpn.fpn_p4.weight, fpn.fpn_p4.bias)" in refused({}, "fpn.fpn_p4.")
    assert "has unexpected 1 (fpn.fpn_p2_gn.weight)" in refused({"fpn.fpn_p2_gn.weight": torch.zeros(256)})
    assert "has another shape of 1 (rcnn.bbox_pred.bias (8,), not (320,))" in refused(
        {"rcnn.bbox_pred.bias": torch.zeros(8)}
    )
    assert "stage 'resnet_backbone.res4.layers' has 0 blocks" in refused({}, "resnet_backbone.res4")
    assert refused({"rpn_head.rpn_conv.weight": torch.zeros(1)}) == (
        "own.pth: has 'rpn_head.rpn_conv.weight', so it is not of the kind upsnet; use: thingstuff convert mmdet"
    )
    assert "its semantic branch has 0 deformable layers; UPSNet has 2 or 3" in refused({}, "fcn_head.fcn_subnet")
