"""Two branches become one panoptic map: by score (Panoptic FPN), or by logits (UPSNet)."""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float32, Int64, UInt8
from torch import Tensor

from thingstuff.model import boxes as box_ops
from thingstuff.model.interpolation import STRIDE, nearest
from thingstuff.model.layers import has_own_steps
from thingstuff.model.merge_graph import falling_order, merge_in_graph, nearest_in_graph, semantic_labels_in_graph
from thingstuff.model.panoptic_head import (
    Ranked,
    label_pixels,
    label_pixels_in_graph,
    mask_evidence,
    semantic_evidence,
)
from thingstuff.model.pasting import Paste, find_paste
from thingstuff.model.strongest import pad_to_tiles, strongest
from thingstuff.model.tabulate import smallest_stuff, tabulate
from thingstuff.structures import MaskPaste, Outputs, PanopticMaps, Size, StuffFrame, StuffMajority

_BLOCK = 48
"""Pixels on the side of a block of the output: small, so that few semantic channels can win in it, but not too many."""


@runtime_checkable
class Fusion(Protocol):
    """Turns what the network says of one picture of a batch into a panoptic map."""

    def __call__(self, outputs: Outputs, row: int, size: Size, output_size: Size) -> PanopticMaps:
        """Fuse.

        Args:
            outputs: What the network says of the batch.
            row: Which picture of the batch.
            size: Size of that picture before padding, in the network's frame.
            output_size: Size of the wanted map.
        """
        ...


def merge_by_score(
    outputs: Outputs,
    row: int,
    size: Size,
    output_size: Size,
    *,
    num_stuff: int,
    score_threshold: float = 0.5,
    overlap_threshold: float = 0.5,
    stuff_area: int = 4096,
    stuff_frame: StuffFrame = "output",
    mask_paste: MaskPaste = "pixel_centers",
) -> PanopticMaps:
    """Panoptic FPN's heuristic: instances by score, each where no better one is, then stuff in what is left.

    Compiled or exported, it takes steps of fixed sizes, and the table keeps a row for each instance and stuff class;
    the map and the valid rows, which come first, are the same.

    Args:
        outputs: What the network says of the batch; either branch may be missing.
        row: Which picture of the batch.
        size: Size of that picture before padding.
        output_size: Size of the wanted map.
        num_stuff: Stuff classes, which are the first semantic channels.
        score_threshold: Instances below it stay out.
        overlap_threshold: An instance stays out if better ones hide more than this share of it.
        stuff_area: Stuff of fewer pixels stays out.
        stuff_frame: Whose pixels these are.
        mask_paste: How masks come to the picture.

    Source: Kirillov et al., Panoptic Feature Pyramid Networks, CVPR 2019, section 3; Detectron2 for the order of steps.
    """
    smallest = smallest_stuff(stuff_area, stuff_frame, size, output_size)
    if torch.compiler.is_compiling():
        return merge_in_graph(
            outputs,
            row,
            size,
            output_size,
            num_stuff=num_stuff,
            score_threshold=score_threshold,
            overlap_threshold=overlap_threshold,
            stuff_area=smallest,
            mask_paste=mask_paste,
        )
    device = (outputs.instances.boxes if outputs.instances else outputs.semantic.logits).device  # pyright: ignore
    ids = torch.zeros(output_size, dtype=torch.int32, device=device)
    paste = find_paste(mask_paste)
    labels, scores = _place_things(ids, outputs, row, size, output_size, score_threshold, overlap_threshold, paste)
    labels = [label + num_stuff for label in labels]
    if outputs.semantic is not None:
        semantic = semantic_labels(outputs.semantic.logits[row], size, output_size)
        free = torch.where(ids == 0, semantic, num_stuff)
        areas = torch.bincount(free.flatten(), minlength=num_stuff + 1)[:num_stuff].tolist()
        for label, area in enumerate(areas):
            if area > 0 and area >= smallest:
                labels.append(label)
                scores.append(1.0)
                ids[free == label] = len(labels)
    count = len(labels)
    return PanopticMaps(
        ids=ids,
        labels=torch.tensor(labels, dtype=torch.int64, device=device),
        scores=torch.tensor(scores, dtype=torch.float32, device=device),
        areas=torch.bincount(ids.flatten(), minlength=count + 1)[1:],
        valid=torch.ones(count, dtype=torch.bool, device=device),
    )


