"""Outlines to pixels.

One rule for every tool: a pixel belongs to a shape where its centre lies inside. Centres exactly on an edge count for
the shape on their right or below, so two outlines that share an edge leave no gap and share no pixel.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64

from thingstuff.errors import InputError
from thingstuff.structures import Size

Placed = tuple[Bool[np.ndarray, "_ _"], tuple[int, int]]
"""A mask, and row and column of its first pixel in the picture."""


def fill_polygons(outlines: Sequence[Float64[np.ndarray, "_ 2"]], size: Size) -> Placed:
    """The pixels inside any of some outlines, cut at the picture's edge.

    Inside one outline is what a ray leaves through an odd number of its edges, so one that crosses itself has a hole.

    Args:
        outlines: Corners as x, y, closed by themselves; pixel ``(x, y)`` covers ``[x, x + 1) x [y, y + 1)``.
        size: Of the picture.

    Returns:
        The mask of the box around them, 0 x 0 at the corner (0, 0) where no pixel's centre is inside.
    """
    filled = [_fill(outline, size) for outline in outlines]
    return unite([placed for placed in filled if placed[0].any()])


def unite(pieces: Sequence[Placed]) -> Placed:
    """Some masks as one, 0 x 0 at the corner (0, 0) where there is none."""
    if not pieces:
        return np.zeros((0, 0), dtype=bool), (0, 0)
    if len(pieces) == 1:
        return pieces[0]
    top, left = (min(corner[axis] for _, corner in pieces) for axis in (0, 1))
    bottom, right = (max(corner[axis] + mask.shape[axis] for mask, corner in pieces) for axis in (0, 1))
    united = np.zeros((bottom - top, right - left), dtype=bool)
    for mask, (row, column) in pieces:
        united[row - top : row - top + mask.shape[0], column - left : column - left + mask.shape[1]] |= mask
    return united, (top, left)


def crop(mask: Bool[np.ndarray, "H W"]) -> Placed:
    """The part of a mask that holds all its pixels, and where it begins; 0 x 0 at (0, 0) where there are none."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return np.zeros((0, 0), dtype=bool), (0, 0)
    top, left = int(rows[0]), int(columns[0])
    return mask[top : rows[-1] + 1, left : columns[-1] + 1], (top, left)


def ellipse(center: tuple[float, float], radii: tuple[float, float], size: Size) -> Placed:
    """The pixels whose centres lie inside an ellipse with axes along the picture's, cut at the picture's edge.

    Args:
        center: x and y.
        radii: Along x and y.
        size: Of the picture.
    """
    (x, y), (across, down) = center, radii
    left, top = max(math.floor(x - across), 0), max(math.floor(y - down), 0)
    right, bottom = min(math.ceil(x + across), size[1]), min(math.ceil(y + down), size[0])
    if right <= left or bottom <= top or across <= 0 or down <= 0:
        return np.zeros((0, 0), dtype=bool), (0, 0)
    columns = (np.arange(left, right) + 0.5 - x) / across
    rows = (np.arange(top, bottom) + 0.5 - y) / down
    return rows[:, None] ** 2 + columns[None, :] ** 2 < 1, (top, left)


def _fill(outline: Float64[np.ndarray, "n 2"], size: Size) -> Placed:
    """One outline by the even-odd rule: crossings of every row of centres with every edge, filled pairwise."""
    xs, ys = outline[:, 0], outline[:, 1]
    left, right = max(math.floor(xs.min()), 0), min(math.ceil(xs.max()), size[1])
    top, bottom = max(math.floor(ys.min()), 0), min(math.ceil(ys.max()), size[0])
    if right <= left or bottom <= top:
        return np.zeros((0, 0), dtype=bool), (0, 0)
    x1, y1, x2, y2 = xs, ys, np.roll(xs, -1), np.roll(ys, -1)
    down = y2 > y1
    upper, lower = np.where(down, y1, y2), np.where(down, y2, y1)
    # An edge crosses the rows whose centres lie in [upper, lower): horizontal ones none, a corner one of its two.
    first = np.maximum(np.ceil(upper - 0.5).astype(np.int64), top)
    last = np.minimum(np.ceil(lower - 0.5).astype(np.int64), bottom)
    edges, rows = _spans(first, last)
    # From the upper end in both directions, so that neighbours with a common edge find the same crossing.
    upper_x, lower_x = np.where(down, x1, x2)[edges], np.where(down, x2, x1)[edges]
    share = (rows + 0.5 - upper[edges]) / (lower[edges] - upper[edges])
    crossings = upper_x + share * (lower_x - upper_x)
    # A crossing turns over every centre right of it, or on it.
    columns = np.clip(np.ceil(crossings - 0.5), left, right).astype(np.int64) - left
    width = right - left
    turns = np.bincount((rows - top) * (width + 1) + columns, minlength=(bottom - top) * (width + 1))
    odd = np.cumsum(turns.reshape(bottom - top, width + 1), axis=1)[:, :width] % 2 == 1
    return odd, (top, left)


def _spans(
    first: Int64[np.ndarray, " n"], last: Int64[np.ndarray, " n"]
) -> tuple[Int64[np.ndarray, " m"], Int64[np.ndarray, " m"]]:
    """All whole numbers from ``first`` to before ``last`` of every entry: whose they are, and the numbers."""
    counts = np.maximum(last - first, 0)
    owners = np.repeat(np.arange(len(counts)), counts)
    offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return owners, first[owners] + offsets


# --- numbers out of files ---


def read_points(points: Any, size: Size, where: str) -> Float64[np.ndarray, "n 2"]:
    """Corners out of a file; a tool's rounding may have put them just outside the picture.

    Args:
        points: What the file has; a list of pairs of numbers is expected.
        size: Of the picture.
        where: File and shape, for messages.

    Raises:
        InputError: It is something else, not finite, or further outside than a pixel or a hundredth of the side.
    """
    try:
        read = np.array(points, dtype=np.float64).reshape(len(points), 2)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{where}: its points are not pairs of numbers; write [[x, y], ...]") from error
    if not np.isfinite(read).all():
        raise InputError(f"{where}: a coordinate is not a finite number; correct or remove the shape")
    height, width = size
    limit = np.array([width, height], dtype=np.float64)
    margin = np.maximum(limit / 100, 1)
    outside = (read < -margin) | (read > limit + margin)
    if outside.any():
        x, y = read[outside.any(axis=1)][0].tolist()
        raise InputError(
            f"{where}: the point ({x:g}, {y:g}) lies outside the picture of {width} x {height} pixels (width x height);"
            " is it drawn on another picture, or at another scale?"
        )
    return read
