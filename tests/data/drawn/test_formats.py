"""Detection, and one scene through every format and back: every pixel survives."""

from pathlib import Path

import numpy as np
import pytest
from exports import EXPORTS, SEGMENTS, SIZE, THINGS, png, text

from thingstuff.data.coco import open_coco_panoptic
from thingstuff.data.drawn.formats import FORMATS, find_format
from thingstuff.data.drawn.table import read_table, table_of_source
from thingstuff.data.drawn.writing import Conversion, convert_drawings
from thingstuff.errors import InputError

NAMES = [each.name for each in FORMATS]


def through(items, description: str, total: int):
    return items


def test_every_format_has_an_export():
    assert set(EXPORTS) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_format_is_recognized_and_no_other_claims_it(tmp_path: Path, name: str):
    EXPORTS[name](tmp_path)
    assert find_format(tmp_path, None).name == name
    for each in FORMATS:
        if each.name != name and not each.general:
            assert not each.recognize(tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_every_pixel_of_a_scene_survives(tmp_path: Path, name: str):
    root, out = tmp_path / "source", tmp_path / "out"
    EXPORTS[name](root)
    found = find_format(root, None)
    source = found.open(root)
    table = table_of_source(source.categories, name) if name != "yolo" else None
    if table is None:
        labels = tmp_path / "labels.toml"
        labels.write_text("".join(f"[{n}]\nthing = {str(n in THINGS).lower()}\n" for n in ("road", "sky", "car")))
        table = read_table(labels, source.categories)
    convert_drawings(source, table, out, Conversion(split_things=found.merged), through)

    split = "val" if (out / "panoptic_val.json").exists() else "train"
    written = open_coco_panoptic(out, split)
    sample = written.read(0)
    assert sample.truth is not None
    assert sample.truth.ids.shape == SIZE
    got = set()
    for segment in sample.truth.segments:
        category = written.labels.categories[segment.label]
        assert not segment.crowd
        # Longer names of published sets: "car, auto, ..." and "x--car".
        short = next(
            n for n in ("road", "sky", "car") if n in category.name.replace(",", " ").replace("-", " ").split()
        )
        assert category.isthing == (short in THINGS)
        got.add((short, (sample.truth.ids == segment.id).tobytes()))
    expected = {(short, mask.tobytes()) for (short, _), mask in SEGMENTS.items()}
    if name == "semantic-png":
        # Connected parts: the second part of the first car is a car of its own.
        first = SEGMENTS["car", 1]
        parts = np.zeros(SIZE, dtype=bool), np.zeros(SIZE, dtype=bool)
        parts[0][:3], parts[1][3:] = first[:3], first[3:]
        expected = expected - {("car", first.tobytes())} | {("car", part.tobytes()) for part in parts}
    assert got == expected


def test_a_forced_format(tmp_path: Path):
    EXPORTS["png-pairs"](tmp_path)
    assert find_format(tmp_path, "semantic-png").name == "semantic-png"
    with pytest.raises(
        InputError, match=r"--from labelmee: there is no such format; did you mean labelme\? There are: coco"
    ):
        find_format(tmp_path, "labelmee")


def test_two_exports_in_one_folder_are_named(tmp_path: Path):
    EXPORTS["coco"](tmp_path)
    EXPORTS["labelme"](tmp_path)
    with pytest.raises(
        InputError, match=r"looks like COCO instances and labelme JSON; say with --from .* coco or labelme"
    ):
        find_format(tmp_path, None)


def test_nothing_that_is_known(tmp_path: Path):
    with pytest.raises(InputError, match="there is no such file or folder"):
        find_format(tmp_path / "absent", None)
    with pytest.raises(InputError, match="no known annotations were found here"):
        find_format(tmp_path, None)
    text(tmp_path / "export.zip", "PK")
    with pytest.raises(InputError, match="is an archive; unpack it first"):
        find_format(tmp_path / "export.zip", None)


@pytest.mark.parametrize("below", ["", "annotations/"])
def test_what_is_converted_already(tmp_path: Path, below: str):
    text(
        tmp_path / f"{below}panoptic_train.json",
        {"images": [], "annotations": [{"segments_info": []}], "categories": []},
    )
    png(tmp_path / f"{below}panoptic_train/a.png", np.zeros((2, 2, 3), dtype=np.uint8))
    with pytest.raises(InputError, match="in the COCO panoptic format already"):
        find_format(tmp_path, None)
