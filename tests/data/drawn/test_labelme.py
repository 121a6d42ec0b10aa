"""labelme's JSON files as its versions 3 to 6 write them."""

import base64
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from thingstuff.data.drawn.drawing import Drawing, DrawingSource, DrawnCategory
from thingstuff.data.drawn.labelme import open_labelme, recognize
from thingstuff.data.drawn.painting import paint
from thingstuff.data.drawn.pictures import fit_to_picture
from thingstuff.errors import InputError
from thingstuff.labels import Category

SIZE = (8, 10)
SQUARE = [[2.0, 1.0], [5.0, 1.0], [5.0, 4.0], [2.0, 4.0]]


def shape(
    label: str = "car", points: Any = SQUARE, kind: Any = "polygon", group: Any = None, **more: Any
) -> dict[str, Any]:
    """As version 5 writes it."""
    return {
        "label": label,
        "points": points,
        "group_id": group,
        "description": "",
        "shape_type": kind,
        "flags": {},
    } | more


def document(*shapes: Any, **changes: Any) -> dict[str, Any]:
    """As version 5 writes it."""
    return {
        "version": "5.5.0", "flags": {}, "shapes": list(shapes), "imagePath": "a.jpg", "imageData": None,
        "imageHeight": SIZE[0], "imageWidth": SIZE[1],
    } | changes  # fmt: skip


def encoded(pixels: np.ndarray, kind: str = "PNG") -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return base64.b64encode(buffer.getvalue()).decode()


def write(path: Path, content: Any, picture: str | None = "a.jpg", size: tuple[int, int] = SIZE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    if picture is not None:
        image = path.parent / picture
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (size[1], size[0]), (1, 2, 3)).save(image)
    return path


def read(root: Path, *shapes: Any, **changes: Any) -> Drawing:
    write(root / "a.json", document(*shapes, **changes))
    return open_labelme(root).read(0)


def masks(drawing: Drawing) -> list[np.ndarray]:
    full = []
    for piece in drawing.pieces:
        mask = np.zeros(drawing.size, dtype=bool)
        (top, left), (height, width) = piece.corner, piece.mask.shape
        mask[top : top + height, left : left + width] = piece.mask
        full.append(mask)
    return full


def refused(root: Path, *parts: str) -> None:
    with pytest.raises(InputError) as caught:
        open_labelme(root).read(0)
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


# --- files ---


def test_a_folder_of_files(tmp_path: Path):
    write(tmp_path / "b.json", document(shape("road"), shape("car", group=3), imagePath="b.jpg"), "b.jpg")
    write(tmp_path / "a.json", document(shape("car")))
    write(tmp_path / "other.json", {"settings": 1}, None)
    write(tmp_path / "list.json", [1], None)
    assert recognize(tmp_path)
    assert recognize(tmp_path / "a.json")
    source: DrawingSource = open_labelme(tmp_path)
    assert len(source) == 2
    assert source.categories == (DrawnCategory("car"), DrawnCategory("road"))
    first, second = source.read(0), source.read(1)
    assert (first.image, first.size, first.split) == (tmp_path / "a.jpg", SIZE, None)
    assert [(piece.category, piece.group, piece.crowd) for piece in second.pieces] == [
        ("road", None, False), ("car", 3, False)
    ]  # fmt: skip
    assert len(open_labelme(tmp_path / "b.json")) == 1


def test_folders_of_splits_and_pictures_in_a_folder_of_their_own(tmp_path: Path):
    write(tmp_path / "valid/json/a.json", document(shape(), imagePath="..\\images\\a.jpg"), "../images/a.jpg")
    drawing = open_labelme(tmp_path).read(0)
    assert drawing.split == "val"
    assert drawing.image.resolve() == (tmp_path / "valid/images/a.jpg").resolve()


@pytest.mark.parametrize("content", ["", "{}", '{"images": []}', "[1]", '{"shape": 1}'])
def test_what_is_not_labelme(tmp_path: Path, content: str):
    write(tmp_path / "a.json", content, None)
    assert not recognize(tmp_path)
    assert not recognize(tmp_path / "a.json")
    assert not recognize(tmp_path / "absent")


def test_files_below_are_found(tmp_path: Path):
    write(tmp_path / "deep/down/a.json", document(shape()))
    assert recognize(tmp_path)


# --- shapes ---


