"""What each anchor, region, mask and pixel should have said: matching, sampling, targets. Nothing has a gradient."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float32, Int64, UInt8
from torch import Tensor
from torchvision.ops import roi_align

from thingstuff.model import boxes as box_ops
from thingstuff.structures import VOID_LABEL, Size, Targets

NO_LABEL = -1
"""In panoptic targets, where nothing is learned: with many instances, 255 would be one of them."""


@dataclass(frozen=True, slots=True)
class Matches:
    """What each candidate box has to do with the objects of a picture.

    Attributes:
        nearest: The object that overlaps the candidate most; 0 where the picture has none.
        positive: The candidate stands for that object.
        negative: The candidate is background. Neither: it does not count.
    """

    nearest: Int64[Tensor, " n"]
    positive: Bool[Tensor, " n"]
    negative: Bool[Tensor, " n"]


@torch.no_grad()
def match_boxes(
    candidates: Float32[Tensor, "n 4"],
    objects: Float32[Tensor, "m 4"],
    *,
    negative_iou: float,
    positive_iou: float,
    low_quality: bool,
    usable: Bool[Tensor, " n"] | None = None,
) -> Matches:
    """Match candidates with objects by their overlap.

    Args:
        candidates: Anchors or proposals.
        objects: True boxes in the same frame; there may be none.
        negative_iou: Candidates that overlap every object by less are background.
        positive_iou: Candidates that overlap an object by at least this are positive.
        low_quality: Also make every candidate positive that no other beats on some object, ties included, so that each
            object has at least one; such a candidate still stands for the object that it overlaps most itself.
        usable: Other candidates are neither positive nor background, and beat none; None: all are usable.

    Source: Ren et al., Faster R-CNN; Detectron2's matcher.
    """
    if len(objects) == 0:
        nearest = torch.zeros(len(candidates), dtype=torch.int64, device=candidates.device)
        positive = torch.zeros_like(nearest, dtype=torch.bool)
        return Matches(nearest, positive, ~positive if usable is None else usable)
    overlaps = box_ops.iou(objects, candidates)
    if usable is not None:
        overlaps = overlaps * usable
    best, nearest = overlaps.max(dim=0)
    positive, negative = best >= positive_iou, best < negative_iou
    if low_quality:
        highest = overlaps.max(dim=1, keepdim=True).values
        # Detectron2 lacks the second condition: an object that no candidate touches makes all of them positive there.
        wanted = ((overlaps == highest) & (highest > 0)).any(dim=0)
        positive, negative = positive | wanted, negative & ~wanted
    if usable is not None:
        positive, negative = positive & usable, negative & usable
    return Matches(nearest, positive, negative)


def inside_picture(boxes: Float32[Tensor, "n 4"], size: Size) -> Bool[Tensor, " n"]:
    """Which boxes lie in the picture with all their pixels.

    Source: Ren et al., Faster R-CNN, section 3.3; Detectron without its margin.
    """
    height, width = size
    return (boxes[:, :2] >= 0).all(dim=1) & (boxes[:, 2] <= width) & (boxes[:, 3] <= height)


@torch.no_grad()
def sample(
    matches: Matches,
    count: int,
    positive_fraction: float,
    generator: torch.Generator,
    labels: Int64[Tensor, " m"] | None = None,
) -> tuple[Int64[Tensor, " p"], Int64[Tensor, " q"]]:
    """Choose at random which candidates the losses see.

    Args:
        matches: Of the candidates of one picture.
        count: How many are wanted; fewer if there are not so many.
        positive_fraction: Largest share of positives.
        generator: The picture's own, on the CPU, so that nothing depends on device or process.
        labels: Class of every object, to take positives from one class after the other; None: all have the same chance.

    Returns:
        Indices of the chosen positives and of the chosen negatives.
    """
    positives, negatives = matches.positive.nonzero()[:, 0], matches.negative.nonzero()[:, 0]
    num_positives = min(len(positives), int(count * positive_fraction))
    num_negatives = min(len(negatives), count - num_positives)
    if labels is None or len(positives) == 0:
        chosen = _choose(positives, num_positives, generator)
    else:
        shuffled = _choose(positives, len(positives), generator)
        # One of each class, then a second one of each, until there are enough.
        own = torch.nn.functional.one_hot(labels[matches.nearest[shuffled]])
        turn = (own.cumsum(dim=0) * own).sum(dim=1)
        chosen = shuffled[turn.argsort(stable=True)[:num_positives]]
    return chosen, _choose(negatives, num_negatives, generator)


def _choose(indices: Tensor, count: int, generator: torch.Generator) -> Tensor:
    order = torch.randperm(len(indices), generator=generator)[:count]
    return indices[order.to(indices.device)]


@torch.no_grad()
def mask_targets(
    targets: Targets,
    regions: Float32[Tensor, "n 4"],
    objects: Int64[Tensor, " n"],
    size: int,
) -> Float32[Tensor, "n size size"]:
    """The part of each region's object mask that lies inside the region, as a small binary mask.

    Equals RoIAlign of the full-size mask, thresholded at one half, without ever making a full-size mask.

    Args:
        targets: Of the picture.
        regions: In the frame of the targets.
        objects: Which object each region stands for.
        size: Height and width of the result.

    Source: Detectron2's bit mask targets.
    """
    picture: Size = (targets.label_map.shape[0], targets.label_map.shape[1])
    result = regions.new_zeros((len(regions), size, size))
    for number in objects.unique().tolist():
        mine = objects == number
        mask, (left, top) = _with_margin(targets.masks[number], targets.boxes[number].tolist(), picture)
        moved = regions[mine] - regions.new_tensor((left, top, left, top))
        pooled = roi_align(mask[None, None], [moved], size, 1.0, 0, True)
        result[mine] = (pooled[:, 0] >= 0.5).to(result.dtype)
    return result


def _with_margin(mask: Tensor, box: list[float], picture: Size) -> tuple[Tensor, tuple[int, int]]:
    """The mask with one empty pixel around it, but not beyond the picture: there RoIAlign repeats the border."""
    left, top = int(box[0]), int(box[1])
    bottom, right = picture[0] - top - mask.shape[0], picture[1] - left - mask.shape[1]
    margin = (min(left, 1), min(max(right, 0), 1), min(top, 1), min(max(bottom, 0), 1))
    return torch.nn.functional.pad(mask.float(), margin), (left - margin[0], top - margin[2])


@torch.no_grad()
def label_crops(
    label_map: UInt8[Tensor, "H W"], boxes: Float32[Tensor, "n 4"], size: int
) -> UInt8[Tensor, "n size size"]:
    """The part of the label map that lies in each box, brought to one size by taking nearest pixels.

    Args:
        label_map: Of one picture.
        boxes: In the same frame; corners are rounded, halves to the even side.
        size: Height and width of the result.

    Source: UPSNet's published implementation, whose boxes include their last pixel, but whose crops end before it.
    """
    corners = box_ops.inclusive(boxes).round().long()
    columns, rows = (_nearest_pixels(corners[:, axis], corners[:, axis + 2], size) for axis in (0, 1))
    height, width = label_map.shape
    return label_map[rows.clamp(max=height - 1)[:, :, None], columns.clamp(max=width - 1)[:, None, :]]


def _nearest_pixels(start: Tensor, end: Tensor, size: int) -> Int64[Tensor, "n size"]:
    """Where the pixels of one axis come from; at least one pixel is cropped."""
    steps = torch.arange(size, device=start.device)
    return start[:, None] + steps * (end - start).clamp(min=1)[:, None] // size


@torch.no_grad()
def choose_shown(targets: Targets, kept_fraction: float, generator: torch.Generator) -> Int64[Tensor, " k"]:
    """Choose the objects that the panoptic head is shown, in the order of their channels; the rest become unknown.

    Args:
        targets: Of the picture; a crowd is never shown.
        kept_fraction: Share of the objects that are shown, rounded down, but at least one.
        generator: The picture's own, on the CPU.

    Source: Xiong et al., UPSNet, CVPR 2019; its published implementation for the exact number.
    """
    usable = (~targets.crowd).nonzero()[:, 0]
    count = max(int(kept_fraction * len(usable)), min(len(usable), 1))
    return _choose(usable, count, generator)


@torch.no_grad()
def panoptic_targets(
    targets: Targets, shown: Int64[Tensor, " k"], size: Size, *, num_stuff: int, unknown: bool
) -> Int64[Tensor, "h w"]:
    """Channel of the panoptic head that every pixel at stride 4 should have: stuff, then objects, then the unknown.

    Shown objects lie over everything, later ones over earlier ones. All other pixels of things, crowds included, are
    unknown.

    Args:
        targets: Of the picture.
        shown: Rows of the objects that have a channel, in this order.
        size: Of the result, which is the padded picture's.
        num_stuff: Stuff classes.
        unknown: Whether there is a channel for it; without one, unknown pixels have no label.

    Source: Xiong et al., UPSNet, CVPR 2019; its published implementation for what lies over what.
    """
    labels = targets.label_map[::4, ::4].long()
    nothing = torch.full_like(labels, NO_LABEL)
    rest = torch.full_like(labels, num_stuff + len(shown)) if unknown else nothing
    labels = torch.where(labels == VOID_LABEL, nothing, torch.where(labels < num_stuff, labels, rest))
    for number, (row, box) in enumerate(zip(shown.tolist(), targets.boxes[shown].tolist(), strict=True)):
        left, top = int(box[0]), int(box[1])
        mask = targets.masks[row][-top % 4 :: 4, -left % 4 :: 4]
        window = labels[-(-top // 4) :, -(-left // 4) :][: mask.shape[0], : mask.shape[1]]
        window[mask] = num_stuff + number
    # A quarter of the picture, rounded: what is left over at its end has no label.
    height, width = (round(side / 4) for side in targets.label_map.shape)
    result = labels.new_full(size, NO_LABEL)
    result[:height, :width] = labels[:height, :width]
    return result
