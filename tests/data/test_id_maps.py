import os

import numpy as np
import pytest
from PIL import Image

from thingstuff.data.drawn.label_png import read_label_png
from thingstuff.data.drawn.lookup import picture_size
from thingstuff.data.id_maps import read_colors, read_numbers, renumber
from thingstuff.errors import InputError
from thingstuff.structures import TruthSegment


def test_numbers_of_every_kind(tmp_path):
    pixels = np.array([[0, 1], [2, 255]], dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "grey.png")
    palette = Image.fromarray(pixels, mode="L").convert("P")
    palette.putdata(pixels.ravel().tolist())
    palette.putpalette([7, 7, 7] * 256)  # all numbers look alike
    palette.save(tmp_path / "palette.png")
    for name in ("grey.png", "palette.png"):
        np.testing.assert_array_equal(read_numbers(tmp_path / name), pixels)
    wide = np.array([[0, 65535], [26001, 256]], dtype=np.uint16)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    np.testing.assert_array_equal(read_numbers(tmp_path / "wide.png"), wide)


def test_a_pipe_does_not_make_it_wait(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    for read in (read_numbers, read_colors, picture_size, read_label_png):
        with pytest.raises(InputError, match=r"a\.png: "):
            read(tmp_path / "a.png")


def test_wrong_files(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "rgb.png")
    Image.new("L", (2, 2)).save(tmp_path / "grey.png")
    Image.new("1", (2, 2)).save(tmp_path / "bit.png")
    Image.effect_noise((64, 64), 50).save(tmp_path / "noise.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "noise.png").read_bytes()[:2000])
    with pytest.raises(InputError, match=r"rgb\.png: has 3 channels of type uint8, not one channel of 8 or 16 bits"):
        read_numbers(tmp_path / "rgb.png")
    with pytest.raises(InputError, match=r"bit\.png: has 1 channel of type bool, not one channel"):
        read_numbers(tmp_path / "bit.png")
    with pytest.raises(InputError, match=r"grey\.png: has 1 channel of type uint8, not three channels"):
        read_colors(tmp_path / "grey.png")
    with pytest.raises(InputError, match=r"cut\.png: the picture is damaged or cut short"):
        read_numbers(tmp_path / "cut.png")
    with pytest.raises(InputError, match=r"absent\.png: there is no such picture"):
        read_colors(tmp_path / "absent.png")


def test_renumber():
    numbers = np.array([[0, 5, 65535], [7, 5, 0]], dtype=np.int32)
    segments = {5: TruthSegment(9, 1), 7: TruthSegment(9, 1), 65535: TruthSegment(3, 2)}
    ids, found = renumber(numbers, segments.get)
    np.testing.assert_array_equal(ids, [[0, 9, 3], [9, 9, 0]])
    assert found == {9: TruthSegment(9, 1), 3: TruthSegment(3, 2)}
