"""Segment ids in PNG files of the COCO panoptic format: ``id = R + 256 G + 65536 B``, 8 bits a channel.

``read_packed`` takes a file apart for the compiled code of the extra ``[fast]``; ``read_ids`` decodes it, with Pillow.
Both take RGB and RGBA (alpha says nothing about ids) and nothing else: grey and palette pictures do not hold ids, and
16 bits do not fit the formula.

Source: PNG (Portable Network Graphics) specification, third edition (W3C), and https://cocodataset.org/#format-data.
"""

import struct
import sys
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int32, UInt8
from PIL import Image

from thingstuff.errors import InputError

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER = struct.Struct(">II5B")
_CHANNELS = {2: 3, 6: 4}
"""Channels by PNG colour type, of the types that hold ids."""
_REMEDY = "write ids as 8-bit RGB PNG: R + 256 G + 65536 B, 0 where void"


@dataclass(frozen=True, slots=True)
class PackedPng:
    """The pixels of a PNG file as they are packed in it.

    Attributes:
        size: Height and width.
        channels: 3 or 4.
        stream: The zlib stream of filtered rows, and sixteen zeros more, so that it can be read by words.
    """

    size: tuple[int, int]
    channels: int
    stream: UInt8[np.ndarray, " n"]

    @property
    def num_bytes(self) -> int:
        """Bytes that the stream unpacks to: for each row one that names its filter, then its pixels."""
        height, width = self.size
        return height * (1 + width * self.channels)


def read_packed(path: Path) -> PackedPng | None:
    """Read a PNG file without unpacking it.

    Returns:
        None where the file is anything but an intact 8-bit RGB or RGBA PNG without interlacing: ``read_ids`` reads it
        or says what is wrong.
    """
    try:
        data = path.read_bytes()
    except OSError:
        return None
    if data[:8] != _SIGNATURE:
        return None
    headers, streams = _chunks(memoryview(data))
    if len(headers) != 1 or len(headers[0]) != _HEADER.size or not streams:
        return None
    width, height, bits, color, *methods = _HEADER.unpack(headers[0])
    if bits != 8 or color not in _CHANNELS or any(methods) or not width or not height:
        return None
    stream = b"".join((*streams, bytes(16)))
    png = PackedPng((height, width), _CHANNELS[color], np.frombuffer(stream, dtype=np.uint8))
    # Deflate packs at most 1032 bytes into one: a header that promises more is damaged, and would ask for its memory.
    return png if png.num_bytes < min(1032 * len(stream), 2**31) else None


def _chunks(data: memoryview) -> tuple[list[memoryview], list[memoryview]]:
    """Contents of the header and of the pixel chunks; nothing if one of them is cut short or fails its checksum."""
    headers: list[memoryview] = []
    streams: list[memoryview] = []
    position = len(_SIGNATURE)
    while position + 12 <= len(data):
        kind = data[position + 4 : position + 8]
        end = position + 12 + int.from_bytes(data[position : position + 4], "big")
        if kind in (b"IHDR", b"IDAT"):
            if end > len(data):
                return [], []
            if zlib.crc32(data[position + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
                return [], []
            (headers if kind == b"IHDR" else streams).append(data[position + 8 : end - 4])
        elif kind == b"IEND":
            break
        position = end
    return headers, streams


def read_ids(path: Path) -> Int32[np.ndarray, "H W"]:
    """Read the id map in a PNG file.

    Raises:
        InputError: There is no such file, it is damaged, or it is not an 8-bit RGB or RGBA PNG.
    """
    try:
        # Pillow warns of large pictures, which are welcome, and of damaged side data, which is not used.
        with warnings.catch_warnings(), Image.open(path) as image:
            warnings.simplefilter("ignore")
            _check_kind(image, path)
            image.load()
            width, height = image.size
            # Pillow keeps three channels in four bytes: this is its memory as it is, the ids and a byte to mask out.
            pixels = np.frombuffer(image.tobytes("raw", "RGBX" if image.mode == "RGB" else "RGBA"), dtype="<i4")
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file; put it there or correct file_name in the JSON") from error
    except Image.UnidentifiedImageError as error:
        state = "empty" if not path.stat().st_size else "not a picture"
        raise InputError(f"{path}: the file is {state}; {_REMEDY}") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"{path}: {error}; cut the picture into tiles") from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: damaged or cut short ({reason}); write or copy the file again") from error
    if sys.byteorder == "big":
        pixels = pixels.astype(np.int32)
    return (pixels & 0xFFFFFF).reshape(height, width)


def _check_kind(image: Image.Image, path: Path) -> None:
    kind = f"{image.format} file of mode {image.mode}"
    if image.format == "PNG":
        with path.open("rb") as file:
            bits = file.read(25)[24]  # the header's bit depth, which Pillow hides
        if bits == 8 and image.mode in ("RGB", "RGBA"):
            return
        kind = f"{bits}-bit {kind}"
    raise InputError(f"{path}: this is a {kind}, which holds no segment ids; {_REMEDY}")
