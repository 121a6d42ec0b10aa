"""What a data set is like and what there is to compute with: the numbers that the recipe `finetune` is made of."""

import os
from collections.abc import Sequence

import numpy as np
import torch

from thingstuff.data.coco import CocoPanopticSource
from thingstuff.data.images import locate_segments, read_id_map, read_stored
from thingstuff.errors import InputError
from thingstuff.recipes.finetune import PERCENTILES, DataProfile, Machine

_COUNTED_MAPS = 100
"""Id maps whose pixels are counted where the JSON file names no areas."""
_MEASURED_PICTURES = 32
"""Pictures that mean and deviation are measured on."""


def measure_profile(source: CocoPanopticSource) -> DataProfile:
    """Measure a data set by the numbers of its JSON file; one picture is read, or 32 where they are not 8-bit RGB.

    Crowd regions are no objects. Pictures whose areas the JSON file does not name are counted, up to a hundred.

    Args:
        source: The pictures to learn from.

    Raises:
        InputError: A picture is damaged, or the JSON names no areas and an id map is damaged.
    """
    sizes = np.array(source.picture_sizes(), dtype=np.float64)
    short = sizes.min(axis=1)
    objects: list[float] = []
    stuff: list[int] = []
    counts = []
    unknown = [index for index, picture in enumerate(source.pictures) if None in picture.areas]
    counted = set(_spread(unknown, _COUNTED_MAPS))
    for index, picture in enumerate(source.pictures):
        things = [segment.label >= source.labels.num_stuff and not segment.crowd for segment in picture.segments]
        counts.append(sum(things))
        areas = picture.areas
        if None in areas:
            if index not in counted:
                continue
            ids = read_id_map(source.map_path(index))
            areas = locate_segments(ids, [segment.id for segment in picture.segments]).areas.tolist()
        for segment, thing, area in zip(picture.segments, things, areas, strict=True):
            if thing and area:
                objects.append(area**0.5 / short[index])
            elif segment.label < source.labels.num_stuff and area:
                stuff.append(area)
    appearing = np.zeros(len(source.labels))
    for index in range(len(source)):
        appearing[list(source.picture_labels(index))] += 1

    first = read_stored(source.image_path(0))
    channels, dtype = first.shape[2], first.dtype.name
    rgb = (channels, dtype) == (3, "uint8")
    mean, std = ((), ()) if rgb else measure_channels(source)
    return DataProfile(
        pictures=len(source),
        short_side=float(np.median(short)),
        aspect=float(np.percentile(sizes.max(axis=1) / short, 95)),
        channels=channels,
        dtype=dtype,
        mean=mean,
        std=std,
        object_sizes=tuple(np.percentile(objects, PERCENTILES).tolist()) if objects else (),
        objects_95=float(np.percentile(counts, 95)),
        objects_max=max(counts),
        stuff_area=float(np.percentile(stuff, 5)) if stuff else 0.0,
        class_shares=tuple((appearing / len(source)).tolist()),
        num_things=source.labels.num_things,
        num_stuff=source.labels.num_stuff,
    )


def measure_channels(source: CocoPanopticSource) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of every channel as it stands in the files, over a sample of the pictures.

    A channel that is the same everywhere has deviation 1.
    """
    sums: np.ndarray | None = None
    pixels = 0
    for index in _spread(range(len(source)), _MEASURED_PICTURES):
        image = read_stored(source.image_path(index))
        values = image.reshape(-1, image.shape[2]).astype(np.float64)
        found = np.stack([values.sum(axis=0), np.square(values).sum(axis=0)])
        if sums is not None and sums.shape != found.shape:
            raise InputError(
                f"{source.image_path(index)}: {image.shape[2]} channels, other pictures have {sums.shape[1]}; bring "
                "all pictures to one kind"
            )
        sums = found if sums is None else sums + found
        pixels += len(values)
    assert sums is not None
    mean, squares = sums / pixels
    deviation = np.sqrt(np.maximum(squares - np.square(mean), 0))
    deviation[deviation < 1e-3] = 1.0
    return tuple(np.round(mean, 3).tolist()), tuple(np.round(deviation, 3).tolist())


def this_machine() -> Machine:
    """What there is to compute with here, for all processes that ``torchrun`` has started."""
    memory = torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None
    return Machine(os.cpu_count() or 1, memory, int(os.environ.get("WORLD_SIZE", "1")))


def _spread(indices: Sequence[int], most: int) -> list[int]:
    """At most so many of the indices, evenly spread."""
    count = min(most, len(indices))
    return [indices[position * len(indices) // count] for position in range(count)]
