"""Actions of the verb `data` that look at a data set: check and show."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from thingstuff.cli import FAILED, SUCCESS
from thingstuff.commands.terminal import parse, say, say_json
from thingstuff.errors import InputError

_CHECK = """Check a data set before training: JSON files, file listings, every pixel, and what the splits share.

Every finding has a severity, a lasting code, a file, a segment and a remedy. Errors stop training or falsify scores,
warnings are most likely mistakes, notes are worth knowing. The exit code is 0 without errors, 1 with errors, and 2
where there is no such data set.

--fix repairs what needs no decision: it recounts areas and boxes, writes missing fields, removes entries without
pixels, and renumbers the id 0 and shared ids where areas and boxes leave no doubt. Changed files are replaced in one
step, and the originals stay beside them, ending in .bak."""


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """Options of `data check`."""

    root: Annotated[Positional[Path], arg(metavar="ROOT")]
    """The data set: images/, panoptic_<split>.json and panoptic_<split>/, or another layout that training reads."""
    split: str | None = None
    """Check only this split. None: all."""
    fix: bool = False
    """Repair what is safe to repair, say what was changed, and check again."""
    json: Path | None = None
    """Write everything to this file for a program; without a file (or as -) print that instead of the tables."""
    workers: int | None = None
    """Processes. None: one for each core."""


def check(words: list[str]) -> int:
    """Check a data set, and repair it where that was asked for."""
    options = parse(CheckOptions, "data check", _CHECK, _name_json(words))
    _check_workers(options.workers)
    from thingstuff.check_table import check_text, mended_text
    from thingstuff.data.checking.check import CheckedData, check_data
    from thingstuff.data.checking.files import find_splits
    from thingstuff.data.checking.kinds import count_severities
    from thingstuff.data.checking.mending import mend
    from thingstuff.data.coco import write_json
    from thingstuff.progress import track

    def look() -> CheckedData:
        return check_data(
            options.root,
            options.split,
            workers=options.workers,
            progress=lambda seen, total: track(seen, "checking", total),
        )

    checked, mended = look(), None
    if options.fix and any(finding.kind.mendable for finding in checked.findings):
        mended = mend(checked, find_splits(options.root, options.split))
        checked = look() if mended.changes else checked
    content = checked.to_json()
    if mended is not None:
        content["fixed"] = mended.to_json()
    if options.json == _STANDARD_OUTPUT:
        say_json(content)
    else:
        say(check_text(checked) if mended is None else f"{mended_text(mended)}\n\n{check_text(checked)}")
        missing = [name for name in ("train", "val") if name not in {each.split for each in checked.splits}]
        if missing and options.split is None:
            say(f"training needs a split {' and a split '.join(missing)}, which is not here")
        if options.json is not None:
            write_json(options.json, content)
    return FAILED if count_severities(checked.findings)["error"] else SUCCESS


_STANDARD_OUTPUT = Path("-")


def _name_json(words: list[str]) -> list[str]:
    """Name standard output where `--json` stands alone: at the end, before another option or before a folder."""
    if "--json" not in words:
        return words
    behind = words.index("--json") + 1
    alone = behind == len(words) or words[behind].startswith("--") or Path(words[behind]).is_dir()
    return [*words[:behind], "-", *words[behind:]] if alone else words


def _check_workers(workers: int | None) -> None:
    if workers is not None and workers < 1:
        raise InputError(f"--workers is {workers}; give the number of processes, at least 1")


# --- show ---


@dataclass(frozen=True, kw_only=True)
class ShowOptions:
    """Options of `data show`."""

    root: Annotated[Positional[Path], arg(metavar="ROOT")]
    """The data set: images/, panoptic_<split>.json and panoptic_<split>/, or another layout that training reads."""
    out: Path
    """Folder for index.html, sheet.jpg and the drawn pictures."""
    split: str | None = None
    """Show only this split. None: all."""
    classes: tuple[str, ...] = ()
    """Show only pictures with one of these classes, by name."""
    limit: int = 100
    """Pictures to show at most: those with the worst findings."""
    workers: int | None = None
    """Processes of the check. None: one for each core."""


def show(words: list[str]) -> int:
    """Draw the pictures of a data set with their labels, those with the worst findings first."""
    description = (
        "Look at a data set: a page with every picture under its labels, to be filtered by class and finding, and a "
        "contact sheet. Pictures with errors come first, then those with warnings, then the others in their order."
    )
    options = parse(ShowOptions, "data show", description, words)
    _check_workers(options.workers)
    if options.limit < 1:
        raise InputError(f"--limit is {options.limit}; give the number of pictures to show, at least 1")
    from thingstuff.browse import show_data
    from thingstuff.data.checking.check import check_data
    from thingstuff.progress import track

    checked = check_data(
        options.root,
        options.split,
        workers=options.workers,
        progress=lambda seen, total: track(seen, "checking", total),
    )
    shown = show_data(
        checked,
        options.out,
        classes=options.classes,
        limit=options.limit,
        progress=lambda items, total: track(items, "drawing", total),
    )
    say(f"Open {shown.page} in a browser ({shown.drawn} of {shown.pictures} pictures); {shown.sheet} has them small.")
    return SUCCESS
