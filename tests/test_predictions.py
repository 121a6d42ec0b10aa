import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from faster_coco_eval import mask as mask_api
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from thingstuff.checkpoint import Checkpoint
from thingstuff.errors import InputError
from thingstuff.evaluation.ap import encode_masks
from thingstuff.model.build import build_network
from thingstuff.predict import Model
from thingstuff.predictions import PredictionWriter, common_folder, find_pictures, predict_files, run_lengths
from thingstuff.recipe import derive

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


# --- networks without panoptic map ---


def without(tiny_checkpoint: Checkpoint, **changes: Any) -> Model:
    """A model with random weights that lacks some parts."""
    recipe = derive(tiny_checkpoint.recipe, model__fusion=None, **changes)
    torch.manual_seed(1)
    weights = build_network(recipe, tiny_checkpoint.labels).state_dict()
    return Model(replace(tiny_checkpoint, recipe=recipe, weights=weights))


@pytest.mark.parametrize("changes", [{}, {"model__region__mask_head": None}])
def test_instances_are_written_as_coco_results(
    tmp_path: Path, tiny_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
):
    # What predicts needs no package that scores.
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    model = without(tiny_checkpoint, model__semantic=None, **changes)
    result = model(GREY)
    assert result.instances is not None
    assert len(result.instances) > 0
    writer = PredictionWriter(tmp_path, model.labels)
    assert [writer.write(result, None, name) for name in ("7.png", "b.png")] == ["7", "b"]
    assert writer.close() == [tmp_path / "instances.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["instances.json"]
    rows = json.loads((tmp_path / "instances.json").read_text())
    assert len(rows) == 2 * len(result.instances)
    assert [row["image_id"] for row in rows] == [7] * len(result.instances) + ["b"] * len(result.instances)
    masks = result.instances.masks()
    for place, row in enumerate(rows[: len(result.instances)]):
        x, y, width, height = row["bbox"]
        np.testing.assert_allclose([x, y, x + width, y + height], result.instances.boxes[place], rtol=1e-6)
        assert row["score"] == pytest.approx(result.instances.scores[place])
        assert row["category_id"] == result.instances.category_ids[place]
        assert ("segmentation" in row) == (masks is not None)
        if masks is not None:
            assert np.array_equal(mask_api.decode(row["segmentation"]), masks[place])


def test_semantic_maps_are_written_as_category_ids(tmp_path: Path, tiny_checkpoint: Checkpoint):
    model = without(tiny_checkpoint, model__region=None)
    result = model(GREY)
    writer = PredictionWriter(tmp_path, model.labels)
    writer.write(result, None, "a.png")
    assert writer.close() == [tmp_path / "semantic"]
    with Image.open(tmp_path / "semantic" / "a.png") as written:
        assert result.semantic is not None
        assert np.array_equal(np.asarray(written), result.semantic)


def test_nothing_predicted_writes_nothing(tmp_path: Path, tiny_checkpoint: Checkpoint):
    assert PredictionWriter(tmp_path, tiny_checkpoint.labels).close() == []
    assert list(tmp_path.iterdir()) == []


def test_run_lengths_by_hand():
    # Down the columns: 1 False, 2 True, 3 False, 2 True, 1 False; the last two as differences: 0, -2.
    mask = np.array([[0, 0, 1], [1, 0, 1], [1, 0, 0]], dtype=bool)
    assert run_lengths(mask) == "1230" + chr(48 + 32 - 2)
    assert run_lengths(np.ones((2, 3), bool)) == "06"
    # 100 is 3 * 32 + 4: the lower five bits first, with the bit that says that more follow.
    assert run_lengths(np.zeros((10, 10), bool)) == chr(48 + 32 + 4) + chr(48 + 3)


@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=40)))
def test_run_lengths_are_those_of_other_tools(mask: np.ndarray):
    assert run_lengths(mask) == encode_masks(mask[None])[0]["counts"].decode("ascii")


@given(st.integers(1, 200), st.integers(1, 200), st.data())
def test_run_lengths_of_large_objects(height: int, width: int, data: st.DataObject):
    mask = np.zeros((height, width), bool)
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    mask[top : data.draw(st.integers(top + 1, height)), left : data.draw(st.integers(left + 1, width))] = True
    assert np.array_equal(mask_api.decode({"size": [height, width], "counts": run_lengths(mask)}), mask)
