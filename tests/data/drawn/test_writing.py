import json
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from thingstuff.data.coco import open_coco_panoptic
from thingstuff.data.drawn.drawing import Drawing, DrawnCategory, Piece
from thingstuff.data.drawn.splitting import SplitChoice
from thingstuff.data.drawn.table import LabelTable, table_of_source
from thingstuff.data.drawn.writing import Conversion, Summary, check_out, convert_drawings, count_names, split_things
from thingstuff.errors import InputError

CATEGORIES = (DrawnCategory("car", True, (1, 2, 3)), DrawnCategory("road", False), DrawnCategory("unused", True))
FOUND = table_of_source(CATEGORIES, "test")
assert FOUND is not None
TABLE: LabelTable = FOUND


class Drawn:
    """A source of drawings that are made already; an error in their place is raised."""

    def __init__(self, drawings: Sequence[Drawing | BaseException]) -> None:
        self.drawings = drawings
        self.categories = CATEGORIES

    def __len__(self) -> int:
        return len(self.drawings)

    def read(self, index: int) -> Drawing:
        drawing = self.drawings[index]
        if isinstance(drawing, BaseException):
            raise drawing
        return drawing


def through(items: Any, description: str, total: int) -> Any:
    return items


def picture(path: Path, size: tuple[int, int] = (4, 6)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size[1], size[0]), (1, 2, 3)).save(path)
    return path


def block(name: str | None, rows: slice, columns: slice, **more: Any) -> Piece:
    mask = np.ones((rows.stop - rows.start, columns.stop - columns.start), dtype=bool)
    return Piece(name, mask, (rows.start, columns.start), **more)


CAR, ROAD = block("car", slice(1, 3), slice(1, 4)), block("road", slice(0, 2), slice(0, 6))


def drawing(path: Path, *pieces: Piece, split: str | None = None) -> Drawing:
    return Drawing(picture(path), (4, 6), pieces, split)


def write(out: Path, *drawings: Drawing | BaseException, **changes: Any) -> Summary:
    options: dict[str, Any] = {"overlap": "last-wins"} | changes
    return convert_drawings(Drawn(drawings), TABLE, out, Conversion(**options), through)


def document(out: Path, split: str) -> dict[str, Any]:
    return json.loads((out / f"panoptic_{split}.json").read_text())


# --- what is written ---


def test_a_data_set_of_two_splits(tmp_path: Path):
    out = tmp_path / "deep/out"
    summary = write(
        out,
        drawing(tmp_path / "s/b.jpg", ROAD, CAR),
        drawing(tmp_path / "s/a.png", block("car", slice(0, 4), slice(0, 6), crowd=True), split="valid"),
        drawing(tmp_path / "s/c.jpg", split="train"),
    )
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()) == [
        "images/a.png", "images/b.jpg", "images/c.jpg", "panoptic_train.json", "panoptic_train/b.png",
        "panoptic_train/c.png", "panoptic_val.json", "panoptic_val/a.png",
    ]  # fmt: skip
    train, val = document(out, "train"), document(out, "val")
    assert train["categories"] == val["categories"]
    assert [(c["id"], c["name"], c["isthing"]) for c in train["categories"]] == [
        (1, "car", 1), (2, "road", 0), (3, "unused", 1)
    ]  # fmt: skip
    assert train["categories"][0]["color"] == [1, 2, 3]
    assert train["images"] == [
        {"id": 1, "file_name": "b.jpg", "height": 4, "width": 6},
        {"id": 3, "file_name": "c.jpg", "height": 4, "width": 6},
    ]
    assert train["annotations"][0]["segments_info"] == [
        {"id": 1, "category_id": 2, "area": 9, "bbox": [0, 0, 6, 2], "iscrowd": 0},
        {"id": 2, "category_id": 1, "area": 6, "bbox": [1, 1, 3, 2], "iscrowd": 0},
    ]
    assert train["annotations"][1]["segments_info"] == []
    assert val["annotations"][0]["segments_info"][0]["iscrowd"] == 1

    sample = open_coco_panoptic(out, "train").read(0)
    assert sample.truth is not None
    assert sample.truth.ids.tolist() == [[1] * 6, [1, 2, 2, 2, 1, 1], [0, 2, 2, 2, 0, 0], [0] * 6]
    assert open_coco_panoptic(out, "val").read(0).truth is not None

    assert summary.pictures == {"train": 2, "val": 1}
    assert summary.segments == {"car": 2, "road": 1, "unused": 0}
    assert summary.pixels == {"car": 30, "road": 9}
    assert (summary.crowds, summary.lost_pixels, summary.hidden, summary.empty) == (1, 3, 0, 0)
    assert summary.void_share == pytest.approx(33 / 72)
    assert list(tmp_path.glob("deep/.*")) == []


