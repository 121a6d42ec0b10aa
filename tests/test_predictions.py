from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from thingstuff.checkpoint import Checkpoint
from thingstuff.errors import InputError
from thingstuff.predict import Model
from thingstuff.predictions import PredictionWriter, common_folder, find_pictures, predict_files

GREY = Image.fromarray(np.full((64, 96, 3), 128, np.uint8))


def save(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        GREY.save(path)


def test_files_folders_and_patterns_each_once(tmp_path: Path):
    save(tmp_path / "b.png", tmp_path / "a.jpg", tmp_path / "deep" / "c.PNG")
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "folder.jpg").mkdir()
    found = find_pictures([str(tmp_path), str(tmp_path / "*.png"), str(tmp_path / "a.jpg")])
    assert [path.name for path in found] == ["a.jpg", "b.png", "c.PNG"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "an empty path stands among the pictures"),
        ("nowhere.jpg", r"nowhere\.jpg: there is no such picture"),
        ("*.jpg", "there is no such picture, folder or match"),
        (".", "no pictures in this folder"),
    ],
)
def test_what_is_no_picture_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        find_pictures([text])


def test_the_innermost_common_folder(tmp_path: Path):
    assert common_folder([tmp_path / "a" / "b" / "c.png", tmp_path / "a" / "d.png"]) == tmp_path / "a"


def test_names_and_ids_are_unique_and_short(tmp_path: Path, tiny_checkpoint: Checkpoint):
    pictures = [tmp_path / "in" / name for name in ("1.jpg", "01.jpg", "x/y.jpg", "x_y.png", f"{'z' * 200}.png")]
    save(*pictures)
    writer = PredictionWriter(tmp_path / "out", tiny_checkpoint.labels)
    problems: list[str] = []
    model = Model(tiny_checkpoint)
    predict_files(model, pictures, writer, overlay=True, skip_damaged=False, problems=problems)
    assert problems == []
    assert [image["id"] for image in writer.images] == [1, "01", "x_y", "x_y_2", "z" * 60]
    names = sorted(path.name for path in (tmp_path / "out" / "predictions").iterdir())
    assert names == ["01.png", "1.png", "x_y.png", "x_y_2.png", f"{'z' * 60}.png"]
    assert [path.name for path in writer.close()] == ["predictions.json"]
    assert len(list((tmp_path / "out" / "overlays").iterdir())) == 5


@pytest.mark.parametrize(("skip", "done"), [(False, 1), (True, 2)])
def test_a_damaged_picture(tmp_path: Path, tiny_checkpoint: Checkpoint, skip: bool, done: int):
    pictures = [tmp_path / name for name in ("a.png", "b.png", "c.png")]
    save(*pictures)
    pictures[1].write_bytes(pictures[1].read_bytes()[:60])
    writer = PredictionWriter(tmp_path / "out", tiny_checkpoint.labels)
    problems: list[str] = []
    predict_files(Model(tiny_checkpoint), pictures, writer, overlay=False, skip_damaged=skip, problems=problems)
    assert len(writer.images) == done
    assert len(problems) == 1
    assert "b.png" in problems[0]
    assert ("--skip-damaged" in problems[0]) != skip
