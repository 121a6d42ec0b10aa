import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from thingstuff.data.checking.likeness import MOST_BITS, find_alike, thumbnail


def photograph(seed: int, size: tuple[int, int] = (200, 150)) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


def stacked(*images: Image.Image) -> np.ndarray:
    return np.stack([thumbnail(image) for image in images])


CHANGES = {
    "the same": lambda image: image,
    "packed again": lambda image: as_jpeg(image, 30),
    "half the size": lambda image: image.resize((100, 75)),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.15),
    "less contrast": lambda image: ImageEnhance.Contrast(image).enhance(0.8),
    "grey": lambda image: image.convert("L"),
    "a rim cut off": lambda image: image.crop((2, 2, 198, 148)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changed_pictures_are_found_and_no_others(change):
    originals = [photograph(seed) for seed in range(20)]
    pairs = list(find_alike(stacked(*map(change, originals)), stacked(*originals)))
    assert [(row, column) for row, column, _ in pairs] == [(row, row) for row in range(20)]
    assert all(0 <= distance <= MOST_BITS for _, _, distance in pairs)


def test_mirrored_and_turned_pictures_are_others():
    image = photograph(0)
    others = [image.transpose(way) for way in (Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180)]
    assert not list(find_alike(stacked(image), stacked(*others)))


def test_plain_pictures_are_like_nothing():
    plain = [Image.new("RGB", (50, 40), (grey, grey, grey)) for grey in (0, 0, 120)]
    assert not list(find_alike(stacked(*plain), stacked(*plain)))


def test_sixteen_bits_and_eight_bits_of_a_picture_are_alike():
    grey = np.asarray(photograph(1).convert("L"))
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    assert deep.mode == "I;16"
    np.testing.assert_array_equal(thumbnail(deep), thumbnail(Image.fromarray(grey)))


def test_distance_by_hand():
    """A slope down to the right: no bit is set. One pixel raised turns the two bits where it is the larger one."""
    slope = 200 - 8 * np.add.outer(np.arange(9), np.arange(9)).astype(np.uint8)
    bumped = slope.copy()
    bumped[4, 4] += 10
    assert list(find_alike(slope[None], slope[None])) == [(0, 0, 0)]
    assert list(find_alike(slope[None], bumped[None])) == [(0, 0, 2)]


@given(st.integers(0, 6), st.integers(0, 6), st.integers(0, 1000))
def test_the_search_is_exact(n, m, seed):
    """As by comparing every pair bit by bit."""
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 256, (1, 9, 9))
    first, second = (np.clip(base + rng.integers(-25, 26, (count, 9, 9)), 0, 255).astype(np.uint8) for count in (n, m))

    def bits(thumb: np.ndarray) -> np.ndarray:
        across, down = thumb[:-1, 1:] > thumb[:-1, :-1], thumb[1:, :-1] > thumb[:-1, :-1]
        return np.concatenate([across.ravel(), down.ravel()])

    expected = []
    for row in range(n):
        for column in range(m):
            distance = int((bits(first[row]) != bits(second[column])).sum())
            correlation = np.corrcoef(first[row].ravel(), second[column].ravel())[0, 1]
            if distance <= MOST_BITS and correlation >= 0.95:
                expected.append((row, column, distance))
    assert list(find_alike(first, second)) == expected


def test_many_pictures_are_searched_in_parts(monkeypatch):
    thumbs = np.random.default_rng(0).integers(0, 256, (40, 9, 9), dtype=np.uint8)
    whole = list(find_alike(thumbs, thumbs))
    monkeypatch.setattr("thingstuff.data.checking.likeness._PAIRS_AT_ONCE", 100)
    assert list(find_alike(thumbs, thumbs)) == whole
    assert len(whole) == 40
