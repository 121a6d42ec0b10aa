"""Box arithmetic: pure functions on ``xyxy`` boxes in continuous pixel coordinates."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from thingstuff.structures import Size

MAX_LOG_RATIO = math.log(1000 / 16)
"""Largest growth of a side that a decoded box may have, as a logarithm (Detectron2)."""

BoxWeights = tuple[float, float, float, float]
"""Factors of (dx, dy, dw, dh)."""


def area(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n"]:
    """Area of each box."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def inclusive(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
    """The same boxes named by their last pixel, where ours end behind it (Detectron and what came of it)."""
    return boxes - boxes.new_tensor((0, 0, 1, 1))


def iou(first: Float[Tensor, "n 4"], second: Float[Tensor, "m 4"]) -> Float[Tensor, "n m"]:
    """Intersection over union of every pair; 0 where the boxes do not meet."""
    low = torch.maximum(first[:, None, :2], second[None, :, :2])
    high = torch.minimum(first[:, None, 2:], second[None, :, 2:])
    intersection = (high - low).clamp_(min=0).prod(dim=2)
    union = area(first)[:, None] + area(second)[None, :] - intersection
    return torch.where(intersection > 0, intersection / union, torch.zeros_like(intersection))


def encode(
    boxes: Float[Tensor, "*n 4"], references: Float[Tensor, "*n 4"], weights: BoxWeights
) -> Float[Tensor, "*n 4"]:
    """Describe boxes relative to reference boxes: shift of the centre and growth of the sides.

    Args:
        boxes: What is to be described.
        references: Anchors or proposals, in the same frame.
        weights: Factors of (dx, dy, dw, dh).

    Returns:
        ``(dx, dy, dw, dh)`` such that ``decode`` gives the boxes back.
    """
    reference_center, reference_size = _center_size(references)
    center, size = _center_size(boxes)
    shift = (center - reference_center) / reference_size
    growth = torch.log(size / reference_size)
    return torch.cat([shift, growth], dim=-1) * boxes.new_tensor(weights)


def decode(
    deltas: Float[Tensor, "*n 4"], references: Float[Tensor, "*#n 4"], weights: BoxWeights
) -> Float[Tensor, "*n 4"]:
    """Turn ``(dx, dy, dw, dh)`` relative to reference boxes into boxes; computed in float32.

    Args:
        deltas: Network output.
        references: Anchors or proposals; broadcast against ``deltas``.
        weights: Factors that ``encode`` applied.

    Returns:
        Boxes in the frame of the references, not clipped.
    """
    reference_center, reference_size = _center_size(references)
    wx, wy, ww, wh = weights
    dx, dy, dw, dh = deltas.float().unbind(dim=-1)
    center_x = dx / wx * reference_size[..., 0] + reference_center[..., 0]
    center_y = dy / wy * reference_size[..., 1] + reference_center[..., 1]
    width = (dw / ww).clamp(max=MAX_LOG_RATIO).exp() * reference_size[..., 0]
    height = (dh / wh).clamp(max=MAX_LOG_RATIO).exp() * reference_size[..., 1]
    half_width, half_height = 0.5 * width, 0.5 * height
    corners = (center_x - half_width, center_y - half_height, center_x + half_width, center_y + half_height)
    return torch.stack(corners, dim=-1)


def clip(boxes: Float[Tensor, "*n 4"], height: Tensor | int, width: Tensor | int) -> Float[Tensor, "*n 4"]:
    """Cut boxes at the border of a picture.

    Args:
        boxes: In the frame of the picture.
        height: A number, or a tensor that broadcasts against one coordinate of the boxes.
        width: The same.
    """
    x1, y1, x2, y2 = boxes.unbind(dim=-1)
    zero = torch.zeros((), dtype=boxes.dtype, device=boxes.device)
    bound_x, bound_y = zero + width, zero + height
    cut = (x.clamp(min=0).minimum(bound) for x, bound in ((x1, bound_x), (y1, bound_y), (x2, bound_x), (y2, bound_y)))
    return torch.stack(tuple(cut), dim=-1)


def rescale(boxes: Float[Tensor, "*n 4"], size: Size, output_size: Size) -> Float[Tensor, "*n 4"]:
    """Bring boxes from a picture of ``size`` to the same picture at ``output_size``, and clip them there."""
    scale_y, scale_x = output_size[0] / size[0], output_size[1] / size[1]
    return clip(boxes * boxes.new_tensor((scale_x, scale_y, scale_x, scale_y)), *output_size)


def _center_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    size = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + 0.5 * size, size
