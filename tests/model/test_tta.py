"""Several looks at one picture: frames, what is united, averaged and voted on, and that one look changes nothing."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import log

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from thingstuff.model.panoptic import PanopticSegmenter
from thingstuff.model.region import DETECTRON2_RULE, RegionBranch, Suppression
from thingstuff.model.tta import Look, combine_looks
from thingstuff.structures import Instances, Outputs, Proposals, Pyramid, Semantic, Size

Maker = Callable[..., PanopticSegmenter]


LOUDER = {
    "region.box_head.outputs.classes.weight": 1e4,
    "region.mask_head.predictor.weight": 3e4,
    "semantic.predictor.weight": 10,
}
"""A fresh network finds all things alike; times these, its scores, masks and classes differ."""


@pytest.fixture(scope="module")
def make_network(make_network: Maker) -> Maker:
    def make(**changes: object) -> PanopticSegmenter:
        network = make_network(**changes)
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                parameter *= LOUDER.get(name, 1)
        return network

    return make


def picture(height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8, generator=generator)


def look(image: Tensor, mirrored: bool = False) -> Look:
    """A look at a picture, or at its mirror image."""
    height, width = image.shape[2:]
    image = image.flip(3) if mirrored else image
    return Look(F.pad(image, (0, -width % 32, 0, -height % 32)), (height, width), mirrored)


def looks(image: Tensor, scales: Sequence[float] = (1.0,), mirrored: bool = True) -> list[Look]:
    """Looks at a picture at several sizes, each also mirrored."""
    found = []
    for scale in scales:
        size = tuple(round(scale * side) for side in image.shape[2:])
        resized = image if scale == 1 else F.interpolate(image.float(), size, mode="bilinear", antialias=True)
        found += [look(resized), look(resized, mirrored=True)] if mirrored else [look(resized)]
    return found


@torch.no_grad()
def see(network: PanopticSegmenter, views: Sequence[Look], size: Size, **voting: float | None) -> Outputs:
    return combine_looks(network, views, size, **voting)


@torch.no_grad()
def see_once(network: PanopticSegmenter, view: Look) -> Outputs:
    return network(view.image, torch.tensor([view.size]))


def instances(outputs: Outputs) -> Instances:
    assert outputs.instances is not None
    return outputs.instances


def masks(found: Instances | None) -> Tensor:
    assert found is not None
    assert found.mask_logits is not None
    return found.mask_logits


def semantic(outputs: Outputs) -> Tensor:
    assert outputs.semantic is not None
    return outputs.semantic.logits


# --- one look, mirrored pictures ---


@pytest.mark.parametrize("size", [(64, 96), (33, 50), (1, 97)])
def test_one_look_at_the_usual_size_is_the_network_itself(make_network: Maker, size: Size) -> None:
    network, view = make_network(), look(picture(*size))
    found, plain = see(network, [view], size), see_once(network, view)
    assert instances(plain).valid.any()
    assert torch.equal(semantic(found), semantic(plain))
    assert torch.equal(instances(found).valid, instances(plain).valid)
    shown = instances(plain).valid
    for name in ("boxes", "scores", "labels"):
        assert torch.equal(getattr(instances(found), name)[shown], getattr(instances(plain), name)[shown]), name
    torch.testing.assert_close(masks(instances(found))[shown], masks(instances(plain))[shown])
    assert found.candidates is None


@given(st.integers(1, 4), st.sampled_from([None, 0.8]))
@settings(max_examples=6, deadline=None)
def test_looking_at_the_same_again_tells_nothing_new(make_network: Maker, times: int, box_voting: float | None) -> None:
    network, view = make_network(), look(picture(33, 50))
    once = see(network, [view], (33, 50), box_voting=box_voting)
    often = see(network, [view] * times, (33, 50), box_voting=box_voting)
    torch.testing.assert_close(semantic(often), semantic(once))
    for name in ("boxes", "scores", "labels", "mask_logits", "valid"):
        torch.testing.assert_close(
            getattr(instances(often), name), getattr(instances(once), name), rtol=1e-4, atol=1e-4
        )


def test_the_order_of_the_looks_does_not_matter(make_network: Maker) -> None:
    network, views = make_network(), looks(picture(48, 70), (1.0, 1.5))
    one, other = (see(network, order, (48, 70), box_voting=0.8) for order in (views, views[::-1]))
    torch.testing.assert_close(semantic(one), semantic(other), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(instances(one).scores, instances(other).scores)
    torch.testing.assert_close(instances(one).boxes, instances(other).boxes, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("scales", [(1.0,), (0.75, 1.0, 1.25)])
@pytest.mark.parametrize("voting", [{}, {"box_voting": 0.5, "mask_voting": 0.5}])
def test_a_mirrored_picture_gives_the_mirrored_result(
    make_network: Maker, scales: Sequence[float], voting: dict[str, float]
) -> None:
    # Padded to 96: the padding of a mirrored look is not where the picture's own is.
    height, width = 64, 80
    network, image = make_network(), picture(height, width)
    seen, mirrored = (see(network, looks(one, scales), (height, width), **voting) for one in (image, image.flip(3)))
    assert instances(seen).valid.any()
    assert torch.equal(instances(seen).labels, instances(mirrored).labels)
    torch.testing.assert_close(instances(seen).scores, instances(mirrored).scores)
    shown = instances(seen).valid
    x1, y1, x2, y2 = instances(mirrored).boxes[shown].unbind(1)
    expected = torch.stack([width - x2, y1, width - x1, y2], dim=1)
    torch.testing.assert_close(instances(seen).boxes[shown], expected, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(
        masks(instances(seen))[shown], masks(instances(mirrored))[shown].flip(-1), rtol=1e-3, atol=1e-3
    )
    inside = semantic(seen)[..., : width // 4]
    torch.testing.assert_close(inside, semantic(mirrored)[..., : width // 4].flip(-1), rtol=1e-3, atol=1e-3)


# --- semantic branch ---


class Shrink(nn.Module):
    """Stands in for backbone and neck: the mean of each 4 x 4 pixels."""

    def forward(self, images: Tensor) -> Pyramid:
        return Pyramid({4: F.avg_pool2d(images, 4)})


class Finest(nn.Module):
    """Stands in for a semantic branch: shows the finest level."""

    def forward(self, pyramid: Pyramid) -> Semantic:
        return Semantic(pyramid.features[4])


def seer(region: RegionBranch | None = None) -> PanopticSegmenter:
    """A network whose semantic logits are the pixels themselves, and whose detections are what it is told."""
    rpn = None if region is None else NoProposals()
    return PanopticSegmenter(
        nn.Identity(), Shrink(), rpn, region, Finest(), None, pixel_mean=(0.0, 0.0), pixel_std=(1.0, 1.0)
    )


def slope(height: int, width: int) -> Tensor:
    """A picture of two channels: how far a pixel is to the right and down, from 0 to 1."""
    x, y = ((torch.arange(side) + 0.5) / side for side in (width, height))
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)])[None]


@given(st.integers(20, 70), st.integers(20, 70), st.sampled_from([0.5, 0.75, 1.0, 1.3, 2.0]), st.booleans())
@settings(max_examples=60, deadline=None)
def test_logits_lie_where_they_were_seen(height: int, width: int, scale: float, mirrored: bool) -> None:
    size = round(scale * height), round(scale * width)
    found = semantic(see(seer(), [look(slope(*size), mirrored)], (height, width)))
    assert found.shape == (1, 2, -(-height // 32) * 8, -(-width // 32) * 8)
    # A slope is sampled exactly, except near the border, where padding has a part in it.
    y, x = (
        (4 * torch.arange(cells) + 2.0) / side for cells, side in zip(found.shape[2:], (height, width), strict=True)
    )
    inner_y, inner_x = (
        (line * seen >= 2) & (line * seen <= 4 * (seen // 4) - 2) for line, seen in zip((y, x), size, strict=True)
    )
    if mirrored:
        inner_x = ((1 - x) * size[1] >= 2) & ((1 - x) * size[1] <= 4 * (size[1] // 4) - 2)
    expected = torch.stack([x.expand(len(y), -1), y[:, None].expand(-1, len(x))])
    inner = inner_y[:, None] & inner_x
    torch.testing.assert_close(found[0][:, inner], expected[:, inner], rtol=1e-4, atol=1e-4)


def test_logits_are_averaged_as_they_are() -> None:
    views = [look(torch.full((1, 2, 32, 64), value)) for value in (1.0, 6.0)]
    doubled = look(torch.full((1, 2, 64, 128), -1.0), mirrored=True)
    assert semantic(see(seer(), [*views, doubled], (32, 64))).unique().tolist() == [2.0]


def test_a_network_without_region_branch(make_network: Maker) -> None:
    network = make_network(model__region=None, model__fusion=None)
    found = see(network, looks(picture(33, 50), (1.0, 1.25)), (33, 50), box_voting=0.8)
    assert found.instances is found.candidates is None
    assert semantic(found).shape[2:] == (16, 16)


# --- boxes: a region branch that is told what it sees ---

Detection = tuple[float, float, float, float, int, float]
"""A box of a look in the look's frame, its class of two, its score."""


