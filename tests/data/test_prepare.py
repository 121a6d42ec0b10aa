"""Published data sets, of a few pictures each, from what one downloads to what is trained on."""

import io
import json
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from published_sets import (
    MAPILLARY_LABELS,
    write_ade20k,
    write_cityscapes,
    write_mapillary,
    write_mapillary_config,
    write_polygons,
)

from thingstuff.data.coco import open_coco_panoptic
from thingstuff.data.prepare import PUBLISHED, explain, missing_parts, prepare, unpack_archives
from thingstuff.errors import InputError
from thingstuff.structures import encode_ids


def quiet(items: Iterable[Any], description: str, total: int) -> Iterator[Any]:
    yield from items


def interrupting(after: int) -> Any:
    """Shows progress until somebody presses Ctrl-C."""

    def track(items: Iterable[Any], description: str, total: int) -> Iterator[Any]:
        for position, item in enumerate(items):
            if position == after:
                raise KeyboardInterrupt
            yield item

    return track


def write_both_splits(root: Path, count: int = 4) -> None:
    for number in range(count):
        write_cityscapes(root, "train", f"aachen_000000_{number:06d}", np.array([[7, 26000 + number], [26, 0]]))
    write_cityscapes(root, "val", "ulm_000000_000019", np.array([[24000, 23]]))


