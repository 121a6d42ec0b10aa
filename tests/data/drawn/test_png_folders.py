"""Folders of PNG files: semantic and instance, or semantic alone; Pascal VOC as CVAT, Datumaro and labelme write it."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from thingstuff.data.drawn import png_pairs, semantic_png
from thingstuff.data.drawn.drawing import Drawing, DrawingSource, DrawnCategory
from thingstuff.data.drawn.formats import find_format
from thingstuff.data.drawn.png_pairs import open_png_pairs
from thingstuff.data.drawn.semantic_png import open_semantic_png
from thingstuff.errors import InputError

CLASSES = np.array([[0, 0, 1, 1], [2, 2, 2, 255], [2, 2, 1, 1]], dtype=np.uint8)
OBJECTS = np.array([[0, 0, 5, 6], [9, 9, 9, 0], [0, 0, 5, 6]], dtype=np.uint8)
NAMES = "road\ncar\nperson\n"
SIZE = (3, 4)


def picture(path: Path, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size[1], size[0]), (1, 2, 3)).save(path)


def png(path: Path, values: np.ndarray, palette: list[int] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    if palette is not None:
        image.putpalette(palette)
    image.save(path)


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")


def pairs(root: Path, names: str | None = NAMES, classes: np.ndarray = CLASSES, objects: np.ndarray = OBJECTS) -> Path:
    picture(root / "images/a.jpg")
    png(root / "semantic/a.png", classes)
    png(root / "instance/a.png", objects)
    if names is not None:
        text(root / "classes.txt", names)
    return root


def maps(drawing: Drawing) -> tuple[list[list[str | None]], list[list[int | str | None]]]:
    """Name and group of every pixel."""
    names: list[list[str | None]] = [[None] * drawing.size[1] for _ in range(drawing.size[0])]
    groups: list[list[int | str | None]] = [[None] * drawing.size[1] for _ in range(drawing.size[0])]
    for piece in drawing.pieces:
        for row, column in np.argwhere(piece.mask).tolist():
            y, x = row + piece.corner[0], column + piece.corner[1]
            assert names[y][x] is None
            names[y][x], groups[y][x] = piece.category, piece.group
    return names, groups


def refused(root: Path, *parts: str, alone: bool = False) -> None:
    with pytest.raises(InputError) as caught:
        (open_semantic_png if alone else open_png_pairs)(root).read(0)
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


# --- pairs ---


def test_pairs(tmp_path: Path):
    root = pairs(tmp_path)
    assert png_pairs.recognize(root)
    assert not semantic_png.recognize(root)
    source: DrawingSource = open_png_pairs(root)
    assert source.categories == (DrawnCategory("road"), DrawnCategory("car"), DrawnCategory("person"))
    drawing = source.read(0)
    assert (drawing.image, drawing.size, drawing.split) == (root / "images/a.jpg", SIZE, None)
    names, groups = maps(drawing)
    assert names == [
        ["road", "road", "car", "car"], ["person", "person", "person", None], ["person", "person", "car", "car"]
    ]  # fmt: skip
    assert groups == [[None, None, 5, 6], [9, 9, 9, None], [None, None, 5, 6]]
    # One car in two parts is one piece; what has no number is not told apart.
    assert len(drawing.pieces) == 5
    assert {(piece.category, piece.group): piece.crowd for piece in drawing.pieces}["person", None]


@pytest.mark.parametrize("kind", ["8-bit", "16-bit", "palette", "grey with alpha", "grey with alpha colours"])
def test_the_kinds_of_png(tmp_path: Path, kind: str):
    classes, objects, palette = CLASSES, OBJECTS.astype(np.uint16) * 1000, None
    if kind == "16-bit":
        classes = classes.astype(np.uint16)
    if kind == "palette":
        palette = [number for _ in range(256) for number in (7, 7, 7)]
    root = pairs(tmp_path, objects=objects)
    png(root / "semantic/a.png", classes, palette)
    if kind == "grey with alpha":
        png(root / "semantic/a.png", np.stack([CLASSES, np.full_like(CLASSES, 200)], axis=-1))
    if kind == "grey with alpha colours":
        text(root / "labelmap.txt", "road:0,0,0::\ncar:1,0,0::\nperson:2,0,0::\nrest:255,0,0::\n")
        rgba = np.zeros((*SIZE, 4), dtype=np.uint8)
        rgba[..., 0], rgba[..., 3] = CLASSES, 200
        png(root / "semantic/a.png", rgba)
    drawing = open_png_pairs(root).read(0)
    assert [row[:3] for row in maps(drawing)[0]] == [
        ["road", "road", "car"],
        ["person"] * 3,
        ["person", "person", "car"],
    ]
    assert {piece.group for piece in drawing.pieces} >= {5000, 6000, 9000}


def test_binary_masks(tmp_path: Path):
    picture(tmp_path / "imgs/a.png")
    png(tmp_path / "masks/a.png", CLASSES == 1)
    assert maps(open_semantic_png(tmp_path).read(0))[0][0] == ["0", "0", "1", "1"]


@pytest.mark.parametrize("names", [None, "background\nnucleus\n"])
@pytest.mark.parametrize("only", [True, False])
def test_masks_of_0_and_255_alone_are_refused(tmp_path: Path, names: str | None, only: bool):
    mask = np.full(SIZE, 255, dtype=np.uint8)
    mask[0] = 255 * only
    for stem, values in (("a", np.zeros(SIZE, dtype=np.uint8)), ("b", mask)):
        picture(tmp_path / f"images/{stem}.jpg")
        png(tmp_path / f"masks/{stem}.png", values)
    if names is not None:
        text(tmp_path / "classes.txt", names)
    thing = "object" if names is None else "nucleus"
    refused(
        tmp_path,
        f"{tmp_path}: all masks have the values 0 and 255 only, as binary masks do, but 255 means void here; name "
        f"both in {tmp_path / 'classes.txt'} by the lines '0 background' and '255 {thing}', or save the masks with 1",
        alone=True,
    )
    # Both remedies help.
    text(tmp_path / "classes.txt", f"0 background\n255 {thing}\n")
    assert maps(open_semantic_png(tmp_path).read(1))[0][2] == [thing] * 4
    text(tmp_path / "classes.txt", f"background\n{thing}\n")
    png(tmp_path / "masks/b.png", mask // 255)
    assert maps(open_semantic_png(tmp_path).read(1))[0][2] == [thing] * 4


def test_one_mask_with_another_value_is_enough_for_255_to_be_void(tmp_path: Path):
    root = pairs(tmp_path, classes=np.full(SIZE, 255, dtype=np.uint8))
    refused(root, "all masks have the values 0 and 255 only")
    (root / "semantic/0.png").write_bytes(b"\x89PNG\r\n\x1a\n")  # said when it is read
    picture(root / "images/0.jpg")
    png(root / "instance/0.png", OBJECTS)
    refused(root, "all masks have the values 0 and 255 only")
    for folder in ("semantic", "instance"):
        png(root / folder / "z.png", CLASSES)
    picture(root / "images/z.jpg")
    assert open_png_pairs(root).read(1).pieces == ()


@pytest.mark.parametrize("layout", ["inside", "outside"])
def test_folders_of_splits(tmp_path: Path, layout: str):
    for split in ("training", "val"):
        for folder, values in (("semantic", CLASSES), ("instance", OBJECTS)):
            png(tmp_path / (f"{folder}/{split}" if layout == "inside" else f"{split}/{folder}") / "a.png", values)
        picture(tmp_path / (f"images/{split}" if layout == "inside" else f"{split}/images") / "a.jpg")
    text(tmp_path / "classes.txt", NAMES)
    assert png_pairs.recognize(tmp_path)
    source = open_png_pairs(tmp_path)
    splits = [source.read(index).split for index in range(len(source))]
    assert splits == ["training", "val"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), height=st.integers(1, 9), width=st.integers(1, 9))
def test_every_pixel_survives(tmp_path: Path, seed: int, height: int, width: int):
    generator = np.random.default_rng(seed)
    classes = generator.choice(np.array([0, 1, 2, 255], dtype=np.uint8), (height, width))
    objects = generator.choice(np.array([0, 1, 2, 40000], dtype=np.uint16), (height, width))
    root = pairs(tmp_path, classes=classes, objects=objects)
    picture(root / "images/other.jpg")  # without it, masks of 255 alone are refused
    png(root / "semantic/other.png", CLASSES)
    png(root / "instance/other.png", OBJECTS)
    names, groups = maps(open_png_pairs(root).read(0))
    listed = ["road", "car", "person"]
    assert names == [[None if value == 255 else listed[value] for value in row] for row in classes.tolist()]
    expected = np.where(classes == 255, 0, objects).tolist()
    assert groups == [[value or None for value in row] for row in expected]


# --- names ---


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("# comment\n\nroad\ncar\nperson\n", ["road", "car", "person"]),
        ("\ufeffroad\r\ncar\r\nperson\r\n", ["road", "car", "person"]),
        ("1: car\n0: road\n2: person\n", ["car", "road", "person"]),
        ("0 road\n1 car two\n2,person\n", ["road", "car two", "person"]),
        ("__ignore__\n_background_\ncar\nperson\n", ["_background_", "car", "person"]),
    ],
)
def test_files_of_names(tmp_path: Path, content: str, expected: list[str]):
    assert [category.name for category in open_png_pairs(pairs(tmp_path, content)).categories] == expected


@pytest.mark.parametrize(
    "content", ["0 road\n1 car\n2 person\n255 sky\n", "road\ncar\nperson\n255 sky\n", "255: sky\nroad\ncar\nperson\n"]
)
def test_a_named_255_is_a_class(tmp_path: Path, content: str):
    drawing = open_png_pairs(pairs(tmp_path, content)).read(0)
    assert maps(drawing)[0][1] == ["person", "person", "person", "sky"]


def test_names_may_begin_with_a_number(tmp_path: Path):
    source = open_png_pairs(pairs(tmp_path, "road\n4 wheels\n2 wheels\n"))
    assert [category.name for category in source.categories] == ["road", "4 wheels", "2 wheels"]


def test_without_names_numbers_and_colours_are_names_and_0_is_one_of_them(tmp_path: Path):
    source = open_png_pairs(pairs(tmp_path, None, classes=np.where(CLASSES == 1, 10, CLASSES).astype(np.uint8)))
    assert [category.name for category in source.categories] == ["0", "2", "10"]
    assert all(category.isthing is None for category in source.categories)
    rgb = np.zeros((*SIZE, 3), dtype=np.uint8)
    rgb[0], rgb[1, 1] = (255, 16, 0), (224, 224, 192)
    png(tmp_path / "semantic/a.png", rgb)
    source = open_png_pairs(tmp_path)
    assert [category.name for category in source.categories] == ["#000000", "#ff1000"]
    assert maps(source.read(0))[0][1][1] is None


# --- Pascal VOC ---

LABELMAP = "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncar:128,0,0::\nperson:0,128,0::\n"
COLORS = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 255: (224, 224, 192)}


def voc(root: Path, mode: str) -> Path:
    """CVAT's export "Segmentation mask 1.1", with coloured files or palettes."""
    picture(root / "JPEGImages/a.jpg")
    rgb = np.array([[COLORS[value] for value in row] for row in CLASSES.tolist()], dtype=np.uint8)
    objects = np.array([[(value * 20, 0, value) for value in row] for row in OBJECTS.tolist()], dtype=np.uint8)
    palette = [channel for number in range(256) for channel in COLORS.get(number, (9, 9, 9))]
    if mode == "RGB":
        png(root / "SegmentationClass/a.png", rgb)
        png(root / "SegmentationObject/a.png", objects)
    else:
        png(root / "SegmentationClass/a.png", CLASSES, palette)
        png(root / "SegmentationObject/a.png", OBJECTS, palette)
    text(root / "ImageSets/Segmentation/val.txt", "a\n")
    text(root / "ImageSets/Segmentation/trainval.txt", "a\nb\n")
    text(root / "labelmap.txt", LABELMAP)
    return root


