"""How sure a difference between two models is: the paired bootstrap.

Data sets of as many pictures are drawn from the pictures again and again, with replacement, and both models are scored
on each. Scores depend on sums over pictures alone, so drawing is multiplying counts by how often a picture was drawn.

Source: Efron 1979, "Bootstrap Methods: Another Look at the Jackknife", The Annals of Statistics 7(1).
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from thingstuff.labels import Category

_VALUES = 1_000_000
"""Pictures times resamples that are drawn at once."""


def bootstrap_differences(
    first: Float[np.ndarray, "pictures classes 4"],
    second: Float[np.ndarray, "pictures classes 4"],
    categories: Sequence[Category],
    resamples: int,
    seed: int,
) -> Float[np.ndarray, "groups 3 resamples"]:
    """Differences of PQ, SQ and RQ on data sets drawn anew.

    Args:
        first: IoU, tp, fp and fn of each picture and class, of the first model.
        second: The same of the second model.
        categories: The classes.
        resamples: How many data sets to draw.
        seed: Of the draws.

    Returns:
        Second minus first, of all classes, of things, of stuff and of every class; nan where undefined.
    """
    rng = np.random.default_rng(seed)
    pictures = len(first)
    draws = np.full((3 + len(categories), 3, resamples), np.nan)
    # Classes that never occur would only be multiplied.
    seen = np.flatnonzero((first[..., 1:].sum((0, 2)) > 0) | (second[..., 1:].sum((0, 2)) > 0))
    columns = [np.ascontiguousarray(counts[:, seen]).reshape(pictures, 4 * len(seen)) for counts in (first, second)]
    isthing = np.array([categories[row].isthing for row in seen.tolist()], dtype=bool)
    step = max(1, _VALUES // max(pictures, 1))
    for start in range(0, resamples if pictures and seen.size else 0, step):
        number = min(step, resamples - start)
        drawn = rng.integers(pictures, size=(number, pictures)) + pictures * np.arange(number)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=number * pictures).reshape(number, pictures)
        qualities = [_qualities_of((weights.astype(np.float32) @ own).reshape(number, len(seen), 4)) for own in columns]
        span = slice(start, start + number)
        for row, members in enumerate((np.ones_like(isthing), isthing, ~isthing)):
            draws[row, :, span] = _mean(qualities[1], members) - _mean(qualities[0], members)
        draws[3 + seen, :, span] = (qualities[1] - qualities[0]).transpose(1, 2, 0)
    return draws


def _qualities_of(counts: Float[np.ndarray, "n classes 4"]) -> Float[np.ndarray, "n classes 3"]:
    """PQ, SQ and RQ from IoU, tp, fp and fn; nan where nothing was counted."""
    iou, tp, fp, fn = np.moveaxis(counts.astype(np.float64), -1, 0)
    segments = tp + fp / 2 + fn / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        sq = np.where(tp > 0, iou / tp, np.where(segments > 0, 0, np.nan))
        return np.stack([iou / segments, sq, tp / segments], axis=-1)


def _mean(qualities: Float[np.ndarray, "n classes 3"], members: np.ndarray) -> Float[np.ndarray, "3 n"]:
    """Means over the classes that were counted; nan without any."""
    own = qualities[:, members]
    counted = ~np.isnan(own)
    with np.errstate(invalid="ignore"):
        return (np.where(counted, own, 0).sum(1) / counted.sum(1)).T
