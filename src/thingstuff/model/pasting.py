"""Masks from the frame of their boxes to the picture."""

from collections.abc import Callable
from typing import assert_never

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float32
from torch import Tensor

from thingstuff.model import boxes as box_ops
from thingstuff.structures import MaskPaste, Size

Paste = Callable[[Float32[Tensor, "M M"], Float32[Tensor, " 4"], Size], tuple[Bool[Tensor, "h w"], tuple[int, int]]]
"""Brings one mask to the picture: its window there, and the window's top left corner ``(y, x)``."""


def find_paste(kind: MaskPaste) -> Paste:
    """The function that brings one mask to the picture."""
    match kind:
        case "pixel_centers":
            return paste_in_box
        case "whole_pixels":
            return paste_in_whole_pixels
        case "inclusive_pixels":
            return paste_in_inclusive_pixels
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
    # A box that names its last pixel may be less than one pixel wide.
    whole = max(y2 - y1 + 1, 1), max(x2 - x1 + 1, 1)
    full = F.interpolate(padded[None, None], size=whole, mode="bilinear", align_corners=False)
    top, left = max(y1, 0), max(x1, 0)
    window = full[0, 0, top - y1 : max(size[0] - y1, 0), left - x1 : max(size[1] - x1, 0)]
    return window >= 0.5, (top, left)


def paste_in_inclusive_pixels(
    probabilities: Float32[Tensor, "M M"], box: Float32[Tensor, " 4"], size: Size
) -> tuple[Bool[Tensor, "h w"], tuple[int, int]]:
    """``paste_in_whole_pixels`` for networks whose boxes name their last pixel, where ours end behind it.

    Source: Detectron's test code, and with it PANet's and UPSNet's.
    """
    return paste_in_whole_pixels(probabilities, box_ops.inclusive(box), size)
