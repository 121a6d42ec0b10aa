"""COCO instances in the layouts of COCO, CVAT, Label Studio, Roboflow and FiftyOne."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faster_coco_eval.core import mask as coco_masks
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from thingstuff.data.drawn.coco_instances import CocoInstances, open_coco_instances, recognize
from thingstuff.data.drawn.drawing import Drawing, DrawingSource, DrawnCategory
from thingstuff.errors import InputError

SIZE = (8, 10)
CATEGORIES = [{"id": 7, "name": "car", "supercategory": "vehicle"}, {"id": 3, "name": "person", "supercategory": ""}]
SQUARE = [[2, 1, 5, 1, 5, 4, 2, 4]]
ANNOTATION = {
    "id": 11,
    "image_id": 1,
    "category_id": 7,
    "segmentation": SQUARE,
    "iscrowd": 0,
    "bbox": [2, 1, 3, 3],
    "area": 9,
}


def picture(path: Path, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size[1], size[0]), (1, 2, 3)).save(path)


def document(*annotations: dict[str, Any], **changes: Any) -> dict[str, Any]:
    images = [{"id": 1, "file_name": "a.jpg", "height": SIZE[0], "width": SIZE[1]}]
    return {
        "info": {},
        "licenses": [],
        "images": images,
        "annotations": list(annotations),
        "categories": CATEGORIES,
    } | changes


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def one(root: Path, *annotations: dict[str, Any], **changes: Any) -> Path:
    """COCO's own layout with one picture."""
    picture(root / "train2017/a.jpg")
    write(root / "annotations/instances_train2017.json", document(*annotations, **changes))
    return root


def run_lengths(mask: np.ndarray) -> str:
    """COCO's compressed form, by COCO's own tools."""
    return coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()


def masks(drawing: Drawing) -> list[np.ndarray]:
    full = []
    for piece in drawing.pieces:
        mask = np.zeros(drawing.size, dtype=bool)
        (top, left), (height, width) = piece.corner, piece.mask.shape
        mask[top : top + height, left : left + width] = piece.mask
        full.append(mask)
    return full


def refused(root: Path, *parts: str) -> None:
    """Opening or reading fails with one line that has all ``parts``."""
    with pytest.raises(InputError) as caught:
        open_coco_instances(root).read(0)
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


# --- layouts ---


def test_cocos_own_layout(tmp_path: Path):
    root = one(tmp_path, ANNOTATION)
    picture(root / "val2017/a.jpg")
    write(root / "annotations/instances_val2017.json", document())
    for other in ("person_keypoints_train2017", "captions_train2017", "image_info_test2017"):
        write(root / f"annotations/{other}.json", document(ANNOTATION))
    assert recognize(root)
    source: DrawingSource = open_coco_instances(root)
    assert source.categories == (DrawnCategory("car", True), DrawnCategory("person", True))
    train, val = source.read(0), source.read(1)
    assert (train.image, train.size, train.split) == (root / "train2017/a.jpg", SIZE, "train")
    assert (val.image, val.pieces, val.split) == (root / "val2017/a.jpg", (), "val")
    (piece,) = train.pieces
    assert (piece.category, piece.group, piece.crowd, piece.corner) == ("car", None, False, (1, 2))
    np.testing.assert_array_equal(piece.mask, np.ones((3, 3), dtype=bool))


@pytest.mark.parametrize(
    ("json_name", "image", "given_", "split"),
    [
        ("annotations/instances_default.json", "images/default/a.jpg", ".", "default"),
        ("annotations/instances_default.json", "images/a.jpg", ".", "default"),
        ("annotations/instances_train2017.json", "train2017/a.jpg", "annotations/instances_train2017.json", "train"),
        ("result.json", "images/a.jpg", ".", None),
        ("train/_annotations.coco.json", "train/a.jpg", ".", "train"),
        ("valid/_annotations.coco.json", "valid/a.jpg", ".", "val"),
        ("_annotations.coco.json", "a.jpg", "_annotations.coco.json", None),
        ("val.json", "val/a.jpg", ".", "val"),
        ("instances_train.json", "images/a.jpg", ".", "train"),
        ("train/annotations.json", "train/images/a.jpg", ".", "train"),
        ("valid/annotations.json", "valid/a.jpg", ".", "val"),
        ("train/annotations.json", "train/images/a.jpg", "train", "train"),
        ("test/annotations.json", "test/a.jpg", "test/annotations.json", "test"),
        ("annotations.json", "images/a.jpg", ".", None),
        ("labels.json", "data/a.jpg", ".", None),
        ("validation/labels.json", "validation/data/a.jpg", ".", "val"),
    ],
)
def test_other_tools_layouts(tmp_path: Path, json_name: str, image: str, given_: str, split: str | None):
    picture(tmp_path / "export" / image)
    write(tmp_path / "export" / json_name, document(ANNOTATION))
    assert recognize(tmp_path / "export" / given_)
    drawing = open_coco_instances(tmp_path / "export" / given_).read(0)
    assert (drawing.image, drawing.split) == (tmp_path / "export" / image, split)
    assert len(drawing.pieces) == 1


