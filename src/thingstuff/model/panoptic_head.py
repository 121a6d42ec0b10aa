"""What is beneath UPSNet's panoptic head: evidence for each instance, and the winner of each pixel.

The channels are the stuff classes, the instances in order of score, and the unknown class. ``label_pixels`` finds the
argmax over them without ever holding more than a few planes, and works only inside of boxes; ``label_pixels_in_graph``
takes the same steps on whole planes, in a loop over the instances, for exported graphs. Both give the same map.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float32, Int32, Int64
from torch import Tensor

from thingstuff.model.interpolation import (
    STRIDE,
    Samples,
    resize_masks,
    sample,
    surround,
    upsample_all,
    upsample_window,
)
from thingstuff.model.merge_graph import falling_order
from thingstuff.model.strongest import pad_to_tiles, strongest, strongest_in_graph, touched_tiles
from thingstuff.structures import Size


class Ranked(NamedTuple):
    """Instances that may enter the map, best first, in the padded frame.

    Attributes:
        boxes: ``xyxy``, inclusive: the last two are the last pixel, not where it ends.
        labels: Thing index.
        scores: Probability.
        mask_logits: The mask inside the box.
        usable: False in rows that stay out.
    """

    boxes: Float32[Tensor, "D 4"]
    labels: Int64[Tensor, " D"]
    scores: Float32[Tensor, " D"]
    mask_logits: Float32[Tensor, "D M M"]
    usable: Bool[Tensor, " D"]


_Seen = tuple[
    Int64[Tensor, ""],
    Bool[Tensor, "H W"],
    Float32[Tensor, "H W"],
    Float32[Tensor, "H W"],
    Float32[Tensor, "H W"],
]
"""Of the instances that the graph form has seen: how many they are, where those of the last one's class are, the
strongest of all and its row, the highest semantic evidence."""


class LabelledPixels(NamedTuple):
    """Which channel wins each pixel, in the padded frame.

    Attributes:
        winners: Stuff class, then ``num_stuff`` plus position in ``rows``, then unknown.
        semantic: Class index that the semantic branch alone sees.
        rows: Rows of the instances that have a channel.
    """

    winners: Int32[Tensor, "H W"]
    semantic: Int32[Tensor, "H W"]
    rows: Int64[Tensor, " n"]


class _Pixels(NamedTuple):
    """What is strongest among the channels of one kind; the first of several. Numbers are whole."""

    values: Float32[Tensor, "H W"]
    numbers: Float32[Tensor, "H W"]


def semantic_corners(boxes: Float[Tensor, "n 4"]) -> Int64[Tensor, "n 4"]:
    """First and last pixel where an instance has semantic evidence: cut off, and rounded half to even."""
    return torch.cat([boxes[:, :2].long(), boxes[:, 2:].round().long()], dim=1)


def mask_corners(boxes: Float[Tensor, "n 4"]) -> Int64[Tensor, "n 4"]:
    """First and last pixel of an instance's mask: both cut off."""
    return boxes.long()


def semantic_evidence(planes: Float[Tensor, "n H W"], boxes: Float[Tensor, "n 4"]) -> Float[Tensor, "n H W"]:
    """The logits of each instance's class inside its box, 0 outside (UPSNet's X_mask).

    Args:
        planes: Logits of each instance's class.
        boxes: ``xyxy``, inclusive, in pixels of the planes.
    """
    inside = _inside(semantic_corners(boxes), (planes.shape[1], planes.shape[2]))
    return torch.where(inside, planes, torch.zeros((), device=planes.device))


def mask_evidence(
    mask_logits: Float[Tensor, "n M M"], boxes: Float[Tensor, "n 4"], size: Size
) -> Float[Tensor, "n H W"]:
    """The mask logits of each instance resized to its box, 0 outside (UPSNet's Y_mask).

    Args:
        mask_logits: The mask inside the box.
        boxes: ``xyxy``, inclusive, in pixels of the result.
        size: Of the result.
    """
    corners = mask_corners(boxes)
    columns, rows = (
        sample(
            corners[:, axis], corners[:, axis + 2], mask_logits.shape[1], torch.arange(side, device=boxes.device)[None]
        )
        for axis, side in enumerate(reversed(size))
    )
    planes = resize_masks(mask_logits, rows, columns)
    return torch.where(_inside(corners, size), planes, torch.zeros((), device=planes.device))