@pytest.mark.parametrize("name", ["car", "road"])
def test_data_sets_of_things_alone_and_of_stuff_alone(tmp_path: Path, name: str):
    table = table_of_source(tuple(c for c in CATEGORIES if c.name == name), "x")
    assert table is not None
    drawings = [drawing(tmp_path / "a.jpg", block(name, slice(0, 1), slice(0, 3))), drawing(tmp_path / "empty.jpg")]
    convert_drawings(Drawn(drawings), table, tmp_path / "out", Conversion(), through)
    source = open_coco_panoptic(tmp_path / "out", "train")
    assert len(source) == 2
    assert (source.labels.num_things, source.labels.num_stuff) == ((1, 0) if name == "car" else (0, 1))
    truth = source.read(1).truth
    assert truth is not None
    assert truth.segments == ()


def test_numbers_stay_picture_ids_where_all_names_are_numbers(tmp_path: Path):
    write(tmp_path / "one", *(drawing(tmp_path / f"{name}.jpg", CAR) for name in ("000000139", "285")))
    assert [image["id"] for image in document(tmp_path / "one", "train")["images"]] == [139, 285]
    write(tmp_path / "two", *(drawing(tmp_path / f"{name}.jpg", CAR) for name in ("7", "07")))
    assert [image["id"] for image in document(tmp_path / "two", "train")["images"]] == [1, 2]
    write(tmp_path / "three", *(drawing(tmp_path / f"{name}.jpg", CAR) for name in ("7", "x")))
    assert [image["id"] for image in document(tmp_path / "three", "train")["images"]] == [1, 2]


def test_nothing_is_written_where_nothing_is_drawn(tmp_path: Path):
    with pytest.raises(InputError, match="not written, because nothing is drawn on any of 2 pictures"):
        write(tmp_path / "out", drawing(tmp_path / "a.jpg"), drawing(tmp_path / "b.jpg"))
    assert not (tmp_path / "out").exists()


def test_pictures_of_one_name_in_two_folders(tmp_path: Path):
    write(tmp_path / "out", drawing(tmp_path / "train/a.jpg", CAR), drawing(tmp_path / "val/a.jpg", ROAD, split="val"))
    assert document(tmp_path / "out", "val")["images"][0]["file_name"] == "val_a.jpg"
    for split in ("train", "val"):
        assert open_coco_panoptic(tmp_path / "out", split).read(0).truth is not None


def test_a_picture_that_the_tool_showed_as_stored(tmp_path: Path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (6, 4)).save(tmp_path / "a.jpg", exif=exif)
    write(tmp_path / "out", Drawing(tmp_path / "a.jpg", (4, 6), (block("car", slice(0, 1), slice(0, 6)),)))
    truth = open_coco_panoptic(tmp_path / "out", "train").read(0).truth
    assert truth is not None
    # The upper row becomes the right column.
    assert truth.ids.tolist() == [[0, 0, 0, 1]] * 6


def test_maps_do_not_stay_in_memory(tmp_path: Path):
    side, count = 400, 100
    whole = Piece("car", np.ones((side, side), dtype=bool), (0, 0))
    images = [picture(tmp_path / f"{number}.jpg", (side, side)) for number in range(count)]
    tracemalloc.start()
    try:
        write(tmp_path / "out", *(Drawing(image, (side, side), (whole,)) for image in images))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < count * side * side * 4 / 2


