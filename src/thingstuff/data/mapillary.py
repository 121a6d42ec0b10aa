"""Mapillary Vistas in its own layouts, of version 1.2 and 2.0.

The classes are in ``config.json`` (release 1.x) or ``config_v1.2.json`` and ``config_v2.0.json`` (release 2.0),
pictures in ``training/images/``, the annotation in ``training/instances/`` or ``training/<version>/instances/``: 16-bit
PNG files of 256 times the label plus the number of the object. Label 0 with object 0 is a bird, not void: ids are one
more. What the configuration does not evaluate is void.

Source: https://www.mapillary.com/dataset/vistas, README of the data set; https://github.com/mapillary/mapillary_vistas
"""

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Literal

from thingstuff.data.drawn.lookup import field, json_begins, read_json
from thingstuff.data.id_maps import IdMapSource, MapFiles, list_files, read_numbers, renumber
from thingstuff.errors import InputError
from thingstuff.labels import LabelSet
from thingstuff.structures import Truth, TruthSegment

Version = Literal["v1.2", "v2.0"]
"""Of the annotation; release 2.0 has both for the same pictures."""
SPLITS = {"train": "training", "val": "validation"}
"""Folder of every split with annotations."""
_PER_LABEL = 256


def recognize(root: Path) -> bool:
    """Whether this is the root of Mapillary Vistas, with or without its configuration."""
    try:
        if not (root / "training/images").is_dir():
            return False
        configs = find_configs(root)
        if configs:
            return any(json_begins(config, ("labels", "readable")) for config in configs.values())
        places = (root / "training" / version for version in ("", "v1.2", "v2.0"))
        return any(all((place / kind).is_dir() for kind in ("labels", "instances", "panoptic")) for place in places)
    except OSError:
        return False


def find_configs(root: Path) -> dict[Version, Path]:
    """The configuration of every version that is there, the newest first."""
    candidates: list[tuple[Version, Path]] = [
        ("v2.0", root / "config_v2.0.json"),
        ("v1.2", root / "config_v1.2.json"),
        ("v1.2", root / "config.json"),
    ]
    found: dict[Version, Path] = {}
    for version, path in candidates:
        if path.is_file():
            found.setdefault(version, path)
    return found


def annotation_folder(root: Path, split: str, version: Version) -> Path:
    """Where the annotation of a split lies: in a folder of its version, but for releases 1.x."""
    folder = root / SPLITS.get(split, split)
    return folder / version if (folder / version).is_dir() or version == "v2.0" else folder


def open_mapillary(root: Path, version: Version | None = None) -> IdMapSource:
    """Open the splits training and validation of Mapillary Vistas, as far as they are there.

    Args:
        root: Folder with ``training/``, ``validation/`` and the configuration.
        version: Of the annotation; None: the newest that is there.

    Raises:
        InputError: Configuration or annotation are missing, or an annotation has no picture.
    """
    configs = find_configs(root)
    if not configs or (version is not None and version not in configs):
        name = f"config_{version}.json" if version else "config_v2.0.json or config.json"
        raise InputError(f"{root}: has no {name}; name the folder into which Mapillary Vistas was unpacked")
    chosen = version or next(iter(configs))
    labels, num_labels = _read_config(configs[chosen])
    files = []
    for split, name in SPLITS.items():
        maps = {path.stem: [path] for path in (annotation_folder(root, split, chosen) / "instances").glob("*.png")}
        images = {path.stem: path for path in (root / name / "images").glob("*.jpg")}
        files += list_files(split, maps, images, root / name / "images")
    if not files:
        folder = annotation_folder(root, "train", chosen) / "instances"
        raise InputError(f"{folder}: has no annotation of {chosen}; unpack the data set again, or take another version")
    return IdMapSource(labels, tuple(files), partial(_decode, labels=labels, num_labels=num_labels))


def _read_config(path: Path) -> tuple[LabelSet, int]:
    """The evaluated classes, whose ids are their places in the list plus one, and the length of the list."""
    listed = field(read_json(path), "labels", list, str(path))
    read = []
    for position, label in enumerate(listed):
        where = f"{path}: labels[{position}]"
        names = field(label, "readable", str, where), field(label, "name", str, where)
        flags = [label.get(flag) for flag in ("instances", "evaluate")]
        if not all(isinstance(flag, bool) for flag in flags):
            raise InputError(f"{where}: instances and evaluate are {flags}; expected true or false")
        read.append((position + 1, names, flags, field(label, "color", list, where)))
    short = Counter(names[0] for _, names, (_, evaluated), _ in read if evaluated)
    categories = [
        {"id": identity, "name": names[0] if short[names[0]] == 1 else names[1], "isthing": isthing, "color": color}
        for identity, names, (isthing, evaluated), color in read
        if evaluated
    ]
    return LabelSet.from_coco(categories, str(path)), len(listed)


def _decode(files: MapFiles, labels: LabelSet, num_labels: int) -> Truth:
    (path,) = files.maps

    def meaning(number: int) -> TruthSegment | None:
        category_id = number // _PER_LABEL + 1
        if category_id > num_labels:
            raise InputError(f"{path}: label {category_id - 1} of {num_labels}; is the annotation of another version?")
        if category_id not in labels.index:
            return None
        label = labels.index[category_id]
        first = (category_id - 1) * _PER_LABEL
        return TruthSegment((number if labels.categories[label].isthing else first) + 1, label)

    ids, segments = renumber(read_numbers(path), meaning)
    return Truth(ids, tuple(segments.values()))
