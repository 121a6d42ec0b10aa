"""The verb `data` and its action `convert`, as a person meets them."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from shell import Shell
from thingstuff.commands import data as data_verb
from thingstuff.data.coco import open_coco_panoptic


def shape(label: str, x1: float, y1: float, x2: float, y2: float, kind: str = "rectangle") -> dict[str, Any]:
    return {"label": label, "points": [[x1, y1], [x2, y2]], "group_id": None, "shape_type": kind, "flags": {}}


def labelme(root: Path, name: str, *shapes: dict[str, Any]) -> None:
    """One picture of 10 x 8 pixels with its JSON file."""
    root.mkdir(exist_ok=True)
    Image.new("RGB", (10, 8), (1, 2, 3)).save(root / f"{name}.jpg")
    document = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": f"{name}.jpg", "imageData": None}
    (root / f"{name}.json").write_text(json.dumps(document | {"imageHeight": 8, "imageWidth": 10}))


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    """Two pictures: road below, and a car; on the second the car lies over the road."""
    labelme(tmp_path / "drawn", "a", shape("road", 0, 4, 10, 8), shape("car", 1, 1, 4, 4))
    labelme(tmp_path / "drawn", "b", shape("road", 0, 4, 10, 8), shape("car", 1, 3, 4, 6))
    return tmp_path / "drawn"


LABELS = "[road]\nthing = false\n[car]\nthing = true\n"


# --- the verb ---


def test_help_lists_the_actions(shell: Shell):
    done = shell("data --help")
    assert done.code == 0
    assert done.out.startswith("usage: thingstuff data check|convert|prepare|show ...")
    assert all(f"\n  {action} " in done.out for action in ("check", "convert", "prepare", "show"))


@pytest.mark.parametrize("action", ["check", "convert", "prepare", "show"])
def test_every_action_explains_itself(shell: Shell, action: str):
    done = shell(f"data {action} --help")
    assert done.code == 0
    assert f"usage: thingstuff data {action}" in done.out


def test_a_missing_and_an_unknown_action(shell: Shell):
    shell("data").assert_refused(
        "an action is missing; write `thingstuff data` and one of check, convert, prepare, show"
    )
    shell("data chek").assert_refused("there is no action 'chek'")
    assert callable(data_verb)


# --- the table is asked for once ---


def test_from_labelme_to_a_data_set(shell: Shell, drawn: Path, tmp_path: Path):
    asked = shell("data convert drawn sets/mine --overlap last-wins")
    asked.assert_refused(
        "edit sets/labels.toml, which has all 2 classes with a guess, and run again with --labels sets/labels.toml",
    )
    assert asked.out == "drawn: labelme JSON; pictures: 2, classes: 2\n"
    assert not (tmp_path / "sets/mine").exists()
    table = (tmp_path / "sets/labels.toml").read_text()
    assert "[road]\nthing = false  # a guess; objects: 2, pictures: 2, share of each: 50 %" in table

    shell("data convert drawn sets/mine --overlap last-wins").assert_refused(
        "sets/labels.toml is there already; take it with"
    )
    assert (tmp_path / "sets/labels.toml").read_text() == table

    done = shell("data convert drawn sets/mine --overlap last-wins --labels sets/labels.toml")
    assert (done.code, done.err) == (0, "")
    assert "   1  road   stuff         2        46.25 %\n   2  car    thing         2        11.25 %\n" in done.out
    assert "pictures: 2 train; 0 crowds; 42.50 % of all pixels are void" in done.out
    assert "6 drawn pixels went to another object (--overlap last-wins), and 0 objects were wholly covered" in done.out
    assert "all pictures are in train; --val-share 0.2" in done.out
    assert done.out.endswith("\nnext: thingstuff data check sets/mine\n")
    assert len(open_coco_panoptic(tmp_path / "sets/mine", "train")) == 2


def test_no_table_can_be_written_where_a_file_stands_in_the_way(shell: Shell, drawn: Path, tmp_path: Path):
    (tmp_path / "sets").write_text("")
    shell("data convert drawn sets/more/mine --overlap last-wins").assert_refused(
        "sets/more: cannot be made", "name an OUT in a folder of yours"
    )


def test_the_check_finds_nothing_wrong(shell: Shell, drawn: Path, tmp_path: Path):
    (tmp_path / "labels.toml").write_text(LABELS)
    assert shell("data convert drawn out --overlap smaller-on-top --labels labels.toml --val-share 0.5").code == 0
    done = shell("data check out")
    assert done.code == 0
    assert "no errors" in done.out


def test_a_table_with_missing_names(shell: Shell, drawn: Path, tmp_path: Path):
    (tmp_path / "labels.toml").write_text("[road]\nthing = false\n")
    shell("data convert drawn out --labels labels.toml").assert_refused(
        'labels.toml: 1 names of the source are missing: "car"'
    )


def test_renamed_and_ignored(shell: Shell, drawn: Path, tmp_path: Path):
    (tmp_path / "labels.toml").write_text('[road]\nignore = true\n[car]\nthing = true\nname = "vehicle"\n')
    done = shell("data convert drawn out --overlap last-wins --labels labels.toml --json")
    content = json.loads(done.out)
    assert [(c["id"], c["name"], c["segments"], c["pixels"]) for c in content["categories"]] == [(1, "vehicle", 2, 18)]
    assert content["format"] == "labelme"
    assert content["pictures"] == {"train": 2}
    assert content["void_share"] == pytest.approx(1 - 18 / 160)


# --- choices ---


def test_overlap_is_an_error_unless_somebody_says_who_wins(shell: Shell, drawn: Path, tmp_path: Path):
    (tmp_path / "labels.toml").write_text(LABELS)
    shell("data convert drawn out --labels labels.toml").assert_refused(
        "b.json: shapes[1] ('car', rectangle) covers 6 pixels of shapes[0] ('road', rectangle)",
        "say who keeps them: --overlap",
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["drawn", "labels.toml"]


def test_skipped_errors_give_exit_code_1(shell: Shell, drawn: Path, tmp_path: Path):
    (tmp_path / "labels.toml").write_text(LABELS)
    done = shell("data convert drawn out --labels labels.toml --skip-errors")
    assert done.code == 1
    assert done.err.count("\n") == 1
    assert "b.json: shapes[1]" in done.err
    assert "pictures: 1 train" in done.out
    assert [path.name for path in (tmp_path / "out/images").iterdir()] == ["a.jpg"]


def test_warnings_of_readers_are_lines_and_not_too_many(shell: Shell, tmp_path: Path):
    for number in range(12):
        labelme(tmp_path / "drawn", f"{number:02}", shape("car", 1, 1, 4, 4), shape("x", 0, 0, 1, 1, "line"))
    (tmp_path / "labels.toml").write_text(LABELS)
    done = shell("data convert drawn out --labels labels.toml")
    assert done.code == 0
    lines = done.err.splitlines()
    assert len(lines) == 11
    assert lines[0] == "thingstuff: drawn/00.json: shapes[1] ('x', line): has no area and is left out"
    assert lines[-1] == "thingstuff: ... and 2 more of this kind"


def test_splits_and_replacing(shell: Shell, drawn: Path, tmp_path: Path):
    (tmp_path / "labels.toml").write_text(LABELS)
    line = "data convert drawn out --overlap last-wins --labels labels.toml"
    assert "pictures: 2 test;" in shell(f"{line} --split test").out
    shell(f"{line} --val-share 0.5").assert_refused("out: is not empty")
    assert "pictures: 1 train, 1 val;" in shell(f"{line} --val-share 0.5 --overwrite --link").out
    assert not (tmp_path / "out/panoptic_test.json").exists()
    assert (tmp_path / "out/images/a.jpg").samefile(drawn / "a.jpg")
    shell(f"{line} --split a/b --overwrite").assert_refused("--split 'a/b'")
    shell(f"{line} --val-share 7 --overwrite").assert_refused("--val-share 7.0")


def test_formats_that_cannot_be(shell: Shell, drawn: Path):
    shell("data convert drawn out --from coko").assert_refused(
        "--from coko: there is no such format; did you mean coco?"
    )
    shell("data convert drawn out --from cvat").assert_refused("drawn")
    shell("data convert drawn out --split-things").assert_refused(
        "--split-things: labelme JSON tell objects apart already"
    )
    shell("data convert absent out").assert_refused("absent: there is no such file")


def test_semantic_png_files_need_a_word_on_their_things(shell: Shell, tmp_path: Path):
    for folder, suffix in (("images", "jpg"), ("semantic", "png")):
        (tmp_path / "drawn" / folder).mkdir(parents=True)
        image = Image.new("L", (10, 8))
        image.paste(1, (1, 1, 3, 3))
        image.paste(1, (6, 1, 8, 3))
        image.save(tmp_path / f"drawn/{folder}/a.{suffix}")
    (tmp_path / "drawn/classes.txt").write_text("road\ncar\n")
    (tmp_path / "labels.toml").write_text(LABELS)
    shell("data convert drawn out --labels labels.toml").assert_refused(
        "'car' is a thing, but semantic PNG files do not tell its objects apart; make every connected part an object",
    )
    done = shell("data convert drawn out --labels labels.toml --split-things")
    assert done.code == 0
    assert "car    thing         2" in done.out
    (tmp_path / "labels.toml").write_text("[road]\nthing = false\n[car]\nthing = false\n")
    assert "car    stuff         1" in shell("data convert drawn out2 --labels labels.toml").out


def test_a_source_that_says_everything_needs_no_table(shell: Shell, tmp_path: Path):
    (tmp_path / "y/images/train").mkdir(parents=True)
    (tmp_path / "y/labels/train").mkdir(parents=True)
    Image.new("RGB", (10, 8)).save(tmp_path / "y/images/train/a.jpg")
    (tmp_path / "y/labels/train/a.txt").write_text("0 0.1 0.125 0.5 0.125 0.5 0.5 0.1 0.5\n0 0.95 0 0.96 0 0.96 1\n")
    (tmp_path / "y/data.yaml").write_text("train: images/train\nnames: [car]\n")
    done = shell("data convert y out")
    assert done.code == 0
    assert "   1  car    thing         1        15.00 %" in done.out
    assert "1 shapes are too thin to hold the centre of a pixel and are left out" in done.out


def test_ctrl_c_leaves_everything_as_it_was(shell: Shell, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    (tmp_path / "labels.toml").write_text("[road]\nthing = false\n[car]\nthing = true\n")
    monkeypatch.setattr("thingstuff.data.drawn.writing.paint", interrupted)
    finished = shell("data convert drawn out --labels labels.toml --overlap last-wins")
    assert finished.code == 1
    assert finished.err == "thingstuff: interrupted; out is as it was before, so convert again\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["drawn", "labels.toml"]


def test_a_share_that_chance_does_not_meet_is_said(shell: Shell, drawn: Path, tmp_path: Path):
    (tmp_path / "labels.toml").write_text("[road]\nthing = false\n[car]\nthing = true\n")
    line = "data convert drawn out --labels labels.toml --overlap last-wins"
    finished = shell(f"{line} --val-share 0.2")
    assert "val has 1 of 2 pictures, 50% where 20% were asked for" in finished.out
    assert "another --seed draws anew" in finished.out
    assert "were asked for" not in shell(f"{line} --val-share 0.5 --overwrite").out
    assert "no picture is in train" in shell(f"{line} --split val --overwrite").out


def test_an_export_on_which_nothing_is_drawn(shell: Shell, tmp_path: Path):
    (tmp_path / "coco").mkdir()
    Image.new("RGB", (8, 6)).save(tmp_path / "coco/a.png")
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 6, "width": 8}],
        "categories": [{"id": 1, "name": "car"}],
        "annotations": [],
    }
    (tmp_path / "coco/instances.json").write_text(json.dumps(content))
    shell("data convert coco out").assert_refused("out: not written, because nothing is drawn on any of 1 pictures")
    assert not (tmp_path / "out").exists()


def test_a_table_for_several_exports_may_name_things_that_one_lacks(shell: Shell, tmp_path: Path):
    for folder, suffix in (("images", "jpg"), ("semantic", "png")):
        (tmp_path / "flat" / folder).mkdir(parents=True)
        Image.new("L" if folder == "semantic" else "RGB", (8, 6)).save(tmp_path / "flat" / folder / f"a.{suffix}")
    (tmp_path / "flat/classes.txt").write_text("road\n")
    (tmp_path / "labels.toml").write_text("[road]\nthing = false\n[car]\nthing = true\n")
    done = shell("data convert flat out --labels labels.toml")
    assert (done.code, done.err) == (0, "")
    assert [one.name for one in open_coco_panoptic(tmp_path / "out", "train").labels.categories] == ["road", "car"]
