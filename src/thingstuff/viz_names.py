"""Names on pictures: where they may stand, and how they are written."""

import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from PIL import Image, ImageDraw, ImageFont

from thingstuff.errors import InputError
from thingstuff.structures import Segment

_COARSE_PIXELS = 100_000
"""Size of the reduced map on which places for names are searched."""
_SYSTEM_FONTS = (
    *("DejaVuSans.ttf", "NotoSans-Regular.ttf", "segoeui.ttf", "arial.ttf", "Arial.ttf", "Arial Unicode.ttf"),
    *("NotoSansCJK-Regular.ttc", "msyh.ttc", "YuGothM.ttc", "malgun.ttf", "PingFang.ttc", "AppleSDGothicNeo.ttc"),
    *("wqy-microhei.ttc", "wqy-zenhei.ttc", "DroidSansFallbackFull.ttf", "Nirmala.ttf", "NotoSansArabic-Regular.ttf"),
)
"""Where Pillow's own font, which has little more than ASCII, does not do: of Linux, Windows and macOS."""
_WITHOUT_MARKS = {"ß": "ss", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "æ": "ae", "Æ": "AE", "đ": "d"}
"""Plain forms that Unicode does not know of."""
_NOWHERE = "\uffff"
_INSIDE = 0.7
"""Share of a name's tag that has to lie on its own segment."""


