import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from published_sets import save_picture, write_cityscapes, write_polygons

from thingstuff.convert.classes import cityscapes_labels as converted_labels
from thingstuff.data.cityscapes import cityscapes_labels, open_cityscapes, recognize
from thingstuff.data.drawn.drawing import DrawingSource
from thingstuff.data.loader import PictureSource
from thingstuff.errors import InputError
from thingstuff.structures import Truth, TruthSegment

NAME = "aachen_000000_000019"
LABELS = cityscapes_labels()


def label(name: str) -> int:
    return next(index for index, category in enumerate(LABELS.categories) if category.name == name)


def read(root: Path, *rows: list[int]) -> Truth:
    write_cityscapes(root, "train", NAME, np.array(rows))
    return open_cityscapes(root).read_truth(0)


def refused(root: Path, *parts: str) -> None:
    with pytest.raises(InputError) as caught:
        open_cityscapes(root).read_truth(0)
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


def test_classes():
    assert (LABELS.num_stuff, LABELS.num_things) == (11, 8)
    assert converted_labels() == LABELS


def test_ids_groups_and_void(tmp_path):
    # Road, two cars, a group of cars, unlabelled, a rail track, a caravan, a license plate without sign.
    truth = read(tmp_path, [7, 26000, 26001, 26], [0, 10, 29000, 65535], [7, 7, 255, 26000])
    np.testing.assert_array_equal(truth.ids, [[7, 26000, 26001, 26], [0, 0, 0, 0], [7, 7, 0, 26000]])
    assert set(truth.segments) == {
        TruthSegment(7, label("road")),
        TruthSegment(26, label("car"), crowd=True),
        TruthSegment(26000, label("car")),
        TruthSegment(26001, label("car")),
    }


IDS = [0, 3, 7, 11, 16, 24, 15000, 24000, 24001, 26000, 26017, 33999]


@given(ids=arrays(np.int64, (5, 6), elements=st.sampled_from(IDS)))
def test_every_pixel_is_kept(tmp_path_factory, ids):
    root = tmp_path_factory.mktemp("cityscapes")
    truth = read(root, *ids.tolist())
    void = np.isin(ids, [0, 3, 16, 15000])
    np.testing.assert_array_equal(truth.ids, np.where(void, 0, ids))
    # As a drawing for conversion: pieces do not overlap and cover the same pixels.
    drawing = open_cityscapes(root).read(0)
    painted = np.zeros((5, 6), dtype=np.int64)
    for piece, segment in zip(drawing.pieces, truth.segments, strict=True):
        (top, left), (height, width) = piece.corner, piece.mask.shape
        painted[top : top + height, left : left + width] += segment.id * piece.mask
    np.testing.assert_array_equal(painted, truth.ids)


def test_splits_and_order(tmp_path):
    ids = np.full((2, 3), 7)
    for split, name in [("val", "ulm_1_2"), ("train", "zurich_1_2"), ("train", "aachen_1_2"), ("test", "berlin_1_2")]:
        write_cityscapes(tmp_path, split, name, ids)
    source: DrawingSource = open_cityscapes(tmp_path)
    assert len(source) == 3
    drawings = [source.read(index) for index in range(3)]
    assert [(drawing.split, drawing.image.name.split("_")[0]) for drawing in drawings] == [
        ("train", "aachen"),
        ("train", "zurich"),
        ("val", "ulm"),
    ]
    assert [category.isthing for category in source.categories] == [False] * 11 + [True] * 8
    assert source.categories[0].color == (128, 64, 128)


def test_pictures_for_training(tmp_path):
    write_cityscapes(tmp_path, "val", NAME, np.array([[7, 26000]]))
    source: PictureSource = open_cityscapes(tmp_path).split("val")
    assert isinstance(source, PictureSource)
    source = pickle.loads(pickle.dumps(source))  # as worker processes get it where they are not forked
    assert (len(source), source.picture_sizes(), source.labels) == (1, [(1, 2)], LABELS)
    sample = source.read(0)
    assert (sample.image_id, sample.file_name, sample.original_size) == (NAME, f"{NAME}_leftImg8bit.png", (1, 2))
    assert sample.truth is not None
    np.testing.assert_array_equal(sample.truth.ids, [[7, 26000]])
    with pytest.raises(InputError, match="there is no split 'train' with annotations; splits here: val"):
        open_cityscapes(tmp_path).split("train")


# --- polygons ---


