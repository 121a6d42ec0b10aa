from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from thingstuff.data.drawn.drawing import Drawing, Piece
from thingstuff.data.drawn.pictures import PictureNames, fit_to_picture, place_picture, stored_size
from thingstuff.data.images import read_image
from thingstuff.errors import InputError

STORED = (4, 6)


def picture(path: Path, orientation: int | None) -> np.ndarray:
    """Write a picture of 6 x 4 pixels, each with its own grey; its pixels as stored."""
    pixels = (np.arange(24, dtype=np.uint8) * 10).reshape(STORED)
    exif = Image.Exif()
    if orientation is not None:
        exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(pixels).save(path, exif=exif)
    return pixels


@pytest.mark.parametrize("orientation", [None, 1, 2, 3, 4, 5, 6, 7, 8, 99])
def test_a_drawing_on_the_stored_picture_is_turned_as_the_picture_is(tmp_path: Path, orientation: int | None):
    path = tmp_path / "a.png"
    pixels = picture(path, orientation)
    upright = read_image(path)[..., 0]
    pieces = [
        Piece("x", pixels[top : top + 2, left : left + 3] % 30 == 0, (top, left))
        for top in (0, 1, 2)
        for left in (0, 3)
    ]
    drawing = Drawing(path, STORED, tuple(pieces))
    fitted = fit_to_picture(drawing)
    assert fitted.size == upright.shape
    if fitted.size == STORED:
        assert fitted is drawing  # nothing tells on which of both it was drawn
        return
    for before, after in zip(pieces, fitted.pieces, strict=True):
        marked = np.zeros(STORED, dtype=bool)
        marked[before.corner[0] : before.corner[0] + 2, before.corner[1] : before.corner[1] + 3] = before.mask
        turned = np.zeros(upright.shape, dtype=bool)
        (top, left), (height, width) = after.corner, after.mask.shape
        turned[top : top + height, left : left + width] = after.mask
        assert set(upright[turned].tolist()) == set(pixels[marked].tolist())


def test_a_drawing_on_the_upright_picture_stays(tmp_path: Path):
    path = tmp_path / "a.jpg"
    picture(path, 6)
    assert stored_size(path) == (STORED, 6)
    drawing = Drawing(path, (6, 4), ())
    assert fit_to_picture(drawing) is drawing


def test_another_size_is_refused(tmp_path: Path):
    path = tmp_path / "a.jpg"
    picture(path, None)
    with pytest.raises(InputError, match=r"a.jpg: 6 x 4 pixels .* but its annotation is for 12 x 8"):
        fit_to_picture(Drawing(path, (8, 12), ()))


def test_missing_and_damaged_pictures_are_refused(tmp_path: Path):
    (tmp_path / "b.jpg").write_bytes(b"no picture")
    for name in ("a.jpg", "b.jpg"):
        with pytest.raises(InputError, match=name):
            fit_to_picture(Drawing(tmp_path / name, STORED, ()))


def test_pictures_are_copied_byte_by_byte_or_linked(tmp_path: Path):
    path = tmp_path / "a.jpg"
    picture(path, 6)
    place_picture(path, tmp_path / "copy.jpg", link=False)
    place_picture(path, tmp_path / "link.jpg", link=True)
    assert (tmp_path / "copy.jpg").read_bytes() == path.read_bytes()
    assert (tmp_path / "link.jpg").samefile(path)
    assert not (tmp_path / "copy.jpg").samefile(path)
    with pytest.raises(InputError, match="cannot be written"):
        place_picture(path, tmp_path / "absent" / "x.jpg", link=True)


def test_a_link_to_a_link_is_one_of_the_file(tmp_path: Path):
    path = tmp_path / "a.jpg"
    picture(path, None)
    (tmp_path / "symbolic.jpg").symlink_to("a.jpg")
    place_picture(tmp_path / "symbolic.jpg", tmp_path / "link.jpg", link=True)
    assert not (tmp_path / "link.jpg").is_symlink()
    assert (tmp_path / "link.jpg").samefile(path)


def test_names_are_kept_where_they_can_be():
    names = PictureNames()
    paths = ["train/a.jpg", "val/a.jpg", "b.png", "b.jpg", "x/val/A.jpg", "val/a.JPG", "c.tar.png"]
    assert [names.take(Path("root") / path) for path in paths] == [
        "a.jpg", "val_a.jpg", "b.png", "root_b.jpg", "val_A_2.jpg", "val_a_3.JPG", "c.tar.png"
    ]  # fmt: skip


@pytest.mark.parametrize("channels", [1, 4, 12])
def test_the_size_of_an_array_of_any_channels(tmp_path: Path, channels: int):
    np.save(tmp_path / "a.npy", np.zeros((*STORED, channels), dtype=np.uint16))
    assert stored_size(tmp_path / "a.npy") == (STORED, 1)


def test_a_damaged_array(tmp_path: Path):
    (tmp_path / "a.npy").write_bytes(b"abc")
    with pytest.raises(InputError, match=r"a.npy: no array can be read"):
        stored_size(tmp_path / "a.npy")
