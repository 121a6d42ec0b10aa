"""Non-maximum suppression with results of fixed size, so that the network around it stays one graph.

The only sizes that depend on the data live inside these functions. Exporters assume such a size to be at least 2;
two sentinel boxes far from everything else make that true without changing any result.
"""

import warnings

import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor
from torchvision.ops import nms

_SENTINELS = ((-3e6, -3e6, -3e6 + 1, -3e6 + 1), (-2e6, -2e6, -2e6 + 1, -2e6 + 1))


def keep_mask(boxes: Float32[Tensor, "n 4"], scores: Float32[Tensor, " n"], iou_threshold: float) -> Bool[Tensor, " n"]:
    """Which boxes survive: those that no better survivor overlaps by more than ``iou_threshold``.

    Args:
        boxes: Boxes without area neither suppress nor are suppressed.
        scores: Higher is better; equal scores keep their order.
        iou_threshold: Largest allowed intersection over union.
    """
    sentinels = boxes.new_tensor(_SENTINELS)
    kept = nms(torch.cat([boxes, sentinels]), torch.cat([scores, scores.new_full((2,), -torch.inf)]), iou_threshold)
    mask = torch.zeros(boxes.shape[0] + 2, dtype=torch.bool, device=boxes.device)
    return mask.index_fill(0, kept, True)[: boxes.shape[0]]


def multiclass_nms(
    boxes: Float32[Tensor, "K #T 4"],
    scores: Float[Tensor, "K T"],
    *,
    score_threshold: float,
    iou_threshold: float,
    count: int,
    class_agnostic: bool = False,
) -> tuple[Int64[Tensor, " D"], Int64[Tensor, " D"], Bool[Tensor, " D"]]:
    """The best ``count`` of all (box, class) pairs after suppression within each class.

    Every pair over the threshold takes part, however many there are. Classes are kept apart by moving their boxes away
    from each other, in float64, where the move costs no accuracy.

    Args:
        boxes: One box for each class, or one for all classes.
        scores: Probability of each class.
        score_threshold: Pairs with at most this score are dropped.
        iou_threshold: Largest allowed intersection over union of two results of one class.
        count: Number D of results.
        class_agnostic: Let classes suppress each other.

    Returns:
        Row, class and validity of the results, best first; invalid rows only fill up to ``count``.
    """
    num_classes = scores.shape[1]
    rows, classes = (scores > score_threshold).nonzero(as_tuple=True)
    picked = boxes[rows, classes] if boxes.shape[1] == num_classes else boxes[rows, 0]
    picked = picked.double()
    if not class_agnostic:
        picked = picked + (classes * (boxes.amax() - boxes.amin() + 1).double())[:, None]
    # Sentinels come first, so that index 0 fills up the result.
    picked = torch.cat([picked.new_tensor(_SENTINELS), picked])
    picked_scores = torch.cat([scores.new_full((2,), -torch.inf), scores[rows, classes]])
    kept = nms(picked, picked_scores.double(), iou_threshold)
    kept = torch.cat([kept, kept.new_zeros(count)])[:count]
    valid = picked_scores[kept] > score_threshold
    rows, classes = (torch.cat([index.new_zeros(2), index])[kept] for index in (rows, classes))
    return rows, classes, valid


def ignore_deprecation() -> None:
    """Keep from users what torch says to torchvision (0.29) wherever a compiler or an exporter meets suppression."""
    warnings.filterwarnings("ignore", "`create_unbacked_symint` is deprecated", FutureWarning)
