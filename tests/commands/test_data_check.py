"""`thingstuff data check` and `thingstuff data show` on small data sets."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from thingstuff.cli import main
from thingstuff.structures import encode_ids

CATEGORIES = [{"id": 3, "name": "road", "isthing": 0}, {"id": 1, "name": "person", "isthing": 1}]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two splits of one picture: a person of 8 x 10 pixels on a road, whose area is wrong in val."""
    for number, split in enumerate(("train", "val")):
        ids = np.full((20, 30), 2, dtype=np.int32)
        ids[5:15, 4:12] = 1
        (tmp_path / f"panoptic_{split}").mkdir()
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(encode_ids(ids)).save(tmp_path / f"panoptic_{split}/{split}.png")
        noise = np.random.default_rng(number).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"images/{split}.png")
        segments = [
            {"id": 1, "category_id": 1, "area": 80 + number, "bbox": [4, 5, 8, 10], "iscrowd": 0},
            {"id": 2, "category_id": 3, "area": 520, "bbox": [0, 0, 30, 20], "iscrowd": 0},
        ]
        document: dict[str, Any] = {
            "images": [{"id": 1, "file_name": f"{split}.png", "height": 20, "width": 30}],
            "annotations": [{"image_id": 1, "file_name": f"{split}.png", "segments_info": segments}],
            "categories": CATEGORIES,
        }
        (tmp_path / f"panoptic_{split}.json").write_text(json.dumps(document))
    return tmp_path


def test_errors_give_exit_code_1_and_a_table(root, capsys):
    assert main(["data", "check", str(root)]) == 1
    text = capsys.readouterr().out
    assert "error wrong-area (1)" in text
    assert "panoptic_val/val.png, segment 1: the JSON file says 81, counted 80" in text
    assert text.strip().endswith("1 error, no warnings, no notes")


def test_a_clean_split_gives_exit_code_0(root, capsys):
    assert main(["data", "check", str(root), "--split", "train"]) == 0
    assert "no errors" in capsys.readouterr().out


def test_what_training_lacks_is_said(root, capsys):
    (root / "panoptic_val.json").unlink()
    assert main(["data", "check", str(root)]) == 0
    assert capsys.readouterr().out.endswith("training needs a split val, which is not here\n")


@pytest.mark.parametrize("words", [["nowhere"], ["ROOT", "--split", "test"], ["ROOT", "--workers", "0"]])
def test_wrong_input_gives_exit_code_2_and_one_line(words, root, capsys):
    assert main(["data", "check", *(str(root) if word == "ROOT" else word for word in words)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1


@pytest.mark.parametrize(
    "words", [["--json", "ROOT"], ["ROOT", "--json"], ["ROOT", "--json", "-"], ["--json", "--fix", "ROOT"]]
)
def test_json_alone_is_printed(words, root, capsys):
    main(["data", "check", *(str(root) if word == "ROOT" else word for word in words)])
    content = json.loads(capsys.readouterr().out)
    fixed = "--fix" in words
    assert content["counts"] == {"error": 0 if fixed else 1, "warning": 0, "note": 0}
    assert ("fixed" in content) == fixed
    if not fixed:
        (finding,) = content["findings"]
        assert (finding["code"], finding["severity"], finding["split"]) == ("wrong-area", "error", "val")
        assert (finding["file"], finding["picture"], finding["segment"]) == ("panoptic_val/val.png", "val.png", 1)


def test_json_into_a_file(root, tmp_path, capsys):
    out = tmp_path / "found.json"
    assert main(["data", "check", str(root), "--json", str(out)]) == 1
    assert "wrong-area" in capsys.readouterr().out
    assert json.loads(out.read_text())["findings"][0]["code"] == "wrong-area"


def test_fix_says_what_it_changed_and_checks_again(root, capsys):
    before = (root / "panoptic_val.json").read_bytes()
    assert main(["data", "check", str(root), "--fix"]) == 0
    text = capsys.readouterr().out
    assert "repaired: area recounted (1)" in text
    assert "panoptic_val/val.png, segment 1: 81, now 80" in text
    assert "original kept" in text
    assert "wrong-area" not in text
    assert (root / "panoptic_val.json.bak").read_bytes() == before
    assert main(["data", "check", str(root), "--fix"]) == 0
    assert "repaired" not in capsys.readouterr().out
    assert len(list(root.glob("*.bak*"))) == 1


def test_help_says_all(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["data", "check", "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for part in ("--fix", "--json", "--split", "--workers", ".bak", "exit code", "remedy"):
        assert part in text


def test_show(root, tmp_path, capsys):
    out = tmp_path / "shown"
    assert main(["data", "show", str(root), "--out", str(out), "--classes", "person", "--limit", "1"]) == 0
    assert "1 of 2 pictures" in capsys.readouterr().out
    assert "wrong-area" in (out / "index.html").read_text()
    assert sorted(path.name for path in out.rglob("*.jpg")) == ["0001.jpg", "0001_photo.jpg", "sheet.jpg"]


@pytest.mark.parametrize(
    ("words", "part"),
    [(["--classes", "persn"], "did you mean person"), (["--limit", "0"], "--limit is 0"), (["--split", "x"], "val")],
)
def test_show_with_wrong_input(words, part, root, tmp_path, capsys):
    assert main(["data", "show", str(root), "--out", str(tmp_path / "shown"), *words]) == 2
    assert part in capsys.readouterr().err


def test_show_into_a_file(root, tmp_path):
    (tmp_path / "taken").write_text("")
    assert main(["data", "show", str(root), "--out", str(tmp_path / "taken")]) == 2
