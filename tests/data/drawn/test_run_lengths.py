import numpy as np
import pytest
from faster_coco_eval.core import mask as coco_masks
from hypothesis import given
from hypothesis import strategies as st

from thingstuff.data.drawn.run_lengths import decompress, read_run_lengths
from thingstuff.errors import InputError

MASK = np.array([[0, 1, 0], [0, 1, 1]], dtype=bool)
"""Down the columns: 0 0, 1 1, 0 1."""


def run_lengths(mask: np.ndarray) -> str:
    return coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()


def test_both_kinds_by_hand():
    for counts in ([2, 2, 1, 1], "221O"):
        mask = read_run_lengths({"size": [2, 3], "counts": counts}, (2, 3), "a")
        np.testing.assert_array_equal(mask, MASK)
    # 4 numbers; the fourth as the difference to the second: 1 - 2 = -1, five bits all set, then 48.
    assert decompress("221O", "a").tolist() == [2, 2, 1, 1]


def test_an_object_that_begins_at_once_and_an_empty_mask():
    assert read_run_lengths({"size": [1, 2], "counts": [0, 1, 1]}, (1, 2), "a").tolist() == [[True, False]]
    assert not read_run_lengths({"size": [1, 2], "counts": [2]}, (1, 2), "a").any()


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1), st.sampled_from([0.02, 0.5, 0.9]))
def test_what_cocos_own_tools_write_is_read(height: int, width: int, seed: int, share: float):
    mask = np.random.default_rng(seed).random((height, width)) < share
    read = read_run_lengths({"size": [height, width], "counts": run_lengths(mask)}, (height, width), "a")
    np.testing.assert_array_equal(read, mask)


def test_long_runs_take_several_characters():
    mask = np.zeros((700, 900), dtype=bool)
    mask[3:600, 100:101] = True
    mask[:, 500:800] = True
    read = read_run_lengths({"size": [700, 900], "counts": run_lengths(mask)}, (700, 900), "a")
    np.testing.assert_array_equal(read, mask)


@pytest.mark.parametrize(
    ("segmentation", "part"),
    [
        ([1, 2], "no run-length encoding"),
        ({"size": [2, 3]}, "no run-length encoding"),
        ({"size": [3, 2], "counts": [6]}, "of size [3, 2], the picture of [2, 3]"),
        ({"size": None, "counts": [6]}, "of size None"),
        ({"size": [2, 3], "counts": [5]}, "add up to the picture's 6 pixels"),
        ({"size": [2, 3], "counts": [8, -2]}, "add up"),
        ({"size": [2, 3], "counts": []}, "add up"),
        ({"size": [2, 3], "counts": [1.5, 4.5]}, "whole numbers"),
        ({"size": [2, 3], "counts": ["6"]}, "whole numbers"),
        ({"size": [2, 3], "counts": [float("nan")]}, "whole numbers"),
        ({"size": [2, 3], "counts": [10**30]}, "whole numbers"),
        ({"size": [2, 3], "counts": None}, "whole numbers"),
        ({"size": [2, 3], "counts": ""}, "damaged or cut short"),
        ({"size": [2, 3], "counts": "2 2"}, "damaged or cut short"),
        ({"size": [2, 3], "counts": "2é"}, "damaged or cut short"),
        ({"size": [2, 3], "counts": "\ud800"}, "damaged or cut short"),
        ({"size": [2, 3], "counts": "2o"}, "damaged or cut short"),
        ({"size": [2, 3], "counts": "P" * 20 + "0"}, "too long"),
        ({"size": [2, 3], "counts": "O"}, "add up"),
    ],
)
def test_damage_is_refused_in_a_line(segmentation: object, part: str):
    with pytest.raises(InputError) as caught:
        read_run_lengths(segmentation, (2, 3), "a.json: annotation 7")
    assert part in str(caught.value)
    assert str(caught.value).startswith("a.json: annotation 7")
    assert "\n" not in str(caught.value)
