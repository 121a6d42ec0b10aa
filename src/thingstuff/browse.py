"""A checked data set to look at: every picture under its labels, the worst findings first, as a page and as one sheet.

What is wrong is drawn, too: pixels of ids that nobody lists are magenta, and a picture without labels stands bare.
"""

import difflib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int32, UInt8
from PIL import Image, ImageDraw

from thingstuff.browse_page import Card, Page, write_page
from thingstuff.data.checking.check import CheckedData
from thingstuff.data.checking.files import CheckedPicture
from thingstuff.data.checking.kinds import SEVERITIES, Finding, Severity
from thingstuff.data.checking.pixels import WrongMapError, count_ids, read_map
from thingstuff.data.checking.records import ListedPicture, relative
from thingstuff.data.images import read_stored
from thingstuff.errors import InputError
from thingstuff.labels import Category, LabelSet, default_color
from thingstuff.structures import VOID_ID, Panoptic, Segment
from thingstuff.viz import as_photo, draw_panoptic
from thingstuff.viz_names import font_of, letters_of, shorten

_LONGEST_SIDE = 960
"""Pixels that a drawing has at most."""
_QUALITY = 86
_UNLISTED, _UNKNOWN = -1, -2
"""Categories of what the JSON file does not list: a segment, a category."""
_STRANGE = (
    Category(_UNLISTED, "not listed", True, (255, 0, 200)),
    Category(_UNKNOWN, "unknown category", True, (255, 0, 200)),
)
_BARE = (46, 50, 58)
_SHEET_COLUMNS, _CELL, _MOST_ON_SHEET = 6, (256, 192), 120
_KEY_WIDTH = 230
"""Pixels for a class under the contact sheet."""
_FRAMES: dict[Severity | None, tuple[int, int, int]] = {
    "error": (214, 48, 62),
    "warning": (222, 142, 22),
    "note": (150, 158, 170),
    None: (214, 219, 226),
}

Progress = Callable[[Iterable["_Chosen"], int], Iterable["_Chosen"]]
"""Shows how far it is: gets what is drawn and how much there is."""


@dataclass(frozen=True, slots=True)
class ShownData:
    """What was written.

    Attributes:
        page: The HTML file.
        sheet: The contact sheet.
        drawn: Pictures on the page.
        pictures: Pictures that there are, or that have one of the classes asked for.
    """

    page: Path
    sheet: Path
    drawn: int
    pictures: int


@dataclass(frozen=True, slots=True)
class _Chosen:
    """A picture to show and what is wrong with it, errors first."""

    picture: CheckedPicture
    findings: tuple[Finding, ...]

    @property
    def worst(self) -> Severity | None:
        return self.findings[0].kind.severity if self.findings else None


def show_data(
    checked: CheckedData,
    out: Path,
    *,
    classes: Sequence[str] = (),
    limit: int = 100,
    progress: Progress = lambda items, _: items,
) -> ShownData:
    """Draw the pictures with the worst findings, and write a page and a contact sheet.

    Args:
        checked: What the check found.
        out: The folder to write ``index.html``, ``sheet.jpg`` and ``pictures/`` to; made if need be.
        classes: Only pictures with one of these. Nothing: all.
        limit: Pictures to show at most.
        progress: Shows how far it is.

    Raises:
        InputError: There is no such class, or the folder cannot be written to.
    """
    labels = _labels(checked)
    wanted = {_find_class(name, checked) for name in classes}
    ranked, others = _rank(checked, wanted)
    chosen = ranked[:limit]
    _make_folder(out / "pictures")
    cards, cells = [], []
    for number, item in enumerate(progress(chosen, len(chosen)), start=1):
        photo, named, bare = _draw(item.picture, labels)
        files = tuple(f"pictures/{number:04d}{suffix}.jpg" for suffix in ("", "_photo"))
        for image, file in zip((named, photo), files, strict=True):
            _save(image, out / file)
        cards.append(_card(item, checked, files[0], files[1], named.size))
        if len(cells) < _MOST_ON_SHEET:
            cells.append((bare, item))
    page = Page(
        title=checked.root.resolve().name,
        shown=f"{len(chosen)} of {len(ranked)} pictures" + (f" with {' or '.join(classes)}" if classes else ""),
        splits=checked.splits,
        categories=tuple(category for category in labels.categories if category.id >= 0),
        findings=checked.findings,
        others=tuple(others),
        cards=tuple(cards),
    )
    write_page(out / "index.html", page)
    worst_first = ", the worst first" if checked.findings else ""
    _save(_sheet(cells, f"{page.title}: {page.shown}{worst_first}", page.categories), out / "sheet.jpg")
    return ShownData(out / "index.html", out / "sheet.jpg", len(chosen), len(ranked))


