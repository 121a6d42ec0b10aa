"""YOLO's segmentation labels in the layouts of Ultralytics, CVAT and Roboflow."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from thingstuff.data.drawn.drawing import Drawing, DrawingSource, DrawnCategory
from thingstuff.data.drawn.formats import find_format
from thingstuff.data.drawn.yolo import label_path, open_yolo, recognize
from thingstuff.errors import InputError

SIZE = (8, 10)
SQUARE = "1 0.2 0.125 0.5 0.125 0.5 0.5 0.2 0.5\n"
"""x from 2 to 5, y from 1 to 4."""
YAML = "path: .\ntrain: images/train\nval: images/val\nnames:\n  0: person\n  1: car\n"


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (SIZE[1], SIZE[0]), (1, 2, 3)).save(path)
    return path


def text(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def ultralytics(root: Path, labels: str = SQUARE, yaml: str = YAML) -> Path:
    picture(root / "images/train/a.jpg")
    picture(root / "images/val/b.jpg")
    text(root / "labels/train/a.txt", labels)
    text(root / "data.yaml", yaml)
    return root


def whole(drawing: Drawing, index: int = 0) -> np.ndarray:
    piece = drawing.pieces[index]
    mask = np.zeros(drawing.size, dtype=bool)
    (top, left), (height, width) = piece.corner, piece.mask.shape
    mask[top : top + height, left : left + width] = piece.mask
    return mask


def refused(root: Path, *parts: str) -> None:
    with pytest.raises(InputError) as caught:
        open_yolo(root).read(0)
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


# --- layouts ---


def test_ultralytics_layout(tmp_path: Path):
    root = ultralytics(tmp_path)
    assert recognize(root)
    assert recognize(root / "data.yaml")
    source: DrawingSource = open_yolo(root)
    assert source.categories == (DrawnCategory("person", True), DrawnCategory("car", True))
    first, second = source.read(0), source.read(1)
    assert (first.image, first.size, first.split) == (root / "images/train/a.jpg", SIZE, "train")
    (piece,) = first.pieces
    assert (piece.category, piece.group, piece.crowd) == ("car", None, False)
    assert np.argwhere(whole(first)).tolist() == [[row, column] for row in (1, 2, 3) for column in (2, 3, 4)]
    # A picture without labels has no object, and is kept.
    assert (second.pieces, second.split) == ((), "val")


@pytest.mark.parametrize(
    "yaml",
    [
        "train: images/train\nnames: [person, car]\n",
        "path: ../datasets/of/another/machine\ntrain: images/train\nnames: {0: person, 1: car}\n",
        "path: /absolute/elsewhere\ntrain: [images/train]\nval:\ntest: nowhere\nnames: ['person', 'car']\n",
        "# comment\ntrain: ../images/train  # as Roboflow writes it\nnc: 2\nnames:\n- person\n- car\n",
        "train: images/train/\nflip_idx: [1, 0]\nnames:\n  1: car\n",
        '"names": ["person", "car"]\n"train": images/train\n',
        "{train: images/train, nc: 2, names: [person, car]}\n",
        "train: images/train\nnames: {'0': person, '1': car}\n",
        "common: &common {names: [person, car]}\n<<: *common\ntrain: images/train\n",
    ],
)
def test_the_ways_to_write_data_yaml(tmp_path: Path, yaml: str):
    root = ultralytics(tmp_path / "here", yaml=yaml)
    assert recognize(root)
    drawing = open_yolo(root).read(0)
    assert drawing.image.resolve() == (root / "images/train/a.jpg").resolve()
    assert drawing.pieces[0].category == "car"


def test_roboflow(tmp_path: Path):
    for split in ("train", "valid"):
        picture(tmp_path / split / "images/a.jpg")
        text(tmp_path / split / "labels/a.txt", SQUARE)
    text(
        tmp_path / "data.yaml",
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnc: 2\nnames: ['x', 'y']\n",
    )
    source = open_yolo(tmp_path)
    assert [source.read(index).split for index in range(len(source))] == ["train", "val"]
    assert source.read(1).pieces[0].category == "y"


@pytest.mark.parametrize("line", ["images/train/a.jpg", "./images/train/a.jpg", "data/images/train/a.jpg"])
def test_lists_of_pictures_as_cvat_writes_them(tmp_path: Path, line: str):
    root = ultralytics(tmp_path, yaml="path: ./\ntrain: train.txt\nnames:\n  0: person\n  1: car\n")
    text(root / "train.txt", f"{line}\n\n")
    source = open_yolo(root)
    assert len(source) == 1
    assert source.read(0).pieces[0].category == "car"


@pytest.mark.parametrize(
    "line",
    [
        "/home/u/yo/images/train/a.jpg",
        "images\\train\\a.jpg",
        "C:\\Users\\u\\yo\\images\\train\\a.jpg",
        "//server/share/yo/images/train/a.jpg",
        "../elsewhere/a.jpg",
    ],
)
def test_lists_of_another_machine(tmp_path: Path, line: str):
    root = ultralytics(tmp_path / "here", yaml="train: train.txt\nnames: [person, car]\n")
    text(root / "train.txt", f"{line}\n")
    # Outside of the export nothing is looked for.
    picture(tmp_path / "elsewhere/a.jpg")
    picture(tmp_path / "a.jpg")
    if ".." in line:
        refused(root, "leads out of the list's folder")
        return
    assert open_yolo(root).read(0).image == root / "images/train/a.jpg"
    (root / "images/train/a.jpg").unlink()
    refused(root, "is not there")


def test_names_are_text(tmp_path: Path):
    yaml = "train: images/train\nnames: [yes, no, on, 1.50, 2024-13-45, 007]\n"
    source = open_yolo(ultralytics(tmp_path, yaml=yaml))
    assert list(source.names.values()) == ["yes", "no", "on", "1.50", "2024-13-45", "007"]
    assert source.read(0).pieces[0].category == "no"


# --- classes.txt ---


@pytest.mark.parametrize("place", ["classes.txt", "labels/classes.txt", "obj.names"])
def test_a_list_of_classes_as_label_studio_writes_it(tmp_path: Path, place: str):
    picture(tmp_path / "images/a.jpg")
    picture(tmp_path / "images/b.JPG")
    text(tmp_path / "labels/a.txt", SQUARE)
    text(tmp_path / place, "person\ncar\n\n")
    text(tmp_path / "notes.json", "{}")
    assert find_format(tmp_path, None).name == "yolo"
    source = open_yolo(tmp_path)
    assert source.categories == (DrawnCategory("person", True), DrawnCategory("car", True))
    first, second = source.read(0), source.read(1)
    assert (first.image, first.size, first.split) == (tmp_path / "images/a.jpg", SIZE, None)
    assert [piece.category for piece in first.pieces] == ["car"]
    assert second.pieces == ()


def test_folders_for_splits_beside_a_list_of_classes(tmp_path: Path):
    for split in ("train", "valid"):
        picture(tmp_path / "images" / split / "a.jpg")
        text(tmp_path / "labels" / split / "a.txt", SQUARE)
    text(tmp_path / "classes.txt", "person\ncar\n")
    source = open_yolo(tmp_path)
    assert [source.read(index).split for index in range(len(source))] == ["train", "val"]
    assert all(len(source.read(index).pieces) == 1 for index in range(2))


def test_labels_beside_pictures_and_a_list_of_classes(tmp_path: Path):
    picture(tmp_path / "a.jpg")
    text(tmp_path / "a.txt", SQUARE)
    text(tmp_path / "classes.txt", "person\ncar\n")
    assert recognize(tmp_path)
    assert [piece.category for piece in open_yolo(tmp_path).read(0).pieces] == ["car"]


def test_labels_without_names_of_classes_are_recognized_and_refused(tmp_path: Path):
    picture(tmp_path / "images/a.jpg")
    text(tmp_path / "labels/a.txt", SQUARE)
    assert find_format(tmp_path, None).name == "yolo"
    refused(tmp_path, f"{tmp_path}: nothing names the classes; write {tmp_path / 'classes.txt'} with a name in each")


@pytest.mark.parametrize("line", ["car 0.1 0.2 0.3 0.4", "", "1 2", "0.5 1 1 1 1", "1 nan 0 0 0", "1 a b c d"])
def test_other_text_files_are_no_labels(tmp_path: Path, line: str):
    picture(tmp_path / "images/a.jpg")
    text(tmp_path / "labels/a.txt", f"{line}\n")
    assert not recognize(tmp_path)


def test_no_pictures_beside_a_list_of_classes(tmp_path: Path):
    text(tmp_path / "labels/a.txt", SQUARE)
    text(tmp_path / "classes.txt", "car\n")
    refused(tmp_path, f"{tmp_path / 'classes.txt'}: no pictures in {tmp_path}; put them into images/")


def test_one_yaml_file_of_any_name(tmp_path: Path):
    root = ultralytics(tmp_path)
    (root / "data.yaml").rename(root / "coco8-seg.yaml")
    assert recognize(root)
    text(root / "other.yml", "a: 1\n")
    refused(root, f"{root}: has several YAML files (coco8-seg.yaml, other.yml); give the one with names")
    assert recognize(root / "coco8-seg.yaml")


def test_where_labels_lie():
    assert label_path(Path("images/x/images/train/a.b.jpg")) == Path("images/x/labels/train/a.b.txt")
    assert label_path(Path("photos/a.jpg")) == Path("photos/a.txt")
    assert label_path(Path("images/images")) == Path("labels/images.txt")


@pytest.mark.parametrize(
    "content", ["names: [a]\n", "nc: 2\n", "train: x\n", "a:\n  names: 1\n  train: 2\n", "\xff\x00", ""]
)
def test_what_is_not_yolo(tmp_path: Path, content: str):
    (tmp_path / "data.yaml").write_bytes(content.encode("latin-1"))
    assert not recognize(tmp_path)
    assert not recognize(tmp_path / "absent")
    assert not recognize(Path(__file__))


# --- outlines ---


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(
    rows=st.lists(st.tuples(st.integers(0, 36), st.integers(1, 37)), min_size=1, max_size=31),
    top=st.integers(0, 30),
    data=st.data(),
)
def test_every_pixel_survives_shares_of_odd_sizes(
    tmp_path: Path, rows: list[tuple[int, int]], top: int, data: st.DataObject
):
    """An outline along the edges of pixels of a 37 x 61 picture, down the right side and up the left."""
    size = (61, 37)
    mask = np.zeros(size, dtype=bool)
    right, left = [], []
    for row, (start, length) in enumerate(rows, start=top):
        end = min(start + length, size[1])
        mask[row, start:end] = True
        right += [(end, row), (end, row + 1)]
        left += [(start, row), (start, row + 1)]
    points = [*right, *reversed(left)]
    digits = data.draw(st.sampled_from([6, 17]))  # as Ultralytics and CVAT round
    line = " ".join(f"{x / size[1]:.{digits}g} {y / size[0]:.{digits}g}" for x, y in points)
    root = ultralytics(tmp_path, f"0 {line}\n")
    Image.new("RGB", (size[1], size[0])).save(root / "images/train/a.jpg")
    np.testing.assert_array_equal(whole(open_yolo(root).read(0)), mask)


def test_parts_joined_by_a_line_there_and_back_stay_apart(tmp_path: Path):
    """Ultralytics writes an object of several parts as one outline with a bridge of no width."""
    points = [(0, 0), (2, 0), (2, 2), (7, 5), (9, 5), (9, 7), (7, 7), (7, 5), (2, 2), (0, 2)]
    line = " ".join(f"{x / 10} {y / 8}" for x, y in points)
    mask = whole(open_yolo(ultralytics(tmp_path, f"0 {line}\n")).read(0))
    assert np.argwhere(mask).tolist() == [[0, 0], [0, 1], [1, 0], [1, 1], [5, 7], [5, 8], [6, 7], [6, 8]]


def test_coordinates_rounded_beyond_the_edge(tmp_path: Path):
    drawing = open_yolo(ultralytics(tmp_path, "0 -0.0001 0 1.00001 0 1.00001 1.0001 -0.0001 1.0001\n\n")).read(0)
    assert whole(drawing).all()


# --- wrong input ---


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("0 0.5 0.5 0.2 0.2", "a box (class x y width height), no outline"),
        ("0 0.1 0.1 0.2 0.2 0.3", "5 coordinates; an outline has three or more pairs"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "7 coordinates"),
        ("0 0.1 0.1", "2 coordinates"),
        ("0", "0 coordinates"),
        ("7 0.1 0.1 0.2 0.2 0.3 0.1", "the class 7 is not among the 2 that are named"),
        ("-1 0.1 0.1 0.2 0.2 0.3 0.1", "the class -1"),
        ("0.5 0.1 0.1 0.2 0.2 0.3 0.1", "the class 0.5"),
        ("nan 0.1 0.1 0.2 0.2 0.3 0.1", "the class nan"),
        ("car 0.1 0.1 0.2 0.2 0.3 0.1", "are not numbers"),
        ("0 0.1 0.1 0.2 x 0.3 0.1", "are not numbers"),
        ("0 0.1 0.1 0.2 nan 0.3 0.1", "finite"),
        ("0 120 100 200 200 300 100", "coordinates up to 300; YOLO's are shares"),
        ("0 0.1 0.1 1.4 0.2 0.3 0.1", "the point (14, 1.6) lies outside"),
        ("0 0.1 0.1 -0.4 0.2 0.3 0.1", "outside"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, part: str):
    refused(ultralytics(tmp_path, f"{SQUARE}{line}\n"), "a.txt: line 2", part)


@pytest.mark.parametrize(
    ("yaml", "part"),
    [
        ("names: [a]\ntrain: images/none\n", "train is 'images/none', which is not there"),
        ("names: [a]\ntrain: {a: b}\n", "train is {'a': 'b'}"),
        ("nc: 2\ntrain: images/train\n", "names is missing; write a list of names"),
        ("names: [null]\ntrain: images/train\n", "entry 0: None"),
        ("names: [a]\nkpt_shape: [17, 3]\ntrain: images/train\n", "has kpt_shape, so its labels are of poses"),
        ("names: a\ntrain: images/train\n", "names is 'a'"),
        ("names: []\ntrain: images/train\n", "names is []"),
        ("names: {a: b}\ntrain: images/train\n", "entry 'a': 'b'"),
        ("names: [[1]]\ntrain: images/train\n", "entry 0: ['1']"),
        ("names: [a\ntrain: x\n", "not YAML"),
        ("names: !!python/object/apply:os.system [ls]\ntrain: x\n", "not YAML"),
        ("- 1\n", "has no fields"),
        ("names: [a]\ntest: nowhere\n", "no pictures in train, val or test"),
        ("names: [a]\ntrain: labels\n", "no pictures"),
    ],
)
def test_a_wrong_data_yaml_is_named(tmp_path: Path, yaml: str, part: str):
    refused(ultralytics(tmp_path, yaml=yaml), "data.yaml", part)


@pytest.mark.parametrize("yaml", ["nc: 2\ntrain: images/train\n", "names: [a\ntrain: x\n"])
def test_a_wrong_data_yaml_is_recognized(tmp_path: Path, yaml: str):
    assert find_format(ultralytics(tmp_path, yaml=yaml), None).name == "yolo"


def test_all_places_of_a_folder_are_named(tmp_path: Path):
    root = ultralytics(tmp_path, yaml="path: set\ntrain: ../none\nnames: [a]\n")
    places = ", ".join(str(place) for place in (root / "set/../none", root / "../none", root / "none"))
    refused(root, f"which is not there; looked at {places}; correct the path, or put it there")


def test_labels_in_another_folder(tmp_path: Path):
    (ultralytics(tmp_path) / "labels").rename(tmp_path / "label")
    refused(tmp_path, "data.yaml: none of 2 pictures has a label file", "labels/train/a.txt", "move the labels there")


def test_a_list_with_a_missing_picture_and_no_data_yaml(tmp_path: Path):
    root = ultralytics(tmp_path, yaml="train: train.txt\nnames: [a]\n")
    text(root / "train.txt", "images/train/a.jpg\nimages/train/gone.jpg\n")
    refused(
        root,
        f"train.txt: the picture 'images/train/gone.jpg' is not there; looked at {root / 'images/train/gone.jpg'}, and "
        f"for ever shorter ends of the path in {root}; put it there, or take the line out",
    )
    refused(root / "labels", "nothing names the classes", "or give the data.yaml")
    text(root / "train.txt", "images/train/../../../a.jpg\n")
    refused(root, "train.txt: 'images/train/../../../a.jpg' leads out of the list's folder")


def test_labels_whose_picture_is_missing_are_told_of(tmp_path: Path):
    root = ultralytics(tmp_path)
    text(root / "labels/train/classes.txt", "a\nb\n")
    text(root / "labels/val/b.txt", SQUARE)
    open_yolo(root)
    (root / "images/train/a.jpg").unlink()
    picture(root / "images/train/c.jpg")
    with pytest.warns(UserWarning, match=r"data\.yaml: pictures of 1 label files are missing, first .*train.a\.txt"):
        assert len(open_yolo(root)) == 2


def test_a_label_file_that_is_no_text(tmp_path: Path):
    root = ultralytics(tmp_path)
    (root / "labels/train/a.txt").write_bytes(b"\xff\xfe\x00\x01")
    refused(root, "a.txt: cannot be read as text")
