"""Mistakes for which users of other tools got no word, or one from deep inside: what they would have been told here."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from shell import Shell
from thingstuff.labels import LabelSet
from thingstuff.structures import encode_ids

RUG = {"id": 200, "name": "rug", "isthing": 0}
DOG = {"id": 18, "name": "dog", "isthing": 1}
LINES = 40
QUICK = (
    "--optim.batch-size 2 --schedule.steps 1 --model.backbone.name test_resnet --model.backbone.norm group "
    "--model.neck.channels 16 --model.semantic.channels 8 --model.region.box-head.width 16 "
    "--model.region.mask-head.channels 8 --model.region.mask-head.num-convs 1 --optim.precision float32 --init None"
)


def write(root: Path, categories: list[dict[str, Any]], dogs: int = 1) -> Path:
    """Two pictures in each split: a rug, or void, and dogs on it, with category ids in no order and far apart."""
    (root / "images").mkdir(parents=True)
    names = {category["name"] for category in categories}
    for split in ("train", "val"):
        (root / f"panoptic_{split}").mkdir()
        images, annotations = [], []
        for number in range(2):
            pixels = np.random.default_rng(number).integers(0, 256, (LINES, LINES, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(root / "images" / f"{split}{number}.png")
            ids = np.zeros((LINES, LINES), dtype=np.int32)
            segments = []
            if "rug" in names:
                ids[:] = 3
                segments.append({"id": 3, "category_id": 200, "iscrowd": 0})
            for dog in range(dogs if "dog" in names else 0):
                ids[4:20, 4 + 18 * dog : 20 + 18 * dog] = 7 + dog
                segments.append({"id": 7 + dog, "category_id": 18, "iscrowd": 0})
            for segment in segments:
                segment["area"] = int(np.count_nonzero(ids == segment["id"]))
            Image.fromarray(encode_ids(ids)).save(root / f"panoptic_{split}" / f"{number}.png")
            size = {"width": LINES, "height": LINES}
            images.append({"id": number, "file_name": f"{split}{number}.png"} | size)
            annotations.append({"image_id": number, "file_name": f"{number}.png", "segments_info": segments})
        document = {"images": images, "annotations": annotations, "categories": categories}
        (root / f"panoptic_{split}.json").write_text(json.dumps(document), encoding="utf-8")
    return root


def change(path: Path, old: str, new: str) -> None:
    content = path.read_text(encoding="utf-8")
    assert old in content
    path.write_text(content.replace(old, new), encoding="utf-8")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A rug with a dog."""
    return write(tmp_path / "data", [RUG, DOG])


# --- what do I put in NUM_CLASSES, and in which order do stuff and things come? ---


@pytest.mark.parametrize("flag", ["--model.semantic.num-classes", "--model.region.num-things", "--num-classes"])
def test_nobody_counts_classes(shell: Shell, data: Path, flag: str):
    shell(f"train finetune --data {data} --out run {flag} 2").assert_refused(
        f"{flag} is not an option", "follow from the data set's categories"
    )


def test_the_order_of_categories_and_ids_of_any_size_do_not_matter(shell: Shell, data: Path):
    done = shell(f"train finetune --data {data} --out run {QUICK}")
    assert done.code == 0, done.err
    checked = shell(f"data check {data}")
    assert "the first column is the index that training gives the class" in checked.out
    categories = json.loads((data / "panoptic_train.json").read_text(encoding="utf-8"))["categories"]
    for order in (categories, categories[::-1]):
        labels = LabelSet.from_coco(order, "these")
        assert [category.name for category in labels.categories] == ["rug", "dog"]  # stuff first


# --- IndexError: Target 202 is out of bounds ---


def test_a_category_that_is_not_listed_is_named_before_anything_is_learned(shell: Shell, data: Path):
    change(data / "panoptic_train.json", '"category_id": 18', '"category_id": 202')
    shell(f"train finetune --data {data} --out run {QUICK}").assert_refused(
        "panoptic_train.json: annotations[0] (0.png): segments_info[1]: category_id 202 is not among 'categories'",
    )
    assert not Path("run").exists()


