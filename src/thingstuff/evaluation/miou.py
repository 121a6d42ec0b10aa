"""Mean intersection over union of semantic segmentation, from a confusion matrix.

Matrices of pictures, batches and processes are added; the mean is taken once, at the end.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, UInt8

from thingstuff.errors import InputError
from thingstuff.structures import VOID_LABEL

_LABELS = 256
"""Values of an 8-bit label map."""


@dataclass(frozen=True, slots=True)
class MeanIou:
    """Intersection over union, as fractions.

    Attributes:
        miou: Mean over the classes that occur in the truth; None where none does.
        per_class: In class order; None for a class that does not occur in the truth.
    """

    miou: float | None
    per_class: tuple[float | None, ...]


def confusion_matrix(
    truth: UInt8[np.ndarray, "H W"], prediction: UInt8[np.ndarray, "_ _"], num_classes: int, *, picture: str = "picture"
) -> Int64[np.ndarray, "{num_classes} {num_classes}+1"]:
    """Count the pixels of each true class that were given each predicted class.

    Args:
        truth: Class index of every pixel. Pixels with 255 (void) are not counted.
        prediction: Class index of every pixel, of the same size. 255 (nothing predicted) is wrong wherever truth is not
            void.
        num_classes: At most 255.
        picture: What to call the picture in messages.

    Returns:
        Pixels by true class (rows) and predicted class (columns); the last column is void in the prediction.

    Raises:
        InputError: The sizes differ, or a label is neither a class index nor 255.
    """
    if truth.shape != prediction.shape:
        true_size, predicted_size = (" x ".join(map(str, labels.shape)) for labels in (truth, prediction))
        raise InputError(
            f"{picture}: the predicted label map is {predicted_size} pixels (height x width), the true one "
            f"{true_size}; predict at the size of the truth"
        )
    joint = np.bincount((truth.astype(np.uint16) << 8 | prediction).ravel(), minlength=_LABELS * _LABELS)
    joint = joint.reshape(_LABELS, _LABELS)
    for name, pixels in (("true", joint.sum(1)), ("predicted", joint.sum(0))):
        unknown = num_classes + np.flatnonzero(pixels[num_classes:VOID_LABEL])
        if unknown.size:
            raise InputError(
                f"{picture}: the {name} label map holds {unknown[0]}; "
                f"write class indices 0 to {num_classes - 1}, or {VOID_LABEL} for void"
            )
    return np.hstack([joint[:num_classes, :num_classes], joint[:num_classes, VOID_LABEL:]])


def mean_iou(confusion: Int64[np.ndarray, "n n+1"]) -> MeanIou:
    """Average the intersection over union of the classes.

    Classes absent from the truth are left out, also where they were predicted: those pixels already count against the
    classes they truly have.

    Args:
        confusion: Sum of ``confusion_matrix`` over the pictures.

    Source: the semantic segmentation evaluator of Detectron2 averages over the same classes.
    """
    correct = np.diagonal(confusion)
    truth = confusion.sum(1)
    union = truth + confusion[:, :-1].sum(0) - correct
    per_class = tuple(
        hit / total if present else None
        for hit, total, present in zip(correct.tolist(), union.tolist(), truth.tolist(), strict=True)
    )
    present = [iou for iou in per_class if iou is not None]
    return MeanIou(float(np.mean(present)) if present else None, per_class)