def label_pixels(
    logits: Float32[Tensor, "classes h w"], ranked: Ranked, num_stuff: int, overlap_threshold: float, unknown: bool
) -> LabelledPixels:
    """Prune masks and find the strongest channel of every pixel, box by box and tile by tile.

    Args:
        logits: At stride 4 of the padded picture.
        ranked: Instances; all of them usable.
        num_stuff: Stuff classes, which are the first semantic channels.
        overlap_threshold: An instance stays out if better ones of its class hide more than this share of it.
        unknown: Whether there is an unknown class.
    """
    size = logits.shape[1] * STRIDE, logits.shape[2] * STRIDE
    cells = pad_to_tiles(logits)
    instances, evidence, rows, (top, left, bottom, right) = _label_instances(
        cells[num_stuff:], ranked, size, overlap_threshold
    )
    stuff = strongest(cells[:num_stuff], size)
    # Where stuff beats every thing class, things matter only inside of all boxes: elsewhere an instance has evidence
    # of 0, so that unknown is no stronger than the things.
    relevant = stuff.bounds.clone()
    if top < bottom and left < right:
        relevant[touched_tiles(top, left, bottom, right)] = -torch.inf
    things = strongest(cells[num_stuff:], size, relevant)
    winners, semantic = _compare(
        _Pixels(stuff.values, stuff.channels),
        _Pixels(things.values, things.channels),
        instances,
        evidence,
        num_stuff,
        num_stuff + len(rows) if unknown else None,
    )
    return LabelledPixels(winners, semantic, torch.tensor(rows, dtype=torch.int64, device=logits.device))


def label_pixels_in_graph(
    logits: Float32[Tensor, "classes h w"], ranked: Ranked, num_stuff: int, overlap_threshold: float, unknown: bool
) -> LabelledPixels:
    """What ``label_pixels`` finds, by steps that do not depend on the values; every row has a channel.

    Args:
        logits: At stride 4 of the padded picture.
        ranked: Instances; rows that are not usable or pruned win no pixel.
        num_stuff: Stuff classes, which are the first semantic channels.
        overlap_threshold: An instance stays out if better ones of its class hide more than this share of it.
        unknown: Whether there is an unknown class.
    """
    size = logits.shape[1] * STRIDE, logits.shape[2] * STRIDE
    cells = surround(logits)
    things = cells[num_stuff:]
    count = ranked.usable.shape[0]
    seen: _Seen = (
        torch.zeros((), dtype=torch.int64, device=logits.device),
        torch.zeros(size, dtype=torch.bool, device=logits.device),
        logits.new_full(size, -torch.inf),
        logits.new_full(size, count),
        logits.new_full(size, -torch.inf),
    )
    if count:
        # Class by class, so that one plane is enough to tell what better ones of a class hide.
        order = falling_order((-ranked.labels.float()).masked_fill(~ranked.usable, -torch.inf))
        num_usable = ranked.usable.sum()
        seen = torch.while_loop(
            lambda turn, *_: turn < num_usable,
            lambda *seen: _see_next(things, ranked, order, overlap_threshold, *seen),
            seen,
        )
    _, _, values, numbers, evidence = seen
    # Without any instance there is none with evidence.
    evidence = evidence.masked_fill(evidence == -torch.inf, 0)
    winners, semantic = _compare(
        _Pixels(*strongest_in_graph(cells[:num_stuff], size)),
        _Pixels(*strongest_in_graph(things, size)),
        _Pixels(values, numbers),
        evidence,
        num_stuff,
        num_stuff + count if unknown else None,
    )
    return LabelledPixels(winners, semantic, torch.arange(count, device=logits.device))


def _inside(corners: Int64[Tensor, "n 4"], size: Size) -> Bool[Tensor, "n H W"]:
    rows, columns = (torch.arange(side, device=corners.device) for side in size)
    x1, y1, x2, y2 = corners[..., None].unbind(dim=1)
    return ((rows >= y1) & (rows <= y2))[:, :, None] & ((columns >= x1) & (columns <= x2))[:, None, :]


