"""What each anchor, region and mask should have said: matching, sampling, mask targets. Nothing here has a gradient."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor
from torchvision.ops import roi_align

from thingstuff.model import boxes as box_ops
from thingstuff.structures import Size, Targets


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
) -> Matches:
    """Match candidates with objects by their overlap.

    Args:
        candidates: Anchors or proposals.
        objects: True boxes in the same frame; there may be none.
        negative_iou: Candidates that overlap every object by less are background.
        positive_iou: Candidates that overlap an object by at least this are positive.
        low_quality: Also make every candidate positive that no other beats on some object, ties included, so that each
            object has at least one; such a candidate still stands for the object that it overlaps most itself.

    Source: Ren et al., Faster R-CNN; Detectron2's matcher.
    """
    if len(objects) == 0:
        nearest = torch.zeros(len(candidates), dtype=torch.int64, device=candidates.device)
        positive = torch.zeros_like(nearest, dtype=torch.bool)
        return Matches(nearest, positive, ~positive)
    overlaps = box_ops.iou(objects, candidates)
    best, nearest = overlaps.max(dim=0)
    positive, negative = best >= positive_iou, best < negative_iou
    if low_quality:
        highest = overlaps.max(dim=1, keepdim=True).values
        # Detectron2 lacks the second condition: an object that no candidate touches makes all of them positive there.
        wanted = ((overlaps == highest) & (highest > 0)).any(dim=0)
        positive, negative = positive | wanted, negative & ~wanted
    return Matches(nearest, positive, negative)


@torch.no_grad()
def sample(
    matches: Matches, count: int, positive_fraction: float, generator: torch.Generator
) -> tuple[Int64[Tensor, " p"], Int64[Tensor, " q"]]:
    """Choose at random which candidates the losses see.

    Args:
        matches: Of the candidates of one picture.
        count: How many are wanted; fewer if there are not so many.
        positive_fraction: Largest share of positives.
        generator: The picture's own, on the CPU, so that nothing depends on device or process.

    Returns:
        Indices of the chosen positives and of the chosen negatives.
    """
    positives, negatives = matches.positive.nonzero()[:, 0], matches.negative.nonzero()[:, 0]
    num_positives = min(len(positives), int(count * positive_fraction))
    num_negatives = min(len(negatives), count - num_positives)
    return _choose(positives, num_positives, generator), _choose(negatives, num_negatives, generator)


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
