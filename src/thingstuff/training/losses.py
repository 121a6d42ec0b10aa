"""One pure function for each term of the loss. Each returns a *sum*; the objective divides by the stated normaliser.

Sums and normalisers are kept apart so that the normalisers can be taken over all processes: then several processes
give the loss that one process would give for all their pictures.
"""

from typing import NamedTuple

import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor


class Term(NamedTuple):
    """One term of the loss before it is averaged.

    Attributes:
        total: Sum over all that counts, in this process.
        normalizer: What the sum is divided by; 0 where there is nothing to count.
    """

    total: Float32[Tensor, ""]
    normalizer: Float32[Tensor, ""]


def objectness_loss(logits: Float[Tensor, " n"], positive: Bool[Tensor, " n"]) -> Float32[Tensor, ""]:
    """Binary cross-entropy of sampled anchors.

    Normaliser: the configured number of samples times the pictures, even where fewer were found.
    Source: Ren et al., Faster R-CNN, equation 1; Detectron2's normaliser.
    """
    return F.binary_cross_entropy_with_logits(logits.float(), positive.float(), reduction="sum")


def box_loss(predicted: Float[Tensor, "n 4"], wanted: Float32[Tensor, "n 4"], beta: float) -> Float32[Tensor, ""]:
    """Smooth L1 between box deltas; plain L1 where ``beta`` is 0.

    Normaliser: for anchors as in ``objectness_loss``; for regions the number of sampled regions, background included.
    Source: Girshick, Fast R-CNN, equation 3; Detectron2 for beta 0 and the normalisers.
    """
    if beta == 0:
        return (predicted.float() - wanted).abs().sum()
    return F.smooth_l1_loss(predicted.float(), wanted, beta=beta, reduction="sum")


def class_loss(logits: Float[Tensor, "n classes"], classes: Int64[Tensor, " n"]) -> Float32[Tensor, ""]:
    """Cross-entropy of sampled regions; the last class is background.

    Normaliser: the number of sampled regions. Source: Girshick, Fast R-CNN.
    """
    return F.cross_entropy(logits.float(), classes, reduction="sum")


def mask_loss(logits: Float[Tensor, "n M M"], wanted: Float32[Tensor, "n M M"]) -> Float32[Tensor, ""]:
    """Binary cross-entropy of the true class's mask, on regions that stand for an object.

    Normaliser: the number of such regions times M x M. Source: He et al., Mask R-CNN.
    """
    return F.binary_cross_entropy_with_logits(logits.float(), wanted, reduction="sum")


def semantic_loss(
    logits: Float[Tensor, "B classes H W"], labels: Int64[Tensor, "B H W"], void: int
) -> Float32[Tensor, ""]:
    """Cross-entropy of every labelled pixel.

    Normaliser: the number of labelled pixels. Source: Kirillov et al., Panoptic Feature Pyramid Networks, section 3.
    """
    return F.cross_entropy(logits.float(), labels, ignore_index=void, reduction="sum")


def roi_semantic_loss(
    logits: Float[Tensor, "R classes M M"], labels: Int64[Tensor, "R M M"], void: int
) -> Float32[Tensor, ""]:
    """Cross-entropy of the pixels inside the boxes of objects: each object counts alike, however small it is.

    Normaliser: the number of objects times M x M, void included. Source: Xiong et al., UPSNet, CVPR 2019;
    its published implementation for the normaliser.
    """
    return semantic_loss(logits, labels, void)


def panoptic_loss(
    logits: Float[Tensor, "channels h w"], labels: Int64[Tensor, "h w"], void: int
) -> Float32[Tensor, ""]:
    """Cross-entropy over stuff classes, instances and the unknown of one picture, which has its own channels.

    Normaliser: all pixels of the padded maps, void and padding included. Source: Xiong et al., UPSNet, CVPR 2019; its
    published implementation for the normaliser.
    """
    return semantic_loss(logits[None], labels[None], void)
