"""Letters that Pillow's own font lacks: another font, else plain letters."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFont

from thingstuff import viz_names
from thingstuff.structures import Segment
from thingstuff.viz_names import font_of, legible, letters_of, shorten, write_names


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A system without fonts."""
    monkeypatch.setattr(viz_names, "_SYSTEM_FONTS", ())
    font_of.cache_clear()
    yield
    font_of.cache_clear()


def test_letters_are_each_once():
    assert letters_of(["ab", "ba", "c"]) == "abc"


def test_ascii_is_written_in_the_font_that_everybody_has():
    assert font_of(14, "".join(map(chr, range(32, 127)))).getname() == font_of(14).getname()


@pytest.mark.parametrize(("letters", "size", "asked"), [("a", 14, []), ("ab", 15, ["no", "one"]), ("abcd", 16, None)])
def test_of_the_fonts_of_the_system_the_first_that_lacks_fewest_letters_is_taken(
    bare: None, monkeypatch: pytest.MonkeyPatch, letters: str, size: int, asked: list[str] | None
):
    opened: list[str] = []
    truetype = ImageFont.truetype
    # Told apart by their size.
    fonts = {name: ImageFont.load_default(size) for name, size in (("one", 15), ("two", 16), ("three", 17))}

    def open_font(font: Any, *more: Any, **named: Any) -> Any:
        if not isinstance(font, str):
            return truetype(font, *more, **named)  # Pillow's own
        opened.append(font)
        if font not in fonts:
            raise OSError("not on this system")
        return fonts[font]

    known = {14: "a", 15: "ab", 16: "abc", 17: "abc"}
    monkeypatch.setattr(viz_names, "_SYSTEM_FONTS", ("no", "one", "two", "three"))
    monkeypatch.setattr(viz_names, "_draws", lambda font, letter: letter in known[font.size])
    monkeypatch.setattr(ImageFont, "truetype", open_font)
    assert font_of(14, letters).size == size
    assert opened == (["no", "one", "two", "three"] if asked is None else asked)


def test_without_such_a_font_letters_lose_their_marks(bare: None):
    font = font_of(14, "ßé")
    assert font.getname() == font_of(14).getname()
    assert legible("Straße Köln café Łódź", font) == "Strasse Koln cafe Lodz"
    assert shorten("Köln", font, 1000) == "Koln"
    assert legible("猫 cat", font) == "猫 cat"  # nothing to write it with


def test_names_on_pictures_are_legible(bare: None):
    pictures = []
    for name in ("Bäume", "Baume"):
        picture = Image.new("RGB", (200, 120), (90, 90, 90))
        segment = Segment(1, 1, name, False, None, 200 * 120, (0, 0, 200, 120))
        write_names(picture, np.ones((120, 200), dtype=np.int64), [segment], [name])
        pictures.append(np.asarray(picture))
    assert (pictures[0] != 90).any()
    np.testing.assert_array_equal(pictures[0], pictures[1])