def test_links(tmp_path: Path):
    write(tmp_path / "out", drawing(tmp_path / "a.jpg", CAR), link=True)
    assert (tmp_path / "out/images/a.jpg").samefile(tmp_path / "a.jpg")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(shares=st.sampled_from([0.1, 0.5, 0.9]), seed=st.integers(0, 5), count=st.integers(1, 6))
def test_splits_by_share_have_their_own_files(tmp_path: Path, shares: float, seed: int, count: int):
    drawings = [drawing(tmp_path / f"{number}.jpg", CAR) for number in range(count)]
    choice = SplitChoice(val_share=shares, seed=seed)
    summary = write(tmp_path / "out", *drawings, splits=choice)
    assert sum(summary.pictures.values()) == count
    for split, number in summary.pictures.items():
        assert len(open_coco_panoptic(tmp_path / "out", split)) == number
    assert count == 1 or set(summary.pictures) == {"train", "val"}


# --- things that are not told apart ---


def test_connected_parts_become_objects():
    mask = np.array([[1, 1, 0, 0, 1], [0, 0, 0, 0, 1], [1, 0, 1, 1, 0]], dtype=bool)
    merged = Piece("car", mask, (1, 1), crowd=True)
    others = (
        block("road", slice(0, 1), slice(0, 2), crowd=True),
        block(None, slice(0, 1), slice(0, 2), crowd=True),
        block("car", slice(0, 1), slice(0, 6)),
        block("car", slice(0, 1), slice(0, 6), group=3, crowd=True),
    )
    split = split_things(Drawing(Path("a"), (4, 6), (merged, *others)), TABLE)
    parts, rest = split.pieces[:-4], split.pieces[-4:]
    assert rest == others
    assert [(part.corner, part.mask.shape, part.crowd, part.group) for part in parts] == [
        ((1, 1), (1, 2), False, None), ((1, 3), (3, 3), False, None), ((3, 1), (1, 1), False, None)
    ]  # fmt: skip


# --- when something is wrong ---


def test_the_first_error_stops_and_nothing_is_left(tmp_path: Path):
    (tmp_path / "out").mkdir()
    for wrong in (InputError("b.json is damaged"), KeyboardInterrupt(), MemoryError()):
        with pytest.raises(type(wrong)):
            write(tmp_path / "out", drawing(tmp_path / "a.jpg", CAR), wrong)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jpg", "out"]
        assert list((tmp_path / "out").iterdir()) == []
    with pytest.raises(InputError, match=r"a.jpg: shape 2 \('road'\) covers 3 pixels"):
        write(tmp_path / "out", drawing(tmp_path / "a.jpg", CAR, ROAD), overlap="error")


def test_skipped_errors_are_listed_and_the_rest_is_kept(tmp_path: Path):
    summary = write(
        tmp_path / "out",
        drawing(tmp_path / "a.jpg", CAR),
        InputError("b.json is damaged"),
        Drawing(tmp_path / "absent.jpg", (4, 6), ()),
        drawing(tmp_path / "d.jpg", CAR, ROAD),
        drawing(tmp_path / "e.jpg", block("bus", slice(0, 1), slice(0, 1))),
        Drawing(tmp_path / "a.jpg", (5, 5), ()),
        skip_errors=True,
        overlap="error",
    )
    assert [problem.split(":")[0].rsplit("/")[-1] for problem in summary.problems] == [
        "b.json is damaged", "absent.jpg", "d.jpg", "e.jpg", "a.jpg"
    ]  # fmt: skip
    assert [path.name for path in (tmp_path / "out/images").iterdir()] == ["a.jpg"]