def _label_instances(
    cells: Float32[Tensor, "things rows columns"], ranked: Ranked, size: Size, overlap_threshold: float
) -> tuple[_Pixels, Float32[Tensor, "H W"], list[int], tuple[int, int, int, int]]:
    """Prune masks and find the strongest instance of every pixel.

    Returns:
        The strongest instance (-inf without any), the highest semantic evidence of all instances (0 without any),
        the rows of those that were kept, and what lies inside of all of them: top, left, bottom, right.
    """
    height, width = size
    values = cells.new_full(size, -torch.inf)
    evidence = values.clone()
    numbers, first_outside = torch.zeros_like(values), torch.zeros_like(values)
    canvases: dict[int, Tensor] = {}
    kept: list[int] = []
    common = (0, 0, height, width)
    corners = mask_corners(ranked.boxes)
    sides = torch.cat([corners, semantic_corners(ranked.boxes)[:, 2:]], dim=1).tolist()
    # All samples of all boxes from their first pixel in the map on.
    columns, rows = (
        sample(
            corners[:, axis],
            corners[:, axis + 2],
            ranked.mask_logits.shape[1],
            corners[:, axis : axis + 1].clamp(min=0) + torch.arange(side, device=cells.device),
        )
        for axis, side in enumerate((width, height))
    )
    for row, ((x1, y1, x2, y2, seen_x2, seen_y2), label) in enumerate(zip(sides, ranked.labels.tolist(), strict=True)):
        left, top = max(x1, 0), max(y1, 0)
        right, seen_right = (max(min(x + 1, width), left) for x in (x2, seen_x2))
        bottom, seen_bottom = (max(min(y + 1, height), top) for y in (y2, seen_y2))
        mask = resize_masks(
            ranked.mask_logits[row : row + 1],
            Samples(*(column[row : row + 1, : bottom - top] for column in rows)),
            Samples(*(column[row : row + 1, : right - left] for column in columns)),
        )[0]
        foreground = mask > 0
        area = int(foreground.count_nonzero())
        if label not in canvases:
            canvases[label] = torch.zeros(size, dtype=torch.bool, device=cells.device)
        canvas = canvases[label][top:bottom, left:right]
        if area == 0 or int((foreground & canvas).count_nonzero()) / area > overlap_threshold:
            continue
        canvas |= foreground

        window = slice(top, max(bottom, seen_bottom)), slice(left, max(right, seen_right))
        seen = torch.zeros_like(values[window])
        seen[: seen_bottom - top, : seen_right - left] = upsample_window(
            cells[label], top, left, seen_bottom, seen_right
        )
        total = seen.clone()
        total[: bottom - top, : right - left] += mask
        # Numbers rise, so the maximum of a product does what `torch.where` does, without a branch for each pixel.
        better = torch.gt(total, values[window], out=torch.empty_like(total))
        torch.maximum(numbers[window], better.mul_(len(kept)), out=numbers[window])
        torch.maximum(values[window], total, out=values[window])
        torch.maximum(evidence[window], seen, out=evidence[window])
        first_outside[window] += first_outside[window] == len(kept)
        starts, ends = (max(common[0], top), max(common[1], left)), (window[0].stop, window[1].stop)
        common = *starts, min(common[2], ends[0]), min(common[3], ends[1])
        kept.append(row)
    # Outside of its box an instance has the value 0; of several the first counts, and evidence of 0 counts as well.
    outside = first_outside < len(kept)
    wins = outside & ((values < 0) | ((values == 0) & (first_outside < numbers)))
    values, numbers = values.masked_fill(wins, 0), torch.where(wins, first_outside, numbers)
    evidence = torch.where(outside, evidence.clamp(min=0), evidence) if kept else torch.zeros_like(evidence)
    return _Pixels(values, numbers), evidence, kept, common if kept else (0, 0, 0, 0)


def _see_next(
    cells: Float32[Tensor, "things rows columns"],
    ranked: Ranked,
    order: Int64[Tensor, " D"],
    overlap_threshold: float,
    turn: Int64[Tensor, ""],
    taken: Bool[Tensor, "H W"],
    values: Float32[Tensor, "H W"],
    numbers: Float32[Tensor, "H W"],
    evidence: Float32[Tensor, "H W"],
) -> _Seen:
    size = values.shape[0], values.shape[1]
    before, row = (order.index_select(0, place[None]) for place in ((turn - 1).clamp(min=0), turn))
    last_label, label = (ranked.labels.index_select(0, place) for place in (before, row))
    box = ranked.boxes.index_select(0, row)
    (seen,) = semantic_evidence(upsample_all(cells.index_select(0, label), size), box)
    (mask,) = mask_evidence(ranked.mask_logits.index_select(0, row), box, size)
    foreground, taken = mask > 0, taken & (label == last_label)
    hidden, area = (pixels.sum().double() for pixels in (foreground & taken, foreground))
    # Of a mask without area the share is no number, and no comparison with it holds.
    keep = hidden / area <= overlap_threshold
    total = seen + mask
    better = keep & ((total > values) | ((total == values) & (row < numbers)))
    return (
        turn + 1,
        taken | (foreground & keep),
        torch.where(better, total, values),
        torch.where(better, row.float(), numbers),
        torch.maximum(evidence, seen.masked_fill(~keep, -torch.inf)),
    )


def _compare(
    stuff: _Pixels,
    things: _Pixels,
    instances: _Pixels,
    evidence: Float32[Tensor, "H W"],
    num_stuff: int,
    unknown: int | None,
) -> tuple[Int32[Tensor, "H W"], Int32[Tensor, "H W"]]:
    """The winner among all channels, and the class that the semantic branch alone sees; of equal ones the first."""
    winners = instances.numbers + num_stuff
    if num_stuff:
        winners = torch.where(instances.values > stuff.values, winners, stuff.numbers)
    if unknown is not None:
        known = torch.maximum(instances.values, stuff.values)
        winners = winners.masked_fill(things.values - evidence > known, unknown)
    semantic = torch.where(things.values > stuff.values, things.numbers + num_stuff, stuff.numbers)
    return winners.int(), semantic.int()
