"""The page and the sheet of a checked data set."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from thingstuff.browse import ShownData, show_data
from thingstuff.data.checking.check import check_data
from thingstuff.errors import InputError
from thingstuff.structures import encode_ids

CATEGORIES = [
    {"id": 3, "name": "road & path", "isthing": 0, "color": [90, 90, 90]},
    {"id": 1, "name": "person", "isthing": 1, "color": [0, 0, 255]},
    {"id": 2, "name": "dog", "isthing": 1},
]
NAMES = ("clean", "area", "unlisted", "bare")


def write_data(root: Path, width: int = 30, height: int = 20) -> Path:
    """Four pictures: a clean one, one with a wrong area, one with an id that is not listed, one without labels."""
    (root / "panoptic_val").mkdir(parents=True)
    (root / "images").mkdir()
    images, annotations = [], []
    for number, name in enumerate(NAMES):
        ids = np.full((height, width), 2, dtype=np.int32)
        ids[height // 4 : height // 2, 4 : width // 2] = 1
        person = int((ids == 1).sum())
        segments: list[dict[str, Any]] = [
            {
                "id": 1,
                "category_id": 1,
                "area": person,
                "bbox": [4, height // 4, width // 2 - 4, height // 2 - height // 4],
                "iscrowd": 0,
            },
            {"id": 2, "category_id": 3, "area": height * width - person, "bbox": [0, 0, width, height], "iscrowd": 0},
        ]
        if name == "area":
            segments[0]["area"] += 1
        elif name == "unlisted":
            segments.pop(0)
        elif name == "bare":
            ids[:], segments = 0, []
        Image.fromarray(encode_ids(ids)).save(root / f"panoptic_val/{name}.png")
        noise = np.random.default_rng(number).integers(100, 140, (height, width, 3), dtype=np.uint8)
        Image.fromarray(noise).save(root / f"images/{name}.png")
        images.append({"id": number, "file_name": f"{name}.png", "height": height, "width": width})
        annotations.append({"image_id": number, "file_name": f"{name}.png", "segments_info": segments})
    document = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    (root / "panoptic_val.json").write_text(json.dumps(document))
    return root


def show(root: Path, out: Path, **options: Any) -> ShownData:
    return show_data(check_data(root, workers=1), out, **options)


class Parsed(HTMLParser):
    """Checks that tags are closed in order, and keeps their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def all(self, tag: str, css: str = "") -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag and css in (attrs.get("class") or "").split(" ")]


def captions(text: str) -> list[str]:
    return re.findall(r"<span class='caption'>(.*?)</span>", text)


def test_the_worst_come_first_with_their_findings(tmp_path):
    shown = show(write_data(tmp_path / "data"), tmp_path / "out")
    assert (shown.drawn, shown.pictures) == (4, 4)
    text = shown.page.read_text()
    # One error and a note each, by order; then a warning; then none.
    assert captions(text) == ["unlisted.png", "area.png", "bare.png", "clean.png"]
    cards = Parsed(text).all("figure", "shown")
    assert [card["data-kinds"] for card in cards] == ["unlisted-id no-thing", "wrong-area", "nothing-labelled", ""]
    assert [card["data-classes"] for card in cards] == ["3", "1 3", "", "1 3"]
    assert [(card["class"] or "").split()[-1] for card in cards] == ["error", "error", "warning", "clean"]
    assert "segment 1: the JSON file says 56, counted 55" in text


def test_every_picture_on_the_page_is_there_and_as_large_as_it_says(tmp_path):
    shown = show(write_data(tmp_path / "data"), tmp_path / "out")
    pictures = Parsed(shown.page.read_text()).all("img", "photo") + Parsed(shown.page.read_text()).all("img", "drawing")
    assert len(pictures) == 8
    for picture in pictures:
        with Image.open(tmp_path / "out" / str(picture["src"])) as image:
            assert image.size == (int(str(picture["width"])), int(str(picture["height"])))


