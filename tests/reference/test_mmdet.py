"""The parts that mmdetection's networks have otherwise, against its numbers, and the way of their weights to ours."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from thingstuff.convert.classes import coco_labels, things_only
from thingstuff.convert.mapping import foreign_names, network_shapes
from thingstuff.convert.mmdet import MODULES, NetworkKind, convert_mmdet, mmdet_recipe
from thingstuff.convert.resnet import resnet_modules
from thingstuff.errors import InputError
from thingstuff.model.fusion import merge_by_score
from thingstuff.model.neck import BottomUpPath
from thingstuff.model.panoptic import PanopticSegmenter
from thingstuff.model.region import RegionBranch, Suppression
from thingstuff.model.semantic import UpsampleSumHead
from thingstuff.recipe import Recipe, derive
from thingstuff.recipes import panoptic_fpn_r50_coco
from thingstuff.structures import Batch, Instances, Outputs, Pyramid, Semantic, Targets
from thingstuff.training.objective import Objective

GOLDEN = Path(__file__).parents[2] / ".." / "shared" / "golden" / "panet"
NUM_THINGS, NUM_STUFF = 3, 4

pytestmark = pytest.mark.reference
needs_golden = pytest.mark.skipif(not GOLDEN.exists(), reason="needs mmdetection's numbers in ../shared/golden/panet")


def raw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.Generator(np.random.Philox(key=zlib.crc32(name.encode()))).standard_normal(shape)


def fill(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Weights by the rule of the golden files."""
    values = raw(name, shape)
    if len(shape) > 1:
        values = values * np.sqrt(2 / np.prod(shape[1:]))
    else:
        values = 0.1 * values + (1 if name.endswith(".weight") else 0)
    return torch.from_numpy(values.astype(np.float32))


@pytest.fixture(scope="module")
def semantic():
    with np.load(GOLDEN / "mmdet_semantic_small.npz") as arrays:
        return dict(arrays)


@needs_golden
def test_semantic_head(semantic):
    head = UpsampleSumHead(64, 32, NUM_STUFF + 1)
    for module in head.modules():
        if isinstance(module, nn.GroupNorm):
            module.num_groups = 32  # of one channel each in this small head, which ours avoids
    shapes = {f"semantic.{name}": tuple(tensor.shape) for name, tensor in head.state_dict().items()}
    names = foreign_names(shapes, MODULES)
    head.load_state_dict({ours.removeprefix("semantic."): fill(name, shapes[ours]) for name, ours in names.items()})
    pyramid = {
        2**level: torch.from_numpy(
            raw(f"input.small.sem.P{level}", (2, 64, 64 >> level, 96 >> level)).astype(np.float32)
        )
        for level in range(2, 6)
    }
    with torch.inference_mode():
        logits = head(Pyramid(pyramid)).logits
    expected = semantic["seg_preds"]
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


class Fixed(nn.Module):
    """Says the same of every picture."""

    def __init__(self, logits: np.ndarray):
        super().__init__()
        self.logits = torch.from_numpy(logits)

    def forward(self, _):
        return Semantic(self.logits)


@needs_golden
@pytest.mark.parametrize(
    ("size", "mean", "expected"),
    [
        ("quarter", "all", "loss_mmdet"),
        ("quarter", "labelled", "loss_stride4_nonignored"),
        ("full", "labelled", "loss_fullres_nonignored"),
    ],
)
def test_semantic_loss(semantic, size, mean, expected):
    pass_on = nn.Identity()
    network = PanopticSegmenter(
        pass_on, pass_on, None, None, Fixed(semantic["seg_preds"]), None, pixel_mean=[0.0] * 3, pixel_std=[1.0] * 3
    )
    recipe = derive(panoptic_fpn_r50_coco(), loss__semantic_size=size, loss__semantic_mean=mean)
    truth = semantic["gt"][:, 0].astype(int)
    ours = np.select([truth == 255, truth < NUM_THINGS], [255, truth + NUM_STUFF], truth - NUM_THINGS).astype(np.uint8)
    targets = tuple(
        Targets(torch.zeros(0, 4), torch.zeros(0).long(), torch.zeros(0).bool(), (), torch.from_numpy(label_map))
        for label_map in ours
    )
    height, width = ours.shape[1:]
    batch = Batch(torch.zeros(2, 3, height, width), torch.tensor([[height, width]] * 2), targets, (0, 1))
    losses = Objective(network, recipe, NUM_STUFF)(batch)
    assert losses.semantic.item() == pytest.approx(float(semantic[expected]), rel=1e-5)


@needs_golden
def test_fusion():
    with np.load(GOLDEN / "mmdet_fusion_small.npz") as arrays:
        golden = dict(arrays)
    count, height, width = golden["masks"].shape
    side = max(height, width)
    square = np.zeros((count, side, side), np.float32)
    square[:, :height, :width] = golden["masks"]
    # The network's logits have a quarter of the size: the canvas counts as four times as large before.
    instances = Instances(
        boxes=torch.tensor([0.0, 0.0, 4 * side, 4 * side]).expand(1, count, 4).clone(),
        scores=torch.from_numpy(golden["scores"])[None],
        labels=torch.from_numpy(golden["labels"])[None],
        mask_logits=torch.from_numpy(square * 40 - 20)[None],
        valid=torch.ones(1, count, dtype=torch.bool),
    )
    classes = np.full((side, side), NUM_STUFF)
    classes[:height, :width] = golden["seg_logits"].argmax(axis=0)
    logits = nn.functional.one_hot(torch.from_numpy(classes), NUM_STUFF + 1).permute(2, 0, 1)[None].float()
    maps = merge_by_score(
        Outputs(instances, Semantic(logits)),
        0,
        (4 * side, 4 * side),
        (side, side),
        num_stuff=NUM_STUFF,
        score_threshold=0.0,
        overlap_threshold=float(golden["mask_overlap"]),
        stuff_area=int(golden["stuff_area_limit"]),
    )
    ids = maps.ids.numpy()[:height, :width]
    theirs = golden["panoptic"]
    void = NUM_THINGS + NUM_STUFF
    np.testing.assert_array_equal(ids == 0, theirs % 1000 == void)
    areas = {}
    for segment, label in enumerate(maps.labels.tolist(), start=1):
        (their_id,) = np.unique(theirs[ids == segment])
        assert their_id % 1000 == (label - NUM_STUFF if label >= NUM_STUFF else label + NUM_THINGS)
        areas[int(their_id)] = int(maps.areas[segment - 1])
    expected = dict(zip(golden["ids"].tolist(), golden["counts"].tolist(), strict=True))
    assert areas == {key: value for key, value in expected.items() if key % 1000 != void}