def _place_things(
    ids: Tensor,
    outputs: Outputs,
    row: int,
    size: Size,
    output_size: Size,
    score_threshold: float,
    overlap_threshold: float,
    paste: Paste,
) -> tuple[list[int], list[float]]:
    """Write the instances of one picture into its id map; labels and scores of those that found a place."""
    instances = outputs.instances if outputs.candidates is None else outputs.candidates
    if instances is None or instances.mask_logits is None:
        return [], []
    boxes = box_ops.rescale(instances.boxes[row], size, output_size)
    probabilities = instances.mask_logits[row].sigmoid()
    candidates = instances.valid[row] & (instances.scores[row] >= score_threshold) & (box_ops.area(boxes) > 0)
    order = torch.argsort(instances.scores[row], descending=True, stable=True)
    placed_labels: list[int] = []
    placed_scores: list[float] = []
    for index in order[candidates[order]].tolist():
        mask, (top, left) = paste(probabilities[index], boxes[index], output_size)
        window = ids[top : top + mask.shape[0], left : left + mask.shape[1]]
        free = mask & (window == 0)
        area = int(mask.sum())
        if area == 0 or (area - int(free.sum())) / area > overlap_threshold:
            continue
        placed_labels.append(int(instances.labels[row, index]))
        placed_scores.append(float(instances.scores[row, index]))
        window[free] = len(placed_labels)
    return placed_labels, placed_scores


def semantic_labels(logits: Float[Tensor, "classes h w"], size: Size, output_size: Size) -> UInt8[Tensor, "H W"]:
    """Channel with the highest logit at every pixel of the output.

    The logits go to the padded size, lose the padding and go to the output size, as in Detectron2; but all steps are
    taken at once, block by block, by the channels that can win in the block: no stack of channels is ever that large.

    Args:
        logits: At stride 4 of the padded picture.
        size: Size of the picture before padding.
        output_size: Size of the wanted map.
    """
    logits = logits.float()
    if output_size == size:
        padded = STRIDE * logits.shape[1], STRIDE * logits.shape[2]
        return strongest(pad_to_tiles(logits), padded).channels[: size[0], : size[1]].to(torch.uint8)
    if not has_own_steps(logits):
        return semantic_labels_in_graph(logits, size, output_size)
    labels = torch.empty(output_size, dtype=torch.uint8)
    down, across = (_blocks(*sides) for sides in zip(logits.shape[1:], size, output_size, strict=True))
    for rows, from_rows, row_weights in down:
        for columns, from_columns, column_weights in across:
            cells = logits[:, from_rows, from_columns]
            # A pixel is a weighted mean of cells: no channel wins where its highest cell is below another's lowest.
            can_win = (cells.amax(dim=(1, 2)) >= cells.amin(dim=(1, 2)).max()).nonzero()[:, 0]
            pixels = row_weights @ (cells[can_win] @ column_weights.T)
            # Many times faster than argmax, which runs along the channels of one pixel after the other.
            labels[rows, columns] = can_win.to(torch.uint8)[pixels.max(dim=0).indices]
    return labels


def _blocks(cells: int, side: int, length: int) -> list[tuple[slice, slice, Float32[Tensor, "pixels cells"]]]:
    """Blocks along one side of the output: its pixels, the cells that they come from, and the weight of each cell.

    Args:
        cells: Along this side of the logits.
        side: Of the picture before padding.
        length: Of the output.
    """
    weights = torch.eye(cells, dtype=torch.float64)
    for pixels, kept in ((STRIDE * cells, side), (length, length)):
        places = ((torch.arange(pixels, dtype=torch.float64) + 0.5) * (len(weights) / pixels) - 0.5).clamp(min=0)
        before = places.long()
        after = (before + 1).clamp(max=len(weights) - 1)
        weights = torch.lerp(weights[before], weights[after], (places - before)[:, None])[:kept]
    blocks = []
    for first in range(0, length, _BLOCK):
        block = weights[first : first + _BLOCK].float()
        used = block.any(dim=0).nonzero()[:, 0]
        sources = slice(int(used[0]), int(used[-1]) + 1)
        blocks.append((slice(first, first + len(block)), sources, block[:, sources]))
    return blocks


def panoptic_logits(
    semantic_logits: Float[Tensor, "classes H W"],
    boxes: Float[Tensor, "n 4"],
    labels: Int64[Tensor, " n"],
    mask_logits: Float[Tensor, "n M M"],
    *,
    num_stuff: int,
    unknown: bool = True,
) -> Float[Tensor, "channels H W"]:
    """UPSNet's panoptic head: one channel for each stuff class, for each instance, and for things that no one found.

    An instance has the semantic logits of its class and its mask logits inside its box, and 0 outside. The unknown
    class is as strong as the strongest thing class, less the highest semantic evidence of all instances (0 without
    any instance); where there is no thing class, it is impossible (-inf). It has no parameters, and gradients reach
    both kinds of logits.

    Args:
        semantic_logits: Stuff in class order, then one channel for each thing class.
        boxes: ``xyxy``, inclusive (the last two are the last pixel), in pixels of the map. They may leave it.
        labels: Thing index of each instance.
        mask_logits: The mask inside the box, of the instance's class.
        num_stuff: Stuff classes.
        unknown: Whether there is an unknown class; it is the last channel.

    Source: Xiong et al., UPSNet, CVPR 2019, section 3.
    """
    things = semantic_logits[num_stuff:]
    size = semantic_logits.shape[1], semantic_logits.shape[2]
    seen = semantic_evidence(things.index_select(0, labels), boxes)
    channels = [semantic_logits[:num_stuff], seen + mask_evidence(mask_logits, boxes, size)]
    if unknown:
        strongest = things.amax(dim=0) if things.shape[0] else things.new_full(size, -torch.inf)
        channels.append((strongest - seen.amax(dim=0) if labels.shape[0] else strongest)[None])
    return torch.cat(channels)


