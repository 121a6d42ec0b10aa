"""Test-time augmentation: several looks at one picture become one ``Outputs`` record, like that of a single look.

A *look* is the picture at some size, plain or mirrored, in a frame of its own. What leaves is in the frame of the
picture at its usual size, so that fusion, average precision and overlays work unchanged.

Boxes of all looks compete in one suppression and masks are averaged as probabilities, both as in Detectron; masks then
become logits again. The score of a survivor is its mean over the looks, so that thresholds on it keep their meaning.
Of the semantic branch *logits* are averaged, not probabilities: UPSNet's panoptic head adds them to mask logits and
holds the sum against 0, so that their scale and their zero mean something, and log probabilities, all of them negative,
would lose every comparison outside the boxes. For the argmax of the heuristic merge the mean of logits is the geometric
mean of probabilities.

Nothing here is part of an exported graph: how many boxes vote depends on the data.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Int64, Shaped
from torch import Tensor

from thingstuff.model import boxes as box_ops
from thingstuff.model.panoptic import SIZE_DIVISOR, PanopticSegmenter
from thingstuff.model.region import RegionBranch, Suppression
from thingstuff.structures import Instances, Outputs, Pyramid, Semantic, Size

_STRIDE = 4
"""Of semantic logits."""


@dataclass(frozen=True, slots=True)
class Look:
    """A picture as the network shall see it once.

    Attributes:
        image: Raw pixel values: first mirrored, where it says so, then padded right and bottom to a multiple of 32.
        size: Height and width before padding.
        mirrored: Left and right have changed places.
    """

    image: Shaped[Tensor, "1 C H W"]
    size: Size
    mirrored: bool = False


@dataclass(frozen=True, slots=True)
class _Regions:
    """What the region branch says of one look, before suppression.

    Attributes:
        size: Of the look.
        mirrored: Of the look.
        pyramid: Features of the look; None where no mask will be asked of them.
        boxes: Of each proposal, for each class or for all, in the usual frame.
        scores: Probability of each class.
    """

    size: Size
    mirrored: bool
    pyramid: Pyramid | None
    boxes: Float32[Tensor, "1 K #T 4"]
    scores: Float32[Tensor, "1 K T"]


@dataclass(frozen=True, slots=True)
class _Votes:
    """The boxes of all looks that may be detections, before suppression, in the usual frame.

    Attributes:
        boxes: ``xyxy``.
        scores: Probability of the class: the weight of the vote.
        labels: Thing index.
        looks: Which look it comes from.
    """

    boxes: Float32[Tensor, "n 4"]
    scores: Float32[Tensor, " n"]
    labels: Int64[Tensor, " n"]
    looks: Int64[Tensor, " n"]


def combine_looks(
    network: PanopticSegmenter,
    looks: Iterable[Look],
    size: Size,
    *,
    box_voting: float | None = None,
    mask_voting: float | None = None,
) -> Outputs:
    """See what is in one picture by looking at it several times.

    Looks are taken one by one. A network with masks keeps the pyramid of each, because masks wait for the boxes of all
    looks and seeing everything twice would double the time. With 256 channels of float32 that is 85 bytes for each
    pixel of each look: 0.6 GB for 800 x 1333 at scales 0.75, 1 and 1.25, each also mirrored.

    Args:
        network: In inference mode.
        looks: At least one.
        size: Of the picture before padding, in the frame of the result.
        box_voting: A box becomes the mean of all boxes of its class that overlap it by at least this, before
            suppression, weighted by score. None: it stays.
        mask_voting: The masks of such boxes are averaged into the mask (see ``_add_votes``). None: they are not.

    Returns:
        A batch of one.

    Source: Detectron's test-time augmentation of boxes (union) and masks (soft average); Gidaris and Komodakis, Object
        detection via a multi-region and semantic segmentation-aware CNN model, ICCV 2015, for box voting; Liu et al.,
        PANet, CVPR 2018, for the use of both votings.
    """
    region = network.region
    assert region is None or isinstance(region, RegionBranch)
    seen: list[_Regions] = []
    evidence, num_looks = None, 0
    for look in looks:
        num_looks += 1
        sizes = torch.tensor([look.size], device=look.image.device)
        pyramid = network.neck(network.backbone(network.normalize(look.image, sizes)))
        if network.rpn is not None and region is not None:
            boxes, scores = region.score(pyramid, network.rpn(pyramid, sizes), sizes)
            boxes = _to_usual_frame(boxes, look.size, look.mirrored, size)
            kept = None if region.mask_head is None else pyramid
            seen.append(_Regions(look.size, look.mirrored, kept, boxes, scores))
        if network.semantic is not None:
            logits = network.semantic(pyramid).logits
            logits = _semantic_in_usual_frame(logits, look.size, look.mirrored, size)
            evidence = logits if evidence is None else evidence + logits
    instances = candidates = None
    if region is not None:
        instances, candidates = _unite(region, seen, size, box_voting, mask_voting)
    semantic = None if evidence is None else Semantic(evidence / num_looks)
    return Outputs(instances, semantic, candidates)


# --- frames ---


def _mirror(boxes: Float[Tensor, "*n 4"], width: int) -> Float[Tensor, "*n 4"]:
    x1, y1, x2, y2 = boxes.unbind(dim=-1)
    return torch.stack([width - x2, y1, width - x1, y2], dim=-1)


def _to_usual_frame(boxes: Float[Tensor, "*n 4"], look_size: Size, mirrored: bool, size: Size) -> Float[Tensor, "*n 4"]:
    return box_ops.rescale(_mirror(boxes, look_size[1]) if mirrored else boxes, look_size, size)


def _to_look(boxes: Float[Tensor, "*n 4"], size: Size, seen: _Regions) -> Float[Tensor, "*n 4"]:
    boxes = box_ops.rescale(boxes, size, seen.size)
    return _mirror(boxes, seen.size[1]) if seen.mirrored else boxes


def _semantic_in_usual_frame(
    logits: Float[Tensor, "1 classes _ _"], look_size: Size, mirrored: bool, size: Size
) -> Float[Tensor, "1 classes _ _"]:
    """Sample the logits of a look at the cells of the picture at its usual size, padding included.

    Mirroring happens around the middle of the picture, not of the padded one: the padding of a mirrored look lies to
    the right of what is the left side. A cell beyond what the look has takes the nearest one that it has.

    Args:
        logits: At stride 4 of the padded look.
        look_size: Of the look before padding.
        mirrored: Of the look.
        size: Of the picture before padding, in the usual frame.
    """
    if look_size == size and not mirrored:
        return logits
    rows, columns = (-(-side // SIZE_DIVISOR) * SIZE_DIVISOR // _STRIDE for side in size)
    # Centres of the cells: first in pixels of the usual frame, then of the look, then as shares of its padded map.
    y = (torch.arange(rows, dtype=torch.float32, device=logits.device) + 0.5) * (_STRIDE * look_size[0] / size[0])
    x = (torch.arange(columns, dtype=torch.float32, device=logits.device) + 0.5) * (_STRIDE * look_size[1] / size[1])
    if mirrored:
        x = look_size[1] - x
    y, x = (2 * line / (_STRIDE * cells) - 1 for line, cells in zip((y, x), logits.shape[2:], strict=True))
    grid = torch.stack([x.expand(rows, columns), y[:, None].expand(rows, columns)], dim=-1)
    return F.grid_sample(logits.float(), grid[None], mode="bilinear", padding_mode="border", align_corners=False)


# --- instances ---


def _unite(
    region: RegionBranch, seen: Sequence[_Regions], size: Size, box_voting: float | None, mask_voting: float | None
) -> tuple[Instances, Instances | None]:
    """Detections, and candidates for the panoptic map where other rules hold for them, from the boxes of all looks."""
    boxes, scores = (torch.cat(parts, dim=1) for parts in zip(*((one.boxes, one.scores) for one in seen), strict=True))
    rules = [rule for rule in (region.detection_rule, region.candidate_rule) if rule is not None]
    lowest = min(rule.score_threshold for rule in rules)
    votes = _votes(boxes, scores, [one.scores.shape[1] for one in seen], lowest)

    def choose(rule: Suppression) -> Instances:
        found = _mean_scores(region.select(boxes, scores, rule), votes, len(seen), rule)
        overlaps = box_ops.iou(found.boxes[0], votes.boxes)
        overlaps = torch.where(found.labels[0][:, None] == votes.labels, overlaps, torch.zeros_like(overlaps))
        if box_voting is not None:
            found = replace(found, boxes=_vote_boxes(found.boxes[0], votes, _agree(overlaps, box_voting))[None])
        if region.mask_head is None:
            return found
        found = _mean_masks(region, seen, found, size)
        if mask_voting is not None:
            found = _add_votes(region, seen, found, votes, _agree(overlaps, mask_voting), size)
        return found

    detections, *candidates = map(choose, rules)
    return detections, candidates[0] if candidates else None


def _votes(
    boxes: Float32[Tensor, "1 N #T 4"], scores: Float32[Tensor, "1 N T"], counts: Sequence[int], threshold: float
) -> _Votes:
    """All pairs of box and class above the threshold; ``counts`` of the N boxes are of each look."""
    rows, labels = (scores[0] > threshold).nonzero(as_tuple=True)
    own = labels if boxes.shape[2] > 1 else torch.zeros_like(labels)
    looks = torch.arange(len(counts), device=rows.device).repeat_interleave(torch.tensor(counts, device=rows.device))
    return _Votes(boxes[0, rows, own], scores[0, rows, labels], labels, looks[rows])


def _mean_scores(found: Instances, votes: _Votes, num_looks: int, rule: Suppression) -> Instances:
    """Score instances by the mean over the looks; those that the rule then drops become invalid.

    Every box counts for the instance that it is or that suppressed it, and in each look the surest one of the
    instance's class counts; a look without any says 0. So a score means what it means for one look, and thresholds on
    it keep their meaning, while the best of many looks would let pass what a single look imagines.

    Args:
        found: The survivors of a suppression of the boxes of all looks, best first.
        votes: Those boxes.
        num_looks: How many there were.
        rule: Of the suppression.

    Source: Solovyev et al., Weighted boxes fusion, 2021, for scores that fall where not all agree.
    """
    same_class = found.labels[0][:, None] == votes.labels
    # A box overlaps itself by 1 and belongs to itself, also where the rule lets everything survive.
    belongs = box_ops.iou(found.boxes[0], votes.boxes) > min(rule.iou_threshold, 0.99)
    belongs = belongs & found.valid[0][:, None] & (same_class | rule.class_agnostic)
    owner = belongs.int().argmax(dim=0)  # the best one
    counts = belongs.any(dim=0) & same_class.gather(0, owner[None])[0]
    surest = votes.scores.new_zeros(len(same_class) * num_looks)
    places = owner * num_looks + votes.looks
    surest = surest.scatter_reduce(0, places[counts], votes.scores[counts], "amax")
    scores = surest.view(-1, num_looks).mean(dim=1)
    valid = found.valid[0] & (scores > rule.score_threshold)
    scores, order = (scores * valid).sort(descending=True, stable=True)
    boxes, labels, valid = found.boxes[0][order], found.labels[0][order], valid[order]
    return Instances((boxes * valid[:, None])[None], scores[None], labels[None], None, valid[None])


def _agree(overlaps: Float32[Tensor, "D n"], threshold: float) -> Bool[Tensor, "D n"]:
    # Boxes that do not meet never agree, also where the threshold is 0.
    return (overlaps >= threshold) & (overlaps > 0)


def _vote_boxes(boxes: Float32[Tensor, "D 4"], votes: _Votes, agree: Bool[Tensor, "D n"]) -> Float32[Tensor, "D 4"]:
    """The mean of the boxes that agree, weighted by score; a box for which none votes stays."""
    weights = votes.scores * agree
    total = weights.sum(dim=1, keepdim=True)
    return torch.where(total > 0, weights @ votes.boxes / total, boxes)


# --- masks ---


def _masks(region: RegionBranch, seen: _Regions, found: Instances, size: Size) -> Float32[Tensor, "D M M"]:
    """Mask logits of instances of the usual frame as one look sees them, the right way round."""
    assert seen.pyramid is not None
    there = region.with_masks(seen.pyramid, replace(found, boxes=_to_look(found.boxes, size, seen)))
    assert there.mask_logits is not None
    return there.mask_logits[0].flip(-1) if seen.mirrored else there.mask_logits[0]


def _mean_masks(region: RegionBranch, seen: Sequence[_Regions], found: Instances, size: Size) -> Instances:
    """Give each instance the mask that the looks see in its box on average.

    Probabilities of yes and no are summed as logarithms: the logit of the mean is exact however sure the looks are.
    """
    yes = no = None
    for one in seen:
        logits = _masks(region, one, found, size)
        yes_here, no_here = F.logsigmoid(logits), F.logsigmoid(-logits)
        yes = yes_here if yes is None else torch.logaddexp(yes, yes_here)
        no = no_here if no is None else torch.logaddexp(no, no_here)
    assert yes is not None
    assert no is not None
    return replace(found, mask_logits=(yes - no)[None])


def _add_votes(
    region: RegionBranch,
    seen: Sequence[_Regions],
    found: Instances,
    votes: _Votes,
    agree: Bool[Tensor, "D n"],
    size: Size,
) -> Instances:
    """Average the masks of the boxes that agree into the masks of the detections, weighted by score.

    A voter's mask is predicted in its own box by the look that it comes from, and sampled where the cells of the
    detection's mask lie; outside of its box it is 0. What all looks say of the detection's own box is one more vote,
    with the detection's score. The paper names mask voting and does not define it.

    Args:
        region: Predicts the masks.
        seen: The looks.
        found: The detections, with what the looks say of their own boxes on average.
        votes: The boxes that may vote.
        agree: Which of them vote for which detection.
        size: Of the picture, in the usual frame.
    """
    assert found.mask_logits is not None
    own, weights = found.mask_logits[0], found.scores[0, :, None, None]
    yes, no = weights * own.sigmoid(), weights * (-own).sigmoid()
    voting = agree.any(dim=0)
    for number, one in enumerate(seen):
        mine = (voting & (votes.looks == number)).nonzero()[:, 0]
        # A few at a time: hundreds of boxes may vote.
        for start in range(0, len(mine), region.num_detections):
            rows = mine[start : start + region.num_detections]
            boxes, scores, labels = votes.boxes[rows], votes.scores[rows], votes.labels[rows]
            voters = Instances(
                boxes[None], scores[None], labels[None], None, torch.ones_like(labels[None], dtype=torch.bool)
            )
            probabilities = _masks(region, one, voters, size).sigmoid()
            which, voter = agree[:, rows].nonzero(as_tuple=True)
            moved = _resample(probabilities[voter], boxes[voter], found.boxes[0, which])
            weights = scores[voter][:, None, None]
            yes = yes.index_add(0, which, weights * moved)
            no = no.index_add(0, which, weights * (1 - moved))
    tiny = torch.finfo(yes.dtype).tiny  # rows that only fill up have score 0
    return replace(found, mask_logits=(yes.clamp(min=tiny).log() - no.clamp(min=tiny).log())[None])


def _resample(
    masks: Float32[Tensor, "n M M"], boxes: Float32[Tensor, "n 4"], other: Float32[Tensor, "n 4"]
) -> Float32[Tensor, "n M M"]:
    """Masks inside ``boxes`` as seen in ``other`` boxes of the same picture: sampled bilinearly, 0 outside."""
    steps = (torch.arange(masks.shape[-1], dtype=torch.float32, device=masks.device) + 0.5) / masks.shape[-1]
    # From the cells of the other box to pixels, then to shares of the own box, from -1 to 1.
    points = other[:, None, :2] + steps[:, None] * (other[:, None, 2:] - other[:, None, :2])
    shares = 2 * (points - boxes[:, None, :2]) / (boxes[:, None, 2:] - boxes[:, None, :2]) - 1
    x, y = shares.unbind(dim=-1)
    grid = torch.stack([x[:, None, :].expand(-1, len(steps), -1), y[:, :, None].expand(-1, -1, len(steps))], dim=-1)
    return F.grid_sample(masks[:, None], grid, mode="bilinear", padding_mode="zeros", align_corners=False)[:, 0]
