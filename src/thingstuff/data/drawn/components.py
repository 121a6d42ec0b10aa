"""Connected parts of a mask."""

from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Int64

from thingstuff.data.drawn.polygons import Placed


def connected_parts(mask: Bool[np.ndarray, "h w"]) -> list[Placed]:
    """The parts of a mask that do not touch each other, neither by a side nor by a corner.

    Returns:
        Each part cropped to its box, with row and column of its first pixel; in the order of their first pixels, line
        by line.
    """
    height, width = mask.shape
    # Everything is done on runs of pixels in a row. A gap of two after every row keeps runs of two rows apart.
    padded = np.zeros((height, width + 2), dtype=np.int8)
    padded[:, 1:-1] = mask
    steps = np.diff(padded.ravel(), prepend=0)
    starts, ends = np.flatnonzero(steps == 1), np.flatnonzero(steps == -1)
    roots = _join(len(starts), *_touching(starts, ends, width + 2))
    rows, columns = np.divmod(starts, width + 2)
    columns -= 1
    order = np.argsort(roots, kind="stable")
    bounds = np.flatnonzero(np.diff(roots[order], prepend=-1, append=-1))
    parts = []
    for begin, end in pairwise(bounds.tolist()):
        runs = order[begin:end]
        top, left = int(rows[runs].min()), int(columns[runs].min())
        right = int((columns[runs] + ends[runs] - starts[runs]).max())
        part = np.zeros((int(rows[runs].max()) + 1 - top, right - left), dtype=bool)
        for run in runs.tolist():
            column = columns[run] - left
            part[rows[run] - top, column : column + ends[run] - starts[run]] = True
        parts.append((part, (top, left)))
    return parts


def _touching(
    starts: Int64[np.ndarray, " n"], ends: Int64[np.ndarray, " n"], stride: int
) -> tuple[Int64[np.ndarray, " m"], Int64[np.ndarray, " m"]]:
    """Pairs of runs in neighbouring rows that touch, the upper one first."""
    first = np.searchsorted(ends, starts + stride, side="left")
    last = np.searchsorted(starts, ends + stride, side="right")
    counts = np.maximum(last - first, 0)
    upper = np.repeat(np.arange(len(starts)), counts)
    return upper, np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + first[upper]


def _join(count: int, one: Int64[np.ndarray, " m"], other: Int64[np.ndarray, " m"]) -> Int64[np.ndarray, " n"]:
    """The lowest member of everybody's set, after the sets of every pair are united."""
    lowest = np.arange(count)
    while True:
        # Every pair pulls its two current representatives to the lower of them; then everybody follows to the end.
        a, b = lowest[one], lowest[other]
        if np.array_equal(a, b):
            return lowest
        np.minimum.at(lowest, np.maximum(a, b), np.minimum(a, b))
        while not np.array_equal(followed := lowest[lowest], lowest):
            lowest = followed
