import os
from pathlib import Path

import numpy as np
import pytest

from thingstuff.data.checking.kinds import Kind
from thingstuff.data.checking.photo import Sight, look_at_photo
from thingstuff.data.checking.pixels import WrongMapError, read_map


def test_an_array_is_looked_at_like_a_picture(tmp_path: Path) -> None:
    path = tmp_path / "field.npy"
    np.save(path, np.arange(20 * 30 * 4, dtype=np.uint16).reshape(20, 30, 4))
    sights: list[Sight] = []
    channels, thumb = look_at_photo(str(path), (20, 30), sights)
    assert channels == (4, 16)
    assert thumb is not None
    assert [sight.kind for sight in sights] == [Kind.SIXTEEN_BIT, Kind.NOT_RGB]
    sights.clear()
    look_at_photo(str(path), (30, 20), sights)
    assert sights[-1].kind == Kind.WRONG_PICTURE_SIZE


def test_an_array_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "field.npy"
    path.write_bytes(b"\x93NUMPY")
    sights: list[Sight] = []
    assert look_at_photo(str(path), (20, 30), sights) == (None, None)
    assert [sight.kind for sight in sights] == [Kind.DAMAGED_PICTURE]


def test_a_pipe_does_not_make_it_wait(tmp_path: Path) -> None:
    path = str(tmp_path / "a.png")
    os.mkfifo(path)
    sights: list[Sight] = []
    assert look_at_photo(path, (20, 30), sights) == (None, None)
    assert sights[0].text == "it is no ordinary file"
    with pytest.raises(WrongMapError, match="it is no ordinary file"):
        read_map(path)