def test_not_one_picture_is_an_error(tmp_path: Path):
    with pytest.raises(InputError, match=r"not one picture could be converted; the first: b.json is damaged"):
        write(tmp_path / "out", InputError("b.json is damaged"), skip_errors=True)
    with pytest.raises(InputError, match=r"not one picture could be converted$"):
        write(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_was_there_is_replaced_as_a_whole(tmp_path: Path):
    write(tmp_path / "out", drawing(tmp_path / "a.jpg", CAR), splits=SplitChoice(name="test"))
    with pytest.raises(InputError):
        write(tmp_path / "out", InputError("damaged"))
    assert document(tmp_path / "out", "test")["images"][0]["file_name"] == "a.jpg"
    write(tmp_path / "out", drawing(tmp_path / "b.jpg", CAR))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "images",
        "panoptic_train",
        "panoptic_train.json",
    ]
    assert [path.name for path in (tmp_path / "out/images").iterdir()] == ["b.jpg"]


def test_a_link_to_another_disk_stays_one(tmp_path: Path):
    (tmp_path / "disk/out").mkdir(parents=True)
    (tmp_path / "out").symlink_to(tmp_path / "disk/out")
    write(tmp_path / "out", drawing(tmp_path / "a.jpg", CAR))
    assert (tmp_path / "out").is_symlink()
    assert document(tmp_path / "disk/out", "train")["images"][0]["file_name"] == "a.jpg"
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["out"]


def test_a_place_where_nothing_can_be_made(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made"):
        write(tmp_path / "file/out", drawing(tmp_path / "a.jpg", CAR))


def test_names_are_counted(tmp_path: Path):
    grouped = [block("car", slice(row, row + 1), slice(0, 6), group=4) for row in (0, 2)]
    source = Drawn([drawing(tmp_path / "a.jpg", *grouped, CAR), InputError("x"), drawing(tmp_path / "a.jpg", CAR)])
    counts = count_names(source, True, through)
    car = counts.by_name["car"]
    assert (car.objects, car.pictures, car.merged) == (3, 2, 0)
    assert car.share == pytest.approx((12 + 6 + 6) / 24)
    with pytest.raises(InputError):
        count_names(source, False, through)


# --- where it may be written ---


@pytest.mark.parametrize(
    ("inside", "overwrite", "part"),
    [
        ([], False, None),
        (["a"], False, "is not empty"),
        (["images/a.jpg", "panoptic_val.json", "panoptic_val/a.png"], False, "is not empty"),
        (["images/a.jpg", "panoptic_val.json", "panoptic_val/a.png"], True, None),
        (["images/a.jpg", "thesis.tex"], True, "holds 'thesis.tex', which this command has not written"),
    ],
)
def test_places(tmp_path: Path, inside: list[str], overwrite: bool, part: str | None):
    out, source = tmp_path / "out", tmp_path / "source"
    source.mkdir()
    for name in inside:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("x")
    if part is None:
        check_out(out, source, overwrite)
        return
    with pytest.raises(InputError, match=part):
        check_out(out, source, overwrite)


def test_the_source_is_never_touched(tmp_path: Path):
    source = tmp_path / "a/source"
    source.mkdir(parents=True)
    for out in (source, source / "out", tmp_path / "a", tmp_path, source / "../source"):
        with pytest.raises(InputError, match="must not contain each other"):
            check_out(out, source, overwrite=True)
    (tmp_path / "link").symlink_to(source)
    with pytest.raises(InputError, match="must not contain each other"):
        check_out(tmp_path / "link", source, overwrite=True)
    check_out(tmp_path / "a/source2", source, overwrite=False)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="this is a file"):
        check_out(tmp_path / "file", source, overwrite=True)


def test_a_picture_is_annotated_once(tmp_path: Path):
    first, other = drawing(tmp_path / "a.jpg", CAR), drawing(tmp_path / "b.jpg", ROAD)
    again = drawing(tmp_path / "a.jpg", replace(ROAD, where="b.json: shapes[0]"))
    with pytest.raises(InputError, match=r"a\.jpg: is annotated twice, the second time in b\.json: shapes\[0\];"):
        write(tmp_path / "out", first, other, again)
    assert not (tmp_path / "out").exists()
    summary = write(tmp_path / "out", first, other, again, skip_errors=True)
    assert [problem.split(": ")[1] for problem in summary.problems] == ["is annotated twice, the second time in b.json"]
    assert summary.pictures == {"train": 2}
