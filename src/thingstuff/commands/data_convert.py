"""The action `data convert`."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from thingstuff.cli import FAILED, SUCCESS
from thingstuff.commands.terminal import parse, say, say_json, warn
from thingstuff.data.drawn.drawing import DrawingSource
from thingstuff.data.drawn.formats import FORMATS, Format, find_format
from thingstuff.data.drawn.painting import Overlap
from thingstuff.data.drawn.splitting import SplitChoice
from thingstuff.data.drawn.table import LabelTable, read_table, table_of_source, write_table
from thingstuff.data.drawn.writing import Conversion, Summary, check_out, convert_drawings, count_names
from thingstuff.errors import InputError, InterruptedWork
from thingstuff.progress import track

_UNEVEN = 0.25
"""Part by which the share of pictures in val may differ from what was asked for without a word."""
_SHOWN = 10
"""Warnings and problems of one kind that are listed."""


@dataclass(frozen=True)
class ConvertOptions:
    """Options of `data convert`."""

    source: Annotated[Positional[Path], arg(metavar="SOURCE")]
    """File or folder that an annotation tool has exported."""
    out: Annotated[Positional[Path], arg(metavar="OUT")]
    """Folder for the data set: images/, panoptic_<split>/ and panoptic_<split>.json."""
    format: Annotated[str | None, arg(name="from", metavar="FORMAT")] = None
    """What SOURCE is. None: found out from what is in it."""
    overlap: Overlap = "error"
    """Who keeps a pixel of several objects: nobody (error), the first drawn (skip), the smaller one, the last drawn, or
    the class that stands first in labels.toml (by-order)."""
    labels: Path | None = None
    """A labels.toml that says what is thing and what stuff. Where it is needed and missing, one is written to edit."""
    split: str | None = None
    """Put all pictures into this split. None: as SOURCE says, else train."""
    val_share: float | None = None
    """Put this share of the pictures into val, the others into train."""
    seed: int = 0
    """Of the choice of --val-share."""
    split_things: bool = False
    """From semantic PNG files: make an object of every connected part of a thing class."""
    link: bool = False
    """Do not copy pictures, but give their files a second name (hard link) where the file system can."""
    overwrite: bool = False
    """Replace the data set that is in OUT."""
    skip_errors: bool = False
    """Leave out pictures whose annotation is wrong instead of stopping; the exit code is 1 then."""
    json: bool = False
    """Print the summary as JSON."""


def convert(words: list[str]) -> int:
    """Convert the export of an annotation tool."""
    formats = ", ".join(each.name for each in FORMATS)
    description = f"Make a COCO panoptic data set from what an annotation tool exports. Formats: {formats}."
    options = parse(ConvertOptions, "data convert", description, words)
    conversion = Conversion(
        options.overlap,
        SplitChoice(options.split, options.val_share, options.seed),
        options.split_things,
        options.link,
        options.skip_errors,
    )
    found = find_format(options.source, options.format)
    if options.split_things and not found.merged:
        raise InputError(f"--split-things: {found.title} tell objects apart already; leave it out")
    check_out(options.out, options.source, options.overwrite)
    with _collected_warnings():
        source = found.open(options.source)
        if not options.json:
            say(f"{options.source}: {found.title}; pictures: {len(source)}, classes: {len(source.categories)}")
        table = _find_table(options, found, source)
        try:
            summary = convert_drawings(source, table, options.out, conversion, track)
        except KeyboardInterrupt:
            raise InterruptedWork(f"interrupted; {options.out} is as it was before, so convert again") from None
    _warn_all(summary.problems)
    if options.json:
        say_json(_to_json(summary, found, table))
    else:
        _say_summary(summary, table, options)
    return FAILED if summary.problems else SUCCESS


def _find_table(options: ConvertOptions, found: Format, source: DrawingSource) -> LabelTable:
    """The given table, or the source's own; else one is written for editing, and that is the end for now."""
    if options.labels is not None:
        table = read_table(options.labels, source.categories)
    else:
        table = table_of_source(source.categories, str(options.source))
    if table is None:
        path = options.out.absolute().parent / "labels.toml"
        path = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
        if path.exists():
            raise InputError(
                f"{options.source} does not say what is thing and what is stuff, and {path} is there already; "
                f"take it with --labels {path}, or move it away to get a new one"
            )
        counts = count_names(source, options.skip_errors, track)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"{path.parent}: cannot be made ({error.strerror}); name an OUT in a folder of yours"
            ) from error
        write_table(path, source.categories, counts, str(options.source))
        raise InputError(
            f"{options.source} does not say what is thing and what is stuff; edit {path}, which has all "
            f"{len(source.categories)} classes with a guess, and run again with --labels {path}"
        )
    # A table may serve several exports, and name things that this one lacks.
    found_here = (table.by_name.get(category.name) for category in source.categories)
    things = [category.name for category in found_here if category is not None and category.isthing]
    if found.merged and things and not options.split_things:
        raise InputError(
            f"{things[0]!r} is a thing, but {found.title} do not tell its objects apart; make every connected part an "
            "object with --split-things, or write thing = false in the table of labels"
        )
    return table


