"""Scores as text for a terminal."""

from collections.abc import Sequence

from thingstuff.evaluate import Evaluation
from thingstuff.evaluation.pq import GroupScore, Score

_MISSING = "-"


def score_table(evaluation: Evaluation) -> str:
    """Everything an evaluation found, in percent: groups, classes, average precision and mean IoU."""
    parts = []
    if evaluation.panoptic is not None:
        parts.append(panoptic_table(evaluation.panoptic))
    rows = []
    for name, precision in (("box AP", evaluation.box), ("mask AP", evaluation.mask)):
        if precision is not None:
            numbers = (precision.ap, precision.ap50, precision.ap75, precision.small, precision.medium, precision.large)
            rows.append([name, *map(_percent, numbers)])
    if rows:
        parts.append(_align([["", "all", "IoU 50", "IoU 75", "small", "medium", "large"], *rows]))
    if evaluation.semantic is not None:
        parts.append(f"mean IoU of the semantic branch  {_percent(evaluation.semantic.miou)}")
    if evaluation.skipped:
        parts.append(f"{len(evaluation.skipped)} damaged pictures were left out, first: {evaluation.skipped[0]}")
    return "\n\n".join(parts)


def panoptic_table(score: Score) -> str:
    """Panoptic quality of the groups and of every class, in percent."""
    rows = [["", "PQ", "SQ", "RQ", "TP", "FP", "FN"]]
    everything = GroupScore(score.pq, score.sq, score.rq, score.n)
    for name, group in (("all", everything), ("things", score.things), ("stuff", score.stuff)):
        numbers = (None, None, None) if group is None else (group.pq, group.sq, group.rq)
        rows.append([name, *map(_percent, numbers), "", "", ""])
    rows.append([""] * 7)
    for row in sorted(score.per_class.values(), key=lambda row: (not row.isthing, row.category_id)):
        counts = (row.tp, row.fp, row.fn)
        quality = (row.pq, row.sq, row.rq) if any(counts) else (None, None, None)
        rows.append([row.name, *map(_percent, quality), *map(str, counts)])
    return _align(rows)


def _percent(value: float | None) -> str:
    return _MISSING if value is None else f"{100 * value:.1f}"


def _align(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for first, *others in rows:
        cells = [first.ljust(widths[0]), *(text.rjust(width) for text, width in zip(others, widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
