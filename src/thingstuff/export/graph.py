"""The graph that an exported file holds: pictures in, panoptic map, instances and label map out.

The stages are those of the network itself. Two of them are put so that every size is fixed or follows from the size of
the picture: proposals are picked from levels that are never too small, and suppression keeps a flag for each box
instead of a list. Neither changes a result.
"""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float32, Int64, Shaped, UInt8
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torchvision.ops import nms

from thingstuff.errors import InputError
from thingstuff.model.merge_graph import rescale_in_graph, semantic_labels_in_graph
from thingstuff.model.nms import ignore_deprecation
from thingstuff.model.panoptic import SIZE_DIVISOR, PanopticSegmenter
from thingstuff.model.region import RegionBranch, Suppression
from thingstuff.model.rpn import AnchorPredictions, RegionProposalNetwork
from thingstuff.runtimes import IMAGES, INSTANCE_OUTPUTS, MASK_OUTPUT, PANOPTIC_OUTPUTS, SEMANTIC_OUTPUT
from thingstuff.structures import Instances, Outputs, Proposals, Pyramid, Size

CANVAS = "canvas"
"""Name of the tensor whose size the maps shall have."""
LEAST_SIDE = 65
"""Exporters take shorter sides for a case of their own, in which the coarsest level has one cell."""