@pytest.mark.parametrize("mode", ["RGB", "P"])
def test_pascal_voc(tmp_path: Path, mode: str):
    root = voc(tmp_path, mode)
    picture(root / "JPEGImages/not_annotated.jpg")
    assert png_pairs.recognize(root)
    with pytest.warns(
        UserWarning, match=r": 1 of 2 pictures have no mask and are left out, first .*not_annotated\.jpg"
    ):
        source = open_png_pairs(root)
    assert source.categories == (
        DrawnCategory("background", color=(0, 0, 0)),
        DrawnCategory("car", color=(128, 0, 0)),
        DrawnCategory("person", color=(0, 128, 0)),
    )
    assert len(source) == 1
    drawing = source.read(0)
    assert drawing.split == "val"
    names, groups = maps(drawing)
    assert names[0] == ["background", "background", "car", "car"]
    assert names[1] == ["person", "person", "person", None]  # the border colour, and 255
    assert groups[0][2] != groups[0][3] != groups[1][0]
    assert groups[0][2] == groups[2][2] is not None


def test_a_palette_in_another_order_goes_by_its_colours(tmp_path: Path):
    root = voc(tmp_path, "P")
    shuffled = np.array(
        [[{0: 5, 1: 0, 2: 1, 255: 7}[value] for value in row] for row in CLASSES.tolist()], dtype=np.uint8
    )
    colors = {5: COLORS[0], 0: COLORS[1], 1: COLORS[2], 7: COLORS[255]}
    png(root / "SegmentationClass/a.png", shuffled, [c for number in range(256) for c in colors.get(number, (9, 9, 9))])
    assert maps(open_png_pairs(root).read(0))[0][0] == ["background", "background", "car", "car"]


