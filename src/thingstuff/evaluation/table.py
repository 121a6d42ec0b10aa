"""Scores as tables of plain text, in percent."""

from collections.abc import Sequence
from typing import Literal

from thingstuff.evaluation.pq import GroupScore, Score

_NOTHING = "-"
TableStyle = Literal["plain", "cityscapes"]
Spread = tuple[float | None, float | None, float | None, float | None]
"""A difference, the ends of its interval, and how often the second is better."""


def score_table(score: Score) -> str:
    """Panoptic quality of all classes, things, stuff and every class; ``-`` where nothing was counted."""
    groups = [
        ("all", GroupScore(score.pq, score.sq, score.rq, score.n)),
        ("things", score.things),
        ("stuff", score.stuff),
    ]
    lines = [("", "PQ", "SQ", "RQ", "classes")]
    lines += [
        (name, *_percents(group and (group.pq, group.sq, group.rq)), str(group.n) if group else _NOTHING)
        for name, group in groups
    ]
    rows: list[tuple[str, ...]] = [("", "PQ", "SQ", "RQ", "TP", "FP", "FN")]
    for isthing in (True, False):
        for entry in score.per_class.values():
            if entry.isthing == isthing:
                counted = entry.tp + entry.fp + entry.fn > 0
                numbers = _percents((entry.pq, entry.sq, entry.rq) if counted else None)
                rows.append((entry.name, *numbers, str(entry.tp), str(entry.fp), str(entry.fn)))
    width = max(len(row[0]) for row in (*lines, *rows))
    return "\n".join((*_align(lines, width), "", *_align(rows, width)))


def cityscapes_table(score: Score) -> str:
    """The layout of the script that comes with Cityscapes: every class by id, then all, things and stuff with N.

    It shows 0 for classes that were not counted; so does this. A group without classes, on which the script fails, has
    dashes.
    """
    lines = [_cityscapes_row("Category", "PQ", "SQ", "RQ"), "-" * 41]
    for _, entry in sorted(score.per_class.items()):
        lines.append(_cityscapes_row(entry.name, *_percents((entry.pq, entry.sq, entry.rq))))
    lines += ["-" * 41, _cityscapes_row("", "PQ", "SQ", "RQ") + f" {'N':>5}", "-" * 41]
    for name, group in (("All", score), ("Things", score.things), ("Stuff", score.stuff)):
        numbers = _percents(group and (group.pq, group.sq, group.rq))
        lines.append(_cityscapes_row(name, *numbers) + f" {group.n if group else _NOTHING:>5}")
    return "\n".join(lines)


def _cityscapes_row(name: str, pq: str, sq: str, rq: str) -> str:
    return f"{name:14}| {pq:>5}  {sq:>5}  {rq:>5}"


def _percents(numbers: Sequence[float | None] | None) -> tuple[str, ...]:
    return tuple(_NOTHING if number is None else f"{100 * number:.1f}" for number in numbers or (None, None, None))


def _align(rows: Sequence[tuple[str, ...]], width: int) -> list[str]:
    """Columns of numbers to the right of a column of names; a line under the first row."""
    columns = [max(6, *(len(row[column]) for row in rows)) for column in range(1, len(rows[0]))]
    lines = [
        f"{row[0]:<{width}} |" + "".join(f" {cell:>{size}}" for cell, size in zip(row[1:], columns, strict=True))
        for row in rows
    ]
    return [lines[0], "-" * len(lines[0]), *lines[1:]]


def difference_table(
    pq: tuple[float | None, float | None],
    groups: Sequence[tuple[str, Spread, Spread, Spread]],
    losses: Sequence[tuple[str, float, float]],
    confidence: float,
) -> str:
    """Two models side by side, and how their numbers differ.

    Args:
        pq: Of both.
        groups: Name and differences of PQ, SQ and RQ of all classes, groups and classes.
        losses: Cause and the PQ that each model would regain.
        confidence: Of the intervals.
    """
    head = ("B - A", "PQ", f"{100 * confidence:g} %", "B better", "SQ", "RQ")
    rows: list[tuple[str, ...]] = [head]
    for name, (value, low, high, better), (sq, *_), (rq, *_) in groups:
        interval = _NOTHING if low is None or high is None else f"{100 * low:+.1f} to {100 * high:+.1f}"
        sure = _NOTHING if better is None else f"{100 * better:.0f} %"
        rows.append((name, _signed(value), interval, sure, _signed(sq), _signed(rq)))
    causes = [("PQ regained by mending", "A", "B"), *((name, _signed(a), _signed(b)) for name, a, b in losses)]
    width = max(len(row[0]) for row in (*rows, *causes))
    total = [("", "A", "B"), ("PQ", *_percents(pq))]
    return "\n".join((*_align(total, width), "", *_align(rows, width), "", *_align(causes, width)))


def _signed(number: float | None) -> str:
    return _NOTHING if number is None else f"{100 * number:+.1f}"