class NoProposals(nn.Module):
    """Stands in for a region proposal network."""

    def forward(self, _: Pyramid, __: Tensor) -> Proposals:
        return Proposals(torch.zeros(1, 0, 4), torch.zeros(1, 0), torch.zeros(1, 0, dtype=torch.bool))


class Told(RegionBranch):
    """Sees in each look what it was told to; for masks, one function for each look makes logits of boxes there."""

    def __init__(
        self,
        found: Sequence[Sequence[Detection]],
        mask_logits: Sequence[Callable[[Tensor], Tensor]] = (),
        detection_rule: Suppression = DETECTRON2_RULE,
        candidate_rule: Suppression | None = None,
    ) -> None:
        part, rules = nn.Identity(), {"detection_rule": detection_rule, "candidate_rule": candidate_rule}
        super().__init__(part, part, part, part if mask_logits else None, num_detections=4, **rules)
        self.found = [torch.tensor(list(detections)).view(-1, 6) for detections in found]
        self.mask_logits = mask_logits
        self.pyramids: list[Pyramid] = []

    def score(self, pyramid: Pyramid, proposals: Proposals, sizes: Tensor) -> tuple[Tensor, Tensor]:
        table = self.found[len(self.pyramids)]
        self.pyramids.append(pyramid)
        scores = torch.zeros(len(table), 2).scatter(1, table[:, 4:5].long(), table[:, 5:])
        return table[None, :, None, :4], scores[None]

    def with_masks(self, pyramid: Pyramid, found: Instances) -> Instances:
        number = next(row for row, one in enumerate(self.pyramids) if one is pyramid)
        return replace(found, mask_logits=self.mask_logits[number](found.boxes[0])[None])


