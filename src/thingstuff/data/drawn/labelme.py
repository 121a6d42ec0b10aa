"""labelme's JSON files, one for every picture.

Shapes with an area are read: polygon, rectangle, oriented rectangle, circle and mask; points and lines are left out
with a warning. Shapes of one label and ``group_id`` are one object. The picture is the file that ``imagePath`` names,
else what stands in ``imageData``, else the one beside the JSON file that is named like it.

Source: https://github.com/wkentaro/labelme
"""

import base64
import binascii
import io
import math
import shutil
import tempfile
import warnings
import weakref
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
from PIL import Image

from thingstuff.data.drawn.drawing import Drawing, DrawnCategory, Piece
from thingstuff.data.drawn.lookup import field, is_file, json_begins, picture_size, read_json, read_size
from thingstuff.data.drawn.pictures import stored_size
from thingstuff.data.drawn.polygons import Placed, crop, ellipse, fill_polygons, read_points
from thingstuff.data.drawn.splitting import split_name
from thingstuff.data.images import PICTURE_SUFFIXES
from thingstuff.errors import InputError
from thingstuff.structures import Size

_WITHOUT_AREA = ("point", "points", "line", "linestrip")


class LabelmeFiles:
    """Made by ``open_labelme``.

    A picture that stands in a JSON file is written to a temporary folder, where it stays until the next is read.

    Args:
        root: Folder that no picture may lie outside of.
        files: JSON files.
        categories: All labels.
    """

    def __init__(self, root: Path, files: tuple[Path, ...], categories: tuple[DrawnCategory, ...]) -> None:
        self.root, self.files, self.categories = root, files, categories
        self._folder = Path(tempfile.mkdtemp(prefix="thingstuff-labelme-"))
        self._clean = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> Drawing:
        """Decode the shapes of one picture."""
        path = self.files[index]
        document = read_json(path)
        shapes = field(document, "shapes", list, str(path))
        image = _find_picture(document, path, self.root)
        embedded = image is None
        if image is None:
            image = self._write_embedded(document, path)
        height, width = document.get("imageHeight"), document.get("imageWidth")
        known = type(height) is int and type(width) is int and height > 0 and width > 0
        size = read_size(height, width, f"{path}: imageHeight, imageWidth") if known else picture_size(image)
        if embedded:
            _check_embedded(size, image, path)
        pieces = [
            piece
            for position, shape in enumerate(shapes)
            if (piece := _read_shape(shape, size, f"{path}: shapes[{position}]")) is not None
        ]
        inner = path.relative_to(self.root).parts[:-1]
        split = next((word for part in inner if (word := split_name(part)) in ("train", "val", "test")), None)
        return Drawing(image, size, tuple(pieces), split)

    def _write_embedded(self, document: dict[str, Any], path: Path) -> Path:
        data = document.get("imageData")
        if not isinstance(data, str) or not data:
            raise InputError(
                f"{path}: there is no picture {document.get('imagePath')!r} inside {self.root}, and imageData is "
                "empty; put the picture beside the JSON file"
            )
        content = _decode(data, "imageData", str(path))
        named = PureWindowsPath(str(document.get("imagePath") or "")).name
        suffix = Path(named).suffix if Path(named).suffix.lower() in PICTURE_SUFFIXES else _suffix(content, path)
        # The folder's name is seen where two pictures have one name.
        folder = self._folder / (path.parent.name or "labelme")
        image = folder / f"{Path(named).stem or path.stem}{suffix}"
        try:
            for old in self._folder.iterdir():
                shutil.rmtree(old)
            folder.mkdir()
            image.write_bytes(content)
        except OSError as error:
            raise InputError(f"{path}: its picture cannot be written to {folder} ({error.strerror})") from error
        try:
            picture_size(image)
        except InputError as error:
            # It would name a temporary file.
            raise InputError(f"{path}: imageData is damaged or no picture; save the file again in labelme") from error
        return image


def recognize(source: Path) -> bool:
    """Whether there are JSON files with shapes."""
    try:
        files = [source] if source.is_file() else sorted(source.glob("*.json"))[:5] or _first_below(source)
        # Of sorted keys, the picture itself comes before the shapes.
        return any(
            json_begins(path, (mark,))
            for path in files
            if path.suffix.lower() == ".json"
            for mark in ("shapes", "imageData")
        )
    except OSError:
        return False


def _first_below(folder: Path) -> list[Path]:
    return [path for _, path in zip(range(5), folder.rglob("*.json"), strict=False)]


def open_labelme(source: Path) -> LabelmeFiles:
    """Open a JSON file, or all in a folder and below.

    Files that are JSON, but have no shapes, are left out. Damaged ones fail when they are read.

    Raises:
        InputError: There are none, or there is no label in them.
    """
    root = source.parent if source.is_file() else source
    files: list[Path] = []
    labels: dict[str, None] = {}
    for path in [source] if source.is_file() else sorted(source.rglob("*.json")):
        try:
            document = read_json(path)
        except InputError:
            files.append(path)
            continue
        if not isinstance(document, dict) or "shapes" not in document:
            continue
        files.append(path)
        shapes = document["shapes"] if isinstance(document["shapes"], list) else []
        drawn = [shape for shape in shapes if isinstance(shape, dict) and isinstance(shape.get("label"), str)]
        labels |= dict.fromkeys(shape["label"] for shape in drawn if shape.get("shape_type") not in _WITHOUT_AREA)
    if not files:
        raise InputError(f"{source}: no JSON file with shapes; give labelme's folder")
    if not labels:
        read_json(files[0])  # where it is damaged, that is the reason
        raise InputError(f"{source}: no shape with an area in {len(files)} JSON files; there is nothing to learn")
    return LabelmeFiles(root, tuple(files), tuple(DrawnCategory(label) for label in labels))


