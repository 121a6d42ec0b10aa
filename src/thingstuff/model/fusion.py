"""Two branches become one panoptic map."""

from collections.abc import Callable
from typing import Protocol, assert_never, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, UInt8
from torch import Tensor

from thingstuff.model import boxes as box_ops
from thingstuff.structures import MaskPaste, Outputs, PanopticMaps, Size

_CHANNELS_AT_ONCE = 8
"""Semantic channels brought to full size together; bounds the memory of the argmax."""

Paste = Callable[[Float32[Tensor, "M M"], Float32[Tensor, " 4"], Size], tuple[Bool[Tensor, "h w"], tuple[int, int]]]
"""Brings one mask to the picture: its window there, and the window's top left corner ``(y, x)``."""


@runtime_checkable
class Fusion(Protocol):
    """Turns what the network says of one picture of a batch into a panoptic map."""

    def __call__(self, outputs: Outputs, row: int, size: Size, output_size: Size) -> PanopticMaps:
        """Fuse.

        Args:
            outputs: What the network says of the batch.
            row: Which picture of the batch.
            size: Size of that picture before padding, in the network's frame.
            output_size: Size of the wanted map.
        """
        ...


def merge_by_score(
    outputs: Outputs,
    row: int,
    size: Size,
    output_size: Size,
    *,
    num_stuff: int,
    score_threshold: float = 0.5,
    overlap_threshold: float = 0.5,
    stuff_area: int = 4096,
    mask_paste: MaskPaste = "pixel_centers",
) -> PanopticMaps:
    """Panoptic FPN's heuristic: instances by score, each where no better one is, then stuff in what is left.

    Args:
        outputs: What the network says of the batch; either branch may be missing.
        row: Which picture of the batch.
        size: Size of that picture before padding.
        output_size: Size of the wanted map.
        num_stuff: Stuff classes, which are the first semantic channels.
        score_threshold: Instances below it stay out.
        overlap_threshold: An instance stays out if better ones hide more than this share of it.
        stuff_area: Stuff of fewer pixels (of the output) stays out.
        mask_paste: How masks come to the picture.

    Source: Kirillov et al., Panoptic Feature Pyramid Networks, CVPR 2019, section 3; Detectron2 for the order of steps.
    """
    device = (outputs.instances.boxes if outputs.instances else outputs.semantic.logits).device  # pyright: ignore
    ids = torch.zeros(output_size, dtype=torch.int32, device=device)
    paste = find_paste(mask_paste)
    labels, scores = _place_things(ids, outputs, row, size, output_size, score_threshold, overlap_threshold, paste)
    labels = [label + num_stuff for label in labels]
    if outputs.semantic is not None:
        semantic = semantic_labels(outputs.semantic.logits[row], size, output_size)
        free = torch.where(ids == 0, semantic, num_stuff)
        areas = torch.bincount(free.flatten(), minlength=num_stuff + 1)[:num_stuff].tolist()
        for label, area in enumerate(areas):
            if area > 0 and area >= stuff_area:
                labels.append(label)
                scores.append(1.0)
                ids[free == label] = len(labels)
    count = len(labels)
    return PanopticMaps(
        ids=ids,
        labels=torch.tensor(labels, dtype=torch.int64, device=device),
        scores=torch.tensor(scores, dtype=torch.float32, device=device),
        areas=torch.bincount(ids.flatten(), minlength=count + 1)[1:],
        valid=torch.ones(count, dtype=torch.bool, device=device),
    )


def _place_things(
    ids: Tensor,
    outputs: Outputs,
    row: int,
    size: Size,
    output_size: Size,
    score_threshold: float,
    overlap_threshold: float,
    paste: Paste,
) -> tuple[list[int], list[float]]:
    """Write the instances of one picture into its id map; labels and scores of those that found a place."""
    instances = outputs.instances
    if instances is None or instances.mask_logits is None:
        return [], []
    boxes = box_ops.rescale(instances.boxes[row], size, output_size)
    probabilities = instances.mask_logits[row].sigmoid()
    candidates = instances.valid[row] & (instances.scores[row] >= score_threshold) & (box_ops.area(boxes) > 0)
    order = torch.argsort(instances.scores[row], descending=True, stable=True)
    placed_labels: list[int] = []
    placed_scores: list[float] = []
    for index in order[candidates[order]].tolist():
        mask, (top, left) = paste(probabilities[index], boxes[index], output_size)
        window = ids[top : top + mask.shape[0], left : left + mask.shape[1]]
        free = mask & (window == 0)
        area = int(mask.sum())
        if area == 0 or (area - int(free.sum())) / area > overlap_threshold:
            continue
        placed_labels.append(int(instances.labels[row, index]))
        placed_scores.append(float(instances.scores[row, index]))
        window[free] = len(placed_labels)
    return placed_labels, placed_scores