def test_polygons_and_old_files_without_kind(tmp_path: Path):
    for kind in ("polygon", None):
        (mask,) = masks(read(tmp_path, shape(kind=kind)))
        assert np.argwhere(mask).tolist() == [[row, column] for row in (1, 2, 3) for column in (2, 3, 4)]
    old = {"label": "car", "line_color": None, "fill_color": None, "points": SQUARE}
    write(
        tmp_path / "a.json",
        {"flags": {}, "shapes": [old], "lineColor": [0, 255, 0, 128], "imagePath": "a.jpg", "imageData": None},
    )
    drawing = open_labelme(tmp_path).read(0)
    assert drawing.size == SIZE  # taken from the picture
    assert masks(drawing)[0].sum() == 9


@pytest.mark.parametrize("corners", [[[2, 1], [5, 4]], [[5, 4], [2, 1]], [[5, 1], [2, 4]], SQUARE])
def test_rectangles_in_any_order(tmp_path: Path, corners: list[list[float]]):
    (mask,) = masks(read(tmp_path, shape(points=corners, kind="rectangle")))
    assert np.argwhere(mask).tolist() == [[row, column] for row in (1, 2, 3) for column in (2, 3, 4)]


def test_an_oriented_rectangle_is_its_corners(tmp_path: Path):
    (mask,) = masks(read(tmp_path, shape(points=[[4, 0], [8, 4], [4, 8], [0, 4]], kind="oriented_rectangle")))
    # Of the centres on its edges those at the left are in, those at the right are not.
    assert mask.sum(axis=1).tolist() == [1, 3, 5, 7, 7, 5, 3, 1]


def test_a_circle(tmp_path: Path):
    (mask,) = masks(read(tmp_path, shape(points=[[4, 4], [4, 6.5]], kind="circle")))
    expected = [[math.hypot(x + 0.5 - 4, y + 0.5 - 4) < 2.5 for x in range(10)] for y in range(8)]
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("dtype", [bool, np.uint8])
def test_a_mask_fills_its_box_the_last_pixel_included(tmp_path: Path, dtype: type):
    pixels = np.array([[1, 0, 1], [0, 1, 1]]).astype(dtype)
    (mask,) = masks(read(tmp_path, shape(points=[[6.0, 5.0], [8.0, 6.0]], kind="mask", mask=encoded(pixels))))
    assert np.argwhere(mask).tolist() == [[5, 6], [5, 8], [6, 7], [6, 8]]


def test_groups_make_one_object_of_several_parts(tmp_path: Path):
    drawing = read(tmp_path, shape(group=0), shape(group=0), shape("bus", group=0), shape(group="x"))
    assert [(piece.category, piece.group) for piece in drawing.pieces] == [
        ("car", 0),
        ("car", 0),
        ("bus", 0),
        ("car", "x"),
    ]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(bits=st.integers(1, 2**80 - 1))
def test_every_pixel_survives_as_mask_and_as_rectangles_of_a_group(tmp_path: Path, bits: int):
    mask = np.array([bits >> position & 1 for position in range(80)], dtype=bool).reshape(SIZE)
    as_mask = shape(points=[[0, 0], [SIZE[1] - 1, SIZE[0] - 1]], kind="mask", mask=encoded(mask))
    pixels = [
        shape(points=[[int(x), int(y)], [int(x) + 1, int(y) + 1]], kind="rectangle", group=1)
        for y, x in np.argwhere(mask)
    ]
    whole, *parts = masks(read(tmp_path, as_mask, *pixels))
    np.testing.assert_array_equal(whole, mask)
    np.testing.assert_array_equal(np.logical_or.reduce(parts), mask)


@pytest.mark.parametrize(
    ("kind", "points"), [("point", [[1, 1]]), ("line", [[1, 1], [2, 2]]), ("linestrip", SQUARE), ("points", SQUARE)]
)
def test_shapes_without_area_are_left_out_with_a_warning(tmp_path: Path, kind: str, points: Any):
    with pytest.warns(UserWarning, match=rf"a.json: shapes\[0\] \('nose', {kind}\): has no area and is left out"):
        drawing = read(tmp_path, shape("nose", points, kind), shape())
    assert [piece.category for piece in drawing.pieces] == ["car"]
    assert [category.name for category in open_labelme(tmp_path).categories] == ["car"]


# --- pictures ---


def test_a_picture_inside_the_file(tmp_path: Path):
    pixels = np.arange(80, dtype=np.uint8).reshape(SIZE)
    write(tmp_path / "a.json", document(shape(), imageData=encoded(pixels), imagePath="..\\photos\\x.png"), None)
    write(tmp_path / "b.json", document(shape(), imageData=encoded(pixels, "JPEG"), imagePath=None), None)
    source = open_labelme(tmp_path)
    image = source.read(0).image
    assert image.name == "x.png"
    np.testing.assert_array_equal(np.array(Image.open(image)), pixels)
    assert source.read(1).image.name == "b.jpg"
    assert not image.exists()  # one at a time


