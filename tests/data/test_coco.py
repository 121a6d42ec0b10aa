import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from thingstuff.data.coco import (
    CocoPanopticSource,
    open_coco_panoptic,
    panoptic_annotation,
    panoptic_truth,
    save_panoptic_png,
    write_json,
)
from thingstuff.data.images import read_id_map
from thingstuff.data.loader import PictureSource
from thingstuff.data.transforms import Augmentation, augment
from thingstuff.errors import InputError
from thingstuff.structures import Panoptic, Segment, TruthSegment, encode_ids

SHARED = Path(__file__).parents[2] / "../shared/data"
CATEGORIES = [
    {"id": 10, "name": "car", "isthing": 1},
    {"id": 3, "name": "road", "isthing": 0},
    {"id": 4, "name": "person", "isthing": 1},
]
# In class order: road (stuff), then person, then car by id.
ROAD, PERSON, CAR = 0, 1, 2
IDS = np.array([[0, 300, 300, 7], [7, 7, 70000, 70000], [7, 7, 7, 0]], dtype=np.int32)
SEGMENTS = [
    {"id": 300, "category_id": 10, "area": 2, "bbox": [1, 0, 2, 1], "iscrowd": 0},
    {"id": 7, "category_id": 3, "area": 6, "bbox": [0, 0, 4, 3], "iscrowd": 0},
    {"id": 70000, "category_id": 4, "area": 2, "bbox": [2, 1, 2, 1], "iscrowd": 1},
]


def document(**changes: Any) -> dict[str, Any]:
    """A data set of one 4 x 3 picture."""
    annotation = {"image_id": 1, "file_name": "a.png", "segments_info": [dict(segment) for segment in SEGMENTS]}
    image = {"id": 1, "file_name": "a.jpg", "height": 3, "width": 4}
    return {"images": [image], "annotations": [annotation], "categories": CATEGORIES} | changes