class ExportedGraph(nn.Module):
    """A network with everything behind it, as exporters want it: tensors in, a tuple of tensors out.

    Args:
        network: In inference mode.
        num_stuff: Stuff classes, which come first among the classes.
        flagged_nms: Suppress by ``suppress``, an operator of our own that one node of ONNX replaces, instead of by
            torchvision's.
    """

    def __init__(self, network: PanopticSegmenter, num_stuff: int, *, flagged_nms: bool) -> None:
        super().__init__()
        self.network = network
        self.num_stuff = num_stuff
        self.flagged_nms = flagged_nms

    @property
    def output_names(self) -> tuple[str, ...]:
        """What ``forward`` returns, in order."""
        region = self.network.region
        names: tuple[str, ...] = () if self.network.fusion is None else PANOPTIC_OUTPUTS
        if isinstance(region, RegionBranch):
            names += INSTANCE_OUTPUTS if region.mask_head is None else (*INSTANCE_OUTPUTS, MASK_OUTPUT)
        return names if self.network.semantic is None else (*names, SEMANTIC_OUTPUT)

    def forward(self, images: Shaped[Tensor, "B H W C"], canvas: UInt8[Tensor, "h w"]) -> tuple[Tensor, ...]:
        """See what is in pictures of one size.

        Args:
            images: Raw pixel values at the size that the network shall see, RGB where C = 3.
            canvas: Its height and width are those of the wanted maps; what stands in it does not matter.
        """
        size, output_size = (images.shape[1], images.shape[2]), (canvas.shape[0], canvas.shape[1])
        outputs = self._see(images, size)
        results: list[Tensor] = []
        if self.network.fusion is not None:
            maps = [self.network.fusion(outputs, row, size, output_size) for row in range(images.shape[0])]
            columns = ((m.ids, m.labels, m.scores, m.areas, m.valid) for m in maps)
            results += [torch.stack(column) for column in zip(*columns, strict=True)]
        if outputs.instances is not None:
            found = outputs.instances
            boxes = rescale_in_graph(found.boxes, size, output_size)
            results += [boxes, found.scores, found.labels + self.num_stuff, found.valid]
            results += [] if found.mask_logits is None else [found.mask_logits]
        if outputs.semantic is not None:
            planes = [semantic_labels_in_graph(logits, size, output_size) for logits in outputs.semantic.logits]
            results.append(torch.stack(planes))
        return tuple(results)

    def _see(self, images: Tensor, size: Size) -> Outputs:
        """What ``PanopticSegmenter.forward`` says of the pictures."""
        network = self.network
        sizes = torch.stack([torch.full(images.shape[:1], side, device=images.device) for side in size], dim=1)
        pyramid = network.neck(network.backbone(network.normalize(_pad(images.permute(0, 3, 1, 2)), sizes)))
        instances = candidates = None
        if network.rpn is not None:
            assert isinstance(network.rpn, RegionProposalNetwork)
            assert isinstance(network.region, RegionBranch)
            proposals = propose(network.rpn, pyramid, sizes)
            if self.flagged_nms:
                instances, candidates = detect(network.region, pyramid, proposals, sizes)
            else:
                instances, candidates = network.region(pyramid, proposals, sizes)
        return Outputs(instances, None if network.semantic is None else network.semantic(pyramid), candidates)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep away from users what exporters tell each other's developers."""
    loggers = [logging.getLogger(name) for name in ("onnx_ir", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            ignore_deprecation()
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def trace(graph: ExportedGraph, batch: int, channels: int, dtype: torch.dtype) -> ExportedProgram:
    """Record what the graph does, for pictures and maps of any size.

    Args:
        graph: In inference mode.
        batch: Pictures that the graph takes at once.
        channels: Of a picture.
        dtype: Of its values.
    """
    # Sizes that differ and are no multiples of anything, so that nothing is taken for equal.
    images = torch.zeros((batch, 100, 150, channels), dtype=dtype)
    canvas = torch.zeros((90, 141), dtype=torch.uint8)
    height, width = Dim("height", min=LEAST_SIDE), Dim("width", min=LEAST_SIDE)
    dynamic = {IMAGES: {1: height, 2: width}, CANVAS: {0: Dim("map_height"), 1: Dim("map_width")}}
    with torch.no_grad(), quiet():
        return torch.export.export(graph, (images, canvas), dynamic_shapes=dynamic, strict=False)


def check_sides(size: Size, picture: str) -> None:
    """Make sure that a picture is not too small for the graph in a file for torch.

    Raises:
        InputError: It is.
    """
    if min(size) < LEAST_SIDE:
        raise InputError(
            f"{picture}: has {size[1]} x {size[0]} pixels (width x height) for the network; the graph in a .pt2 file "
            f"takes {LEAST_SIDE} and more on each side, so compare it with larger ones"
        )


def _pad(images: Shaped[Tensor, "B C H W"]) -> Shaped[Tensor, "B C _ _"]:
    """Repeat the last row and column up to a multiple of 32; the network takes no notice of what stands there."""
    for dim in (2, 3):
        length = images.shape[dim]
        # Written so that exporters see that the result is a multiple of 32.
        padded = SIZE_DIVISOR * ((length + SIZE_DIVISOR - 1) // SIZE_DIVISOR)
        images = images.index_select(dim, torch.arange(padded, device=images.device).clamp(max=length - 1))
    return images


def propose(rpn: RegionProposalNetwork, pyramid: Pyramid, sizes: Int64[Tensor, "B 2"]) -> Proposals:
    """What the network proposes, its best anchors of each level being picked here, as many from every level.

    A level with too few is filled up with anchors that are never chosen, so that all that follows has a fixed size,
    whatever the size of the picture.
    """
    predictions = rpn.predict(pyramid)
    counts, limit = list(predictions.counts), rpn.candidates_per_level[1]
    tables = zip(
        predictions.anchors.split(counts),
        predictions.logits.split(counts, dim=1),
        predictions.deltas.split(counts, dim=1),
        counts,
        strict=True,
    )
    levels = [_best_anchors(*table, limit) for table in tables]
    found = []
    for row in range(predictions.logits.shape[0]):
        anchors, logits, deltas = (torch.cat([part[row] for part in parts]) for parts in zip(*levels, strict=True))
        best = AnchorPredictions(anchors, logits[None], deltas[None], (limit,) * len(levels))
        found.append(rpn.select(best, sizes[row : row + 1]))
    boxes, logits, valid = (
        torch.cat(parts) for parts in zip(*((f.boxes, f.logits, f.valid) for f in found), strict=True)
    )
    return Proposals(boxes, logits, valid)


def _best_anchors(anchors: Tensor, logits: Tensor, deltas: Tensor, count: int, limit: int) -> tuple[Tensor, ...]:
    """The best anchors of one level for each picture, with logits and deltas; logits of those that fill up are -inf."""
    best, order = F.pad(logits, (0, limit), value=-torch.inf).topk(limit, dim=1)
    order = order.clamp(max=count - 1)
    return anchors[order], best, deltas.gather(1, order[..., None].expand(-1, -1, 4))


def detect(
    region: RegionBranch, pyramid: Pyramid, proposals: Proposals, sizes: Int64[Tensor, "B 2"]
) -> tuple[Instances, Instances | None]:
    """What ``RegionBranch.forward`` returns, with ``suppress`` in the place of ``multiclass_nms``."""
    boxes, scores = region.score(pyramid, proposals, sizes)
    if region.min_size > 0:
        large = ((boxes[..., 2:] - boxes[..., :2]) >= region.min_size).all(dim=3)
        scores = torch.where(large, scores, torch.zeros_like(scores))
    detections = region.with_masks(pyramid, _select(boxes, scores, region.detection_rule, region.num_detections))
    if region.candidate_rule is None:
        return detections, None
    candidates = _select(boxes, scores, region.candidate_rule, region.num_detections)
    return detections, region.with_masks(pyramid, candidates)


def _select(boxes: Tensor, scores: Tensor, rule: Suppression, count: int) -> Instances:
    columns = zip(*(_select_one(b, s, rule, count) for b, s in zip(boxes, scores, strict=True)), strict=True)
    best_boxes, best_scores, labels, valid = (torch.stack(column) for column in columns)
    return Instances(best_boxes, best_scores, labels, None, valid)


def _select_one(
    boxes: Float32[Tensor, "K _ 4"], scores: Float32[Tensor, "K T"], rule: Suppression, count: int
) -> Sequence[Tensor]:
    num_boxes, num_classes = scores.shape
    boxes = boxes.expand(-1, num_classes, -1)
    # Classes are rows; where they suppress each other, there is one row.
    if rule.class_agnostic:
        kept = suppress(boxes.reshape(1, -1, 4), scores.reshape(1, -1), rule.score_threshold, rule.iou_threshold)
        kept = kept.view(num_boxes, num_classes)
    else:
        kept = suppress(boxes.transpose(0, 1), scores.T, rule.score_threshold, rule.iou_threshold).T
    usable = torch.where(kept & (scores > rule.score_threshold), scores, -1).flatten()
    usable = torch.cat([usable, usable.new_full((count,), -1)])
    best, place = usable.topk(count)
    valid = best >= 0
    place = torch.where(valid, place, 0)
    chosen = boxes.reshape(-1, 4).index_select(0, place)
    return chosen * valid[:, None], best * valid, place % num_classes, valid


@torch.library.custom_op("thingstuff::suppress", mutates_args=())
def suppress(boxes: Tensor, scores: Tensor, score_threshold: float, iou_threshold: float) -> Tensor:
    """Which boxes of each row survive non-maximum suppression in that row.

    Args:
        boxes: ``(rows, n, 4)``.
        scores: ``(rows, n)``.
        score_threshold: What does not exceed it does not take part.
        iou_threshold: Largest overlap of two survivors.

    Returns:
        A flag for each box, ``(rows, n)``.
    """
    kept: Bool[Tensor, "rows n"] = torch.zeros_like(scores, dtype=torch.bool)
    for row in range(boxes.shape[0]):
        places = (scores[row] > score_threshold).nonzero()[:, 0]
        survivors = nms(boxes[row, places].double(), scores[row, places].double(), iou_threshold)
        kept[row, places[survivors]] = True
    return kept


@suppress.register_fake
def _(boxes: Tensor, scores: Tensor, score_threshold: float, iou_threshold: float) -> Tensor:
    del boxes, score_threshold, iou_threshold
    return torch.zeros_like(scores, dtype=torch.bool)
