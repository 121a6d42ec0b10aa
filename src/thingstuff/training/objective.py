"""What is minimised: pictures and truth in, losses out.

The terms themselves are in ``pixel_terms.py`` and ``region_terms.py``; here is what they are computed from, and how
they become averages.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
import torch.distributed
from jaxtyping import Float32
from torch import Tensor, nn

from thingstuff.model.panoptic import PanopticSegmenter
from thingstuff.model.region import RegionBranch
from thingstuff.model.rpn import RegionProposalNetwork
from thingstuff.recipe import Recipe
from thingstuff.structures import Batch, Pyramid, Semantic, Targets
from thingstuff.training import pixel_terms, region_terms, targets
from thingstuff.training.losses import Term
from thingstuff.training.region_terms import RegionSample


@dataclass(frozen=True, slots=True)
class Losses:
    """Terms of the loss, each weighted and averaged; None where the network or the recipe has no such term.

    Attributes:
        semantic: Classes of pixels.
        roi_semantic: Classes of pixels inside the boxes of objects (UPSNet).
        objectness: Anchors: object or not.
        proposal: Anchors: where.
        classification: Regions: which class.
        box: Regions: where.
        mask: Regions: which pixels.
        panoptic: Segments of pixels, behind the panoptic head (UPSNet).
    """

    semantic: Float32[Tensor, ""] | None = None
    roi_semantic: Float32[Tensor, ""] | None = None
    objectness: Float32[Tensor, ""] | None = None
    proposal: Float32[Tensor, ""] | None = None
    classification: Float32[Tensor, ""] | None = None
    box: Float32[Tensor, ""] | None = None
    mask: Float32[Tensor, ""] | None = None
    panoptic: Float32[Tensor, ""] | None = None

    def terms(self) -> dict[str, Tensor]:
        """The terms that there are, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def total(self) -> Float32[Tensor, ""]:
        """What is minimised."""
        return torch.stack(list(self.terms().values())).sum()


class Objective(nn.Module):
    """Computes the losses of a batch. This is what distributed training wraps.

    It calls the heads of the network itself, because learning needs more than predictions: the head's word on every
    anchor, on sampled regions, and the masks of true classes.

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
        merged = recipe.model.semantic is not None and recipe.model.semantic.things == "merged"
        self.things_channel = num_stuff if merged else None
        fusion = recipe.model.fusion
        # Share of the objects that the panoptic head is shown; None where it has no loss.
        self.kept_fraction = None
        if fusion is not None and fusion.kind == "panoptic_logits" and recipe.loss.panoptic_weight > 0:
            self.kept_fraction = fusion.kept_fraction

    def forward(self, batch: Batch) -> Losses:
        """Compute the losses.

        Args:
            batch: With targets and seeds.
        """
        assert batch.targets is not None
        network, truth = self.network, batch.targets
        pyramid = network.neck(network.backbone(network.normalize(batch.images, batch.sizes)))
        terms: dict[str, Term] = {}
        semantic = None
        if network.semantic is not None:
            semantic = network.semantic(pyramid)
            terms |= self._pixels(semantic, truth)
        if isinstance(network.rpn, RegionProposalNetwork) and isinstance(network.region, RegionBranch):
            assert self.region is not None
            generators = [torch.Generator().manual_seed(seed) for seed in batch.seeds]
            anchors = network.rpn.predict(pyramid)
            terms |= region_terms.anchor_terms(anchors, truth, generators, self.region.rpn, self.loss.rpn_beta)
            proposals = network.rpn.select(anchors, batch.sizes)
            samples = region_terms.sample_regions(proposals, truth, generators, self.region)
            terms |= region_terms.region_terms(network.region, pyramid, samples, truth, self.loss.box_beta)
            if network.region.mask_head is not None:
                terms |= self._masks(network.region, pyramid, semantic, samples, truth, generators)
        return self._average(terms)

    def _pixels(self, semantic: Semantic, truth: Sequence[Targets]) -> dict[str, Term]:
        """Terms of the semantic branch alone."""
        terms = {"semantic": pixel_terms.semantic_term(semantic.logits, truth, self.loss, self.things_channel)}
        if self.loss.roi_semantic_weight > 0:
            terms["roi_semantic"] = pixel_terms.roi_semantic_term(semantic.logits, truth, self.things_channel)
        return terms

    def _masks(
        self,
        branch: RegionBranch,
        pyramid: Pyramid,
        semantic: Semantic | None,
        samples: Sequence[RegionSample],
        truth: Sequence[Targets],
        generators: Sequence[torch.Generator],
    ) -> dict[str, Term]:
        """Terms that need masks: of sampled regions, and of the objects that the panoptic head is shown.

        The mask head sees all these boxes in one call: that takes less time, and batch norm in it sees one batch.
        """
        shown = [sample.objects[:0] for sample in samples]
        if self.kept_fraction is not None:
            shown = [
                targets.choose_shown(target, self.kept_fraction, generator)
                for target, generator in zip(truth, generators, strict=True)
            ]
        boxes, labels = [], []
        for sample, rows, target in zip(samples, shown, truth, strict=True):
            boxes.append(torch.cat([sample.foreground, target.boxes[rows]]))
            labels.append(target.labels[torch.cat([sample.objects, rows])])
        logits = region_terms.mask_logits(branch, pyramid, boxes, labels)
        of_samples, of_shown = [], []
        for picture, sample in zip(logits, samples, strict=True):
            of_samples.append(picture[: len(sample.objects)])
            of_shown.append(picture[len(sample.objects) :])
        terms = {"mask": region_terms.mask_term(of_samples, samples, truth)}
        if self.kept_fraction is not None:
            assert semantic is not None
            terms["panoptic"] = pixel_terms.panoptic_term(
                semantic.logits,
                of_shown,
                shown,
                truth,
                num_stuff=self.num_stuff,
                unknown=self.kept_fraction < 1,
            )
        return terms

    def _average(self, terms: dict[str, Term]) -> Losses:
        """Divide each term by its normaliser and weight it."""
        normalizers = torch.stack([term.normalizer for term in terms.values()])
        if self.training:
            normalizers = _mean_over_processes(normalizers)
        weights = torch.tensor([self._weight(name) for name in terms], device=normalizers.device)
        # Nothing to count is no reason to divide by 0. (Over processes a mean count may lie between 0 and 1.)
        normalizers = torch.where(normalizers > 0, normalizers, 1)
        averages = torch.stack([term.total for term in terms.values()]) / normalizers * weights
        return Losses(**dict(zip(terms, averages.unbind(), strict=True)))

    def _weight(self, name: str) -> float:
        match name:
            case "semantic":
                return self.loss.semantic_weight
            case "roi_semantic":
                return self.loss.roi_semantic_weight
            case "panoptic":
                return self.loss.panoptic_weight
            case "classification" | "box" | "mask":
                return self.loss.instance_weight
            case _:
                return 1.0


def _mean_over_processes(counts: Tensor) -> Tensor:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(counts)
        return counts / torch.distributed.get_world_size()
    return counts
