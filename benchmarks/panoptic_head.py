"""From a network's outputs to the panoptic map on one processor core: UPSNet's panoptic head beside the merge by score.

Both see the same outputs of a picture of 800 x 1216 pixels, 53 stuff and 80 thing classes. What is measured: pruning,
channels, argmax and table on one side; pasting of masks, merging, semantic argmax and table on the other. The logits
are random blobs; the finer they are, the more classes compete in each tile, and the longer the panoptic head takes.

python benchmarks/panoptic_head.py [--repeats 5]
"""

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from thingstuff.model.fusion import merge_by_score, panoptic_logits, segment_by_logits
from thingstuff.structures import Instances, Outputs, PanopticMaps, Semantic, Size

SIZE = 800, 1216
OUTPUT_SIZE = 480, 730
STUFF, THINGS = 53, 80
CASES: tuple[tuple[int, int, Size], ...] = (
    (10, 128, SIZE),
    (30, 128, SIZE),
    (70, 128, SIZE),
    (30, 128, OUTPUT_SIZE),
    (30, 32, SIZE),
    (30, 4, SIZE),
)
"""Instances, pixels from blob to blob, size of the map."""
FUSIONS = {"merge by score": merge_by_score, "panoptic head": segment_by_logits}
PLAIN = "panoptic head, all channels held"
PROCESS = Path("/proc/self")


def main() -> None:
    """Measure both and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)  # threads that wait for each other would count as processor time
    print("| instances | blobs, px | map | | CPU ms | wall ms | segments | times faster, CPU | wall |")
    print("|---|---|---|---|---|---|---|---|---|")
    for count, blob, output_size in CASES:
        outputs = make_outputs(count, blob, SIZE)
        call = {"outputs": outputs, "row": 0, "size": SIZE, "output_size": output_size, "num_stuff": STUFF}
        functions = [partial(function, **call) for function in FUSIONS.values()]
        times = measure(functions, repeats)
        for name, function, mine in zip(FUSIONS, functions, times, strict=True):
            ratios = " | ".join(f"{first / own:.2f}" for first, own in zip(times[0], mine, strict=True))
            case = f"| {count} | {blob} | {output_size[0]} x {output_size[1]} | {name}"
            print(f"{case} | {mine[0]:.0f} | {mine[1]:.0f} | {len(function().labels)} | {ratios} |")
    if not (PROCESS / "clear_refs").exists():
        return  # only Linux tells
    print("\n| 100 instances, 800 x 1344 | peak memory above the outputs, MB |\n|---|---|")
    for name in (*FUSIONS, PLAIN):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            print(f"| {name} | {pool.apply(peak_memory, (name,)):.0f} |")


def plain_head(outputs: Outputs, row: int, size: Size, output_size: Size, *, num_stuff: int) -> Tensor:
    """The argmax over all channels at full size, without pruning and what follows."""
    found, semantic = outputs.instances, outputs.semantic
    assert found is not None
    assert found.mask_logits is not None
    assert semantic is not None
    full = F.interpolate(semantic.logits, scale_factor=4, mode="bilinear", align_corners=False)[row]
    boxes = found.boxes[row] - torch.tensor([0, 0, 1, 1])
    channels = panoptic_logits(full, boxes, found.labels[row], found.mask_logits[row], num_stuff=num_stuff)
    return channels.argmax(dim=0)


def make_outputs(count: int, blob: int, size: Size) -> Outputs:
    """Boxes of all sizes, a third of them beside an earlier one of their class; masks roughly round."""
    generator = torch.Generator().manual_seed(0)
    height, width = size
    coarse = 3 * torch.randn(1, STUFF + THINGS, height // blob + 1, width // blob + 1, generator=generator)
    logits = F.interpolate(coarse, size=(height // 4, width // 4), mode="bilinear", align_corners=True)
    centers = torch.rand(count, 2, generator=generator) * torch.tensor([width, height])
    sides = torch.exp(
        torch.randn(count, 1, generator=generator) * 0.7 + torch.randn(count, 2, generator=generator) * 0.3
    )
    labels = torch.randint(0, THINGS, (count,), generator=generator)
    for copy in range(2, count, 3):
        centers[copy] = centers[copy - 2] + 20 * torch.randn(2, generator=generator)
        sides[copy], labels[copy] = sides[copy - 2], labels[copy - 2]
    boxes = torch.cat([centers - 75 * sides, centers + 75 * sides], dim=1)
    limits = torch.tensor([width, height, width, height], dtype=torch.float32)
    steps = torch.linspace(-1, 1, 28)
    masks = 8 * (0.8 - steps.square() - steps[:, None].square()) + F.interpolate(
        2 * torch.randn(1, count, 7, 7, generator=generator), size=(28, 28), mode="bilinear"
    )
    found = Instances(
        boxes.clamp(min=0).minimum(limits)[None],
        torch.linspace(0.99, 0.61, count)[None],
        labels[None],
        masks,
        torch.ones(1, count, dtype=torch.bool),
    )
    return Outputs(found, Semantic(logits))


def measure(functions: Sequence[Callable[[], PanopticMaps]], repeats: int) -> list[tuple[float, float]]:
    """Median processor and wall-clock time of each, taken in turn, in milliseconds."""
    times: list[list[tuple[float, float]]] = [[] for _ in functions]
    for _ in range(repeats + 1):
        for function, mine in zip(functions, times, strict=True):
            processor, wall = time.process_time(), time.perf_counter()
            function()
            mine.append((1000 * (time.process_time() - processor), 1000 * (time.perf_counter() - wall)))
    columns = [list(zip(*mine[1:], strict=True)) for mine in times]
    return [(statistics.median(processor), statistics.median(wall)) for processor, wall in columns]


def peak_memory(name: str) -> float:
    """By how many megabytes a fresh process grows meanwhile."""
    torch.set_num_threads(1)
    outputs = make_outputs(100, 128, (800, 1344))
    (PROCESS / "clear_refs").write_text("5")  # forgets the peak so far
    before = resident("VmRSS")
    function = plain_head if name == PLAIN else FUSIONS[name]
    function(outputs, 0, (800, 1333), (800, 1333), num_stuff=STUFF)
    return resident("VmHWM") - before


def resident(field: str) -> float:
    """A field of the process's record in megabytes."""
    lines = (PROCESS / "status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024 / 1e6


if __name__ == "__main__":
    main()
