"""Everything that was drawn, written as a data set in the COCO panoptic format."""

import os
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from thingstuff.data.coco import panoptic_annotation, save_panoptic_png, write_json
from thingstuff.data.drawn.components import connected_parts
from thingstuff.data.drawn.drawing import Drawing, DrawingSource, Piece
from thingstuff.data.drawn.painting import Overlap, Painting, paint
from thingstuff.data.drawn.pictures import PictureNames, fit_to_picture, place_picture
from thingstuff.data.drawn.splitting import SplitChoice, assign_splits
from thingstuff.data.drawn.table import LabelTable, NameCounts
from thingstuff.errors import InputError
from thingstuff.structures import Size

_WRITERS = 4
_WAITING = 16
"""Maps that wait to be written at most, so that memory stays bounded."""
Progress = Callable[[Iterable[int], str, int], Iterable[int]]
"""Goes through indices while it shows how far it is: indices, what is done, how many."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """How drawings become a data set.

    Attributes:
        overlap: Who keeps a pixel of several segments.
        splits: Which pictures go where.
        split_things: Connected parts of things that the source does not tell apart become objects of their own.
        link: Pictures become second names of the same files instead of copies.
        skip_errors: Leave out pictures whose annotation is wrong instead of stopping.
    """

    overlap: Overlap = "error"
    splits: SplitChoice = field(default_factory=SplitChoice)
    split_things: bool = False
    link: bool = False
    skip_errors: bool = False


@dataclass(slots=True)
class Summary:
    """What came of a conversion.

    Attributes:
        pictures: In each split.
        segments: Of each category, by name, those without any included.
        pixels: Of each category, by name.
        crowds: Segments that are crowds.
        all_pixels: Of all pictures.
        lost_pixels: Drawn, but covered by another segment.
        hidden: Segments that were wholly covered, and are left out.
        empty: Shapes without a single pixel, which are left out.
        problems: A line for each picture that was left out.
    """

    pictures: dict[str, int] = field(default_factory=dict)
    segments: Counter[str] = field(default_factory=Counter)
    pixels: Counter[str] = field(default_factory=Counter)
    crowds: int = 0
    all_pixels: int = 0
    lost_pixels: int = 0
    hidden: int = 0
    empty: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def void_share(self) -> float:
        """Share of all pixels that belong to no segment."""
        return 1 - sum(self.pixels.values()) / self.all_pixels

    def add(self, painting: Painting) -> None:
        """Count one picture."""
        for segment in painting.panoptic.segments:
            self.segments[segment.name] += 1
            self.pixels[segment.name] += segment.area
            self.crowds += segment.iscrowd
        self.all_pixels += painting.panoptic.ids.size
        self.lost_pixels += painting.lost_pixels
        self.hidden += painting.hidden
        self.empty += painting.empty


@dataclass(frozen=True, slots=True)
class _Written:
    """One picture whose files are there."""

    name: str
    size: Size
    split: str | None
    painting: Painting

    @property
    def map_name(self) -> str:
        return f"{Path(self.name).stem}.png"


def count_names(source: DrawingSource, skip_errors: bool, progress: Progress) -> NameCounts:
    """Look at every drawing and count what is on it.

    Raises:
        InputError: An annotation is wrong, and ``skip_errors`` is not set.
    """
    counts = NameCounts()
    for index in progress(range(len(source)), "counting", len(source)):
        try:
            counts.add(source.read(index))
        except InputError:
            if not skip_errors:
                raise
    return counts


def convert_drawings(
    source: DrawingSource, table: LabelTable, out: Path, conversion: Conversion, progress: Progress
) -> Summary:
    """Write a data set: ``images/``, and for every split ``panoptic_<split>/`` and ``panoptic_<split>.json``.

    Everything is written aside and gets its name at the end, so ``out`` is complete or not there.

    Args:
        source: What was drawn.
        table: The category of every name.
        out: Folder to write; what is there already is replaced (see ``check_out``).
        conversion: How.
        progress: Shows how far it is.

    Raises:
        InputError: A picture or its annotation is wrong and errors are not skipped, all are wrong, nothing is drawn, or
            something cannot be written.
    """
    # Behind a link: the new folder must be on the same disk as the one that it replaces.
    place = out.resolve()
    aside = place.with_name(f".{place.name}.{os.getpid()}.tmp")
    try:
        try:
            (aside / "images").mkdir(parents=True)
            (aside / "maps").mkdir()
        except OSError as error:
            raise InputError(f"{out}: cannot be made ({error.strerror}); name another OUT") from error
        summary = Summary(segments=Counter({category.name: 0 for category in table.labels.categories}))
        written = _write_pictures(source, table, aside, conversion, summary, progress)
        if not written:
            first = f"; the first: {summary.problems[0]}" if summary.problems else ""
            raise InputError(f"{out}: not one picture could be converted{first}")
        if not any(summary.segments.values()):
            raise InputError(
                f"{out}: not written, because nothing is drawn on any of {len(written)} pictures; look whether SOURCE "
                "holds the labels too, and where its format keeps them"
            )
        splits = assign_splits([each.name for each in written], [each.split for each in written], conversion.splits)
        summary.pictures = dict(Counter(splits))
        _write_splits(aside, written, splits, table)
        _swap(aside, place)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return summary


def check_out(out: Path, source: Path, overwrite: bool) -> None:
    """Look whether a data set may be written to ``out``, before any work is done.

    Raises:
        InputError: It is a file, overlaps with the source, or holds something and may not be replaced. What this
            command has not written is never replaced.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: this is a file; name a new folder as OUT")
    here, there = out.resolve(), source.resolve()
    if here.is_relative_to(there) or there.is_relative_to(here):
        raise InputError(f"{out}: OUT and SOURCE must not contain each other; name a folder outside of {source}")
    inside = sorted(path.name for path in out.iterdir()) if out.exists() else []
    if inside and not overwrite:
        raise InputError(f"{out}: is not empty; name a new folder, or replace the data set in it with --overwrite")
    foreign = [name for name in inside if name != "images" and not name.startswith("panoptic_")]
    if foreign:
        raise InputError(
            f"{out}: holds {foreign[0]!r}, which this command has not written; --overwrite replaces nothing but data "
            "sets in the COCO panoptic format. Name a new folder"
        )


