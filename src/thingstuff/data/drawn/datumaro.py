"""Exports of Datumaro, which CVAT and Geti write too: ``annotations/<subset>.json`` and ``images/<subset>/``.

Shapes are polygons, masks in COCO's run lengths, boxes and ellipses. Shapes of one label and group are parts of one
object; a box in a group that also has a mask or a polygon only repeats where that lies, and is left out.

Source: https://openvinotoolkit.github.io/datumaro/latest/docs/data-formats/datumaro_format.html
"""

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from thingstuff.data.drawn.drawing import DrawnCategory, Shape, ShapedPicture, ShapeSource
from thingstuff.data.drawn.lookup import (
    field,
    find_picture,
    find_without_suffix,
    finite,
    json_begins,
    picture_size,
    read_json,
    read_size,
    refuse_missing,
    refuse_repeated,
    whole,
)
from thingstuff.data.drawn.polygons import Placed, crop, fill_polygons, read_points
from thingstuff.data.drawn.run_lengths import read_run_lengths
from thingstuff.data.drawn.turned import ellipse_outline, fill_turned, rectangle_outline, turn
from thingstuff.errors import InputError
from thingstuff.structures import Size

_SHAPES = ("polygon", "mask", "bbox", "ellipse")
_UNREAD = ("rotated_bbox",)
_WITHOUT_AREA = ("polyline", "points", "cuboid_2d", "cuboid_3d", "skeleton")


_Annotation = Mapping[str, Any]


# --- opening ---


def recognize(source: Path) -> bool:
    """Whether this is an export of Datumaro: its folder, or one of the JSON files in it."""
    return bool(_subsets(source))


def _subsets(source: Path) -> list[Path]:
    try:
        paths = sorted((source / "annotations").glob("*.json")) if source.is_dir() else [source]
    except OSError:
        return []
    # All files in the folder are subsets; a damaged one must not be left out silently.
    return paths if any(json_begins(path, ("categories", "items")) for path in paths) else []


def open_datumaro(source: Path) -> ShapeSource[_Annotation]:
    """Open an export of Datumaro and check everything that needs no pixels.

    Args:
        source: Folder with ``annotations/`` and ``images/``, or one of the files in ``annotations/``.

    Raises:
        InputError: A file is damaged, a shape has no label or one that is not listed, or pictures are missing.
    """
    paths = _subsets(source) if source.is_dir() else [source]
    if not paths:
        raise InputError(f"{source}: has no JSON file of Datumaro in annotations/; name the unpacked export's folder")
    categories: dict[str, DrawnCategory] = {}
    pictures: list[ShapedPicture[_Annotation]] = []
    left_out = Counter[str]()
    for path in paths:
        document = read_json(path)
        names = _read_categories(document, path)
        categories = {category.name: category for category in names} | categories
        pictures += _read_items(field(document, "items", list, str(path)), [c.name for c in names], path, left_out)
    if not pictures:
        raise InputError(f"{source}: lists no picture; export with annotations")
    if left_out:
        listed = ", ".join(f"{count} of the kind {kind}" for kind, count in left_out.items())
        warnings.warn(f"{source}: shapes without an area are left out: {listed}", stacklevel=2)
    return ShapeSource(tuple(categories.values()), tuple(pictures), _decode)


def _read_categories(document: Any, path: Path) -> list[DrawnCategory]:
    categories = field(document, "categories", dict, str(path))
    labels = field(field(categories, "label", dict, f"{path}: categories"), "labels", list, f"{path}: categories.label")
    colors = {}
    masks = field(categories, "mask", dict, f"{path}: categories") if "mask" in categories else {}
    colormap = field(masks, "colormap", list, f"{path}: categories.mask") if "colormap" in masks else []
    for position, entry in enumerate(colormap):
        where = f"{path}: categories.mask.colormap[{position}]"
        colors[field(entry, "label_id", int, where)] = tuple(
            min(max(field(entry, channel, int, where), 0), 255) for channel in "rgb"
        )
    return [
        DrawnCategory(field(label, "name", str, f"{path}: categories.label.labels[{index}]"), color=colors.get(index))
        for index, label in enumerate(labels)
    ]


def _read_items(
    listed: Sequence[Any], names: Sequence[str], path: Path, left_out: Counter[str]
) -> list[ShapedPicture[_Annotation]]:
    root = path.parent.parent if path.parent.name == "annotations" else path.parent
    folders = [root / "images" / path.stem, root / "images", root]
    pictures, missing = [], []
    for position, item in enumerate(listed):
        identity = field(item, "id", (str, int), f"{path}: items[{position}]")
        where = f"{path}: {identity}"
        image, name, size = _find(item, str(identity), folders, where)
        if image is None:
            missing.append(name)
            continue
        shapes = _read_shapes(field(item, "annotations", list, where), names, where, left_out)
        split = None if path.stem == "default" else path.stem
        pictures.append(ShapedPicture(image, size or picture_size(image), shapes, split))
    refuse_missing(missing, path, folders)
    refuse_repeated((picture.image for picture in pictures), path)
    return pictures


