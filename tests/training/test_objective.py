import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thingstuff.labels import Category, LabelSet
from thingstuff.model import boxes as box_ops
from thingstuff.model.build import build_network
from thingstuff.model.panoptic import PanopticSegmenter
from thingstuff.model.region import RegionBranch
from thingstuff.model.rpn import AnchorPredictions, RegionProposalNetwork
from thingstuff.recipe import Recipe, derive
from thingstuff.structures import VOID_LABEL, Batch, Proposals, Pyramid, Semantic, Targets
from thingstuff.training.objective import Losses, Objective
from thingstuff.training.targets import match_boxes

NUM_STUFF, NUM_THINGS = 3, 2
LABELS = LabelSet(tuple(Category(i + 1, f"class {i}", i >= NUM_STUFF, (i, i, i)) for i in range(5)))
TERMS = ("semantic", "objectness", "proposal", "classification", "box", "mask")
UPSNET = {
    "model__semantic__things": "separate",
    "model__fusion__kind": "panoptic_logits",
    "loss__roi_semantic_weight": 0.2,
    "loss__panoptic_weight": 0.5,
}
MakeObjective = Callable[..., Objective]


@pytest.fixture(scope="module")
def make_objective(tiny_recipe: Recipe) -> MakeObjective:
    """Builds a small network and its objective, with changes to the recipe; the same weights each time."""

    built: dict[str, PanopticSegmenter] = {}

    def make(**changes: object) -> Objective:
        recipe = derive(tiny_recipe, **changes)
        key = recipe.model_dump_json()
        if key not in built:
            torch.manual_seed(0)
            built[key] = build_network(recipe, LABELS)
        return Objective(copy.deepcopy(built[key]), recipe, NUM_STUFF).train()

    return make


def targets_of(
    size: tuple[int, int],
    objects: Sequence[tuple[int, int, int, int]] = (),
    labels: Sequence[int] = (),
    crowd: Sequence[bool] = (),
    ground: int = 0,
) -> Targets:
    """Rectangles on a ground of one class."""
    label_map = torch.full(size, ground, dtype=torch.uint8)
    labels = labels or [number % NUM_THINGS for number in range(len(objects))]
    for (left, top, right, bottom), label in zip(objects, labels, strict=True):
        label_map[top:bottom, left:right] = NUM_STUFF + label
    return Targets(
        boxes=torch.tensor(objects, dtype=torch.float32).reshape(-1, 4),
        labels=torch.tensor(labels, dtype=torch.int64),
        crowd=torch.tensor(crowd or [False] * len(objects), dtype=torch.bool),
        masks=tuple(torch.ones(bottom - top, right - left, dtype=torch.bool) for left, top, right, bottom in objects),
        label_map=label_map,
    )