def write_data_set(root: Path, content: Any, ids: np.ndarray = IDS, size: tuple[int, int] = (3, 4)) -> Path:
    (root / "images").mkdir()
    (root / "panoptic_val").mkdir()
    Image.new("RGB", (size[1], size[0]), (5, 6, 7)).save(root / "images/a.jpg")
    Image.fromarray(encode_ids(ids)).save(root / "panoptic_val/a.png")
    (root / "panoptic_val.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return root


def refused(root: Path, *parts: str, overlapping: bool = False) -> None:
    """Opening fails with one line that has all ``parts``."""
    with pytest.raises(InputError) as caught:
        open_coco_panoptic(root, "val", overlapping)
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


# --- reading ---


def test_read(tmp_path):
    source: PictureSource = open_coco_panoptic(write_data_set(tmp_path, document()), "val")
    assert isinstance(source, CocoPanopticSource)
    assert len(source) == 1
    assert source.picture_sizes() == [(3, 4)]
    assert source.picture_labels(0) == {ROAD, PERSON, CAR}
    assert source.image_path(0) == tmp_path / "images/a.jpg"
    assert source.map_path(0) == tmp_path / "panoptic_val/a.png"
    sample = source.read(0)
    assert (sample.image_id, sample.file_name, sample.original_size) == (1, "a.jpg", (3, 4))
    assert sample.image.shape == (3, 4, 3)
    assert sample.truth is not None
    np.testing.assert_array_equal(sample.truth.ids, IDS)
    assert sample.truth.segments == (
        TruthSegment(300, CAR),
        TruthSegment(7, ROAD),
        TruthSegment(70000, PERSON, crowd=True),
    )
    assert sample.truth.instances is None


def test_pictures_come_in_the_order_of_the_annotations_and_others_are_left_out(tmp_path):
    images = [{"id": name, "file_name": f"{name}.jpg", "height": 3, "width": 4} for name in ("a", "b", "c")]
    annotations = [{"image_id": name, "file_name": f"{name}.png", "segments_info": []} for name in ("c", "a")]
    root = write_data_set(tmp_path, document(images=images, annotations=annotations), ids=np.zeros_like(IDS))
    (root / "images/c.jpg").write_bytes((root / "images/a.jpg").read_bytes())
    (root / "panoptic_val/c.png").write_bytes((root / "panoptic_val/a.png").read_bytes())
    source = open_coco_panoptic(root, "val")
    assert [source.read(index).image_id for index in range(len(source))] == ["c", "a"]


def test_files_may_lie_in_folders_of_their_own(tmp_path):
    content = document()
    content["images"][0]["file_name"] = "city/a.jpg"
    root = write_data_set(tmp_path, content)
    (root / "images/city").mkdir()
    (root / "images/a.jpg").rename(root / "images/city/a.jpg")
    assert open_coco_panoptic(root, "val").read(0).file_name == "city/a.jpg"


def test_area_may_be_absent_or_written_as_a_float(tmp_path):
    content = document()
    del content["annotations"][0]["segments_info"][0]["area"]
    content["annotations"][0]["segments_info"][1]["area"] = 6.0
    assert open_coco_panoptic(write_data_set(tmp_path, content), "val").read(0).truth is not None


# --- what JSON and file listing show ---


def test_root_is_missing_or_a_file(tmp_path):
    refused(tmp_path / "absent", "absent: there is no such folder; expected a folder with images/, panoptic_val.json")
    (tmp_path / "file").touch()
    refused(tmp_path / "file", "file: this is a file; expected a folder with images/")


def test_json_is_missing(tmp_path):
    refused(tmp_path, "panoptic_val.json: there is no such file; expected a folder with images/")
    (tmp_path / "panoptic_train.json").touch()
    (tmp_path / "panoptic_test.json").touch()
    refused(tmp_path, "panoptic_val.json: there is no such file; splits here: test, train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"images": [', "panoptic_val.json: cannot be read as JSON (Expecting value: line 1 column 13"),
        ("[1, 2]", "panoptic_val.json: holds a list, not an object"),
        ({"images": [], "categories": []}, "lacks the list 'annotations'"),
        ({"images": [], "annotations": {}, "categories": []}, "lacks the list 'annotations'"),
        ({"annotations": [], "categories": []}, "lacks the list 'images'"),
        ({"images": [], "annotations": []}, "lacks the list 'categories'"),
        (document(annotations=[]), "'annotations' is empty; the data set has no annotated picture"),
        (document(categories=[]), "'categories' is empty"),
        (document(categories=[{"id": 3, "name": "road"}]), "categories[0] ('road') lacks 'isthing'"),
        (document(images=[]), "annotations[0] (a.png): no picture in 'images' has the id 1; add it there"),
        (document(images=document()["images"] * 2), "images[1] (a.jpg): another picture has the id 1; give each"),
        (document(annotations=document()["annotations"] * 2), "annotations[1] (a.png): picture 1 is annotated twice"),
        (document(images=[{"id": 1, "file_name": "a.jpg", "height": 3}]), "images[0]: width is missing; expected a"),
        (
            document(images=[{"id": 1, "file_name": "a.jpg", "height": 0, "width": 4}]),
            "images[0] (a.jpg): 4 x 0 pixels; write",
        ),
        (document(images=["a.jpg"]), "images[0] is 'a.jpg', not an object"),
        (document(annotations=[{"image_id": 1, "file_name": "a.png"}]), "segments_info is missing; expected a list"),
    ],
)
def test_wrong_json(tmp_path, content, message):
    refused(write_data_set(tmp_path, content), str(tmp_path / "panoptic_val.json"), message)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("category_id", 99, "segments_info[1]: category_id 99 is not among 'categories'; add it or correct it"),
        ("category_id", "road", "segments_info[1]: category_id is 'road'; expected a whole number"),
        ("id", 300, "segments_info[1]: another segment of the picture has the id 300; give each its own"),
        ("id", 0, "segments_info[1]: id is 0; 0 means void; number segments from 1"),
        ("id", 2**24, "segments_info[1]: id is 16777216; ids are from 1 to 16777215"),
        ("id", True, "segments_info[1]: id is True; expected a whole number"),
        ("iscrowd", 2, "segments_info[1]: iscrowd is 2; write 1 for a group of objects, else 0"),
        ("area", "6", "segments_info[1]: area is '6'; expected a number"),
        ("area", 6.5, "segments_info[1]: area is 6.5; write the number of pixels"),
    ],
)
def test_wrong_segment(tmp_path, field, value, message):
    content = document()
    content["annotations"][0]["segments_info"][1][field] = value
    refused(write_data_set(tmp_path, content), f"panoptic_val.json: annotations[0] (a.png): {message}")


