"""The report page: well-formed, self-contained, escaped, with the numbers it was given."""

import base64
import io
import math
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from thingstuff import report as module
from thingstuff import report_charts
from thingstuff.errors import InputError
from thingstuff.report import ClassRow, Curve, Example, Headline, Picture, Report, Series, write_report

VOID_ELEMENTS = {"meta", "img", "line", "polyline"}


class Page(HTMLParser):
    """Collects elements and text, and fails on elements closed in another order than opened."""

    def __init__(self, path: Path):
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID_ELEMENTS:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open and data.strip():
            self.texts.append(data.strip())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def row(name: str, isthing: bool, pq: float | None = 0.4123) -> ClassRow:
    return ClassRow(name, isthing, (1, 2, 3), pq, pq and 0.75, pq and 0.55, 1234, 5, 6)


def photo(width: int = 40, height: int = 30) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def write(folder: Path, **parts) -> Page:
    path = folder / "report.html"
    write_report(path, Report("Title", "Summary.", **parts))
    return Page(path)


def test_a_full_report_is_well_formed_and_needs_nothing_from_elsewhere(tmp_path):
    page = write(
        tmp_path,
        headlines=[Headline("PQ", 0.4123), Headline("AP", None)],
        classes=[row("road", False), row("car", True)],
        examples=[Example("a.jpg", "PQ 61.3", [Picture(photo(), "picture"), Picture(photo(), "truth", "4 segments")])],
        curves=[Curve("Loss", [Series("total", [(0, 2.0), (10, 1.0)])])],
        facts=[("Parameters", "41 million")],
    )
    assert not page.all("script")
    assert not page.all("link")
    assert "http" not in page.source
    assert all((image["src"] or "").startswith("data:image/") for image in page.all("img"))
    assert page.all("html") == [{"lang": "en"}]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all("meta")
    assert "prefers-color-scheme: dark" in page.source
    for text in (
        "Title",
        "Summary.",
        "41.2",
        module.UNSEEN,
        "PQ 61.3",
        "4 segments",
        "Loss",
        "Parameters",
        "41 million",
    ):
        assert text in page.texts


def test_parts_that_are_empty_are_left_out(tmp_path):
    page = write(tmp_path)
    assert page.texts == ["Title", "Title", "Summary."]
    assert not page.all("table")
    assert not page.all("section")


def test_panoptic_quality_is_explained_where_it_is_shown(tmp_path):
    explanation = "What the numbers mean"
    assert explanation not in write(tmp_path, headlines=[Headline("box AP", 0.4), Headline("mask AP", 0.3)]).texts
    assert explanation in write(tmp_path, headlines=[Headline("PQ", 0.4)]).texts
    assert explanation in write(tmp_path, classes=[row("car", True)]).texts


def test_classes_are_grouped_and_keep_their_order(tmp_path):
    rows = [row("road", False), row("sky", False, None), row("zebra", True), row("ant", True, 0.0)]
    page = write(tmp_path, classes=rows)
    names = [text for text in page.texts if text in {"road", "sky", "zebra", "ant", "Things", "Stuff"}]
    assert names == ["Things", "zebra", "ant", "Stuff", "road", "sky"]
    table = page.texts[page.texts.index("zebra") :]
    assert table[1:7] == ["41.2", "75.0", "55.0", "1,234", "5", "6"]
    # A class that was not seen has no number; one that was seen and never found has zero.
    assert page.texts[page.texts.index("sky") :][1:4] == [module.UNSEEN] * 3
    assert page.texts[page.texts.index("ant") :][1] == "0.0"
    assert "2 classes, 1 seen" in page.texts
    assert [tr for tr in page.all("tr") if tr.get("class") == "unseen"] == [{"class": "unseen"}]


def test_bars_are_as_long_as_their_numbers(tmp_path):
    page = write(
        tmp_path, headlines=[Headline("a", 0.4123), Headline("b", None), Headline("c", 1.5), Headline("d", math.nan)]
    )
    assert [bar["style"] for bar in page.all("i")] == ["width:41.2%", "width:0.0%", "width:100.0%", "width:0.0%"]
    assert page.texts.count(module.UNSEEN) == 2


def test_every_cell_has_a_header_and_every_picture_a_text(tmp_path):
    page = write(tmp_path, classes=[row("car", True)], examples=[Example("a.jpg", "", [Picture(photo(), "picture")])])
    assert all(header.get("scope") for header in page.all("th"))
    assert [image["alt"] for image in page.all("img")] == ["picture: a.jpg"]
    assert [(image["width"], image["height"]) for image in page.all("img")] == [("40", "30")]


def test_a_legend_stands_by_the_pictures(tmp_path):
    page = write(tmp_path, classes=[row("car", True)], examples=[Example("a.jpg", "", [Picture(photo(), "picture")])])
    swatches = [span for span in page.all("span") if span.get("class") == "swatch"]
    assert [span["style"] for span in swatches] == ["background:rgb(1 2 3)"] * 2  # legend and table


NASTY = """<script>alert("x")</script> & 'quoted' </style>"""


def test_all_text_is_escaped(tmp_path):
    path = tmp_path / "report.html"
    picture = Picture(photo(), NASTY, NASTY)
    write_report(
        path,
        Report(
            NASTY,
            NASTY,
            [Headline(NASTY, 0.5)],
            [row(NASTY, True)],
            [Example(NASTY, NASTY, [picture])],
            [Curve(NASTY, [Series(NASTY, [(0, 1), (1, 2)])])],
            [(NASTY, NASTY)],
        ),
    )
    page = Page(path)
    assert not page.all("script")
    assert page.source.count("</style>") == 1
    assert page.all("img")[0]["alt"] == f"{NASTY}: {NASTY}"
    assert page.texts.count(NASTY) == 14