def batch_of(*targets: Targets, seeds: Sequence[int] | None = None) -> Batch:
    """Noise as pictures, padded to their common size."""
    sizes = torch.tensor([target.label_map.shape for target in targets])
    height, width = (-(-int(side) // 32) * 32 for side in sizes.amax(dim=0))
    generator = torch.Generator().manual_seed(7)
    images = torch.randint(0, 256, (len(targets), 3, height, width), generator=generator, dtype=torch.uint8)
    return Batch(images, sizes, targets, tuple(seeds if seeds is not None else range(len(targets))))


def values(losses: Losses) -> dict[str, float]:
    return {name: float(term.detach()) for name, term in losses.terms().items()}


# --- odd pictures ---

SIZE = (64, 96)
ODD = {
    "usual": [targets_of(SIZE, [(10, 10, 40, 40), (50, 20, 90, 60)])],
    "all void": [targets_of(SIZE, ground=VOID_LABEL)],
    "no objects": [targets_of(SIZE), targets_of(SIZE, ground=2)],
    "only a crowd": [targets_of(SIZE, [(10, 10, 40, 40)], crowd=[True])],
    "one pixel": [targets_of(SIZE, [(0, 0, 1, 1), (95, 63, 96, 64), (50, 30, 51, 31)])],
    "one line": [targets_of(SIZE, [(0, 20, 96, 21), (40, 0, 41, 64)])],
    "mixed sizes": [targets_of((64, 96), [(10, 10, 40, 40)]), targets_of((90, 33)), targets_of((1, 1))],
    "a picture of one object": [targets_of(SIZE, [(0, 0, 96, 64)])],
    "objects in one picture of two": [targets_of(SIZE), targets_of(SIZE, [(10, 10, 40, 40)])],
    "one object twice": [targets_of(SIZE, [(10, 10, 40, 40), (10, 10, 40, 40)])],
}
KINDS = {
    "group norm": {},
    "batch norm": {
        f"model__{part}__norm": "batch" for part in ("backbone", "neck", "semantic", "region__mask_head")
    },
    "detection alone": {
        "model__semantic": None, "model__fusion": None, "model__region__mask_head": None
    },
    "no semantic branch": {"model__semantic": None, "model__fusion": None},
    "no region branch": {
        "model__region": None, "model__fusion": None, "model__semantic__things": "separate"
    },
    "one box for all classes, full size, smooth": {
        "model__region__box_head__class_agnostic_boxes": True,
        "loss__semantic_size": "full",
        "loss__box_beta": 1.0,
        "loss__rpn_beta": 0.1,
        "model__region__aligned": False,
    },
    "anchors inside": {"model__region__rpn__anchors_inside": True},
    "upsnet": UPSNET,
    "upsnet without unknown": {**UPSNET, "model__fusion__kept_fraction": 1.0},
    "upsnet with batch norm": {**UPSNET, "model__region__mask_head__norm": "batch"},
    "upsnet without sampled objects": {**UPSNET, "model__region__samples": 1},
    "inside boxes alone, things merged": {"loss__roi_semantic_weight": 0.2},
}  # fmt: skip


CASES = [(kind, picture) for kind in ("group norm", "upsnet") for picture in ODD] + [
    (kind, picture)
    for kind in KINDS
    if kind not in ("group norm", "upsnet")
    for picture in ("usual", "all void", "only a crowd", "mixed sizes")
]


@pytest.mark.parametrize(("kind", "picture"), CASES)
def test_losses_and_gradients_are_finite(make_objective: MakeObjective, kind: str, picture: str) -> None:
    objective = make_objective(**KINDS[kind])
    losses = objective(batch_of(*ODD[picture]))
    losses.total().backward()
    assert all(math.isfinite(value) and value >= 0 for value in values(losses).values())
    for name, parameter in objective.named_parameters():
        assert parameter.grad is not None, name  # otherwise distributed training would wait for it for ever
        assert parameter.grad.isfinite().all(), name
    for name, buffer in objective.named_buffers():
        assert buffer.isfinite().all(), name


@pytest.mark.parametrize("kind", ["group norm", "upsnet"])
@pytest.mark.parametrize("picture", ["usual", "all void", "no objects", "mixed sizes"])
def test_bfloat16(make_objective: MakeObjective, kind: str, picture: str) -> None:
    objective, batch = make_objective(**KINDS[kind]), batch_of(*ODD[picture])
    exact = values(objective(batch))
    with torch.autocast("cpu", torch.bfloat16):
        losses = objective(batch)
    losses.total().backward()
    assert all(term.dtype == torch.float32 for term in losses.terms().values())
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in objective.parameters())
    for name in ("semantic", "objectness"):
        assert values(losses)[name] == pytest.approx(exact[name], rel=0.05, abs=1e-6)


def test_terms_follow_the_branches(make_objective: MakeObjective) -> None:
    batch = batch_of(*ODD["usual"])
    terms = {kind: tuple(make_objective(**KINDS[kind])(batch).terms()) for kind in KINDS}
    assert terms["group norm"] == TERMS
    assert terms["detection alone"] == TERMS[1:5]
    assert terms["no semantic branch"] == TERMS[1:]
    assert terms["no region branch"] == TERMS[:1]
    assert terms["upsnet"] == (TERMS[0], "roi_semantic", *TERMS[1:], "panoptic")
    assert terms["inside boxes alone, things merged"] == (TERMS[0], "roi_semantic", *TERMS[1:])


def test_without_anything_to_learn_the_losses_say_so(make_objective: MakeObjective) -> None:
    void = values(make_objective()(batch_of(*ODD["all void"])))
    assert void["semantic"] == void["proposal"] == void["box"] == void["mask"] == 0
    assert void["objectness"] > 0
    assert void["classification"] > 0


def test_a_crowd_is_neither_object_nor_excluded_from_the_background(make_objective: MakeObjective) -> None:
    plain, crowd = targets_of(SIZE), targets_of(SIZE, [(10, 10, 40, 40)], crowd=[True])
    crowd = replace(crowd, label_map=plain.label_map)
    objective = make_objective()
    assert values(objective(batch_of(plain))) == values(objective(batch_of(crowd)))


def test_crowds_between_objects_do_not_shift_their_masks(make_objective: MakeObjective) -> None:
    objects = [(10, 10, 40, 40), (0, 0, 96, 64), (50, 20, 90, 60)]
    both = targets_of(SIZE, [objects[0], objects[2]], [0, 1])
    between = targets_of(SIZE, objects, [0, 0, 1], [False, True, False])
    between = replace(between, label_map=both.label_map)
    objective = make_objective()
    assert values(objective(batch_of(both))) == values(objective(batch_of(between)))


def test_choices_depend_on_the_seeds_alone(make_objective: MakeObjective) -> None:
    objective, pictures = make_objective(), ODD["usual"] * 2
    first = values(objective(batch_of(*pictures, seeds=(3, 4))))
    torch.manual_seed(123)
    assert values(objective(batch_of(*pictures, seeds=(3, 4)))) == first
    assert values(objective(batch_of(*pictures, seeds=(5, 6)))) != first


def test_the_padding_does_not_matter(make_objective: MakeObjective) -> None:
    batch = batch_of(*ODD["mixed sizes"])
    other = batch.images.clone()
    for image, (height, width) in zip(other, batch.sizes.tolist(), strict=True):
        image[:, height:], image[:, :, width:] = 0, 0
    objective = make_objective()
    assert values(objective(batch)) == values(objective(replace(batch, images=other)))


# --- semantic loss ---


class FixedSemantic(nn.Module):
    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, _pyramid: object) -> Semantic:
        return Semantic(self.logits)


