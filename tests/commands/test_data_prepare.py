import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from thingstuff.cli import FAILED, SUCCESS, main
from thingstuff.commands.data_prepare import prepare
from thingstuff.data import prepare as preparing
from thingstuff.errors import InputError


def write_cityscapes(root: Path) -> None:
    for split in ("train", "val"):
        for folder, name, pixels in (
            ("leftImg8bit", "leftImg8bit", np.zeros((2, 3, 3), dtype=np.uint8)),
            ("gtFine", "gtFine_instanceIds", np.full((2, 3), 26001, dtype=np.uint16)),
        ):
            path = root / folder / split / "ulm" / f"ulm_000000_000019_{name}.png"
            path.parent.mkdir(parents=True)
            Image.fromarray(pixels).save(path)


@pytest.fixture
def two_pictures(monkeypatch):
    """A Cityscapes of one picture in each split."""
    published = preparing.PUBLISHED["cityscapes"]
    small = replace(published, counts={"train": 1, "val": 1})
    monkeypatch.setattr(preparing, "PUBLISHED", {**preparing.PUBLISHED, "cityscapes": small})


def test_what_to_get(tmp_path, capsys):
    with pytest.raises(InputError) as caught:
        prepare(["cityscapes", "--root", str(tmp_path)])
    assert str(caught.value) == (
        f"{tmp_path}: 4 parts are missing; get leftImg8bit_trainvaltest.zip, gtFine_trainvaltest.zip, put it there, "
        "and run this again"
    )
    out = capsys.readouterr().out
    assert "  licence  its own, for research and evaluation, not commercial" in out
    assert "  missing  gtFine/val\n           from gtFine_trainvaltest.zip: https://www.cityscapes-dataset.com/" in out


def test_everything_there(tmp_path, capsys, two_pictures):
    write_cityscapes(tmp_path)
    assert prepare(["cityscapes", "--root", str(tmp_path)]) == SUCCESS
    out = capsys.readouterr().out
    assert "  there    gtFine/val\n" in out
    assert "  train: 1 pictures, 1 PNG files built; layout Cityscapes: gtFine/cityscapes_panoptic_train.json, " in out
    assert prepare(["cityscapes", "--root", str(tmp_path)]) == SUCCESS
    assert "  val: 1 pictures, panoptic files are there; layout Cityscapes: " in capsys.readouterr().out


def test_too_few_pictures(tmp_path, capsys):
    write_cityscapes(tmp_path)
    assert prepare(["cityscapes", "--root", str(tmp_path)]) == FAILED
    error = capsys.readouterr().err
    assert "thingstuff: train has 1 annotated pictures, the original 2975; unpack it again\n" in error
    assert "thingstuff: val has 1 annotated pictures, the original 500; unpack it again\n" in error


def test_json(tmp_path, capsys, two_pictures):
    with pytest.raises(InputError):
        prepare(["cityscapes", "--root", str(tmp_path), "--json"])
    content = json.loads(capsys.readouterr().out)
    assert len(content["missing"]) == 4
    assert content["splits"] == []
    write_cityscapes(tmp_path)
    assert prepare(["cityscapes", "--root", str(tmp_path), "--json"]) == SUCCESS
    content = json.loads(capsys.readouterr().out)
    assert (content["name"], content["missing"]) == ("cityscapes", [])
    assert content["splits"][1] == {
        "split": "val",
        "pictures": 1,
        "expected": 1,
        "built": 1,
        "layout": "layout Cityscapes: gtFine/cityscapes_panoptic_val.json, gtFine/cityscapes_panoptic_val/, "
        "leftImg8bit/val/",
    }


def test_versions_are_mapillarys(tmp_path):
    with pytest.raises(InputError, match=r"--version v1\.2: only Mapillary Vistas has versions"):
        prepare(["coco", "--root", str(tmp_path), "--version", "v1.2"])


def test_from_the_command_line(tmp_path, capsys):
    assert main(["data", "prepare", "coco", "--root", str(tmp_path / "absent")]) == 2
    assert "absent: there is no such folder; make it" in capsys.readouterr().err
