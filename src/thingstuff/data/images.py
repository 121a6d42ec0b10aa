"""Pictures and id maps from files, and where the segments of an id map lie."""

import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int32, Int64, Integer, Shaped, UInt8
from PIL import ExifTags, Image, TiffImagePlugin

from thingstuff.errors import InputError
from thingstuff.structures import PixelKind, decode_ids

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp", ".gif", ".ppm", ".pgm", ".npy")
"""What is taken for a picture in a folder, in lower case; a file named outright is opened whatever its name."""

DECODING_ERRORS = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, struct.error, zlib.error)
"""What Pillow's readers raise on damaged files."""

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns a picture of each EXIF orientation upright."""


_ARRAY_SUFFIX = ".npy"
_TIFF_SUFFIXES = (".tif", ".tiff")
_CHANNEL_MODES = ("L", "LA", "RGBA", "CMYK", "I;16", "I;16B", "I;16L", "I;16N")
"""Pillow's modes of TIFF files whose channels are kept; pages of those with one channel are channels of one picture."""


def read_image(path: Path | str) -> UInt8[np.ndarray, "H W 3"]:
    """Read a picture as upright 8-bit RGB.

    The EXIF orientation is applied; grey, palette, CMYK and transparent pictures are converted (alpha is dropped), 16
    bits are scaled to 8, and of an animation the first frame is taken. An array (``.npy``) must have 3 channels.

    Raises:
        InputError: The file is missing, a folder, not a picture, cut short, or too large to be opened safely.
    """
    if Path(path).suffix.lower() == _ARRAY_SUFFIX:
        image = read_stored(path)
        if image.shape[2] != 3:
            raise InputError(
                f"{path}: {image.shape[2]} channels, where RGB is expected; train a network for such pictures, with "
                "thingstuff train finetune --data ROOT"
            )
        return to_eight_bits(image)
    with _opened(path) as image:
        return upright_rgb(image, path)


def to_eight_bits(image: Shaped[np.ndarray, "H W C"]) -> UInt8[np.ndarray, "H W C"]:
    """Scale 16 bits to 8; 8 bits stay."""
    if image.dtype == np.uint8:
        return image
    return ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)


def read_picture(path: Path | str, channels: int, pixels: PixelKind) -> Shaped[np.ndarray, "H W C"]:
    """Read a picture as a network takes it.

    Args:
        path: The file.
        channels: How many the network takes.
        pixels: ``rgb``: three channels are those of ``read_image``, other numbers stand in the file, of 8 or 16 bits.
            ``uint8`` and ``uint16``: any number of channels stands in the file, of that type.

    Raises:
        InputError: As for ``read_image`` and ``read_stored``, or the file has something else.
    """
    if pixels == "rgb" and channels == 3:
        return read_image(path)
    image = read_stored(path)
    if image.shape[2] != channels or pixels not in ("rgb", image.dtype.name):
        expected = f"{channels} channels" + ("" if pixels == "rgb" else f" of {pixels}")
        raise InputError(
            f"{path}: {image.shape[2]} channels of {image.dtype}, where the network takes {expected}; "
            "bring all pictures to one kind"
        )
    return image


def read_stored(path: Path | str) -> Shaped[np.ndarray, "H W C"]:
    """Read a picture with the channels and bits that its file has, as uint8 or uint16.

    ``.npy`` holds (H, W, C) or (H, W). TIFF files keep their channels where these are not three: one, two or four in a
    page, or one page of one channel for each. Everything else, and TIFF with RGB or a palette, is read by
    ``read_image``.

    Raises:
        InputError: As for ``read_image``; or an array has another shape or type, or Pillow leaves out channels or bits.
    """
    suffix = Path(path).suffix.lower()
    if suffix == _ARRAY_SUFFIX:
        return _read_array(Path(path))
    if suffix not in _TIFF_SUFFIXES:
        return read_image(path)
    with _opened(path) as image:
        if not isinstance(image, TiffImagePlugin.TiffImageFile):
            return upright_rgb(image, path)
        samples, bits = image.tag_v2.get(277, 1), max(image.tag_v2.get(258, (1,)))
        bands = len(image.getbands())
        if samples > 3 and (samples > bands or bits > 8):
            raise InputError(
                f"{path}: a TIFF file of {samples} channels of {bits} bits, of which Pillow reads {bands} of 8; "
                "save (height, width, channels) with numpy.save as .npy"
            )
        if image.mode not in _CHANNEL_MODES:
            return upright_rgb(image, path)
        return _stack_pages(image, path)