def test_an_own_palette_goes_by_its_numbers(tmp_path: Path):
    root = voc(tmp_path, "P")
    png(root / "SegmentationClass/a.png", CLASSES, [number // 3 for number in range(768)])
    assert maps(open_png_pairs(root).read(0))[0][0] == ["background", "background", "car", "car"]


def test_labelme2voc(tmp_path: Path):
    root = voc(tmp_path, "P")
    (root / "labelmap.txt").unlink()
    text(root / "class_names.txt", "_background_\ncar\nperson\n")
    assert [category.name for category in open_png_pairs(root).categories] == ["_background_", "car", "person"]


# --- semantic alone ---


def test_semantic_alone(tmp_path: Path):
    picture(tmp_path / "images/a.jpg")
    png(tmp_path / "annotations/a.png", CLASSES)
    text(tmp_path / "annotations/classes.txt", NAMES)
    assert semantic_png.recognize(tmp_path)
    assert not png_pairs.recognize(tmp_path)
    drawing = open_semantic_png(tmp_path).read(0)
    assert sorted((piece.category, piece.group, piece.crowd) for piece in drawing.pieces if piece.category) == [
        ("car", None, True), ("person", None, True), ("road", None, True)
    ]  # fmt: skip


@pytest.mark.parametrize(
    "files",
    [
        ["images/a.jpg"],
        ["images/a.jpg", "masks/a.txt"],
        ["images/a.jpg", "masks/a.png", "masks/b.json"],
    ],
)
def test_what_is_not_folders_of_png_files(tmp_path: Path, files: list[str]):
    for name in files:
        picture(tmp_path / name) if not name.endswith((".txt", ".json")) else text(tmp_path / name, "{}")
    for module in (semantic_png, png_pairs):
        assert not module.recognize(tmp_path)
        assert not module.recognize(tmp_path / "absent")
        assert not module.recognize(Path(__file__))
    refused(tmp_path, "no folders images/ and semantic/ with PNG files", alone=True)
    refused(tmp_path, "no folders images/ and semantic/ and instance/ with PNG files")


@pytest.mark.parametrize("suffix", [".PNG", ".tif", ".TIFF", ".bmp"])
def test_masks_of_other_formats_that_keep_numbers(tmp_path: Path, suffix: str):
    pairs(tmp_path)
    expected = maps(open_png_pairs(tmp_path).read(0))
    for folder, values in (("semantic", CLASSES), ("instance", OBJECTS)):
        (tmp_path / folder / "a.png").unlink()
        png(tmp_path / folder / f"a{suffix}", values)
    assert png_pairs.recognize(tmp_path)
    assert maps(open_png_pairs(tmp_path).read(0)) == expected


# --- wrong input ---


def test_masks_in_jpeg_files_are_refused_with_the_reason(tmp_path: Path):
    picture(tmp_path / "images/a.jpg")
    picture(tmp_path / "masks/a.jpg")
    assert semantic_png.recognize(tmp_path)
    refused(tmp_path, "masks/a.jpg: JPEG changes the numbers that pixels stand for", alone=True)


def test_previews_beside_masks_are_no_masks(tmp_path: Path):
    pairs(tmp_path)
    picture(tmp_path / "semantic/a.jpg")
    picture(tmp_path / "semantic/overview.jpg")
    source = open_png_pairs(tmp_path)
    assert [entry.semantic.name for entry in source.entries] == ["a.png"]


@pytest.mark.parametrize(("masks", "images"), [("SegmentationClass", "JPEGImages"), ("masks", "images")])
def test_masks_without_pictures(tmp_path: Path, masks: str, images: str):
    png(tmp_path / masks / "a.png", CLASSES)
    text(tmp_path / "labelmap.txt", "road:1,2,3::\n")
    said = f"{tmp_path}: {masks}/ has masks, but the pictures are not there; export with pictures, or put them into "
    refused(tmp_path, said + str(tmp_path / images), alone=True)
    refused(tmp_path, said)
    with pytest.raises(InputError, match=f"{masks}/ has masks, but the pictures are not there"):
        find_format(tmp_path, None)


def test_a_value_without_name_is_counted(tmp_path: Path):
    refused(pairs(tmp_path, "road\ncar\n"), "a.png: 5 pixels have the value 2, which has no name", "classes.txt")


def test_coloured_masks_with_names_of_numbers(tmp_path: Path):
    root = pairs(tmp_path)
    colors = np.zeros((*SIZE, 3), dtype=np.uint8)
    colors[0], colors[1] = (128, 0, 7), (1, 1, 1)
    png(root / "semantic/a.png", colors)
    labelmap = root / "labelmap.txt"
    refused(
        root,
        f"a.png: is coloured (0,0,0; 1,1,1; 128,0,7), but {root / 'classes.txt'} names numbers; write {labelmap} with "
        "a line name:r,g,b:: for each colour, or save the mask as grey with those numbers",
    )
    text(labelmap, "road:0,0,0::\ncar:1,1,1::\n")
    refused(
        root, f"a.png: 4 pixels have the colour 128,0,7, which has no name; add the line name:128,0,7:: to {labelmap}"
    )
    text(labelmap, "road:0,0,0::\ncar:1,1,1::\nname:128,0,7::\n")
    assert maps(open_png_pairs(root).read(0))[0] == [["name"] * 4, ["car"] * 4, ["road"] * 4]


@pytest.mark.parametrize(
    ("values", "keeps"), [((0, 1, 2), True), ((0, 1, 255), True), ((0, 255), False), ((9,), False)]
)
def test_coloured_masks_of_greys(tmp_path: Path, values: tuple[int, ...], keeps: bool):
    root = pairs(tmp_path)
    colors = np.zeros((*SIZE, 3), dtype=np.uint8)
    for row, value in enumerate(values):
        colors[row] = value
    png(root / "semantic/a.png", colors)
    refused(
        root, "save the mask as grey" + (", which keeps its numbers, as R = G = B everywhere" if keeps else " with")
    )


def test_files_that_are_missing(tmp_path: Path):
    root = pairs(tmp_path)
    (root / "instance/a.png").unlink()
    refused(root, "a.png: is missing, but", "both are needed")
    refused(root, "a.png: is missing")
    png(root / "semantic/b.png", CLASSES)
    png(root / "instance/a.png", OBJECTS)
    refused(root, "b.png:", "has no picture of this name (b.jpg")


def test_files_of_different_sizes(tmp_path: Path):
    refused(pairs(tmp_path, objects=OBJECTS[:2]), "instance/a.png: 4 x 2 pixels (width x height), but", "has 4 x 3")


@pytest.mark.parametrize(
    ("content", "part"),
    [("", "is empty"), ("# x\n", "is empty"), ("0 a\n0 b\n", "two lines"), ("a:1,2,3::\nb:1,2,3::\n", "two")],
)
def test_wrong_files_of_names(tmp_path: Path, content: str, part: str):
    refused(pairs(tmp_path, content), "classes.txt", part)


def test_files_that_keep_no_numbers(tmp_path: Path):
    root = pairs(tmp_path)
    Image.fromarray(CLASSES).save(root / "semantic/a.png", format="JPEG")
    refused(root, "a.png: JPEG changes the numbers")
    (root / "semantic/a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    refused(root, "a.png: damaged or cut short")
    Image.new("CMYK", (4, 3)).save(root / "semantic/a.png", format="TIFF")
    refused(root, "a.png: a picture of mode CMYK")
    (root / "classes.txt").write_bytes(b"\xff\xfe\x00")
    refused(root, "classes.txt: cannot be read as text")
