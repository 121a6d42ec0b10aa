# pyright: reportMissingImports=false
"""What --fix repairs, what it leaves alone, and that nothing is lost."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from thingstuff.data.checking.check import CheckedData
from thingstuff.data.checking.files import find_splits
from thingstuff.data.checking.kinds import Kind
from thingstuff.data.checking.mending import Mended, mend
from thingstuff.data.checking.pixels import read_map
from thingstuff.errors import InputError

DataSet = Any  # the class of conftest.py, which cannot be imported


def mended(data: DataSet) -> tuple[Mended, CheckedData]:
    """Repair, and check again."""
    done = mend(data.check(), find_splits(data.root))
    return done, data.check()


def kinds(checked: CheckedData) -> set[Kind]:
    return {finding.kind for finding in checked.findings}


def files_of(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def whats(done: Mended) -> list[tuple[str, int]]:
    return [(change.what, change.segment) for change in done.changes]


def test_a_clean_data_set_is_left_alone(data_set):
    before = files_of(data_set.write().root)
    done, _ = mended(data_set)
    assert done == Mended((), ())
    assert files_of(data_set.root) == before


def test_areas_boxes_and_missing_fields_are_written(data_set):
    first, second = data_set.segments()[1:]
    first |= {"area": 49, "bbox": [0, 0, 1, 1]}
    for field in ("area", "bbox", "iscrowd"):
        del second[field]
    data_set.segments("val", 1)[0]["area"] = "many"
    data_set.segments("val", 1)[1]["bbox"] = [1, 2, None]
    originals = {split: data_set.write().json_path(split).read_bytes() for split in ("train",)}
    done, checked = mended(data_set)
    assert checked.findings == ()
    assert whats(done) == [
        ("area recounted", 300),
        ("box recounted", 300),
        ("area recounted", 70000),
        ("box recounted", 70000),
        ("iscrowd written", 70000),
        ("area recounted", 5),
        ("box recounted", 300),
    ]
    assert done.changes[0].text == "49, now 48"
    assert done.changes[1].text == "[0, 0, 1, 1], now [3, 12, 4, 12]"
    assert done.changes[0].file == "panoptic_train/a.png"
    segments = data_set.read()["annotations"][0]["segments_info"]
    assert segments[1] == {"id": 300, "category_id": 1, "area": 48, "bbox": [3, 12, 4, 12], "iscrowd": 0}
    assert segments[2] == {"id": 70000, "category_id": 10, "area": 50, "bbox": [20, 20, 10, 5], "iscrowd": 0}
    # Everything else in the file stays as it was, and the original is kept.
    assert data_set.read()["info"] == {"kept": [1, 2.5, None, "ä"]}
    assert {path.name for path in done.kept} == {"panoptic_train.json.bak", "panoptic_val.json.bak"}
    assert data_set.json_path().with_name("panoptic_train.json.bak").read_bytes() == originals["train"]


def test_empty_segments_are_removed(data_set):
    data_set.segments().insert(0, {"id": 8, "category_id": 1, "area": 9, "bbox": [0, 0, 3, 3], "iscrowd": 0})
    data_set.write()
    done, checked = mended(data_set)
    assert whats(done) == [("empty segment removed", 8)]
    assert checked.findings == ()
    assert [segment["id"] for segment in data_set.read()["annotations"][0]["segments_info"]] == [5, 300, 70000]


def test_an_empty_segment_stays_where_its_pixels_may_have_another_id(data_set):
    """The map has 300, the list 301: most likely the same person."""
    data_set.segments()[1]["id"] = 301
    before = files_of(data_set.write().root)
    done, checked = mended(data_set)
    assert done.changes == ()
    assert kinds(checked) == {Kind.NO_PIXELS, Kind.UNLISTED_ID}
    assert files_of(data_set.root) == before


def test_id_0_is_renumbered_where_it_owns_all_its_pixels(data_set):
    data_set.ids["a"][:10] = 5
    data_set.ids["a"][data_set.ids["a"] == 300] = 0
    data_set.segments()[0] |= {"area": 1200 - 98, "bbox": [0, 0, 40, 30]}
    data_set.segments()[1]["id"] = 0
    data_set.write()
    png = data_set.map_path("a").read_bytes()
    done, checked = mended(data_set)
    assert checked.findings == ()
    assert whats(done) == [("id renumbered", 0)]
    np.testing.assert_array_equal(
        read_map(str(data_set.map_path("a"))), np.where(data_set.ids["a"] == 0, 1, data_set.ids["a"])
    )
    assert data_set.read()["annotations"][0]["segments_info"][1]["id"] == 1
    assert [path.name for path in done.kept] == ["a.png.bak", "panoptic_train.json.bak"]
    assert done.kept[0].read_bytes() == png


@pytest.mark.parametrize("change", [{"area": 48}, {"area": None}, {"area": 448, "bbox": [0, 0, 40, 9]}])
def test_id_0_stays_where_void_may_be_among_its_pixels(change, data_set):
    data_set.ids["a"][data_set.ids["a"] == 300] = 0
    data_set.segments()[1] |= {"id": 0} | change
    before = files_of(data_set.write().root)
    done, checked = mended(data_set)
    assert Kind.ZERO_ID in kinds(checked)
    assert done.changes == ()
    assert files_of(data_set.root) == before


def test_a_repeated_entry_is_removed(data_set):
    data_set.segments().append(dict(data_set.segments()[1]))
    data_set.write()
    done, checked = mended(data_set)
    assert whats(done) == [("repeated entry removed", 300)]
    assert checked.findings == ()


def share_id(data: DataSet) -> None:
    """Person and car have the id 300."""
    data.ids["a"][data.ids["a"] == 70000] = 300
    data.segments()[2]["id"] = 300


def test_two_segments_of_one_id_are_told_apart_by_their_boxes(data_set):
    share_id(data_set)
    data_set.write()
    done, checked = mended(data_set)
    assert whats(done) == [("id renumbered", 300)]
    assert checked.findings == ()
    expected = np.where((data_set.ids["a"] == 300) & (np.arange(40) >= 20), 1, data_set.ids["a"])
    np.testing.assert_array_equal(read_map(str(data_set.map_path("a"))), expected)
    assert data_set.read()["annotations"][0]["segments_info"][2] == data_set.segments()[2] | {"id": 1}


@pytest.mark.parametrize(
    "change",
    [
        {"area": 51},
        {"bbox": [20, 20, 10, 6]},
        {"bbox": [3, 12, 27, 13], "area": 98},
        {"bbox": None},
        {"bbox": [20.0, 20, 10, 5]},
        {"bbox": [0, 0, 10**30, 5]},
        {"bbox": [-1, 0, 5, 5]},
    ],
)
def test_a_shared_id_stays_where_boxes_and_areas_do_not_fit(change, data_set):
    share_id(data_set)
    data_set.segments()[2] |= change
    data_set.write()
    before = files_of(data_set.root)
    done, checked = mended(data_set)
    assert Kind.DUPLICATE_SEGMENT_ID in kinds(checked)
    assert done.changes == ()
    assert files_of(data_set.root) == before


def test_a_map_of_two_annotations_is_not_painted(data_set):
    share_id(data_set)
    data_set.annotations()[1] |= {"file_name": "a.png", "segments_info": copy.deepcopy(data_set.segments())}
    data_set.write()
    before = data_set.map_path("a").read_bytes()
    done, _ = mended(data_set)
    assert done.changes == ()
    assert data_set.map_path("a").read_bytes() == before


def test_a_map_of_another_size_is_not_believed(data_set):
    data_set.images()[0]["width"] = 41
    data_set.segments()[0]["area"] = 1
    data_set.write()
    assert mended(data_set)[0].changes == ()


def test_a_damaged_map_and_a_damaged_json_file_stop_nothing(data_set):
    for position in (0, 1):
        data_set.segments("train", position)[0]["area"] = 1
    data_set.segments("train", 0)[1]["area"] = "?"
    data_set.write()
    data_set.map_path("a").write_bytes(b"")
    data_set.json_path("val").write_text("{")
    done, checked = mended(data_set)
    assert [(change.file, change.segment) for change in done.changes] == [("panoptic_train/b.png", 5)]
    assert Kind.WRONG_AREA in kinds(checked)


def test_originals_are_never_replaced(data_set):
    data_set.segments()[0]["area"] = 1
    data_set.write()
    first = data_set.json_path().read_bytes()
    mended(data_set)
    data_set.segments()[0]["area"] = 2
    data_set.json_path().write_text(json.dumps(data_set.documents["train"]))
    second = data_set.json_path().read_bytes()
    done, _ = mended(data_set)
    assert [path.name for path in done.kept] == ["panoptic_train.json.bak2"]
    assert data_set.json_path().with_name("panoptic_train.json.bak").read_bytes() == first
    assert done.kept[0].read_bytes() == second
    assert not list(data_set.root.rglob("*.tmp"))


def test_a_link_stays_a_link(data_set, tmp_path):
    data_set.segments()[0]["area"] = 1
    data_set.write()
    real = tmp_path / "elsewhere.json"
    data_set.json_path().rename(real)
    data_set.json_path().symlink_to(real)
    done, checked = mended(data_set)
    assert checked.findings == ()
    assert data_set.json_path().is_symlink()
    assert done.kept == (tmp_path / "elsewhere.json.bak",)


def test_a_full_disk_keeps_the_file(data_set, monkeypatch):
    data_set.segments()[0]["area"] = 1
    before = files_of(data_set.write().root)

    def refuse(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(InputError, match="No space left"):
        mended(data_set)
    assert files_of(data_set.root) == before


def test_where_the_list_cannot_be_written_the_map_stays_too(data_set, monkeypatch):
    share_id(data_set)
    before = files_of(data_set.write().root)
    replace = Path.replace

    def refuse(path: Path, target: Path) -> Path:
        if target.suffix == ".json":
            raise OSError(28, "No space left on device")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(InputError, match="No space left"):
        mended(data_set)
    after = files_of(data_set.root)
    assert {name: after[name] for name in before} == before


DAMAGES = {
    "area": lambda segments, draw: segments[0].update(area=draw(st.integers(-5, 2000))),
    "box": lambda segments, draw: segments[-1].update(bbox=draw(st.lists(st.integers(-3, 60), max_size=5))),
    "no box": lambda segments, _: segments[0].pop("bbox", None),
    "no crowd": lambda segments, _: segments[-1].pop("iscrowd", None),
    "twice": lambda segments, _: segments.append(dict(segments[0])),
    "other id": lambda segments, draw: segments[-1].update(id=draw(st.sampled_from([0, 5, 300, 301, 2**24, -1]))),
    "empty": lambda segments, draw: segments.append({"id": draw(st.integers(0, 9)), "category_id": 1, "area": 4}),
    "gone": lambda segments, _: segments.pop(),
    "strange": lambda segments, _: segments.append("segment"),
}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    damages=st.lists(st.tuples(st.sampled_from(sorted(DAMAGES)), st.integers(0, 1)), min_size=1, max_size=5),
    drawing=st.data(),
)
def test_repairing_twice_changes_nothing_more_and_loses_nothing(damages, drawing, data_set, tmp_path_factory):
    data = type(data_set)(tmp_path_factory.mktemp("data") / "streets")
    for name, position in damages:
        segments = data.segments("train", position)
        if segments and isinstance(segments[-1], dict):
            DAMAGES[name](segments, drawing.draw)
    before = files_of(data.write().root)
    first, checked = mended(data)
    after = files_of(data.root)
    second, again = mended(data)
    assert second == Mended((), ())
    assert again == checked
    assert files_of(data.root) == after
    # Whatever was changed is there as it was; and every pixel that belonged to something still does.
    for name, content in before.items():
        assert after[name] == content or after[f"{name}.bak"] == content
    for name in "abcd":
        old, new = data.ids[name], read_map(str(data.map_path(name)))
        assert ((old != 0) <= (new != 0)).all()
        for identity in np.unique(old[old != 0]):
            assert set(np.unique(new[old == identity])).isdisjoint(set(np.unique(new[(old != identity)])))
    listed = [s for a in data.read()["annotations"] for s in a["segments_info"] if isinstance(s, dict)]
    had = [s for a in data.documents["train"]["annotations"] for s in a["segments_info"] if isinstance(s, dict)]
    removed = sum(what.endswith("removed") for what, _ in whats(first))
    assert len(listed) == len(had) - removed