def square(left: int, top: int, right: int, bottom: int) -> list[list[int]]:
    """As Cityscapes draws: both ends belong to it."""
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def test_polygons_where_the_png_file_is_missing(tmp_path):
    objects = [
        {"label": "road", "polygon": square(0, 0, 7, 4)},
        {"label": "car", "polygon": square(0, 0, 3, 2)},
        {"label": "license plate", "polygon": square(1, 1, 2, 1)},
        {"label": "car", "polygon": square(3, 1, 5, 3)},
        {"label": "cargroup", "polygon": square(6, 0, 7, 1)},
        {"label": "polegroup", "polygon": square(0, 4, 1, 4)},
        {"label": "person", "polygon": square(5, 4, 5, 4), "deleted": 1},
        {"label": "car", "polygon": square(7, 4, 9, 9)},
    ]
    write_polygons(tmp_path, "train", NAME, (5, 8), objects)
    truth = open_cityscapes(tmp_path).read_truth(0)
    a, b, c = 26000, 26001, 26002
    np.testing.assert_array_equal(
        truth.ids,
        [
            [a, a, a, a, 7, 7, 26, 26],
            [a, a, a, b, b, b, 26, 26],
            [a, a, a, b, b, b, 7, 7],
            [7, 7, 7, b, b, b, 7, 7],
            [0, 0, 7, 7, 7, 7, 7, c],
        ],
    )
    # The PNG file is preferred where it is there.
    write_cityscapes(tmp_path, "train", NAME, np.full((5, 8), 23))
    assert np.unique(open_cityscapes(tmp_path).read_truth(0).ids).tolist() == [23]


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        ([{"label": "cow", "polygon": square(0, 0, 1, 1)}], "objects[0]: 'cow' is no label of Cityscapes"),
        ([{"label": "skygroups", "polygon": []}], "objects[0]: 'skygroups' is no label of Cityscapes"),
        ([{"label": "car"}], "objects[0]: polygon is missing; expected a list"),
        ([{"label": "car", "polygon": [[0, 0]]}], "objects[0]: a polygon of 1 points"),
        ([{"label": "car", "polygon": [[0, 0], [1]]}], "objects[0]: a point is [1]; expected x and y"),
        ([{"label": "car", "polygon": [[0, 0], [1, float("nan")]]}], "objects[0]: y is nan; expected a finite number"),
        ([3], "objects[0] is 3, not an object"),
    ],
)
def test_wrong_polygons(tmp_path, objects, message):
    write_polygons(tmp_path, "train", NAME, (5, 8), objects)
    refused(tmp_path, f"{NAME}_gtFine_polygons.json: ", message)


def test_wrong_sizes_of_polygons(tmp_path):
    path = write_polygons(tmp_path, "train", NAME, (5, 8), [])
    path.write_text('{"imgHeight": 5, "imgWidth": 100000000, "objects": []}')
    refused(tmp_path, "polygons.json: 100000000 x 5 pixels (width x height); expected at least 1 x 1")
    path.write_text('{"imgHeight": 5')
    refused(tmp_path, "polygons.json: cannot be read as JSON")


# --- what is wrong ---


def test_wrong_roots(tmp_path):
    refused(tmp_path, "has no gtFine/train/*/*_gtFine_instanceIds.png; unpack gtFine_trainvaltest.zip here")
    write_cityscapes(tmp_path, "train", NAME, np.full((2, 3), 7))
    (tmp_path / f"leftImg8bit/train/aachen/{NAME}_leftImg8bit.png").unlink()
    refused(tmp_path, f"leftImg8bit/train: 1 pictures of annotations are missing, the first is {NAME}; unpack")


def test_wrong_maps(tmp_path):
    write_cityscapes(tmp_path, "train", NAME, np.full((2, 3), 99))
    refused(tmp_path, f"{NAME}_gtFine_instanceIds.png: 99 is no id of Cityscapes' labels")
    write_cityscapes(tmp_path, "train", NAME, np.full((2, 3), 50001))
    refused(tmp_path, "50001 is no id of Cityscapes' labels")
    write_cityscapes(tmp_path, "train", NAME, np.full((2, 3), 7))
    save_picture(tmp_path / f"leftImg8bit/train/aachen/{NAME}_leftImg8bit.png", 2, 4)
    refused(tmp_path, "instanceIds.png: 3 x 2 pixels (width x height), but ", "_leftImg8bit.png has 4 x 2")
    path = tmp_path / f"gtFine/train/aachen/{NAME}_gtFine_instanceIds.png"
    path.write_bytes(path.read_bytes()[:50])
    refused(tmp_path, "instanceIds.png: ", "damaged or cut short")


def test_recognize(tmp_path):
    assert not recognize(tmp_path)
    write_cityscapes(tmp_path, "val", NAME, np.full((2, 3), 7))
    assert recognize(tmp_path)
    assert not recognize(tmp_path / "gtFine")
    shutil.rmtree(tmp_path / "leftImg8bit")
    assert recognize(tmp_path)
    refused(tmp_path, "leftImg8bit/val: 1 pictures of annotations are missing")