# --- my PQ is 669 percent ---


def test_a_wrong_area_is_named_and_never_makes_a_score_above_one(shell: Shell, data: Path):
    change(data / "panoptic_val.json", '"area": 256', '"area": 4')
    line = f"score {data}/panoptic_val.json {data}/panoptic_val.json"
    shell(line).assert_refused("true segment 7 has 256 pixels, the JSON says area 4", "correct the JSON")
    assert shell(f"{line} --lenient --json score.json").code == 0
    assert json.loads(Path("score.json").read_text(encoding="utf-8"))["pq"] == 1


# --- ZeroDivisionError at the end of evaluation ---


@pytest.mark.parametrize(("category", "there", "absent"), [(RUG, "stuff", "things"), (DOG, "things", "stuff")])
def test_things_alone_and_stuff_alone_are_scored(
    shell: Shell, tmp_path: Path, category: dict[str, Any], there: str, absent: str
):
    data = write(tmp_path / "data", [category])
    done = shell(f"score {data}/panoptic_val.json {data}/panoptic_val.json --json score.json")
    assert done.code == 0, done.err
    score = json.loads(Path("score.json").read_text(encoding="utf-8"))
    assert score["pq"] == 1
    assert score[there]["pq"] == 1
    assert score[absent] is None


# --- Segments overlap each other ---


def test_shapes_that_overlap_are_named_and_somebody_decides(shell: Shell, tmp_path: Path):
    (tmp_path / "export").mkdir()
    Image.new("RGB", (10, 8)).save(tmp_path / "export/a.jpg")
    annotations = [
        {
            "id": number,
            "image_id": 1,
            "category_id": 18,
            "iscrowd": 0,
            "segmentation": [[x, 1, x + 4, 1, x + 4, 5, x, 5]],
        }
        for number, x in ((31, 1), (32, 3))
    ]
    document = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 8, "width": 10}],
        "annotations": annotations,
        "categories": [{"id": 18, "name": "dog"}],
    }
    (tmp_path / "export/instances.json").write_text(json.dumps(document), encoding="utf-8")
    shell("data convert export out").assert_refused(
        "instances.json: annotation 32 of a.jpg ('dog') covers 8 pixels of annotation 31 of a.jpg ('dog')",
        "--overlap smaller-on-top, last-wins, by-order or skip",
    )
    assert not Path("out").exists()
    done = shell("data convert export out --overlap last-wins")
    assert done.code == 0, done.err
    assert "8 drawn pixels went to another object" in done.out
    segments = json.loads(Path("out/panoptic_train.json").read_text(encoding="utf-8"))["annotations"][0][
        "segments_info"
    ]
    assert [segment["area"] for segment in segments] == [8, 16]


# --- own data, other channels, pictures with no object ---


def test_pictures_without_an_object_are_learned_from_like_all_others(shell: Shell, tmp_path: Path):
    data = write(tmp_path / "data", [RUG, DOG], dogs=0)
    done = shell(f"train finetune --data {data} --out run {QUICK}")
    assert done.code == 0, done.err
    done = shell(f"evaluate run/best.safetensors --data {data} --out judged --json")
    assert json.loads(done.out)["pictures"] == 2


def test_a_picture_of_other_channels_than_the_network_learned(shell: Shell, data: Path):
    assert shell(f"train finetune --data {data} --out run {QUICK}").code == 0
    np.save("four.npy", np.zeros((LINES, LINES, 4), dtype=np.uint8))
    done = shell("predict run/best.safetensors four.npy --out seen")
    assert done.code != 0
    assert "four.npy: 4 channels, where RGB is expected; train a network for such pictures" in done.err


# --- show panoptic data in the browser ---


def test_panoptic_data_are_shown_and_an_unknown_class_is_answered_with_those_there_are(shell: Shell, data: Path):
    shell(f"data show {data} --out page --classes cat").assert_refused("there is no class 'cat'; there are: rug, dog")
    done = shell(f"data show {data} --out page --classes dog")
    assert done.code == 0, done.err
    page = Path("page/index.html").read_text(encoding="utf-8")
    assert "rug" in page
    assert "dog" in page
