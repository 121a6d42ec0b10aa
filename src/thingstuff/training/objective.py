"""What is minimised: pictures and truth in, losses out."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
import torch.distributed
import torch.nn.functional as F
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor, nn

from thingstuff.model import boxes as box_ops
from thingstuff.model.panoptic import PanopticSegmenter
from thingstuff.model.region import RegionBranch
from thingstuff.model.rpn import BOX_WEIGHTS, AnchorPredictions, RegionProposalNetwork
from thingstuff.recipe import Recipe
from thingstuff.structures import VOID_LABEL, Batch, Proposals, Pyramid, Semantic, Targets
from thingstuff.training import losses, targets


@dataclass(frozen=True, slots=True)
class Losses:
    """Terms of the loss, each weighted and averaged; None where the network has no such branch.

    Attributes:
        semantic: Classes of pixels.
        objectness: Anchors: object or not.
        proposal: Anchors: where.
        classification: Regions: which class.
        box: Regions: where.
        mask: Regions: which pixels.
    """

    semantic: Float32[Tensor, ""] | None = None
    objectness: Float32[Tensor, ""] | None = None
    proposal: Float32[Tensor, ""] | None = None
    classification: Float32[Tensor, ""] | None = None
    box: Float32[Tensor, ""] | None = None
    mask: Float32[Tensor, ""] | None = None

    def terms(self) -> dict[str, Tensor]:
        """The terms that the network has, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def total(self) -> Float32[Tensor, ""]:
        """What is minimised."""
        return torch.stack(list(self.terms().values())).sum()