def test_text_that_is_no_unicode_does_not_stop_the_report(tmp_path):
    assert "&#56553;" in write(tmp_path, facts=[("File", "caf\udce9.jpg")]).source


def test_photographs_are_embedded_as_jpeg_and_maps_without_loss(tmp_path):
    ids = Image.fromarray(np.tile(np.array([[[255, 0, 0], [0, 0, 255]]], np.uint8), (8, 8, 1)))
    page = write(tmp_path, examples=[Example("a", "", [Picture(photo(), "picture"), Picture(ids, "truth")])])
    (jpeg, png) = (image["src"] or "" for image in page.all("img"))
    assert jpeg.startswith("data:image/jpeg;base64,")
    assert png.startswith("data:image/png;base64,")
    decoded = Image.open(io.BytesIO(base64.b64decode(png.split(",")[1])))
    np.testing.assert_array_equal(np.asarray(decoded), np.asarray(ids))


def test_pictures_on_disk_are_linked_relative_to_the_page(tmp_path):
    (tmp_path / "pictures").mkdir()
    linked = tmp_path / "pictures" / "a #1 'b' 50%.png"
    photo(12, 9).save(linked)
    page = write(tmp_path / "pages" / "new", examples=[Example("a", "", [Picture(linked, "picture")])])
    (image,) = page.all("img")
    source = unquote(image["src"] or "")
    assert source == "../../pictures/a #1 'b' 50%.png"
    assert (tmp_path / "pages" / "new" / source).resolve() == linked.resolve()
    assert (image["width"], image["height"]) == ("12", "9")


def test_a_linked_picture_has_to_exist_and_be_one(tmp_path):
    for name, content, message in (("gone.png", None, "no such picture"), ("broken.png", b"text", "cannot be read")):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=rf"{name}: {message}"):
            write(tmp_path, examples=[Example("a", "", [Picture(tmp_path / name, "picture")])])
    assert not (tmp_path / "report.html").exists()


# --- charts ---


def polylines(page: Page) -> list[list[tuple[float, float]]]:
    return [
        [(float(x), float(y)) for x, y in (point.split(",") for point in (line["points"] or "").split())]
        for line in page.all("polyline")
    ]


def test_a_line_runs_from_corner_to_corner_of_round_ticks(tmp_path):
    page = write(tmp_path, curves=[Curve("PQ", [Series("", [(0, 0.0), (100, 1.0)])])])
    assert polylines(page) == [[(52.0, 210.0), (490.0, 10.0)]]
    for tick in ("0", "20", "40", "60", "80", "100", "0.2", "0.8", "1"):
        assert tick in page.texts


def test_values_that_are_not_finite_leave_a_gap_and_a_lone_point_is_a_dot(tmp_path):
    points = [(0, 1.0), (1, 2.0), (2, math.nan), (3, 3.0), (4, math.inf), (5, math.nan)]
    first, second = polylines(write(tmp_path, curves=[Curve("Loss", [Series("a", points)])]))
    assert len(first) == 2
    assert len(second) == 2
    assert second[0] == second[1]


def test_long_series_are_thinned_and_keep_both_ends(tmp_path):
    points = [(float(step), float(step)) for step in range(100_001)]
    (line,) = polylines(write(tmp_path, curves=[Curve("Loss", [Series("a", points)])]))
    assert 300 <= len(line) <= 602
    assert line[0] == (52.0, 210.0)
    assert line[-1] == (490.0, 10.0)


def test_lines_have_a_colour_each_and_a_key(tmp_path):
    series = [Series(f"line {n}", [(0, n), (1, n + 1)]) for n in range(7)]
    page = write(tmp_path, curves=[Curve("Loss", series)])
    colours = [line["class"] for line in page.all("polyline")]
    assert colours == [f"series-{n}" for n in (0, 1, 2, 3, 4, 5, 0)]
    assert [key["class"] for key in page.all("i")] == colours
    assert all(f".{colour} {{" in page.source for colour in colours)


@pytest.mark.parametrize("points", [[], [(0, math.nan)]])
def test_a_curve_without_values_is_left_out(tmp_path, points):
    page = write(tmp_path, curves=[Curve("Loss", [Series("a", points)])])
    assert not page.all("svg")
    assert "Training" not in page.texts


@given(st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=20))
@example([0.0, 5e-324])
@example([1e-323])
@example([7.0, 7.0])
def test_ticks_span_the_values_with_few_round_steps(values):
    ticks = report_charts._ticks(values)
    slack = 1e-6 * (ticks[-1] - ticks[0])
    assert ticks[0] - slack <= min(values)
    assert max(values) <= ticks[-1] + slack
    assert 2 <= len(ticks) <= 8
    assert all(low < high for low, high in pairwise(ticks))


def test_rewriting_replaces_the_page(tmp_path):
    write(tmp_path, facts=[("Old", "fact")])
    assert "Old" not in write(tmp_path, facts=[("New", "fact")]).texts


def test_the_style_sheet_knows_every_class_of_the_page(tmp_path):
    page = write(
        tmp_path,
        headlines=[Headline("PQ", 0.4)],
        classes=[row("road", False, None), row("car", True)],
        examples=[Example("a.jpg", "n", [Picture(photo(), "picture", "n")])],
        curves=[Curve("Loss", [Series("total", [(0, 2.0), (10, 1.0)])])],
        facts=[("a", "b")],
    )
    used = {name for _, attributes in page.elements for name in (attributes.get("class") or "").split()}
    style = page.source.split("</style>")[0]
    assert {name for name in used if not re.search(rf"\.{name}\b", style)} <= {"pq"}  # pq has the colour of every bar