# --- what to show ---


def _labels(checked: CheckedData) -> LabelSet:
    """The categories in class order, and those of what is not listed."""
    categories = [
        Category(c.id, c.name, c.isthing is not False, c.color or default_color(position))
        for position, c in enumerate(checked.categories)
    ]
    return LabelSet((*categories, *_STRANGE))


def _find_class(name: str, checked: CheckedData) -> int:
    ids = {category.name: category.id for category in checked.categories}
    if name in ids:
        return ids[name]
    near = difflib.get_close_matches(name, ids, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise InputError(f"{checked.root}: there is no class {name!r}; {hint}there are: {', '.join(ids)}")


def _rank(checked: CheckedData, wanted: set[int]) -> tuple[list[_Chosen], list[Finding]]:
    """The pictures, the worst first, and the findings that belong to none of them."""
    known = {_key(picture, checked.root): position for position, picture in enumerate(checked.pictures)}
    by_name = {(p.split, p.listed.file_name): position for position, p in enumerate(checked.pictures)}
    findings: dict[int, list[Finding]] = {}
    others: list[Finding] = []
    for finding in checked.findings:
        position = by_name.get((finding.split or "", finding.picture)) if finding.picture is not None else None
        position = known.get(finding.file) if position is None else position
        if position is None:
            others.append(finding)
        else:
            findings.setdefault(position, []).append(finding)
    chosen = [
        _Chosen(picture, tuple(findings.get(position, ())))
        for position, picture in enumerate(checked.pictures)
        if not wanted or wanted & {segment.category_id for segment in picture.listed.segments}
    ]
    chosen.sort(key=_badness, reverse=True)
    return chosen, others


def _key(picture: CheckedPicture, root: Path) -> str | None:
    return None if picture.map is None else relative(picture.map, root)


def _badness(chosen: _Chosen) -> tuple[int, ...]:
    counts = Counter(finding.kind.severity for finding in chosen.findings)
    return tuple(counts[severity] for severity in SEVERITIES)


def _card(item: _Chosen, checked: CheckedData, drawing: str, photo: str, size: tuple[int, int]) -> Card:
    picture = item.picture
    known = {category.id for category in checked.categories}
    listed = picture.listed
    pixels = "size unknown" if listed.size is None else f"{listed.size[1]} x {listed.size[0]}"
    segments = "1 segment" if len(listed.segments) == 1 else f"{len(listed.segments)} segments"
    return Card(
        name=_file_name(listed),
        note=f"{picture.split} · {pixels} · {segments}",
        drawing=drawing,
        photo=photo,
        size=size,
        classes=frozenset(segment.category_id for segment in listed.segments if segment.category_id in known),
        findings=item.findings,
    )


# --- drawing ---


def _draw(picture: CheckedPicture, labels: LabelSet) -> tuple[Image.Image, Image.Image, Image.Image]:
    """The picture, the picture under its named labels, and the same without names; all at one size."""
    photo, ids = _read_photo(picture), _read_ids(picture)
    if ids is None:
        bare = Image.new("RGB", (480, 320), _BARE) if photo is None else Image.fromarray(photo)
        return bare, bare, bare
    if photo is None:
        photo = np.full((*ids.shape, 3), _BARE, dtype=np.uint8)
    if photo.shape[:2] != ids.shape:
        photo = np.asarray(Image.fromarray(photo).resize(ids.shape[::-1], Image.Resampling.BOX))
    panoptic = _panoptic(ids, picture, labels)
    named, plain = (draw_panoptic(photo, panoptic, labels, names=names) for names in (True, False))
    return Image.fromarray(photo).resize(named.size, Image.Resampling.LANCZOS), named, plain


def _read_photo(picture: CheckedPicture) -> UInt8[np.ndarray, "H W 3"] | None:
    try:
        photo = None if picture.photo is None else as_photo(read_stored(picture.photo))
    except InputError:
        return None
    if photo is None or max(photo.shape) <= _LONGEST_SIDE:
        return photo
    image = Image.fromarray(photo)
    image.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    return np.asarray(image)


def _read_ids(picture: CheckedPicture) -> Int32[np.ndarray, "H W"] | None:
    """The id map, thinned out as far as the picture is made smaller."""
    try:
        ids = None if picture.map is None else read_map(str(picture.map))
    except WrongMapError:
        return None
    if ids is None or max(ids.shape) <= _LONGEST_SIDE:
        return ids
    scale = _LONGEST_SIDE / max(ids.shape)
    rows, columns = (
        np.minimum((np.arange(max(1, round(side * scale))) + 0.5) / scale, side - 1).astype(int) for side in ids.shape
    )
    return ids[np.ix_(rows, columns)]


def _panoptic(ids: Int32[np.ndarray, "H W"], picture: CheckedPicture, labels: LabelSet) -> Panoptic:
    listed = {segment.id: segment.category_id for segment in picture.listed.segments}
    counted = count_ids(ids)
    segments = []
    for identity, area, box in zip(counted.ids.tolist(), counted.areas.tolist(), counted.boxes.tolist(), strict=True):
        if identity == VOID_ID:
            continue
        category_id = listed.get(identity, _UNLISTED)
        if category_id is None or category_id not in labels.index:
            category_id = _UNKNOWN
        category = labels.categories[labels.index[category_id]]
        x, y, width, height = box
        segments.append(
            Segment(identity, category.id, category.name, category.isthing, None, area, (x, y, width, height))
        )
    return Panoptic(ids, tuple(segments))


def _sheet(cells: Sequence[tuple[Image.Image, _Chosen]], title: str, categories: Sequence[Category]) -> Image.Image:
    """All pictures small in rows, framed in the colour of their worst finding, with their names; below, the classes."""
    columns = max(1, min(_SHEET_COLUMNS, len(cells)))
    (width, height), gap, header = _CELL, 14, 58
    caption = 26
    rows = -(-len(cells) // columns)
    # The title has room even over a single picture.
    sheet_width = max(gap + columns * (width + gap), 640)
    keys = max(1, (sheet_width - gap) // _KEY_WIDTH)
    below = header + rows * (height + caption + gap)
    size = (sheet_width, below + -(-len(categories) // keys) * caption + gap)
    sheet = Image.new("RGB", size, (255, 255, 255))
    captions = [f"{item.picture.split}: {_file_name(item.picture.listed)}" for _, item in cells]
    pen, font = ImageDraw.Draw(sheet), font_of(14, letters_of([*captions, *(each.name for each in categories)]))
    large = font_of(20, letters_of([title]))
    pen.text((gap, header / 2), shorten(title, large, size[0] - 2 * gap), (27, 32, 40), large, anchor="lm")
    for position, (image, item) in enumerate(cells):
        left, top = gap + position % columns * (width + gap), header + position // columns * (height + caption + gap)
        scale = min((width - 8) / image.width, (height - 8) / image.height)
        fitted = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        pen.rectangle((left, top, left + width - 1, top + height - 1), (238, 241, 245), _FRAMES[item.worst], 3)
        small = image.resize(fitted, Image.Resampling.LANCZOS)
        sheet.paste(small, (left + (width - fitted[0]) // 2, top + (height - fitted[1]) // 2))
        text = shorten(captions[position], font, width)
        pen.text((left, top + height + caption / 2), text, (89, 97, 110), font, anchor="lm")
    for position, category in enumerate(categories):
        left, top = gap + position % keys * _KEY_WIDTH, below + position // keys * caption
        pen.rectangle((left, top + 6, left + 14, top + 20), category.color, (89, 97, 110))
        text = shorten(category.name, font, _KEY_WIDTH - 30)
        pen.text((left + 22, top + caption / 2), text, (27, 32, 40), font, anchor="lm")
    return sheet


def _file_name(listed: ListedPicture) -> str:
    return listed.file_name or listed.map_name or "unnamed"


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror}); give --out a folder of yours") from error


def _save(image: Image.Image, path: Path) -> None:
    try:
        image.save(path, "JPEG", quality=_QUALITY, subsampling=0)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"{path}: cannot be written ({reason}); check that the folder has space") from error