def pack(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as bundle:
        for name, content in members.items():
            bundle.writestr(name, content)
    return path


def png(ids: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(encode_ids(ids.astype(np.int32))).save(buffer, format="PNG")
    return buffer.getvalue()


# --- Cityscapes ---


def test_cityscapes(tmp_path):
    write_both_splits(tmp_path)
    train, val = prepare("cityscapes", tmp_path, quiet)
    assert (train.split, train.pictures, train.expected, train.built) == ("train", 4, 2975, 4)
    assert (val.split, val.pictures, val.expected, val.built) == ("val", 1, 500, 1)
    # The files are those of Cityscapes' own tools.
    document = json.loads((tmp_path / "gtFine/cityscapes_panoptic_train.json").read_text())
    assert document["images"][2] == {
        "id": "aachen_000000_000002",
        "file_name": "aachen_000000_000002_gtFine_leftImg8bit.png",
        "width": 2,
        "height": 2,
    }
    assert document["annotations"][2] == {
        "image_id": "aachen_000000_000002",
        "file_name": "aachen_000000_000002_gtFine_panoptic.png",
        "segments_info": [
            {"id": 7, "category_id": 7, "area": 1, "bbox": [0, 0, 1, 1], "iscrowd": 0},
            {"id": 26, "category_id": 26, "area": 1, "bbox": [0, 1, 1, 1], "iscrowd": 1},
            {"id": 26002, "category_id": 26, "area": 1, "bbox": [1, 0, 1, 1], "iscrowd": 0},
        ],
    }
    assert len(document["categories"]) == 19
    source = open_coco_panoptic(tmp_path, "train")
    sample = source.read(2)
    assert sample.file_name == "aachen/aachen_000000_000002_leftImg8bit.png"
    assert sample.truth is not None
    np.testing.assert_array_equal(sample.truth.ids, [[7, 26002], [26, 0]])
    assert sorted(path.name for path in (tmp_path / "gtFine").iterdir()) == [
        "cityscapes_panoptic_train",
        "cityscapes_panoptic_train.json",
        "cityscapes_panoptic_val",
        "cityscapes_panoptic_val.json",
        "train",
        "val",
    ]


def test_what_is_there_is_not_built_again(tmp_path):
    write_both_splits(tmp_path)
    prepare("cityscapes", tmp_path, quiet)
    path = tmp_path / "gtFine/cityscapes_panoptic_train.json"
    before = path.stat().st_mtime_ns
    assert [each.built for each in prepare("cityscapes", tmp_path, quiet)] == [None, None]
    assert path.stat().st_mtime_ns == before
    # Only the annotation is needed for that, not what it was built from.
    (tmp_path / "gtFine/train/aachen/aachen_000000_000000_gtFine_instanceIds.png").unlink()
    assert [each.pictures for each in prepare("cityscapes", tmp_path, quiet)] == [4, 1]


def test_an_interrupted_call_goes_on(tmp_path):
    write_both_splits(tmp_path / "whole")
    prepare("cityscapes", tmp_path / "whole", quiet)
    root = tmp_path / "parts"
    write_both_splits(root)
    with pytest.raises(KeyboardInterrupt):
        prepare("cityscapes", root, interrupting(2))
    assert not (root / "gtFine/cityscapes_panoptic_train.json").exists()
    folder = root / "gtFine/cityscapes_panoptic_train"
    # Killed while it wrote a line; and somebody removed a finished file.
    with (folder / ".built.jsonl").open("a") as journal:
        journal.write('{"image": {"id": "aach')
    (folder / "aachen_000000_000001_gtFine_panoptic.png").unlink()
    train, _ = prepare("cityscapes", root, quiet)
    assert train.built == 3
    for name in ("train", "val"):
        own, other = (
            (each / f"gtFine/cityscapes_panoptic_{name}.json").read_text()
            for each in (root, folder.parents[2] / "whole")
        )
        assert own == other
    assert sorted(path.name for path in folder.iterdir()) == [
        f"aachen_000000_{number:06d}_gtFine_panoptic.png" for number in range(4)
    ]


def test_panoptic_files_that_lost_a_part_can_be_built_again(tmp_path):
    write_both_splits(tmp_path)
    prepare("cityscapes", tmp_path, quiet)
    (tmp_path / "gtFine/cityscapes_panoptic_train/aachen_000000_000001_gtFine_panoptic.png").unlink()
    with pytest.raises(
        InputError, match=r"1 PNG files are missing.*; or remove .*panoptic_train\.json, then it is built"
    ):
        prepare("cityscapes", tmp_path, quiet)
    (tmp_path / "gtFine/cityscapes_panoptic_train.json").unlink()
    assert prepare("cityscapes", tmp_path, quiet)[0].built == 4


def test_polygons_do_where_maps_are_missing(tmp_path):
    road = {"label": "road", "polygon": [[0, 0], [3, 0], [3, 1], [0, 1]]}
    for split in ("train", "val"):
        write_polygons(tmp_path, split, "ulm_000000_000001", (2, 4), [road])
    prepare("cityscapes", tmp_path, quiet)
    truth = open_coco_panoptic(tmp_path, "val").read(0).truth
    assert truth is not None
    assert (truth.ids == 7).all()


def test_a_damaged_annotation_stops_with_its_name_and_keeps_the_rest(tmp_path):
    write_both_splits(tmp_path)
    path = tmp_path / "gtFine/train/aachen/aachen_000000_000003_gtFine_instanceIds.png"
    path.write_bytes(b"")
    with pytest.raises(InputError, match=r"aachen_000000_000003_gtFine_instanceIds\.png: the file is empty"):
        prepare("cityscapes", tmp_path, quiet)
    write_both_splits(tmp_path)
    assert prepare("cityscapes", tmp_path, quiet)[0].built == 1


def test_a_missing_split_is_named(tmp_path):
    write_cityscapes(tmp_path, "val", "ulm_000000_000019", np.array([[24000, 23]]))
    with pytest.raises(InputError, match="leftImg8bit/train: there is no annotated picture of train"):
        prepare("cityscapes", tmp_path, quiet)


# --- the others ---


def test_ade20k(tmp_path):
    objects = np.zeros((1, 3, 3), dtype=np.uint8)
    objects[0, 1] = (1, 1, 0)
    for folder, name in (("training", "ADE_train_00000001"), ("validation", "ADE_val_00000001")):
        write_ade20k(tmp_path, folder, name, np.array([[1, 8, 0]]), objects)
    for root in (tmp_path, tmp_path / "ADEChallengeData2016"):
        assert missing_parts("ade20k", root) == ()
    train, val = prepare("ade20k", tmp_path, quiet)
    assert (train.pictures, train.expected, val.expected) == (1, 20_210, 2_000)
    document = json.loads((tmp_path / "ADEChallengeData2016/ade20k_panoptic_train.json").read_text())
    assert document["images"] == [
        {"id": "ADE_train_00000001", "file_name": "ADE_train_00000001.jpg", "width": 3, "height": 1}
    ]
    assert [segment["category_id"] for segment in document["annotations"][0]["segments_info"]] == [0, 7]
    assert len(document["categories"]) == 150
    assert len(open_coco_panoptic(tmp_path / "ADEChallengeData2016", "val").read(0).image) == 1
    # The folder itself is as good a root.
    assert [each.built for each in prepare("ade20k", tmp_path / "ADEChallengeData2016", quiet)] == [None, None]


def test_mapillary(tmp_path):
    write_mapillary_config(tmp_path / "config_v1.2.json")
    write_mapillary_config(tmp_path / "config_v2.0.json", MAPILLARY_LABELS[:2])
    for folder in ("training", "validation"):
        write_mapillary(tmp_path, folder, "a", np.array([[512, 513]]), "v1.2")
        write_mapillary(tmp_path, folder, "a", np.array([[0, 256]]), "v2.0")
    only = prepare("mapillary", tmp_path, quiet, "v1.2")
    assert [(each.split, each.built, each.layout) for each in only] == [
        (
            split,
            1,
            f"layout Mapillary Vistas v1.2: {folder}/v1.2/panoptic/panoptic_2018.json, {folder}/v1.2/panoptic/, "
            f"{folder}/images/",
        )
        for split, folder in (("train", "training"), ("val", "validation"))
    ]
    assert [each.built for each in prepare("mapillary", tmp_path, quiet)] == [1, 1, None, None]
    document = json.loads((tmp_path / "training/v2.0/panoptic/panoptic_2020.json").read_text())
    assert [(each["id"], each["name"], each["isthing"]) for each in document["categories"]] == [
        (1, "Bird", 1),
        (2, "Curb", 0),
    ]
    truth = open_coco_panoptic(tmp_path, "train").read(0).truth
    assert truth is not None
    np.testing.assert_array_equal(truth.ids, [[1, 257]])


def test_mapillary_without_configuration(tmp_path):
    with pytest.raises(InputError, match=r"has no config_v2\.0\.json or config\.json"):
        prepare("mapillary", tmp_path, quiet)


def coco_documents(split: str) -> dict[str, bytes]:
    document = {
        "images": [{"id": 1, "file_name": "000000000001.jpg", "height": 1, "width": 2}],
        "annotations": [
            {"image_id": 1, "file_name": "000000000001.png", "segments_info": [{"id": 5, "category_id": 1, "area": 2}]}
        ],
        "categories": [{"id": 1, "name": "person", "isthing": 1}],
    }
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as bundle:
        bundle.writestr(f"panoptic_{split}/000000000001.png", png(np.array([[5, 5]])))
    return {
        f"annotations/panoptic_{split}.json": json.dumps(document).encode(),
        f"annotations/panoptic_{split}.zip": inner.getvalue(),
    }


def test_coco_from_its_archives(tmp_path):
    picture = io.BytesIO()
    Image.new("RGB", (2, 1)).save(picture, format="JPEG")
    for split in ("train2017", "val2017"):
        pack(tmp_path / f"{split}.zip", {f"{split}/000000000001.jpg": picture.getvalue()})
    assert len(missing_parts("coco", tmp_path)) == 4
    unpack_archives("coco", tmp_path, quiet)
    assert [part.path for part in missing_parts("coco", tmp_path)] == [
        "annotations/panoptic_train2017.json",
        "annotations/panoptic_val2017.json",
    ]
    members = coco_documents("train2017") | coco_documents("val2017")
    pack(tmp_path / "panoptic_annotations_trainval2017.zip", members)
    unpack_archives("coco", tmp_path, quiet)
    assert missing_parts("coco", tmp_path) == ()
    train, val = prepare("coco", tmp_path, quiet)
    assert (train.pictures, train.expected, train.built) == (1, 118_287, None)
    assert (val.pictures, val.expected) == (1, 5_000)
    assert val.layout.startswith("layout COCO: annotations/panoptic_val2017.json, annotations/panoptic_val2017/, val2")
    truth = open_coco_panoptic(tmp_path, "val").read(0).truth
    assert truth is not None
    assert (truth.ids == 5).all()


def test_missing_png_files_of_coco_are_counted(tmp_path):
    members = coco_documents("train2017") | coco_documents("val2017")
    pack(tmp_path / "panoptic_annotations_trainval2017.zip", members)
    for split in ("train2017", "val2017"):
        (tmp_path / split).mkdir()
        Image.new("RGB", (2, 1)).save(tmp_path / split / "000000000001.jpg")
    unpack_archives("coco", tmp_path, quiet)
    (tmp_path / "annotations/panoptic_train2017/000000000001.png").unlink()
    with pytest.raises(InputError, match="annotations/panoptic_train2017: 1 PNG files are missing"):
        prepare("coco", tmp_path, quiet)


# --- archives ---


def test_archives_of_ade20k(tmp_path):
    classes = io.BytesIO()
    Image.new("L", (1, 1)).save(classes, format="PNG")
    home = "ADEChallengeData2016"
    members = {f"{home}/{folder}/training/a.png": classes.getvalue() for folder in ("images", "annotations")}
    pack(tmp_path / f"{home}.zip", members)
    with tarfile.open(tmp_path / "annotations_instance.tar", "w") as tar:
        info = tarfile.TarInfo("annotations_instance/training/a.png")
        info.size = len(classes.getvalue())
        tar.addfile(info, io.BytesIO(classes.getvalue()))
    unpack_archives("ade20k", tmp_path, quiet)
    assert missing_parts("ade20k", tmp_path) == ()
    assert (tmp_path / home / "annotations_instance/training/a.png").read_bytes() == classes.getvalue()


def test_unpacking_goes_on_with_what_is_missing(tmp_path):
    archive = pack(tmp_path / "gtFine_trainvaltest.zip", {f"gtFine/train/x/{n}.png": b"12" for n in range(4)})
    (tmp_path / "gtFine/train/x").mkdir(parents=True)
    (tmp_path / "gtFine/train/x/0.png").write_bytes(b"34")  # of the right size: taken for unpacked
    (tmp_path / "gtFine/train/x/1.png").write_bytes(b"3")  # cut short
    with pytest.raises(KeyboardInterrupt):
        unpack_archives("cityscapes", tmp_path, interrupting(3))
    assert archive.exists()
    unpack_archives("cityscapes", tmp_path, quiet)
    contents = [(tmp_path / f"gtFine/train/x/{n}.png").read_bytes() for n in range(4)]
    assert contents == [b"34", b"12", b"12", b"12"]


@pytest.mark.parametrize("name", ["../outside.png", "/outside.png", "gtFine/../../outside.png", "C:\\outside.png"])
def test_members_that_lead_out_are_refused(tmp_path, name):
    root = tmp_path / "root"
    root.mkdir()
    pack(root / "gtFine_trainvaltest.zip", {name: b"x"})
    with pytest.raises(
        InputError, match=r"gtFine_trainvaltest\.zip: the member .*outside\.png' leads out of the folder"
    ):
        unpack_archives("cityscapes", root, quiet)
    assert [path.name for path in tmp_path.rglob("*")] == ["root", "gtFine_trainvaltest.zip"]


def test_damaged_archives(tmp_path):
    (tmp_path / "gtFine_trainvaltest.zip").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(InputError, match=r"gtFine_trainvaltest\.zip: cannot be unpacked \(File is not a zip file\)"):
        unpack_archives("cityscapes", tmp_path, quiet)
    content = bytearray(pack(tmp_path / "gtFine_trainvaltest.zip", {"gtFine/train/a.png": b"a" * 99}).read_bytes())
    content[60] ^= 255
    (tmp_path / "gtFine_trainvaltest.zip").write_bytes(content)
    with pytest.raises(InputError, match=r"cannot be unpacked \(Bad CRC-32 for file 'gtFine/train/a\.png'\)"):
        unpack_archives("cityscapes", tmp_path, quiet)
    assert not list((tmp_path / "gtFine/train").iterdir())


# --- what to get where ---


def test_the_root_must_be_there(tmp_path):
    with pytest.raises(InputError, match="absent: there is no such folder; make it, it is where the data set will lie"):
        unpack_archives("coco", tmp_path / "absent", quiet)


def test_everything_missing_is_said_with_address_and_licence(tmp_path):
    for name, published in PUBLISHED.items():
        missing = missing_parts(name, tmp_path)
        assert missing == published.parts
        text = "\n".join(explain(name, missing))
        for part in published.parts:
            assert f"  missing  {part.path}\n           from {part.archive}: {part.url}" in text
        assert published.licence in text
        assert published.page in text
    assert "  there    " not in "\n".join(explain("coco", missing_parts("coco", tmp_path)))
    (tmp_path / "val2017").mkdir()
    assert "  there    val2017\n  missing  annotations" in "\n".join(explain("coco", missing_parts("coco", tmp_path)))
