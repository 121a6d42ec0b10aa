# pyright: reportMissingImports=false
"""Every defect in a data set that has this one alone, and a clean data set."""

import json
import re
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from thingstuff.data.checking.check import CheckedData, check_data, finding_json
from thingstuff.data.checking.kinds import SEVERITIES, Finding, Kind
from thingstuff.errors import InputError
from thingstuff.structures import encode_ids

SHARED = Path(__file__).parents[3] / "../shared/data"
DataSet = Any  # the class of conftest.py, which cannot be imported
Damage = Callable[[DataSet], object]
"""Damages a data set before it is written, or writes it and damages the files."""


def after(damage: Damage) -> Damage:
    """A damage that needs the files."""

    def write_and_damage(data: DataSet) -> None:
        damage(data.write())

    return write_and_damage


def kinds(checked: CheckedData) -> list[Kind]:
    return [finding.kind for finding in checked.findings]


def only(checked: CheckedData, kind: Kind) -> Finding:
    (finding,) = (finding for finding in checked.findings if finding.kind is kind)
    return finding


def checked_after(data: DataSet, damage: Damage) -> CheckedData:
    damage(data)
    if not data.root.exists():
        data.write()
    return data.check()


# --- one damage for each kind ---


def write(path: Path, text: str) -> None:
    path.write_text(text)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def write_16_bits(path: Path) -> None:
    """An RGB PNG file of 16 bits, which Pillow does not write."""
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(">u2") * 257
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = struct.pack(">II5B", pixels.shape[1], pixels.shape[0], 16, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)