def semantic_value(objective: Objective, logits: Tensor, batch: Batch) -> float:
    objective.network.semantic = FixedSemantic(logits)
    return values(objective(batch))["semantic"]


def mean_cross_entropy(logits: Tensor, labels: np.ndarray) -> float:
    """Of every labelled pixel, added one by one; logits have the size of the labels."""
    terms = []
    for picture, label_map in zip(logits.double(), labels, strict=True):
        for y, x in np.argwhere(label_map != VOID_LABEL):
            column = picture[:, y, x]
            terms.append(float(column.logsumexp(0) - column[label_map[y, x]]))
    return math.fsum(terms) / len(terms)


@pytest.mark.parametrize("things", ["merged", "separate"])
@pytest.mark.parametrize("size", ["full", "quarter"])
def test_semantic_loss_is_the_mean_over_labelled_pixels(make_objective: MakeObjective, size: str, things: str) -> None:
    objective = make_objective(
        loss__semantic_size=size, loss__semantic_weight=1.0, model__semantic__things=things, model__fusion=None
    )
    generator = np.random.default_rng(0)
    maps = generator.choice([0, 1, 2, 3, 4, VOID_LABEL], (2, 64, 64)).astype(np.uint8)
    sizes = ((64, 50), (30, 64))
    targets = [
        replace(targets_of(one), label_map=torch.from_numpy(label_map[: one[0], : one[1]].copy()))
        for one, label_map in zip(sizes, maps, strict=True)
    ]
    logits = torch.randn(2, 4 if things == "merged" else 5, 16, 16, generator=torch.Generator().manual_seed(0))
    expected_maps = np.full((2, 64, 64), VOID_LABEL, dtype=np.uint8)
    for expected, label_map, (height, width) in zip(expected_maps, maps, sizes, strict=True):
        expected[:height, :width] = label_map[:height, :width]
    if things == "merged":
        expected_maps[expected_maps == 4] = 3
    if size == "full":
        resized = F.interpolate(logits, size=(64, 64), mode="bilinear", align_corners=False)
        expected = mean_cross_entropy(resized, expected_maps)
    else:
        # The centre of a cell of 4 pixels lies on the corner between its second and third pixel.
        expected = mean_cross_entropy(logits, expected_maps[:, 2::4, 2::4])
    assert semantic_value(objective, logits, batch_of(*targets)) == pytest.approx(expected, rel=1e-5)


