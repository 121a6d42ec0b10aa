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
    """

    by_value: Mapping[int, str]
    by_color: Mapping[int, str]


def read_label_png(path: Path) -> LabelPng:
    """Read a PNG file of numbers (grey with 1, 8 or 16 bits, or a palette) or of colours.

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
    values from 0, or a number and a name. A first line ``__ignore__`` (labelme) is no value.

    Raises:
        InputError: The file is empty, or two lines are of the same value.
    """
    path = next((folder / name for name in NAME_FILES if (folder / name).is_file()), None)
    if path is None:
        return None
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
    colored = [re.fullmatch(r"(.*?):(\d+),(\d+),(\d+)(?::.*)?", line) for line in lines]
    if all(colored):
        found = [(match[1], [int(match[channel]) for channel in (2, 3, 4)]) for match in colored if match]
        packed = [color[0] | color[1] << 8 | color[2] << 16 for _, color in found]
        _check_distinct(packed, path)
        names = [name for name, _ in found]
        return ValueNames(dict(enumerate(names)), dict(zip(packed, names, strict=True)))
    numbered = [re.fullmatch(r"(\d+)[\s:,;=]+(.+)", line) for line in lines]
    if all(numbered):
        values = [int(match[1]) for match in numbered if match]
        _check_distinct(values, path)
        return ValueNames(dict(zip(values, [match[2] for match in numbered if match], strict=True)), {})
    return ValueNames(dict(enumerate(lines)), {})


def _check_distinct(values: list[int], path: Path) -> None:
    if len(set(values)) < len(values):
        raise InputError(f"{path}: two lines are of the same value or colour; give each its own")


def semantic_values(png: LabelPng, names: ValueNames | None) -> tuple[np.ndarray, dict[int, str | None]]:
    """The values of a semantic PNG file, and the names of those that stand for something; void values have None.

    A palette's colours decide where all of them are named, else its numbers. Void without a name are 255, 65535 and the
    border colour of Pascal VOC. Without a file of names, numbers and colours (#rrggbb) are names.
    """
    void: dict[int, str | None] = {_VOC_BORDER: None} if png.colored else {255: None, 65535: None}
    present = np.unique(png.values).tolist()
    if names is None:
        return png.values, {value: _plain_name(value, png.colored) for value in present} | void
    if png.colored:
        return png.values, {**void, **names.by_color}
    if png.palette is not None and names.by_color and present[-1] < len(png.palette):
        known: dict[int, str | None] = {_VOC_BORDER: None, **names.by_color}
        if all(int(png.palette[value]) in known for value in present):
            return png.palette[png.values], known
    return png.values, {**void, **names.by_value}


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
