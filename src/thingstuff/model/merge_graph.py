"""The heuristic merge by steps of fixed sizes, for compiled and exported graphs.

``fusion.merge_by_score`` works inside of boxes and asks the values what to do next. Here an instance has a whole plane,
one at a time in a loop that ends with the last that may enter the map, and what is not wanted is masked out. A mask
comes to the picture by two products with matrices, one for each direction, because that is what every runtime does
fast. Both forms give the same map.
"""

from typing import NamedTuple, assert_never

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Int32, Int64, Shaped, UInt8
from torch import Tensor

from thingstuff.model import boxes as box_ops
from thingstuff.model.tabulate import with_table
from thingstuff.structures import MaskPaste, Outputs, PanopticMaps, Size

_CHANNELS_AT_ONCE = 8
"""Semantic channels brought to full size together; bounds the memory of the argmax."""
Placed = tuple[Int64[Tensor, ""], Int32[Tensor, "H W"], Int32[Tensor, " D"], Bool[Tensor, " D"]]
"""Instances seen so far, owner of each pixel, visible pixels of each instance, which have a place."""


class MaskFactors(NamedTuple):
    """Masks on whole planes, as products of matrices.

    Attributes:
        down: How much each row of a mask counts in each row of the picture.
        masks: Probabilities.
        across: The same as ``down`` for columns.
    """

    down: Float32[Tensor, "n H M"]
    masks: Float32[Tensor, "n M M"]
    across: Float32[Tensor, "n W M"]


def merge_in_graph(
    outputs: Outputs,
    row: int,
    size: Size,
    output_size: Size,
    *,
    num_stuff: int,
    score_threshold: float,
    overlap_threshold: float,
    stuff_area: int,
    mask_paste: MaskPaste,
) -> PanopticMaps:
    """What ``fusion.merge_by_score`` finds, by steps that do not depend on the values; arguments are the same.

    Returns:
        The map; its table has a row for each instance and stuff class, with the valid ones first.
    """
    found = outputs.instances if outputs.candidates is None else outputs.candidates
    device = (found.boxes if found else outputs.semantic.logits).device  # pyright: ignore
    owners = torch.zeros(output_size, dtype=torch.int32, device=device)
    labels = torch.zeros(0, dtype=torch.int64, device=device)
    scores, areas, kept = labels.float(), labels, labels.bool()
    if found is not None and found.mask_logits is not None and found.boxes.shape[1]:
        boxes = rescale_in_graph(found.boxes[row], size, output_size)
        scores = found.scores[row]
        usable = found.valid[row] & (scores >= score_threshold) & (box_ops.area(boxes) > 0)
        order = falling_order(scores.masked_fill(~usable, -1))
        columns = boxes, found.labels[row], scores, found.mask_logits[row], usable
        boxes, labels, scores, mask_logits, usable = (column.index_select(0, order) for column in columns)
        factors = mask_factors(mask_logits.sigmoid(), boxes, output_size, mask_paste)
        owners, areas, kept = _place(factors, usable, overlap_threshold, output_size)
    count = labels.shape[0]
    # Rows of the table by what a pixel shows: instances, stuff classes, nothing.
    shown = torch.full_like(owners, num_stuff)
    stuff_areas = torch.zeros(num_stuff + 1, dtype=torch.int64, device=device)
    if outputs.semantic is not None:
        seen = semantic_labels_in_graph(outputs.semantic.logits[row], size, output_size).int().clamp(max=num_stuff)
        shown = torch.where(owners == count, seen, num_stuff)
        pixels = shown.flatten().long()
        stuff_areas = stuff_areas.scatter_add(0, pixels, torch.ones_like(pixels))
    stuff_areas = stuff_areas[:num_stuff]
    valid = torch.cat([kept, (stuff_areas > 0) & (stuff_areas >= stuff_area)])
    new_ids = torch.cat([valid.cumsum(0) * valid, valid.new_zeros(1, dtype=torch.int64)]).int()
    ids = new_ids.index_select(0, torch.where(owners == count, shown + count, owners).flatten()).view(owners.shape)
    return with_table(ids, labels, scores, torch.cat([areas, stuff_areas]), valid)


