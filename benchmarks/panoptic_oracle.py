"""Why a panoptic head wins or loses against the heuristic on the same weights: both, with true classes as logits.

    python benchmarks/panoptic_oracle.py runs/ablation/upsnet/1_seed0/last.safetensors

Judges a UPSNet of procedural scenes by its panoptic head and by Panoptic FPN's merge: first as it is, then with logits
that say the true class of each cell at stride 4, more or less loudly. Instances are its own each time. What remains
between the two then is the head's own doing; what went away was the semantic branch's.
"""

import argparse
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from thingstuff.checkpoint import Checkpoint, load_checkpoint
from thingstuff.data.scenes import SceneSource
from thingstuff.data.transforms import make_targets
from thingstuff.evaluate import PictureEvaluation, evaluate_pictures
from thingstuff.predict import Model
from thingstuff.recipe import derive
from thingstuff.recipe_model import FusionConfig
from thingstuff.structures import Pyramid, Sample, Semantic

LOUDNESS = 4.0, 8.0, 16.0
"""Logit of the true class; all others have 0."""


SIDES = 0, 12, 20, 32, 200
"""Classes of objects, by the root of their area in pixels."""


class Found(NamedTuple):
    """A true thing: the root of its area, and its IoU where it was found."""

    side: float
    iou: float | None


class WatchedScenes(SceneSource):
    """Scenes that remember the label map of the one read last."""

    label_map: Tensor

    def read(self, index: int) -> Sample:
        """Draw one scene."""
        sample = super().read(index)
        self.label_map = make_targets(sample, self.labels).label_map
        return sample


def main() -> None:
    """Judge and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--pictures", type=int, default=128)
    options = parser.parse_args()
    torch.set_num_threads(1)
    checkpoint = load_checkpoint(options.checkpoint)
    fusion = checkpoint.recipe.model.fusion
    assert fusion is not None
    merge = derive(
        checkpoint.recipe, model__fusion=FusionConfig(stuff_area=fusion.stuff_area), loss__panoptic_weight=0.0
    )
    ways = {"panoptic head": checkpoint, "heuristic": replace(checkpoint, recipe=merge)}
    print("| semantic logits | fusion | PQ | PQ things | SQ things | RQ things | PQ stuff |")
    print("|---|---|---|---|---|---|---|")
    found: dict[tuple[str, str], list[Found]] = {}
    for loudness in (None, *LOUDNESS):
        logits = "learned" if loudness is None else f"true class {loudness:.0f}"
        for name, way in ways.items():
            values, found[logits, name] = judge(way, loudness, options.pictures)
            print(f"| {logits} | {name} | {' | '.join(f'{100 * value:.1f}' for value in values)} |", flush=True)
    sides = [each.side for each in next(iter(found.values()))]
    counts = [sum(low <= side < high for side in sides) for low, high in pairwise(SIDES)]
    titles = [f"{low} to {high} px ({n})" for (low, high), n in zip(pairwise(SIDES), counts, strict=True)]
    print(f"\n| semantic logits | fusion | {' | '.join(titles)} |")
    print("|---|---|" + (len(SIDES) - 1) * "---|")
    for (logits, name), objects in found.items():
        cells = [_describe([each for each in objects if low <= each.side < high]) for low, high in pairwise(SIDES)]
        print(f"| {logits} | {name} | {' | '.join(cells)} |")


def _describe(objects: list[Found]) -> str:
    """Share of objects that were found, and the mean IoU of those."""
    ious = [each.iou for each in objects if each.iou is not None]
    return f"{100 * len(ious) / len(objects):.0f}, {100 * mean(ious):.1f}" if ious else f"0 of {len(objects)}"


def judge(checkpoint: Checkpoint, loudness: float | None, pictures: int) -> tuple[list[float], list[Found]]:
    """PQ; PQ, SQ and RQ of things; PQ of stuff; and what became of every true thing."""
    source = checkpoint.recipe.source
    assert source.kind == "scenes"
    scenes = WatchedScenes(source.val_seed, source.val_count, source.size)
    model = Model(checkpoint)
    semantic = model.network.semantic
    assert semantic is not None
    learned = semantic.forward

    def true_classes(pyramid: Pyramid) -> Semantic:
        assert loudness is not None
        logits = learned(pyramid).logits
        labels = scenes.label_map[2::4, 2::4].long()
        classes = F.one_hot(labels, 256)[..., : logits.shape[1]].permute(2, 0, 1)
        bottom, right = (cells - side for cells, side in zip(logits.shape[2:], labels.shape, strict=True))
        return Semantic(loudness * F.pad(classes, (0, right, 0, bottom))[None].float())

    if loudness is not None:
        semantic.forward = true_classes
    found: list[Found] = []

    def note(picture: PictureEvaluation) -> None:
        assert picture.match is not None
        ious = {pair.truth_id: pair.iou for pair in picture.match.pairs}
        things = (segment for segment in picture.truth.segments if segment.isthing)
        found.extend(Found(segment.area**0.5, ious.get(segment.id)) for segment in things)

    tally = evaluate_pictures(model, scenes, range(pictures), with_ap=False, on_picture=note)
    score = tally.evaluation().panoptic
    assert score is not None
    assert score.things is not None
    assert score.stuff is not None
    values = score.pq, score.things.pq, score.things.sq, score.things.rq, score.stuff.pq
    return [value if value is not None else float("nan") for value in values], found


if __name__ == "__main__":
    main()
