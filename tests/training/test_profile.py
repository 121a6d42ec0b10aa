"""What is measured of a data set, against numbers counted by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from thingstuff.data.coco import CocoPanopticSource, open_coco_panoptic
from thingstuff.errors import InputError
from thingstuff.structures import encode_ids
from thingstuff.training.profile import measure_channels, measure_profile, this_machine

CATEGORIES = [
    {"id": 1, "name": "ground", "isthing": 0},
    {"id": 2, "name": "ball", "isthing": 1},
    {"id": 3, "name": "ship", "isthing": 1},
]


def write(root: Path, pictures: dict[str, np.ndarray], squares: list[list[int]], *, with_areas: bool = True) -> None:
    """A data set of arrays and PNG files: squares of the given sides side by side on ground, all of them balls."""
    (root / "images").mkdir()
    (root / "panoptic_train").mkdir()
    images, annotations = [], []
    for number, (name, picture) in enumerate(pictures.items()):
        height, width = picture.shape[:2]
        if name.endswith(".npy"):
            np.save(root / "images" / name, picture)
        else:
            Image.fromarray(picture).save(root / "images" / name)
        ids = np.ones((height, width), dtype=np.int32)
        left = 0
        for place, side in enumerate(squares[number]):
            ids[:side, left : left + side] = place + 2
            left += side
        segments: list[dict[str, Any]] = [
            {"id": identity, "category_id": 1 if identity == 1 else 2, "iscrowd": 0}
            for identity in np.unique(ids).tolist()
        ]
        for segment in segments if with_areas else ():
            segment["area"] = int(np.count_nonzero(ids == segment["id"]))
        Image.fromarray(encode_ids(ids)).save(root / "panoptic_train" / f"{number}.png")
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        annotations.append({"image_id": number, "file_name": f"{number}.png", "segments_info": segments})
    document = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    (root / "panoptic_train.json").write_text(json.dumps(document))


def opened(root: Path) -> CocoPanopticSource:
    return open_coco_panoptic(root, "train")


@pytest.mark.parametrize("with_areas", [True, False])
def test_numbers_of_two_pictures(tmp_path: Path, with_areas: bool) -> None:
    black = np.zeros((20, 40, 3), dtype=np.uint8)
    write(tmp_path, {"a.png": black, "b.png": black[:10, :10]}, [[10, 2], []], with_areas=with_areas)
    profile = measure_profile(opened(tmp_path))
    assert (profile.pictures, profile.num_things, profile.num_stuff) == (2, 2, 1)
    assert profile.short_side == 15.0  # between 20 and 10
    assert profile.aspect == pytest.approx(1.95)  # 2 and 1; 95% of the way
    # Sides 10 and 2 of 20: 0.5 and 0.1; the median lies between, 2% and 98% nearly at the ends.
    assert profile.object_sizes[3] == pytest.approx(0.3)
    assert profile.object_sizes[0] == pytest.approx(0.1 + 0.02 * 0.4)
    assert profile.object_sizes[-1] == pytest.approx(0.5 - 0.02 * 0.4)
    assert (profile.objects_95, profile.objects_max) == (pytest.approx(1.9), 2)
    assert profile.stuff_area == pytest.approx(100 + 0.05 * (696 - 100))  # ground: 800 - 104, and 100
    assert profile.class_shares == (1.0, 0.5, 0.0)
    assert (profile.channels, profile.dtype, profile.mean, profile.is_rgb) == (3, "uint8", (), True)


def test_pixels_are_read_of_one_picture_where_they_are_rgb(tmp_path: Path) -> None:
    black = np.zeros((8, 8, 3), dtype=np.uint8)
    write(tmp_path, {"a.png": black, "b.png": black}, [[2], [2]])
    (tmp_path / "images" / "b.png").write_bytes(b"")
    (tmp_path / "panoptic_train" / "0.png").write_bytes(b"")
    assert measure_profile(opened(tmp_path)).pictures == 2


def test_channels_are_measured(tmp_path: Path) -> None:
    first = np.zeros((4, 4, 2), dtype=np.uint16)
    first[..., 1] = 7
    second = first.copy()
    second[..., 0] = 2000
    write(tmp_path, {"a.npy": first, "b.npy": second}, [[], []])
    profile = measure_profile(opened(tmp_path))
    assert (profile.channels, profile.dtype, profile.is_rgb) == (2, "uint16", False)
    assert profile.mean == (1000.0, 7.0)
    assert profile.std == (1000.0, 1.0)  # a channel that never changes is left as it is
    assert (profile.object_sizes, profile.objects_max) == ((), 0)
    np.save(tmp_path / "images" / "b.npy", second[..., :1])
    with pytest.raises(InputError, match=r"b\.npy: 1 channels, other pictures have 2; bring all pictures to one kind"):
        measure_channels(opened(tmp_path))


def test_crowds_are_no_objects(tmp_path: Path) -> None:
    write(tmp_path, {"a.png": np.zeros((8, 8, 3), dtype=np.uint8)}, [[2]])
    document = json.loads((tmp_path / "panoptic_train.json").read_text())
    document["annotations"][0]["segments_info"][1]["iscrowd"] = 1
    (tmp_path / "panoptic_train.json").write_text(json.dumps(document))
    profile = measure_profile(opened(tmp_path))
    assert (profile.object_sizes, profile.objects_max, profile.class_shares) == ((), 0, (1.0, 1.0, 0.0))


def test_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("WORLD_SIZE", "4")
    machine = this_machine()
    assert (machine.gpu_memory, machine.processes) == (None, 4)
    assert machine.cores >= 1