def semantic_labels_in_graph(
    logits: Float[Tensor, "classes h w"], size: Size, output_size: Size
) -> UInt8[Tensor, "H W"]:
    """What ``fusion.semantic_labels`` finds; resizing to the same size changes nothing, so it always happens.

    Args:
        logits: At stride 4 of the padded picture.
        size: Size of the picture before padding.
        output_size: Size of the wanted map.
    """
    best = torch.full(output_size, -torch.inf, device=logits.device)
    labels = torch.zeros(output_size, dtype=torch.uint8, device=logits.device)
    for first, channels in enumerate(logits.float()[None].split(_CHANNELS_AT_ONCE, dim=1)):
        full = F.interpolate(channels, scale_factor=4, mode="bilinear", align_corners=False)
        full = _crop(full, size)
        full = F.interpolate(full, size=output_size, mode="bilinear", align_corners=False)
        values, channel = full[0].max(dim=0)
        better = values > best
        best = torch.where(better, values, best)
        labels = torch.where(better, (channel + first * _CHANNELS_AT_ONCE).to(torch.uint8), labels)
    return labels


def nearest_in_graph(plane: Shaped[Tensor, "h w"], size: Size, output_size: Size) -> Shaped[Tensor, "H W"]:
    """What ``interpolation.nearest`` makes of the part of a padded plane that has ``size``, also where nothing changes.

    Whether sizes are equal may not be asked of sizes that are known only when the graph runs.
    """
    for dim, (side, length) in enumerate(zip(size, output_size, strict=True)):
        pixels = torch.arange(length, device=plane.device)
        plane = plane.index_select(dim, (2 * pixels + 1) * side // (2 * length))
    return plane


def rescale_in_graph(boxes: Float[Tensor, "*n 4"], size: Size, output_size: Size) -> Float[Tensor, "*n 4"]:
    """What ``boxes.rescale`` does, for sizes that are known only when the graph runs."""
    sides, output_sides = (
        [torch.full((), side, dtype=torch.float64, device=boxes.device) for side in pair]
        for pair in (size, output_size)
    )
    scale_y, scale_x = ((output / side).float() for output, side in zip(output_sides, sides, strict=True))
    height, width = (side.float() for side in output_sides)
    return box_ops.clip(boxes * torch.stack([scale_x, scale_y, scale_x, scale_y]), height, width)


def _crop(planes: Float[Tensor, "*n h w"], size: Size) -> Float[Tensor, "*n H W"]:
    """The upper left part of planes. A slice would ask whether it is shorter than the plane."""
    rows, columns = (torch.arange(side, device=planes.device) for side in size)
    return planes.index_select(-2, rows).index_select(-1, columns)


def falling_order(scores: Float32[Tensor, " D"]) -> Int64[Tensor, " D"]:
    """Sort by counting, equal scores in their order: ONNX has no stable sort."""
    rows = torch.arange(len(scores), device=scores.device)
    ahead = (scores > scores[:, None]) | ((scores == scores[:, None]) & (rows < rows[:, None]))
    return torch.zeros_like(rows).scatter(0, ahead.sum(dim=1), rows)


def mask_factors(
    probabilities: Float32[Tensor, "n M M"], boxes: Float32[Tensor, "n 4"], size: Size, kind: MaskPaste
) -> MaskFactors:
    """Where masks go on whole planes, by the rules in ``pasting.py``.

    Args:
        probabilities: Each mask inside its box.
        boxes: In pixels of the picture.
        size: Size of the picture.
        kind: Which rule.
    """
    match kind:
        case "pixel_centers":
            return _factors(probabilities, *_at_pixel_centers(boxes, probabilities.shape[1], size))
        case "whole_pixels":
            return _paste_whole_pixels(probabilities, boxes, size)
        case "inclusive_pixels":
            return _paste_whole_pixels(probabilities, box_ops.inclusive(boxes), size)
        case _:
            assert_never(kind)


def paste_in_graph(factors: MaskFactors) -> Bool[Tensor, "n H W"]:
    """Bring masks to whole planes: bilinear values, 0 outside of the masks; true from one half."""
    return torch.bmm(torch.bmm(factors.down, factors.masks), factors.across.mT) >= 0.5


def _place(
    factors: MaskFactors, usable: Bool[Tensor, " D"], overlap_threshold: float, size: Size
) -> tuple[Int32[Tensor, "H W"], Int64[Tensor, " D"], Bool[Tensor, " D"]]:
    """Give pixels to instances, the best first, those that are not usable last.

    Returns:
        Owner of each pixel (D for none), pixels of each instance, which have a place.
    """
    count, device = usable.shape[0], usable.device
    num_usable = usable.sum()
    start: Placed = (
        torch.zeros((), dtype=torch.int64, device=device),
        torch.full(size, count, dtype=torch.int32, device=device),
        torch.zeros(count, dtype=torch.int32, device=device),
        torch.zeros(count, dtype=torch.bool, device=device),
    )
    _, owners, areas, kept = torch.while_loop(
        lambda row, *_: row < num_usable, lambda *placed: _place_next(factors, overlap_threshold, *placed), start
    )
    return owners, areas.long(), kept


def _place_next(
    factors: MaskFactors,
    overlap_threshold: float,
    row: Int64[Tensor, ""],
    owners: Int32[Tensor, "H W"],
    areas: Int32[Tensor, " D"],
    kept: Bool[Tensor, " D"],
) -> Placed:
    count = areas.shape[0]
    (mask,) = paste_in_graph(MaskFactors(*(factor.index_select(0, row[None]) for factor in factors)))
    visible = mask & (owners == count)
    total, area = (pixels.sum(dtype=torch.int32) for pixels in (mask, visible))
    keep = total - area <= _most_hidden(total, overlap_threshold)
    this = (torch.arange(count, device=row.device) == row) & keep
    return row + 1, torch.where(visible & keep, row.int(), owners), torch.where(this, area, areas), kept | this


def _most_hidden(area: Int32[Tensor, ""], threshold: float) -> Int32[Tensor, ""]:
    """The most hidden pixels whose share of the area does not exceed the threshold; -1 for a mask without area."""
    most = (area.double() * threshold).floor()
    # The product may be rounded to either side of a whole number.
    most = torch.where((most + 1) / area <= threshold, most + 1, torch.where(most / area <= threshold, most, most - 1))
    return torch.where(area > 0, most, -1).int()


def _at_pixel_centers(
    boxes: Float32[Tensor, "n 4"], side: int, size: Size
) -> tuple[Float32[Tensor, "n H"], Float32[Tensor, "n W"]]:
    """Where pixels fall in the rows and columns of masks of ``side``; outside of them is nothing."""

    def along(start: Tensor, end: Tensor, length: int) -> Tensor:
        pixels = torch.arange(length, dtype=torch.float32, device=boxes.device) + 0.5
        relative = (pixels - start[:, None]) / (end - start)[:, None] * 2 - 1
        return ((relative + 1) * side - 1) / 2

    x1, y1, x2, y2 = boxes.unbind(dim=1)
    return along(y1, y2, size[0]), along(x1, x2, size[1])


def _paste_whole_pixels(
    probabilities: Float32[Tensor, "n M M"], boxes: Float32[Tensor, "n 4"], size: Size
) -> MaskFactors:
    padded = F.pad(probabilities, (1, 1, 1, 1))
    side = padded.shape[1]
    center, half = (boxes[:, :2] + boxes[:, 2:]) * 0.5, (boxes[:, 2:] - boxes[:, :2]) * 0.5
    half = half * (side / probabilities.shape[1])
    starts, ends = (center - half).long(), (center + half).long()

    def along(axis: int, length: int) -> Tensor:
        pixels = torch.arange(length, device=boxes.device) - starts[:, axis, None]
        scale = side / (ends - starts + 1)[:, axis, None].clamp(min=1).float()
        # Beyond its ends the mask has the value of its border, which is 0.
        return ((pixels + 0.5) * scale - 0.5).clamp(min=0, max=side - 1)

    return _factors(padded, along(1, size[0]), along(0, size[1]))


def _factors(
    masks: Float32[Tensor, "n M M"], rows: Float32[Tensor, "n H"], columns: Float32[Tensor, "n W"]
) -> MaskFactors:
    """Where rows and columns of the picture fall in the masks, as weights."""
    down, across = (_weights(positions, masks.shape[1]) for positions in (rows, columns))
    return MaskFactors(down, masks, across)


def _weights(positions: Float32[Tensor, "n P"], side: int) -> Float32[Tensor, "n P M"]:
    """How much each row of a mask counts at each position: 1 on it, falling to 0 at its neighbours."""
    return (1 - (positions[:, :, None] - torch.arange(side, device=positions.device)).abs()).clamp(min=0)