USUAL = look(torch.zeros(1, 2, 100, 200))
HALF_MIRRORED = look(torch.zeros(1, 2, 50, 100), mirrored=True)
BOX = (20.0, 10.0, 60.0, 50.0)
# (24, 10, 64, 50) of the usual frame: half as large, then mirrored in a width of 100. IoU with BOX is 9 / 11.
SHIFTED_MIRRORED = (68.0, 5.0, 88.0, 25.0)


def found_boxes(found: Instances | None) -> list[list[float]]:
    assert found is not None
    return [[round(value, 4) for value in box] for box in found.boxes[found.valid].tolist()]


def found_scores(found: Instances | None) -> list[float]:
    assert found is not None
    return [round(score, 4) for score in found.scores[found.valid].tolist()]


def test_boxes_of_all_looks_compete_and_the_score_is_the_mean() -> None:
    told = Told([[(*BOX, 0, 0.6)], [(*SHIFTED_MIRRORED, 0, 0.9)]])
    found = instances(see(seer(told), [USUAL, HALF_MIRRORED], (100, 200)))
    assert found_boxes(found) == [[24, 10, 64, 50]]
    assert found_scores(found) == [0.75]
    assert found.labels[0, 0] == 0
    assert found.mask_logits is None


@pytest.mark.parametrize(("threshold", "left"), [(0.8, 21.6), (9 / 11 - 1e-6, 21.6), (0.82, 20.0)])
def test_boxes_that_overlap_enough_vote(threshold: float, left: float) -> None:
    told = Told([[(*BOX, 0, 0.9)], [(*SHIFTED_MIRRORED, 0, 0.6)]])
    found = instances(see(seer(told), [USUAL, HALF_MIRRORED], (100, 200), box_voting=threshold))
    # (0.9 * 20 + 0.6 * 24) / 1.5
    assert found_boxes(found) == [[left, 10, left + 40, 50]]
    assert found_scores(found) == [0.75]


