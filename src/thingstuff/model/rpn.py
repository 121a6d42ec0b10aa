"""Region proposal network: anchors, the head that judges them, and proposals of a fixed number."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn

from thingstuff.model import boxes as box_ops
from thingstuff.model.layers import init_normal
from thingstuff.model.nms import keep_mask
from thingstuff.structures import AnchorKind, Proposals, Pyramid

FINEST_STRIDE = 4
"""Of the first level; each further one has twice the stride of the one before."""

BOX_WEIGHTS: box_ops.BoxWeights = (1.0, 1.0, 1.0, 1.0)


@dataclass(frozen=True, slots=True)
class AnchorPredictions:
    """What the head says of every anchor, level by level from fine to coarse; N anchors in all.

    Attributes:
        anchors: In the padded frame; by level, row, column, and shape as the fastest index.
        logits: Objectness before the sigmoid.
        deltas: Box relative to the anchor.
        counts: Number of anchors of each level.
    """

    anchors: Float32[Tensor, "N 4"]
    logits: Float[Tensor, "B N"]
    deltas: Float[Tensor, "B N 4"]
    counts: tuple[int, ...]


class RegionProposalNetwork(nn.Module):
    """Judges anchors of every level by one small shared head and keeps the best as proposals.

    Args:
        channels: Channels of the pyramid.
        anchor_sizes: For each level, finest first, the square roots of its anchors' areas in pixels.
        aspect_ratios: Height over width of the anchors.
        candidates_per_level: How many anchors of each level enter suppression, (training, inference).
        num_proposals: How many proposals leave, (training, inference).
        iou_threshold: Largest overlap of two proposals of one level.
        min_size: Shortest side of a proposal in pixels; those without area never count.
        anchor_kind: How the anchors of a cell are rounded and where they lie.
        fitted_strides: Set anchors as far apart as the padded picture is larger than the level, rounded down, instead
            of by the level's stride (torchvision); they differ where a level's size is rounded up.

    Source: Ren et al., Faster R-CNN, NeurIPS 2015; Detectron2 for every constant.
    """

    def __init__(
        self,
        channels: int,
        anchor_sizes: Sequence[Sequence[float]],
        aspect_ratios: Sequence[float],
        candidates_per_level: tuple[int, int] = (2000, 1000),
        num_proposals: tuple[int, int] = (1000, 1000),
        iou_threshold: float = 0.7,
        *,
        min_size: float = 0.0,
        anchor_kind: AnchorKind = "exact",
        fitted_strides: bool = False,
    ) -> None:
        super().__init__()
        self.cell_anchors = tuple(
            cell_anchors(sizes, aspect_ratios, anchor_kind, FINEST_STRIDE << level)
            for level, sizes in enumerate(anchor_sizes)
        )
        self.candidates_per_level = candidates_per_level
        self.num_proposals = num_proposals
        self.iou_threshold = iou_threshold
        self.min_size = min_size
        self.fitted_strides = fitted_strides
        shapes = len(anchor_sizes[0]) * len(aspect_ratios)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.objectness = nn.Conv2d(channels, shapes, 1)
        self.deltas = nn.Conv2d(channels, 4 * shapes, 1)
        for layer in (self.conv, self.objectness, self.deltas):
            init_normal(layer, std=0.01)

    def forward(self, pyramid: Pyramid, sizes: Int64[Tensor, "B 2"]) -> Proposals:
        """Propose regions, without gradient.

        Args:
            pyramid: One level for each entry of ``anchor_sizes``.
            sizes: Height and width of each picture before padding.
        """
        return self.select(self.predict(pyramid), sizes)

    def predict(self, pyramid: Pyramid) -> AnchorPredictions:
        """Judge every anchor of every level."""
        anchors, logits, deltas = [], [], []
        for (stride, feature), cells in zip(pyramid.features.items(), self.cell_anchors, strict=True):
            hidden = F.relu(self.conv(feature))
            anchors.append(_grid_anchors(cells, feature, self._steps(pyramid, stride)))
            logits.append(self.objectness(hidden).permute(0, 2, 3, 1).flatten(1))
            deltas.append(self.deltas(hidden).permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, 4)))
        counts = tuple(level.shape[0] for level in anchors)
        return AnchorPredictions(torch.cat(anchors), torch.cat(logits, dim=1), torch.cat(deltas, dim=1), counts)

    def _steps(self, pyramid: Pyramid, stride: int) -> tuple[int, int]:
        """Pixels between neighbouring anchors of a level, down and across."""
        if not self.fitted_strides:
            return stride, stride
        finest = min(pyramid.features)
        height, width = (finest * side for side in pyramid.features[finest].shape[2:])
        rows, columns = pyramid.features[stride].shape[2:]
        return height // rows, width // columns

    @torch.no_grad()
    def select(self, predictions: AnchorPredictions, sizes: Int64[Tensor, "B 2"]) -> Proposals:
        """Decode the best anchors of each level, suppress overlaps within the level, keep the best of all levels."""
        boxes, logits = self._candidates(predictions, sizes)
        survives = torch.stack([self._suppress(b, s, predictions.counts) for b, s in zip(boxes, logits, strict=True)])
        logits = logits.masked_fill(~survives, -torch.inf)
        count = min(self.num_proposals[0 if self.training else 1], logits.shape[1])
        logits, order = logits.topk(count, dim=1)
        valid = logits > -torch.inf
        boxes = boxes.gather(1, order[..., None].expand(-1, -1, 4))
        return Proposals(boxes, logits.masked_fill(~valid, 0), valid)

    def _limits(self, counts: Sequence[int]) -> list[int]:
        limit = self.candidates_per_level[0 if self.training else 1]
        return [min(limit, count) for count in counts]

    def _candidates(self, predictions: AnchorPredictions, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes and logits of the best anchors of each level; boxes without area have logit minus infinity."""
        boxes, logits, start = [], [], 0
        for count, limit in zip(predictions.counts, self._limits(predictions.counts), strict=True):
            best, order = predictions.logits[:, start : start + count].float().topk(limit, dim=1)
            order = order + start
            deltas = predictions.deltas.gather(1, order[..., None].expand(-1, -1, 4))
            boxes.append(box_ops.decode(deltas, predictions.anchors[order], BOX_WEIGHTS))
            logits.append(best)
            start += count
        height, width = sizes[:, :1].float(), sizes[:, 1:].float()
        all_boxes, all_logits = torch.cat(boxes, dim=1), torch.cat(logits, dim=1)
        finite = all_boxes.isfinite().all(dim=2) & all_logits.isfinite()
        all_boxes = box_ops.clip(all_boxes.nan_to_num(0, 0, 0), height, width)
        sides = all_boxes[..., 2:] - all_boxes[..., :2]
        has_area = ((sides > 0) & (sides >= self.min_size)).all(dim=2)
        return all_boxes, all_logits.masked_fill(~(finite & has_area), -torch.inf)

    def _suppress(self, boxes: Tensor, logits: Tensor, counts: Sequence[int]) -> Tensor:
        limits = self._limits(counts)
        levels = zip(boxes.split(limits), logits.split(limits), strict=True)
        return torch.cat([keep_mask(b, s, self.iou_threshold) & (s > -torch.inf) for b, s in levels])


