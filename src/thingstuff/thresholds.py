"""Thresholds that a panoptic map goes by, chosen on validation pictures once a network has learned.

How sure a network is of what it finds depends on its data and on how long it has learned: scores that mean little after
a short training on many classes mean much after a long one on few. PQ counts what is in the map, so it depends on them.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import replace
from itertools import product
from typing import NamedTuple

import torch

from thingstuff.checkpoint import Checkpoint
from thingstuff.data.coco import panoptic_truth
from thingstuff.data.loader import PictureSource
from thingstuff.data.transforms import target_size
from thingstuff.evaluation.pq import PictureMatch, Score, match_picture, panoptic_quality
from thingstuff.model.build import build_fusion
from thingstuff.model.tabulate import smallest_stuff
from thingstuff.predict import Model
from thingstuff.recipe import derive
from thingstuff.recipe_model import FusionConfig
from thingstuff.result import to_panoptic
from thingstuff.torch_runtime import TorchRuntime

THRESHOLDS = ("score_threshold", "overlap_threshold", "stuff_area")
"""Fields of a fusion that are chosen."""
_SCORES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
_OVERLAPS = (0.3, 0.5)
_STUFF_FACTORS = (0, 1, 3, 10)
"""Of the limit that there is."""
_PICTURES = 200
"""Most pictures that are looked at, evenly spread; every setting makes a map of each."""

Progress = Callable[[Iterable[int], int], Iterator[int]]
"""Goes through so many items and shows how far it is."""


class Rated(NamedTuple):
    """Thresholds, and how good maps are with them."""

    fusion: FusionConfig
    score: Score


def candidates(fusion: FusionConfig, given: Set[str] = frozenset()) -> list[FusionConfig]:
    """Settings worth trying; the first is the one that there is.

    Args:
        fusion: The setting that there is.
        given: Names of thresholds that stay as they are.
    """
    others = (_SCORES, _OVERLAPS, tuple(factor * fusion.stuff_area for factor in _STUFF_FACTORS))
    values = [
        dict.fromkeys((getattr(fusion, name), *(() if name in given else tried)))
        for name, tried in zip(THRESHOLDS, others, strict=True)
    ]
    return [fusion.model_copy(update=dict(zip(THRESHOLDS, row, strict=True))) for row in product(*values)]


@torch.inference_mode()
def rate(
    checkpoint: Checkpoint,
    source: PictureSource,
    fusions: Sequence[FusionConfig],
    *,
    short_side: int | None = None,
    device: str = "cpu",
    progress: Progress = lambda items, total: iter(items),
) -> list[Rated]:
    """Panoptic quality with each of several settings; the network sees every picture once.

    Args:
        checkpoint: The network; it has a fusion.
        source: Pictures to judge on, of the network's classes; at most 200 of them are looked at.
        fusions: They differ in ``score_threshold``, ``overlap_threshold`` and ``stuff_area`` alone.
        short_side: At which the network sees pictures; None: as the checkpoint says.
        device: Where the network runs.
        progress: Called with the pictures' numbers and how many there are.

    Raises:
        InputError: A picture or its annotation is damaged.
    """
    # UPSNet's head is shown what exceeds its threshold; what exceeds a higher one is among that.
    lowest = min(fusion.score_threshold for fusion in fusions)
    shown = replace(checkpoint, recipe=derive(checkpoint.recipe, model__fusion__score_threshold=lowest))
    model = Model(shown, device=device, short_side=short_side)
    runtime = TorchRuntime(model.network)
    region, labels = checkpoint.recipe.model.region, source.labels
    # Small stuff can leave a finished map: one that keeps all of it serves every limit.
    whole = {fusion: fusion.model_copy(update={"stuff_area": 0}) for fusion in fusions}
    ways = {fusion: build_fusion(fusion, region, labels) for fusion in dict.fromkeys(whole.values())}
    matches: dict[FusionConfig, list[PictureMatch]] = {fusion: [] for fusion in fusions}
    count = min(_PICTURES, len(source))
    for place in progress(range(count), count):
        sample = source.read(place * len(source) // count)
        truth, original = panoptic_truth(sample, labels), (sample.image.shape[0], sample.image.shape[1])
        size = target_size(original, model.short_side, model.max_side)
        outputs = runtime.outputs(sample.image, size)
        made = {fusion: way(outputs, 0, size, original) for fusion, way in ways.items() if way is not None}
        for fusion, found in matches.items():
            smallest = smallest_stuff(fusion.stuff_area, fusion.stuff_frame, size, original)
            maps = made[whole[fusion]]
            kept = replace(maps, valid=maps.valid & ((maps.labels >= labels.num_stuff) | (maps.areas >= smallest)))
            found.append(match_picture(truth, to_panoptic(kept, labels), picture=sample.file_name))
    return [Rated(fusion, panoptic_quality(found, labels)) for fusion, found in matches.items()]


def best_of(rated: Sequence[Rated]) -> Rated:
    """The setting with the highest PQ; of equal ones the first."""
    return max(rated, key=lambda one: one.score.pq or 0.0)