@pytest.mark.parametrize(
    ("gone", "message"),
    [("images/a.jpg", "1 pictures are missing, the first is a.jpg"), ("panoptic_val/a.png", "1 PNG files are missing")],
)
def test_missing_files(tmp_path, gone, message):
    root = write_data_set(tmp_path, document())
    (root / gone).unlink()
    refused(root, str((root / gone).parent), message)


def test_missing_folder_counts_all_its_files(tmp_path):
    images = [{"id": n, "file_name": f"{n}.jpg", "height": 3, "width": 4} for n in range(3)]
    annotations = [{"image_id": n, "file_name": f"{n}.png", "segments_info": []} for n in range(3)]
    (tmp_path / "panoptic_val.json").write_text(json.dumps(document(images=images, annotations=annotations)))
    refused(tmp_path, "images: 3 pictures are missing, the first is 0.jpg; put them there")


# --- what only pixels show ---


def read_refused(root: Path, *parts: str) -> None:
    source = open_coco_panoptic(root, "val")
    with pytest.raises(InputError) as caught:
        source.read(0)
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


def test_picture_of_another_size(tmp_path):
    root = write_data_set(tmp_path, document(), size=(4, 3))
    read_refused(root, "a.jpg: 3 x 4 pixels (width x height, upright), but panoptic_val.json says 4 x 3")


def test_png_of_another_size(tmp_path):
    root = write_data_set(tmp_path, document(), ids=IDS[:2])
    read_refused(root, "a.png: 4 x 2 pixels", "panoptic_val.json says 4 x 3; picture, PNG and JSON must agree")


def test_id_that_the_json_lacks(tmp_path):
    ids = IDS.copy()
    ids[0, 0] = ids[2, 3] = 12
    root = write_data_set(tmp_path, document(), ids=ids)
    read_refused(root, "a.png: id 12 has 2 pixels, but panoptic_val.json does not list it; add it to segments_info")


def test_id_that_the_png_lacks(tmp_path):
    root = write_data_set(tmp_path, document(), ids=np.where(IDS == 300, 0, IDS).astype(np.int32))
    read_refused(root, "a.png: no pixel has id 300, which panoptic_val.json lists; remove it from segments_info")


def test_wrong_area(tmp_path):
    content = document()
    content["annotations"][0]["segments_info"][1]["area"] = 5
    root = write_data_set(tmp_path, content)
    read_refused(root, "panoptic_val.json: segment 7 of a.png has area 5, but the PNG file has 6 pixels of it; write 6")


def test_truncated_picture(tmp_path):
    root = write_data_set(tmp_path, document())
    (root / "images/a.jpg").write_bytes((root / "images/a.jpg").read_bytes()[:200])
    read_refused(root, str(root / "images/a.jpg"))


# --- overlapping instances ---


def write_instances(root: Path, *annotations: dict[str, Any]) -> Path:
    content = {"images": [], "categories": [], "annotations": list(annotations)}
    (root / "instances_val.json").write_text(json.dumps(content))
    return root


def test_overlapping_instances(tmp_path):
    root = write_instances(
        write_data_set(tmp_path, document()),
        # The left two columns, as a polygon.
        {"image_id": 1, "category_id": 10, "segmentation": [[0, 0, 2, 0, 2, 3, 0, 3]], "iscrowd": 0},
        # All but the first column, column by column: 3 pixels off, 9 on.
        {"image_id": 1, "category_id": 4, "segmentation": {"counts": [3, 9], "size": [3, 4]}, "iscrowd": 1},
        # A line of two corners is no polygon: left out.
        {"image_id": 1, "category_id": 4, "segmentation": [[0, 0, 2, 2]], "iscrowd": 0},
        {"image_id": 999, "category_id": 4, "segmentation": [[0, 0, 2, 0, 2, 3]], "iscrowd": 0},
    )
    sample = open_coco_panoptic(root, "val", overlapping=True).read(0)
    assert sample.truth is not None
    instances = sample.truth.instances
    assert instances is not None
    np.testing.assert_array_equal(instances.masks[0], [[True, True, False, False]] * 3)
    np.testing.assert_array_equal(instances.masks[1], [[False, True, True, True]] * 3)
    assert instances.labels.tolist() == [CAR - 1, PERSON - 1]  # thing indices
    assert instances.crowd.tolist() == [False, True]


