"""Exports as Label Studio writes them: one JSON file, pictures under the names of uploads."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_brush_runs import encode_brush

from thingstuff.data.drawn.drawing import Drawing, DrawingSource, DrawnCategory, Piece
from thingstuff.data.drawn.label_studio import open_label_studio, recognize
from thingstuff.errors import InputError

NAME = "1a2b3c4d-street_view.png"


def result(kind: str, value: dict[str, Any], label: str | None = "car", **changes: Any) -> dict[str, Any]:
    if label is not None:
        value = value | {kind: [label]}
    given = {
        "id": "r1",
        "type": kind,
        "value": value,
        "origin": "manual",
        "to_name": "image",
        "from_name": "label",
        "image_rotation": 0,
        "original_width": 10,
        "original_height": 5,
    }
    return given | changes


def brush(mask: np.ndarray, label: str | None = "car", **changes: Any) -> dict[str, Any]:
    value = {"format": "rle", "rle": encode_brush(255 * mask.astype(np.uint8))}
    return result("brushlabels", value, label, **changes)


def box(x: float, y: float, width: float, height: float, label: str | None = "car", **changes: Any) -> dict[str, Any]:
    rotation = changes.pop("rotation", 0)
    value = {"x": x, "y": y, "width": width, "height": height, "rotation": rotation}
    return result("rectanglelabels", value, label, **changes)


def task(*results: Any, number: int = 1, image: Any = f"/data/upload/1/{NAME}", **changes: Any) -> dict[str, Any]:
    annotation = {"id": number, "completed_by": 1, "result": list(results), "was_cancelled": False} | {
        "ground_truth": False,
        "lead_time": 12.5,
        "parent_prediction": None,
    }
    given = {
        "id": number,
        "annotations": [annotation],
        "file_upload": NAME,
        "drafts": [],
        "predictions": [],
        "data": {"image": image},
        "meta": {},
        "project": 1,
    }
    return given | changes


def write_export(root: Path, *tasks: Any, names: Sequence[str] = (NAME,)) -> Path:
    root.mkdir(exist_ok=True)
    (root / "project-1-at-2024-05-02-11-38-a1b2c3d4.json").write_text(json.dumps(list(tasks)))
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (10, 5)).save(root / name)
    return root


def full(piece: Piece, drawing: Drawing) -> np.ndarray:
    mask = np.zeros(drawing.size, dtype=bool)
    (top, left), (height, width) = piece.corner, piece.mask.shape
    mask[top : top + height, left : left + width] = piece.mask
    return mask


def read_one(root: Path, shape: dict[str, Any]) -> np.ndarray:
    drawing = open_label_studio(write_export(root, task(shape))).read(0)
    (piece,) = drawing.pieces
    return full(piece, drawing)


def rectangle(top: int, left: int, bottom: int, right: int) -> np.ndarray:
    mask = np.zeros((5, 10), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def refused(root: Path, *parts: str) -> None:
    """Opening or reading fails with one line that has all ``parts``."""
    with pytest.raises(InputError) as caught:
        open_label_studio(root).read(0)
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


# --- brushes ---


def test_brush(tmp_path):
    mask = rectangle(1, 2, 4, 9) & ~rectangle(2, 3, 3, 5)
    np.testing.assert_array_equal(read_one(tmp_path, brush(mask)), mask)


# --- other shapes, in percent ---


def test_polygon(tmp_path):
    value = {"points": [[20, 20], [50, 20], [50, 80], [20, 80]], "closed": True}
    np.testing.assert_array_equal(read_one(tmp_path, result("polygonlabels", value)), rectangle(1, 2, 4, 5))


def test_percents_that_are_no_round_numbers_meet_the_pixels(tmp_path):
    shape = box(100 / 7 * 3, 100 / 3, 100 / 7 * 2, 100 / 3 * 2, original_width=7, original_height=3)
    drawing = open_label_studio(write_export(tmp_path, task(shape))).read(0)
    assert drawing.size == (3, 7)
    (piece,) = drawing.pieces
    assert (piece.corner, piece.mask.shape) == ((1, 3), (2, 2))
    assert piece.mask.all()


def test_rectangle(tmp_path):
    np.testing.assert_array_equal(read_one(tmp_path, box(10, 40, 30, 40)), rectangle(2, 1, 4, 4))


def test_a_rectangle_turns_around_its_upper_left_corner(tmp_path):
    # 4 pixels wide and 2 high from (5, 0): after a quarter turn clockwise it hangs down, left of the corner.
    np.testing.assert_array_equal(read_one(tmp_path, box(50, 0, 40, 40, rotation=90)), rectangle(0, 3, 4, 5))


def test_ellipse(tmp_path):
    value = {"x": 50, "y": 50, "radiusX": 30, "radiusY": 40, "rotation": 0}
    row, column = np.mgrid[:5, :10] + 0.5
    expected = ((column - 5) / 3) ** 2 + ((row - 2.5) / 2) ** 2 < 1
    np.testing.assert_array_equal(read_one(tmp_path, result("ellipselabels", value)), expected)


# --- regions ---


def test_results_with_one_id_are_one_region(tmp_path):
    # Separate tags for the shape and its label give two results.
    geometry = {"x": 10, "y": 20, "width": 10, "height": 20, "rotation": 0}
    shape = result("rectangle", geometry, None)
    label = result("labels", geometry, "dog")
    note = result("textarea", geometry | {"text": ["seen from behind"]}, None)
    drawing = open_label_studio(write_export(tmp_path, task(shape, label, note))).read(0)
    (piece,) = drawing.pieces
    assert (piece.category, piece.group) == ("dog", None)
    np.testing.assert_array_equal(full(piece, drawing), rectangle(1, 1, 2, 2))


def test_regions_below_a_common_parent_are_one_object(tmp_path):
    shapes = [
        box(0, 0, 10, 20, id="a"),
        box(20, 0, 10, 20, id="b", parentID="a"),
        box(40, 0, 10, 20, id="c", parentID="b"),
        box(60, 0, 10, 20, id="d"),
        # Below a parent that is no region itself, as groups in the outliner are.
        box(70, 0, 10, 20, id="e", parentID="g"),
        box(80, 0, 10, 20, id="f", parentID="g"),
    ]
    pieces = open_label_studio(write_export(tmp_path, task(*shapes))).read(0).pieces
    assert [piece.group for piece in pieces] == ["a", "a", "a", None, "g", "g"]


def test_parents_in_a_circle_do_not_hang(tmp_path):
    shapes = [box(0, 0, 10, 20, id="a", parentID="b"), box(20, 0, 10, 20, id="b", parentID="a")]
    assert len(open_label_studio(write_export(tmp_path, task(*shapes))).read(0).pieces) == 2


def test_answers_about_the_picture_are_no_regions(tmp_path):
    choice = {"id": "q", "type": "choices", "value": {"choices": ["sunny"]}, "to_name": "image", "from_name": "w"}
    relation = {"from_id": "r1", "to_id": "r1", "type": "relation", "direction": "right"}
    source = open_label_studio(write_export(tmp_path, task(choice, box(0, 0, 10, 20), relation)))
    assert len(source.read(0).pieces) == 1


def test_keypoints_are_left_out_with_a_warning(tmp_path):
    point = result("keypointlabels", {"x": 1, "y": 2, "width": 0.3}, id="p")
    root = write_export(tmp_path, task(point, box(0, 0, 10, 20)))
    with pytest.warns(UserWarning, match="left out: 1 of the kind keypointlabels"):
        assert len(open_label_studio(root).read(0).pieces) == 1


# --- tasks ---


def test_which_annotation_counts(tmp_path):
    annotations = [
        {"result": [box(0, 0, 10, 20, "cancelled")], "was_cancelled": True},
        {"result": [box(0, 0, 10, 20, "first")]},
        {"result": [box(0, 0, 10, 20, "truth")], "ground_truth": True},
        {"result": [box(0, 0, 10, 20, "last")], "ground_truth": True},
    ]
    names = ("images/a.png", "images/b.png", "images/c.png")
    tasks = [
        task(annotations=annotations, image="/data/upload/1/a.png"),
        task(annotations=annotations[:2], number=2, image="/data/upload/1/b.png"),
        task(annotations=annotations[:1], number=3, image="/data/upload/1/absent.png"),
        task(annotations=[], number=4, image="/data/upload/1/absent.png"),
        task(number=5, image="/data/upload/1/c.png"),
    ]
    with pytest.warns() as said:
        source: DrawingSource = open_label_studio(write_export(tmp_path, *tasks, names=names))
    nothing, several = (str(warning.message) for warning in said)
    assert nothing.endswith(
        "2 of 5 tasks have no annotation that was not cancelled and are left out, the first is task 3"
    )
    assert several.endswith(
        "1 tasks have several annotations, of which the ground truth, else the first, is taken; the first is task 1"
    )
    # Tasks 3 and 4 have nothing that counts, so nobody misses their pictures; task 5 was found empty by a person.
    assert [source.read(index).image.name for index in range(len(source))] == ["a.png", "b.png", "c.png"]
    assert source.categories == (DrawnCategory("truth"), DrawnCategory("first"))
    assert (source.read(2).pieces, source.read(2).size) == ((), (5, 10))


@pytest.mark.parametrize(
    ("address", "file"),
    [
        (f"/data/upload/1/{NAME}", NAME),
        (f"/data/upload/1/{NAME}", f"images/{NAME}"),
        (f"/data/upload/1/{NAME}", f"media/upload/1/{NAME}"),
        (f"/data/upload/1/{NAME}", "images/street_view.png"),
        ("/data/local-files/?d=set%20one/a.png", "set one/a.png"),
        ("/data/local-files/?d=set one\\a.png", "images/a.png"),
        ("http://localhost:8080/data/local-files/?d=/mnt/set/a.png", "set/a.png"),
        ("s3://bucket/set/a.png", "set/a.png"),
        ("https://example.org/set/a%20b.png?X-Amz-Expires=3600", "a b.png"),
        ("set/a.png", "set/a.png"),
    ],
)
def test_pictures_are_found(tmp_path, address, file):
    root = write_export(tmp_path, task(box(0, 0, 10, 20), image=address), names=(file,))
    assert open_label_studio(root).read(0).image == root / file


def test_the_picture_may_stand_under_another_key(tmp_path):
    data = {"photo": f"/data/upload/1/{NAME}", "caption": "a street", "number": 3}
    root = write_export(tmp_path, task(box(0, 0, 10, 20), data=data))
    assert open_label_studio(root).read(0).image == root / NAME
    both = write_export(tmp_path / "both", task(data={"left": "l.png", "right": "r.png"}))
    refused(both, "task 1: data names 2 pictures; expected one")


def test_an_address_that_is_none(tmp_path):
    root = write_export(tmp_path, task(box(0, 0, 10, 20), image="http://[x/a.png"), names=("a.png",))
    refused(root, "task 1: the name 'http:/[x/a.png' leads out of the export's folder")


def test_two_tasks_must_not_find_the_same_picture(tmp_path):
    tasks = [task(number=number, image=f"s3://bucket/{number}/a.png") for number in (1, 2)]
    root = write_export(tmp_path, *tasks, names=("a.png",))
    refused(root, "task 2: its picture is ", "a.png, as that of task 1")
    apart = write_export(tmp_path / "apart", *tasks, names=("1/a.png", "2/a.png"))
    assert len(open_label_studio(apart)) == 2


def test_what_names_no_regions_is_recognized_and_refused(tmp_path):
    content = [{"id": 3, "img": "a.png", "label": [], "annotation_id": 1, "annotator": 1}]
    (tmp_path / "export.json").write_text(json.dumps(content))
    assert recognize(tmp_path)
    refused(tmp_path, "task 3: this is Label Studio's JSON-MIN, which names no regions; export as JSON")


def test_recognize(tmp_path):
    root = write_export(tmp_path / "export", task(box(0, 0, 10, 20)))
    assert recognize(root)
    assert recognize(next(root.glob("*.json")))
    assert not recognize(root / NAME)
    assert not recognize(tmp_path)
    (tmp_path / "noise.json").write_bytes(b"\xff\xfe\x00[{")
    assert not recognize(tmp_path / "noise.json")
    (tmp_path / "coco.json").write_text('{"images": [], "annotations": [], "categories": [], "result": 1}')
    assert not recognize(tmp_path)
    (root / "more.json").write_bytes(next(root.glob("project*.json")).read_bytes())
    assert recognize(root)
    refused(root, "holds 2 JSON exports of Label Studio; name the file to read")


# --- what is wrong with a file ---


def test_wrong_files(tmp_path):
    path = tmp_path / "export.json"
    refused(path, "export.json: there is no such file")
    for text, message in [
        ('[{"id": 1, "annotations"', "export.json: cannot be read as JSON ("),
        ('{"id": 1}', "export.json: holds a dict, not a list of tasks"),
        ("[]", "export.json: no task has an annotation that was not cancelled"),
        ("[7]", "export.json: task 1 is 7, not an object"),
        ('[{"id": 3, "image": "a.png", "label": []}]', "task 3: this is Label Studio's JSON-MIN"),
        ('[{"id": 3, "img": "a.png", "annotation_id": 1, "annotator": 1}]', "task 3: this is Label Studio's JSON-MIN"),
        ('[{"id": 3, "annotations": 5}]', "task 3: annotations is 5; expected a list"),
        ('[{"id": 3, "annotations": [5]}]', "task 3: an annotation is 5, not an object"),
        ('[{"id": 3, "annotations": [{"result": null}]}]', "task 3: an annotation: result is None; expected a list"),
        ('[{"id": 3, "annotations": [{"result": []}]}]', "task 3: data is missing; expected an object"),
    ]:
        path.write_text(text)
        refused(path, message)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (task(image="/data/upload/1/../../a.png"), "leads out of the export's folder"),
        (task(image="/data/upload/1/b.png"), "1 picture is missing, the first is /data/upload/1/b.png; put them into"),
        (task(5), "task 1: result 1 is 5, not an object"),
        (task(box(0, 0, 9, 9, None)), "task 1: region r1: has no label; a pixel is of one class"),
        (task(box(0, 0, 9, 9) | {"value": {"x": 1, "rectanglelabels": ["a", "b"]}}), "region r1: has the labels a, b"),
        (task(box(0, 0, 9, 9) | {"value": {"x": 1, "rectanglelabels": [["a"]]}}), "region r1: has the labels ['a'];"),
        (task(box(0, 0, 9, 9, image_rotation=90)), "region r1: drawn on a picture turned in the tool"),
        (task(box(0, 0, 9, 9, original_width=None)), "region r1: original size: width is None; expected"),
        (task(box(0, 0, 9, 9, original_height=0)), "region r1: original size: 10 x 0 pixels (width x height)"),
        (task(box(0, 0, 9, 9), box(0, 0, 9, 9, id="2", original_width=20)), "region 2 (car): drawn on a picture of 20"),
        (task(box(0, 0, 120, 9)), "task 1: region r1 (car): the point (12, 0.45) lies outside the picture of 10 x 5"),
        (task(box(0, 0, float("nan"), 9)), "task 1: region r1 (car): width is nan; expected a finite number"),
        (task(box(0, 0, 9, 9, rotation="a")), "region r1 (car): rotation is 'a'; expected a finite number"),
        (task(box(200, 0, 9, 9, rotation=4)), "region r1 (car): lies outside the picture of 10 x 5 pixels"),
        (task(result("polygonlabels", {"points": [[1, 2], [3, 4]]})), "r1 (car): a polygon of 2 points has no area"),
        (task(result("polygonlabels", {"points": [[1, 2], [3, "4"], [5, 6]]})), "its points are not pairs of numbers"),
        (task(result("polygonlabels", {"points": {}})), "region r1 (car): points is {}; expected a list"),
        (task(result("ellipselabels", {"x": 1, "y": 2, "radiusX": 0, "radiusY": 3})), "needs radii of more than 0"),
        (task(result("brushlabels", {"rle": "abc"})), "region r1 (car): rle is 'abc'; expected a list"),
        (task(result("brushlabels", {"rle": [1, 2, 300]})), "r1 (car): rle holds something else than numbers from 0"),
        (task(result("brushlabels", {"rle": [1, 2, 3]})), "region r1 (car): rle is cut short after 3 bytes"),
        (
            task(brush(np.ones((5, 10)), original_width=20)),
            "region r1 (car): rle holds 200 values of 8 bits, but the picture has 400 of 8",
        ),
        (task(result("bitmasklabels", {"imageDataURL": ""})), "result 1 is of the kind bitmasklabels, which is not"),
    ],
)  # fmt: skip
def test_wrong_tasks_and_regions(tmp_path, wrong, message):
    refused(write_export(tmp_path, wrong), message)
