"""Scores as tables of plain text, in percent."""

from collections.abc import Sequence

from thingstuff.evaluation.pq import GroupScore, Score

_NOTHING = "-"


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
    rows = [("", "PQ", "SQ", "RQ", "TP", "FP", "FN")]
    for isthing in (True, False):
        for entry in score.per_class.values():
            if entry.isthing == isthing:
                counted = entry.tp + entry.fp + entry.fn > 0
                numbers = _percents((entry.pq, entry.sq, entry.rq) if counted else None)
                rows.append((entry.name, *numbers, str(entry.tp), str(entry.fp), str(entry.fn)))
    width = max(len(row[0]) for row in (*lines, *rows))
    return "\n".join((*_align(lines, width), "", *_align(rows, width)))


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
