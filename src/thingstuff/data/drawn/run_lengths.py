"""Masks as COCO's run lengths: down the columns, the first run of False.

Source: https://github.com/cocodataset/cocoapi, the format of ``maskApi``.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Int64

from thingstuff.errors import InputError
from thingstuff.structures import Size


def read_run_lengths(segmentation: Any, size: Size, where: str) -> Bool[np.ndarray, "H W"]:
    """The mask that a run-length encoding stands for.

    Args:
        segmentation: What the file has: ``size`` (height, width) and ``counts``, a list of lengths or a text.
        size: Of the picture.
        where: File and annotation, for messages.

    Raises:
        InputError: It is something else, or of another size.
    """
    if not isinstance(segmentation, dict) or "counts" not in segmentation:
        raise InputError(f"{where}: its segmentation is no run-length encoding; it needs 'size' and 'counts'")
    if segmentation.get("size") != list(size):
        raise InputError(
            f"{where}: its run lengths are of size {segmentation.get('size')!r}, the picture of {list(size)} "
            "(height, width); is it of another picture?"
        )
    counts = segmentation["counts"]
    lengths = decompress(counts, where) if isinstance(counts, str) else _whole_numbers(counts, where)
    total = size[0] * size[1]
    if (lengths < 0).any() or (lengths > total).any() or int(lengths.sum()) != total:
        raise InputError(f"{where}: its run lengths do not add up to the picture's {total} pixels; export it again")
    values = np.arange(len(lengths)) % 2 == 1
    return np.repeat(values, lengths).reshape(size, order="F")


def decompress(text: str, where: str) -> Int64[np.ndarray, " n"]:
    """The lengths in COCO's compressed form.

    Each number is written in groups of five bits, lowest first, a sixth bit says that more follow, and 48 makes a
    character of it; the highest bit of the last group is the sign. From the fourth number on, what is written is the
    difference to the one before the last.

    Raises:
        InputError: The text has a character that cannot stand in it, or is cut short.
    """
    groups = np.frombuffer(text.encode("utf-8", "surrogatepass"), dtype=np.uint8).astype(np.int64) - 48
    ends = (groups & 32) == 0
    if not groups.size or groups.min() < 0 or groups.max() > 63 or not ends[-1]:
        raise InputError(f"{where}: its compressed run lengths are damaged or cut short; export it again")
    numbers = np.cumsum(ends) - ends
    begins = np.flatnonzero(np.diff(numbers, prepend=-1))
    places = np.arange(len(groups)) - begins[numbers]
    if places.max() > 6:
        raise InputError(f"{where}: a number in its compressed run lengths is too long; export it again")
    lengths = np.zeros(len(begins), dtype=np.int64)
    np.add.at(lengths, numbers, (groups & 31) << 5 * places)
    negative = (groups[ends] & 16) != 0
    lengths -= np.where(negative, np.int64(1) << 5 * (places[ends] + 1), 0)
    lengths[1::2] = np.cumsum(lengths[1::2])
    lengths[2::2] = np.cumsum(lengths[2::2])
    return lengths


def _whole_numbers(counts: Any, where: str) -> Int64[np.ndarray, " n"]:
    numbers = isinstance(counts, list) and all(isinstance(c, int | float) and abs(c) < 2**53 for c in counts)
    if not numbers or not all(float(count).is_integer() for count in counts):
        raise InputError(f"{where}: its counts are neither a list of whole numbers nor a text; export it again")
    return np.array(counts, dtype=np.int64)