def test_other_classes_and_boxes_that_do_not_meet_have_no_vote() -> None:
    told = Told([[(*BOX, 0, 0.9), (150.0, 0.0, 190.0, 40.0, 0, 0.3)], [(*SHIFTED_MIRRORED, 1, 0.6)]])
    found = instances(see(seer(told), [USUAL, HALF_MIRRORED], (100, 200), box_voting=0.0))
    assert found_boxes(found) == [list(BOX), [24, 10, 64, 50], [150, 0, 190, 40]]
    assert found_scores(found) == [0.45, 0.3, 0.15]
    assert found.labels[0, :3].tolist() == [0, 1, 0]


def test_what_one_look_alone_sees_loses_and_the_surest_of_a_look_counts() -> None:
    nearby = (20.0, 10.0, 60.0, 45.0, 0, 0.8)
    told = Told([[(*BOX, 0, 0.7), nearby], [(0.0, 0.0, 20.0, 20.0, 0, 0.75)]])
    found = instances(see(seer(told), [USUAL, HALF_MIRRORED], (100, 200)))
    # The second look's box is (160, 0, 200, 40) and has the better score, but not on average of its own look alone.
    assert found_boxes(found) == [[20, 10, 60, 45], [160, 0, 200, 40]]
    assert found_scores(found) == [0.4, 0.375]


def test_a_box_counts_for_the_best_that_it_overlaps_alone() -> None:
    # The middle one overlaps both others by more than half; these overlap by 3 / 7.
    row = [(20.0 * step, 0.0, 20.0 * step + 100, 10.0, 0, score) for step, score in enumerate((0.9, 0.8, 0.5))]
    told = Told([[row[0], (40.0, 0.0, 140.0, 10.0, 0, 0.5)], [(200 - 120.0, 0.0, 180.0, 10.0, 0, 0.8)]])
    views = [USUAL, replace(USUAL, mirrored=True)]
    assert found_scores(instances(see(seer(told), views, (100, 200)))) == [0.85, 0.25]


def test_a_score_that_falls_to_the_threshold_is_dropped() -> None:
    rule = Suppression(0.3, 0.5)
    told = Told([[(*BOX, 0, 0.6), (100.0, 0.0, 110.0, 9.0, 1, 0.9)], []], detection_rule=rule)
    found = instances(see(seer(told), [USUAL, HALF_MIRRORED], (100, 200)))
    assert found_boxes(found) == [[100, 0, 110, 9]]
    assert found.boxes[~found.valid].unique().tolist() == [0]
    assert found.scores[~found.valid].unique().tolist() == [0]


def test_a_rule_that_suppresses_nothing_keeps_scores() -> None:
    told = Told([[(*BOX, 0, 0.6), (20.0, 10.0, 60.0, 49.0, 0, 0.5)]], detection_rule=Suppression(0.05, 1.0))
    assert found_scores(instances(see(seer(told), [USUAL], (100, 200)))) == [0.6, 0.5]


@pytest.mark.parametrize("mask_logits", [(), (lambda boxes: boxes.new_zeros(len(boxes), 4, 4),) * 2])
def test_nothing_found(mask_logits: Sequence[Callable[[Tensor], Tensor]]) -> None:
    told = Told([[], [(*BOX, 0, 0.01)]], mask_logits, candidate_rule=Suppression(0.6, 0.5, True))
    outputs = see(seer(told), [USUAL, HALF_MIRRORED], (100, 200), box_voting=0.8, mask_voting=0.5)
    for found in (outputs.instances, outputs.candidates):
        assert found is not None
        assert not found.valid.any()
        assert (found.scores == 0).all()
        assert found.mask_logits is None or found.mask_logits.isfinite().all()


# --- candidates for the panoptic map ---


