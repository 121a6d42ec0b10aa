"""Every layout that people have already, with the same picture in each."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from published_sets import save_picture, write_ade20k, write_cityscapes, write_mapillary, write_mapillary_config

from thingstuff.data.coco import open_coco_panoptic
from thingstuff.data.layouts import find_panoptic
from thingstuff.errors import InputError
from thingstuff.structures import encode_ids

IDS = np.array([[0, 7], [7, 300]], dtype=np.int32)


def write_files(root: Path, json_path: str, maps: str, images: str, stem: str = "a", **names: str) -> Path:
    image_name, map_name = names.get("image", f"{stem}.jpg"), names.get("map", f"{stem}.png")
    segments = [{"id": 7, "category_id": 1, "area": 2}, {"id": 300, "category_id": 2, "area": 1}]
    document = {
        "images": [{"id": stem, "file_name": image_name, "height": 2, "width": 2}],
        "annotations": [{"image_id": stem, "file_name": map_name, "segments_info": segments}],
        "categories": [{"id": 1, "name": "sea", "isthing": 0}, {"id": 2, "name": "boat", "isthing": 1}],
    }
    (root / json_path).parent.mkdir(parents=True, exist_ok=True)
    (root / json_path).write_text(json.dumps(document))
    (root / maps).mkdir(parents=True, exist_ok=True)
    Image.fromarray(encode_ids(IDS)).save(root / maps / map_name)
    save_picture(root / images / names.get("stored", image_name), 2, 2)
    return root


CITY: dict[str, str] = {
    "stem": "aachen_000000_000019",
    "image": "aachen_000000_000019_gtFine_leftImg8bit.png",
    "map": "aachen_000000_000019_gtFine_panoptic.png",
    "stored": "aachen/aachen_000000_000019_leftImg8bit.png",
}
LAYOUTS: list[tuple[str, tuple[str, str, str], dict[str, Any]]] = [
    ("thingstuff", ("panoptic_val.json", "panoptic_val", "images"), {}),
    ("COCO", ("annotations/panoptic_val2017.json", "annotations/panoptic_val2017", "val2017"), {}),
    ("COCO", ("annotations/panoptic_val2017.json", "panoptic_val2017", "val2017"), {}),
    ("COCO", ("annotations/panoptic_val2017.json", "panoptic_val2017", "images/val2017"), {}),
    ("COCO", ("annotations/panoptic_val.json", "annotations/panoptic_val", "images/val"), {}),
    ("split folders", ("annotations/val.json", "annotations/val", "images/val"), {}),
    ("split folders", ("val.json", "annotations/val", "images/val"), {}),
    ("Cityscapes", ("gtFine/cityscapes_panoptic_val.json", "gtFine/cityscapes_panoptic_val", "leftImg8bit/val"), CITY),
    ("ADE20K", ("ade20k_panoptic_val.json", "ade20k_panoptic_val", "images/validation"), {}),
    (
        "ADE20K",
        (
            "ADEChallengeData2016/ade20k_panoptic_val.json",
            "ADEChallengeData2016/ade20k_panoptic_val",
            "ADEChallengeData2016/images/validation",
        ),
        {},
    ),
    (
        "Mapillary Vistas v2.0",
        ("validation/v2.0/panoptic/panoptic_2020.json", "validation/v2.0/panoptic", "validation/images"),
        {},
    ),
    (
        "Mapillary Vistas v1.2",
        ("validation/v1.2/panoptic/panoptic_2018.json", "validation/v1.2/panoptic", "validation/images"),
        {},
    ),
    (
        "Mapillary Vistas v1.2",
        ("validation/panoptic/panoptic_2018.json", "validation/panoptic", "validation/images"),
        {},
    ),
]


@pytest.mark.parametrize(("name", "places", "names"), LAYOUTS)
def test_layouts(tmp_path, name, places, names):
    write_files(tmp_path, *places, **names)
    source = open_coco_panoptic(tmp_path, "val")
    json_path, maps, images = places
    assert source.layout == f"layout {name}: {json_path}, {maps}/, {images}/"
    sample = source.read(0)
    assert sample.image.shape == (2, 2, 3)
    assert sample.truth is not None
    np.testing.assert_array_equal(sample.truth.ids, IDS)


@pytest.mark.parametrize(("name", "places", "names"), LAYOUTS)
def test_splits_are_named_where_the_wanted_one_is_missing(tmp_path, name, places, names):
    write_files(tmp_path, *places, **names)
    with pytest.raises(InputError, match=r"panoptic_train\.json: there is no such file; splits here: val$"):
        find_panoptic(tmp_path, "train")


def test_names_of_coco_are_splits_too(tmp_path):
    write_files(tmp_path, "annotations/panoptic_val2017.json", "panoptic_val2017", "val2017")
    assert len(open_coco_panoptic(tmp_path, "val2017")) == 1
    write_files(tmp_path, "annotations/panoptic_unlabeled.json", "panoptic_unlabeled", "unlabeled")
    assert len(open_coco_panoptic(tmp_path, "unlabeled")) == 1


def test_our_layout_comes_first(tmp_path):
    for _, places, names in reversed(LAYOUTS):
        write_files(tmp_path, *places, **names)
    assert find_panoptic(tmp_path, "val").layout == "thingstuff"


def test_missing_folders_are_named_as_their_layout_has_them(tmp_path):
    write_files(tmp_path, "annotations/panoptic_val2017.json", "elsewhere", "val2017")
    with pytest.raises(InputError, match=r"annotations/panoptic_val2017: 1 PNG files are missing, the first is a\.png"):
        open_coco_panoptic(tmp_path, "val")


def test_overlapping_instances_lie_where_their_layout_has_them(tmp_path):
    write_files(tmp_path, "annotations/panoptic_val2017.json", "panoptic_val2017", "val2017")
    with pytest.raises(InputError, match=r"annotations/instances_val2017\.json: there is no such file; overlapping"):
        open_coco_panoptic(tmp_path, "val", overlapping=True)
    instances = [{"image_id": "a", "category_id": 2, "segmentation": [[0, 0, 2, 0, 2, 2, 0, 2]]}]
    path = tmp_path / "annotations/instances_val2017.json"
    path.write_text(json.dumps({"images": [], "categories": [], "annotations": instances}))
    truth = open_coco_panoptic(tmp_path, "val", overlapping=True).read(0).truth
    assert truth is not None
    assert truth.instances is not None
    assert truth.instances.masks.tolist() == [[[True, True], [True, True]]]


def test_published_data_sets_as_they_were_unpacked(tmp_path):
    write_cityscapes(tmp_path / "c", "train", "aachen_1_2", np.full((1, 2), 7))
    write_ade20k(tmp_path / "a", "training", "x", np.array([[1]]), np.zeros((1, 1, 3)))
    write_mapillary_config(tmp_path / "m/config.json")
    write_mapillary(tmp_path / "m", "training", "x", np.full((1, 2), 256))
    for folder, name in (("c", "cityscapes"), ("a", "ade20k"), ("m", "mapillary")):
        hint = rf"this is {name} as it was unpacked; run thingstuff data prepare {name} --root .*/{folder}$"
        with pytest.raises(InputError, match=hint):
            open_coco_panoptic(tmp_path / folder, "train")
