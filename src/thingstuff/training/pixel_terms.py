"""The terms of the loss that are about pixels: their classes, and behind the panoptic head their segments."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torchvision.ops import roi_align

from thingstuff.model import boxes as box_ops
from thingstuff.model.fusion import panoptic_logits
from thingstuff.model.pooling import with_batch_index
from thingstuff.model.roi_align import roi_align_pyramid
from thingstuff.recipe import LossConfig
from thingstuff.structures import VOID_LABEL, Targets
from thingstuff.training import losses, targets
from thingstuff.training.losses import Term

_STRIDE = 4
"""Of the semantic logits."""
_ROWS_AT_ONCE = 8
"""Rows of logits that are enlarged together."""
_CROP_SIZE = 28
"""Height and width of the crops of ``roi_semantic_term`` (UPSNet)."""
_CROP_SAMPLES = 2
"""RoIAlign's samples in each direction of a bin there (UPSNet's published implementation)."""


def semantic_term(
    logits: Float[Tensor, "B classes h w"],
    truth: Sequence[Targets],
    config: LossConfig,
    things_channel: int | None,
) -> Term:
    """Classes of all pixels.

    Args:
        logits: At stride 4 of the padded pictures.
        truth: One for each picture.
        config: At which size to compare, and which pixels count.
        things_channel: Channel of all things together; None: each class has its own.
    """
    size = [_STRIDE * side for side in logits.shape[-2:]]
    labels = _channels(_pad_label_maps([target.label_map for target in truth], size), things_channel)
    if config.semantic_size == "full":
        total = _FullSizeLoss.apply(logits, labels)
    else:
        labels = labels[:, 2::4, 2::4].contiguous()
        total = losses.semantic_loss(logits, labels, VOID_LABEL)
    counted = labels != VOID_LABEL if config.semantic_mean == "labelled" else torch.ones_like(labels)
    return Term(total, counted.sum().float())


class _FullSizeLoss(torch.autograd.Function):
    """Semantic loss of logits enlarged to the size of the labels, some rows at a time.

    Enlarged logits of all classes are the largest thing that training would hold. So each strip is enlarged, compared,
    and its gradient taken at once; what is kept is the gradient at stride 4.
    """

    @staticmethod
    def forward(ctx: Any, logits: Float[Tensor, "B classes h w"], labels: Int64[Tensor, "B H W"]) -> Tensor:
        needed = ctx.needs_input_grad[0]
        total, gradient = logits.new_zeros(()), torch.zeros_like(logits) if needed else None
        height = logits.shape[2]
        for first in range(0, height, _ROWS_AT_ONCE):
            end = min(first + _ROWS_AT_ONCE, height)
            # Values between two rows of logits need both.
            rows = slice(max(first - 1, 0), min(end + 1, height))
            with torch.set_grad_enabled(needed):
                strip = logits[:, :, rows].detach().requires_grad_(needed)
                enlarged = F.interpolate(strip, scale_factor=_STRIDE, mode="bilinear", align_corners=False)
                inner = enlarged[:, :, _STRIDE * (first - rows.start) : _STRIDE * (end - rows.start)]
                loss = losses.semantic_loss(inner, labels[:, _STRIDE * first : _STRIDE * end], VOID_LABEL)
                if gradient is not None:
                    gradient[:, :, rows] += torch.autograd.grad(loss, strip)[0]
            total += loss.detach()
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None]:
        return ctx.saved_tensors[0] * outer[0], None


def roi_semantic_term(
    logits: Float[Tensor, "B classes h w"], truth: Sequence[Targets], things_channel: int | None
) -> Term:
    """Classes of the pixels inside the box of every object, all boxes brought to one size; crowds are left out.

    Args:
        logits: At stride 4 of the padded pictures.
        truth: One for each picture.
        things_channel: Channel of all things together; None: each class has its own.
    """
    boxes = [target.boxes[~target.crowd] for target in truth]
    crops = [targets.label_crops(t.label_map, own, _CROP_SIZE) for t, own in zip(truth, boxes, strict=True)]
    labels = _channels(torch.cat(crops), things_channel)
    regions = with_batch_index([box_ops.inclusive(own) for own in boxes])
    if logits.requires_grad and logits.device.type == "cpu":
        level = torch.zeros(len(regions), dtype=torch.int64)
        pooled = roi_align_pyramid([logits], regions, level, _CROP_SIZE, [_STRIDE], _CROP_SAMPLES, False)
    else:
        pooled = roi_align(logits, regions, _CROP_SIZE, 1 / _STRIDE, _CROP_SAMPLES, False)
    return Term(losses.roi_semantic_loss(pooled, labels, VOID_LABEL), logits.new_tensor(float(labels.numel())))


def panoptic_term(
    logits: Float[Tensor, "B classes h w"],
    masks: Sequence[Float[Tensor, "_ M M"]],
    shown: Sequence[Int64[Tensor, " _"]],
    truth: Sequence[Targets],
    *,
    num_stuff: int,
    unknown: bool,
) -> Term:
    """Segments of all pixels at stride 4, as the panoptic head sees them when it is given true boxes and classes.

    Args:
        logits: Of every class, at stride 4 of the padded pictures.
        masks: Mask logits of the shown objects of each picture, for their class.
        shown: Rows of these objects among the picture's.
        truth: One for each picture.
        num_stuff: Stuff classes.
        unknown: Whether the panoptic head has a channel for the unknown.
    """
    height, width = logits.shape[-2:]
    totals = []
    for semantic, mask_logits, rows, target in zip(logits, masks, shown, truth, strict=True):
        boxes = box_ops.inclusive(target.boxes[rows]) / _STRIDE
        channels = panoptic_logits(
            semantic, boxes, target.labels[rows], mask_logits.float(), num_stuff=num_stuff, unknown=unknown
        )
        labels = targets.panoptic_targets(target, rows, (height, width), num_stuff=num_stuff, unknown=unknown)
        totals.append(losses.panoptic_loss(channels, labels, targets.NO_LABEL))
    return Term(torch.stack(totals).sum(), logits.new_tensor(float(len(truth) * height * width)))


def _pad_label_maps(maps: Sequence[UInt8[Tensor, "_ _"]], size: Sequence[int]) -> UInt8[Tensor, "B H W"]:
    """Put label maps of different sizes on one canvas; what they do not cover is void."""
    canvas = maps[0].new_full((len(maps), size[0], size[1]), VOID_LABEL)
    for row, label_map in enumerate(maps):
        canvas[row, : label_map.shape[0], : label_map.shape[1]] = label_map
    return canvas


def _channels(labels: UInt8[Tensor, "_ _ _"], things_channel: int | None) -> Int64[Tensor, "_ _ _"]:
    """Semantic channel that each pixel should have; void stays void. Things are the classes from the merged one on."""
    labels = labels.long()
    if things_channel is None:
        return labels
    return torch.where(labels == VOID_LABEL, labels, labels.clamp(max=things_channel))