def test_candidates_have_their_own_rule() -> None:
    views = [USUAL, replace(USUAL, mirrored=True)]
    both = (100.0, 0.0, 140.0, 40.0)
    other_side = (60.0, 0.0, 100.0, 40.0)  # the same box in the mirrored look
    told = Told(
        [[(*BOX, 0, 0.9), (*both, 1, 0.8), (*both, 0, 0.7)], [(*other_side, 1, 0.9), (*other_side, 0, 0.8)]],
        candidate_rule=Suppression(0.6, 0.5, class_agnostic=True),
    )
    outputs = see(seer(told), views, (100, 200))
    assert outputs.candidates is not None
    # BOX is seen by one look alone. Of the other, the better class suppresses the worse where classes compete.
    assert found_boxes(outputs.candidates) == [list(both)]
    assert found_scores(outputs.candidates) == [0.85]
    assert outputs.candidates.labels[0, 0] == 1
    assert found_boxes(instances(outputs)) == [list(both), list(both), list(BOX)]
    assert found_scores(instances(outputs)) == [0.85, 0.75, 0.45]


def test_looks_that_disagree_about_the_class_do_not_add_up() -> None:
    rule = Suppression(0.3, 0.5, class_agnostic=True)
    told = Told([[(*BOX, 0, 0.9)], [(*BOX, 1, 0.8)]], detection_rule=rule)
    found = instances(see(seer(told), [USUAL, USUAL], (100, 200)))
    assert found_boxes(found) == [list(BOX)]
    assert found_scores(found) == [0.45]
    assert found.labels[0, 0] == 0


def test_what_another_class_suppressed_counts_for_nobody() -> None:
    # The second overlaps both others by 2 / 3 and is of the class of the third; these overlap by 3 / 7.
    row = [(20.0 * step, 0.0, 20.0 * step + 100, 10.0) for step in range(3)]
    told = Told(
        [[(*row[0], 1, 0.9), (*row[1], 0, 0.85), (*row[2], 0, 0.8)]],
        detection_rule=Suppression(0.05, 0.5, class_agnostic=True),
    )
    assert found_scores(instances(see(seer(told), [USUAL], (100, 200)))) == [0.9, 0.8]


def test_candidates_may_be_less_sure_than_detections() -> None:
    told = Told([[(*BOX, 0, 0.03)]], candidate_rule=Suppression(0.02, 0.5, class_agnostic=True))
    outputs = see(seer(told), [USUAL], (100, 200))
    assert found_scores(outputs.candidates) == [0.03]
    assert found_scores(outputs.instances) == []


UPSNET = {
    "model__semantic__things": "separate",
    "model__fusion__kind": "panoptic_logits",
    "model__fusion__score_threshold": 0.4,
    "model__fusion__iou_threshold": 0.1,
}


def test_candidates_of_a_whole_network(make_network: Maker) -> None:
    network, image = make_network(**UPSNET), picture(48, 70)
    plain = see_once(network, look(image))
    once = see(network, [look(image)], (48, 70))
    for found in (plain, once):
        assert found.candidates is not None
        assert found.candidates.valid.any()
        assert not torch.equal(found.candidates.boxes, instances(found).boxes)
    assert plain.candidates is not None
    assert once.candidates is not None
    assert torch.equal(once.candidates.boxes, plain.candidates.boxes)
    torch.testing.assert_close(masks(once.candidates), masks(plain.candidates))
    several = see(network, looks(image, (1.0, 1.5)), (48, 70), box_voting=0.8, mask_voting=0.8)
    assert masks(several.candidates).isfinite().all()
    assert network.fusion is not None
    assert network.fusion(several, 0, (48, 70), (48, 70)).ids.shape == (48, 70)


# --- masks ---


def test_masks_are_averaged_as_probabilities_the_right_way_round() -> None:
    half_right = torch.tensor([[0.0, log(9.0)]] * 2)  # probability 0.5 on the left, 0.9 on the right
    told = Told(
        [[(*BOX, 0, 0.9)], [(*SHIFTED_MIRRORED, 0, 0.6)]],
        [lambda boxes: torch.zeros(len(boxes), 2, 2), lambda boxes: half_right.expand(len(boxes), 2, 2)],
    )
    found = instances(see(seer(told), [USUAL, HALF_MIRRORED], (100, 200)))
    # The second look is mirrored: its right is the picture's left. Means are 0.7 and 0.5.
    expected = torch.tensor([[log(0.7 / 0.3), 0.0]] * 2)
    torch.testing.assert_close(masks(found)[0, 0], expected)


