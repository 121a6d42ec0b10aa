"""Everything an evaluation found, as text for a terminal."""

from collections.abc import Sequence

from thingstuff.evaluate import Evaluation
from thingstuff.evaluation.table import score_table

_MISSING = "-"


def evaluation_table(evaluation: Evaluation) -> str:
    """Panoptic quality by group and class, average precision and mean IoU, in percent."""
    parts = []
    if evaluation.panoptic is not None:
        parts.append(score_table(evaluation.panoptic))
    rows = []
    for name, precision in (("box AP", evaluation.box), ("mask AP", evaluation.mask)):
        if precision is not None:
            numbers = (precision.ap, precision.ap50, precision.ap75, precision.small, precision.medium, precision.large)
            rows.append((name, *map(_percent, numbers)))
    if rows:
        parts.append(_align([("", "all", "IoU 50", "IoU 75", "small", "medium", "large"), *rows]))
    if evaluation.semantic is not None:
        parts.append(f"mean IoU of the semantic branch: {_percent(evaluation.semantic.miou)}")
    if evaluation.skipped:
        parts.append(f"{len(evaluation.skipped)} damaged pictures were left out, first: {evaluation.skipped[0]}")
    return "\n\n".join(parts)


def _percent(value: float | None) -> str:
    return _MISSING if value is None else f"{100 * value:.1f}"


def _align(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
