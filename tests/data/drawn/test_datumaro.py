"""Exports as Datumaro and CVAT write them: ``annotations/<subset>.json`` and ``images/<subset>/``."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays
from PIL import Image
from pycocotools import mask as coco_mask

from thingstuff.data.drawn.datumaro import open_datumaro, recognize
from thingstuff.data.drawn.drawing import Drawing, DrawingSource, DrawnCategory, Piece
from thingstuff.errors import InputError


def annotation(kind: str, **changes: Any) -> dict[str, Any]:
    given = {"id": 0, "type": kind, "attributes": {"occluded": False}, "group": 0, "label_id": 0, "z_order": 0}
    return given | changes


def box(x: float, y: float, width: float, height: float, **changes: Any) -> dict[str, Any]:
    return annotation("bbox", bbox=[x, y, width, height], **changes)


def encoded(mask: np.ndarray) -> dict[str, Any]:
    run_lengths: Any = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"counts": run_lengths["counts"].decode("ascii"), "size": list(run_lengths["size"])}


def item(*annotations: Any, name: str = "a", **changes: Any) -> dict[str, Any]:
    image = {"path": f"{name}.jpg", "size": [6, 8]}
    return {"id": name, "annotations": list(annotations), "attr": {"frame": 0}, "image": image} | changes


def document(*items: Any, **changes: Any) -> dict[str, Any]:
    labels = [{"name": name, "parent": "", "attributes": []} for name in ("car", "road")]
    colormap = [{"label_id": 0, "r": 1, "g": 2, "b": 3}]
    categories = {"label": {"labels": labels, "attributes": ["occluded"]}, "mask": {"colormap": colormap}}
    head = {"dm_format_version": "1.0", "media_type": 2, "infos": {}}
    return head | {"categories": categories, "items": list(items)} | changes


def write_export(root: Path, subsets: dict[str, Any], names: tuple[str, ...] = ("default/a.jpg",)) -> Path:
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for subset, content in subsets.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (root / f"annotations/{subset}.json").write_text(text)
    for name in names:
        (root / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6)).save(root / "images" / name)
    return root


def full(piece: Piece, drawing: Drawing) -> np.ndarray:
    mask = np.zeros(drawing.size, dtype=bool)
    (top, left), (height, width) = piece.corner, piece.mask.shape
    mask[top : top + height, left : left + width] = piece.mask
    return mask


def read_one(root: Path, shape: dict[str, Any]) -> np.ndarray:
    drawing = open_datumaro(write_export(root, {"default": document(item(shape))})).read(0)
    (piece,) = drawing.pieces
    return full(piece, drawing)


def rectangle(top: int, left: int, bottom: int, right: int) -> np.ndarray:
    mask = np.zeros((6, 8), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def refused(root: Path, *parts: str) -> None:
    """Opening or reading fails with one line that has all ``parts``."""
    with pytest.raises(InputError) as caught:
        open_datumaro(root).read(0)
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


# --- what is in an export ---


def test_subsets_pictures_and_categories(tmp_path):
    subsets = {"train": document(item(box(0, 0, 1, 1), name="city/a")), "val": document(item(name="b"))}
    root = write_export(tmp_path, subsets, ("train/city/a.jpg", "val/b.jpg"))
    source: DrawingSource = open_datumaro(root)
    assert source.categories == (DrawnCategory("car", None, (1, 2, 3)), DrawnCategory("road"))
    assert len(source) == 2
    first, second = source.read(0), source.read(1)
    assert (first.image, first.size, first.split) == (root / "images/train/city/a.jpg", (6, 8), "train")
    assert (second.image, second.pieces, second.split) == (root / "images/val/b.jpg", (), "val")
    assert len(open_datumaro(root / "annotations/val.json")) == 1


@pytest.mark.parametrize(
    ("medium", "name"),
    [
        ({"image": {"path": "a.jpg", "size": [6, 8]}}, "default/a.jpg"),
        ({"image": {"path": "a.jpg"}, "media": {"path": ""}}, "a.jpg"),
        ({"image": None, "media": {"path": "a.jpg"}}, "default/a.jpg"),
        ({"image": {"path": "/home/somebody/set/images/default/a.jpg"}}, "default/a.jpg"),
        ({"image": {"path": "C:\\set\\images\\default\\a.jpg"}}, "default/a.jpg"),
        ({"image": {"path": ""}}, "default/a.PNG"),
        ({"image": None}, "default/a.jpeg"),
    ],
)
def test_pictures_are_found(tmp_path, medium, name):
    root = write_export(tmp_path, {"default": document(item(box(0, 0, 1, 1), **medium))}, (name,))
    drawing = open_datumaro(root).read(0)
    assert (drawing.image, drawing.size, drawing.split) == (root / "images" / name, (6, 8), None)


def test_recognize(tmp_path):
    root = write_export(tmp_path / "export", {"default": document(item())})
    assert recognize(root)
    assert recognize(root / "annotations/default.json")
    assert not recognize(root / "images/default/a.jpg")
    assert not recognize(tmp_path)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/instances.json").write_text('{"images": [], "annotations": [], "categories": []}')
    assert not recognize(tmp_path)


# --- shapes ---


def test_polygon(tmp_path):
    shape = annotation("polygon", points=[1.0, 1.0, 5.0, 1.0, 5.0, 4.0, 1.0, 4.0])
    np.testing.assert_array_equal(read_one(tmp_path, shape), rectangle(1, 1, 4, 5))


def test_box(tmp_path):
    np.testing.assert_array_equal(read_one(tmp_path, box(6, 0.4, 2, 2.2)), rectangle(0, 6, 3, 8))
    turned = box(2, 2, 4, 2, attributes={"rotation": 90.0})
    np.testing.assert_array_equal(read_one(tmp_path, turned), rectangle(1, 3, 5, 5))


def test_ellipse(tmp_path):
    row, column = np.mgrid[:6, :8] + 0.5
    expected = ((column - 4) / 3) ** 2 + ((row - 3) / 2) ** 2 < 1
    np.testing.assert_array_equal(read_one(tmp_path, annotation("ellipse", points=[1, 1, 7, 5])), expected)


@given(mask=arrays(bool, (6, 8)))
def test_masks_keep_every_pixel(tmp_path_factory, mask):
    shape = annotation("mask", rle=encoded(mask))
    np.testing.assert_array_equal(read_one(tmp_path_factory.mktemp("export"), shape), mask)


def test_levels_groups_and_crowds(tmp_path):
    shapes = [
        box(0, 0, 1, 1, z_order=3, group=4),
        box(0, 0, 1, 1, z_order=-2, label_id=1, attributes={"is_crowd": True}),
        box(0, 0, 1, 1, z_order=3, group=5, attributes=None),
    ]
    pieces = open_datumaro(write_export(tmp_path, {"default": document(item(*shapes))})).read(0).pieces
    assert [(piece.category, piece.group, piece.crowd) for piece in pieces] == [
        ("road", None, True),
        ("car", 4, False),
        ("car", 5, False),
    ]


def test_a_box_that_repeats_where_a_mask_lies_is_left_out(tmp_path):
    mask = rectangle(0, 0, 2, 3)
    mask[0, 0] = False
    shapes = [
        box(0, 0, 3, 2, group=1),
        annotation("mask", rle=encoded(mask), group=1),
        box(0, 0, 3, 2, group=2),
        box(0, 0, 3, 2, group=1, label_id=1),
    ]
    drawing = open_datumaro(write_export(tmp_path, {"default": document(item(*shapes))})).read(0)
    assert [(piece.category, piece.group) for piece in drawing.pieces] == [("car", 1), ("car", 2), ("road", 1)]
    np.testing.assert_array_equal(full(drawing.pieces[0], drawing), mask)


def test_what_has_no_area_is_left_out(tmp_path):
    shapes = [annotation("polyline", points=[0, 0, 1, 1]), annotation("label"), annotation("caption", caption="x")]
    root = write_export(tmp_path, {"default": document(item(*shapes))})
    with pytest.warns(UserWarning, match="left out: 1 of the kind polyline$"):
        assert open_datumaro(root).read(0).pieces == ()


# --- what is wrong with a file ---


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"categories": {}, "items": [', "default.json: cannot be read as JSON ("),
        (document(), "lists no picture"),
        (document(items=3), "default.json: items is 3; expected a list"),
        (document(categories=[]), "default.json: categories is []; expected an object"),
        (document(categories={}), "default.json: categories: label is missing; expected an object"),
        (document(categories={"label": {"labels": [{}]}}), "categories.label.labels[0]: name is missing; expected a"),
        (document(item(name="../a")), "default.json: ../a: the name '../a.jpg' leads out of the export's folder"),
        (document(item(name="b")), "default.json: 1 picture is missing, the first is b.jpg; put them into one of"),
        (document(5), "default.json: items[0] is 5, not an object"),
        (document({"annotations": []}), "default.json: items[0]: id is missing; expected a text or a whole number"),
        (document({"id": "a"}), "default.json: a: annotations is missing; expected a list"),
        (document(item(image={"path": "a.jpg", "size": [6]})), "default.json: a: size is [6]; expected height and"),
        (document(item(image={"path": "a.jpg", "size": [6, 10**9]})), "a: 1000000000 x 6 pixels (width x height); exp"),
        (document(categories={"label": {"labels": []}, "mask": {"colormap": 1}}), "mask: colormap is 1; expected a li"),
        (document(item(7)), "default.json: a: annotations[0] is 7, not an object"),
        (document(item(box(0, 0, 1, 1, label_id=2))), "a: annotations[0]: label_id is 2, but there are labels 0 to 1"),
        (document(item(box(0, 0, 1, 1, label_id=None))), "annotations[0]: label_id is None; expected a whole number"),
        (document(item(box(0, 0, 1, 1, group="x"))), "a: annotations[0]: group is 'x'; expected a whole number"),
        (document(item(box(0, 0, 1, 1, z_order=[]))), "a: annotations[0]: z_order is []; expected a finite number"),
        (document(item(box(0, 0, 1, 30))), "annotations[0] (bbox, car): the point (1, 30) lies outside the picture"),
        (document(item(box(0, 0, 1, float("inf")))), "annotations[0] (bbox, car): bbox is inf; expected a finite"),
        (document(item(annotation("bbox", bbox=[1, 2, 3]))), "(bbox, car): bbox has 3 numbers; expected four"),
        (document(item(annotation("polygon", points=[1, 2, 3, 4]))), "(polygon, car): a polygon of 4 numbers"),
        (document(item(annotation("polygon", points=[1, 2, 3, 4, 5, None]))), "a coordinate is not a finite number"),
        (document(item(annotation("polygon", points=[1, 2, 3, 4, 5, []]))), "its points are not pairs of numbers"),
        (document(item(annotation("ellipse", points=[3, 3, 1, 5]))), "expected left, top, right, bottom"),
        (document(item(annotation("mask"))), "annotations[0] (mask, car): rle is missing; expected an object"),
        (
            document(item(annotation("mask", rle=encoded(np.ones((6, 9)))))),
            "annotations[0] (mask, car): its run lengths are of size [6, 9], the picture of [6, 8]",
        ),
        (document(item(annotation("mask", rle={"counts": "x", "size": [6, 8]}))), "(mask, car): its compressed run"),
        (document(item(annotation("rotated_bbox"))), "annotations[0]: the kind rotated_bbox is not read; export"),
    ],
)  # fmt: skip
def test_wrong_files(tmp_path, content, message):
    refused(write_export(tmp_path, {"default": content}), message)


@pytest.mark.parametrize("content", [b"", bytes(9), b"[]", b'{"items": ['])
def test_a_damaged_file_beside_a_good_one_is_no_missing_subset(tmp_path, content):
    root = write_export(tmp_path, {"val": document(item())})
    (root / "annotations/train.json").write_bytes(content)
    assert recognize(root)
    refused(root, "annotations/train.json")


def test_a_picture_that_is_listed_twice(tmp_path):
    refused(write_export(tmp_path, {"default": document(item(), item())}), "default.json: lists the picture", "twice")


def test_no_file(tmp_path):
    refused(tmp_path, "has no JSON file of Datumaro in annotations/")
    refused(tmp_path / "a.json", "a.json: there is no such file")
