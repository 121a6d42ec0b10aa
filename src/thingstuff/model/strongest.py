"""The strongest channel of every pixel at full size, without bringing all channels to full size.

Bilinear values lie between those of the four cells around them. So a channel that is nowhere in a tile as strong as
another is everywhere in it cannot be the strongest there, and need not be interpolated: of some hundred classes a
handful is left in most tiles of a real picture.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from thingstuff.model.interpolation import STRIDE, surround, upsample, upsample_all
from thingstuff.structures import Size

_TILE = 8
"""Cells on the side of a tile; a power of two."""
_TILES_AT_ONCE = 128
"""Their pixels of one channel fit into a processor's cache."""
_CHANNELS_AT_ONCE = 4
_ROUNDING = 1e-5
"""Relative margin, far above the rounding of an interpolated value."""


class Strongest(NamedTuple):
    """What is strongest where.

    Attributes:
        values: The highest logit of every pixel; -inf where there is no channel.
        channels: The first channel that has it; as whole float32 numbers.
        bounds: For each tile a number that the values in it do not fall below, but for rounding.
    """

    values: Float32[Tensor, "H W"]
    channels: Float32[Tensor, "H W"]
    bounds: Float32[Tensor, "tiles_down tiles_across"]


def pad_to_tiles(logits: Float32[Tensor, "channels h w"]) -> Float32[Tensor, "channels rows columns"]:
    """Repeat the outermost cells so that whole tiles cover the picture; tiles share the cells at their borders."""
    bottom, right = (1 + -(side + 1) % _TILE for side in logits.shape[1:])
    return surround(logits, bottom, right)


def touched_tiles(top: int, left: int, bottom: int, right: int) -> tuple[slice, slice]:
    """The tiles that a rectangle of pixels touches; its end is exclusive, and it is not empty."""
    side = _TILE * STRIDE
    return slice((top + 2) // side, (bottom + 1) // side + 1), slice((left + 2) // side, (right + 1) // side + 1)


def strongest(
    cells: Float32[Tensor, "channels rows columns"],
    size: Size,
    relevant: Float32[Tensor, "tiles_down tiles_across"] | None = None,
) -> Strongest:
    """Find the strongest channel of every pixel; what is done depends on the values.

    Args:
        cells: Logits at stride 4 with their border (see ``pad_to_tiles``).
        size: Of the picture: four times that of the logits.
        relevant: For each tile, a value below which it does not matter which channel is strongest: there, values are
            only sure not to be too high.
    """
    num_channels, num_rows, num_columns = cells.shape
    down, across = (num_rows - 1) // _TILE, (num_columns - 1) // _TILE
    if num_channels == 0:
        nothing = cells.new_full(size, -torch.inf)
        return Strongest(nothing, torch.zeros_like(nothing), cells.new_full((down, across), -torch.inf))
    low, high = (_of_tiles(cells, pick) for pick in (torch.minimum, torch.maximum))
    bounds = low.amax(dim=0)
    margin = _ROUNDING * torch.maximum(low.abs().amax(), high.abs().amax())
    ruled_out = (high + margin < (bounds if relevant is None else bounds.maximum(relevant))).flatten(1)
    counts, order = (~ruled_out).sum(dim=0).sort(descending=True)
    # Channels that are left come first, in their order; those after them cannot win, so looking at some is harmless.
    channels = ruled_out.to(torch.uint8).argsort(dim=0, stable=True)[:, order]
    corners = (order // across * num_columns + order % across) * _TILE
    steps = torch.arange(_TILE + 1, device=cells.device)
    offsets = (steps[:, None] * num_columns + steps)[..., None, None]
    values, winners = [], []
    blocks = (tensor.split(_TILES_AT_ONCE, dim=-1) for tensor in (channels, corners))
    for channel, corner, most in zip(*blocks, counts[::_TILES_AT_ONCE].tolist(), strict=True):
        channel = channel[: max(most, 1)]
        places = offsets + channel * (num_rows * num_columns) + corner
        pieces = cells.flatten().index_select(0, places.flatten()).view(places.shape)
        value, winner = _strongest_of_pieces(pieces, channel)
        values.append(value)
        winners.append(winner)
    back = order.argsort()
    value_plane, channel_plane = (
        _assemble(torch.cat(pixels, dim=2), back, down, across)[2 : 2 + size[0], 2 : 2 + size[1]]
        for pixels in (values, winners)
    )
    return Strongest(value_plane, channel_plane, bounds)


def strongest_in_graph(cells: Float32[Tensor, "channels rows columns"], size: Size) -> tuple[Tensor, Tensor]:
    """Values and channels as ``strongest`` finds them, by steps that do not depend on the values."""
    values = cells.new_full(size, -torch.inf)
    channels = torch.zeros_like(values)
    for first in range(0, cells.shape[0], _CHANNELS_AT_ONCE):
        value, channel = upsample_all(cells[first : first + _CHANNELS_AT_ONCE], size).max(dim=0)
        channels = torch.where(value > values, (channel + first).float(), channels)
        values = torch.maximum(values, value)
    return values, channels


def _of_tiles(cells: Tensor, pick: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Highest or lowest cell of each tile, borders included: ``(channels, down, across)``."""

    def of_rows(values: Tensor) -> Tensor:
        picked = values[:, :-1].unflatten(1, (-1, _TILE))
        while picked.shape[2] > 1:
            picked = pick(*picked.chunk(2, dim=2))
        return pick(picked[:, :, 0], values[:, _TILE::_TILE])

    return of_rows(of_rows(cells).mT.contiguous()).mT


def _strongest_of_pieces(
    pieces: Float32[Tensor, "side side K tiles"], channels: Int64[Tensor, "K tiles"]
) -> tuple[Tensor, Tensor]:
    """Highest value and its channel among K channels of some tiles: ``(pixels, pixels, tiles)`` each.

    Channels of a tile rise, so the latest to be strictly better has the highest number: a product and a maximum find
    it, much faster than ``torch.where``, which branches at every pixel.
    """
    numbers = channels.float()
    values = upsample(pieces[:, :, 0], 0)
    winners = numbers[0].expand_as(values).contiguous()
    better = torch.empty_like(values)
    for candidate, number in zip(pieces.unbind(dim=2)[1:], numbers[1:], strict=True):
        value = upsample(candidate, 0)
        torch.gt(value, values, out=better)
        torch.maximum(winners, better.mul_(number), out=winners)
        torch.maximum(values, value, out=values)
    return values, winners


def _assemble(
    pixels: Float32[Tensor, "side side tiles"], back: Int64[Tensor, " tiles"], down: int, across: int
) -> Float32[Tensor, "rows columns"]:
    """Put tiles, after sorting them back, side by side."""
    side = pixels.shape[0]
    tiles = pixels.flatten(0, 1).T.contiguous().index_select(0, back)
    return tiles.view(down, across, side, side).transpose(1, 2).reshape(down * side, across * side)
