"""The terms of the loss that the region branch learns from: anchors, sampled regions and their masks."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from thingstuff.model import boxes as box_ops
from thingstuff.model.region import RegionBranch
from thingstuff.model.rpn import BOX_WEIGHTS, AnchorPredictions
from thingstuff.recipe_model import RegionConfig, RPNConfig
from thingstuff.structures import Proposals, Pyramid, Targets
from thingstuff.training import losses, targets
from thingstuff.training.losses import Term


def anchor_terms(
    predictions: AnchorPredictions,
    truth: Sequence[Targets],
    generators: Sequence[torch.Generator],
    config: RPNConfig,
    beta: float,
) -> dict[str, Term]:
    """Which anchors stand for an object, and where exactly it is.

    Args:
        predictions: For every anchor.
        truth: One for each picture.
        generators: Each picture's own.
        config: Matching and sampling.
        beta: Of the box loss.
    """
    anchors = predictions.anchors
    logits, positive, deltas, wanted = [], [], [], []
    for row, (target, generator) in enumerate(zip(truth, generators, strict=True)):
        objects = target.boxes[~target.crowd]
        labels = target.labels[~target.crowd] if config.balanced else None
        height, width = target.label_map.shape
        matches = targets.match_boxes(
            anchors,
            objects,
            negative_iou=config.negative_iou,
            positive_iou=config.positive_iou,
            low_quality=True,
            usable=targets.inside_picture(anchors, (height, width)) if config.anchors_inside else None,
        )
        chosen, others = targets.sample(matches, config.samples, config.positive_fraction, generator, labels)
        logits += [predictions.logits[row, chosen], predictions.logits[row, others]]
        positive += [torch.ones_like(chosen, dtype=torch.bool), torch.zeros_like(others, dtype=torch.bool)]
        deltas.append(predictions.deltas[row, chosen])
        wanted.append(box_ops.encode(objects[matches.nearest[chosen]], anchors[chosen], BOX_WEIGHTS))
    count = anchors.new_tensor(float(config.samples * len(truth)))
    return {
        "objectness": Term(losses.objectness_loss(torch.cat(logits), torch.cat(positive)), count),
        "proposal": Term(losses.box_loss(torch.cat(deltas), torch.cat(wanted), beta), count),
    }


@dataclass(frozen=True, slots=True)
class RegionSample:
    """Regions of one picture that the losses see.

    Attributes:
        boxes: In the padded frame; first those that stand for an object, then background.
        objects: Row of the picture's targets, for each of the first.
    """

    boxes: Float32[Tensor, "n 4"]
    objects: Int64[Tensor, " p"]

    @property
    def foreground(self) -> Float32[Tensor, "p 4"]:
        """Boxes that stand for an object."""
        return self.boxes[: len(self.objects)]


@torch.no_grad()
def sample_regions(
    proposals: Proposals, truth: Sequence[Targets], generators: Sequence[torch.Generator], config: RegionConfig
) -> list[RegionSample]:
    """Choose regions of each picture among its proposals and its true boxes; crowds are left out.

    Args:
        proposals: Of the batch.
        truth: One for each picture.
        generators: Each picture's own.
        config: Matching and sampling.
    """
    samples = []
    for row, (target, generator) in enumerate(zip(truth, generators, strict=True)):
        usable = (~target.crowd).nonzero()[:, 0]
        objects = target.boxes[usable]
        labels = target.labels[usable] if config.balanced else None
        candidates = torch.cat([proposals.boxes[row][proposals.valid[row]], objects])
        matches = targets.match_boxes(
            candidates,
            objects,
            negative_iou=config.positive_iou,
            positive_iou=config.positive_iou,
            low_quality=False,
        )
        chosen, others = targets.sample(matches, config.samples, config.positive_fraction, generator, labels)
        samples.append(RegionSample(candidates[torch.cat([chosen, others])], usable[matches.nearest[chosen]]))
    return samples


def region_terms(
    branch: RegionBranch, pyramid: Pyramid, samples: Sequence[RegionSample], truth: Sequence[Targets], beta: float
) -> dict[str, Term]:
    """Which class the sampled regions have, and where exactly their objects are.

    Args:
        branch: What learns.
        pyramid: Features of the batch.
        samples: Of each picture.
        truth: One for each picture.
        beta: Of the box loss.
    """
    class_logits, deltas = branch.classify(pyramid, [sample.boxes for sample in samples])
    background = class_logits.shape[1] - 1
    classes = torch.cat(
        [
            F.pad(target.labels[sample.objects], (0, len(sample.boxes) - len(sample.objects)), value=background)
            for sample, target in zip(samples, truth, strict=True)
        ]
    )
    foreground = (classes != background).nonzero()[:, 0]
    own = classes[foreground] if deltas.shape[1] > 1 else torch.zeros_like(foreground)
    boxes = torch.cat([sample.foreground for sample in samples])
    matched = torch.cat([target.boxes[sample.objects] for sample, target in zip(samples, truth, strict=True)])
    wanted = box_ops.encode(matched, boxes, branch.box_weights)
    count = boxes.new_tensor(float(len(classes)))
    return {
        "classification": Term(losses.class_loss(class_logits, classes), count),
        "box": Term(losses.box_loss(deltas[foreground, own], wanted, beta), count),
    }


def mask_logits(
    branch: RegionBranch,
    pyramid: Pyramid,
    boxes: Sequence[Float32[Tensor, "_ 4"]],
    labels: Sequence[Int64[Tensor, " _"]],
) -> list[Float[Tensor, "_ M M"]]:
    """Masks of the given boxes of each picture, each for its own class.

    Args:
        branch: What learns.
        pyramid: Features of the batch.
        boxes: In the padded frame.
        labels: Thing index of each.
    """
    logits = branch.masks(pyramid, boxes)
    classes = torch.cat(list(labels))
    own = logits[torch.arange(len(classes), device=logits.device), classes]
    return list(own.split([len(picture) for picture in labels]))


def mask_term(
    logits: Sequence[Float[Tensor, "_ M M"]], samples: Sequence[RegionSample], truth: Sequence[Targets]
) -> Term:
    """Which pixels of the sampled regions belong to their objects.

    Args:
        logits: Of the regions of each picture that stand for an object.
        samples: Of each picture.
        truth: One for each picture.
    """
    predicted = torch.cat(list(logits))
    wanted = torch.cat(
        [
            targets.mask_targets(target, sample.foreground, sample.objects, predicted.shape[-1])
            for target, sample in zip(truth, samples, strict=True)
        ]
    )
    return Term(losses.mask_loss(predicted, wanted), wanted.new_tensor(float(wanted.numel())))