def segment_by_logits(
    outputs: Outputs,
    row: int,
    size: Size,
    output_size: Size,
    *,
    num_stuff: int,
    score_threshold: float = 0.6,
    overlap_threshold: float = 0.3,
    stuff_area: int = 4096,
    stuff_frame: StuffFrame = "output",
    unknown: bool = True,
    stuff_majority: StuffMajority = "half",
) -> PanopticMaps:
    """UPSNet's inference: every pixel goes to the strongest of ``panoptic_logits`` at the size of the padded picture.

    Masks are pruned first: best first, each stays out if better ones of its class hide too much of it. Pixels of the
    unknown class become void. The map, not the logits, is resized to the output, where an instance in which the
    semantic branch mostly sees one stuff class becomes that stuff.

    Compiled or exported, it takes steps of fixed sizes, and the table keeps a row for each instance and stuff class;
    the map and the valid rows, which come first, are the same.

    Args:
        outputs: What the network says of the batch; the semantic branch tells thing classes apart.
        row: Which picture of the batch.
        size: Size of that picture before padding.
        output_size: Size of the wanted map.
        num_stuff: Stuff classes, which are the first semantic channels.
        score_threshold: Instances that do not exceed it stay out.
        overlap_threshold: An instance stays out if better ones of its class hide more than this share of it.
        stuff_area: Stuff of fewer pixels stays out.
        stuff_frame: Whose pixels these are.
        unknown: Whether there is an unknown class.
        stuff_majority: Share of an instance that must look like one stuff class for it to become that.

    Source: Xiong et al., UPSNet, CVPR 2019, section 3; without any instance there is no channel for one.
    """
    assert outputs.semantic is not None
    logits = outputs.semantic.logits[row].float()
    num_classes = logits.shape[0]
    ranked = _rank(outputs, row, num_classes - num_stuff, score_threshold)
    in_graph = torch.compiler.is_compiling()
    if in_graph:
        pixels = label_pixels_in_graph(logits, ranked, num_stuff, overlap_threshold, unknown)
    else:
        count = int(ranked.usable.sum())
        ranked = Ranked(*(column[:count] for column in ranked))
        pixels = label_pixels(logits, ranked, num_stuff, overlap_threshold, unknown)
    winners, semantic = (
        nearest_in_graph(plane, size, output_size) if in_graph else nearest(plane[: size[0], : size[1]], output_size)
        for plane in (pixels.winners, pixels.semantic)
    )
    maps = tabulate(
        winners,
        semantic,
        ranked.labels.index_select(0, pixels.rows),
        ranked.scores.index_select(0, pixels.rows),
        num_stuff=num_stuff,
        num_classes=num_classes,
        stuff_area=smallest_stuff(stuff_area, stuff_frame, size, output_size),
        stuff_majority=stuff_majority,
    )
    if in_graph:
        return maps
    count = int(maps.valid.sum())
    return PanopticMaps(maps.ids, *(column[:count] for column in (maps.labels, maps.scores, maps.areas, maps.valid)))


def _rank(outputs: Outputs, row: int, num_things: int, score_threshold: float) -> Ranked:
    """The instances of one picture that may enter the map, best first; those that may not come last."""
    found = outputs.instances if outputs.candidates is None else outputs.candidates
    if found is None or found.mask_logits is None or num_things == 0:
        assert outputs.semantic is not None
        nothing = outputs.semantic.logits.new_zeros(0, dtype=torch.float32)
        return Ranked(nothing.view(0, 4), nothing.long(), nothing, nothing.view(0, 1, 1), nothing.bool())
    scores = found.scores[row]
    usable = found.valid[row] & (scores > score_threshold)
    order = falling_order(scores.masked_fill(~usable, -1))
    # Our boxes end where their last pixel ends, those of the panoptic head name that pixel.
    boxes = box_ops.inclusive(found.boxes[row])
    columns = boxes, found.labels[row], scores, found.mask_logits[row], usable
    return Ranked(*(column.index_select(0, order) for column in columns))