def _read_array(path: Path) -> Shaped[np.ndarray, "H W C"]:
    if path.is_dir():
        raise InputError(f"{path}: this is a folder, not a picture; name the files in it")
    try:
        # Never with pickles: those run code.
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such picture; check the path") from error
    except DECODING_ERRORS as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: no array can be read ({reason}); write it with numpy.save") from error
    shape = " x ".join(map(str, getattr(array, "shape", ())))
    if not isinstance(array, np.ndarray) or array.ndim not in (2, 3) or 0 in array.shape:
        raise InputError(
            f"{path}: an array of {shape or 'no'} sides; save (height, width, channels) or (height, width)"
        )
    if array.dtype.kind != "u" or array.dtype.itemsize > 2:
        raise InputError(f"{path}: an array of {array.dtype}; save uint8 or uint16")
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    return np.ascontiguousarray(array if array.ndim == 3 else array[:, :, None])


def _stack_pages(image: TiffImagePlugin.TiffImageFile, path: Path | str) -> Shaped[np.ndarray, "H W C"]:
    """The channels of a page, or all pages of one channel as channels."""
    transpose = UPRIGHT.get(orientation(image))
    pages, kind = [], (image.mode, image.size)
    for number in range(image.n_frames if len(image.getbands()) == 1 else 1):
        image.seek(number)
        if (image.mode, image.size) != kind:
            raise InputError(
                f"{path}: page {number + 1} is {image.width} x {image.height} {image.mode}, page 1 is {kind[1][0]} x "
                f"{kind[1][1]} {kind[0]}; pages are channels of one picture, so give them one size and type"
            )
        page = np.asarray(image if transpose is None else image.transpose(transpose))
        pages.append(page if page.ndim == 3 else page[:, :, None])
    stacked = np.concatenate(pages, axis=2)
    return stacked.astype(stacked.dtype.newbyteorder("="), copy=False)


def upright_rgb(image: Image.Image, source: Path | str) -> UInt8[np.ndarray, "H W 3"]:
    """Convert an opened picture to upright 8-bit RGB, as ``read_image`` describes.

    Args:
        image: The picture.
        source: What to call it in messages.

    Raises:
        InputError: Its pixels have no fixed range.
    """
    rgb = _to_rgb(image, source)
    transpose = UPRIGHT.get(orientation(image))
    return np.array(rgb if transpose is None else rgb.transpose(transpose))


def read_id_map(path: Path | str) -> Int32[np.ndarray, "H W"]:
    """Read the id map of a picture from the PNG file of the COCO panoptic format.

    Raises:
        InputError: As for ``read_image``; or the file is not a PNG of three (or four) 8-bit channels.
    """
    with _opened(path) as image:
        kind = f"{image.format} file of mode {image.mode}"
        if image.format == "PNG":
            with open(path, "rb") as file:
                bits = file.read(25)[24]  # the header's bit depth, which Pillow hides
            kind = f"{bits}-bit PNG file of mode {image.mode}"
            if bits == 8 and image.mode in ("RGB", "RGBA"):
                return decode_ids(np.asarray(image)[..., :3])
        raise InputError(
            f"{path}: this is a {kind}, not an 8-bit RGB PNG file; write ids as R + 256 G + 65536 B (0 is void)"
        )


def is_picture(path: Path) -> bool:
    """Whether a file in a folder is taken for a picture, by its name."""
    return path.suffix.lower() in PICTURE_SUFFIXES and path.is_file()


@contextmanager
def _opened(path: Path | str) -> Iterator[Image.Image]:
    """Open and decode a picture; whatever goes wrong here or in the body becomes an ``InputError``."""
    if Path(path).is_dir():
        raise InputError(f"{path}: this is a folder, not a picture; name the files in it")
    if Path(path).exists() and not Path(path).is_file():
        raise InputError(f"{path}: this is no ordinary file; name a picture")
    try:
        # Pillow warns of large pictures, which are welcome, and of damaged side data, which is not used.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # From a path, Pillow maps uncompressed TIFF files into memory, and scrambles those that are to be turned.
            with open(path, "rb") as file, Image.open(file) as image:
                image.load()
                yield image
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such picture; check the path") from error
    except PermissionError as error:
        raise InputError(f"{path}: no permission to read this picture; change the file's permissions") from error
    except Image.DecompressionBombError as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 1_000_000
        raise InputError(
            f"{path}: the picture has more than {limit} million pixels; cut it into tiles or scale it down"
        ) from error
    except Image.UnidentifiedImageError as error:
        state = "empty (0 bytes)" if not Path(path).stat().st_size else "not a picture of a format that Pillow reads"
        if Path(path).suffix.lower() in _TIFF_SUFFIXES and Path(path).stat().st_size:
            raise InputError(
                f"{path}: the file is {state}; it may have more channels or bits: save (height, width, channels) of "
                "uint8 or uint16 with numpy.save as .npy, or one page for each channel"
            ) from error
        raise InputError(f"{path}: the file is {state}; replace it by a JPEG, PNG, TIFF or WebP file") from error
    except DECODING_ERRORS as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{path}: the picture is damaged or cut short ({reason}); copy or download it again"
        ) from error


