"""RoIAlign with its gradient on one processor core: torchvision's operator beside `model/roi_align.py`, in one run.

python benchmarks/roi_align.py [--repeats 5]
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torchvision.ops import roi_align

from thingstuff.model.roi_align import roi_align_pyramid

STRIDES = (4, 8, 16, 32)
HEIGHT, WIDTH, PICTURES, CHANNELS, REGIONS, SIZE = 128, 192, 16, 64, 1024, 7


def main() -> None:
    """Measure both and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    torch.manual_seed(0)
    torch.set_num_threads(1)  # threads that wait for each other would count as processor time
    features = [
        torch.randn(PICTURES, CHANNELS, HEIGHT // stride, WIDTH // stride)
        .to(memory_format=torch.channels_last)
        .requires_grad_()
        for stride in STRIDES
    ]
    corners = torch.rand(REGIONS, 2) * torch.tensor([0.8 * WIDTH, 0.8 * HEIGHT])
    sides = torch.rand(REGIONS, 2).square() * 60 + 6
    index = torch.arange(REGIONS)[:, None] % PICTURES
    regions = torch.cat([index, corners, corners + sides], dim=1)
    levels = (torch.arange(REGIONS) % 10 == 0).long()

    def library() -> torch.Tensor:
        pooled = torch.zeros(REGIONS, CHANNELS, SIZE, SIZE)
        for level, stride in enumerate(STRIDES):
            mine = levels == level
            pooled = pooled.index_add(
                0, mine.nonzero()[:, 0], roi_align(features[level], regions[mine], SIZE, 1 / stride, 0, True)
            )
        return pooled

    def ours() -> torch.Tensor:
        return roi_align_pyramid(features, regions, levels, SIZE, STRIDES, 0, True)

    difference = (library() - ours()).detach().abs().max().item()
    assert difference < 1e-3, difference
    print("| RoIAlign | forward, CPU ms | backward, CPU ms |\n|---|---|---|")
    for name, function in (("torchvision", library), ("thingstuff", ours)):
        forward, backward = measure(function, repeats)
        print(f"| {name} | {forward:.0f} | {backward:.0f} |")


def measure(function: Callable[[], torch.Tensor], repeats: int) -> tuple[float, float]:
    """Median processor time of the call and of its gradient, in milliseconds."""
    times = []
    for _ in range(repeats + 1):
        start = time.process_time()
        pooled = function()
        middle = time.process_time()
        pooled.square().sum().backward()
        times.append((1000 * (middle - start), 1000 * (time.process_time() - middle)))
    forward, backward = zip(*times[1:], strict=True)
    return statistics.median(forward), statistics.median(backward)


if __name__ == "__main__":
    main()
