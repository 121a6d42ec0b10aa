"""A report on a model as one HTML page: numbers, classes, pictures, curves and facts, without any script.

The page knows nothing of how its numbers came about: the caller fills a ``Report``.
"""

import base64
import io
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from thingstuff.errors import InputError
from thingstuff.report_charts import Curve, Series, draw_curves

__all__ = ["ClassRow", "Curve", "Example", "Headline", "Picture", "Report", "Series", "write_report"]

UNSEEN = "\N{EN DASH}"
"""Stands for a number that does not exist, as the PQ of a class that never occurred."""
_JPEG_QUALITY = 88


# --- what a report says ---


@dataclass(frozen=True, slots=True)
class Headline:
    """One large number.

    Attributes:
        name: For example ``PQ things``.
        value: Fraction from 0 to 1, shown as percent; None where it does not exist.
    """

    name: str
    value: float | None


@dataclass(frozen=True, slots=True)
class ClassRow:
    """Panoptic quality of one class.

    Attributes:
        name: Name of the class.
        isthing: A countable object, not amorphous stuff.
        color: RGB.
        pq: Panoptic quality from 0 to 1; None, as the next two, where the class neither occurred nor was predicted.
        sq: Segmentation quality.
        rq: Recognition quality.
        tp: Matched segments.
        fp: Predicted segments without a match.
        fn: True segments without a match.
    """

    name: str
    isthing: bool
    color: tuple[int, int, int]
    pq: float | None
    sq: float | None
    rq: float | None
    tp: int
    fp: int
    fn: int


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture of an example.

    Attributes:
        image: A picture in memory is embedded in the page; one on disk is linked, by its path relative to the page.
        caption: What it shows, for example ``prediction``.
        note: More about it, or nothing.
    """

    image: Image.Image | Path
    caption: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Example:
    """What belongs to one picture of the data set: most often picture, truth and prediction.

    Attributes:
        caption: For example the file name.
        note: For example ``PQ 61.3``.
        pictures: Shown side by side, one below the other on a narrow screen.
    """

    caption: str
    note: str
    pictures: Sequence[Picture]


@dataclass(frozen=True, slots=True)
class Report:
    """Everything on the page, top to bottom; a part that is empty is left out.

    Attributes:
        title: Title of the page.
        summary: One paragraph: what was done.
        headlines: The numbers that matter most, the first of them largest.
        classes: In class order; the page groups them into things and stuff.
        examples: Pictures.
        curves: Charts of the training.
        facts: Name and value, for example ``("Parameters", "41 million")``.
    """

    title: str
    summary: str
    headlines: Sequence[Headline] = ()
    classes: Sequence[ClassRow] = ()
    examples: Sequence[Example] = ()
    curves: Sequence[Curve] = ()
    facts: Sequence[tuple[str, str]] = ()


def write_report(path: Path, report: Report) -> None:
    """Write a report as one HTML file, replacing it if it exists.

    Args:
        path: The file, usually ``report.html``; its folder is made if need be.
        report: What to say.

    Raises:
        InputError: A linked picture does not exist or cannot be read.
    """
    body = "\n".join(
        part
        for part in (
            f"<header>\n<h1>{_text(report.title)}</h1>\n<p class='summary'>{_text(report.summary)}</p>\n</header>",
            _headlines(report.headlines),
            _examples(report.examples, report.classes, path.parent),
            _classes(report.classes),
            draw_curves(report.curves),
            _TERMS if report.classes or {"PQ", "SQ", "RQ"} & {tile.name for tile in report.headlines} else "",
            _facts(report.facts),
        )
        if part
    )
    style = files("thingstuff").joinpath("report.css").read_text(encoding="utf-8")
    page = (
        "<!doctype html>\n<html lang='en'>\n<head>\n<meta charset='utf-8'>\n"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>\n"
        f"<title>{_text(report.title)}</title>\n<style>\n{style}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    # File names may hold bytes that are no text; they must not keep a report from being written.
    path.write_text(page, encoding="utf-8", errors="xmlcharrefreplace")


# --- parts of the page ---

_TERMS = """<section>
<h2>What the numbers mean</h2>
<p>A predicted segment counts as found when it covers a true segment of its class with an overlap (intersection over
union) above one half. All three numbers run from 0 to 100, and 100 is perfect.</p>
<dl class='terms'>
<div class='card'><dt>SQ · how well it is drawn</dt><dd>Segmentation quality: the mean overlap of the segments that were
found.</dd></div>
<div class='card'><dt>RQ · how well it is found</dt><dd>Recognition quality: the share of segments that were found,
where missed ones (FN) and invented ones (FP) count half each. This is the F<sub>1</sub> score.</dd></div>
<div class='card'><dt>PQ · both together</dt><dd>Panoptic quality: SQ times RQ, computed for each class and then
averaged over the classes, so that a rare class weighs as much as a frequent one.</dd></div>
</dl>
</section>"""


def _headlines(headlines: Sequence[Headline]) -> str:
    tiles = "\n".join(
        f"<li class='tile card'><span class='name'>{_text(tile.name)}</span>"
        f"<span class='value'>{_percent(tile.value)}</span>{_bar(tile.value)}</li>"
        for tile in headlines
    )
    return f"<ul class='tiles'>\n{tiles}\n</ul>" if headlines else ""


def _examples(examples: Sequence[Example], classes: Sequence[ClassRow], folder: Path) -> str:
    if not examples:
        return ""
    cards = "\n".join(_example(example, folder) for example in examples)
    return f"<section>\n<h2>Pictures</h2>\n{_legend(classes)}{cards}\n</section>"


def _example(example: Example, folder: Path) -> str:
    pictures = "\n".join(_picture(picture, example.caption, folder) for picture in example.pictures)
    # On a narrow screen the row scrolls sideways, by the keyboard too.
    row = f"<div class='pictures' tabindex='0' role='group' aria-label='{_text(example.caption)}'>"
    return (
        f"<figure class='example card'>\n<figcaption><span class='caption'>{_text(example.caption)}</span>"
        f"<span class='note'>{_text(example.note)}</span></figcaption>\n"
        f"{row}\n{pictures}\n</div>\n</figure>"
    )


def _picture(picture: Picture, example: str, folder: Path) -> str:
    if isinstance(picture.image, Path):
        (width, height), source = _size_of(picture.image), _link(picture.image, folder)
    else:
        (width, height), source = picture.image.size, _embed(picture.image)
    alternative = _text(f"{picture.caption}: {example}" if example else picture.caption)
    note = f" {_text(picture.note)}" if picture.note else ""
    size = f"width='{width}' height='{height}'"
    return (
        f"<div class='picture'><img src='{source}' {size} alt='{alternative}' loading='lazy'>"
        f"<p><b>{_text(picture.caption)}</b>{note}</p></div>"
    )


def _legend(classes: Sequence[ClassRow]) -> str:
    return "".join(
        f"<ul class='legend'><li class='kind'>{kind}</li>"
        + "".join(f"<li>{_swatch(row)}{_text(row.name)}</li>" for row in rows)
        + "</ul>\n"
        for kind, rows in _groups(classes)
    )


def _classes(classes: Sequence[ClassRow]) -> str:
    if not classes:
        return ""
    measures = "".join(f"<th scope='col' class='measure'>{name}</th>" for name in ("PQ", "SQ", "RQ"))
    counts = "".join(
        f"<th scope='col'><abbr title='{meaning}'>{name}</abbr></th>"
        for name, meaning in (("TP", "found"), ("FP", "invented"), ("FN", "missed"))
    )
    groups = "\n".join(
        f"<tbody>\n<tr><th scope='rowgroup' colspan='7'>{kind} <small>{_seen(rows)}</small></th></tr>\n"
        + "\n".join(_class_row(row) for row in rows)
        + "\n</tbody>"
        for kind, rows in _groups(classes)
    )
    return (
        "<section>\n<h2>Classes</h2>\n<p>TP: segments found, FP: invented, FN: missed. "
        f"{UNSEEN} stands for a class that neither occurred nor was predicted.</p>\n"
        f"<div class='card scroll' tabindex='0' role='region' aria-label='Classes'>\n<table class='classes'>\n"
        f"<thead><tr><th scope='col'>Class</th>{measures}{counts}</tr></thead>\n{groups}\n</table>\n</div>\n</section>"
    )


def _class_row(row: ClassRow) -> str:
    measures = "".join(
        f"<td class='measure {name}'><span>{_bar(value)}<b>{_percent(value)}</b></span></td>"
        for name, value in (("pq", row.pq), ("sq", row.sq), ("rq", row.rq))
    )
    counts = "".join(f"<td>{count:,}</td>" for count in (row.tp, row.fp, row.fn))
    unseen = " class='unseen'" if _missing(row.pq) else ""
    return f"<tr{unseen}><th scope='row'>{_swatch(row)}{_text(row.name)}</th>{measures}{counts}</tr>"


def _facts(facts: Sequence[tuple[str, str]]) -> str:
    if not facts:
        return ""
    rows = "\n".join(f"<tr><th scope='row'>{_text(name)}</th><td>{_text(value)}</td></tr>" for name, value in facts)
    table = f"<table class='facts'><tbody>\n{rows}\n</tbody></table>"
    return f"<section>\n<h2>Facts</h2>\n<div class='card'>\n{table}\n</div>\n</section>"


def _groups(classes: Sequence[ClassRow]) -> list[tuple[str, list[ClassRow]]]:
    """Things and stuff, each in class order, without a group that is empty."""
    groups = [
        ("Things", [row for row in classes if row.isthing]),
        ("Stuff", [row for row in classes if not row.isthing]),
    ]
    return [(kind, rows) for kind, rows in groups if rows]


def _seen(rows: Sequence[ClassRow]) -> str:
    seen = sum(not _missing(row.pq) for row in rows)
    total = f"{len(rows)} class" if len(rows) == 1 else f"{len(rows)} classes"
    return total if seen == len(rows) else f"{total}, {seen} seen"


def _swatch(row: ClassRow) -> str:
    red, green, blue = row.color
    return f"<span class='swatch' style='background:rgb({red} {green} {blue})'></span>"


def _text(text: str) -> str:
    return escape(text, quote=True)


def _missing(value: float | None) -> bool:
    return value is None or not math.isfinite(value)


def _percent(value: float | None) -> str:
    return UNSEEN if value is None or not math.isfinite(value) else f"{100 * value:.1f}"


def _bar(value: float | None) -> str:
    # The number stands beside it: nothing to read aloud.
    width = 0.0 if value is None or not math.isfinite(value) else 100 * min(max(value, 0.0), 1.0)
    return f"<span class='bar' aria-hidden='true'><i style='width:{width:.1f}%'></i></span>"


# --- pictures ---


def _embed(image: Image.Image) -> str:
    """The picture inside its own address: few colours (maps) without loss, photographs as JPEG."""
    image, buffer = image.convert("RGB"), io.BytesIO()
    few = image.getcolors(256) is not None
    if few:
        image.save(buffer, "PNG", optimize=True)
    else:
        image.save(buffer, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    kind = "png" if few else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _link(path: Path, folder: Path) -> str:
    relative = Path(os.path.relpath(path.absolute(), folder.absolute())).as_posix()
    return quote(os.fsencode(relative))


def _size_of(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path) as image:
            return image.size
    except FileNotFoundError:
        raise InputError(f"{path}: no such picture for the report; save it before write_report") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read as a picture for the report ({error}); save it again") from None
