"""PNG files whose pixels are numbers or colours of classes and objects, and the files that name them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int32
from PIL import Image

from thingstuff.data.drawn.drawing import Piece
from thingstuff.data.drawn.lookup import is_file
from thingstuff.data.images import locate_segments
from thingstuff.errors import InputError

NAME_FILES = ("labelmap.txt", "classes.txt", "class_names.txt", "labels.txt")
"""What is looked for beside the PNG files, in this order."""
_VOC_BORDER = 224 + (224 << 8) + (192 << 16)
"""The colour that Pascal VOC gives to what shall not count."""
_VOID = (255, 65535)
"""The numbers of what shall not count, unless they have a name."""


@dataclass(frozen=True, slots=True)
class LabelPng:
    """The pixels of one file.

    Attributes:
        values: Numbers; of a coloured file R + 256 G + 65536 B.
        colored: They are colours.
        palette: Of a file with a palette, the colour of every number, written in the same way.
    """

    values: Int32[np.ndarray, "H W"]
    colored: bool
    palette: Int32[np.ndarray, " n"] | None = None


@dataclass(frozen=True, slots=True)
class ValueNames:
    """What the values of PNG files mean.

    Attributes:
        by_value: Names by number.
        by_color: Names by colour, R + 256 G + 65536 B; empty where the file of names has no colours.
        path: The file of names.
    """

    by_value: Mapping[int, str]
    by_color: Mapping[int, str]
    path: Path


def read_label_png(path: Path) -> LabelPng:
    """Read a PNG file of numbers (grey with 1, 8 or 16 bits, or a palette) or of colours; alpha is dropped.

    Raises:
        InputError: It is missing or damaged, or of a format that does not keep numbers.
    """
    try:
        if path.exists() and not is_file(path):  # opening a pipe would wait for ever
            raise OSError("it is no file")
        with Image.open(path) as image:
            image.load()
            if image.format == "JPEG":
                raise InputError(f"{path}: JPEG changes the numbers that pixels stand for; export the masks as PNG")
            if image.mode == "P":
                colors = np.array(image.getpalette("RGB") or [], dtype=np.int32).reshape(-1, 3)
                return LabelPng(np.array(image, dtype=np.int32), False, _pack(colors))
            if image.mode in ("1", "L", "I", "I;16", "I;16B"):
                return LabelPng(np.array(image).astype(np.int32), False)
            if image.mode == "LA":
                return LabelPng(np.array(image)[..., 0].astype(np.int32), False)
            if image.mode in ("RGB", "RGBA"):
                return LabelPng(_pack(np.array(image)[..., :3].astype(np.int32)), True)
            raise InputError(f"{path}: a picture of mode {image.mode}, not of numbers or colours; export it as PNG")
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file; every annotated picture needs one") from error
    except Exception as error:  # whatever Pillow raises on a damaged file
        raise InputError(f"{path}: damaged or cut short ({' '.join(str(error).split())}); export it again") from error


def _pack(rgb: np.ndarray) -> np.ndarray:
    return rgb[..., 0] | rgb[..., 1] << 8 | rgb[..., 2] << 16


def read_names(folder: Path) -> ValueNames | None:
    """The names of values, from a file in a folder; None where there is none.

    ``labelmap.txt`` has lines ``name:r,g,b:parts:actions`` (CVAT, Datumaro); the others a name in each line, for the
    values from 0, or a number and a name. Among lines without number, one of 255 or 65535 still names that value. A
    first line ``__ignore__`` (labelme) is no value.

    Raises:
        InputError: The file is empty, or two lines are of the same value.
    """
    path = next((folder / name for name in NAME_FILES if (folder / name).is_file()), None)
    if path is None:
        return None
    lines = _read_lines(path)
    colored = [re.fullmatch(r"(.*?):(\d+),(\d+),(\d+)(?::.*)?", line) for line in lines]
    if all(colored):
        found = [(match[1], [int(match[channel]) for channel in (2, 3, 4)]) for match in colored if match]
        packed = [color[0] | color[1] << 8 | color[2] << 16 for _, color in found]
        _check_distinct(packed, path)
        names = [name for name, _ in found]
        return ValueNames(dict(enumerate(names)), dict(zip(packed, names, strict=True)), path)
    numbered = [re.fullmatch(r"(\d+)[\s:,;=]+(.+)", line) for line in lines]
    # A name may begin with a number, but hardly with that of void.
    explicit = [match for match in numbered if match and (all(numbered) or int(match[1]) in _VOID)]
    plain = [line for line, match in zip(lines, numbered, strict=True) if match not in explicit]
    named = [*enumerate(plain), *((int(match[1]), match[2]) for match in explicit)]
    _check_distinct([value for value, _ in named], path)
    return ValueNames(dict(named), {}, path)


def _read_lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as text ({error}); save it as UTF-8") from error
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if lines[:1] == ["__ignore__"]:
        lines = lines[1:]
    if not lines:
        raise InputError(f"{path}: is empty; write the name of each value")
    return lines


def _check_distinct(values: list[int], path: Path) -> None:
    if len(set(values)) < len(values):
        raise InputError(f"{path}: two lines are of the same value or colour; give each its own")


def semantic_values(png: LabelPng, names: ValueNames | None, where: str) -> tuple[np.ndarray, dict[int, str | None]]:
    """The values of a semantic PNG file, and the names of those that stand for something; void values have None.

    A palette's colours decide where all of them are named, else its numbers. Void without a name are 255, 65535 and the
    border colour of Pascal VOC. Without a file of names, numbers and colours (#rrggbb) are names.

    Args:
        png: The pixels.
        names: What they mean.
        where: File, for messages.

    Raises:
        InputError: A colour has no name.
    """
    void: dict[int, str | None] = dict.fromkeys((_VOC_BORDER,) if png.colored else _VOID)
    present = np.unique(png.values).tolist()
    if names is None:
        return png.values, {value: _plain_name(value, png.colored) for value in present} | void
    if png.colored:
        unnamed = [color for color in present if color not in void and color not in names.by_color]
        if unnamed:
            raise InputError(f"{where}: {_describe_unnamed(unnamed, png.values, names)}")
        return png.values, {**void, **names.by_color}
    if png.palette is not None and names.by_color and present[-1] < len(png.palette):
        known: dict[int, str | None] = {_VOC_BORDER: None, **names.by_color}
        if all(int(png.palette[value]) in known for value in present):
            return png.palette[png.values], known
    return png.values, {**void, **names.by_value}


def _describe_unnamed(unnamed: list[int], colors: Int32[np.ndarray, "H W"], names: ValueNames) -> str:
    """What is wrong with colours that have no name, and what to do about it."""
    if names.by_color:
        shown = _triple(unnamed[0])
        return (
            f"{np.count_nonzero(colors == unnamed[0])} pixels have the colour {shown}, which has no name; add the line "
            f"name:{shown}:: to {names.path}, or paint it {_triple(_VOC_BORDER)} (void)"
        )
    shown = "; ".join([_triple(color) for color in unnamed[:3]] + ["..."] * (len(unnamed) > 3))
    grey = all(color == (color & 255) * 0x010101 for color in unnamed)
    numbers = {color & 255 for color in unnamed} - {255}
    keeps = grey and max(numbers, default=0) > 0 and numbers <= names.by_value.keys()
    return (
        f"is coloured ({shown}), but {names.path} names numbers; write {names.path.parent / NAME_FILES[0]} with a line "
        "name:r,g,b:: for each colour, or save the mask as grey"
        + (", which keeps its numbers, as R = G = B everywhere" if keeps else " with those numbers")
    )


def _triple(color: int) -> str:
    return f"{color & 255},{color >> 8 & 255},{color >> 16}"


def _plain_name(value: int, colored: bool) -> str:
    return f"#{value & 255:02x}{value >> 8 & 255:02x}{value >> 16:02x}" if colored else str(value)


def pieces_of(
    values: Int32[np.ndarray, "H W"],
    objects: Int32[np.ndarray, "H W"] | None,
    names: Mapping[int, str | None],
    where: str,
) -> list[Piece]:
    """The pieces of a picture: one for every class and object.

    Pixels of a class with the object 0, or without a map of objects, are not told apart: a crowd, if they are things.

    Args:
        values: Class of every pixel.
        objects: Object of every pixel, 0 where none.
        names: Name of every value; None: void, which gives no piece.
        where: File, for messages.

    Raises:
        InputError: A value has no name.
    """
    keys = values.astype(np.int64) << 32
    if objects is not None:
        keys |= objects.astype(np.int64)
    # On runs of equal pixels, some hundred times fewer than pixels.
    flat = keys.ravel()
    starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
    distinct, inverse = np.unique(flat[starts], return_inverse=True)
    rows = np.repeat(inverse.astype(np.int32) + 1, np.diff(starts, append=flat.size)).reshape(values.shape)
    located = locate_segments(rows, list(range(1, len(distinct) + 1)))
    pieces = []
    for row, (key, box) in enumerate(zip(distinct.tolist(), located.boxes.tolist(), strict=True), start=1):
        value, number = key >> 32, key & 0xFFFFFFFF
        if value not in names:
            pixels = np.count_nonzero(values == value)
            raise InputError(
                f"{where}: {pixels} pixels have the value {value}, which has no name; add it to the file of names "
                f"({', '.join(NAME_FILES[:2])}) or paint it 255 (void)"
            )
        name, (left, top, right, bottom) = names[value], box
        if name is not None:
            mask = rows[top:bottom, left:right] == row
            pieces.append(Piece(name, mask, (top, left), group=number or None, crowd=number == 0))
    return pieces