def test_compressed_run_lengths(tmp_path):
    mask_operations = pytest.importorskip("pycocotools.mask")
    mask = np.array([[0, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 1]], dtype=np.uint8)
    encoded = mask_operations.encode(np.asfortranarray(mask))
    segmentation = {"size": [3, 4], "counts": encoded["counts"].decode()}
    root = write_instances(
        write_data_set(tmp_path, document()), {"image_id": 1, "category_id": 10, "segmentation": segmentation}
    )
    sample = open_coco_panoptic(root, "val", overlapping=True).read(0)
    assert sample.truth is not None
    assert sample.truth.instances is not None
    np.testing.assert_array_equal(sample.truth.instances.masks, mask[None].astype(bool))


def test_a_picture_without_instances(tmp_path):
    root = write_instances(
        write_data_set(tmp_path, document()), {"image_id": 999, "category_id": 4, "segmentation": [[0, 0, 2, 0, 2, 3]]}
    )
    sample = open_coco_panoptic(root, "val", overlapping=True).read(0)
    assert sample.truth is not None
    assert sample.truth.instances is not None
    assert sample.truth.instances.masks.shape == (0, 3, 4)


def test_wrong_instances(tmp_path):
    root = write_data_set(tmp_path, document())
    refused(root, "instances_val.json: there is no such file", overlapping=True)
    write_instances(root, {"image_id": 1, "category_id": 3, "segmentation": []})
    refused(root, "annotations[0]: category_id 3 is no thing", "correct it or leave", overlapping=True)
    write_instances(root, {"image_id": 1, "category_id": 4})
    refused(root, "annotations[0]: lacks a segmentation", overlapping=True)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"counts": [3, 3], "size": [2, 3]}, "a run-length encoding in the instances file is of 3 x 2 pixels"),
        ({"size": [3, 4]}, "cannot be decoded ('counts')"),
        ([["a", "b", "c", "d", "e", "f"]], "cannot be decoded"),
    ],
)
def test_wrong_segmentation(tmp_path, segmentation, message):
    root = write_instances(
        write_data_set(tmp_path, document()), {"image_id": 1, "category_id": 4, "segmentation": segmentation}
    )
    source = open_coco_panoptic(root, "val", overlapping=True)
    with pytest.raises(InputError, match=r"a\.jpg: .*" + re.escape(message)):
        source.read(0)


def test_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval.core", None)
    refused(write_data_set(tmp_path, document()), "pip install 'thingstuff[train]'", overlapping=True)


# --- truth and writing ---


def test_panoptic_truth(tmp_path):
    source = open_coco_panoptic(write_data_set(tmp_path, document()), "val")
    truth = panoptic_truth(source.read(0), source.labels)
    assert truth.segments == (
        Segment(7, 3, "road", isthing=False, score=None, area=6, bbox=(0, 0, 4, 3)),
        Segment(300, 10, "car", isthing=True, score=None, area=2, bbox=(1, 0, 2, 1)),
        Segment(70000, 4, "person", isthing=True, score=None, area=2, bbox=(2, 1, 2, 1), iscrowd=True),
    )
    np.testing.assert_array_equal(truth.ids, IDS)


def test_what_is_written_is_read_back(tmp_path):
    source = open_coco_panoptic(write_data_set(tmp_path, document()), "val")
    truth = panoptic_truth(source.read(0), source.labels)
    written = panoptic_annotation(truth, 1, "a.png")
    save_panoptic_png(truth.ids, tmp_path / "panoptic_val/a.png")
    write_json(tmp_path / "panoptic_val.json", document(annotations=[written]))
    np.testing.assert_array_equal(read_id_map(tmp_path / "panoptic_val/a.png"), IDS)
    again = open_coco_panoptic(tmp_path, "val")
    assert panoptic_truth(again.read(0), again.labels).segments == truth.segments


