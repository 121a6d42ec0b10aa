"""From the choices of a recipe to pictures and to what happens to them."""

import os
from dataclasses import replace
from pathlib import Path

from thingstuff.data.coco import CocoPanopticSource, open_coco_panoptic
from thingstuff.data.loader import CachedSource, Pasting, PictureSource, repeat_factors
from thingstuff.data.scenes import SceneSource
from thingstuff.data.transforms import Augmentation, ColorJitter
from thingstuff.errors import InputError
from thingstuff.labels import find_difference
from thingstuff.progress import announce
from thingstuff.recipe import AugmentationConfig, Recipe, ScenesConfig
from thingstuff.recipe_model import PictureConfig

_CACHE_BYTES = 2 * 1024**3
"""Decoded pictures of small data sets stay in memory up to this size, over all reading processes."""
_MAP_BYTES = 4
"""Of the id map, for each pixel."""


def open_sources(recipe: Recipe, data: Path | None) -> tuple[PictureSource, PictureSource]:
    """Pictures to learn from and pictures to judge on. The layout of files is said in a line.

    Args:
        recipe: Says where pictures come from.
        data: Root of the data set; scenes need none.

    Raises:
        InputError: The data set is missing or damaged, or both splits differ in their classes.
    """
    source = recipe.source
    if isinstance(source, ScenesConfig):
        if data is not None:
            raise InputError(
                f"--data {data}: recipe {recipe.name} draws its own pictures; choose another recipe for it"
            )
        size = source.size
        return SceneSource(source.train_seed, source.train_count, size), SceneSource(
            source.val_seed, source.val_count, size
        )
    if data is None:
        raise InputError(f"recipe {recipe.name} needs a data set; name its root with --data")
    train = _as_taken(open_coco_panoptic(data, source.train_split, source.overlapping_instances), recipe.picture)
    val = _as_taken(open_coco_panoptic(data, source.val_split), recipe.picture)
    if difference := find_difference(train.labels, val.labels):
        identity, learned, judged = difference
        raise InputError(
            f"{val.json_path}: category {identity} is {judged}, and {learned} in {train.json_path.name}; write one "
            "list of categories into both"
        )
    if not any(train.picture_labels(index) for index in range(len(train))):
        raise InputError(
            f"{train.json_path}: not one segment in {len(train)} pictures, so nothing can be learned; label them"
        )
    if is_first_process():
        announce(f"{data}: {train.layout}")
    return train, val


def is_first_process() -> bool:
    """Whether this is the process that speaks, of those that ``torchrun`` and ``accelerate launch`` start."""
    return os.environ.get("RANK", "0") == "0"


def _as_taken(source: CocoPanopticSource, picture: PictureConfig) -> CocoPanopticSource:
    """The same pictures with the channels that the network takes."""
    return replace(source, channels=picture.channels, pixels=picture.pixels)


def open_evaluation_source(recipe: Recipe, data: Path | None, split: str) -> PictureSource:
    """Pictures to judge a trained network on.

    Args:
        recipe: Of the network.
        data: Root of the data set; None: the validation scenes of a network trained on scenes.
        split: Which pictures of the data set.

    Raises:
        InputError: The data set is missing or damaged.
    """
    if data is not None:
        return _as_taken(open_coco_panoptic(data, split), recipe.picture)
    if isinstance(recipe.source, ScenesConfig):
        if split != "val":
            raise InputError(f"--split {split}: scenes are judged on their validation pictures alone; leave it out")
        return SceneSource(recipe.source.val_seed, recipe.source.val_count, recipe.source.size)
    raise InputError("evaluate needs a data set; name its root with --data")


def with_cache(source: PictureSource, workers: int) -> PictureSource:
    """Keep decoded pictures in memory where all of them fit."""
    if isinstance(source, SceneSource):
        return source
    pixels = sum(height * width for height, width in source.picture_sizes())
    channel_bytes = 3
    if isinstance(source, CocoPanopticSource):
        eight_bits = source.pixels == "uint8" or (source.pixels, source.channels) == ("rgb", 3)
        channel_bytes = source.channels * (1 if eight_bits else 2)
    needed = pixels * (channel_bytes + _MAP_BYTES)
    return CachedSource(source, needed) if needed * max(workers, 1) <= _CACHE_BYTES else source


def repeats(source: PictureSource, threshold: float) -> list[float] | None:
    """How often each picture is shown in an epoch; None: once."""
    if threshold == 0 or not isinstance(source, CocoPanopticSource):
        return None
    return repeat_factors((source.picture_labels(index) for index in range(len(source))), threshold)


def find_pasting(source: PictureSource, config: AugmentationConfig, steps: int) -> Pasting | None:
    """Which objects are pasted in a run of so many steps; None: none.

    Raises:
        InputError: Objects of scenes are to be pasted.
    """
    if config.paste == 0:
        return None
    if not isinstance(source, CocoPanopticSource):
        raise InputError(
            f"augmentation.paste is {config.paste}, but objects are pasted from files alone; for scenes set it to 0"
        )
    pictures: dict[int, list[int]] = {}
    for index in range(len(source)):
        for label in sorted(source.picture_labels(index)):
            if label >= source.labels.num_stuff:
                pictures.setdefault(label - source.labels.num_stuff, []).append(index)
    return Pasting(config.paste, pictures, round(config.paste_until * steps))


def training_augmentation(config: AugmentationConfig) -> Augmentation:
    """What happens to training pictures."""
    return Augmentation(
        short_sides=config.short_sides,
        max_side=config.max_side,
        flip=config.flip,
        vertical_flip=config.vertical_flip,
        scale_jitter=config.scale_jitter,
        crop=config.crop,
        color=None if config.color is None else ColorJitter(**config.color.model_dump()),
    )


def test_sizing(config: PictureConfig) -> Augmentation:
    """The size policy of prediction, and nothing else."""
    return Augmentation(short_sides=(config.short_side,), max_side=config.max_side)
