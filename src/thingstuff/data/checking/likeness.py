"""Pictures that look alike: a difference hash and the search for pairs.

Source: N. Krawetz, "Kind of Like That" (2013), hackerfactor.com/blog/index.php?/archives/529-Kind-of-Like-That.html,
here in both directions, so 128 bits; a pair also needs thumbnails that correlate, because the hashes of pictures with
little in them agree by chance.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

SIDE = 9
"""Rows and columns of a thumbnail."""
MOST_BITS = 20
"""Bits of 128 in which the hashes of pictures that look alike differ at most."""
LEAST_CORRELATION = 0.95
"""Correlation that their thumbnails have at least."""
PLAIN = 1.0
"""Standard deviation in grey levels below which a thumbnail shows nothing to tell pictures apart."""
_PAIRS_AT_ONCE = 2**23


def thumbnail(image: Image.Image) -> UInt8[np.ndarray, "9 9"]:
    """All that is kept of a picture to find it again: its mean grey levels on a grid."""
    if image.mode.startswith("I;16"):
        # Pillow would cut grey levels over 255 off.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX))


def find_alike(first: UInt8[np.ndarray, "n 9 9"], second: UInt8[np.ndarray, "m 9 9"]) -> Iterator[tuple[int, int, int]]:
    """All pairs of a picture of ``first`` and one of ``second`` that look alike: both rows, and bits that differ."""
    if not len(first) or not len(second):
        return
    # The product of two hashes of signs is 128 minus twice their distance: the exact search is one matrix product.
    hashes, others = _hashes(first), _hashes(second)
    tones, other_tones = _tones(first), _tones(second)
    step = max(1, _PAIRS_AT_ONCE // len(second))
    for start in range(0, len(first), step):
        products = hashes[start : start + step] @ others.T
        rows, columns = np.nonzero(products >= others.shape[1] - 2 * MOST_BITS)
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
            if float(tones[start + row] @ other_tones[column]) >= LEAST_CORRELATION:
                yield start + row, column, round((others.shape[1] - float(products[row, column])) / 2)


def _hashes(thumbnails: UInt8[np.ndarray, "n 9 9"]) -> Float32[np.ndarray, "n 128"]:
    """Whether each grey level is above that of its right and its lower neighbour, as 1 or -1."""
    across = thumbnails[:, :-1, 1:] > thumbnails[:, :-1, :-1]
    down = thumbnails[:, 1:, :-1] > thumbnails[:, :-1, :-1]
    bits = np.concatenate([part.reshape(len(thumbnails), -1) for part in (across, down)], axis=1)
    return np.where(bits, np.float32(1), np.float32(-1))


def _tones(thumbnails: UInt8[np.ndarray, "n 9 9"]) -> Float32[np.ndarray, "n 81"]:
    """Vectors whose product is the correlation of two thumbnails; 0 for a plain picture, which shows nothing."""
    levels = thumbnails.reshape(len(thumbnails), -1).astype(np.float32)
    tones = levels - levels.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(tones, axis=1, keepdims=True)
    plain = lengths < SIDE * PLAIN
    return np.where(plain, 0, tones / np.where(plain, 1, lengths)).astype(np.float32)