def test_annotation_of_a_prediction_carries_the_scores_of_things():
    car = Segment(1, 10, "car", isthing=True, score=0.75, area=2, bbox=(1, 0, 2, 1))
    road = Segment(2, 3, "road", isthing=False, score=None, area=4, bbox=(0, 1, 2, 2))
    annotation = panoptic_annotation(Panoptic(np.zeros((2, 2), dtype=np.int32), (car, road)), 5, "x.png")
    assert annotation == {
        "image_id": 5,
        "file_name": "x.png",
        "segments_info": [
            {"id": 1, "category_id": 10, "area": 2, "bbox": [1, 0, 2, 1], "iscrowd": 0, "score": 0.75},
            {"id": 2, "category_id": 3, "area": 4, "bbox": [0, 1, 2, 2], "iscrowd": 0},
        ],
    }


def test_ids_that_do_not_fit_are_not_written(tmp_path):
    with pytest.raises(InputError, match=r"x\.png: ids from 16777216 to 16777216; the format holds 0 to 16777215"):
        save_panoptic_png(np.full((1, 1), 2**24, dtype=np.int32), tmp_path / "x.png")
    assert not (tmp_path / "x.png").exists()


def test_unwritable_folder(tmp_path):
    for write in (
        lambda: write_json(tmp_path / "absent/x.json", {}),
        lambda: save_panoptic_png(IDS, tmp_path / "absent/x.png"),
    ):
        with pytest.raises(InputError, match=r"absent.x\.\w+: cannot be written \(No such file or directory\); check"):
            write()


def test_json_replaces_the_old_file_only_when_it_is_whole(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    write_json(path, {"version": 1})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match="No space left on device"):
        write_json(path, {"version": 2})
    assert json.loads(path.read_text()) == {"version": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"version": float("nan")})


# --- real pictures ---


@pytest.mark.skipif(not (SHARED / "coco_things").is_dir(), reason="needs the real pictures in ../shared/data")
@pytest.mark.parametrize("split", ["train", "val"])
def test_real_pictures_keep_area_box_and_crowd_flag(split):
    source = open_coco_panoptic(SHARED / "coco_things", split)
    content = json.loads((SHARED / f"coco_things/panoptic_{split}.json").read_text())
    expected = {
        annotation["image_id"]: {
            (s["id"], s["category_id"], s["area"], tuple(s["bbox"]), bool(s["iscrowd"]))
            for s in annotation["segments_info"]
        }
        for annotation in content["annotations"]
    }
    crowded = [n for n, picture in enumerate(source.pictures) if any(s.crowd for s in picture.segments)]
    for index in {0, len(source) - 1, *crowded[:3]}:
        sample = source.read(index)
        unchanged = augment(sample, Augmentation(short_sides=(0,), max_side=0))
        for one in (sample, unchanged):
            segments = panoptic_truth(one, source.labels).segments
            assert {(s.id, s.category_id, s.area, s.bbox, s.iscrowd) for s in segments} == expected[sample.image_id]


@pytest.mark.skipif(not (SHARED / "coco_things").is_dir(), reason="needs the real pictures in ../shared/data")
def test_real_overlapping_instances_cover_the_things_of_the_id_map():
    source = open_coco_panoptic(SHARED / "coco_things", "val", overlapping=True)
    truth = source.read(0).truth
    assert truth is not None
    assert truth.instances is not None
    # The maps were painted from these masks, so each visible segment lies inside one mask of its class.
    for segment in truth.segments:
        inside = [
            np.count_nonzero(mask & (truth.ids == segment.id)) / np.count_nonzero(truth.ids == segment.id)
            for mask, label in zip(truth.instances.masks, truth.instances.labels.tolist(), strict=True)
            if label + source.labels.num_stuff == segment.label
        ]
        assert max(inside) == 1