# --- warnings and summary ---


@contextmanager
def _collected_warnings() -> Iterator[None]:
    """Show what readers warn of as lines of this program, each once, not too many."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            yield
        finally:
            _warn_all(list(dict.fromkeys(str(each.message) for each in caught)))


def _warn_all(lines: list[str]) -> None:
    for line in lines[:_SHOWN]:
        warn(line)
    if len(lines) > _SHOWN:
        warn(f"... and {len(lines) - _SHOWN} more of this kind")


def _to_json(summary: Summary, found: Format, table: LabelTable) -> dict[str, object]:
    return {
        "format": found.name,
        "pictures": summary.pictures,
        "categories": [
            {
                "id": category.id,
                "name": category.name,
                "isthing": category.isthing,
                "segments": summary.segments[category.name],
                "pixels": summary.pixels[category.name],
            }
            for category in sorted(table.labels.categories, key=lambda category: category.id)
        ],
        "crowds": summary.crowds,
        "void_share": summary.void_share,
        "lost_pixels": summary.lost_pixels,
        "hidden_segments": summary.hidden,
        "empty_shapes": summary.empty,
        "problems": summary.problems,
    }


def _say_summary(summary: Summary, table: LabelTable, options: ConvertOptions) -> None:
    ordered = sorted(table.labels.categories, key=lambda category: category.id)
    width = max(len("class"), *(len(category.name) for category in ordered))
    say(f"\n{'id':>4}  {'class':{width}}  {'kind':5}  {'segments':>8}  {'of all pixels':>13}")
    for category in ordered:
        share = f"{100 * summary.pixels[category.name] / summary.all_pixels:.2f} %"
        kind, segments = "thing" if category.isthing else "stuff", summary.segments[category.name]
        say(f"{category.id:4}  {category.name:{width}}  {kind:5}  {segments:8}  {share:>13}")
    pictures = ", ".join(f"{number} {split}" for split, number in sorted(summary.pictures.items()))
    say(f"\npictures: {pictures}; {summary.crowds} crowds; {100 * summary.void_share:.2f} % of all pixels are void")
    if summary.lost_pixels:
        say(
            f"{summary.lost_pixels} drawn pixels went to another object (--overlap {options.overlap}), and "
            f"{summary.hidden} objects were wholly covered and are left out"
        )
    if summary.empty:
        say(f"{summary.empty} shapes are too thin to hold the centre of a pixel and are left out")
    if list(summary.pictures) == ["train"]:
        say("all pictures are in train; --val-share 0.2 puts about a fifth into val, which training needs")
    if "train" not in summary.pictures:
        say("no picture is in train, which training needs; --split train puts all there")
    if options.val_share is not None:
        total, found = sum(summary.pictures.values()), summary.pictures.get("val", 0)
        if abs(found - options.val_share * total) > _UNEVEN * options.val_share * total:
            say(
                f"val has {found} of {total} pictures, {found / total:.0%} where {options.val_share:.0%} were asked "
                "for, because each is drawn by itself; another --seed draws anew"
            )
    say(f"\nnext: thingstuff data check {options.out}")
