"""What is a thing and what is stuff: said by the source, or asked for once in a ``labels.toml``."""

import difflib
import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from thingstuff.data.drawn.drawing import Drawing, DrawnCategory
from thingstuff.errors import InputError
from thingstuff.labels import Category, LabelSet, default_color

_STUFF = (
    "background sky road street sidewalk pavement path track grass lawn vegetation tree trees forest bush field soil "
    "ground dirt earth sand snow ice water sea river lake mountain hill rock wall floor ceiling building roof fence "
    "bridge railing terrain platform gravel mud carpet curtain cloud clouds fog smoke tissue stroma"
)
STUFF_WORDS = frozenset(_STUFF.split())
"""Last words of names that are taken for stuff."""
VOID_WORDS = frozenset(
    ("void", "ignore", "ignored", "unlabeled", "unlabelled", "unknown", "dontcare", "don't care", "_ignore_", "none")
)
"""Names that are taken for what nobody shall learn."""
LARGE_SHARE = 0.25
"""What covers a larger share of the pictures that it is in is taken for stuff."""
_FIELDS = ("thing", "name", "color", "ignore")


@dataclass(frozen=True, slots=True)
class LabelTable:
    """Which of our categories the names of a source are.

    Attributes:
        labels: Categories with the ids 1, 2, ... in the order of the table.
        by_name: The category of each name of the source; None: void.
    """

    labels: LabelSet
    by_name: Mapping[str, Category | None]


@dataclass(slots=True)
class NameCount:
    """How often a name was drawn.

    Attributes:
        objects: Pieces, those of one group in one picture as one.
        pictures: Pictures with it.
        share: Sum over these pictures of the share that it covers.
        merged: Pieces that do not tell objects apart.
    """

    objects: int = 0
    pictures: int = 0
    share: float = 0.0
    merged: int = 0


@dataclass(slots=True)
class NameCounts:
    """How often every name of a source was drawn; ``add`` one drawing after the other."""

    by_name: dict[str, NameCount] = field(default_factory=dict)

    def add(self, drawing: Drawing) -> None:
        """Count what is on one picture."""
        objects: Counter[str] = Counter()
        seen: set[tuple[str, int | str]] = set()
        for piece in drawing.pieces:
            if piece.category is None:
                continue
            count = self.by_name.setdefault(piece.category, NameCount())
            count.share += int(np.count_nonzero(piece.mask)) / (drawing.size[0] * drawing.size[1])
            count.merged += piece.crowd
            if piece.group is None or (piece.category, piece.group) not in seen:
                objects[piece.category] += 1
            if piece.group is not None:
                seen.add((piece.category, piece.group))
        for name, number in objects.items():
            self.by_name[name].objects += number
            self.by_name[name].pictures += 1


# --- a table without asking ---


def table_of_source(categories: Sequence[DrawnCategory], source: str) -> LabelTable | None:
    """The table that the source itself gives; None where it does not say of every name whether it is a thing.

    Raises:
        InputError: There is no category, too many, a name is no text, or one name is both thing and stuff.
    """
    _check_names(categories, source)
    rows = [_Row(each.name, each.name, each.isthing, each.color) for each in categories if each.isthing is not None]
    return _build(rows, source) if len(rows) == len(categories) else None


# --- labels.toml ---


def write_table(path: Path, categories: Sequence[DrawnCategory], counts: NameCounts, source: str) -> None:
    """Write a ``labels.toml`` for editing: every name, what was found of it, and a guess where the source is silent.

    Args:
        path: A file that is not there yet.
        categories: Of the source, in its order.
        counts: Of all its pictures.
        source: What to call it.

    Raises:
        InputError: The file is there already, or cannot be written, or a name is no text.
    """
    _check_names(categories, source)
    lines = [
        f"# The classes of {' '.join(source.split())}, for `thingstuff data convert ... --labels {path.name}`.",
        "#",
        "# thing = true    countable objects, each its own segment; false: stuff, one segment in a picture",
        '# name = "..."    another name; two tables with the same name become one class',
        "# ignore = true   void: never learned, never counted",
        "# color = [r, g, b]",
        "#",
        "# The order decides the ids, and with --overlap by-order who lies on top: the first.",
    ]
    for category in categories:
        count = counts.by_name.get(category.name, NameCount())
        lines += ["", f"[{_toml_text(category.name, key=True)}]", *_table_lines(category, count)]
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
    except FileExistsError as error:
        raise InputError(
            f"{path}: is there already; take it with --labels {path}, or move it away to get a new one"
        ) from error
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); name an OUT in a folder of yours") from error


def _check_names(categories: Sequence[DrawnCategory], source: str) -> None:
    """Refuse halves of characters, which JSON can name and no file of text holds."""
    for category in categories:
        if any("\ud800" <= character <= "\udfff" for character in category.name):
            raise InputError(f"{source}: the class {category.name!a} has half a character in its name; rename it")


