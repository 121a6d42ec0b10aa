"""The region branch: proposals become classified boxes, boxes survive suppression, survivors get masks."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn

from thingstuff.model import boxes as box_ops
from thingstuff.model.box_head import BoxPredictions
from thingstuff.model.nms import multiclass_nms
from thingstuff.structures import Instances, Proposals, Pyramid


class Suppression(NamedTuple):
    """A rule by which classified boxes become instances.

    Attributes:
        score_threshold: Boxes with at most this probability are dropped.
        iou_threshold: Largest overlap of two boxes of one class.
        class_agnostic: Boxes of different classes suppress each other too (mmdetection's panoptic networks, UPSNet).
    """

    score_threshold: float
    iou_threshold: float
    class_agnostic: bool = False


DETECTRON2_RULE = Suppression(0.05, 0.5)
"""How Detectron2 chooses detections."""
_MASKS_AT_ONCE = 10
"""Rows of each picture whose masks a graph computes together; the more, the more of them only fill up."""


class RegionBranch(nn.Module):
    """Mask R-CNN's second stage.

    Args:
        box_pool: Regions to features of the box head.
        box_head: Features to class logits and deltas.
        mask_pool: Boxes to features of the mask head; None for detection alone.
        mask_head: Features to mask logits; None for detection alone.
        num_detections: Number D of results for each picture.
        detection_rule: How detections are chosen.
        candidate_rule: How instances are chosen that may enter the panoptic map; None: the detections may.
        box_weights: Factors of the deltas (dx, dy, dw, dh).
        min_size: Detections with a shorter side, in pixels, are dropped before suppression (torchvision).

    Source: He et al., Mask R-CNN, ICCV 2017; Detectron2 for every constant.
    """

    def __init__(
        self,
        box_pool: nn.Module,
        box_head: nn.Module,
        mask_pool: nn.Module | None,
        mask_head: nn.Module | None,
        *,
        num_detections: int = 100,
        detection_rule: Suppression = DETECTRON2_RULE,
        candidate_rule: Suppression | None = None,
        box_weights: box_ops.BoxWeights = (10.0, 10.0, 5.0, 5.0),
        min_size: float = 0.0,
    ) -> None:
        super().__init__()
        self.box_pool, self.box_head = box_pool, box_head
        self.mask_pool, self.mask_head = mask_pool, mask_head
        self.num_detections = num_detections
        self.detection_rule = detection_rule
        self.candidate_rule = candidate_rule
        self.box_weights = box_weights
        self.min_size = min_size

    def forward(
        self, pyramid: Pyramid, proposals: Proposals, sizes: Int64[Tensor, "B 2"]
    ) -> tuple[Instances, Instances | None]:
        """Detect objects.

        Args:
            pyramid: Features of the batch.
            proposals: Regions to look at.
            sizes: Height and width of each picture before padding.

        Returns:
            Detections, and the instances that may enter the panoptic map; None: the detections may.
        """
        boxes, scores = self.score(pyramid, proposals, sizes)
        detections = self.with_masks(pyramid, self.select(boxes, scores, self.detection_rule))
        if self.candidate_rule is None:
            return detections, None
        return detections, self.with_masks(pyramid, self.select(boxes, scores, self.candidate_rule))

    def with_masks(self, pyramid: Pyramid, found: Instances) -> Instances:
        """The same instances with the mask of each one's class; without a mask branch, as they are.

        Rows that only fill up get zeros, for masks are dear; but compiled for a GPU they get masks as well, because a
        GPU would have to tell the processor how many rows are valid.
        """
        if self.mask_head is None:
            return found
        if torch.compiler.is_compiling():
            if found.boxes.device.type == "cpu":
                return replace(found, mask_logits=self._masks_in_graph(pyramid, found))
            masks = _own_masks(self.masks(pyramid, found.boxes.unbind(0)), found.labels.flatten())
            return replace(found, mask_logits=masks.unflatten(0, found.labels.shape))
        boxes = [rows[valid] for rows, valid in zip(found.boxes, found.valid, strict=True)]
        masks = _own_masks(self.masks(pyramid, boxes), found.labels[found.valid])
        mask_logits = masks.new_zeros(*found.valid.shape, *masks.shape[1:])
        mask_logits[found.valid] = masks
        return replace(found, mask_logits=mask_logits)

    def _masks_in_graph(self, pyramid: Pyramid, found: Instances) -> Float32[Tensor, "B D M M"]:
        """Masks by steps of fixed sizes: of some rows of every picture at a time, up to the last that is valid."""
        assert self.mask_pool is not None
        assert self.mask_head is not None
        head, labels = self.mask_head, found.labels
        batch, count = labels.shape
        features = self.mask_pool(pyramid, found.boxes.unbind(0)).unflatten(0, (batch, count))
        side = 2 * features.shape[-1]
        end = (found.valid * torch.arange(1, count + 1, device=labels.device)).max()
        start = torch.zeros_like(end), torch.zeros((batch, count, side, side), device=labels.device)
        _, masks = torch.while_loop(
            lambda row, _: row < end, lambda row, masks: _add_masks(head, features, labels, row, masks), start
        )
        return masks

    def classify(self, pyramid: Pyramid, boxes: Sequence[Float32[Tensor, "_ 4"]]) -> BoxPredictions:
        """Class logits and deltas of the given regions of each picture, all in one table."""
        return self.box_head(self.box_pool(pyramid, boxes))

    def masks(self, pyramid: Pyramid, boxes: Sequence[Float32[Tensor, "_ 4"]]) -> Float[Tensor, "R masks M M"]:
        """Mask logits of every class for the given boxes of each picture, all in one table."""
        assert self.mask_pool is not None
        assert self.mask_head is not None
        return self.mask_head(self.mask_pool(pyramid, boxes))

    def score(
        self, pyramid: Pyramid, proposals: Proposals, sizes: Int64[Tensor, "B 2"]
    ) -> tuple[Float32[Tensor, "B K boxes 4"], Float32[Tensor, "B K things"]]:
        """What every proposal becomes: its box for each class, or one for all, clipped, and its class probabilities.

        Proposals that are not valid have probability 0.
        """
        shape = proposals.valid.shape
        predictions = self.classify(pyramid, proposals.boxes.unbind(0))
        scores = predictions.class_logits.float().softmax(dim=1)[:, :-1].unflatten(0, shape)
        boxes = box_ops.decode(predictions.deltas.unflatten(0, shape), proposals.boxes[:, :, None], self.box_weights)
        usable = proposals.valid & boxes.isfinite().flatten(2).all(dim=2) & scores.isfinite().all(dim=2)
        scores = scores.masked_fill(~usable[..., None], 0)
        height, width = sizes[:, 0].float()[:, None, None], sizes[:, 1].float()[:, None, None]
        return box_ops.clip(boxes.nan_to_num(0, 0, 0), height, width), scores

    def select(
        self, boxes: Float32[Tensor, "B K boxes 4"], scores: Float32[Tensor, "B K things"], rule: Suppression
    ) -> Instances:
        """The D best instances of each picture after suppression, without masks."""
        results = [self._best(b, s, rule) for b, s in zip(boxes, scores, strict=True)]
        best_boxes, best_scores, labels, valid = (torch.stack(column) for column in zip(*results, strict=True))
        return Instances(best_boxes, best_scores, labels, None, valid)

    def _best(self, boxes: Tensor, scores: Tensor, rule: Suppression) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        if self.min_size > 0:
            large = ((boxes[..., 2:] - boxes[..., :2]) >= self.min_size).all(dim=2)
            scores = torch.where(large, scores, torch.zeros_like(scores))
        rows, labels, valid = multiclass_nms(
            boxes,
            scores,
            score_threshold=rule.score_threshold,
            iou_threshold=rule.iou_threshold,
            count=self.num_detections,
            class_agnostic=rule.class_agnostic,
        )
        chosen = boxes[rows, labels] if boxes.shape[1] > 1 else boxes[rows, 0]
        return chosen * valid[:, None], scores[rows, labels] * valid, labels, valid


def _own_masks(masks: Float[Tensor, "R masks M M"], labels: Int64[Tensor, " R"]) -> Float32[Tensor, "R M M"]:
    """Mask logits of each region's own class."""
    return masks.gather(1, labels[:, None, None, None].expand(-1, 1, *masks.shape[2:]))[:, 0].float()


def _add_masks(
    head: nn.Module,
    features: Float[Tensor, "B D C size size"],
    labels: Int64[Tensor, "B D"],
    row: Int64[Tensor, ""],
    masks: Float32[Tensor, "B D M M"],
) -> tuple[Int64[Tensor, ""], Float32[Tensor, "B D M M"]]:
    """The masks of some rows from ``row`` on, put with the others, and where the next rows begin."""
    batch, count = labels.shape
    step = min(_MASKS_AT_ONCE, count)
    # The last rows may be seen twice, so that there are always as many.
    rows = row.clamp(max=count - step) + torch.arange(step, device=row.device)
    seen = head(features.index_select(1, rows).flatten(0, 1))
    own = _own_masks(seen, labels.index_select(1, rows).flatten())
    return row + step, masks.index_copy(1, rows, own.unflatten(0, (batch, step)))