def test_every_look_is_asked_for_the_final_box_in_its_own_frame() -> None:
    asked: list[list[float]] = []

    def note(boxes: Tensor) -> Tensor:
        asked.append(boxes[0].tolist())
        return torch.zeros(len(boxes), 2, 2)

    told = Told([[(*BOX, 0, 0.9)], [(*SHIFTED_MIRRORED, 0, 0.6)]], [note, note])
    see(seer(told), [USUAL, HALF_MIRRORED], (100, 200), box_voting=0.8)
    torch.testing.assert_close(torch.tensor(asked), torch.tensor([[21.6, 10, 61.6, 50], [69.2, 5, 89.2, 25]]))


@pytest.mark.parametrize("logit", [80.0, -80.0])
@pytest.mark.parametrize("voting", [{}, {"mask_voting": 0.5}])
def test_looks_that_are_quite_sure_stay_so(logit: float, voting: dict[str, float]) -> None:
    told = Told([[(*BOX, 0, 0.9)]] * 2, [lambda boxes: torch.full((len(boxes), 2, 2), logit)] * 2)
    mask = masks(instances(see(seer(told), [USUAL, USUAL], (100, 200), **voting)))[0, 0]
    if voting:  # sums of probabilities know no more than that it is above 1 - 1e-7
        assert mask.isfinite().all()
        assert (mask / logit > 0.1).all()
    else:
        torch.testing.assert_close(mask, torch.full((2, 2), logit))


def test_masks_of_overlapping_boxes_vote() -> None:
    # Cells are one pixel; the voter's box lies one pixel to the right, and all masks are full. IoU is 3 / 5.
    told = Told(
        [[(8.0, 8.0, 12.0, 12.0, 0, 0.9), (9.0, 8.0, 13.0, 12.0, 0, 0.6), (8.0, 8.0, 12.0, 12.0, 1, 0.8)]],
        [lambda boxes: torch.full((len(boxes), 4, 4), 80.0)],
    )
    found = instances(see(seer(told), [USUAL], (100, 200), mask_voting=0.6 - 1e-6))
    # The first column is outside of the voter: of the weights 0.9 (mean of looks), 0.9 (the box itself) and 0.6, only
    # 1.8 of 2.4 speak for it. The other class has no vote.
    assert found.labels[0, :2].tolist() == [0, 1]
    torch.testing.assert_close(masks(found)[0, 0].sigmoid(), torch.tensor([[0.75, 1, 1, 1]] * 4))
    torch.testing.assert_close(masks(found)[0, 1].sigmoid(), torch.ones(4, 4))
    assert (masks(found)[0, 0, :, 1:] > 10).all()


def test_each_voter_is_asked_in_its_own_look() -> None:
    told = Told(
        [[(*BOX, 0, 0.9)], [(*BOX, 0, 0.6)]],
        [lambda boxes: torch.zeros(len(boxes), 4, 4), lambda boxes: torch.full((len(boxes), 4, 4), log(9.0))],
    )
    found = instances(see(seer(told), [USUAL, USUAL], (100, 200), mask_voting=0.5))
    # Mean of the looks 0.7 with mean score 0.75, and 0.5 and 0.9 with the scores of their boxes.
    expected = (0.75 * 0.7 + 0.9 * 0.5 + 0.6 * 0.9) / (0.75 + 0.9 + 0.6)
    torch.testing.assert_close(masks(found)[0, 0].sigmoid(), torch.full((4, 4), expected))


def test_boxes_that_overlap_too_little_have_no_vote_on_masks() -> None:
    told = Told(
        [[(8.0, 8.0, 12.0, 12.0, 0, 0.9), (9.0, 8.0, 13.0, 12.0, 0, 0.6)]],
        [lambda boxes: (boxes[:, :1] - 8)[:, None].expand(-1, 4, 4)],
    )
    found = instances(see(seer(told), [USUAL], (100, 200), mask_voting=0.61))
    torch.testing.assert_close(masks(found)[0, 0], torch.zeros(4, 4))


def test_detection_alone(make_network: Maker) -> None:
    network = make_network(model__semantic=None, model__fusion=None, model__region__mask_head=None)
    found = see(network, looks(picture(33, 50), (1.0, 2.0)), (33, 50), box_voting=0.8, mask_voting=0.8)
    assert found.semantic is found.candidates is None
    assert instances(found).valid.any()
    assert instances(found).mask_logits is None
    assert (instances(found).boxes <= torch.tensor([50.0, 33, 50, 33])).all()