def test_file_names_may_have_folders_as_label_studio_writes_them(tmp_path: Path):
    picture(tmp_path / "images/deep/a.jpg")
    images = [{"id": 0, "file_name": "images\\deep\\a.jpg", "height": SIZE[0], "width": SIZE[1]}]
    write(tmp_path / "result.json", document(ANNOTATION | {"image_id": 0}, images=images))
    assert open_coco_instances(tmp_path).read(0).image == tmp_path / "images/deep/a.jpg"


def test_folders_that_are_no_splits_are_data_sets_of_their_own(tmp_path: Path):
    for name in ("annotations.json", "labels.json"):
        write(tmp_path / "city" / name, document(ANNOTATION))
    assert not recognize(tmp_path)
    assert recognize(tmp_path / "city")


def test_a_file_for_all_counts_rather_than_those_of_its_splits(tmp_path: Path):
    picture(tmp_path / "images/a.jpg")
    picture(tmp_path / "train/a.jpg")
    write(tmp_path / "annotations.json", document(ANNOTATION))
    write(tmp_path / "train/annotations.json", document(ANNOTATION))
    source = open_coco_instances(tmp_path)
    assert [picture_.path for picture_ in source.pictures] == [tmp_path / "images/a.jpg"]


@pytest.mark.parametrize(
    "file_name",
    [
        "/home/me/data/images/a.jpg",
        "C:\\data\\images\\a.jpg",
        "\\\\server\\data\\a.jpg",
        "../../label-studio/data/media/upload/1/a.jpg",
        "..\\a.jpg",
        "dataset/images/a.jpg",
        "./images/a.jpg",
        "https://example.com/data/a.jpg",
    ],
)
def test_of_paths_of_another_machine_the_end_counts(tmp_path: Path, file_name: str):
    picture(tmp_path / "a.jpg")
    picture(tmp_path / "export/images/a.jpg")
    images = [{"id": 1, "file_name": file_name, "height": SIZE[0], "width": SIZE[1]}]
    write(tmp_path / "export/result.json", document(ANNOTATION, images=images))
    assert open_coco_instances(tmp_path / "export").read(0).image == tmp_path / "export/images/a.jpg"


def test_of_several_ends_the_longest_counts(tmp_path: Path):
    picture(tmp_path / "images/a.jpg")
    picture(tmp_path / "images/deep/a.jpg")
    names = ["/home/me/deep/a.jpg", "/home/me/a.jpg"]
    images = [{"id": n, "file_name": name, "height": SIZE[0], "width": SIZE[1]} for n, name in enumerate(names)]
    write(tmp_path / "result.json", document(images=images))
    found = [picture_.path.relative_to(tmp_path).as_posix() for picture_ in open_coco_instances(tmp_path).pictures]
    assert found == ["images/deep/a.jpg", "images/a.jpg"]


def test_pictures_outside_of_the_export_are_never_read(tmp_path: Path):
    picture(tmp_path / "a.jpg")
    picture(tmp_path / "export/images/b.jpg")
    for file_name in ("../a.jpg", str(tmp_path / "a.jpg"), "images/../../a.jpg"):
        images = [{"id": 1, "file_name": file_name, "height": SIZE[0], "width": SIZE[1]}]
        write(tmp_path / "export/result.json", document(ANNOTATION, images=images))
        refused(tmp_path / "export", f"result.json: 1 picture is missing, the first is {file_name}; put them")


