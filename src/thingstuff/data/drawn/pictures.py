"""The photographs of a conversion: their size and rotation, and how they get into the new data set."""

import os
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from thingstuff.data.drawn.drawing import Drawing, Piece
from thingstuff.data.images import read_stored
from thingstuff.errors import InputError
from thingstuff.structures import Size


def stored_size(path: Path) -> tuple[Size, int]:
    """Height and width of a picture as stored, and its EXIF orientation (1: upright), without decoding its pixels.

    Raises:
        InputError: As for ``read_stored``.
    """
    try:
        if not path.is_file():  # opening a pipe would wait for ever
            raise OSError("no file")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
                return (image.height, image.width), orientation if orientation in range(2, 9) else 1
    except Exception:  # an array, or whatever Pillow raises on a damaged file, which the full reader says in a line
        pixels = read_stored(path)
        return (pixels.shape[0], pixels.shape[1]), 1


def fit_to_picture(drawing: Drawing) -> Drawing:
    """The drawing in the frame of the upright picture.

    Tools that do not know of EXIF draw on the picture as stored. Where only that fits, the pieces are turned.

    Raises:
        InputError: The drawing has neither the size of the upright nor of the stored picture.
    """
    size, orientation = stored_size(drawing.image)
    upright = size[::-1] if orientation >= 5 else size
    if drawing.size == upright:
        return drawing
    if drawing.size == size:
        pieces = tuple(_turn(piece, size, orientation) for piece in drawing.pieces)
        return replace(drawing, size=upright, pieces=pieces)
    raise InputError(
        f"{drawing.image}: {upright[1]} x {upright[0]} pixels (width x height, upright), but its annotation is for "
        f"{drawing.size[1]} x {drawing.size[0]}; was the picture scaled or replaced after it was annotated?"
    )


def _turn(piece: Piece, size: Size, orientation: int) -> Piece:
    """A piece of the stored picture in the upright one, for the orientations that swap height and width."""
    (top, left), (height, width) = piece.corner, piece.mask.shape
    below, right = size[0] - top - height, size[1] - left - width
    match orientation:
        case 5:
            return replace(piece, mask=piece.mask.T, corner=(left, top))
        case 6:
            return replace(piece, mask=np.rot90(piece.mask, -1), corner=(left, below))
        case 7:
            return replace(piece, mask=np.rot90(piece.mask, 2).T, corner=(right, below))
        case _:
            return replace(piece, mask=np.rot90(piece.mask, 1), corner=(right, top))


def place_picture(path: Path, target: Path, link: bool) -> None:
    """Put a picture into the data set, unchanged.

    Args:
        path: The picture.
        target: Its new name.
        link: As a second name of the same file (a hard link) where the file system can, which takes no space.

    Raises:
        InputError: It cannot be written.
    """
    try:
        if link:
            try:
                os.link(path.resolve(), target)
                return
            except OSError:
                pass  # another file system, or one without links
        shutil.copyfile(path, target)
    except OSError as error:
        raise InputError(
            f"{target}: the picture cannot be written ({error.strerror or error}); is there space?"
        ) from error


class PictureNames:
    """Gives every picture a name in one folder; no two differ in case or suffix alone."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def take(self, path: Path) -> str:
        """The name of a picture: its own, else with its folder's in front, else with a number behind."""
        name = path.name
        if self._free(name):
            return self._keep(name)
        stem, number = f"{path.parent.name}_{path.stem}" if path.parent.name else path.stem, 2
        name = f"{stem}{path.suffix}"
        while not self._free(name):
            name, number = f"{stem}_{number}{path.suffix}", number + 1
        return self._keep(name)

    def _free(self, name: str) -> bool:
        return Path(name).stem.casefold() not in self._taken

    def _keep(self, name: str) -> str:
        self._taken.add(Path(name).stem.casefold())
        return name
