"""The page of a checked data set: pictures under their labels, their findings, and buttons that choose among them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path

from thingstuff.data.checking.kinds import SEVERITIES, Finding, Kind, count_severities
from thingstuff.data.checking.summary import SplitSummary
from thingstuff.errors import InputError
from thingstuff.labels import Category

_FIRST = 4
"""Findings of a picture, or of a kind, that are shown at once; the others on request."""


@dataclass(frozen=True, slots=True)
class Card:
    """One picture on the page.

    Attributes:
        name: Its file name.
        note: Split, size and number of segments.
        drawing: The picture under its labels: path relative to the page.
        photo: The picture alone, of the same size.
        size: Width and height of both.
        classes: Category ids of its segments.
        findings: What is wrong with it, errors first.
    """

    name: str
    note: str
    drawing: str
    photo: str
    size: tuple[int, int]
    classes: frozenset[int]
    findings: Sequence[Finding]


@dataclass(frozen=True, slots=True)
class Page:
    """Everything on the page, top to bottom.

    Attributes:
        title: Name of the data set.
        shown: How many of the pictures are shown.
        splits: What each holds.
        categories: In class order.
        findings: All of them, for the counts.
        others: Those that belong to no picture.
        cards: The pictures.
    """

    title: str
    shown: str
    splits: Sequence[SplitSummary]
    categories: Sequence[Category]
    findings: Sequence[Finding]
    others: Sequence[Finding]
    cards: Sequence[Card]


def write_page(path: Path, page: Page) -> None:
    """Write the page as one HTML file, replacing it if it exists.

    Raises:
        InputError: It cannot be written.
    """
    style, own_style, script = (
        files("thingstuff").joinpath(name).read_text(encoding="utf-8")
        for name in ("report.css", "browse.css", "browse.js")
    )
    body = "\n".join(
        part
        for part in (
            f"<header>\n<h1>{_text(page.title)}</h1>\n<p class='summary'>{_summary(page)}</p>\n</header>",
            _tiles(page),
            _others(page.others),
            _pictures(page),
        )
        if part
    )
    text = (
        "<!doctype html>\n<html lang='en'>\n<head>\n<meta charset='utf-8'>\n"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>\n"
        f"<title>{_text(page.title)}</title>\n<style>\n{style}\n{own_style}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n<script>\n{script}</script>\n</body>\n</html>\n"
    )
    try:
        # File names may hold bytes that are no text; they must not keep the page from being written.
        path.write_text(text, encoding="utf-8", errors="xmlcharrefreplace")
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"{path}: cannot be written ({reason}); check that the folder has space") from error


# --- the data set ---


def _summary(page: Page) -> str:
    splits = ", ".join(f"{_text(split.split)} {split.pictures:,}" for split in page.splits)
    return f"Pictures: {splits}. Shown are {_text(page.shown)}, those with the worst findings first."


def _tiles(page: Page) -> str:
    counts = count_severities(page.findings)
    tiles = [("pictures", sum(split.pictures for split in page.splits), "")]
    tiles += [("segments", sum(split.segments for split in page.splits), "")]
    tiles += [(f"{severity}s", counts[severity], severity if counts[severity] else "") for severity in SEVERITIES]
    items = "\n".join(
        f"<li class='tile card {kind}'><span class='name'>{name}</span><span class='value'>{count:,}</span></li>"
        for name, count, kind in tiles
    )
    return f"<ul class='tiles counts'>\n{items}\n</ul>"


def _others(findings: Sequence[Finding]) -> str:
    kinds = dict.fromkeys(finding.kind for finding in findings)
    groups = "\n".join(
        f"<li class='{kind.severity}'><b>{_text(kind.value)}</b> {_text(kind.title)}"
        + _list([_place(finding) for finding in findings if finding.kind is kind])
        + f"<p class='remedy'>{_text(kind.remedy)}</p></li>"
        for kind in kinds
    )
    if not groups:
        return ""
    return f"<section>\n<h2>The data set as a whole</h2>\n<ul class='findings card whole'>\n{groups}\n</ul>\n</section>"


def _place(finding: Finding) -> str:
    segment = "" if finding.segment is None else f", segment {finding.segment}"
    return f"<span class='file'>{_text(finding.file)}</span>{segment}: {_text(finding.text)}"


def _list(items: Sequence[str]) -> str:
    """The first few, and the others on request."""
    first, others = items[:_FIRST], items[_FIRST:]
    shown = "".join(f"<li>{item}</li>" for item in first)
    hidden = "".join(f"<li>{item}</li>" for item in others)
    more = f"<details><summary>{len(others):,} more</summary><ul>{hidden}</ul></details>" if others else ""
    return f"<ul>{shown}</ul>{more}"


# --- the pictures ---


def _pictures(page: Page) -> str:
    if not page.cards:
        return "<section>\n<h2>Pictures</h2>\n<p>There is none to show.</p>\n</section>"
    classes = Counter(identity for card in page.cards for identity in card.classes)
    kinds = Counter(kind for card in page.cards for kind in {finding.kind for finding in card.findings})
    rows = [
        _buttons("Things", [_class_button(c, classes[c.id]) for c in page.categories if c.isthing and classes[c.id]]),
        _buttons(
            "Stuff", [_class_button(c, classes[c.id]) for c in page.categories if not c.isthing and classes[c.id]]
        ),
        _buttons("Findings", [_kind_button(kind, kinds[kind]) for kind in Kind if kinds[kind]]),
    ]
    cards = "\n".join(_card(card) for card in page.cards)
    return (
        "<section>\n<h2>Pictures</h2>\n<div class='filter card' role='group' aria-label='Choose pictures'>\n"
        f"{''.join(rows)}"
        "<p class='state'><label><input type='checkbox' id='labels' checked> labels</label>"
        f"<output id='count'>{len(page.cards)} pictures</output>"
        "<button type='button' id='clear' hidden>show all</button></p>\n</div>\n"
        f"<div class='wall'>\n{cards}\n</div>\n</section>"
    )


def _buttons(name: str, buttons: Sequence[str]) -> str:
    if not buttons:
        return ""
    return f"<div class='row'><span class='kind'>{name}</span><div>{''.join(buttons)}</div></div>\n"


def _class_button(category: Category, count: int) -> str:
    red, green, blue = category.color
    return (
        f"<button type='button' aria-pressed='false' data-class='{category.id}'>"
        f"<span class='swatch' style='background:rgb({red} {green} {blue})'></span>"
        f"{_text(category.name)} <small>{count}</small></button>"
    )


def _kind_button(kind: Kind, count: int) -> str:
    return (
        f"<button type='button' class='{kind.severity}' aria-pressed='false' data-kind='{kind.value}' "
        f"title='{_text(kind.title)}'>{kind.value} <small>{count}</small></button>"
    )


def _card(card: Card) -> str:
    kinds = dict.fromkeys(finding.kind for finding in card.findings)
    worst = card.findings[0].kind.severity if card.findings else "clean"
    width, height = card.size
    name = _text(card.name)
    size = f"width='{width}' height='{height}' loading='lazy'"
    findings = "\n".join(
        f"<li class='{kind.severity}'><b title='{_text(kind.remedy)}'>{_text(kind.value)}</b>"
        + _list([_detail(finding) for finding in card.findings if finding.kind is kind])
        + "</li>"
        for kind in kinds
    )
    return (
        f"<figure class='shown card {worst}' data-classes='{' '.join(map(str, sorted(card.classes)))}' "
        f"data-kinds='{' '.join(kind.value for kind in kinds)}'>\n"
        f"<a class='stack' href='{card.drawing}'><img class='photo' src='{card.photo}' alt='' {size}>"
        f"<img class='drawing' src='{card.drawing}' alt='{name} under its labels' {size}></a>\n"
        f"<figcaption><span class='caption'>{name}</span><span class='about'>{_text(card.note)}</span></figcaption>\n"
        + (f"<ul class='findings'>\n{findings}\n</ul>\n" if findings else "")
        + "</figure>"
    )


def _detail(finding: Finding) -> str:
    segment = "" if finding.segment is None else f"segment {finding.segment}: "
    return f"{segment}{_text(finding.text)}"


def _text(text: str) -> str:
    return escape(text, quote=True)