def mmdet_tensors(recipe: Recipe) -> dict[str, torch.Tensor]:
    """Weights under mmdetection's names; zero stands for each tensor, but outputs are numbered."""
    backbone = recipe.model.backbone.name
    shapes = network_shapes(recipe, coco_labels())
    names = foreign_names(shapes, resnet_modules(backbone, "backbone.") | MODULES)
    tensors = {name: torch.zeros(()).expand(shapes[ours]) for name, ours in names.items()}
    tensors["backbone.bn1.num_batches_tracked"] = torch.tensor(7)
    for name in ("semantic_head.conv_logits.bias", "roi_head.bbox_head.fc_cls.bias", "neck.pafpn_convs.2.conv.bias"):
        if name in tensors:
            tensors[name] = torch.arange(len(tensors[name])).float()
    return tensors


@pytest.mark.parametrize("backbone", ["resnet50", "resnet101"])
def test_weights(tmp_path, backbone):
    torch.save({"meta": {"epoch": 12}, "state_dict": mmdet_tensors(mmdet_recipe(backbone))}, tmp_path / "mmdet.pth")
    checkpoint = convert_mmdet(tmp_path / "mmdet.pth")
    assert checkpoint.labels == coco_labels()
    assert checkpoint.recipe.model.backbone.name == backbone
    assert checkpoint.weights["semantic.predictor.bias"].tolist() == list(range(54))
    assert checkpoint.weights["region.box_head.outputs.classes.bias"].tolist() == list(range(81))
    network = checkpoint.network()
    assert isinstance(network.region, RegionBranch)
    assert network.region.detection_rule == Suppression(0.6, 0.5, class_agnostic=True)
    assert network.channel_order == "rgb"
    conv = network.get_submodule("backbone.body.layer2.0.conv2")
    assert isinstance(conv, nn.Conv2d)
    assert conv.stride == (2, 2)


KINDS: tuple[NetworkKind, ...] = ("panoptic", "mask_rcnn", "faster_rcnn")


@pytest.mark.parametrize("path_aggregation", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_networks_with_fewer_branches_and_more_neck(tmp_path, kind, path_aggregation):
    tensors = mmdet_tensors(mmdet_recipe("resnet50", kind, path_aggregation=path_aggregation))
    assert ("neck.downsample_convs.0.conv.weight" in tensors) == path_aggregation
    torch.save({"state_dict": tensors}, tmp_path / "mmdet.pth")
    checkpoint = convert_mmdet(tmp_path / "mmdet.pth")
    assert len(checkpoint.weights) == len(tensors) - 1
    neck = "pafpn" if path_aggregation else "fpn"
    assert checkpoint.recipe.name == f"mmdet_{kind}_{neck}_r50_coco"
    assert checkpoint.recipe == mmdet_recipe("resnet50", kind, path_aggregation=path_aggregation)
    assert checkpoint.labels == (coco_labels() if kind == "panoptic" else things_only(coco_labels()))
    network = checkpoint.network()
    assert isinstance(network.region, RegionBranch)
    assert (network.semantic is None, network.fusion is None) == (kind != "panoptic", kind != "panoptic")
    assert (network.region.mask_head is None) == (kind == "faster_rcnn")
    if kind != "panoptic":
        assert network.region.detection_rule == Suppression(0.05, 0.5)
    if path_aggregation:
        path = network.get_submodule("neck.bottom_up")
        assert isinstance(path, BottomUpPath)
        assert path.order == "mmdet"
        assert not any(isinstance(module, nn.ReLU) for module in path.modules())
        assert checkpoint.weights["neck.bottom_up.output.2.0.bias"].tolist() == list(range(256))


@needs_golden
def test_names_are_those_of_the_reference():
    known = mmdet_tensors(mmdet_recipe("resnet50", path_aggregation=True))
    names = json.loads((GOLDEN / "keys_mmdet_neck_semantic.json").read_text())
    expected = {name.replace("neck(PAFPN).", "neck."): tuple(shape) for name, shape in names.items()}
    parts = ("neck.", "semantic_head.")
    assert {name: tuple(known[name].shape) for name in known if name.startswith(parts)} == expected


def test_other_networks_are_refused(tmp_path):
    torch.save({"state_dict": {"mask_head.weight": torch.zeros(1)}}, tmp_path / "solo.pth")
    with pytest.raises(InputError, match="not a Faster R-CNN, Mask R-CNN or Panoptic FPN of mmdetection"):
        convert_mmdet(tmp_path / "solo.pth")
    torch.save({"proposal_generator.rpn_head.conv.weight": torch.zeros(1)}, tmp_path / "d2.pth")
    with pytest.raises(InputError, match="not of the kind mmdet; use: thingstuff convert detectron2"):
        convert_mmdet(tmp_path / "d2.pth")