# --- regions: every number known ---

OBJECT, CROWD = (8, 8, 40, 40), (50, 8, 90, 40)
PROPOSALS = ((8, 8, 40, 32), (60, 40, 90, 60), (50, 8, 90, 40), (8, 8, 40, 14))


@pytest.fixture
def known(make_objective: MakeObjective, monkeypatch: pytest.MonkeyPatch) -> MakeObjective:
    """An objective whose heads say 0 to everything, and whose proposals are the four above and an invalid one."""

    def select(_self: object, predictions: AnchorPredictions, _sizes: Tensor) -> Proposals:
        pictures = len(predictions.logits)
        rows = torch.tensor([*PROPOSALS, (0, 0, 0, 0)], dtype=torch.float32).expand(pictures, -1, -1)
        valid = torch.tensor([True] * len(PROPOSALS) + [False]).expand(pictures, -1)
        return Proposals(rows, torch.zeros(valid.shape), valid)

    monkeypatch.setattr(RegionProposalNetwork, "select", select)

    def make(**changes: object) -> Objective:
        objective = make_objective(**changes)
        rpn, region = objective.network.rpn, objective.network.region
        assert isinstance(rpn, RegionProposalNetwork)
        assert isinstance(region, RegionBranch)
        assert region.mask_head is not None
        outputs = region.box_head.get_submodule("outputs")
        for layer in (rpn.objectness, rpn.deltas, outputs, region.mask_head.get_submodule("predictor")):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)
        return objective

    return make


def test_region_losses_by_hand(known: MakeObjective) -> None:
    objective = known(model__region__samples=64, model__region__positive_fraction=0.5)
    batch = batch_of(targets_of(SIZE, [CROWD, OBJECT], [1, 1], [True, False]), targets_of(SIZE))
    found = values(objective(batch))
    # Picture 1: the first proposal (IoU 0.75) and the object itself; three of background, one on the crowd, one with
    # too little overlap. Picture 2: four of background. Nine regions in all.
    assert found["classification"] == pytest.approx(math.log(3), rel=1e-6)
    # The object is 4 pixels further down than the proposal of height 24, and 32 / 24 times as high.
    wanted = 10 * 4 / 24 + 5 * math.log(32 / 24)
    assert found["box"] == pytest.approx(wanted / 9, rel=1e-5)
    assert found["mask"] == pytest.approx(math.log(2), rel=1e-6)


def test_smooth_box_loss_by_hand(known: MakeObjective) -> None:
    objective = known(model__region__samples=64, loss__box_beta=2.0)
    found = values(objective(batch_of(targets_of(SIZE, [OBJECT], [1]))))
    shift, growth = 10 * 4 / 24, 5 * math.log(32 / 24)
    assert found["box"] == pytest.approx((shift**2 + growth**2) / (2 * 2.0) / 5, rel=1e-5)


def test_regions_are_sampled_and_counted_as_configured(known: MakeObjective) -> None:
    # int(0.25 * 4) = 1 object and 3 of background.
    objective = known(model__region__samples=4, model__region__positive_fraction=0.25)
    wanted = 10 * 4 / 24 + 5 * math.log(32 / 24)
    seen = {
        round(values(objective(batch_of(targets_of(SIZE, [OBJECT], [1]), seeds=[seed])))["box"], 4)
        for seed in range(12)
    }
    assert seen == {0.0, round(wanted / 4, 4)}  # either the object itself or the proposal


def test_mask_targets_are_those_of_the_matched_object(known: MakeObjective) -> None:
    objective = known(model__region__samples=64)
    branch = objective.network.region
    assert isinstance(branch, RegionBranch)
    assert branch.mask_head is not None
    bias = branch.mask_head.get_submodule("predictor").get_parameter("bias")
    with torch.no_grad():
        bias.copy_(torch.tensor([30.0, -30.0]))  # all for class 0, nothing for class 1
    found = {
        label: values(objective(batch_of(targets_of(SIZE, [OBJECT], [label]))))["mask"] for label in range(NUM_THINGS)
    }
    # Both regions lie within their object, so every pixel of the mask should be 1.
    assert found[0] == pytest.approx(0, abs=1e-6)
    assert found[1] == pytest.approx(30, rel=1e-5)