@pytest.mark.parametrize("order", [("annotations", "images", "categories"), ("categories", "annotations", "images")])
def test_long_files_with_their_lists_in_any_order(tmp_path: Path, order: tuple[str, ...]):
    root = one(tmp_path, *(ANNOTATION | {"id": number} for number in range(2000)))
    path = root / "annotations/instances_train2017.json"
    content = json.loads(path.read_text())
    content["images"][0]["flickr_url"] = 150_000 * "x"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps({key: content[key] for key in order}, indent=2).encode())
    assert path.stat().st_size > 3 * 65536
    assert recognize(root)
    assert len(open_coco_instances(root).read(0).pieces) == 2000


def test_what_is_not_coco_instances(tmp_path: Path):
    panoptic = {"images": [], "annotations": [{"segments_info": []}], "categories": []}
    contents = [panoptic, [], {"shapes": []}, {"images": []}, "no json", {"items": [], "categories": {"label": {}}}]
    for number, content in enumerate(contents):
        write(tmp_path / f"{number}.json", content)
        assert not recognize(tmp_path / f"{number}.json")
    assert not recognize(tmp_path)
    assert not recognize(tmp_path / "absent")
    with pytest.raises(InputError, match="no JSON file with images"):
        open_coco_instances(tmp_path)


def test_files_of_captions_are_none_of_instances(tmp_path: Path):
    picture(tmp_path / "a.jpg")
    caption = {"id": 3, "image_id": 1, "caption": 'A car with segmentation, "categories": none'}
    for number, separators in enumerate([(",", ":"), (", ", " : ")]):
        write(tmp_path / f"{number}.json", json.dumps(document(caption), separators=separators))
        assert not recognize(tmp_path / f"{number}.json")
    panoptic = {"image_id": 1, "file_name": "a.png", "segments_info": [{"id": 1, "category_id": 7}]}
    write(tmp_path / "2.json", document(panoptic))
    assert not recognize(tmp_path)


@pytest.mark.parametrize("word", ["caption", "segments_info", "images"])
def test_categories_and_attributes_may_have_names_of_other_keys(tmp_path: Path, word: str):
    root = one(tmp_path, ANNOTATION, categories=[{"id": 7, "name": word}])
    assert recognize(root)
    assert open_coco_instances(root).read(0).pieces[0].category == word
    attributes = {"attributes": {"caption": "a car", "kind": word}}
    write(root / "annotations/instances_train2017.json", document(ANNOTATION | attributes))
    assert recognize(root)
    assert len(open_coco_instances(root).read(0).pieces) == 1


def test_names_that_occur_twice_are_one_category(tmp_path: Path):
    # Roboflow lists the name of the project as a category of its own.
    categories = [{"id": 0, "name": "car"}, {"id": 1, "name": "car"}]
    root = one(tmp_path, ANNOTATION | {"category_id": 0}, ANNOTATION | {"category_id": 1}, categories=categories)
    source = open_coco_instances(root)
    assert [category.name for category in source.categories] == ["car"]
    assert [piece.category for piece in source.read(0).pieces] == ["car", "car"]


def test_a_category_may_say_that_it_is_stuff(tmp_path: Path):
    categories = [{"id": 7, "name": "car", "isthing": 1}, {"id": 8, "name": "sky", "isthing": 0}]
    source = open_coco_instances(one(tmp_path, ANNOTATION, categories=categories))
    assert [category.isthing for category in source.categories] == [True, False]


# --- masks ---


def strips(mask: np.ndarray) -> list[list[float]]:
    """A mask as polygons: a rectangle for every run of pixels in a row."""
    found = []
    for y, row in enumerate(mask):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(int), [0]])))
        for left, right in edges.reshape(-1, 2).tolist():
            found.append([left, y, right, y, right, y + 1, left, y + 1])
    return found


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(bits=st.integers(1, 2**80 - 1), crowd=st.booleans(), kind=st.sampled_from(["polygons", "counts", "compressed"]))
def test_every_pixel_survives_in_every_encoding(tmp_path: Path, bits: int, crowd: bool, kind: str):
    mask = np.array([bits >> position & 1 for position in range(80)], dtype=bool).reshape(SIZE)
    counts = np.diff(
        np.flatnonzero(np.diff(np.concatenate([[-1], mask.ravel(order="F").astype(int), [-1]]))), prepend=0
    )
    encoded = {
        "polygons": strips(mask),
        "counts": {"size": list(SIZE), "counts": ([0] if mask[0, 0] else []) + [c for c in counts.tolist() if c]},
        "compressed": {"size": list(SIZE), "counts": run_lengths(mask)},
    }[kind]
    # A car of its own, too: crowds alone would be warned of.
    root = one(tmp_path, ANNOTATION | {"segmentation": encoded, "iscrowd": int(crowd)}, ANNOTATION)
    drawing = open_coco_instances(root).read(0)
    np.testing.assert_array_equal(masks(drawing)[0], mask)
    assert drawing.pieces[0].crowd == crowd


