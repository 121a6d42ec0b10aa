"""Our Panoptic FPN against Detectron2's numbers: every stage, losses, gradients, and the parts alone."""

import dataclasses
import importlib.util
import json
import pickle
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import jaxtyping
import numpy as np
import pytest
import torch
import torch._dynamo

from thingstuff import structures
from thingstuff.convert.detectron2 import all_modules, convert_detectron2
from thingstuff.convert.mapping import foreign_names
from thingstuff.model import boxes as box_ops
from thingstuff.model import rpn
from thingstuff.model.fusion import merge_by_score, semantic_labels
from thingstuff.model.pasting import paste_in_box
from thingstuff.model.rpn import cell_anchors
from thingstuff.recipe import derive
from thingstuff.recipes import panoptic_fpn_r50_coco
from thingstuff.structures import VOID_LABEL, Batch, Instances, Outputs, Semantic, Targets
from thingstuff.training.objective import Objective
from thingstuff.training.optim import make_optimizer
from thingstuff.training.targets import mask_targets

GOLDEN = Path(__file__).parents[2] / ".." / "shared" / "golden" / "d2"
SIZE = (480, 640)
NUM_STUFF = 53
STRIDES = {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64}

pytestmark = [
    pytest.mark.reference,
    pytest.mark.skipif(not GOLDEN.exists(), reason="needs Detectron2's numbers in ../shared/golden/d2"),
]


@pytest.fixture(scope="module")
def spec():
    return json.loads((GOLDEN / "spec.json").read_text())