def turned(data: DataSet, orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = data.photo_path("a")
    Image.open(path).save(path, exif=exif)


def drop_category(data: DataSet, category_id: int, split: str) -> None:
    """Leave no segment of a category in a split."""
    for position, name in enumerate("ab" if split == "train" else "cd"):
        segments = data.segments(split, position)
        for segment in [segment for segment in segments if segment["category_id"] == category_id]:
            data.ids[name][data.ids[name] == segment["id"]] = 0
            segments.remove(segment)


def annotate_again(data: DataSet, image_id: int) -> None:
    data.annotations().append(data.annotations()[0] | {"image_id": image_id, "file_name": "again.png"})
    data.write()
    shutil.copy(data.map_path("a"), data.map_path("a").with_name("again.png"))


def add_category(data: DataSet, **fields: Any) -> None:
    for split in data.documents:
        data.categories(split).append({"id": 77, "name": "bridge", "isthing": 0, "color": [1, 2, 3]} | fields)


def name_twice(data: DataSet) -> None:
    data.annotations()[1]["file_name"] = "a.png"
    data.write()
    data.map_path("b").unlink()


def split_road(data: DataSet) -> None:
    data.ids["a"][28:][data.ids["a"][28:] == 5] = 6
    data.segments()[0] |= {"area": 702 - 80, "bbox": [0, 10, 40, 18]}
    data.segments().append({"id": 6, "category_id": 3, "area": 80, "bbox": [0, 28, 40, 2], "iscrowd": 0})


def shrink_to(data: DataSet, segment: int, *, only_pixels: tuple[int, int]) -> None:
    """Leave one pixel of a segment and void in place of the others."""
    data.ids["a"][data.ids["a"] == segment] = 0
    data.ids["a"][only_pixels] = segment
    (entry,) = (entry for entry in data.segments() if entry["id"] == segment)
    entry |= {"area": 1, "bbox": [only_pixels[1], only_pixels[0], 1, 1]}


def hide_road(data: DataSet) -> None:
    shrink_to(data, 5, only_pixels=(29, 0))
    data.ids["a"][28:, :10] = 5
    data.segments()[0] |= {"area": 20, "bbox": [0, 28, 10, 2]}


def zero_id(data: DataSet) -> None:
    data.ids["a"][data.ids["a"] == 300] = 0
    data.segments()[1]["id"] = 0


def unlabel(data: DataSet) -> None:
    data.ids["a"][:] = 0
    data.segments().clear()


def look_like_a(data: DataSet) -> None:
    Image.open(data.photo_path("a")).resize((20, 15)).resize((40, 30)).save(data.photo_path("c"))


CASES: dict[Kind, tuple[Damage, set[Kind]]] = {
    kind: (damage, {kind, *others})
    for kind, damage, *others in (
        (Kind.UNREADABLE_JSON, after(lambda data: write(data.json_path("val"), "{"))),
        (Kind.MALFORMED_ENTRY, lambda data: data.images()[0].update(width="40")),
        (
            Kind.NOTHING_ANNOTATED,
            after(lambda d: write(d.json_path("val"), json.dumps(d.documents["val"] | {"annotations": []}))),
            Kind.NOT_ANNOTATED,
            Kind.EXTRA_MAP,
        ),
        (Kind.ISTHING_MISSING, lambda data: [data.categories(split)[1].pop("isthing") for split in data.documents]),
        (Kind.DUPLICATE_CATEGORY, lambda data: [data.categories(s).append(data.categories(s)[0]) for s in ("val",)]),
        (
            Kind.TOO_MANY_CATEGORIES,
            lambda data: [add_category(data, id=1000 + n, name=f"class {n}") for n in range(253)],
            Kind.UNUSED_CATEGORY,
        ),
        (Kind.CATEGORIES_DIFFER, lambda data: data.categories("val")[1].update(name="pedestrian")),
        (Kind.COLORS_DIFFER, lambda data: data.categories("val")[1].update(color=[9, 9, 9])),
        (Kind.UNUSED_CATEGORY, add_category),
        (Kind.CLASS_NOT_IN_TRAIN, lambda data: drop_category(data, 10, "train")),
        (
            Kind.ONLY_CROWDS,
            lambda data: [data.segments(split, row)[1].update(iscrowd=1) for split in data.documents for row in (0, 1)],
        ),
        (Kind.DUPLICATE_IMAGE_ID, lambda data: data.images().append(data.images()[0] | {"file_name": "e.png"})),
        (Kind.DUPLICATE_FILE_NAME, name_twice),
        (Kind.UNKNOWN_IMAGE, lambda data: annotate_again(data, 999)),
        (Kind.ANNOTATED_TWICE, lambda data: annotate_again(data, ord("a"))),
        (Kind.NOT_ANNOTATED, lambda data: data.images().append(data.images()[0] | {"id": 7, "file_name": "e.png"})),
        (
            Kind.ZERO_ID,
            lambda data: (data.segments()[1].update(id=0), np.place(data.ids["a"], data.ids["a"] == 300, 0)),
        ),
        (Kind.ID_OUT_OF_RANGE, lambda data: data.segments().append(data.segments()[1] | {"id": 2**24})),
        (Kind.DUPLICATE_SEGMENT_ID, lambda data: data.segments().append(data.segments()[1] | {"category_id": 10})),
        (Kind.UNKNOWN_CATEGORY, lambda data: data.segments()[1].update(category_id=99)),
        (Kind.CROWD_ON_STUFF, lambda data: data.segments()[0].update(iscrowd=1)),
        (Kind.STUFF_IN_PIECES, split_road),
        (Kind.INCOMPLETE_SEGMENT, lambda data: data.segments()[1].pop("bbox")),
        (Kind.NOTHING_LABELLED, unlabel),
        (Kind.NO_THING, lambda data: [drop_category(data, category, "val") for category in (1, 10)]),
        (Kind.NO_STUFF, lambda data: drop_category(data, 3, "val"), Kind.MOSTLY_VOID),
        (Kind.MISSING_FOLDER, after(lambda data: shutil.rmtree(data.root / "panoptic_val"))),
        (Kind.MISSING_PICTURE, after(lambda data: data.photo_path("a").unlink())),
        (Kind.MISSING_MAP, after(lambda data: data.map_path("a").unlink())),
        (Kind.EXTRA_PICTURE, after(lambda data: shutil.copy(data.photo_path("a"), data.root / "images/new.jpg"))),
        (Kind.EXTRA_MAP, after(lambda data: shutil.copy(data.map_path("a"), data.root / "panoptic_val/new.png"))),
        (Kind.DAMAGED_PICTURE, after(lambda data: truncate(data.photo_path("a")))),
        (Kind.DAMAGED_MAP, after(lambda data: truncate(data.map_path("a")))),
        (Kind.WRONG_PICTURE_SIZE, lambda data: data.photos.update(a=data.photos["a"].resize((50, 30)))),
        (Kind.EXIF_ROTATION, after(lambda data: turned(data, 6))),
        (Kind.EXIF_UNCLEAR, after(lambda data: turned(data, 3))),
        (Kind.WRONG_MAP_SIZE, lambda data: data.ids.update(a=np.pad(data.ids["a"], ((0, 0), (0, 3))))),
        (Kind.WRONG_MAP_FORMAT, after(lambda data: write_16_bits(data.map_path("a")))),
        (Kind.SIXTEEN_BIT, after(lambda data: [write_16_bits(data.photo_path(name)) for name in "abcd"])),
        (Kind.NOT_RGB, lambda data: data.photos.update(a=data.photos["a"].convert("L"))),
        (Kind.MIXED_CHANNELS, lambda data: data.photos.update(a=data.photos["a"].convert("RGBA")), Kind.NOT_RGB),
        (
            Kind.UNSUPPORTED_PIXELS,
            after(lambda data: data.photos["a"].convert("F").save(data.photo_path("a"), format="TIFF")),
        ),
        (Kind.UNLISTED_ID, lambda data: data.segments().pop(1)),
        (Kind.NO_PIXELS, lambda data: data.segments().append(data.segments()[1] | {"id": 301})),
        (Kind.WRONG_AREA, lambda data: data.segments()[1].update(area=49)),
        (Kind.WRONG_BBOX, lambda data: data.segments()[1].update(bbox=[3, 12, 5, 12])),
        (Kind.TINY_SEGMENT, lambda data: shrink_to(data, 300, only_pixels=(12, 3))),
        (Kind.MOSTLY_VOID, hide_road),
        (Kind.SPLIT_LEAK, after(look_like_a)),
    )
}


def test_a_clean_data_set_gives_no_finding(data_set):
    checked = data_set.write().check()
    assert checked.findings == ()
    assert [split.split for split in checked.splits] == ["train", "val"]


def test_every_kind_has_a_case():
    assert set(CASES) == set(Kind)


@pytest.mark.parametrize("kind", Kind, ids=lambda kind: kind.value)
def test_finding(kind, data_set):
    damage, expected = CASES[kind]
    checked = checked_after(data_set, damage)
    assert set(kinds(checked)) == expected
    assert all(finding.file and finding.text for finding in checked.findings)
    assert [SEVERITIES.index(k.severity) for k in kinds(checked)] == sorted(
        SEVERITIES.index(k.severity) for k in kinds(checked)
    )


def test_codes_never_change_by_accident():
    """Programs rely on them."""
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", kind.value) for kind in Kind)
    assert Kind("wrong-area") is Kind.WRONG_AREA
    assert {kind.value for kind in Kind if kind.mendable} == {
        "zero-id",
        "duplicate-segment-id",
        "incomplete-segment",
        "no-pixels",
        "wrong-area",
        "wrong-bbox",
    }


def test_the_documentation_lists_every_kind():
    text = (Path(__file__).parents[3] / "docs/checking.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z-]+)` \| (\w+) \| (yes|) ?\| (.*) \|$", text, re.MULTILINE)
    assert rows == [(kind.value, kind.severity, "yes" if kind.mendable else "", kind.title) for kind in Kind]


# --- what findings say ---


@pytest.mark.parametrize(
    ("kind", "file", "segment", "picture", "parts"),
    [
        (Kind.WRONG_AREA, "panoptic_train/a.png", 300, "a.png", ["49", "counted 48"]),
        (Kind.WRONG_BBOX, "panoptic_train/a.png", 300, "a.png", ["[3, 12, 5, 12]", "[3, 12, 4, 12]"]),
        (Kind.UNLISTED_ID, "panoptic_train/a.png", 300, "a.png", ["48 pixels"]),
        (Kind.EXIF_ROTATION, "images/a.png", None, "a.png", ["upright 30 x 40", "orientation 6", "40 x 30"]),
        (Kind.UNKNOWN_CATEGORY, "panoptic_train/a.png", 300, "a.png", ["99"]),
        (Kind.STUFF_IN_PIECES, "panoptic_train/a.png", None, "a.png", ["'road'", "2 segments"]),
        (Kind.SPLIT_LEAK, "images/c.png", None, "c.png", ["like train: images/a.png", "of 128 bits"]),
        (Kind.CATEGORIES_DIFFER, "panoptic_val.json", None, None, ["category 1", "'pedestrian'", "'person'"]),
        (Kind.ONLY_CROWDS, "panoptic_train.json", None, None, ["'person' (category 1)", "4 segments in all splits"]),
        (Kind.MISSING_FOLDER, "panoptic_val", None, None, ["2 listed files"]),
        (Kind.WRONG_MAP_FORMAT, "panoptic_train/a.png", None, "a.png", ["16-bit PNG"]),
        (Kind.MALFORMED_ENTRY, "panoptic_train.json", None, None, ["images[0]", "width is '40'"]),
    ],
)
def test_a_finding_names_file_segment_and_both_values(kind, file, segment, picture, parts, data_set):
    finding = only(checked_after(data_set, CASES[kind][0]), kind)
    assert (finding.file, finding.segment, finding.picture) == (file, segment, picture)
    for part in parts:
        assert part in finding.text
    assert finding_json(finding)["code"] == kind.value
    assert finding_json(finding)["remedy"] == kind.remedy


def test_nothing_stops_at_the_first_finding(data_set):
    for segment in data_set.segments():
        segment["area"] += 1
    data_set.segments("val", 1)[0]["bbox"] = "?"
    checked = checked_after(data_set, lambda data: data.categories("val")[0].update(name="street"))
    assert kinds(checked) == [Kind.CATEGORIES_DIFFER, *[Kind.WRONG_AREA] * 3, Kind.WRONG_BBOX]


def test_areas_and_ids_of_the_whole_range(data_set):
    """The largest id of the format, and an area written as a float."""
    data_set.ids["a"][data_set.ids["a"] == 300] = 2**24 - 1
    data_set.segments()[1] |= {"id": 2**24 - 1, "area": 48.0, "bbox": [3.4, 12.0, 3.6, 12.0]}
    assert data_set.write().check().findings == ()


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_turned_picture_that_was_annotated_upright_is_fine(orientation, data_set):
    data_set.write()
    upright = Image.open(data_set.photo_path("a"))
    back = {5: 5, 6: 4, 7: 6, 8: 2}  # Image.Transpose that undoes each
    stored = upright.transpose(Image.Transpose(back[orientation]))
    assert stored.size == (30, 40)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    stored.save(data_set.photo_path("a"), exif=exif)
    assert data_set.check().findings == ()


def test_a_damaged_jpeg_is_found_although_it_is_decoded_small(data_set):
    data_set.write()
    path = data_set.photo_path("a")
    Image.effect_noise((40, 30), 90).convert("RGB").save(path, format="JPEG", quality=95)
    assert data_set.check().findings == ()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert kinds(data_set.check()) == [Kind.DAMAGED_PICTURE]


@pytest.mark.parametrize("content", [b"", b"no picture at all"])
def test_files_that_are_no_pictures(content, data_set):
    data_set.write()
    data_set.photo_path("a").write_bytes(content)
    data_set.map_path("b").write_bytes(content)
    assert set(kinds(data_set.check())) == {Kind.DAMAGED_PICTURE, Kind.DAMAGED_MAP}


@pytest.mark.parametrize("mode", ["L", "P", "I;16"])
def test_maps_that_hold_no_ids(mode, data_set):
    data_set.write()
    Image.new(mode, (40, 30)).save(data_set.map_path("a"))
    assert kinds(data_set.check()) == [Kind.WRONG_MAP_FORMAT]


def test_a_shared_id_is_counted_once(data_set):
    data_set.segments().append(data_set.segments()[1] | {"category_id": 10, "area": 1})
    checked = data_set.write().check()
    assert kinds(checked) == [Kind.DUPLICATE_SEGMENT_ID]
    assert checked.splits[0].segments == 6


def test_the_same_file_in_two_splits_is_a_leak_however_plain_it_is(data_set):
    data_set.photos["a"] = Image.new("RGB", (40, 30))
    data_set.images("val")[0]["file_name"] = "a.png"
    data_set.write()
    data_set.photo_path("c").unlink()
    assert "the same file is in train" in only(data_set.check(), Kind.SPLIT_LEAK).text


def test_a_picture_that_looks_like_several_names_the_nearest(data_set):
    look = data_set.photos["a"]
    data_set.photos |= {"c": look, "b": look.resize((20, 15)).resize((40, 30))}
    text = only(data_set.write().check(), Kind.SPLIT_LEAK).text
    assert text == "like train: images/a.png, 0 of 128 bits differ; and 1 more"


def test_plain_pictures_do_not_look_alike(data_set):
    data_set.photos |= {name: Image.new("RGB", (40, 30)) for name in "abcd"}
    assert data_set.write().check().findings == ()


# --- splits and files ---


def test_one_split_alone(data_set):
    """Files of the other split are not extra, and it is not compared."""
    CASES[Kind.CATEGORIES_DIFFER][0](data_set)
    checked = data_set.write().check("val")
    assert checked.findings == ()
    assert [split.split for split in checked.splits] == ["val"]
    assert len(checked.pictures) == 2


def test_pictures_in_folders(data_set):
    data_set.images()[0]["file_name"] = "day/a.png"
    data_set.annotations()[0]["file_name"] = "day/a.png"
    data_set.write()
    for folder, path in (("images", data_set.photo_path("a")), ("panoptic_train", data_set.map_path("a"))):
        (data_set.root / folder / "day").mkdir()
        path.rename(data_set.root / folder / "day" / "a.png")
    assert data_set.check().findings == ()


@pytest.mark.parametrize(
    ("make", "split", "parts"),
    [
        (lambda root: None, None, ["there is no such folder", "images/"]),
        (lambda root: root.write_text(""), None, ["this is a file"]),
        (lambda root: root.mkdir(), None, ["panoptic_train.json", "there is no such file"]),
        (lambda root: write_empty(root), "test", ["panoptic_test.json", "train, val"]),
    ],
)
def test_no_data_set(make, split, parts, tmp_path):
    make(tmp_path / "root")
    with pytest.raises(InputError) as caught:
        check_data(tmp_path / "root", split, workers=1)
    for part in parts:
        assert part in str(caught.value)


def write_empty(root: Path) -> None:
    root.mkdir()
    for split in ("val", "train"):
        (root / f"panoptic_{split}.json").write_text("{}")


@pytest.mark.parametrize("layout", ["COCO", "split folders"])
def test_other_layouts(layout, data_set):
    data_set.segments("val", 0)[0]["area"] = 1
    root = data_set.write().root
    (root / "annotations").mkdir()
    if layout == "COCO":
        places = {
            split: (f"panoptic_{split}2017.json", f"panoptic_{split}2017", f"{split}2017")
            for split in data_set.documents
        }
    else:
        places = {split: (f"{split}.json", split, f"images/{split}") for split in data_set.documents}
    for split, (json_name, maps, images) in places.items():
        data_set.json_path(split).rename(root / "annotations" / json_name)
        (root / f"panoptic_{split}").rename(root / "annotations" / maps)
        (root / images).mkdir()
        for name in "ab" if split == "train" else "cd":
            data_set.photo_path(name).rename(root / images / f"{name}.png")
    checked = data_set.check()
    assert [place.split(":")[0] for place in checked.places] == [f"layout {layout}"] * 2
    assert [(f.kind, f.split, f.file) for f in checked.findings] == [
        (Kind.WRONG_AREA, "val", f"annotations/{places['val'][1]}/c.png")
    ]


# --- what the data set holds ---


def test_summary(data_set):
    data_set.segments("val", 0)[2]["iscrowd"] = 1
    checked = data_set.write().check()
    assert [(category.name, category.isthing) for category in checked.categories] == [
        ("road", False),
        ("person", True),
        ("car", True),
    ]
    train, val = checked.splits
    assert (train.pictures, train.segments) == (2, 6)
    assert train.void == pytest.approx(1 / 3)
    assert train.void_median == pytest.approx(1 / 3)
    assert train.classes[10].pictures == 2
    assert train.classes[10].share == pytest.approx(50 / 1200)
    # A crowd is a segment of its class, but no object that has a size.
    assert val.classes[10].segments == 2
    assert (train.objects.small, val.objects.small, val.objects.medium, val.objects.large) == (4, 3, 0, 0)
    assert train.objects.sides[2] == pytest.approx((48**0.5 + 50**0.5) / 2)
    content = json.loads(json.dumps(checked.to_json()))
    assert content["classes"][2]["splits"]["val"] == {"pictures": 2, "segments": 2, "pixel_share": 100 / 2400}
    assert content["counts"] == {"error": 0, "warning": 0, "note": 0}
    assert content["splits"]["train"]["objects"]["side_percentiles"]["50"] == pytest.approx(train.objects.sides[2])


def test_processes_find_the_same(data_set, monkeypatch):
    for kind in (Kind.WRONG_AREA, Kind.UNLISTED_ID, Kind.MOSTLY_VOID):
        CASES[kind][0](data_set)
    alone = data_set.write().check()
    monkeypatch.setattr("thingstuff.data.checking.check._WORTH_A_POOL", 1)
    together = check_data(data_set.root, workers=2)
    assert together == alone


def test_a_split_of_our_layout_may_be_named_like_one_of_coco(data_set):
    data_set.write()
    for old in (data_set.json_path("val"), data_set.root / "panoptic_val"):
        old.rename(old.with_name(old.name.replace("val", "minival2017")))
    checked = check_data(data_set.root, workers=1)
    assert [split.split for split in checked.splits] == ["train", "minival2017"]
    assert checked.findings == ()


@pytest.mark.skipif(not SHARED.exists(), reason="shared data not mounted")
@pytest.mark.parametrize("name", ["facades", "nuclei", "coco_things"])
def test_published_data_sets_have_no_errors(name):
    checked = check_data(SHARED / name)
    assert {finding.kind for finding in checked.findings if finding.kind.severity != "note"} <= {
        Kind.CLASS_NOT_IN_TRAIN,
        Kind.NOTHING_LABELLED,
    }
    assert {f.picture for f in checked.findings if f.kind is Kind.NOTHING_LABELLED} == (
        {"000000000508.jpg", "000000226111.jpg"} if name == "coco_things" else set()
    )


# --- whatever stands in the JSON file ---

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([5, 300, 10, 2**24, -(2**70), 10**400, 1e308, 5.0, 0.5, float("nan"), float("inf"), float("-inf")]),
    st.sampled_from(["", "a.png", "b.png", "\0", "../a.png", "/", "\ud800", "x" * 400, "\x1b[31m", "a\nb"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda values: st.one_of(
        st.lists(values, max_size=4),
        st.dictionaries(st.sampled_from(["id", "area", "bbox", "name", "x"]), values, max_size=3),
    ),
    max_leaves=4,
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every container of a document with each of its keys."""
    found = []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        found += [(value, key), *places(part)]
    return found


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawing=st.data())
def test_no_json_file_makes_it_fail(drawing, data_set):
    fresh = type(data_set)(data_set.root)
    if not fresh.root.exists():
        fresh.write()
    document = fresh.documents["train"]
    for _ in range(drawing.draw(st.integers(1, 4))):
        container, key = drawing.draw(st.sampled_from(places(document)))
        if isinstance(container, dict) and drawing.draw(st.booleans()):
            container.pop(key, None)
        elif isinstance(container, dict) or key < len(container):
            container[key] = drawing.draw(VALUES)
    fresh.json_path().write_text(json.dumps(document))
    checked = fresh.check()
    json.dumps(checked.to_json(), allow_nan=False)


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "3", "[" * 100_000, '{"a": ' * 5000, "1" * 5000, '"\\ud800"', "\xff"]
)
def test_what_is_no_data_set_at_all(text, data_set):
    data_set.write()
    data_set.json_path().write_bytes(text.encode("latin-1"))
    assert kinds(data_set.check()) == [Kind.UNREADABLE_JSON]


def test_a_large_map_of_random_ids(tmp_path, data_set):
    """Every pixel another id: nothing is slow or overflows."""
    ids = np.random.default_rng(0).permutation(2**16)[:1200].reshape(30, 40).astype(np.int32) + 1
    data_set.ids["a"] = ids
    data_set.write()
    assert kinds(data_set.check()).count(Kind.UNLISTED_ID) >= 1197
    Image.fromarray(encode_ids(ids)).save(data_set.map_path("a"))