def test_a_polygon_with_two_corners_has_no_pixel_as_in_cocos_own(tmp_path: Path):
    root = one(
        tmp_path, ANNOTATION | {"segmentation": [[1, 1, 5, 5]]}, ANNOTATION | {"segmentation": [[1, 1, 5, 5], *SQUARE]}
    )
    drawing = open_coco_instances(root).read(0)
    assert [int(mask.sum()) for mask in masks(drawing)] == [0, 9]


def test_things_that_are_crowds_alone_are_warned_of(tmp_path: Path):
    # CVAT and Datumaro mark every mask so; COCO has crowds beside objects of the same class.
    square = {"size": list(SIZE), "counts": [9, 3, 68]}
    crowd = {"segmentation": square, "iscrowd": 1}
    person, moss = {"category_id": 3}, {"category_id": 4}
    categories = [*CATEGORIES, {"id": 4, "name": "moss", "isthing": 0}]
    root = one(
        tmp_path, ANNOTATION | crowd, ANNOTATION | crowd, ANNOTATION | moss | crowd, ANNOTATION | person | crowd,
        ANNOTATION | person, categories=categories,
    )  # fmt: skip
    with pytest.warns(UserWarning, match=r"none a single object: car \(2\); CVAT .* export polygons") as caught:
        source = open_coco_instances(root)
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)
    assert [piece.crowd for piece in source.read(0).pieces] == [True, True, True, True, False]
    # Another split has cars that are objects.
    picture(root / "val2017/a.jpg")
    write(root / "annotations/instances_val2017.json", document(ANNOTATION | {"segmentation": square}))
    assert len(open_coco_instances(root)) == 2


def test_crowds_of_polygons_are_no_accident(tmp_path: Path):
    assert open_coco_instances(one(tmp_path, ANNOTATION | {"iscrowd": 1})).read(0).pieces[0].crowd


# --- stuff ---


def test_stuff_annotations_lie_below_and_the_category_of_all_things_is_left_out(tmp_path: Path):
    root = one(tmp_path, ANNOTATION)
    ground = np.zeros(SIZE, dtype=bool)
    ground[4:] = True
    stuff = [
        {"id": number, "image_id": 1, "category_id": number, "segmentation": {"size": list(SIZE), "counts": counts}}
        for number, counts in ((140, run_lengths(ground)), (183, run_lengths(~ground)))
    ]
    categories = [{"id": 140, "name": "moss"}, {"id": 183, "name": "other"}]
    write(root / "annotations/stuff_train2017.json", document(*stuff, categories=categories))
    source = open_coco_instances(root)
    assert source.categories == (
        DrawnCategory("moss", False),
        DrawnCategory("car", True),
        DrawnCategory("person", True),
    )
    drawing = source.read(0)
    # As a void of its own it would lie over all things, by --overlap skip and by-order.
    assert [piece.category for piece in drawing.pieces] == ["moss", "car"]
    np.testing.assert_array_equal(masks(drawing)[0], ground)