def cell_anchors(
    sizes: Sequence[float], aspect_ratios: Sequence[float], kind: AnchorKind = "exact", stride: int = FINEST_STRIDE
) -> tuple[tuple[float, ...], ...]:
    """Anchors of one cell, ``xyxy`` around its origin: every size with every ratio (height over width).

    Args:
        sizes: Square roots of their areas in pixels.
        aspect_ratios: Height over width.
        kind: ``rounded`` rounds the corners. ``legacy`` rounds the sides of an anchor as large as a cell, enlarges
            that, and lays it around the middle of the cell, not its corner.
        stride: Side of a cell in pixels.

    Source: Detectron2, torchvision and Detectron, in this order; Detectron's boxes include their last pixel, these
    end behind it.
    """
    return tuple(_cell_anchor(size, ratio, kind, stride) for size in sizes for ratio in aspect_ratios)


def _cell_anchor(size: float, ratio: float, kind: AnchorKind, stride: int) -> tuple[float, ...]:
    match kind:
        case "exact" | "rounded":
            width = math.sqrt(size * size / ratio)
            height, middle = ratio * width, 0.0
        case "legacy":
            width = round(math.sqrt(stride * stride / ratio))
            height = round(width * ratio) * size / stride
            width, middle = width * size / stride, stride / 2
        case _:
            assert_never(kind)
    corners = (middle - width / 2, middle - height / 2, middle + width / 2, middle + height / 2)
    return tuple(float(round(corner)) for corner in corners) if kind == "rounded" else corners


def _grid_anchors(cells: Sequence[Sequence[float]], feature: Tensor, steps: tuple[int, int]) -> Float32[Tensor, "n 4"]:
    """Anchors of one level; the centre of a cell's anchors is the top left corner of the cell."""
    rows, columns = feature.shape[-2:]
    y, x = (
        torch.arange(count, dtype=torch.float32, device=feature.device) * step
        for count, step in zip((rows, columns), steps, strict=True)
    )
    shifts = torch.stack([x.expand(rows, columns), y[:, None].expand(rows, columns)] * 2, dim=-1)
    base = torch.tensor(cells, dtype=torch.float32, device=feature.device)
    return (shifts[:, :, None] + base).reshape(-1, 4)
