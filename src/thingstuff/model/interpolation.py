"""Resizing by elementwise arithmetic: a pixel gets the same bits from a window, a batch or the whole plane.

The last bit of ``F.interpolate`` depends on the shape it is given and on the processor, so an argmax found piece by
piece could differ from that of the whole wherever two channels nearly tie. Here a value between two neighbours is
``low + (high - low) * weight``, rounded after each step, everywhere.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int64, Shaped
from torch import Tensor

from thingstuff.structures import Size

STRIDE = 4
"""Pixels of the picture for each cell of the semantic logits, in each direction."""


class Samples(NamedTuple):
    """Pixels along one side of a box, in terms of its mask's rows (or columns).

    Attributes:
        low: The row before each pixel.
        high: The row after it.
        weight: How far it is on the way, 0 to 1.
    """

    low: Int64[Tensor, "n P"]
    high: Int64[Tensor, "n P"]
    weight: Float32[Tensor, "n P"]


def surround(
    logits: Float[Tensor, "channels h w"], bottom: int = 1, right: int = 1
) -> Float[Tensor, "channels rows columns"]:
    """Repeat the outermost cells, so that every pixel of the picture lies between cells.

    Args:
        logits: At stride 4.
        bottom: Rows to add there; above it is one.
        right: Columns to add there; on the left it is one.
    """
    return F.pad(logits[None], (1, right, 1, bottom), mode="replicate")[0]


def upsample(cells: Float[Tensor, "*shape"], row_dim: int) -> Float[Tensor, "*larger"]:
    """Values at the four by four pixels between every four neighbouring cells, bilinear, ``align_corners=False``.

    Of cells with a border (see ``surround``) the first pixel is ``(-2, -2)`` of the picture; without one it is
    ``(2, 2)``, counted from the first cell's corner.

    Args:
        cells: The columns are the dimension after the rows; any dimensions may stand around them.
        row_dim: Which dimension the rows are, from 0.

    Returns:
        Both dimensions with four pixels for each pair of neighbours.
    """
    return _between(_between(cells, row_dim + 1), row_dim)


def upsample_window(
    cells: Float[Tensor, "rows columns"], top: int, left: int, bottom: int, right: int
) -> Float[Tensor, "h w"]:
    """One window of the picture.

    Args:
        cells: With a border (see ``surround``).
        top: First row of the window in the picture.
        left: First column.
        bottom: End of its rows, exclusive.
        right: End of its columns, exclusive.
    """
    first_row, first_column = (top + 2) // STRIDE, (left + 2) // STRIDE
    needed = cells[first_row : (bottom + 1) // STRIDE + 2, first_column : (right + 1) // STRIDE + 2]
    y, x = top + 2 - first_row * STRIDE, left + 2 - first_column * STRIDE
    return upsample(needed, 0)[y : y + bottom - top, x : x + right - left]


def upsample_all(cells: Float[Tensor, "channels rows columns"], size: Size) -> Float[Tensor, "channels H W"]:
    """Whole planes of ``size``, from cells with a border."""
    return upsample(cells, 1)[:, 2 : 2 + size[0], 2 : 2 + size[1]]


def sample(first: Int64[Tensor, " n"], last: Int64[Tensor, " n"], side: int, pixels: Int64[Tensor, "#n P"]) -> Samples:
    """Where pixels fall in rows (or columns) of masks resized to their boxes: bilinear, half-pixel, no antialiasing.

    Args:
        first: First pixel of each box.
        last: Its last pixel; a box of less than a pixel counts as one.
        side: Rows of a mask.
        pixels: Pixels to look at; what lies outside of a box has no meaning.
    """
    twice = 2 * (last - first + 1).clamp(min=1)[:, None]
    # The position is a fraction over `twice`; whole numbers keep it exact.
    position = ((2 * (pixels - first[:, None]) + 1) * side - twice // 2).clamp(min=0)
    low = (position // twice).clamp(max=side - 1)
    return Samples(low, (low + 1).clamp(max=side - 1), (position - low * twice) / twice)


def resize_masks(masks: Float[Tensor, "n M M"], rows: Samples, columns: Samples) -> Float[Tensor, "n h w"]:
    """Masks resized to their boxes, as seen at the sampled pixels."""
    return _take(_take(masks.mT, columns).mT, rows)


def nearest(plane: Shaped[Tensor, "h w"], size: Size) -> Shaped[Tensor, "H W"]:
    """Resize a label map: each pixel gets the label at its centre (``nearest-exact`` in torch, also Pillow's rule)."""
    for dim, length in enumerate(size):
        if plane.shape[dim] != length:
            pixels = torch.arange(length, device=plane.device)
            plane = plane.index_select(dim, (2 * pixels + 1) * plane.shape[dim] // (2 * length))
    return plane


def _between(values: Tensor, dim: int) -> Tensor:
    low, high = values.narrow(dim, 0, values.shape[dim] - 1), values.narrow(dim, 1, values.shape[dim] - 1)
    # Counted, not a constant: exporters lose constants in the bodies of loops.
    weight = (torch.arange(STRIDE, dtype=values.dtype, device=values.device) + 0.5) / STRIDE
    weight = weight.view(STRIDE, *[1] * (values.ndim - dim - 1))
    return _lerp(low.unsqueeze(dim + 1), high.unsqueeze(dim + 1), weight).flatten(dim, dim + 1)


def _take(values: Tensor, samples: Samples) -> Tensor:
    """Sample the middle dimension of ``(n, M, K)``: ``(n, P, K)``."""
    count, side, rest = values.shape
    table = values.reshape(count * side, rest)
    origin = torch.arange(0, count * side, side, device=values.device)[:, None] if count > 1 else 0
    low, high = (
        table.index_select(0, (index + origin).flatten()).view(*index.shape, rest)
        for index in (samples.low, samples.high)
    )
    return _lerp(low, high, samples.weight[..., None])


def _lerp(low: Tensor, high: Tensor, weight: Tensor) -> Tensor:
    return ((high - low) * weight).add_(low)
