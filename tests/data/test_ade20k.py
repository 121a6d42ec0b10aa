import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from published_sets import save_picture, save_png, write_ade20k

from thingstuff.data.ade20k import ade20k_labels, open_ade20k, recognize
from thingstuff.errors import InputError
from thingstuff.structures import TruthSegment

LABELS = ade20k_labels()
WALL, BED, WINDOW, SKY, FLAG = 1, 8, 9, 3, 150
"""Classes as the PNG files number them."""


def refused(root, *parts):
    with pytest.raises(InputError) as caught:
        open_ade20k(root).read_truth(0)
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


def no_objects(height, width):
    return np.zeros((height, width, 3), dtype=np.uint8)


def test_classes():
    assert (LABELS.num_stuff, LABELS.num_things) == (50, 100)
    assert [category.id for category in LABELS.categories if category.name in ("wall", "bed", "flag")] == [0, 7, 149]
    # The thing classes in the order of their ids are those that the red channel counts: published pairs.
    things = [category.id + 1 for category in LABELS.categories if category.isthing]
    for rank, number in [(1, 8), (5, 15), (28, 46 + 2), (62, 96), (97, 147), (100, 150)]:
        assert things[rank - 1] == number


def test_stuff_things_and_void(tmp_path):
    classes = np.array([[WALL, BED, BED, 0], [WALL, WALL, BED, FLAG]])
    objects = no_objects(2, 4)
    objects[0, 1] = (1, 1, 0)
    objects[0, 2] = (1, 2, 0)
    objects[1, 1] = (100, 3, 0)  # a flag before the wall: objects go over stuff
    write_ade20k(tmp_path, "training", "ADE_train_00000001", classes, objects)
    source = open_ade20k(tmp_path)
    truth = source.read_truth(0)
    bed, other, flag = BED * 256 + 1, BED * 256 + 2, FLAG * 256 + 3
    # The bed and the flag without an object are void.
    np.testing.assert_array_equal(truth.ids, [[WALL, bed, other, 0], [WALL, flag, 0, 0]])
    names = {segment.id: LABELS.categories[segment.label].name for segment in truth.segments}
    assert names == {WALL: "wall", bed: "bed", other: "bed", flag: "flag"}
    drawing = source.read(0)
    assert [piece.category for piece in drawing.pieces].count("bed") == 2
    assert (drawing.split, drawing.size) == ("train", (2, 4))


def test_stuff_that_objects_cover_wholly_is_no_segment(tmp_path):
    objects = no_objects(1, 2)
    objects[..., :2] = (1, 1)
    write_ade20k(tmp_path, "validation", "ADE_val_00000001", np.array([[WALL, WALL]]), objects)
    index = next(index for index, category in enumerate(LABELS.categories) if category.name == "bed")
    assert open_ade20k(tmp_path).read_truth(0).segments == (TruthSegment(BED * 256 + 1, index),)


@given(
    classes=arrays(np.int64, (4, 5), elements=st.sampled_from([0, WALL, SKY, BED, FLAG])),
    ranks=arrays(np.int64, (4, 5), elements=st.sampled_from([0, 0, 1, 2, 100])),
    numbers=arrays(np.int64, (4, 5), elements=st.integers(0, 2)),
)
def test_every_pixel_is_kept(tmp_path_factory, classes, ranks, numbers):
    root = tmp_path_factory.mktemp("ade20k")
    write_ade20k(root, "training", "a", classes, np.stack([ranks, numbers, numbers], axis=2))
    truth = open_ade20k(root).read_truth(0)
    thing = np.select([ranks == 1, ranks == 2, ranks == 100], [BED, WINDOW, FLAG]) * 256 + numbers
    stuff = np.where(np.isin(classes, [WALL, SKY]), classes, 0)
    # Objects are counted from 1: what has no number is none, whatever the red channel says.
    np.testing.assert_array_equal(truth.ids, np.where((ranks > 0) & (numbers > 0), thing, stuff))
    assert {segment.id for segment in truth.segments} == set(np.unique(truth.ids).tolist()) - {0}


def test_the_root_may_be_the_folder_of_the_archive(tmp_path):
    write_ade20k(tmp_path, "training", "a", np.array([[WALL]]), no_objects(1, 1))
    home = tmp_path / "ADEChallengeData2016"
    assert recognize(tmp_path)
    assert recognize(home)
    assert not recognize(home / "images")
    assert open_ade20k(home).read(0).image == open_ade20k(tmp_path).read(0).image


def test_without_objects_it_is_recognized_and_refused(tmp_path):
    write_ade20k(tmp_path, "training", "a", np.array([[WALL]]), no_objects(1, 1))
    home = tmp_path / "ADEChallengeData2016"
    shutil.rmtree(home / "annotations_instance")
    assert not recognize(home)
    (home / "objectInfo150.txt").write_text("")
    assert recognize(home)
    refused(home, "annotations_instance/training: 1 PNG files are missing, the first is a.png; unpack annotations_")


def test_wrong_roots(tmp_path):
    refused(tmp_path, "has no annotations/training/*.png; unpack ADEChallengeData2016.zip")
    write_ade20k(tmp_path, "training", "a", np.array([[WALL]]), no_objects(1, 1))
    home = tmp_path / "ADEChallengeData2016"
    (home / "images/training/a.jpg").unlink()
    refused(tmp_path, "images/training: 1 pictures of annotations are missing, the first is a; unpack")
    (home / "annotations_instance/training/a.png").unlink()
    refused(tmp_path, "annotations_instance/training: 1 PNG files are missing, the first is a.png; unpack annotations_")


def test_wrong_maps(tmp_path):
    home = tmp_path / "ADEChallengeData2016"
    objects = no_objects(1, 2)
    write_ade20k(tmp_path, "training", "a", np.array([[WALL, 151]]), objects)
    refused(tmp_path, "annotations/training/a.png: 151 is no class; expected 0 to 150")
    objects[0, 0] = (101, 1, 0)
    write_ade20k(tmp_path, "training", "a", np.array([[WALL, BED]]), objects)
    refused(tmp_path, "annotations_instance/training/a.png: 101 is no thing class; expected 0 to 100")
    write_ade20k(tmp_path, "training", "a", np.array([[WALL, BED]]), no_objects(2, 1))
    refused(
        tmp_path, "annotations_instance/training/a.png: 1 x 2 pixels (width x height), but its file in annotations/"
    )
    save_png(home / "annotations_instance/training/a.png", np.zeros((1, 2), dtype=np.uint8))
    refused(tmp_path, "annotations_instance/training/a.png: has 1 channel of type uint8, not three channels")
    write_ade20k(tmp_path, "training", "a", np.array([[WALL, BED]]), no_objects(1, 2))
    save_picture(home / "images/training/a.jpg", 5, 5)
    refused(tmp_path, "a.png: 2 x 1 pixels (width x height), but a.jpg has 5 x 5")
