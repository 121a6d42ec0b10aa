"""Deformable convolution with its gradient on a processor: torchvision's beside `model/deformable.py`, in one run.

Then the semantic heads of Panoptic FPN and UPSNet in bfloat16. All for a training step of the small recipes: 16
pictures of 128x192, 64 channels. Processor time is summed over the threads.

python benchmarks/deformable.py [--repeats 5] [--threads 1]
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from thingstuff.model.deformable import deform_conv2d_by_sampling
from thingstuff.model.semantic import DeformableHead, UpsampleSumHead
from thingstuff.structures import Pyramid

STRIDES = (4, 8, 16, 32)
HEIGHT, WIDTH, PICTURES, CHANNELS, CLASSES = 128, 192, 16, 64, 12


def main() -> None:
    """Measure and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)

    print("| convolution | map | forward, CPU ms | backward, CPU ms | wall ms |\n|---|---|---|---|---|")
    for stride in STRIDES:
        height, width = HEIGHT // stride, WIDTH // stride
        inputs = (
            torch.randn(PICTURES, CHANNELS, height, width).to(memory_format=torch.channels_last),
            torch.randn(PICTURES, 18, height, width),
            0.05 * torch.randn(CHANNELS, CHANNELS, 3, 3),
            torch.randn(CHANNELS),
        )
        forms: tuple[tuple[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]], ...] = (
            ("plain", lambda features, _, weight, bias: F.conv2d(features, weight, bias, padding=1)),
            ("torchvision", partial(deform_conv2d, padding=(1, 1))),
            ("thingstuff", partial(deform_conv2d_by_sampling, padding=(1, 1))),
        )
        results = [form(*inputs) for _, form in forms[1:]]
        assert (results[0] - results[1]).abs().max() < 1e-4
        features, offset, weight, bias = (tensor.requires_grad_() for tensor in inputs)
        for name, form in forms:
            times = measure(partial(form, features, offset, weight, bias), arguments.repeats)
            print(f"| {name} | {height}x{width} | " + " | ".join(f"{value:.0f}" for value in times) + " |")

    print("\n| semantic head | forward, CPU ms | backward, CPU ms | wall ms |\n|---|---|---|---|")
    shapes = [(PICTURES, CHANNELS, HEIGHT // stride, WIDTH // stride) for stride in STRIDES]
    levels = [torch.randn(shape).to(memory_format=torch.channels_last).requires_grad_() for shape in shapes]
    pyramid = Pyramid(dict(zip(STRIDES, levels, strict=True)))
    heads: Sequence[tuple[str, nn.Module]] = (
        ("upsample_sum, 64 channels", UpsampleSumHead(CHANNELS, 64, CLASSES, norm="batch")),
        ("deformable, 2 layers, 32 channels", DeformableHead(CHANNELS, 32, CLASSES, 2)),
        ("deformable, 2 layers, 64 channels", DeformableHead(CHANNELS, 64, CLASSES, 2)),
        ("deformable, 3 layers, 64 channels", DeformableHead(CHANNELS, 64, CLASSES, 3)),
    )
    for name, head in heads:
        head.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        spread_offsets(head)

        def logits(head: nn.Module = head) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return head(pyramid).logits

        print(f"| {name} | " + " | ".join(f"{value:.0f}" for value in measure(logits, arguments.repeats)) + " |")


def spread_offsets(head: nn.Module) -> None:
    """Let the taps of a deformable head lie between pixels, as they do once it has learned."""
    for name, parameter in head.named_parameters():
        if ".offset." in name:
            nn.init.normal_(parameter, std=0.05)


def measure(function: Callable[[], Tensor], repeats: int) -> tuple[float, float, float]:
    """Median processor time of the call and of its gradient, and wall-clock time of both, in milliseconds."""
    times = []
    for _ in range(repeats + 1):
        wall, start = time.perf_counter(), time.process_time()
        result = function()
        middle = time.process_time()
        result.square().sum().backward()
        end = time.process_time()
        times.append((1000 * (middle - start), 1000 * (end - middle), 1000 * (time.perf_counter() - wall)))
    forward, backward, both = (statistics.median(values) for values in zip(*times[1:], strict=True))
    return forward, backward, both


if __name__ == "__main__":
    main()
