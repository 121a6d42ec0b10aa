"""What sharing saves: one UPSNet against two networks, one for things and one for stuff, side by side in one run.

    python benchmarks/one_network.py

Random weights, picture of noise; from the picture to what fusion begins with. The two networks are the same parts, each
with a backbone and a pyramid of its own. Times are medians over rounds in which each takes its turn.
"""

import argparse
import statistics
import time
from collections.abc import Mapping

import torch

from thingstuff.convert.classes import coco_labels
from thingstuff.model.build import build_network
from thingstuff.model.panoptic import PanopticSegmenter
from thingstuff.model.region import RegionBranch, Suppression
from thingstuff.recipe import Recipe, derive
from thingstuff.recipes import upsnet_r50_coco

CANDIDATES = Suppression(0.6, 0.5, class_agnostic=True)
"""UPSNet's rule for the instances of the map."""


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1216), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    both = derive(upsnet_r50_coco(), loss__panoptic_weight=0.0, loss__roi_semantic_weight=0.0)
    networks = {
        "one network": [both],
        "things and stuff apart": [
            derive(both, model__semantic=None, model__fusion=None),
            derive(both, model__region=None, model__fusion=None),
        ],
    }
    times = measure({name: [_build(recipe) for recipe in recipes] for name, recipes in networks.items()}, options)
    print("| | wall s | CPU s | times |")
    print("|---|---|---|---|")
    base = times["one network"][1]
    for name, (wall, processor) in times.items():
        print(f"| {name} | {wall:.2f} | {processor:.2f} | {processor / base:.2f} |")


def _build(recipe: Recipe) -> PanopticSegmenter:
    torch.manual_seed(0)
    network = build_network(recipe, coco_labels()).eval()
    if isinstance(network.region, RegionBranch):
        network.region.candidate_rule = CANDIDATES  # without fusion there is none, but the same masks are wanted
    return network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


@torch.inference_mode()
def measure(
    networks: Mapping[str, list[PanopticSegmenter]], options: argparse.Namespace
) -> dict[str, tuple[float, float]]:
    """Median wall and processor seconds of each."""
    height, width = options.size
    image = torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8)
    sizes = torch.tensor([[height, width]])
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in networks}
    for turn in range(options.rounds + 1):
        for name, parts in networks.items():
            wall, processor = time.perf_counter(), time.process_time()
            for network in parts:
                network(image, sizes)
            if turn > 0:  # the first round warms up
                seconds[name].append((time.perf_counter() - wall, time.process_time() - processor))
    return {
        name: (statistics.median(one[0] for one in turns), statistics.median(one[1] for one in turns))
        for name, turns in seconds.items()
    }


if __name__ == "__main__":
    main()