@pytest.mark.parametrize("place", ["annotations/stuff_train2017_pixelmaps", "stuff_train2017"])
@pytest.mark.parametrize("named_by", ["json", "classes.txt"])
def test_stuff_as_png_files(tmp_path: Path, place: str, named_by: str):
    root = one(tmp_path, ANNOTATION)
    values = np.full(SIZE, 183, dtype=np.uint8)
    values[4:], values[6:, :3], values[0] = 140, 0, 92
    (root / place).mkdir(parents=True)
    image = Image.fromarray(values)
    image.putpalette([number // 3 for number in range(768)])
    image.save(root / place / "a.png")
    categories = [{"id": 92, "name": "banner"}, {"id": 140, "name": "moss"}, {"id": 183, "name": "other"}]
    if named_by == "json":
        write(root / "annotations/stuff_train2017.json", document(categories=categories))
    else:
        write(root / place / "classes.txt", "92 banner\n140 moss\n")
    source = open_coco_instances(root)
    assert [category.name for category in source.categories] == ["banner", "moss", "car", "person"]
    drawing = source.read(0)
    assert [piece.category for piece in drawing.pieces] == ["banner", "moss", "car"]
    np.testing.assert_array_equal(masks(drawing)[1], values == 140)


def test_stuff_png_files_without_names_or_of_another_size(tmp_path: Path):
    root = one(tmp_path, ANNOTATION)
    (root / "stuff_train2017").mkdir()
    refused(root, "stuff_train2017: its numbers have no names")
    write(root / "stuff_train2017/classes.txt", "1 moss\n")
    refused(root, "a.png: there is no such file")
    Image.new("L", (3, 3)).save(root / "stuff_train2017/a.png")
    refused(root, "a.png: 3 x 3 pixels (width x height), but the picture has 10 x 8")


def test_one_name_for_thing_and_stuff_is_refused(tmp_path: Path):
    root = one(tmp_path, ANNOTATION)
    write(root / "annotations/stuff_train2017.json", document(ANNOTATION, categories=[{"id": 7, "name": "car"}]))
    refused(root, "instances_train2017.json: the category 'car' is both thing and stuff")


# --- wrong input ---


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"segmentation": []}, "annotation 11 of a.jpg: it has a box, but no outline"),
        ({"segmentation": None}, "no outline"),
        ({"segmentation": [2, 1, 5, 1, 5, 4]}, "neither polygons nor run lengths"),
        ({"segmentation": "abc"}, "neither polygons nor run lengths"),
        ({"segmentation": 7}, "neither polygons nor run lengths"),
        ({"segmentation": [[2, 1, 5, 1, 5, 4, 2]]}, "7 numbers, which are no pairs"),
        ({"segmentation": [[2, 1, 5, 1, 5, None]]}, "finite"),
        ({"segmentation": [[2, 1, 5, 1, 5, "x"]]}, "pairs of numbers"),
        ({"segmentation": [[2, 1, 5, 1, 50, 4]]}, "the point (50, 4) lies outside the picture of 10 x 8"),
        ({"segmentation": [[2, 1, 5, 1, -5, 4]]}, "outside"),
        ({"segmentation": [[2, 1, 5, 1, float("nan"), 4]]}, "finite"),
        ({"segmentation": {"size": [10, 8], "counts": [80]}}, "of size [10, 8], the picture of [8, 10]"),
        ({"segmentation": {"size": [8, 10], "counts": [70]}}, "add up"),
        ({"segmentation": {"size": [8, 10], "counts": "~"}}, "damaged"),
        ({"segmentation": {"counts": "1"}}, "of size None"),
        ({"category_id": 99}, "category_id 99 is not among 'categories'"),
        ({"category_id": "car"}, "category_id is 'car'"),
        ({"iscrowd": 2}, "iscrowd is 2"),
        ({"image_id": None}, "annotations[0]: image_id is None"),
        ({"image_id": 5}, "annotation 11 is of picture 5, which 'images' does not list"),
    ],
)
def test_a_wrong_annotation_is_named(tmp_path: Path, change: dict[str, Any], part: str):
    refused(one(tmp_path, ANNOTATION | change), "instances_train2017.json", part)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (
            {"images": [{"id": 1, "file_name": "/etc/passwd", "height": 8, "width": 10}]},
            "1 picture is missing, the first is /etc/passwd",
        ),
        ({"images": [{"id": 1, "file_name": "a\0.jpg", "height": 8, "width": 10}]}, "leads out of"),
        ({"images": [{"id": 1, "file_name": "", "height": 8, "width": 10}]}, "picture 1: file_name is empty"),
        (
            {"images": [{"id": 1, "file_name": "b.jpg", "height": 8, "width": 10}]},
            "1 picture is missing, the first is b.jpg",
        ),
        ({"images": [{"id": 1, "file_name": "a.jpg", "height": -8, "width": 10}]}, "10 x -8 pixels"),
        ({"images": [{"id": 1, "file_name": "a.jpg", "width": 10}]}, "height is missing"),
        ({"images": {}}, "images is {}"),
        ({"images": []}, "'images' does not list"),
        ({"annotations": None}, "annotations is None"),
        ({"annotations": [5]}, "annotations[0] is 5"),
        ({"categories": [{"id": 7}]}, "categories[0]: name is missing"),
        ({"categories": [{"id": 7, "name": "a"}, {"id": 7, "name": "b"}]}, "another category has the id 7"),
    ],
)
def test_a_wrong_list_is_named(tmp_path: Path, change: dict[str, Any], part: str):
    refused(one(tmp_path, **({"annotations": [ANNOTATION]} | change)), "instances_train2017.json", part)


