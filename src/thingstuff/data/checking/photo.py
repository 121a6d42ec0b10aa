"""The photograph of one picture: whether it can be read, its kind, its size and how EXIF turns it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from thingstuff.data.checking.kinds import Kind
from thingstuff.data.checking.likeness import thumbnail
from thingstuff.data.checking.records import shown
from thingstuff.data.images import DECODING_ERRORS, UPRIGHT, orientation, read_stored, to_eight_bits
from thingstuff.errors import InputError
from thingstuff.structures import Size

ANY_DAMAGE = (*DECODING_ERRORS, ArithmeticError, MemoryError, Image.DecompressionBombError)
"""What Pillow raises on files that are damaged, however badly."""
_BITS_PER_SAMPLE = 258
"""TIFF tag."""


@dataclass(frozen=True, slots=True)
class Sight:
    """Something wrong with a picture, before it is known whose picture it is.

    Attributes:
        kind: What it is.
        text: What was found and what was expected.
        of_photo: About the picture, not the PNG file.
        segment: Id of the segment, if it is about one.
    """

    kind: Kind
    text: str
    of_photo: bool = False
    segment: int | None = None


def look_at_photo(
    path: str, expected: Size | None, sights: list[Sight]
) -> tuple[tuple[int, int] | None, UInt8[np.ndarray, "9 9"] | None]:
    """Channels and bits, and the thumbnail; None where the picture cannot be read."""
    if Path(path).suffix.lower() == ".npy":
        return _look_at_array(path, expected, sights)
    try:
        refuse_pipe(path)
        with Image.open(path) as image:
            stored, turn = (image.height, image.width), orientation(image)
            channels = (_channels(image), bits_per_channel(image))
            kind = f"{image.format} of mode {image.mode}"
            # At an eighth of the size a JPEG file is read whole, so damage shows, but only a few pixels are computed.
            image.draft("L", (image.width // 8, image.height // 8))
            image.load()
            thumb = thumbnail(image)
    except ANY_DAMAGE as error:
        sights.append(Sight(Kind.DAMAGED_PICTURE, reason(path, error), of_photo=True))
        return None, None
    if channels[1] == 32:
        sights.append(Sight(Kind.UNSUPPORTED_PIXELS, kind, of_photo=True))
    elif channels[1] == 16:
        sights.append(Sight(Kind.SIXTEEN_BIT, kind, of_photo=True))
    if channels[0] != 3 and channels[1] != 32:
        sights.append(Sight(Kind.NOT_RGB, kind, of_photo=True))
    _compare_sizes(stored, turn, expected, sights)
    if turn in UPRIGHT:
        thumb = np.asarray(Image.fromarray(thumb).transpose(UPRIGHT[turn]))
    return channels, thumb


def refuse_pipe(path: str) -> None:
    """Raise an ``OSError`` where opening would wait for ever: what is there is neither file nor folder."""
    if Path(path).exists() and not Path(path).is_file():
        raise OSError("it is no ordinary file")


def _look_at_array(
    path: str, expected: Size | None, sights: list[Sight]
) -> tuple[tuple[int, int] | None, UInt8[np.ndarray, "9 9"] | None]:
    try:
        array = read_stored(path)
    except InputError as error:
        sights.append(Sight(Kind.DAMAGED_PICTURE, str(error), of_photo=True))
        return None, None
    channels = array.shape[2], 8 * array.dtype.itemsize
    kind = f"array of {array.dtype}"
    if channels[1] == 16:
        sights.append(Sight(Kind.SIXTEEN_BIT, kind, of_photo=True))
    if channels[0] != 3:
        sights.append(Sight(Kind.NOT_RGB, kind, of_photo=True))
    _compare_sizes((array.shape[0], array.shape[1]), 1, expected, sights)
    return channels, thumbnail(Image.fromarray(to_eight_bits(array[:, :, :1])[:, :, 0]))


def _compare_sizes(stored: Size, turn: int, expected: Size | None, sights: list[Sight]) -> None:
    upright = stored[::-1] if turn in (5, 6, 7, 8) else stored
    if expected is not None and upright != expected:
        text = f"{size_text(upright)} pixels, but the JSON file says {size_text(expected)}"
        if stored == expected:
            text = f"upright {size_text(upright)} (EXIF orientation {turn}), but the JSON file says "
            sights.append(Sight(Kind.EXIF_ROTATION, f"{text}{size_text(expected)}, as it is stored", of_photo=True))
        else:
            sights.append(Sight(Kind.WRONG_PICTURE_SIZE, text, of_photo=True))
    elif turn in UPRIGHT and upright == stored:
        text = f"EXIF orientation {turn}, {size_text(upright)} pixels either way"
        sights.append(Sight(Kind.EXIF_UNCLEAR, text, of_photo=True))


def _channels(image: Image.Image) -> int:
    # A palette stands for colours, and with alpha for four channels.
    return (4 if "transparency" in image.info else 3) if image.mode == "P" else len(image.getbands())


def bits_per_channel(image: Image.Image) -> int:
    """Bits per channel, which Pillow hides where it reads 16 as 8."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        return 16
    if image.mode in ("I", "F"):
        return 32
    if image.format == "PNG":
        return png_bits(image)
    if image.format == "TIFF":
        bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, 8)
        bits = max(bits) if isinstance(bits, tuple) else bits
        return 16 if bits == 16 else 8
    return 8


def png_bits(image: Image.Image) -> int:
    """16 or 8, from the header of an opened PNG file."""
    with open(image.filename, "rb") as file:  # pyright: ignore[reportAttributeAccessIssue]
        return 16 if file.read(25)[24] == 16 else 8


# --- words ---


def size_text(size: tuple[int, ...]) -> str:
    """Width and height of a size, in the order in which people say them."""
    return f"{shown(size[1])} x {shown(size[0])}"


def reason(path: str, error: BaseException) -> str:
    """Why a picture could not be decoded."""
    if isinstance(error, Image.UnidentifiedImageError):
        empty = Path(path).stat().st_size == 0
        return "the file is empty" if empty else "not a picture of a format that Pillow reads"
    if isinstance(error, MemoryError):
        return "it does not fit into memory"
    return " ".join(str(error).split()) or type(error).__name__
