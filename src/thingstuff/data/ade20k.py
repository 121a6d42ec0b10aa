"""ADE20K's scene parsing benchmark of 150 classes in its own layout, the folder ``ADEChallengeData2016``.

``annotations/`` says the class of every pixel (8 bits, 0 is void), ``annotations_instance/`` which object it belongs to
(red: number among the 100 thing classes, green: number of the object, from 1). Both overlap a little: stuff is taken
from the first, and things from the second over it, as in the panoptic files that are in use. Pixels of a thing class
without an object are void.

Source: http://sceneparsing.csail.mit.edu and https://github.com/CSAILVision/placeschallenge
"""

from functools import partial
from pathlib import Path

import numpy as np

from thingstuff.data.id_maps import (
    IdMapSource,
    MapFiles,
    list_files,
    read_colors,
    read_numbers,
    renumber,
    shipped_labels,
)
from thingstuff.errors import InputError
from thingstuff.labels import LabelSet
from thingstuff.structures import VOID_ID, Truth, TruthSegment

SPLITS = {"train": "training", "val": "validation"}
"""Folder of every split."""
_PER_LABEL = 256


def ade20k_labels() -> LabelSet:
    """The 150 classes, with ids 0 to 149."""
    return shipped_labels("data/ade20k.toml")


def find_home(root: Path) -> Path:
    """The folder ``ADEChallengeData2016``, which ``root`` is or contains."""
    inside = root / "ADEChallengeData2016"
    return inside if inside.is_dir() else root


def recognize(root: Path) -> bool:
    """Whether this is the root of ADE20K's benchmark, also without the objects, which come in another file."""
    try:
        home = find_home(root)
        has_objects = (home / "annotations_instance/training").is_dir() or (home / "objectInfo150.txt").is_file()
        return (home / "annotations/training").is_dir() and has_objects
    except OSError:
        return False


def open_ade20k(root: Path) -> IdMapSource:
    """Open the splits training and validation of ADE20K's benchmark, as far as they are there.

    Args:
        root: The folder ``ADEChallengeData2016``, or the one with it.

    Raises:
        InputError: An annotation has no picture or no objects, or there is none.
    """
    home, labels = find_home(root), ade20k_labels()
    files = []
    for split, name in SPLITS.items():
        classes = {path.stem: path for path in (home / "annotations" / name).glob("*.png")}
        objects = {path.stem: path for path in (home / "annotations_instance" / name).glob("*.png")}
        missing = sorted(classes.keys() - objects.keys())
        if missing:
            raise InputError(
                f"{home / 'annotations_instance' / name}: {len(missing)} PNG files are missing, the first is "
                f"{missing[0]}.png; unpack annotations_instance.tar into {home}"
            )
        images = {path.stem: path for path in (home / "images" / name).glob("*.jpg")}
        maps = {stem: [path, objects[stem]] for stem, path in classes.items()}
        files += list_files(split, maps, images, home / "images" / name)
    if not files:
        raise InputError(f"{home}: has no annotations/training/*.png; unpack ADEChallengeData2016.zip")
    return IdMapSource(labels, tuple(files), partial(_decode, labels=labels))


def _decode(files: MapFiles, labels: LabelSet) -> Truth:
    class_path, object_path = files.maps
    things = [category.id for category in labels.categories if category.isthing]  # in the order of their ids

    def stuff(number: int) -> TruthSegment | None:
        if number > len(labels):
            raise InputError(f"{class_path}: {number} is no class; expected 0 to {len(labels)}, unpack it again")
        label = labels.index[number - 1] if number else 0
        return None if number == 0 or labels.categories[label].isthing else TruthSegment(number, label)

    def thing(number: int) -> TruthSegment | None:
        rank, identity = divmod(number, _PER_LABEL)
        if rank > len(things):
            raise InputError(f"{object_path}: {rank} is no thing class; expected 0 to {len(things)}, unpack it again")
        if rank == 0 or identity == 0:
            return None
        category_id = things[rank - 1]
        return TruthSegment((category_id + 1) * _PER_LABEL + identity, labels.index[category_id])

    ids, segments = renumber(read_numbers(class_path), stuff)
    channels = read_colors(object_path).astype(np.int32)
    if channels.shape[:2] != ids.shape:
        raise InputError(
            f"{object_path}: {channels.shape[1]} x {channels.shape[0]} pixels (width x height), but its file in "
            f"annotations/ has {ids.shape[1]} x {ids.shape[0]}; unpack both again"
        )
    object_ids, objects = renumber(channels[..., 0] * _PER_LABEL + channels[..., 1], thing)
    ids = np.where(object_ids == VOID_ID, ids, object_ids)
    left = set(np.unique(ids).tolist())
    return Truth(ids, tuple(segment for segment in (segments | objects).values() if segment.id in left))