def test_embedded_pictures_of_one_name_lie_in_folders_named_like_those_of_their_files(tmp_path: Path):
    for place in ("a", "b"):
        data = encoded(np.zeros(SIZE, dtype=np.uint8))
        write(tmp_path / place / "x.json", document(shape(), imageData=data, imagePath="x.png"), None)
    source = open_labelme(tmp_path)
    assert [source.read(index).image.parts[-2:] for index in (0, 1)] == [("a", "x.png"), ("b", "x.png")]


def test_an_embedded_picture_that_cannot_be_used_is_named_by_its_file(tmp_path: Path):
    data = encoded(np.zeros(SIZE, dtype=np.uint8))
    write(tmp_path / "a.json", document(shape(), imageData=data[:40], imagePath="x.png"), None)
    refused(tmp_path, "a.json: imageData is damaged or no picture")
    write(tmp_path / "a.json", document(shape(), imageData=data, imagePath=f"{5000 * 'x'}.png"), None)
    refused(tmp_path, "a.json: its picture cannot be written")
    write(tmp_path / "a.json", document(shape(), imageHeight=10**9, imageWidth=10**9))
    refused(tmp_path, "a.json: imageHeight, imageWidth: ", "million pixels")


def test_embedded_pictures_go_with_their_source(tmp_path: Path):
    write(tmp_path / "a.json", document(shape(), imageData=encoded(np.zeros(SIZE, dtype=np.uint8))), None)
    source = open_labelme(tmp_path)
    folder = source.read(0).image.parent
    assert folder.exists()
    del source
    assert not folder.exists()


def test_the_file_goes_before_the_embedded_picture(tmp_path: Path):
    drawing = read(tmp_path, shape(), imageData=encoded(np.zeros((3, 3), dtype=np.uint8)))
    assert drawing.image == tmp_path / "a.jpg"


@pytest.mark.parametrize(
    "named", ["C:\\Users\\me\\a.jpg", "/home/me/a.jpg", "../../../elsewhere/a.jpg", "x/../a.jpg", "D:a.jpg"]
)
def test_paths_of_another_machine_mean_the_file_beside(tmp_path: Path, named: str):
    drawing = read(tmp_path, shape(), imagePath=named)
    assert drawing.image.resolve() == (tmp_path / "a.jpg").resolve()


def test_a_path_never_leads_out_of_the_folder(tmp_path: Path):
    write(tmp_path / "in/a.json", document(shape(), imagePath="../secret.jpg"), "../secret.jpg")
    refused(tmp_path / "in", "a.json: there is no picture '../secret.jpg' inside", "put the picture beside")
    (tmp_path / "in/secret.jpg").symlink_to(tmp_path / "secret.jpg")
    refused(tmp_path / "in", "there is no picture")


def test_without_image_path_the_picture_of_the_same_name_is_taken(tmp_path: Path):
    for path in (None, ""):
        assert read(tmp_path, shape(), imagePath=path).image == tmp_path / "a.jpg"
    content = document(shape())
    del content["imagePath"], content["imageData"]
    write(tmp_path / "a.json", content)
    assert open_labelme(tmp_path).read(0).image == tmp_path / "a.jpg"


def test_a_rotated_picture(tmp_path: Path):
    """labelme shows pictures upright, and its sizes are those of the upright picture."""
    drawing = read(tmp_path, shape())
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (SIZE[0], SIZE[1])).save(drawing.image, exif=exif)
    assert fit_to_picture(drawing) is drawing


# --- wrong input ---

SOLID = encoded(np.ones((2, 2), dtype=bool))


