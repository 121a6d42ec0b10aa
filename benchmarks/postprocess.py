"""From a network's outputs to the panoptic map: pasting masks, merging by score, semantic argmax and table.

Side by side in one run, all from the same outputs (53 stuff and 80 thing classes, all detections over the threshold,
see ``panoptic_head.py``):

* ours, ``fusion.merge_by_score``, by both rules of pasting;
* the plain route, written anew here from the published rules, with the order of steps that Detectron2 has: every mask
  is sampled inside its box and laid into a map as large as the picture, all logits are brought to full size as floats,
  their argmax follows, and a loop goes over the segments at full size;
* the same with torchvision's ``paste_masks_in_image``, to be compared with ours by the rule of whole pixels.

Before anything is measured, maps are compared: the same segments, and at most one pixel in a thousand differs.
torchmetrics has no such step.

    python benchmarks/postprocess.py
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from measuring import Step, by_size, compare, make_parser, print_costs, read_size
from panoptic_head import STUFF, make_outputs
from torch import Tensor
from torchvision.models.detection.roi_heads import paste_masks_in_image

from thingstuff.model.fusion import merge_by_score
from thingstuff.structures import MaskPaste, Outputs, Semantic, Size

PasteAll = Callable[[Tensor, Tensor, Size], Tensor]
"""Brings masks (n, M, M) with their boxes to the picture: (n, H, W), true where a mask is."""
OVERLAP, STUFF_AREA = 0.5, 4096
"""Panoptic FPN's thresholds."""


def main() -> None:
    """Compare, measure and print a table for each case."""
    parser = make_parser(__doc__, size=(800, 1216))
    parser.add_argument("--sizes", type=read_size, nargs="+", help="such as 480x640; instead of --size")
    parser.add_argument("--instances", type=int, nargs="+", default=(10, 30, 70, 100))
    options = parser.parse_args()
    for size in options.sizes or [tuple(options.size)]:
        for count in options.instances:
            check(size, count)
            contenders = {
                "ours, pixel centres": partial(build_ours, size, count, "pixel_centers"),
                "plain, pixel centres": partial(build_plain, size, count, paste_centers),
                "ours, whole pixels": partial(build_ours, size, count, "whole_pixels"),
                "plain, pasted by torchvision": partial(build_plain, size, count, paste_by_torchvision),
            }
            costs = compare(contenders, options.rounds, options.threads)
            print_costs(f"{count} instances, {by_size(size)}", costs, "plain, pixel centres")


def check(size: Size, count: int) -> None:
    """Make sure that all rules give the same map as ours."""
    outputs = draw_outputs(size, count)
    rules: tuple[tuple[MaskPaste, PasteAll], ...] = (
        ("pixel_centers", paste_centers),
        ("whole_pixels", paste_by_torchvision),
    )
    for rule, paste in rules:
        ours = merge_by_score(outputs, 0, size, size, num_stuff=STUFF, mask_paste=rule)
        ids, labels = plain_merge(outputs, size, paste)
        assert labels == ours.labels.tolist(), f"{count} instances, {rule}: other segments"
        agreement = (ids == ours.ids).float().mean().item()
        assert agreement >= 0.999, f"{count} instances, {rule}: {agreement:.2%} of the pixels agree"


def draw_outputs(size: Size, count: int) -> Outputs:
    """Outputs with one channel for all things together."""
    outputs = make_outputs(count, 128, size)
    assert outputs.semantic is not None
    return replace(outputs, semantic=Semantic(outputs.semantic.logits[:, : STUFF + 1].contiguous()))


def build_ours(size: Size, count: int, rule: MaskPaste) -> Step:
    """Ours."""
    outputs = draw_outputs(size, count)

    @torch.inference_mode()
    def step() -> str:
        maps = merge_by_score(outputs, 0, size, size, num_stuff=STUFF, mask_paste=rule)
        return f"{len(maps.labels)} segments"

    return step


def build_plain(size: Size, count: int, paste: PasteAll) -> Step:
    """The plain route."""
    outputs = draw_outputs(size, count)

    @torch.inference_mode()
    def step() -> str:
        return f"{len(plain_merge(outputs, size, paste)[1])} segments"

    return step


def plain_merge(outputs: Outputs, size: Size, paste: PasteAll) -> tuple[Tensor, list[int]]:
    """Segment ids of every pixel, and the class of each segment.

    Source: Kirillov et al., Panoptic Feature Pyramid Networks, CVPR 2019, section 3.
    """
    found, semantic = outputs.instances, outputs.semantic
    assert found is not None
    assert found.mask_logits is not None
    assert semantic is not None
    logits = F.interpolate(semantic.logits, scale_factor=4, mode="bilinear", align_corners=False)
    classes = logits[0, :, : size[0], : size[1]].argmax(dim=0)
    boxes = found.boxes[0]
    masks = paste(found.mask_logits[0].sigmoid(), boxes, size)
    masks[(boxes[:, 2:] <= boxes[:, :2]).any(dim=1)] = False  # boxes without area, as at the border, do not count
    ids = torch.zeros(size, dtype=torch.int32)
    labels: list[int] = []
    for row in found.scores[0].argsort(descending=True, stable=True).tolist():
        mask = masks[row]
        area, hidden = mask.sum().item(), (mask & (ids > 0)).sum().item()
        if area == 0 or hidden / area > OVERLAP:
            continue
        labels.append(STUFF + int(found.labels[0, row]))
        ids[mask & (ids == 0)] = len(labels)
    for label in classes.unique().tolist():
        mask = (classes == label) & (ids == 0)
        if label < STUFF and mask.sum().item() >= STUFF_AREA:
            labels.append(label)
            ids[mask] = len(labels)
    return ids, labels


def paste_centers(masks: Tensor, boxes: Tensor, size: Size) -> Tensor:
    """Sample each mask at the centres of the pixels that its box touches; true from one half."""
    pasted = torch.zeros(len(masks), *size, dtype=torch.bool)
    for mask, box, plane in zip(masks, boxes, pasted, strict=True):
        left, top = (box[:2].floor() - 1).clamp(min=0).int().tolist()
        right, bottom = (box[2:].ceil() + 1).minimum(box.new_tensor(size).flip(0)).int().tolist()
        x = (torch.arange(left, right) + 0.5 - box[0]) / (box[2] - box[0]) * 2 - 1
        y = (torch.arange(top, bottom) + 0.5 - box[1]) / (box[3] - box[1]) * 2 - 1
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
        values = F.grid_sample(mask[None, None], grid[None], align_corners=False)
        plane[top:bottom, left:right] = values[0, 0] >= 0.5
    return pasted


def paste_by_torchvision(masks: Tensor, boxes: Tensor, size: Size) -> Tensor:
    """Torchvision's function, and one half as the threshold."""
    return paste_masks_in_image(masks[:, None], boxes, size)[:, 0] >= 0.5


if __name__ == "__main__":
    main()