# --- pictures ---


def _find_picture(document: dict[str, Any], path: Path, root: Path) -> Path | None:
    """The picture's file; never one outside the folder that was given."""
    named = document.get("imagePath")
    candidates: list[Path] = []
    if isinstance(named, str) and named and "\0" not in named:
        windows = PureWindowsPath(named)
        if not windows.is_absolute() and not windows.drive and not named.startswith(("/", "\\")):
            candidates.append(path.parent / windows.as_posix())
        # A path of another machine, or one that leads out of the folder: perhaps the file itself was brought along.
        candidates.append(path.parent / windows.name)
    if not document.get("imageData"):
        candidates += [path.with_suffix(suffix) for suffix in PICTURE_SUFFIXES]
    inside = root.resolve()
    return next((file for file in candidates if is_file(file) and file.resolve().is_relative_to(inside)), None)


def _check_embedded(size: Size, image: Path, path: Path) -> None:
    """Refuse a size that does not fit here already: later on, the message would name a temporary file."""
    stored, orientation = stored_size(image)
    if size != stored and (orientation < 5 or size != stored[::-1]):
        raise InputError(
            f"{path}: imageWidth x imageHeight is {size[1]} x {size[0]}, the picture in imageData has {stored[1]} x "
            f"{stored[0]} pixels; was it replaced after it was annotated? Save the file again in labelme"
        )


def _decode(text: str, name: str, where: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"{where}: {name} is damaged ({error}); save the file again in labelme") from error


def _suffix(content: bytes, path: Path) -> str:
    try:
        with Image.open(io.BytesIO(content)) as image:
            return {"JPEG": ".jpg", "PNG": ".png"}.get(image.format or "", f".{(image.format or 'png').lower()}")
    except Exception as error:  # whatever Pillow raises on damaged data
        raise InputError(f"{path}: imageData is no picture; save the file again in labelme") from error


# --- shapes ---


def _read_shape(shape: Any, size: Size, where: str) -> Piece | None:
    label = field(shape, "label", str, where)
    if not label.strip():
        raise InputError(f"{where}: its label is empty; give it the name of a class in labelme")
    kind = shape.get("shape_type") or "polygon"  # old files have none
    where = f"{where} ({label!r}, {kind})"
    group = shape.get("group_id")
    if group is not None and (isinstance(group, bool) or not isinstance(group, int | str)):
        raise InputError(f"{where}: group_id is {group!r}; write a whole number or null")
    if kind in _WITHOUT_AREA:
        warnings.warn(f"{where}: has no area and is left out", stacklevel=2)
        return None
    points = read_points(field(shape, "points", list, where), size, where)
    expected = {"rectangle": (2, 4), "oriented_rectangle": (4,), "circle": (2,), "mask": (2,)}
    if kind == "polygon":
        if len(points) < 3:
            raise InputError(f"{where}: {len(points)} points; a polygon has three or more")
    elif kind not in expected:
        raise InputError(f"{where}: an unknown kind of shape; draw it as a polygon or mask")
    elif len(points) not in expected[kind]:
        raise InputError(f"{where}: {len(points)} points instead of {expected[kind][0]}; draw it again")
    mask, corner = _place(kind, points, shape.get("mask"), size, where)
    return Piece(label, mask, corner, group, where=where)


def _place(kind: str, points: np.ndarray, mask: Any, size: Size, where: str) -> Placed:
    (x1, y1), (x2, y2) = points[0].tolist(), points[1].tolist()
    match kind:
        case "circle":
            radius = math.hypot(x2 - x1, y2 - y1)
            return ellipse((x1, y1), (radius, radius), size)
        case "mask":
            return _read_mask(mask, (round(x1), round(y1), round(x2), round(y2)), size, where)
        case "rectangle" if len(points) == 2:
            points = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])
    return fill_polygons([points], size)


def _read_mask(mask: Any, box: tuple[int, int, int, int], size: Size, where: str) -> Placed:
    """A PNG file in base64 that fills its box, whose last row and column it names."""
    if not isinstance(mask, str) or not mask:
        raise InputError(f"{where}: its mask is missing; draw it again")
    try:
        with Image.open(io.BytesIO(_decode(mask, "mask", where))) as image:
            pixels = np.array(image.convert("L") if image.mode not in ("1", "L") else image).astype(bool)
    except InputError:
        raise
    except Exception as error:  # whatever Pillow raises on damaged data
        raise InputError(f"{where}: its mask is no PNG file; draw it again") from error
    x1, y1, x2, y2 = box
    if pixels.shape != (y2 - y1 + 1, x2 - x1 + 1):
        raise InputError(
            f"{where}: its mask has {pixels.shape[1]} x {pixels.shape[0]} pixels (width x height), its box "
            f"{x2 - x1 + 1} x {y2 - y1 + 1}; draw it again"
        )
    if x1 < 0 or y1 < 0 or x2 >= size[1] or y2 >= size[0]:
        raise InputError(f"{where}: its mask reaches out of the picture of {size[1]} x {size[0]} pixels; draw it again")
    part, (row, column) = crop(pixels)
    return part, (y1 + row, x1 + column)