def _to_rgb(image: Image.Image, path: Path | str) -> Image.Image:
    sixteen_bits = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")
    if sixteen_bits:
        values = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise InputError(f"{path}: 32-bit pixels have no fixed white; convert the picture to 8 or 16 bits")
    elif image.mode in ("P", "PA", "La", "RGBa"):
        # Only this way are palettes with alpha looked up and premultiplied colours divided.
        image = image.convert("RGBA")
    return image.convert("RGB")


def orientation(image: Image.Image) -> int:
    """How EXIF says a picture is to be turned; see ``UPRIGHT``."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except DECODING_ERRORS:
        return 1  # a picture with a damaged EXIF block is shown as stored by every viewer


@dataclass(frozen=True, slots=True)
class LocatedSegments:
    """Where the listed segments of an id map lie.

    Attributes:
        index: 1 + position in the list of each pixel's segment; 0 where void or of a segment that is not listed.
        areas: Pixels of each listed segment, perhaps 0.
        boxes: Tight ``xyxy`` box of each listed segment in pixels of the map; all 0 for a segment without pixels.
    """

    index: Int32[np.ndarray, "H W"]
    areas: Int64[np.ndarray, " n"]
    boxes: Int64[np.ndarray, "n 4"]


def locate_segments(ids: Int32[np.ndarray, "H W"], segment_ids: Sequence[int]) -> LocatedSegments:
    """Find areas and boxes of all segments in one pass over the map.

    Args:
        ids: Segment id of every pixel.
        segment_ids: Distinct ids of the segments to find.
    """
    runs = find_runs(ids)
    position = {identity: row for row, identity in enumerate(segment_ids, start=1)}
    rows = np.array([position.get(value, 0) for value in runs.values.tolist()], dtype=np.int32)
    index = rows[runs.of_value]
    areas, boxes = runs.measure(index, len(segment_ids) + 1)
    return LocatedSegments(np.repeat(index, runs.lengths).reshape(ids.shape), areas[1:], boxes[1:])


@dataclass(frozen=True, slots=True)
class Runs:
    """Runs of equal pixels within the rows of a map: what is counted on them is counted some hundred times faster.

    Attributes:
        width: Of the map.
        starts: Number of the first pixel, row by row.
        lengths: Pixels.
        values: The different values, ascending.
        of_value: Which of them a run has.
    """

    width: int
    starts: Int64[np.ndarray, " R"]
    lengths: Int64[np.ndarray, " R"]
    values: Int32[np.ndarray, " V"]
    of_value: Int64[np.ndarray, " R"]

    def measure(
        self, group: Integer[np.ndarray, " R"], count: int
    ) -> tuple[Int64[np.ndarray, " count"], Int64[np.ndarray, "count 4"]]:
        """Areas and ``xyxy`` boxes of groups of runs; zeros for a group without any.

        Args:
            group: Of every run.
            count: Groups.
        """
        areas = np.bincount(group, weights=self.lengths, minlength=count).astype(np.int64)
        rows, columns = np.divmod(self.starts, self.width)
        boxes = np.tile(np.array([np.iinfo(np.int64).max] * 2 + [0, 0]), (count, 1))
        np.minimum.at(boxes[:, 0], group, columns)
        np.minimum.at(boxes[:, 1], group, rows)
        np.maximum.at(boxes[:, 2], group, columns + self.lengths)
        np.maximum.at(boxes[:, 3], group, rows + 1)
        boxes[areas == 0] = 0
        return areas, boxes


def find_runs(ids: Int32[np.ndarray, "H W"]) -> Runs:
    """Cut a map into runs."""
    width, pixels = ids.shape[1], ids.ravel()
    begins = np.ones(pixels.size, dtype=bool)
    np.not_equal(pixels[1:], pixels[:-1], out=begins[1:])
    begins[::width] = True
    starts = np.flatnonzero(begins)
    values, of_value = np.unique(pixels[starts], return_inverse=True)
    return Runs(width, starts, np.diff(starts, append=pixels.size), values, of_value)