class Tags:
    """Names on a picture, of which none covers another.

    Args:
        picture: RGB; drawn on in place.
        names: All that may be written.
    """

    def __init__(self, picture: Image.Image, names: Iterable[str]):
        self.pen = ImageDraw.Draw(picture, "RGBA")
        self.size = picture.size
        base = font_size((picture.height, picture.width))
        letters = letters_of(names)
        self.fonts = (font_of(base, letters), font_of(max(11, round(0.8 * base)), letters))
        self.placed: list[tuple[int, int, int, int]] = []

    def extent(self, text: str, font: ImageFont.FreeTypeFont) -> tuple[int, int]:
        """Width and height of the tag of ``text``."""
        return round(font.getlength(text) + 0.6 * font.size), round(1.35 * font.size)

    def boxes(self, centers: Float[np.ndarray, "k 2"], extent: tuple[int, int]) -> Int[np.ndarray, "k 4"]:
        """Tags around ``centers`` (x, y), moved into the picture."""
        half = np.array(extent) / 2
        first = np.clip(np.rint(centers - half), 0, np.maximum(np.array(self.size) - extent, 0)).astype(np.int64)
        return np.concatenate([first, first + extent], axis=1)

    def free(self, boxes: Int[np.ndarray, "k 4"]) -> Bool[np.ndarray, " k"]:
        """Which tags lie in the picture and cover no name written before."""
        inside = np.all(boxes[:, 2:] <= self.size, axis=1)
        placed = np.array(self.placed, dtype=np.int64).reshape(-1, 1, 4)
        apart = (placed[..., :2] >= boxes[:, 2:]) | (placed[..., 2:] <= boxes[:, :2])
        return np.logical_and(inside, np.all(apart.any(axis=2), axis=0))

    def write(self, text: str, font: ImageFont.FreeTypeFont, box: Int[np.ndarray, "4"]) -> None:
        """Write ``text`` into ``box``, light on a translucent dark tag: readable on any ground."""
        left, top, right, bottom = box.tolist()
        self.placed.append((left, top, right, bottom))
        self.pen.rounded_rectangle((left, top, right - 1, bottom - 1), font.size // 4, fill=(12, 14, 20, 165))
        center = ((left + right) / 2, (top + bottom) / 2)
        self.pen.text(center, text, fill=(255, 255, 255, 255), font=font, anchor="mm")

    def write_at_box(self, text: str, corners: Int[np.ndarray, "2 2"]) -> None:
        """Write ``text`` over, in or under the box of an object, at the first of these places that is free."""
        font = self.fonts[1]
        text = legible(text, font)
        width, height = self.extent(text, font)
        (left, top), (_, bottom) = corners.tolist()
        middles = [
            (left + width / 2, y + sign * height / 2) for y, sign in ((top, -1), (top, 1), (bottom, -1), (bottom, 1))
        ]
        boxes = self.boxes(np.array(middles), (width, height))
        for row in np.flatnonzero(self.free(boxes))[:1]:
            self.write(text, font, boxes[row])


def write_names(
    picture: Image.Image, index: Int[np.ndarray, "H W"], segments: Sequence[Segment], names: Iterable[str]
) -> None:
    """Write on every segment that is large enough, large ones first, where it is thickest.

    Args:
        picture: RGB; drawn on in place.
        index: 1 + position in ``segments`` of every pixel; 0 is void.
        segments: What to name.
        names: Of all classes, so that all pictures of a data set have one font.
    """
    step = int(np.ceil(np.sqrt(index.size / _COARSE_PIXELS)))
    coarse = index[::step, ::step]
    depth = _depth(coarse)
    pixels = np.argsort(coarse, axis=None, kind="stable")
    starts = np.searchsorted(coarse.ravel()[pixels], np.arange(len(segments) + 2))
    tags = Tags(picture, names)
    for row in 1 + np.argsort(-np.diff(starts)[1:], kind="stable"):
        own, segment = pixels[starts[row] : starts[row + 1]], segments[row - 1]
        if not own.size or 2 * step * depth.ravel()[own].max() < tags.fonts[1].size:
            continue
        places = _places(own, depth)
        name = legible(segment.name, tags.fonts[0])
        full = name if segment.score is None else f"{name} {segment.score:.0%}"
        for text, font in ((full, tags.fonts[0]), (full, tags.fonts[1]), (name, tags.fonts[1])):
            boxes = tags.boxes((places + 0.5) * step, tags.extent(text, font))
            share = np.where(tags.free(boxes), _share_inside(boxes, coarse == row, step), 0)
            if share.max() >= _INSIDE:
                tags.write(text, font, boxes[share.round(1).argmax()])
                break


def _depth(index: Int[np.ndarray, "h w"]) -> Int[np.ndarray, "h w"]:
    """Chessboard distance of every pixel to the nearest pixel of another segment or outside the picture."""
    alive = np.pad(index, 1, constant_values=-1)
    depth = np.zeros(index.shape, dtype=np.int32)
    while (remaining := alive[1:-1, 1:-1] >= 0).any():
        depth += remaining
        same = (alive[:, 2:] == alive[:, 1:-1]) & (alive[:, :-2] == alive[:, 1:-1])
        alive[:, 1:-1] = np.where(same, alive[:, 1:-1], -1)
        same = (alive[2:] == alive[1:-1]) & (alive[:-2] == alive[1:-1])
        alive[1:-1] = np.where(same, alive[1:-1], -1)
    return depth


def _places(pixels: Int[np.ndarray, " n"], depth: Int[np.ndarray, "h w"]) -> Float[np.ndarray, "k 2"]:
    """Points (x, y) of a segment where a name may stand, the best first: deep inside, near the middle of the depths."""
    depths = depth.ravel()[pixels]
    points = np.stack([pixels % depth.shape[1], pixels // depth.shape[1]], axis=1).astype(float)
    middle = points[depths == depths.max()].mean(axis=0)
    deep = np.flatnonzero(2 * depths >= depths.max())
    best = deep[np.lexsort((np.abs(points[deep] - middle).sum(axis=1), -depths[deep]))]
    return points[best[np.unique(np.linspace(0, len(best) - 1, 48).astype(int))]]


def _share_inside(boxes: Int[np.ndarray, "k 4"], mask: Bool[np.ndarray, "h w"], step: int) -> Float[np.ndarray, " k"]:
    """Share of each box that lies on the mask, from a grid of 9 x 3 samples."""
    x = (boxes[:, :1] + (boxes[:, 2:3] - boxes[:, :1]) * np.linspace(0.02, 0.98, 9)).astype(int) // step
    y = (boxes[:, 1:2] + (boxes[:, 3:] - boxes[:, 1:2]) * np.linspace(0.1, 0.9, 3)).astype(int) // step
    x, y = x.clip(max=mask.shape[1] - 1), y.clip(max=mask.shape[0] - 1)
    return mask[y[:, :, None], x[:, None, :]].mean(axis=(1, 2))


def letters_of(texts: Iterable[str]) -> str:
    """The different letters of some texts."""
    return "".join(sorted(set("".join(texts))))


@lru_cache(maxsize=64)
def font_of(size: int, letters: str = "") -> ImageFont.FreeTypeFont:
    """A font in which names can be written: Pillow's own, or one of the system where that lacks letters.

    Args:
        size: In pixels.
        letters: What it is to write; of fonts that lack some, the one that lacks fewest is taken.

    Raises:
        InputError: Pillow was built without FreeType.
    """
    own = ImageFont.load_default(size)
    if not isinstance(own, ImageFont.FreeTypeFont):
        raise InputError("this Pillow lacks FreeType, which draws the names; run pip install --force-reinstall pillow")
    best, fewest = own, _count_lacking(own, letters)
    for name in _SYSTEM_FONTS:
        if not fewest:
            break
        try:
            font = ImageFont.truetype(name, size)
        except OSError:
            continue  # not on this system
        if (lacking := _count_lacking(font, letters)) < fewest:
            best, fewest = font, lacking
    return best


def legible(text: str, font: ImageFont.FreeTypeFont) -> str:
    """A text with letters that the font lacks written plainly, é as e; what has no plain form stays."""
    return "".join(letter if _draws(font, letter) else _plain(letter) or letter for letter in text)


def _plain(letter: str) -> str:
    apart = unicodedata.normalize("NFKD", _WITHOUT_MARKS.get(letter, letter))
    return "".join(part for part in apart if part.isascii())


def _count_lacking(font: ImageFont.FreeTypeFont, letters: str) -> int:
    return sum(not _draws(font, letter) for letter in letters)


@lru_cache(maxsize=4096)
def _draws(font: ImageFont.FreeTypeFont, letter: str) -> bool:
    """Whether a font has a letter: the ones it lacks all look like one that no font has."""
    drawn: tuple[Any, Any] = font.getmask(letter), font.getmask(_NOWHERE)
    return letter.isspace() or bytes(drawn[0]) != bytes(drawn[1])


def font_size(size: Sequence[int]) -> int:
    """Height of letters that suits a picture of ``size`` (height, width)."""
    return int(np.clip(round(5 + 0.019 * min(size)), 11, 48))


def shorten(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Make ``text`` legible, and cut it so that it is at most ``width`` pixels wide."""
    text = legible(text, font)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