def _write_pictures(
    source: DrawingSource,
    table: LabelTable,
    aside: Path,
    conversion: Conversion,
    summary: Summary,
    progress: Progress,
) -> list[_Written]:
    names, written = PictureNames(), []
    annotated: set[Path] = set()
    # Compressing maps is half of the work, and leaves Python to others: it is done by threads.
    with ThreadPoolExecutor(_WRITERS) as pool:
        saved: deque[Future[None]] = deque()
        for index in progress(range(len(source)), "converting", len(source)):
            try:
                drawing = fit_to_picture(source.read(index))
                _refuse_repeated(drawing, annotated)
                if conversion.split_things:
                    drawing = split_things(drawing, table)
                painting = paint(drawing, table.by_name, conversion.overlap)
            except InputError as error:
                if not conversion.skip_errors:
                    raise
                summary.problems.append(str(error))
                continue
            entry = _Written(names.take(drawing.image), drawing.size, drawing.split, painting)
            place_picture(drawing.image, aside / "images" / entry.name, conversion.link)
            saved.append(pool.submit(save_panoptic_png, painting.panoptic.ids, aside / "maps" / entry.map_name))
            if len(saved) > _WAITING:
                saved.popleft().result()
            summary.add(painting)
            # The JSON file does not need the map, and a view would keep all of it.
            slim = replace(painting.panoptic, ids=painting.panoptic.ids[:0].copy())
            written.append(replace(entry, painting=replace(painting, panoptic=slim)))
        for each in saved:
            each.result()
    return written


def _refuse_repeated(drawing: Drawing, annotated: set[Path]) -> None:
    """Refuse a second annotation of a picture, whose file is added to those that have one.

    Raises:
        InputError: The picture is among them.
    """
    if drawing.image in annotated:
        where = next((f", the second time in {piece.where}" for piece in drawing.pieces if piece.where), "")
        raise InputError(
            f"{drawing.image}: is annotated twice{where}; remove one of the annotations, or convert their files apart"
        )
    annotated.add(drawing.image)


def split_things(drawing: Drawing, table: LabelTable) -> Drawing:
    """Make an object of every connected part of a thing that the source does not tell apart (crowd without group)."""
    pieces: list[Piece] = []
    for piece in drawing.pieces:
        category = None if piece.category is None else table.by_name.get(piece.category)
        if category is None or not category.isthing or not piece.crowd or piece.group is not None:
            pieces.append(piece)
            continue
        top, left = piece.corner
        pieces += [
            replace(piece, mask=mask, corner=(top + row, left + column), crowd=False)
            for mask, (row, column) in connected_parts(piece.mask)
        ]
    return replace(drawing, pieces=tuple(pieces))


def _write_splits(aside: Path, written: Sequence[_Written], splits: Sequence[str], table: LabelTable) -> None:
    # Numbers stay what they are, as COCO's do; other pictures are numbered.
    stems = [Path(each.name).stem for each in written]
    numbers = [int(stem) for stem in stems if stem.isascii() and stem.isdigit() and len(stem) < 16]
    numbered = len(set(numbers)) == len(written)
    content: dict[str, dict[str, list[Any]]] = {}
    for position, (each, split) in enumerate(zip(written, splits, strict=True)):
        image_id = numbers[position] if numbered else position + 1
        document = content.setdefault(split, {"images": [], "annotations": [], "categories": table.labels.to_coco()})
        height, width = each.size
        document["images"].append({"id": image_id, "file_name": each.name, "height": height, "width": width})
        document["annotations"].append(panoptic_annotation(each.painting.panoptic, image_id, each.map_name))
        folder = aside / f"panoptic_{split}"
        folder.mkdir(exist_ok=True)
        (aside / "maps" / each.map_name).rename(folder / each.map_name)
    (aside / "maps").rmdir()
    for split, document in content.items():
        write_json(aside / f"panoptic_{split}.json", document)


def _swap(aside: Path, out: Path) -> None:
    """Give the finished data set its name; what had it before goes."""
    old = aside.with_name(f"{aside.name}.old")
    try:
        if out.exists():
            out.rename(old)
        aside.rename(out)
    except OSError as error:
        if old.exists() and not out.exists():
            old.rename(out)
        raise InputError(f"{out}: cannot be replaced ({error.strerror}); name another OUT") from error
    shutil.rmtree(old, ignore_errors=True)