# --- anchors ---


def test_objectness_is_normalised_by_the_configured_samples(known: MakeObjective) -> None:
    few = known(model__region__rpn__samples=32)
    assert values(few(batch_of(targets_of(SIZE))))["objectness"] == pytest.approx(math.log(2), rel=1e-6)
    # There are only so many anchors; the normaliser stays.
    anchors = 3 * sum((64 // stride) * (96 // stride) for stride in (4, 8, 16, 32)) + 3 * 1 * 2
    many = known(model__region__rpn__samples=100_000)
    expected = anchors * math.log(2) / 100_000
    assert values(many(batch_of(targets_of(SIZE))))["objectness"] == pytest.approx(expected, rel=1e-4)
    assert values(many(batch_of(*[targets_of(SIZE)] * 3)))["objectness"] == pytest.approx(expected, rel=1e-4)


def test_proposal_loss_by_hand(known: MakeObjective) -> None:
    objective = known(model__region__rpn__samples=10_000)
    network = objective.network
    assert isinstance(network.rpn, RegionProposalNetwork)
    target = targets_of(SIZE, [OBJECT, CROWD], [0, 1], [False, True])
    batch = batch_of(target, targets_of(SIZE))
    with torch.no_grad():
        pyramid = network.neck(network.backbone(network.normalize(batch.images, batch.sizes)))
        anchors = network.rpn.predict(pyramid).anchors
    box = target.boxes[:1]
    matches = match_boxes(anchors, box, negative_iou=0.3, positive_iou=0.6, low_quality=True)
    positives = anchors[matches.positive]
    wanted = box_ops.encode(box.expand(len(positives), 4), positives, (1.0, 1.0, 1.0, 1.0))
    assert len(positives) > 2
    assert values(objective(batch))["proposal"] == pytest.approx(float(wanted.abs().sum()) / 20_000, rel=1e-4)


def test_anchors_outside_of_the_picture_are_not_looked_at(known: MakeObjective) -> None:
    """Without objects every anchor that counts is background and costs log 2."""
    counts = {
        inside: values(
            known(model__region__rpn__samples=100_000, model__region__rpn__anchors_inside=inside)(
                batch_of(targets_of((60, 90)))
            )
        )["objectness"]
        * 100_000
        / math.log(2)
        for inside in (False, True)
    }
    usable = total = 0
    for size, stride in zip((8, 16, 32, 64, 128), (4, 8, 16, 32, 64), strict=True):
        for y in range(0, 64, stride):
            for x in range(0, 96, stride):
                for ratio in (0.5, 1.0, 2.0):
                    width, height = size / math.sqrt(ratio) / 2, size * math.sqrt(ratio) / 2
                    total += 1
                    # The picture is smaller than its padding of 64 x 96.
                    usable += x - width >= 0 and y - height >= 0 and x + width <= 90 and y + height <= 60
    assert counts == {False: pytest.approx(total, rel=1e-4), True: pytest.approx(usable, rel=1e-4)}
    assert 0 < usable < total


def test_the_best_anchor_of_an_object_is_sought_inside_the_picture(known: MakeObjective) -> None:
    # A flat object at the upper border: anchors that reach beyond it overlap it by 0.30, others by 0.19 at most.
    target = targets_of(SIZE, [(0, 0, 96, 10)])
    found = {}
    for inside in (False, True):
        objective = known(model__region__rpn__samples=10_000, model__region__rpn__anchors_inside=inside)
        network = objective.network
        assert isinstance(network.rpn, RegionProposalNetwork)
        batch = batch_of(target)
        with torch.no_grad():
            pyramid = network.neck(network.backbone(network.normalize(batch.images, batch.sizes)))
            anchors = network.rpn.predict(pyramid).anchors
        if inside:
            anchors = anchors[(anchors >= 0).all(dim=1) & (anchors[:, 2] <= 96) & (anchors[:, 3] <= 64)]
        overlaps = box_ops.iou(target.boxes, anchors)[0]
        positives = anchors[(overlaps == overlaps.max()) | (overlaps >= 0.6)]
        wanted = box_ops.encode(target.boxes.expand(len(positives), 4), positives, (1.0, 1.0, 1.0, 1.0))
        found[inside] = values(objective(batch))["proposal"]
        assert found[inside] == pytest.approx(float(wanted.abs().sum()) / 10_000, rel=1e-4)
    assert found[True] != pytest.approx(found[False], rel=0.1)


def test_a_picture_smaller_than_every_anchor_teaches_none(make_objective: MakeObjective) -> None:
    objective = make_objective(model__region__rpn__anchors_inside=True)
    found = values(objective(batch_of(targets_of((5, 4), [(1, 1, 3, 3)]))))
    assert found["objectness"] == found["proposal"] == 0


# --- UPSNet's terms ---


@pytest.fixture
def mask_passes(monkeypatch: pytest.MonkeyPatch) -> list[list[list[list[float]]]]:
    """Boxes of each picture in each call of the mask head."""
    passes = []
    original = RegionBranch.masks

    def masks(self: RegionBranch, pyramid: Pyramid, boxes: Sequence[Tensor]) -> Tensor:
        passes.append([rows.tolist() for rows in boxes])
        return original(self, pyramid, boxes)

    monkeypatch.setattr(RegionBranch, "masks", masks)
    return passes


def test_shown_objects_go_through_the_mask_head_together_with_regions(
    known: MakeObjective, mask_passes: list[list[list[list[float]]]]
) -> None:
    batch = batch_of(targets_of(SIZE, [CROWD, OBJECT], [1, 1], [True, False]), targets_of(SIZE))
    known(model__region__samples=64)(batch)
    known(model__region__samples=64, **UPSNET)(batch)
    plain, upsnet = mask_passes  # one call each
    assert sorted(plain[0]) == sorted([[*map(float, PROPOSALS[0])], [*map(float, OBJECT)]])
    assert upsnet == [[*plain[0], [*map(float, OBJECT)]], []]


def test_without_mask_head_there_is_no_mask_pass(
    make_objective: MakeObjective, mask_passes: list[list[list[list[float]]]]
) -> None:
    make_objective(**KINDS["detection alone"])(batch_of(*ODD["usual"]))
    assert mask_passes == []


def test_upsnets_terms_leave_the_others_as_they_are(make_objective: MakeObjective) -> None:
    batch = batch_of(*ODD["usual"], *ODD["mixed sizes"])
    separate = {"model__semantic__things": "separate"}
    plain, upsnet = values(make_objective(**separate)(batch)), values(make_objective(**UPSNET)(batch))
    assert {name: upsnet[name] for name in plain} == pytest.approx(plain, rel=1e-5)


def set_masks(objective: Objective, bias: Sequence[float]) -> None:
    """Mask logits of every class become constant."""
    branch = objective.network.region
    assert isinstance(branch, RegionBranch)
    assert branch.mask_head is not None
    with torch.no_grad():
        branch.mask_head.get_submodule("predictor").get_parameter("bias").copy_(torch.tensor(bias))


def test_panoptic_loss_by_hand(known: MakeObjective) -> None:
    objective = known(**UPSNET)
    set_masks(objective, [3.0, 2.0])
    logits = torch.zeros(1, 5, 16, 24)
    logits[:, 4] = 1.0
    objective.network.semantic = FixedSemantic(logits)
    # An object and a crowd of 8 x 8 cells each; 256 of stuff. The box is (0, 0, 7.75, 7.75) with its last pixel, so
    # that the semantic logit of the class, but not the mask, is added in 9 x 9 cells.
    objects = [(0, 0, 32, 32), (64, 32, 96, 64)]
    for label, mask in ((0, 3.0), (1, 2.0)):
        found = values(objective(batch_of(targets_of(SIZE, objects, [label, 0], [False, True]))))["panoptic"]
        own = float(label)  # semantic logit of the class
        columns = (  # three stuff classes, the object, the unknown
            [0.0, 0.0, 0.0, own + mask, 1 - own],
            [0.0, 0.0, 0.0, own, 1 - own],
            [0.0, 0.0, 0.0, 0.0, 1.0],
        )
        inside, around, outside = (math.log(sum(math.exp(value) for value in column)) for column in columns)
        expected = 64 * (inside - own - mask) + 17 * around + (256 - 17) * outside + 64 * (outside - 1)
        assert found == pytest.approx(0.5 * expected / 384, rel=1e-5)


def test_who_is_shown_depends_on_the_seed(known: MakeObjective) -> None:
    objective = known(**UPSNET)
    set_masks(objective, [5.0, 0.0])
    target = targets_of(SIZE, [(0, 0, 32, 32), (32, 0, 64, 64)], [0, 0])
    found = [values(objective(batch_of(target, seeds=[seed])))["panoptic"] for seed in (*range(8), 0)]
    assert found[-1] == found[0]
    assert len({round(value, 6) for value in found}) == 2  # one of the two objects


def test_gradients_of_the_panoptic_loss_reach_both_branches(known: MakeObjective) -> None:
    objective = known(**UPSNET, loss__semantic_weight=0.0, loss__instance_weight=0.0)
    losses = objective(batch_of(*ODD["usual"]))
    assert losses.panoptic is not None
    losses.panoptic.backward()
    region, semantic = objective.network.region, objective.network.semantic
    assert isinstance(region, RegionBranch)
    assert region.mask_head is not None
    assert semantic is not None
    for part in (region.mask_head, semantic):
        assert all(p.grad is not None and p.grad.isfinite().all() for p in part.parameters())
        assert any(p.grad is not None and p.grad.any() for p in part.parameters())


def test_roi_semantic_loss_by_hand(known: MakeObjective) -> None:
    objective = known(**UPSNET)
    logits = torch.zeros(2, 5, 16, 24)
    logits[:, 4] = 2.0
    objective.network.semantic = FixedSemantic(logits)
    # Three objects; the second lies on void.
    first = targets_of(SIZE, [(8, 8, 40, 40), (50, 8, 90, 40), (0, 0, 5, 5)], [0, 1, 0], [False, False, True])
    first.label_map[8:40, 50:90] = VOID_LABEL
    second = targets_of(SIZE, [(8, 8, 40, 40)], [1])
    found = values(objective(batch_of(first, second)))["roi_semantic"]
    total = math.log(4 + math.exp(2))
    assert found == pytest.approx(0.2 * (total + 0 + total - 2) / 3, rel=1e-5)


# --- weights ---


def test_weights_of_the_branches(make_objective: MakeObjective) -> None:
    batch = batch_of(*ODD["usual"])
    plain = make_objective(loss__semantic_weight=1.0, loss__instance_weight=1.0)(batch)
    weighted = make_objective(loss__semantic_weight=0.25, loss__instance_weight=3.0)(batch)
    factors = {"semantic": 0.25, "classification": 3.0, "box": 3.0, "mask": 3.0}
    expected = {name: value * factors.get(name, 1.0) for name, value in values(plain).items()}
    assert values(weighted) == pytest.approx(expected, rel=1e-5)
    assert float(weighted.total().detach()) == pytest.approx(sum(expected.values()), rel=1e-5)


def test_weights_of_upsnets_terms(make_objective: MakeObjective) -> None:
    batch = batch_of(*ODD["usual"])
    plain = values(make_objective(**UPSNET)(batch))
    changed = {**UPSNET, "loss__roi_semantic_weight": 0.1, "loss__panoptic_weight": 2.0}
    factors = {"roi_semantic": 0.5, "panoptic": 4.0}
    expected = {name: value * factors.get(name, 1.0) for name, value in plain.items()}
    assert values(make_objective(**changed)(batch)) == pytest.approx(expected, rel=1e-5)


def test_a_branch_of_weight_0_learns_nothing(make_objective: MakeObjective) -> None:
    objective = make_objective(loss__semantic_weight=0.0)
    objective(batch_of(*ODD["usual"])).total().backward()
    assert objective.network.semantic is not None
    assert all(p.grad is not None and not p.grad.any() for p in objective.network.semantic.parameters())