class Objective(nn.Module):
    """Computes the losses of a batch. This is what distributed training wraps.

    It calls the heads of the network itself, because learning needs more than predictions: the head's word on every
    anchor, on sampled regions, and the masks of all classes.

    Normalisers are averaged over all processes, so that N processes with B pictures each minimise what one process
    with N x B pictures does. (Detectron2 normalises within each process.) In evaluation mode each process counts alone.

    Args:
        network: What learns.
        recipe: Weights and forms of the losses, matching and sampling.
        num_stuff: Stuff classes, which come first in label maps.
    """

    def __init__(self, network: PanopticSegmenter, recipe: Recipe, num_stuff: int) -> None:
        super().__init__()
        self.network = network
        self.num_stuff = num_stuff
        self.loss = recipe.loss
        self.region = recipe.model.region
        self.things_merged = recipe.model.semantic is not None and recipe.model.semantic.things == "merged"

    def forward(self, batch: Batch) -> Losses:
        """Compute the losses.

        Args:
            batch: With targets and seeds.
        """
        assert batch.targets is not None
        network = self.network
        pyramid = network.neck(network.backbone(network.normalize(batch.images, batch.sizes)))
        sums: dict[str, Tensor] = {}
        counts: dict[str, Tensor] = {}
        if network.semantic is not None:
            sums["semantic"], counts["semantic"] = self._semantic(network.semantic(pyramid), batch)
        if isinstance(network.rpn, RegionProposalNetwork) and isinstance(network.region, RegionBranch):
            generators = [torch.Generator().manual_seed(seed) for seed in batch.seeds]
            anchors = network.rpn.predict(pyramid)
            self._proposals(anchors, batch.targets, generators, sums, counts)
            proposals = network.rpn.select(anchors, batch.sizes)
            self._regions(network.region, pyramid, proposals, batch.targets, generators, sums, counts)
        names = list(sums)
        normalizers = torch.stack([counts[name] for name in names])
        if self.training:
            normalizers = _mean_over_processes(normalizers)
        weights = torch.tensor([self._weight(name) for name in names], device=normalizers.device)
        # Nothing to count is no reason to divide by 0. (Over processes a mean count may lie between 0 and 1.)
        normalizers = torch.where(normalizers > 0, normalizers, 1)
        averages = torch.stack([sums[name] for name in names]) / normalizers * weights
        return Losses(**dict(zip(names, averages.unbind(), strict=True)))

    def _weight(self, name: str) -> float:
        if name == "semantic":
            return self.loss.semantic_weight
        return self.loss.instance_weight if name in ("classification", "box", "mask") else 1.0

    # --- pixels ---

    def _semantic(self, semantic: Semantic, batch: Batch) -> tuple[Tensor, Tensor]:
        logits = semantic.logits
        assert batch.targets is not None
        labels = _pad_label_maps([target.label_map for target in batch.targets], batch.images.shape[-2:]).long()
        if self.things_merged:
            labels = torch.where((labels >= self.num_stuff) & (labels != VOID_LABEL), self.num_stuff, labels)
        if self.loss.semantic_size == "full":
            logits = F.interpolate(logits, scale_factor=4, mode="bilinear", align_corners=False)
        else:
            labels = labels[:, 2::4, 2::4].contiguous()
        counted = labels != VOID_LABEL if self.loss.semantic_mean == "labelled" else torch.ones_like(labels)
        return losses.semantic_loss(logits, labels, VOID_LABEL), counted.sum().float()

    # --- anchors ---

    def _proposals(
        self,
        predictions: AnchorPredictions,
        truth: Sequence[Targets],
        generators: Sequence[torch.Generator],
        sums: dict[str, Tensor],
        counts: dict[str, Tensor],
    ) -> None:
        assert self.region is not None
        config = self.region.rpn
        logits, positive, deltas, wanted = [], [], [], []
        for row, (target, generator) in enumerate(zip(truth, generators, strict=True)):
            objects = target.boxes[~target.crowd]
            matches = targets.match_boxes(
                predictions.anchors,
                objects,
                negative_iou=config.negative_iou,
                positive_iou=config.positive_iou,
                low_quality=True,
            )
            chosen, others = targets.sample(matches, config.samples, config.positive_fraction, generator)
            logits += [predictions.logits[row, chosen], predictions.logits[row, others]]
            positive += [torch.ones_like(chosen, dtype=torch.bool), torch.zeros_like(others, dtype=torch.bool)]
            deltas.append(predictions.deltas[row, chosen])
            wanted.append(box_ops.encode(objects[matches.nearest[chosen]], predictions.anchors[chosen], BOX_WEIGHTS))
        sums["objectness"] = losses.objectness_loss(torch.cat(logits), torch.cat(positive))
        sums["proposal"] = losses.box_loss(torch.cat(deltas), torch.cat(wanted), self.loss.rpn_beta)
        counts["objectness"] = counts["proposal"] = predictions.anchors.new_tensor(float(config.samples * len(truth)))

    # --- regions ---

    def _regions(
        self,
        branch: RegionBranch,
        pyramid: Pyramid,
        proposals: Proposals,
        truth: Sequence[Targets],
        generators: Sequence[torch.Generator],
        sums: dict[str, Tensor],
        counts: dict[str, Tensor],
    ) -> None:
        samples = [
            self._sample_regions(proposals.boxes[row][proposals.valid[row]], target, generator)
            for row, (target, generator) in enumerate(zip(truth, generators, strict=True))
        ]
        class_logits, deltas = branch.classify(pyramid, [sample.boxes for sample in samples])
        classes = torch.cat([sample.classes for sample in samples])
        background = class_logits.shape[1] - 1
        classes = torch.where(classes < 0, background, classes)
        sums["classification"] = losses.class_loss(class_logits, classes)

        foreground = (classes != background).nonzero()[:, 0]
        boxes, matched = (
            torch.cat([getattr(sample, name) for sample in samples])[foreground] for name in ("boxes", "matched")
        )
        own = classes[foreground] if deltas.shape[1] > 1 else torch.zeros_like(foreground)
        wanted = box_ops.encode(matched, boxes, branch.box_weights)
        sums["box"] = losses.box_loss(deltas[foreground, own], wanted, self.loss.box_beta)
        counts["classification"] = counts["box"] = boxes.new_tensor(float(len(classes)))
        if branch.mask_head is not None:
            self._masks(branch, pyramid, samples, truth, sums, counts)

    def _masks(
        self,
        branch: RegionBranch,
        pyramid: Pyramid,
        samples: Sequence["_RegionSample"],
        truth: Sequence[Targets],
        sums: dict[str, Tensor],
        counts: dict[str, Tensor],
    ) -> None:
        regions = [sample.boxes[sample.classes >= 0] for sample in samples]
        logits = branch.masks(pyramid, regions)
        classes = torch.cat([sample.classes[sample.classes >= 0] for sample in samples])
        size = logits.shape[-1]
        wanted = torch.cat(
            [
                targets.mask_targets(target, boxes, sample.objects[sample.classes >= 0], size)
                for target, boxes, sample in zip(truth, regions, samples, strict=True)
            ]
        )
        own = logits[torch.arange(len(classes), device=logits.device), classes]
        sums["mask"] = losses.mask_loss(own, wanted)
        counts["mask"] = wanted.new_tensor(float(wanted.numel()))

    @torch.no_grad()
    def _sample_regions(
        self, proposals: Float32[Tensor, "n 4"], target: Targets, generator: torch.Generator
    ) -> "_RegionSample":
        """Choose regions of one picture among its proposals and its true boxes, objects first."""
        assert self.region is not None
        config = self.region
        usable = (~target.crowd).nonzero()[:, 0]
        objects = target.boxes[usable]
        candidates = torch.cat([proposals, objects])
        matches = targets.match_boxes(
            candidates,
            objects,
            negative_iou=config.positive_iou,
            positive_iou=config.positive_iou,
            low_quality=False,
        )
        chosen, others = targets.sample(matches, config.samples, config.positive_fraction, generator)
        nearest = usable[matches.nearest[chosen]]
        return _RegionSample(
            boxes=candidates[torch.cat([chosen, others])],
            classes=torch.cat([target.labels[nearest], torch.full_like(others, -1)]),
            objects=torch.cat([nearest, torch.full_like(others, -1)]),
            matched=torch.cat([target.boxes[nearest], candidates[others]]),
        )


@dataclass(frozen=True, slots=True)
class _RegionSample:
    """Regions of one picture that the losses see.

    Attributes:
        boxes: In the padded frame.
        classes: Thing index; -1 for background.
        objects: Row of the picture's targets; -1 for background.
        matched: Box of that object; the region itself for background.
    """

    boxes: Float32[Tensor, "n 4"]
    classes: Int64[Tensor, " n"]
    objects: Int64[Tensor, " n"]
    matched: Float32[Tensor, "n 4"]


def _pad_label_maps(maps: Sequence[UInt8[Tensor, "_ _"]], size: Sequence[int]) -> UInt8[Tensor, "B H W"]:
    """Put label maps of different sizes on one canvas; what they do not cover is void."""
    canvas = maps[0].new_full((len(maps), size[0], size[1]), VOID_LABEL)
    for row, label_map in enumerate(maps):
        canvas[row, : label_map.shape[0], : label_map.shape[1]] = label_map
    return canvas


def _mean_over_processes(counts: Tensor) -> Tensor:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(counts)
        return counts / torch.distributed.get_world_size()
    return counts