@pytest.mark.parametrize("content", [b"", bytes(9), b"[]", b'{"images": ['])
@pytest.mark.parametrize(
    "place",
    [
        "annotations/instances_val2017.json",
        "valid/_annotations.coco.json",
        "valid/annotations.json",
        "valid/labels.json",
    ],
)
def test_a_damaged_file_beside_a_good_one_is_no_missing_split(tmp_path: Path, content: bytes, place: str):
    good = place.replace("val2017", "train2017").replace("valid", "train")
    picture(tmp_path / "train2017/a.jpg")
    picture(tmp_path / "train/a.jpg")
    write(tmp_path / good, document(ANNOTATION))
    assert len(open_coco_instances(tmp_path)) == 1
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_bytes(content)
    refused(tmp_path, place)


def test_a_picture_that_is_listed_twice(tmp_path: Path):
    images = [{"id": number, "file_name": "a.jpg", "height": SIZE[0], "width": SIZE[1]} for number in (1, 2)]
    refused(one(tmp_path, ANNOTATION, images=images), "instances_train2017.json: lists the picture", "a.jpg twice")


def test_two_names_of_one_picture(tmp_path: Path):
    images = [
        {"id": number, "file_name": name, "height": SIZE[0], "width": SIZE[1]}
        for number, name in enumerate(["one/a.jpg", "two/a.jpg"])
    ]
    refused(one(tmp_path, images=images), "instances_train2017.json: lists the picture", "a.jpg twice")
    # In two files as well.
    picture(tmp_path / "images/a.jpg")
    (tmp_path / "train2017/a.jpg").unlink()
    for split, image in zip(("train2017", "val2017"), images, strict=True):
        write(tmp_path / f"annotations/instances_{split}.json", document(images=[image]))
    refused(tmp_path, "lists the picture", "images/a.jpg twice")
    write(tmp_path / "annotations/instances_val2017.json", document(images=images[:1]))
    refused(tmp_path, "lists the picture", "images/a.jpg twice")


def test_names_and_sizes_that_no_picture_has(tmp_path: Path):
    image = {"id": 1, "file_name": "a.jpg", "height": SIZE[0], "width": SIZE[1]}
    refused(one(tmp_path, ANNOTATION, images=[image | {"file_name": 5000 * "a"}]), "1 picture is missing")
    refused(one(tmp_path, ANNOTATION, images=[image | {"height": 10**9}]), "a.jpg", "million pixels")


def test_a_file_cut_short(tmp_path: Path):
    root = one(tmp_path, ANNOTATION)
    path = root / "annotations/instances_train2017.json"
    path.write_text(path.read_text()[:-30])
    assert recognize(root)
    refused(root, "instances_train2017.json: cannot be read as JSON")


def test_no_picture_at_all(tmp_path: Path):
    refused(one(tmp_path, images=[]), "instances_train2017.json: 'images' is empty")


def test_a_picture_without_annotation_is_kept(tmp_path: Path):
    source = open_coco_instances(one(tmp_path))
    assert isinstance(source, CocoInstances)
    assert len(source) == 1
    assert source.read(0).pieces == ()


# --- real annotations ---

SHARED = Path(__file__).parents[3] / "../shared/data/coco_things"


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared pictures")
def test_real_outlines_have_nearly_the_area_that_coco_counted(tmp_path: Path):
    shutil.copy(SHARED / "instances_val.json", tmp_path / "instances_val.json")
    (tmp_path / "images").symlink_to(SHARED / "images")
    source = open_coco_instances(tmp_path)
    by_picture: dict[int, list[float]] = {}
    content = json.loads((tmp_path / "instances_val.json").read_text())
    for annotation in content["annotations"]:
        by_picture.setdefault(annotation["image_id"], []).append(annotation["area"])
    checked = 0
    for index, picture_ in enumerate(source.pictures[:40]):
        assert isinstance(picture_.identity, int)
        expected = by_picture.get(picture_.identity, [])
        for mask, area in zip(masks(source.read(index)), expected, strict=True):
            # COCO's area is that of the outline, ours the number of pixels.
            assert abs(mask.sum() - area) <= 4 + 0.1 * area
            checked += 1
    assert checked > 20
