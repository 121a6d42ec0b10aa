"""Which thresholds and which picture size suit a trained network: searched on its validation pictures.

    python benchmarks/search_fusion.py runs/facades/best.safetensors --data ROOT --short-sides 320 384 448

`train finetune` chooses thresholds in the same way, at one size. Choosing among many settings on few pictures flatters
the best of them a little, so look at the neighbours too.
"""

import argparse
from pathlib import Path

from thingstuff.checkpoint import load_checkpoint
from thingstuff.thresholds import THRESHOLDS, candidates, rate
from thingstuff.training.sources import open_evaluation_source


def main() -> None:
    """Search and print the best settings of each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--split", default="val")
    parser.add_argument("--short-sides", type=int, nargs="+", default=[None])
    options = parser.parse_args()
    checkpoint = load_checkpoint(options.checkpoint)
    fusion = checkpoint.recipe.model.fusion
    if fusion is None:
        parser.error(f"{options.checkpoint} makes no panoptic maps")
    source = open_evaluation_source(checkpoint.recipe, options.data, options.split)
    print(f"| short side | {' | '.join(THRESHOLDS)} | PQ | things | stuff |\n|---|---|---|---|---|---|---|")
    for short_side in options.short_sides:
        rated = rate(checkpoint, source, candidates(fusion), short_side=short_side)
        for setting, quality in sorted(rated, key=lambda one: -(one.score.pq or 0))[:5]:
            thresholds = " | ".join(str(getattr(setting, name)) for name in THRESHOLDS)
            values = (group.pq if group is not None else None for group in (quality, quality.things, quality.stuff))
            numbers = " | ".join("" if value is None else f"{100 * value:.1f}" for value in values)
            print(f"| {short_side} | {thresholds} | {numbers} |", flush=True)


if __name__ == "__main__":
    main()
