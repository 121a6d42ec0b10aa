"""A small data set without any defect, which tests damage before it is written or afterwards."""

import copy
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from thingstuff.data.checking.check import CheckedData, check_data
from thingstuff.structures import encode_ids

ROAD, PERSON, CAR = 3, 1, 10
CATEGORIES = [
    {"id": ROAD, "name": "road", "isthing": 0, "color": [128, 64, 128]},
    {"id": PERSON, "name": "person", "isthing": 1, "color": [220, 20, 60]},
    {"id": CAR, "name": "car", "isthing": 1, "color": [0, 0, 142]},
]
HEIGHT, WIDTH = 30, 40
# Rows 0 to 9 are void, below is road; a person of 4 x 12 and a car of 10 x 5 stand on it.
IDS = np.zeros((HEIGHT, WIDTH), dtype=np.int32)
IDS[10:] = 5
IDS[12:24, 3:7] = 300
IDS[20:25, 20:30] = 70000
SEGMENTS = [
    {"id": 5, "category_id": ROAD, "area": 800 - 48 - 50, "bbox": [0, 10, 40, 20], "iscrowd": 0},
    {"id": 300, "category_id": PERSON, "area": 48, "bbox": [3, 12, 4, 12], "iscrowd": 0},
    {"id": 70000, "category_id": CAR, "area": 50, "bbox": [20, 20, 10, 5], "iscrowd": 0},
]


def photo(seed: int) -> Image.Image:
    """A picture that looks like no other."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)


@dataclass
class DataSet:
    """Splits train (pictures a, b) and val (c, d), every picture with the same labels."""

    root: Path
    documents: dict[str, Any] = field(default_factory=dict)
    ids: dict[str, np.ndarray] = field(default_factory=dict)
    photos: dict[str, Image.Image] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for split, names in (("train", "ab"), ("val", "cd")):
            self.documents[split] = {
                "info": {"kept": [1, 2.5, None, "ä"]},
                "images": [
                    {"id": ord(name), "file_name": f"{name}.png", "height": HEIGHT, "width": WIDTH} for name in names
                ],
                "annotations": [
                    {"image_id": ord(name), "file_name": f"{name}.png", "segments_info": copy.deepcopy(SEGMENTS)}
                    for name in names
                ],
                "categories": copy.deepcopy(CATEGORIES),
            }
            for name in names:
                self.ids[name] = IDS.copy()
                self.photos[name] = photo(ord(name))

    def images(self, split: str = "train") -> list[dict[str, Any]]:
        return self.documents[split]["images"]

    def annotations(self, split: str = "train") -> list[dict[str, Any]]:
        return self.documents[split]["annotations"]

    def segments(self, split: str = "train", position: int = 0) -> list[dict[str, Any]]:
        return self.annotations(split)[position]["segments_info"]

    def categories(self, split: str = "train") -> list[dict[str, Any]]:
        return self.documents[split]["categories"]

    def split_of(self, name: str) -> str:
        return "train" if name in "ab" else "val"

    def photo_path(self, name: str) -> Path:
        return self.root / "images" / f"{name}.png"

    def map_path(self, name: str) -> Path:
        return self.root / f"panoptic_{self.split_of(name)}" / f"{name}.png"

    def json_path(self, split: str = "train") -> Path:
        return self.root / f"panoptic_{split}.json"

    def write(self) -> "DataSet":
        (self.root / "images").mkdir(parents=True)
        for split, document in self.documents.items():
            (self.root / f"panoptic_{split}").mkdir()
            self.json_path(split).write_text(json.dumps(document))
        for name, ids in self.ids.items():
            Image.fromarray(encode_ids(ids)).save(self.map_path(name))
            self.photos[name].save(self.photo_path(name))
        return self

    def read(self, split: str = "train") -> dict[str, Any]:
        return json.loads(self.json_path(split).read_text())

    def check(self, split: str | None = None) -> CheckedData:
        return check_data(self.root, split, workers=1)


@pytest.fixture
def data_set(tmp_path: Path) -> DataSet:
    return DataSet(tmp_path / "streets")
