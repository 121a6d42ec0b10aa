import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from published_sets import (
    MAPILLARY_LABELS,
    save_picture,
    write_mapillary,
    write_mapillary_config,
)

from thingstuff.data.mapillary import open_mapillary, recognize
from thingstuff.errors import InputError
from thingstuff.structures import TruthSegment

BIRD, CURB, CAR, VOID = 0, 256, 512, 768


def refused(root, *parts, version=None):
    with pytest.raises(InputError) as caught:
        open_mapillary(root, version).read_truth(0)
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


def test_release_1(tmp_path):
    write_mapillary_config(tmp_path / "config.json")
    write_mapillary(tmp_path, "training", "a", np.array([[BIRD, CURB, CAR + 1], [VOID, CURB + 3, CAR + 255]]))
    write_mapillary(tmp_path, "validation", "b", np.full((1, 2), VOID))
    source = open_mapillary(tmp_path)
    assert [(each.id, each.name, each.isthing) for each in source.labels.categories] == [
        (2, "Curb", False),
        (1, "Bird", True),
        (3, "Car", True),
    ]
    assert source.categories[0].color == (10, 20, 30)
    truth = source.read_truth(0)
    # The number 0 is a bird, not void; stuff is one segment whatever its objects.
    np.testing.assert_array_equal(truth.ids, [[1, 257, 514], [0, 257, 768]])
    assert set(truth.segments) == {TruthSegment(1, 1), TruthSegment(257, 0), TruthSegment(514, 2), TruthSegment(768, 2)}
    assert [source.read(index).split for index in (0, 1)] == ["train", "val"]
    assert source.read(1).pieces == ()


def test_release_2_has_both_versions(tmp_path):
    write_mapillary_config(tmp_path / "config_v1.2.json")
    write_mapillary_config(tmp_path / "config_v2.0.json", MAPILLARY_LABELS[:2])
    write_mapillary(tmp_path, "training", "a", np.full((1, 2), CAR), "v1.2")
    write_mapillary(tmp_path, "training", "a", np.full((1, 2), CURB), "v2.0")
    assert open_mapillary(tmp_path).read(0).pieces[0].category == "Curb"
    assert open_mapillary(tmp_path, "v2.0").read(0).pieces[0].category == "Curb"
    assert open_mapillary(tmp_path, "v1.2").read(0).pieces[0].category == "Car"


def test_equal_short_names_are_written_in_full(tmp_path):
    labels = [*MAPILLARY_LABELS, ("object--other--car", "Car", True, True), ("void--curb", "Curb", False, False)]
    write_mapillary_config(tmp_path / "config.json", labels)
    write_mapillary(tmp_path, "training", "a", np.full((1, 2), CAR))
    names = [category.name for category in open_mapillary(tmp_path).labels.categories]
    assert names == ["Curb", "Bird", "object--vehicle--car", "object--other--car"]


@given(numbers=arrays(np.int64, (4, 5), elements=st.sampled_from([0, 1, 255, 256, 512, 513, 768, 770])))
def test_every_pixel_is_kept(tmp_path_factory, numbers):
    root = tmp_path_factory.mktemp("mapillary")
    write_mapillary_config(root / "config.json")
    write_mapillary(root, "training", "a", numbers)
    drawing = open_mapillary(root).read(0)
    painted = np.full((4, 5), -1)
    for piece in drawing.pieces:
        (top, left), (height, width) = piece.corner, piece.mask.shape
        part = painted[top : top + height, left : left + width]
        assert (part[piece.mask] == -1).all()
        (number,) = np.unique(numbers[top : top + height, left : left + width][piece.mask]).tolist()
        part[piece.mask] = number
    np.testing.assert_array_equal(painted, np.where(numbers >= 768, -1, numbers))


def test_wrong_roots(tmp_path):
    refused(tmp_path, "has no config_v2.0.json or config.json; name the folder into which Mapillary Vistas")
    write_mapillary_config(tmp_path / "config_v1.2.json")
    refused(tmp_path, "has no config_v2.0.json; name", version="v2.0")
    refused(tmp_path, "training/instances: has no annotation of v1.2; unpack")
    write_mapillary(tmp_path, "training", "a", np.full((1, 2), CAR), "v1.2")
    (tmp_path / "training/images/a.jpg").unlink()
    refused(tmp_path, "training/images: 1 pictures of annotations are missing, the first is a; unpack")


def test_wrong_maps(tmp_path):
    write_mapillary_config(tmp_path / "config.json")
    write_mapillary(tmp_path, "training", "a", np.full((1, 2), 1024))
    refused(tmp_path, "training/instances/a.png: label 4 of 4; is the annotation of another version?")
    write_mapillary(tmp_path, "training", "a", np.full((1, 2), CAR))
    save_picture(tmp_path / "training/images/a.jpg", 9, 9)
    refused(tmp_path, "a.png: 2 x 1 pixels (width x height), but a.jpg has 9 x 9")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "config.json: cannot be read as JSON ("),
        ("[]", "config.json is [], not an object"),
        ({"labels": [{}]}, "config.json: labels[0]: readable is missing; expected a text"),
        (
            {"labels": [{"readable": "a", "name": "a", "instances": 1, "evaluate": True}]},
            "config.json: labels[0]: instances and evaluate are [1, True]; expected true or false",
        ),
        (
            {"labels": [{"readable": "a", "name": "a", "instances": True, "evaluate": True, "color": [1]}]},
            "config.json: categories[0] ('a'): color is [1], not three numbers",
        ),
    ],
)
def test_wrong_configurations(tmp_path, content, message):
    (tmp_path / "config.json").write_text(content if isinstance(content, str) else json.dumps(content))
    refused(tmp_path, message)


def test_recognize(tmp_path):
    assert not recognize(tmp_path)
    (tmp_path / "training/images").mkdir(parents=True)
    (tmp_path / "config.json").write_text("{}")
    assert not recognize(tmp_path)
    write_mapillary_config(tmp_path / "config.json")
    assert recognize(tmp_path)


def test_without_configuration_it_is_recognized_and_refused(tmp_path):
    for kind in ("images", "labels", "instances"):
        (tmp_path / "training" / kind).mkdir(parents=True)
    assert not recognize(tmp_path)  # pairs of PNG files may lie so
    (tmp_path / "training/panoptic").mkdir()
    assert recognize(tmp_path)
    refused(tmp_path, "has no config_v2.0.json or config.json; name the folder")
