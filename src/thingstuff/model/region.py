"""The region branch: proposals become classified boxes, boxes survive suppression, survivors get masks."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn

from thingstuff.model import boxes as box_ops
from thingstuff.model.box_head import BoxPredictions
from thingstuff.model.nms import multiclass_nms
from thingstuff.structures import Instances, Proposals, Pyramid


class RegionBranch(nn.Module):
    """Mask R-CNN's second stage.

    Args:
        box_pool: Regions to features of the box head.
        box_head: Features to class logits and deltas.
        mask_pool: Boxes to features of the mask head; None for detection alone.
        mask_head: Features to mask logits; None for detection alone.
        num_detections: Number D of results for each picture.
        score_threshold: Detections with at most this probability are dropped.
        iou_threshold: Largest overlap of two detections of one class.
        box_weights: Factors of the deltas (dx, dy, dw, dh).
        class_agnostic_nms: Let detections of different classes suppress each other (mmdetection's panoptic networks).
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
        score_threshold: float = 0.05,
        iou_threshold: float = 0.5,
        box_weights: box_ops.BoxWeights = (10.0, 10.0, 5.0, 5.0),
        class_agnostic_nms: bool = False,
        min_size: float = 0.0,
    ) -> None:
        super().__init__()
        self.box_pool, self.box_head = box_pool, box_head
        self.mask_pool, self.mask_head = mask_pool, mask_head
        self.num_detections = num_detections
        self.score_threshold = score_threshold
        self.iou_threshold = iou_threshold
        self.box_weights = box_weights
        self.class_agnostic_nms = class_agnostic_nms
        self.min_size = min_size

    def forward(self, pyramid: Pyramid, proposals: Proposals, sizes: Int64[Tensor, "B 2"]) -> Instances:
        """Detect objects.

        Args:
            pyramid: Features of the batch.
            proposals: Regions to look at.
            sizes: Height and width of each picture before padding.
        """
        boxes, scores, labels, valid = self.detect(pyramid, proposals, sizes)
        mask_logits = None
        if self.mask_head is not None:
            all_masks = self.masks(pyramid, boxes.unbind(0))
            own = labels.flatten()[:, None, None, None].expand(-1, 1, *all_masks.shape[2:])
            mask_logits = all_masks.gather(1, own)[:, 0].unflatten(0, labels.shape).float()
        return Instances(boxes, scores, labels, mask_logits, valid)

    def classify(self, pyramid: Pyramid, boxes: Sequence[Float32[Tensor, "_ 4"]]) -> BoxPredictions:
        """Class logits and deltas of the given regions of each picture, all in one table."""
        return self.box_head(self.box_pool(pyramid, boxes))

    def masks(self, pyramid: Pyramid, boxes: Sequence[Float32[Tensor, "_ 4"]]) -> Float[Tensor, "R masks M M"]:
        """Mask logits of every class for the given boxes of each picture, all in one table."""
        assert self.mask_pool is not None
        assert self.mask_head is not None
        return self.mask_head(self.mask_pool(pyramid, boxes))

    def detect(
        self, pyramid: Pyramid, proposals: Proposals, sizes: Int64[Tensor, "B 2"]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Boxes, scores, labels and validity of the D best detections of each picture."""
        shape = proposals.valid.shape
        predictions = self.classify(pyramid, proposals.boxes.unbind(0))
        scores = predictions.class_logits.float().softmax(dim=1)[:, :-1].unflatten(0, shape)
        boxes = box_ops.decode(predictions.deltas.unflatten(0, shape), proposals.boxes[:, :, None], self.box_weights)
        usable = proposals.valid & boxes.isfinite().flatten(2).all(dim=2) & scores.isfinite().all(dim=2)
        scores = scores.masked_fill(~usable[..., None], 0)
        height, width = sizes[:, 0].float()[:, None, None], sizes[:, 1].float()[:, None, None]
        boxes = box_ops.clip(boxes.nan_to_num(0, 0, 0), height, width)
        results = [self._best(b, s) for b, s in zip(boxes, scores, strict=True)]
        boxes, scores, labels, valid = (torch.stack(column) for column in zip(*results, strict=True))
        return boxes, scores, labels, valid

    def _best(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        if self.min_size > 0:
            large = ((boxes[..., 2:] - boxes[..., :2]) >= self.min_size).all(dim=2)
            scores = torch.where(large, scores, torch.zeros_like(scores))
        rows, labels, valid = multiclass_nms(
            boxes,
            scores,
            score_threshold=self.score_threshold,
            iou_threshold=self.iou_threshold,
            count=self.num_detections,
            class_agnostic=self.class_agnostic_nms,
        )
        chosen = boxes[rows, labels] if boxes.shape[1] > 1 else boxes[rows, 0]
        return chosen * valid[:, None], scores[rows, labels] * valid, labels, valid