def find_paste(kind: MaskPaste) -> Paste:
    """The function that brings one mask to the picture."""
    match kind:
        case "pixel_centers":
            return paste_in_box
        case "whole_pixels":
            return paste_in_whole_pixels
        case _:
            assert_never(kind)


def paste_in_box(
    probabilities: Float32[Tensor, "M M"], box: Float32[Tensor, " 4"], size: Size
) -> tuple[Bool[Tensor, "h w"], tuple[int, int]]:
    """Bring one mask to the picture: sampled bilinearly at pixel centres, true from one half.

    Args:
        probabilities: The mask inside its box.
        box: In pixels of the picture.
        size: Size of the picture.

    Returns:
        The window of the mask that the box can reach, and its top left corner ``(y, x)``.

    Source: Detectron2's paste rule (its CPU path).
    """
    x1, y1, x2, y2 = box.tolist()
    left, top = max(int(x1 // 1) - 1, 0), max(int(y1 // 1) - 1, 0)
    right, bottom = min(int(-(-x2 // 1)) + 1, size[1]), min(int(-(-y2 // 1)) + 1, size[0])
    x = (torch.arange(left, right, dtype=torch.float32, device=box.device) + 0.5 - box[0]) / (box[2] - box[0]) * 2 - 1
    y = (torch.arange(top, bottom, dtype=torch.float32, device=box.device) + 0.5 - box[1]) / (box[3] - box[1]) * 2 - 1
    grid = torch.stack([x.expand(len(y), -1), y[:, None].expand(-1, len(x))], dim=-1)
    values = F.grid_sample(probabilities[None, None], grid[None], mode="bilinear", align_corners=False)
    return values[0, 0] >= 0.5, (top, left)


def paste_in_whole_pixels(
    probabilities: Float32[Tensor, "M M"], box: Float32[Tensor, " 4"], size: Size
) -> tuple[Bool[Tensor, "h w"], tuple[int, int]]:
    """Bring one mask to the picture: with a border of zeros, resized to its box in whole pixels, true from one half.

    Args:
        probabilities: The mask inside its box.
        box: In pixels of the picture.
        size: Size of the picture.

    Returns:
        The window of the mask, and its top left corner ``(y, x)``.

    Source: torchvision's Mask R-CNN, which has it from Detectron; there a box includes its last pixel.
    """
    padded = F.pad(probabilities, (1, 1, 1, 1))
    center, half = (box[:2] + box[2:]) * 0.5, (box[2:] - box[:2]) * 0.5
    half = half * (padded.shape[0] / probabilities.shape[0])
    x1, y1 = (center - half).long().tolist()
    x2, y2 = (center + half).long().tolist()
    full = F.interpolate(padded[None, None], size=(y2 - y1 + 1, x2 - x1 + 1), mode="bilinear", align_corners=False)
    top, left = max(y1, 0), max(x1, 0)
    window = full[0, 0, top - y1 : max(size[0] - y1, 0), left - x1 : max(size[1] - x1, 0)]
    return window >= 0.5, (top, left)


def semantic_labels(logits: Float[Tensor, "classes h w"], size: Size, output_size: Size) -> UInt8[Tensor, "H W"]:
    """Channel with the highest logit at every pixel of the output.

    The logits go to the padded size, lose the padding and go to the output size, as in Detectron2, but only a few
    channels at a time: the full stack of them is never held.

    Args:
        logits: At stride 4 of the padded picture.
        size: Size of the picture before padding.
        output_size: Size of the wanted map.
    """
    best = logits.new_full(output_size, -torch.inf, dtype=torch.float32)
    labels = torch.zeros(output_size, dtype=torch.uint8, device=logits.device)
    for first, channels in enumerate(logits.float()[None].split(_CHANNELS_AT_ONCE, dim=1)):
        full = F.interpolate(channels, scale_factor=4, mode="bilinear", align_corners=False)
        full = full[..., : size[0], : size[1]]
        if output_size != size:
            full = F.interpolate(full, size=output_size, mode="bilinear", align_corners=False)
        values, channel = full[0].max(dim=0)
        better = values > best
        best = torch.where(better, values, best)
        labels = torch.where(better, (channel + first * _CHANNELS_AT_ONCE).to(torch.uint8), labels)
    return labels
