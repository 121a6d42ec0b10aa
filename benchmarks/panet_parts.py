"""What each part of PANet costs in inference: parameters, multiply-adds, processor time, all in one run on one core.

The baseline is a feature pyramid, pooling from the assigned level, and the light heads. Backbone, proposals and
suppression, which all have in common, are left out. Multiply-adds are those of convolutions and fully connected layers;
RoIAlign has none that count, but takes time.

python benchmarks/panet_parts.py [--repeats 5]
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from thingstuff.model.box_head import HeavyBoxHead, LightBoxHead, fully_connected_entry
from thingstuff.model.mask_head import ConvMaskHead, FusedMaskHead, convolution_entry
from thingstuff.model.neck import FPN, BottomUpPath
from thingstuff.model.pooling import AdaptivePool, AssignedLevelPool
from thingstuff.model.region import RegionBranch
from thingstuff.structures import Pyramid

HEIGHT, WIDTH, PROPOSALS, MASKS, THINGS = 400, 608, 200, 20, 80
LEVELS = {4: 256, 8: 512, 16: 1024, 32: 2048}
"""Channels of a ResNet-50 by stride."""
SAMPLES = 2


class Parts(nn.Module):
    """Neck and heads with the given parts of PANet in the place of the baseline's."""

    def __init__(
        self, *, bottom_up: bool = False, adaptive: bool = False, heavy: bool = False, fused: bool = False
    ) -> None:
        super().__init__()

        def pool(size: int, entry: Callable[[], nn.Module]) -> nn.Module:
            if adaptive:
                return AdaptivePool(size, [entry() for _ in LEVELS], sampling_ratio=SAMPLES)
            return AssignedLevelPool(size, entry(), sampling_ratio=SAMPLES)

        self.neck = FPN(tuple(LEVELS.values()), bottom_up=BottomUpPath(256) if bottom_up else None)
        self.region = RegionBranch(
            pool(7, lambda: convolution_entry(256, 256) if heavy else fully_connected_entry(256, 7, 1024)),
            HeavyBoxHead(256, 7, 1024, THINGS) if heavy else LightBoxHead(1024, THINGS),
            pool(14, lambda: convolution_entry(256, 256)),
            FusedMaskHead(256, THINGS) if fused else ConvMaskHead(256, THINGS),
        )

    def forward(self, features: Pyramid, boxes: Tensor) -> None:
        """Classify all boxes and draw the masks of the first."""
        pyramid = self.neck(features)
        self.region.classify(pyramid, [boxes])
        self.region.masks(pyramid, [boxes[:MASKS]])


def main() -> None:
    """Measure all and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    variants = {
        "baseline": Parts(),
        "bottom-up path": Parts(bottom_up=True),
        "adaptive pooling": Parts(adaptive=True),
        "heavy box head": Parts(heavy=True),
        "fused mask head": Parts(fused=True),
        "adaptive pooling, heavy box head": Parts(adaptive=True, heavy=True),
        "all four": Parts(bottom_up=True, adaptive=True, heavy=True, fused=True),
    }
    generator = torch.Generator().manual_seed(0)
    features = Pyramid(
        {s: torch.randn(1, c, -(-HEIGHT // s), -(-WIDTH // s), generator=generator) for s, c in LEVELS.items()}
    )
    sides = 2 ** (torch.rand(PROPOSALS, 2, generator=generator) * 4 + 4)
    corners = torch.rand(PROPOSALS, 2, generator=generator) * (torch.tensor([WIDTH, HEIGHT]) - sides)
    boxes = torch.cat([corners, corners + sides], dim=1)

    times: dict[str, list[float]] = {name: [] for name in variants}
    with torch.inference_mode():
        for _ in range(repeats + 1):
            for name, parts in variants.items():
                start = time.process_time()
                parts(features, boxes)
                times[name].append(1000 * (time.process_time() - start))
        print("| parts | parameters, M | multiply-adds, G | CPU ms | times |\n|---|---|---|---|---|")
        baseline = statistics.median(times["baseline"][1:])
        for name, parts in variants.items():
            with FlopCounterMode(display=False) as counter:
                parts(features, boxes)
            millions = sum(parameter.numel() for parameter in parts.parameters()) / 1e6
            cost = counter.get_total_flops() / 2e9
            median = statistics.median(times[name][1:])
            print(f"| {name} | {millions:.2f} | {cost:.1f} | {median:.0f} | {median / baseline:.2f} |")


if __name__ == "__main__":
    main()
