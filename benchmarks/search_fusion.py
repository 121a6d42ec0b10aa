"""Which thresholds and which picture size suit a trained network: searched on its validation pictures.

    python benchmarks/search_fusion.py runs/facades/best.safetensors --data ROOT --short-sides 320 384 448

The network sees every picture once for each size; its outputs are then merged with every combination of thresholds.
Choosing among many settings on few pictures flatters the best of them a little, so look at the neighbours too.
"""

import argparse
from functools import partial
from itertools import product
from pathlib import Path

import torch

from thingstuff.checkpoint import load_checkpoint
from thingstuff.data.coco import panoptic_truth
from thingstuff.data.loader import PictureSource
from thingstuff.data.transforms import target_size
from thingstuff.evaluation.pq import Score, match_picture, panoptic_quality
from thingstuff.model.fusion import merge_by_score
from thingstuff.predict import Model
from thingstuff.result import to_panoptic
from thingstuff.torch_runtime import TorchRuntime
from thingstuff.training.sources import open_evaluation_source

SCORES = 0.4, 0.5, 0.6, 0.7
OVERLAPS = 0.3, 0.5
STUFF_SHARES = 0.0, 0.01, 0.02, 0.04
"""Of the picture's area."""


def main() -> None:
    """Search and print the best settings of each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--split", default="val")
    parser.add_argument("--short-sides", type=int, nargs="+", default=[None])
    options = parser.parse_args()
    checkpoint = load_checkpoint(options.checkpoint)
    source = open_evaluation_source(checkpoint.recipe, options.data, options.split)
    print("| short side | score | overlap | stuff share | PQ | things | stuff |\n|---|---|---|---|---|---|---|")
    for short_side in options.short_sides:
        found = search(Model(checkpoint, short_side=short_side), source)
        for (score, overlap, share), quality in sorted(found.items(), key=lambda item: -(item[1].pq or 0))[:5]:
            values = (group.pq if group is not None else None for group in (quality, quality.things, quality.stuff))
            numbers = " | ".join("" if value is None else f"{100 * value:.1f}" for value in values)
            print(f"| {short_side} | {score} | {overlap} | {share} | {numbers} |", flush=True)


@torch.inference_mode()
def search(model: Model, source: PictureSource) -> dict[tuple[float, float, float], Score]:
    """Panoptic quality of every combination of score threshold, overlap threshold and smallest share of stuff."""
    torch_runtime = TorchRuntime(model.network)
    matches = {setting: [] for setting in product(SCORES, OVERLAPS, STUFF_SHARES)}
    for index in range(len(source)):
        sample = source.read(index)
        truth, original = panoptic_truth(sample, source.labels), (sample.image.shape[0], sample.image.shape[1])
        size = target_size(original, model.short_side, model.max_side)
        outputs = torch_runtime.outputs(sample.image, size)
        for (score, overlap, share), rows in matches.items():
            fuse = partial(
                merge_by_score,
                num_stuff=source.labels.num_stuff,
                score_threshold=score,
                overlap_threshold=overlap,
                stuff_area=round(share * original[0] * original[1]),
            )
            panoptic = to_panoptic(fuse(outputs, 0, size, original), source.labels)
            rows.append(match_picture(truth, panoptic))
    return {setting: panoptic_quality(rows, source.labels) for setting, rows in matches.items()}


if __name__ == "__main__":
    main()
