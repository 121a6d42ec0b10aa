"""From the winner of each pixel to the panoptic map: class decision, stuff limit, table of segments."""

import torch
from jaxtyping import Bool, Float32, Int32, Int64
from torch import Tensor

from thingstuff.structures import PanopticMaps, Size, StuffFrame, StuffMajority


def smallest_stuff(stuff_area: int, stuff_frame: StuffFrame, size: Size, output_size: Size) -> int:
    """Fewest pixels of the output that stuff must have.

    Args:
        stuff_area: The limit.
        stuff_frame: Whose pixels it counts.
        size: Of the picture before padding, as the network sees it.
        output_size: Of the map.
    """
    if stuff_frame == "output":
        return stuff_area
    seen = size[0] * size[1]
    # Rounded up, in whole numbers: in a graph these are sizes that it does not know yet.
    return (stuff_area * output_size[0] * output_size[1] + seen - 1) // seen


def tabulate(
    winners: Int32[Tensor, "H W"],
    semantic: Int32[Tensor, "H W"],
    labels: Int64[Tensor, " n"],
    scores: Float32[Tensor, " n"],
    *,
    num_stuff: int,
    num_classes: int,
    stuff_area: int,
    stuff_majority: StuffMajority,
) -> PanopticMaps:
    """Decide the class of each instance, drop small stuff, and number what is left.

    An instance that looks like one stuff class in half of its pixels (or more of them) becomes that stuff; in all
    other cases it keeps its class.

    Args:
        winners: Channel of every pixel at the output size: stuff classes, instances, then what stays void.
        semantic: Class index of every pixel there.
        labels: Thing index of each instance.
        scores: Of each instance.
        num_stuff: Stuff classes.
        num_classes: All classes.
        stuff_area: Stuff of fewer pixels stays out.
        stuff_majority: Whether exactly half is enough.

    Returns:
        The map; its table has a row for each instance and stuff class, with the valid ones first.
    """
    count = labels.shape[0]
    pairs = _count(winners * num_classes + semantic, (num_stuff + count + 1) * num_classes).view(-1, num_classes)
    stuff_areas, thing_areas, _ = pairs.sum(dim=1).split([num_stuff, count, 1])
    most, look = pairs[num_stuff : num_stuff + count].max(dim=1)
    majority = 2 * most >= thing_areas if stuff_majority == "half" else 2 * most > thing_areas
    becomes_stuff = (look < num_stuff) & majority & (thing_areas > 0)
    gained = torch.zeros_like(pairs[0]).scatter_add(0, look, thing_areas * becomes_stuff)
    stuff_areas = stuff_areas + gained[:num_stuff]
    thing_areas = thing_areas * ~becomes_stuff

    valid = torch.cat([thing_areas > 0, (stuff_areas > 0) & (stuff_areas >= stuff_area)])
    thing_ids, stuff_ids = (valid.cumsum(0) * valid).split([count, num_stuff])
    # An instance can only become a stuff class; the things of this table are never looked up.
    ids_by_class = torch.cat([stuff_ids, torch.zeros_like(gained[num_stuff:])])
    thing_ids = torch.where(becomes_stuff, ids_by_class.index_select(0, look), thing_ids)
    ids_by_winner = torch.cat([stuff_ids, thing_ids, thing_ids.new_zeros(1)]).int()
    ids = ids_by_winner.index_select(0, winners.flatten()).view(winners.shape)
    return with_table(ids, labels, scores, torch.cat([thing_areas, stuff_areas]), valid)


def with_table(
    ids: Int32[Tensor, "H W"],
    labels: Int64[Tensor, " n"],
    scores: Float32[Tensor, " n"],
    areas: Int64[Tensor, " rows"],
    valid: Bool[Tensor, " rows"],
) -> PanopticMaps:
    """A map with its table, in which the valid rows come first; their ids are 1, 2 and so on, in the order given.

    Args:
        ids: The map.
        labels: Thing index of each instance.
        scores: Of each instance.
        areas: Pixels of each instance, then of each stuff class.
        valid: Which of these rows are segments of the map.
    """
    num_stuff = valid.shape[0] - labels.shape[0]
    # Rows move to their id; the others follow.
    places = torch.where(valid, valid.cumsum(0), valid.sum() + (~valid).cumsum(0)) - 1
    order = torch.zeros_like(places).scatter(0, places, torch.arange(len(valid), device=places.device))
    columns = (
        torch.cat([labels + num_stuff, torch.arange(num_stuff, device=labels.device)]),
        torch.cat([scores, scores.new_ones(num_stuff)]),
        areas * valid,
        valid,
    )
    return PanopticMaps(ids, *(column.index_select(0, order) for column in columns))


def _count(keys: Int32[Tensor, "H W"], length: int) -> Int64[Tensor, " length"]:
    """How often each key occurs."""
    if torch.compiler.is_compiling():  # the length of what bincount gives depends on the data
        zeros = torch.zeros(length, dtype=torch.int64, device=keys.device)
        return zeros.scatter_add(0, keys.flatten().long(), torch.ones_like(keys.flatten(), dtype=torch.int64))
    return torch.bincount(keys.flatten(), minlength=length)
