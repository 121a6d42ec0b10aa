"""Small data sets in the original layouts of Cityscapes, Mapillary Vistas and ADE20K."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def save_picture(path: Path, height: int, width: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (9, 8, 7)).save(path)


def save_png(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_cityscapes(root: Path, split: str, name: str, ids: np.ndarray) -> None:
    """One picture with its instance ids; the name is that of the city and two numbers."""
    city = name.split("_")[0]
    save_picture(root / f"leftImg8bit/{split}/{city}/{name}_leftImg8bit.png", *ids.shape)
    save_png(root / f"gtFine/{split}/{city}/{name}_gtFine_instanceIds.png", ids.astype(np.uint16))
    labels = np.where(ids >= 1000, ids // 1000, ids).astype(np.uint8)
    save_png(root / f"gtFine/{split}/{city}/{name}_gtFine_labelIds.png", labels)


def write_polygons(root: Path, split: str, name: str, size: tuple[int, int], objects: Sequence[Any]) -> Path:
    """One picture with the polygons that Cityscapes' maps are drawn from."""
    city = name.split("_")[0]
    save_picture(root / f"leftImg8bit/{split}/{city}/{name}_leftImg8bit.png", *size)
    path = root / f"gtFine/{split}/{city}/{name}_gtFine_polygons.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"imgHeight": size[0], "imgWidth": size[1], "objects": list(objects)}))
    return path


MAPILLARY_LABELS = [
    ("animal--bird", "Bird", True, True),
    ("construction--barrier--curb", "Curb", False, True),
    ("object--vehicle--car", "Car", True, True),
    ("void--unlabeled", "Unlabeled", False, False),
]
"""Name, short name, whether objects are told apart, whether it is evaluated."""


def write_mapillary_config(path: Path, labels: Sequence[Any] = MAPILLARY_LABELS) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    listed = [
        {"color": [10 * n, 20, 30], "evaluate": evaluate, "instances": instances, "name": name, "readable": short}
        for n, (name, short, instances, evaluate) in enumerate(labels)
    ]
    structure = "{split}/{content}/{image:s}.{extension:s}"
    content = {"labels": listed, "mapping": "public", "folder_structure": structure, "version": "1.1"}
    path.write_text(json.dumps(content))


def write_mapillary(root: Path, folder: str, name: str, numbers: np.ndarray, version: str = "") -> None:
    """One picture with its 16-bit map; ``version`` is a folder of release 2.0, empty for releases 1.x."""
    save_picture(root / folder / "images" / f"{name}.jpg", *numbers.shape)
    below = root / folder / version
    save_png(below / "instances" / f"{name}.png", numbers.astype(np.uint16))
    save_png(below / "labels" / f"{name}.png", (numbers // 256).astype(np.uint8))


def write_ade20k(root: Path, folder: str, name: str, classes: np.ndarray, objects: np.ndarray) -> None:
    """One picture with its class map and its object map (red: thing class, green: object)."""
    home = root / "ADEChallengeData2016"
    save_picture(home / "images" / folder / f"{name}.jpg", *classes.shape)
    save_png(home / "annotations" / folder / f"{name}.png", classes.astype(np.uint8))
    save_png(home / "annotations_instance" / folder / f"{name}.png", objects.astype(np.uint8))