def _find(
    item: Mapping[str, Any], identity: str, folders: Sequence[Path], where: str
) -> tuple[Path | None, str, Size | None]:
    """The picture of an item, its name, and its size where the file says it."""
    medium = item.get("image") or item.get("media") or {}
    written = medium.get("path") if isinstance(medium, dict) else None
    size = None
    if isinstance(medium, dict) and medium.get("size") is not None:
        sides = field(medium, "size", list, where)
        if len(sides) != 2:
            raise InputError(f"{where}: size is {sides!r}; expected height and width")
        size = read_size(sides[0], sides[1], where)
    if not isinstance(written, str) or not written:
        return find_without_suffix(identity, folders, where), identity, size
    # Some tools write the whole path on their own machine, of which only the end is the same here.
    parts = [part for part in PurePosixPath(written.replace("\\", "/")).parts if part != "/" and part[-1] != ":"]
    for begin in range(len(parts)):
        image = find_picture("/".join(parts[begin:]), folders, where)
        if image is not None:
            return image, written, size
    return None, written, size


def _read_shapes(
    annotations: Sequence[Any], names: Sequence[str], where: str, left_out: Counter[str]
) -> tuple[Shape[_Annotation], ...]:
    shapes = []
    for position, annotation in enumerate(annotations):
        here = f"{where}: annotations[{position}]"
        kind = field(annotation, "type", str, here)
        if kind in _UNREAD:
            raise InputError(f"{here}: the kind {kind} is not read; export polygons or masks")
        if kind in _WITHOUT_AREA:
            left_out[kind] += 1
        if kind not in _SHAPES:
            continue
        label: int = field(annotation, "label_id", int, here)
        if not 0 <= label < len(names):
            raise InputError(f"{here}: label_id is {label}, but there are labels 0 to {len(names) - 1}; correct it")
        group = annotation.get("group") or None
        if group is not None:
            group = field(annotation, "group", int, here)
        level = whole(annotation.get("z_order", 0), "z_order", here)
        crowd = bool(_attributes(annotation, here).get("is_crowd"))
        shapes.append((level, Shape(annotation, names[label], group, f"{here} ({kind}, {names[label]})", crowd)))
    outlined = {(shape.category, shape.group) for _, shape in shapes if shape.group and shape.content["type"] != "bbox"}
    shapes.sort(key=lambda entry: entry[0])  # stable: shapes of a level stay in the order of drawing
    return tuple(
        shape for _, shape in shapes if shape.content["type"] != "bbox" or (shape.category, shape.group) not in outlined
    )


def _attributes(annotation: _Annotation, where: str) -> Mapping[str, Any]:
    return field(annotation, "attributes", dict, where) if annotation.get("attributes") else {}


# --- shapes ---


def _decode(annotation: _Annotation, size: Size, where: str) -> Placed:
    kind = annotation["type"]
    if kind == "mask":
        return crop(read_run_lengths(field(annotation, "rle", dict, where), size, where))
    if kind == "polygon":
        numbers = field(annotation, "points", list, where)
        if len(numbers) < 6 or len(numbers) % 2:
            raise InputError(f"{where}: a polygon of {len(numbers)} numbers; expected x and y of three points or more")
        points = [[x, y] for x, y in zip(numbers[::2], numbers[1::2], strict=True)]
        return fill_polygons([read_points(points, size, where)], size)
    degrees = finite(_attributes(annotation, where).get("rotation", 0), "rotation", where)
    if kind == "ellipse":
        x1, y1, x2, y2 = _four(annotation, "points", where)
        if x2 <= x1 or y2 <= y1:
            raise InputError(f"{where}: points are {[x1, y1, x2, y2]}; expected left, top, right, bottom")
        center, radii = ((x1 + x2) / 2, (y1 + y2) / 2), ((x2 - x1) / 2, (y2 - y1) / 2)
        return fill_turned(ellipse_outline(center, radii, degrees), size, where)
    x1, y1, width, height = _four(annotation, "bbox", where)
    x2, y2 = x1 + width, y1 + height
    if not degrees:
        (x1, y1), (x2, y2) = read_points([[x1, y1], [x2, y2]], size, where).tolist()
    outline = turn(rectangle_outline(x1, y1, x2, y2), degrees, ((x1 + x2) / 2, (y1 + y2) / 2))
    return fill_turned(outline, size, where)


def _four(annotation: _Annotation, name: str, where: str) -> tuple[float, float, float, float]:
    numbers = field(annotation, name, list, where)
    if len(numbers) != 4:
        raise InputError(f"{where}: {name} has {len(numbers)} numbers; expected four")
    first, second, third, fourth = (finite(number, name, where) for number in numbers)
    return first, second, third, fourth
