"""What the check of a data set found, as text for a terminal of 80 columns."""

import textwrap
from collections.abc import Sequence

from thingstuff.data.checking.check import CheckedData
from thingstuff.data.checking.kinds import SEVERITIES, Finding, Severity, count_severities
from thingstuff.data.checking.mending import Change, Mended
from thingstuff.data.checking.records import ListedCategory
from thingstuff.data.checking.summary import PERCENTILES, SplitSummary

_WIDTH = 80
_FIRST = 5
"""Findings of a kind that are shown."""
_LONGEST_NAME = 18
_SPLITS_IN_A_ROW = 2


def check_text(checked: CheckedData) -> str:
    """What a data set holds, then what is wrong with it, the worst last: there a reader looks first."""
    starts = range(0, len(checked.splits), _SPLITS_IN_A_ROW)
    rows = [checked.splits[start : start + _SPLITS_IN_A_ROW] for start in starts]
    places = "\n".join(_wrap(place, 0) for place in checked.places)
    parts = [places, _split_table(checked.splits), *(_class_table(checked.categories, row) for row in rows)]
    for severity in reversed(SEVERITIES):
        kinds = dict.fromkeys(finding.kind for finding in checked.findings if finding.kind.severity == severity)
        parts += [_group([finding for finding in checked.findings if finding.kind is kind]) for kind in kinds]
    parts.append(f"{printable(str(checked.root))}: {_counts(checked.findings)}")
    return "\n\n".join(part for part in parts if part)


def mended_text(mended: Mended) -> str:
    """What was repaired, and where the originals are."""
    if not mended.changes:
        return "repaired: nothing; what is wrong needs a decision"
    parts = []
    for what in dict.fromkeys(change.what for change in mended.changes):
        same = [change for change in mended.changes if change.what == what]
        lines = [f"repaired: {what} ({len(same)})", *_first([_line(change) for change in same])]
        parts.append("\n".join(lines))
    kept = [_wrap(f"original kept: {path}", 2) for path in mended.kept[:_FIRST]]
    if len(mended.kept) > _FIRST:
        kept.append(f"  and {len(mended.kept) - _FIRST} more, which end in .bak, too")
    return "\n\n".join([*parts, "\n".join(kept)])


def printable(text: str) -> str:
    """Text from a file without what would confuse a terminal: control characters and bytes that are no text."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


# --- what the data set holds ---


def _split_table(splits: Sequence[SplitSummary]) -> str:
    percents = " / ".join(f"{percent}" for percent in (PERCENTILES[0], PERCENTILES[2], PERCENTILES[-1]))
    rows = [("split", "pictures", "segments", "void", "small", "medium", "large", f"side at {percents} %")]
    for split in splits:
        objects = split.objects
        sides = " / ".join(f"{objects.sides[at]:.0f}" for at in (0, 2, -1)) if objects.sides else "-"
        numbers = (split.pictures, split.segments, objects.small, objects.medium, objects.large)
        pictures, segments, small, medium, large = (f"{number:,}" for number in numbers)
        rows.append((_short(split.split, 12), pictures, segments, _percent(split.void), small, medium, large, sides))
    note = "small, medium, large: things under 32 x 32 pixels, between, from 96 x 96; side: root of their area"
    return f"{_align(rows, 1)}\n{_wrap(note, 0)}"


def _class_table(categories: Sequence[ListedCategory], splits: Sequence[SplitSummary]) -> str:
    head = ("", "", *(text for split in splits for text in ("", _short(split.split, 8), "")))
    rows: list[tuple[str, ...]] = [head, ("", "class", *("pictures", "segments", "%") * len(splits))]
    for isthing, name in ((False, "stuff"), (True, "things"), (None, "stuff or things?")):
        group = [(index, category) for index, category in enumerate(categories) if category.isthing is isthing]
        if group:
            rows.append(("", name, *[""] * (3 * len(splits))))
        for index, category in group:
            row = [f"{index:3d}", f"  {_short(category.name, _LONGEST_NAME)}"]
            for split in splits:
                count = split.classes[category.id]
                row += [f"{count.pictures:,}", f"{count.segments:,}", f"{100 * count.share:.1f}"]
            rows.append(tuple(row))
    note = "the first column is the index that training gives the class; %: share of the split's pixels"
    return f"{_align(rows, 2)}\n{_wrap(note, 0)}" if categories else ""


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _short(text: str, longest: int) -> str:
    text = printable(text)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _align(rows: Sequence[tuple[str, ...]], words: int) -> str:
    """Columns: words to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            text.ljust(width) if column < words else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


# --- what is wrong ---


def _group(findings: Sequence[Finding]) -> str:
    kind = findings[0].kind
    head = _wrap(f"{kind.severity} {kind.value} ({len(findings):,}): {kind.title}", 0)
    return "\n".join([head, *_first([_line(finding) for finding in findings]), _wrap(f"remedy: {kind.remedy}", 2)])


def _first(lines: Sequence[str]) -> list[str]:
    """The first few, and how many more there are."""
    more = [f"  and {len(lines) - _FIRST:,} more"] if len(lines) > _FIRST else []
    return [_wrap(line, 2) for line in lines[:_FIRST]] + more


def _line(place: Finding | Change) -> str:
    segment = "" if place.segment is None else f", segment {place.segment}"
    return f"{place.file}{segment}: {place.text}"


def _wrap(text: str, indent: int) -> str:
    lines = textwrap.wrap(
        printable(text),
        _WIDTH,
        initial_indent=" " * indent,
        subsequent_indent=" " * (indent + 2),
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(lines)


def _counts(findings: Sequence[Finding]) -> str:
    counts = count_severities(findings)
    return ", ".join(_counted(counts[severity], severity) for severity in SEVERITIES)


def _counted(count: int, severity: Severity) -> str:
    return f"{count:,} {severity}{'' if count == 1 else 's'}" if count else f"no {severity}s"