@pytest.mark.parametrize(
    ("wrong", "part"),
    [
        (5, "shapes[0] is 5"),
        (shape(label=None), "label is None"),  # type: ignore[arg-type]
        (shape(points=None), "points is None"),
        (shape(points=[[1, 1], [2, 2]]), "('car', polygon): 2 points; a polygon has three or more"),
        (shape(points=[]), "0 points"),
        (shape(points=[[1, 1], [2, 2], [3]]), "pairs of numbers"),
        (shape(points=[[1, 1], [2, 2], [float("nan"), 3]]), "finite"),
        (shape(points=[[1, 1], [2, 2], [99, 3]]), "the point (99, 3) lies outside the picture of 10 x 8"),
        (shape(points=SQUARE[:3], kind="rectangle"), "3 points instead of 2"),
        (shape(points=SQUARE[:3], kind="oriented_rectangle"), "3 points instead of 4"),
        (shape(points=SQUARE[:1], kind="circle"), "1 points instead of 2"),
        (shape(kind="cuboid"), "('car', cuboid): an unknown kind"),
        (shape(kind=7), "unknown kind"),
        (shape(" "), "its label is empty; give it the name of a class"),
        (shape(group=[1]), "group_id is [1]"),
        (shape(group=True), "group_id is True"),
        (shape(points=[[1, 1], [2, 2]], kind="mask"), "its mask is missing"),
        (shape(points=[[1, 1], [2, 2]], kind="mask", mask="%%%"), "mask is damaged"),
        (shape(points=[[1, 1], [2, 2]], kind="mask", mask="abcd"), "its mask is no PNG file"),
        (shape(points=[[1, 1], [2, 3]], kind="mask", mask=SOLID), "2 x 2 pixels (width x height), its box 2 x 3"),
        (shape(points=[[9, 7], [10, 8]], kind="mask", mask=SOLID), "reaches out of the picture"),
    ],
)  # fmt: skip
def test_a_wrong_shape_is_named(tmp_path: Path, wrong: Any, part: str):
    write(tmp_path / "a.json", document(wrong, shape("bus")))
    refused(tmp_path, "a.json", "shapes[0]", part)


def test_files_that_are_damaged_or_empty(tmp_path: Path):
    write(tmp_path / "a.json", json.dumps(document(shape()))[:-40])
    refused(tmp_path, "a.json: cannot be read as JSON")
    # One damaged file does not keep the others from being opened.
    write(tmp_path / "b.json", document(shape(), imagePath="a.jpg"), None)
    assert len(open_labelme(tmp_path)) == 2
    assert len(open_labelme(tmp_path).read(1).pieces) == 1
    write(tmp_path / "a.json", document(shapes=5))
    refused(tmp_path, "a.json: shapes is 5")


def test_no_label_and_no_file(tmp_path: Path):
    refused(tmp_path, "no JSON file with shapes")
    write(tmp_path / "a.json", document())
    refused(tmp_path, "no shape with an area in 1 JSON files")


def test_no_picture(tmp_path: Path):
    write(tmp_path / "a.json", document(shape()), None)
    refused(tmp_path, "a.json: there is no picture 'a.jpg' inside", "put the picture beside the JSON file")
    write(tmp_path / "a.json", document(shape(), imageData="%"), None)
    refused(tmp_path, "a.json: imageData is damaged")
    write(tmp_path / "a.json", document(shape(), imageData="abcd", imagePath="x"), None)
    refused(tmp_path, "a.json: imageData is no picture")


# --- where the picture is ---


def test_a_renamed_picture_is_found_by_the_name_of_its_json_file(tmp_path: Path):
    assert read(tmp_path, shape(), imagePath="IMG_0001.jpg").image == tmp_path / "a.jpg"


def test_sorted_keys_put_the_picture_before_the_shapes(tmp_path: Path):
    pixels = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    content = document(shape(), imageData=encoded(pixels), imageHeight=400, imageWidth=400)
    (tmp_path / "a.json").write_text(json.dumps(content, sort_keys=True), encoding="utf-8")
    assert (tmp_path / "a.json").read_text(encoding="utf-8").index('"shapes"') > 262144
    assert recognize(tmp_path)


def test_a_size_that_the_embedded_picture_has_not(tmp_path: Path):
    data = encoded(np.zeros((*SIZE, 3), dtype=np.uint8))
    content = document(shape(), imageData=data, imagePath="x.png", imageHeight=80, imageWidth=100)
    write(tmp_path / "a.json", content, None)
    refused_with = f"{tmp_path / 'a.json'}: imageWidth x imageHeight is 100 x 80, the picture in imageData has 10 x 8"
    with pytest.raises(InputError) as caught:
        open_labelme(tmp_path).read(0)
    assert str(caught.value).startswith(refused_with)


def test_shapes_that_overlap_are_named_by_their_place_in_the_file(tmp_path: Path):
    drawing = read(tmp_path, shape("road"), shape("car"))
    table = {name: Category(number, name, name == "car", (0, 0, 0)) for number, name in enumerate(("road", "car"), 1)}
    with pytest.raises(InputError) as caught:
        paint(drawing, table, "error")
    assert str(caught.value) == (
        f"{tmp_path / 'a.json'}: shapes[1] ('car', polygon) covers 9 pixels of shapes[0] ('road', polygon); say who "
        "keeps them: --overlap smaller-on-top, last-wins, by-order or skip"
    )
