"""The run-length code of Label Studio's brush, and of its magic wand and eraser.

A message of bits, highest bit of each byte first: the number of words (32 bits), their width minus one (5 bits), four
field widths minus one (4 bits each). Then blocks until all words are there: one bit for the kind (1: one word repeated,
0: words one by one), two bits that choose a field width, a field of that width with the number of words minus one, and
the word itself or all the words. Zeros may fill up the last byte.

The words are the bytes of an RGBA picture of the annotated picture's size, row by row; what was brushed is opaque.

Source: the format of the npm package @thi.ng/rle-pack, as its documentation describes it.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, UInt8

from thingstuff.errors import InputError
from thingstuff.structures import Size

_HEADER_BITS = 32 + 5 + 4 * 4
_OPAQUE = 128
"""From here on a pixel at the smoothed edge of a stroke counts as covered."""


def decode_brush(message: Sequence[int], size: Size, where: str) -> Bool[np.ndarray, "h w"]:
    """The pixels that a brush covered.

    Args:
        message: Bytes as numbers from 0 to 255.
        size: Of the picture.
        where: What to call the object in messages.

    Raises:
        InputError: The message is damaged, or of a picture of another size.
    """
    try:
        data = bytes(message)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: rle holds something else than numbers from 0 to 255; export again") from error
    height, width = size
    values = _decode_words(data, 4 * height * width, where)
    return values.reshape(height, width, 4)[..., 3] >= _OPAQUE


def _decode_words(data: bytes, expected: int, where: str) -> UInt8[np.ndarray, " n"]:
    total = 8 * len(data)
    if total < _HEADER_BITS:
        raise InputError(f"{where}: rle is cut short after {len(data)} bytes; export again")

    def read(position: int, count: int) -> int:
        last = (position + count + 7) // 8
        return int.from_bytes(data[position // 8 : last]) >> (8 * last - position - count) & ((1 << count) - 1)

    words, word_bits = read(0, 32), read(32, 5) + 1
    if words != expected or word_bits != 8:
        raise InputError(
            f"{where}: rle holds {words} values of {word_bits} bits, but the picture has {expected} of 8 (red, green, "
            "blue and alpha of every pixel); the picture may have been replaced since, export again"
        )
    field_bits = [read(37 + 4 * choice, 4) + 1 for choice in range(4)]
    bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8))
    decoded = np.zeros(words, dtype=np.uint8)
    position, done = _HEADER_BITS, 0
    while done < words:
        # A field that begins behind the end reads as 0, so the checks below see every message that is cut short.
        count_bits = field_bits[read(position + 1, 2)] if position + 3 <= total else total
        begin = position + 3 + count_bits
        if begin + 8 > total:
            raise InputError(f"{where}: rle is cut short after {done} of {words} values; export again")
        repeated, count = read(position, 1), read(position + 3, count_bits) + 1
        end = begin + 8 * (1 if repeated else count)
        if end > total or done + count > words:
            raise InputError(f"{where}: rle is damaged after {done} of {words} values; export again")
        decoded[done : done + count] = read(begin, 8) if repeated else np.packbits(bits[begin:end])
        position, done = end, done + count
    return decoded