def _table_lines(category: DrawnCategory, count: NameCount) -> Iterable[str]:
    if count.pictures:
        share = 100 * count.share / count.pictures
        found = f"objects: {count.objects}, pictures: {count.pictures}, share of each: {share:.2g} %"
    else:
        found = "not drawn in any picture"
    if category.isthing is not None:
        yield f"thing = {str(category.isthing).lower()}  # says the source; {found}"
    elif category.name.strip("_ ").lower() in VOID_WORDS:
        yield f"ignore = true  # a guess by the name; {found}"
    else:
        yield f"thing = {str(_looks_countable(category.name, count)).lower()}  # a guess; {found}"
    if category.color is not None:
        yield f"color = {list(category.color)}"


def _looks_countable(name: str, count: NameCount) -> bool:
    words = re.split(r"[^a-z]+", name.lower().strip("_- 0123456789"))
    if words[-1] in STUFF_WORDS or (count.merged and count.merged == count.objects):
        return False
    return not count.pictures or count.share / count.pictures <= LARGE_SHARE


def _toml_text(text: str, *, key: bool = False) -> str:
    if key and re.fullmatch(r"[A-Za-z0-9_-]+", text):
        return text
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def read_table(path: Path, categories: Sequence[DrawnCategory]) -> LabelTable:
    """Read an edited ``labels.toml``.

    Names that the source does not have may stand in it: a table serves several exports, and its order gives all of
    them the same ids.

    Raises:
        InputError: It cannot be read, a field is not as it should be, or a name of the source is missing.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path given as --labels") from error
    except ValueError as error:
        raise InputError(f"{path}: not TOML ({' '.join(str(error).split())}); correct the line") from error
    rows = [_read_row(name, fields, path) for name, fields in content.items()]
    listed = {row.source for row in rows}
    missing = [category.name for category in categories if category.name not in listed]
    if missing:
        shown = ", ".join(_toml_text(name) for name in missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise InputError(
            f"{path}: {len(missing)} names of the source are missing: {shown}; add a table for each, for example "
            f"[{_toml_text(missing[0], key=True)}] with thing = true, thing = false or ignore = true"
        )
    return _build(rows, str(path))


@dataclass(frozen=True, slots=True)
class _Row:
    """One name of the source; neither thing nor stuff: void."""

    source: str
    name: str
    isthing: bool | None
    color: tuple[int, int, int] | None


def _read_row(source: str, fields: Any, path: Path) -> _Row:
    where = f"{path}: [{_toml_text(source, key=True)}]"
    if not isinstance(fields, dict):
        raise InputError(f"{path}: {source} = {fields!r} stands outside of every table; write it below a [name]")
    for key in fields:
        if key not in _FIELDS:
            near = difflib.get_close_matches(key, _FIELDS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(_FIELDS)}"
            raise InputError(f"{where} has a field {key!r}; {hint}")
    ignore, thing, name = fields.get("ignore", False), fields.get("thing"), fields.get("name", source)
    if not isinstance(ignore, bool):
        raise InputError(f"{where}: ignore is {ignore!r}; write true or false")
    if not ignore and not isinstance(thing, bool):
        found = "is missing" if thing is None else f"is {thing!r}"
        raise InputError(f"{where}: thing {found}; write true for countable objects, false for stuff")
    if not isinstance(name, str) or not name:
        raise InputError(f"{where}: name is {name!r}; write a text")
    return _Row(source, name, None if ignore else thing, _read_color(fields.get("color"), where))


def _read_color(color: Any, where: str) -> tuple[int, int, int] | None:
    if color is None:
        return None
    if not isinstance(color, list) or len(color) != 3 or not all(type(c) is int and 0 <= c <= 255 for c in color):
        raise InputError(f"{where}: color is {color!r}; write three whole numbers from 0 to 255")
    return color[0], color[1], color[2]


def _build(rows: Sequence[_Row], source: str) -> LabelTable:
    """Number the categories in the order of their first names."""
    first: dict[str, _Row] = {}
    for row in rows:
        if row.isthing is None:
            continue
        other = first.setdefault(row.name, row)
        if other.isthing != row.isthing:
            raise InputError(
                f"{source}: {row.name!r} is both thing (from {(other if other.isthing else row).source!r}) and stuff "
                f"(from {(row if other.isthing else other).source!r}); give one of them another name"
            )
    if not first:
        raise InputError(f"{source}: there is no class to learn; name at least one thing or stuff")
    colors = {
        name: next((r.color for r in rows if r.isthing is not None and r.name == name and r.color), None)
        for name in first
    }
    labels = LabelSet.from_coco(
        [
            {"id": number, "name": name, "isthing": row.isthing, "color": colors[name] or default_color(number - 1)}
            for number, (name, row) in enumerate(first.items(), start=1)
        ],
        source,
    )
    category = {each.name: each for each in labels.categories}
    return LabelTable(labels, {row.source: None if row.isthing is None else category[row.name] for row in rows})