@pytest.fixture(scope="module")
def rules():
    """The numpy module that makes weights, pictures and targets by the stated rules."""
    plan = importlib.util.spec_from_file_location("golden_fill", GOLDEN / "golden_fill.py")
    assert plan is not None
    assert plan.loader is not None
    module = importlib.util.module_from_spec(plan)
    sys.modules["golden_fill"] = module
    plan.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def keys():
    return json.loads((GOLDEN / "keys.json").read_text())["keys"]


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "infer_A.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def units():
    with np.load(GOLDEN / "units.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def checkpoint(rules, keys, tmp_path_factory):
    """The deterministic weights in the form of a model zoo file, converted."""
    file = tmp_path_factory.mktemp("zoo") / "model_final.pkl"
    constants = {"pixel_mean": np.array([103.53, 116.28, 123.675], np.float32).reshape(3, 1, 1)}
    constants["pixel_std"] = np.ones((3, 1, 1), np.float32)
    content = {"model": rules.fill(keys) | constants, "__author__": "Detectron2 Model Zoo"}
    with open(file, "wb") as opened:
        pickle.dump(content, opened, protocol=2)
    converted = convert_detectron2(file)
    file.unlink()
    return converted


@pytest.fixture(scope="module")
def network(checkpoint):
    return checkpoint.network()


def to_pixels(bgr: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(bgr[..., ::-1].copy()).permute(2, 0, 1)


@pytest.fixture(scope="module")
def run(network, rules):
    """One pass over picture A, every stage kept."""
    pixels, sizes = to_pixels(rules.synth_image(*SIZE, 1))[None], torch.tensor([SIZE])
    with torch.inference_mode():
        features = network.backbone(network.normalize(pixels, sizes))
        pyramid = network.neck(features)
        anchors = network.rpn.predict(pyramid)
        proposals = network.rpn.select(anchors, sizes)
        box_features = network.region.box_pool.pool(pyramid, [proposals.boxes[0, :20]])
        hidden = network.region.box_head.hidden(network.region.box_pool(pyramid, [proposals.boxes[0, :100]]))
        predictions = network.region.box_head.outputs(hidden)
        instances, _ = network.region(pyramid, proposals, sizes)
        semantic = network.semantic(pyramid)
    return SimpleNamespace(
        features=features,
        pyramid=pyramid,
        anchors=anchors,
        proposals=proposals,
        box_features=box_features,
        hidden=hidden,
        predictions=predictions,
        instances=instances,
        outputs=Outputs(instances, semantic),
    )


def assert_near(ours, theirs, fraction=1e-4):
    """Equal up to a fraction of the largest absolute value."""
    assert tuple(ours.shape) == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=fraction * float(np.abs(theirs).max()))


# --- the network ---


def test_every_tensor_is_filled(checkpoint, keys):
    names = foreign_names(checkpoint.weights, all_modules("resnet50"))
    assert len(keys) == len(names) == 330
    assert names.keys() == keys.keys()
    assert {name: list(checkpoint.weights[ours].shape) for name, ours in names.items()} == keys


def test_weights_are_the_reference_s(rules, keys, spec):
    """Numpy does not promise its random streams; if this fails, so will the rest, and nobody is to blame."""
    for name in ("backbone.bottom_up.stem.conv1.weight", "sem_seg_head.predictor.bias"):
        first = rules.fill_one(name, keys[name], frozen=False).flatten()[:4]
        np.testing.assert_allclose(first, spec["weight_checks"][name]["first4"], rtol=1e-6)


def test_parameter_counts(network):
    def count(module, learned=False):
        return sum(p.numel() for p in module.parameters() if p.requires_grad or not learned)

    assert count(network) == 45_973_990
    assert count(network, learned=True) == 45_751_590
    assert count(network.backbone) + count(network.neck) == 26_799_296
    assert count(network.backbone) == 23_454_912
    assert count(network.rpn) == 593_935
    assert count(network.region) == 16_949_985
    assert count(network.semantic) == 1_630_774
    assert sum(tensor.numel() for tensor in network.state_dict().values()) == 46_080_230


def test_optimizer_groups(network):
    optimizer = make_optimizer(network, panoptic_fpn_r50_coco().optim, 0.02)
    decayed = sum(len(group["params"]) for group in optimizer.param_groups if group["weight_decay"] == 1e-4)
    free = sum(len(group["params"]) for group in optimizer.param_groups if group["weight_decay"] == 0)
    assert (decayed, free) == (93, 14)
    assert {group["lr"] for group in optimizer.param_groups} == {0.02}


# --- picture A, stage by stage ---


def subsample(spec, name: str, tensor: torch.Tensor) -> torch.Tensor:
    """What the golden file keeps of a feature map, for example ``x[0, ::8, ::4, ::4]``."""
    channel, row, column = (int(step) for step in re.findall(r"::(\d+)", spec["subsample"][name]))
    return tensor[0, ::channel, ::row, ::column]


@pytest.mark.parametrize(("name", "stride"), [("res2", 4), ("res3", 8), ("res4", 16), ("res5", 32)])
def test_backbone(run, golden, spec, name, stride):
    assert_near(subsample(spec, name, run.features.features[stride]), golden[name])


@pytest.mark.parametrize(("name", "stride"), STRIDES.items())
def test_neck(run, golden, spec, name, stride):
    assert_near(subsample(spec, name, run.pyramid.features[stride]), golden[name])


@pytest.mark.parametrize(("position", "name", "steps"), [(0, "p2", (4, 8)), (1, "p3", (2, 4)), (4, "p6", (1, 2))])
def test_anchor_predictions(run, golden, position, name, steps):
    height, width = run.pyramid.features[STRIDES[name]].shape[2:]
    logits = run.anchors.logits.split(run.anchors.counts, dim=1)[position].view(height, width, 3)
    deltas = run.anchors.deltas.split(run.anchors.counts, dim=1)[position].view(height, width, 12)
    assert_near(logits.permute(2, 0, 1)[:, :: steps[0], :: steps[0]], golden[f"rpn_logits_{name}"])
    assert_near(deltas.permute(2, 0, 1)[:, :: steps[1], :: steps[1]], golden[f"rpn_deltas_{name}"])


def test_proposals(run, golden):
    boxes, logits = run.proposals.boxes[0].numpy(), run.proposals.logits[0].numpy()
    assert run.proposals.valid.all()
    np.testing.assert_allclose(boxes[:100], golden["proposal_boxes"][:100], atol=0.01)
    np.testing.assert_allclose(logits, golden["proposal_logits"], rtol=1e-4, atol=1e-4)
    distance = np.abs(boxes[:, None] - golden["proposal_boxes"][None]).max(axis=2)
    assert distance.min(axis=0).max() < 0.01
    assert distance.min(axis=1).max() < 0.01


def test_box_head(run, golden):
    assert_near(run.box_features[:, ::16], golden["box_roi_feats"])
    assert_near(run.hidden[:50, ::16], golden["box_head_feats"])
    assert_near(run.predictions.class_logits, golden["cls_logits"])
    assert_near(run.predictions.deltas.flatten(1)[:, ::4], golden["box_deltas"])


def test_detections(run, golden):
    found = run.instances
    assert found.valid.all()
    np.testing.assert_allclose(found.boxes[0], golden["det_boxes"], atol=0.01)
    np.testing.assert_allclose(found.scores[0], golden["det_scores"], atol=1e-4)
    np.testing.assert_array_equal(found.labels[0], golden["det_classes"])
    sure = found.scores[0] >= 0.5
    np.testing.assert_allclose(found.mask_logits[0, sure].sigmoid(), golden["det_mask_probs"], atol=1e-3)


def test_masks_at_full_size(run, golden):
    boxes = box_ops.rescale(run.instances.boxes[0], SIZE, SIZE)
    np.testing.assert_allclose(boxes, golden["out_boxes"], atol=0.01)
    probabilities = run.instances.mask_logits[0].sigmoid()
    expected = np.unpackbits(golden["out_masks_top20_packbits"], axis=2)[:, :, : SIZE[1]].astype(bool)
    for row in range(100):
        window, (top, left) = paste_in_box(probabilities[row], boxes[row], SIZE)
        area = golden["out_mask_areas"][row]
        assert abs(int(window.sum()) - area) <= max(2, 1e-3 * area)
        if row < 20:
            mask = np.zeros(SIZE, bool)
            mask[top : top + window.shape[0], left : left + window.shape[1]] = window
            assert (mask != expected[row]).sum() <= max(2, 1e-3 * area)


def test_semantic(run, golden):
    theirs_first = run.outputs.semantic.logits[0].roll(1, dims=0)
    assert_near(theirs_first[:, ::4, ::4], golden["sem_logits_s4"])
    labels = semantic_labels(run.outputs.semantic.logits[0], SIZE, SIZE).numpy().astype(int)
    assert ((labels + 1) % (NUM_STUFF + 1) == golden["sem_argmax"]).mean() >= 0.999


def check_segments(maps, expected: list[dict]) -> None:
    """The same segments in the same order: Detectron2 counts things and stuff apart, ours are all classes."""
    assert maps.valid.all()
    assert len(maps.labels) == len(expected)
    for label, score, segment in zip(maps.labels.tolist(), maps.scores.tolist(), expected, strict=True):
        category = segment["category_id"]
        assert label == (category + NUM_STUFF if segment["isthing"] else category - 1)
        if segment["isthing"]:
            assert score == pytest.approx(segment["score"], abs=1e-4)


def test_panoptic_map(run, network, golden, spec):
    maps = network.fusion(run.outputs, 0, SIZE, SIZE)
    assert (maps.ids.numpy() == golden["panoptic"]).mean() >= 0.999
    check_segments(maps, spec["infer"]["A"]["segments_info"])
    areas = np.array(spec["infer"]["A"]["panoptic_area_by_id"][1:])
    assert np.abs(maps.areas.numpy() - areas).max() <= 300


# --- losses and gradients ---


@pytest.fixture(scope="module")
def learned(checkpoint, rules):
    """Losses and gradient norms of one step over two pictures, nothing left to chance."""
    everything = {"model__region__rpn__samples": 262144, "model__region__samples": 4096}
    recipe = derive(panoptic_fpn_r50_coco(), **everything)
    network = checkpoint.network()
    objective = Objective(network, recipe, NUM_STUFF).train()
    images, targets = torch.zeros(2, 3, 384, 512, dtype=torch.uint8), []
    shapes = ((384, 512, 1), (352, 480, 2))
    for row, (height, width, seed) in enumerate(shapes):
        images[row, :, :height, :width] = to_pixels(rules.synth_image(height, width, seed))
        targets.append(make_targets(*rules.synth_targets(height, width, seed, 8)[:4]))
    sizes = torch.tensor([shape[:2] for shape in shapes])
    losses = objective(Batch(images, sizes, tuple(targets), (1, 2)))
    losses.total().backward()
    # float32 sums over a million squares lose too much.
    norms = {n: float(p.grad.double().norm()) for n, p in network.named_parameters() if p.grad is not None}
    frozen = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    return SimpleNamespace(terms={k: v.item() for k, v in losses.terms().items()}, norms=norms, frozen=frozen)


def make_targets(boxes, classes, masks, semantic) -> Targets:
    """Detectron2's truth as ours: label 0 stands for all things there."""
    corners = boxes.astype(int)
    cut = tuple(torch.from_numpy(m[y1:y2, x1:x2].copy()) for m, (x1, y1, x2, y2) in zip(masks, corners, strict=True))
    label_map = np.select([semantic == 255, semantic == 0], [VOID_LABEL, NUM_STUFF], semantic - 1).astype(np.uint8)
    return Targets(
        torch.from_numpy(boxes),
        torch.from_numpy(classes),
        torch.zeros(len(classes), dtype=torch.bool),
        cut,
        torch.from_numpy(label_map),
    )


@pytest.mark.parametrize(
    ("term", "theirs"),
    [
        ("semantic", "loss_sem_seg"),
        ("objectness", "loss_rpn_cls"),
        ("proposal", "loss_rpn_loc"),
        ("classification", "loss_cls"),
        ("box", "loss_box_reg"),
        ("mask", "loss_mask"),
    ],
)
def test_losses(learned, spec, term, theirs):
    assert learned.terms[term] == pytest.approx(spec["train"]["exhaustive_bitmask"]["losses"][theirs], rel=1e-4)


def test_gradient_norms(learned, spec):
    names = foreign_names(learned.norms, all_modules("resnet50"))
    norms = {name: learned.norms[ours] for name, ours in names.items()}
    assert len(norms) == 107
    assert norms == pytest.approx(spec["train"]["exhaustive_grad_norms"], rel=1e-4)


def test_frozen_parameters(learned, spec):
    assert set(foreign_names(learned.frozen, all_modules("resnet50"))) == set(spec["train"]["params_without_grad"])


# --- parts alone ---


def test_cell_anchors(spec):
    region = panoptic_fpn_r50_coco().model.region
    assert region is not None
    ours = [cell_anchors(sizes, region.rpn.aspect_ratios) for sizes in region.rpn.anchor_sizes]
    np.testing.assert_allclose(ours, spec["units"]["cell_anchors"], rtol=1e-6)


def test_paste(units):
    size = (120, 160)
    expected = np.unpackbits(units["paste_masks_packbits"], axis=2)[:, :, : size[1]].astype(bool)
    probabilities, boxes = torch.from_numpy(units["paste_probs"]), torch.from_numpy(units["paste_boxes"])
    for row in range(len(boxes)):
        window, (top, left) = paste_in_box(probabilities[row], boxes[row], size)
        mask = np.zeros(size, bool)
        mask[top : top + window.shape[0], left : left + window.shape[1]] = window
        np.testing.assert_array_equal(mask, expected[row])


@pytest.mark.parametrize("case", ["combine", "combine_ties"])
def test_merge(units, spec, case):
    """The merge alone: masks as large as the picture are pasted without change into a box as large as the picture.

    Ties have no stated order in Detectron2; its own order is given to ours.
    """
    size = units["combine_sem"].shape
    details = spec["units"][case]
    order = details["argsort_of_minus_scores"]
    masks = np.unpackbits(units["combine_masks_packbits"], axis=2)[:, :, : size[1]].astype(bool)[order]
    count = len(order)
    side = max(size)
    square = np.zeros((count, side, side), np.float32)
    square[:, : size[0], : size[1]] = masks
    instances = Instances(
        boxes=torch.tensor([0.0, 0.0, 4 * side, 4 * side]).expand(1, count, 4).clone(),
        scores=torch.from_numpy(units[f"{case}_scores"][order])[None],
        labels=torch.from_numpy(units["combine_classes"][order])[None],
        mask_logits=torch.from_numpy(square * 40 - 20)[None],
        valid=torch.ones(1, count, dtype=torch.bool),
    )
    ids = merge_square(instances, units["combine_sem"], size, details)
    np.testing.assert_array_equal(ids.ids.numpy()[: size[0], : size[1]], units[f"{case}_pan"])
    check_segments(ids, details["segments_info"])


def merge_square(instances: Instances, semantic: np.ndarray, size: tuple[int, int], details: dict):
    """Merge on a square canvas; what the picture does not cover is labelled as things and so stays free of stuff.

    The canvas counts as four times as large before, where the network's logits have a quarter of the size.
    """
    side = max(size)
    canvas = np.zeros((side, side), np.int64)
    canvas[: size[0], : size[1]] = semantic
    logits = torch.nn.functional.one_hot(torch.from_numpy((canvas - 1) % (NUM_STUFF + 1)), NUM_STUFF + 1)
    outputs = Outputs(instances, Semantic(logits.permute(2, 0, 1)[None].float()))
    return merge_by_score(
        outputs,
        0,
        (4 * side, 4 * side),
        (side, side),
        num_stuff=NUM_STUFF,
        score_threshold=details["score"],
        overlap_threshold=details["overlap"],
        stuff_area=details["stuff_area"],
    )


def test_mask_targets(units, rules):
    targets = make_targets(*rules.synth_targets(240, 320, 3, 6)[:4])
    ours = mask_targets(targets, torch.from_numpy(units["mt_boxes"]), torch.arange(6), 28)
    expected = np.unpackbits(units["mt_bit"], axis=2)[:, :, :28]
    np.testing.assert_array_equal(ours.numpy(), expected)


# --- the same network in other forms ---


class Tensors(torch.nn.Module):
    """The network with its outputs as plain tensors, as graphs have them."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images, sizes):
        outputs = self.network(images, sizes)
        found = outputs.instances
        return found.boxes, found.scores, found.labels, found.mask_logits, found.valid, outputs.semantic.logits


@pytest.fixture
def as_in_production():
    """Shape checks, which only tests have, are taken out: the compiler cannot see through them."""
    with pytest.MonkeyPatch.context() as patch, torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        for record in (*vars(structures).values(), *vars(rpn).values()):
            unchecked = getattr(getattr(record, "__init__", None), "__wrapped__", None)
            if dataclasses.is_dataclass(record) and unchecked is not None:
                patch.setattr(record, "__init__", unchecked)
        yield
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`create_unbacked_symint` is deprecated:FutureWarning")  # torchvision's NMS
@pytest.mark.parametrize("form", ["compile", "export"])
def test_other_forms_give_the_same_map(run, network, rules, as_in_production, form):
    inputs = to_pixels(rules.synth_image(*SIZE, 1))[None], torch.tensor([SIZE])
    plain = Tensors(network)
    with torch.no_grad():
        if form == "compile":
            other = torch.compile(plain, backend="eager", fullgraph=True)
        else:
            other = torch.export.export(plain, inputs).module()
        *instances, logits = other(*inputs)
    maps = network.fusion(Outputs(Instances(*instances), Semantic(logits)), 0, SIZE, SIZE)
    expected = network.fusion(run.outputs, 0, SIZE, SIZE)
    # Graphs pool regions by torchvision's operator, which adds up in another order.
    assert (maps.ids == expected.ids).float().mean() > 0.9999
    np.testing.assert_array_equal(maps.labels.numpy(), expected.labels.numpy())