def test_buttons_count_the_pictures(tmp_path):
    text = show(write_data(tmp_path / "data"), tmp_path / "out").page.read_text()
    buttons = Parsed(text).all("button")
    # No button for the dog, which is in no picture.
    assert [button["data-class"] for button in buttons if "data-class" in button] == ["1", "3"]
    assert "road &amp; path <small>3</small>" in text
    assert "person <small>2</small>" in text
    assert "wrong-area <small>1</small>" in text
    assert "a category has no segment in any split" in text


def test_what_is_not_listed_is_magenta(tmp_path):
    out = show(write_data(tmp_path / "data", 400, 300), tmp_path / "out", limit=1).page.parent
    drawing = np.asarray(Image.open(out / "pictures/0001.jpg")).astype(int)
    red, green, blue = drawing[100 * drawing.shape[0] // 300, 20 * drawing.shape[1] // 400]
    assert min(red, blue) > green + 60


def test_limit_and_classes(tmp_path):
    data = write_data(tmp_path / "data")
    shown = show(data, tmp_path / "out", classes=["person"], limit=1)
    assert (shown.drawn, shown.pictures) == (1, 2)
    text = shown.page.read_text()
    assert captions(text) == ["area.png"]
    assert "1 of 2 pictures with person" in text
    nothing = show(data, tmp_path / "none", classes=["dog"])
    assert (nothing.drawn, nothing.pictures) == (0, 0)
    assert "There is none to show" in nothing.page.read_text()
    with pytest.raises(InputError, match="did you mean person"):
        show(data, tmp_path / "out", classes=["persons"])


def test_broken_files_are_shown_as_far_as_they_go(tmp_path):
    data = write_data(tmp_path / "data")
    (data / "images/area.png").unlink()
    (data / "panoptic_val/clean.png").write_bytes(b"")
    (data / "images/bare.png").write_bytes(b"")
    (data / "panoptic_val/bare.png").unlink()
    Image.new("RGB", (77, 33)).save(data / "images/unlisted.png")
    shown = show(data, tmp_path / "out")
    assert shown.drawn == 4
    Parsed(shown.page.read_text())


def test_large_pictures_are_drawn_smaller(tmp_path):
    shown = show(write_data(tmp_path / "data", 1200, 600), tmp_path / "out", limit=1)
    with Image.open(shown.page.parent / "pictures/0001.jpg") as image:
        assert image.size == (960, 480)


def test_names_cannot_break_the_page(tmp_path):
    data = write_data(tmp_path / "data")
    name = "<script>alert('x')</script>&\".png"
    document = json.loads((data / "panoptic_val.json").read_text())
    document["images"][1]["file_name"] = name
    document["categories"][1]["name"] = "<b>person</b>"
    (data / "panoptic_val.json").write_text(json.dumps(document))
    text = show(data, tmp_path / "out").page.read_text()
    assert text.count("<script>") == 1
    assert "<b>person" not in text
    Parsed(text)


def test_sheet(tmp_path):
    shown = show(write_data(tmp_path / "data"), tmp_path / "out")
    with Image.open(shown.sheet) as image:
        sheet = np.asarray(image.convert("RGB")).astype(int)
    # Four cells in a row; their frames are red, red, orange and grey.
    assert sheet.shape[1] == 14 + 4 * 270
    frames = [sheet[58 + 96, 14 + column * 270 + 1] for column in range(4)]
    for frame, color in zip(frames, [(214, 48, 62), (214, 48, 62), (222, 142, 22), (214, 219, 226)], strict=True):
        np.testing.assert_allclose(frame, color, atol=30)
    # Below them, the classes in their colours, as many beside each other as there is room for.
    classes = sheet[58 + 192 + 26 + 14 :]
    for position, category in enumerate(CATEGORIES[:2]):
        np.testing.assert_allclose(classes[13, 14 + 7 + 230 * position], category["color"], atol=30)


def test_one_split_with_everything_missing(tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    (root / "panoptic_val.json").write_text("{}")
    shown = show(root, tmp_path / "out")
    assert shown.drawn == 0
    assert "unreadable-json" in shown.page.read_text()
