"""What the readers of annotation tools share: JSON, fields, numbers, and the pictures that an export names."""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from thingstuff.data.drawn.pictures import stored_size
from thingstuff.data.images import PICTURE_SUFFIXES
from thingstuff.errors import InputError
from thingstuff.structures import Size

_LARGEST = 2**31
"""No picture has coordinates beyond it; larger numbers are damage, and would not fit the rasteriser."""
_MOST_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 0)
"""Pillow opens no larger picture."""
_SUFFIXES = (*PICTURE_SUFFIXES, *map(str.upper, PICTURE_SUFFIXES))


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: It is missing, or no JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file; check the path") from error
    except (ValueError, OSError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: cannot be read as JSON ({reason}); export it again") from error


def json_begins(path: Path, marks: Iterable[str]) -> bool:
    """Whether a JSON file names all ``marks`` as keys within its first 256 KiB; False where it cannot be read."""
    try:
        with path.open("rb") as file:
            beginning = file.read(262144)
    except OSError:
        return False
    return beginning.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"[", b"{") and all(
        f'"{mark}"'.encode() in beginning for mark in marks
    )


def field(record: Any, name: str, kind: type | tuple[type, ...], where: str) -> Any:
    """A field of a JSON object, if it is there and of the right kind.

    Raises:
        InputError: It is missing or of another kind.
    """
    if not isinstance(record, dict):
        raise InputError(f"{where} is {_short(record)}, not an object")
    value = record.get(name)
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        words = {dict: "an object", list: "a list", str: "a text", int: "a whole number", float: "a number"}
        expected = " or ".join(dict.fromkeys(words[each] for each in kinds))
        found = _short(value) if name in record else "missing"
        raise InputError(f"{where}: {name} is {found}; expected {expected}")
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def finite(value: Any, name: str, where: str) -> float:
    """A coordinate, angle or length: a number, or the text of one.

    Raises:
        InputError: It is none, not finite, or absurdly large.
    """
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not abs(number) < _LARGEST:
        raise InputError(f"{where}: {name} is {_short(value)}; expected a finite number")
    return number


def whole(value: Any, name: str, where: str) -> int:
    """A whole number, or the text of one.

    Raises:
        InputError: It is none.
    """
    number = finite(value, name, where)
    if not number.is_integer():
        raise InputError(f"{where}: {name} is {_short(value)}; expected a whole number")
    return int(number)


def read_size(height: Any, width: Any, where: str) -> Size:
    """Height and width of a picture, as a file has them.

    Raises:
        InputError: They are no whole numbers from 1, or no picture that can be opened is so large.
    """
    size = whole(height, "height", where), whole(width, "width", where)
    if min(size) < 1 or size[0] * size[1] > _MOST_PIXELS:
        raise InputError(
            f"{where}: {size[1]} x {size[0]} pixels (width x height); expected at least 1 x 1 and at most "
            f"{_MOST_PIXELS // 1_000_000} million pixels"
        )
    return size


def find_picture(name: str, folders: Sequence[Path], where: str) -> Path | None:
    """The file of a picture, in the first of several folders that has it.

    Args:
        name: Path inside a folder, as the export writes it, perhaps on Windows.
        folders: Where to look.
        where: What to call the picture in messages.

    Returns:
        None where no folder has it.

    Raises:
        InputError: The name leads out of the folder.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    if not path.name or path.is_absolute() or ".." in path.parts or path.parts[0].endswith(":") or "\0" in name:
        raise InputError(f"{where}: the name {name!r} leads out of the export's folder; write a path inside it")
    return next((folder / path for folder in folders if is_file(folder / path)), None)


def find_by_end(name: str, folders: Sequence[Path], where: str) -> Path | None:
    """The picture at the longest end of a path that is there: folders above it may be those of another machine.

    Args:
        name: Path as the export writes it; it may be absolute, or lead out of the export's folder.
        folders: Where to look, and nowhere else.
        where: What to call the picture in messages.

    Returns:
        None where no folder has any end of the path.

    Raises:
        InputError: No file can have this name.
    """
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    ends = (parts[begin:] for begin in range(len(parts)))
    # What begins with a drive, or leads out of a folder, is of the other machine.
    inside = ("/".join(end) for end in ends if ".." not in end and not end[0].endswith(":"))
    found = (find_picture(end, folders, where) for end in inside)
    return next((image for image in found if image is not None), None)


def is_file(path: Path) -> bool:
    """Whether there is a file; there is none of a name that is too long for the system."""
    try:
        return path.is_file()
    except OSError:
        return False


def refuse_repeated(images: Iterable[Path], path: Path) -> None:
    """Refuse a file that lists a picture twice: each entry would have a part of its annotation.

    Raises:
        InputError: A picture is in ``images`` more than once.
    """
    seen: set[Path] = set()
    for image in images:
        if image in seen:
            raise InputError(f"{path}: lists the picture {image} twice; put its annotation into one entry")
        seen.add(image)


def refuse_missing(missing: Sequence[str], path: Path, folders: Sequence[Path]) -> None:
    """Refuse an export whose pictures are not there.

    Raises:
        InputError: There are names in ``missing``.
    """
    if missing:
        places = ", ".join(f"{folder}/" for folder in folders)
        noun = "picture is" if len(missing) == 1 else "pictures are"
        raise InputError(
            f"{path}: {len(missing)} {noun} missing, the first is {missing[0]}; put them into one of {places}"
        )


def find_without_suffix(name: str, folders: Sequence[Path], where: str) -> Path | None:
    """The same for a name that lacks the suffix of the file, as names of video frames do.

    Raises:
        InputError: The name leads out of the folder.
    """
    found = (find_picture(f"{name}{suffix}", folders, where) for suffix in _SUFFIXES)
    return next((image for image in found if image is not None), None)


def picture_size(path: Path) -> Size:
    """Height and width of the upright picture, without decoding its pixels where that is possible.

    Raises:
        InputError: As for ``read_image``.
    """
    (height, width), orientation = stored_size(path)
    return (width, height) if orientation >= 5 else (height, width)
