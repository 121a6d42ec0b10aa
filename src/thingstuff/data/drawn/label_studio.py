"""JSON exports of Label Studio: brushes, polygons, rectangles and ellipses on pictures.

An export is one file with a list of tasks. Coordinates are in percent of the picture's width and height; a turned
rectangle turns around its upper left corner. Of several annotations of a task the first ground truth counts, else the
first that was not cancelled; tasks without any are left out. Results with one id are one region, and regions below a
common parent in the outliner are parts of one object.

Source: https://labelstud.io/guide/task_format and https://labelstud.io/guide/export
"""

import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from thingstuff.data.drawn.brush_runs import decode_brush
from thingstuff.data.drawn.drawing import DrawnCategory, Shape, ShapedPicture, ShapeSource
from thingstuff.data.drawn.lookup import (
    field,
    find_picture,
    finite,
    json_begins,
    picture_size,
    read_json,
    read_size,
    refuse_missing,
)
from thingstuff.data.drawn.polygons import Placed, crop, fill_polygons, read_points
from thingstuff.data.drawn.turned import ellipse_outline, fill_turned, rectangle_outline, turn
from thingstuff.data.images import PICTURE_SUFFIXES
from thingstuff.errors import InputError
from thingstuff.structures import Size

_WITHOUT_AREA = ("keypoint", "keypointlabels", "vector", "vectorlabels")
_UNREAD = ("bitmask", "bitmasklabels")
_UPLOAD_PREFIX = re.compile(r"[0-9a-f]{8}-(.+)")
"""What Label Studio puts before the name of an uploaded picture."""

_MINIMAL = ("annotation_id", "annotator")
"""Keys of its JSON-MIN, which has no others for regions."""


_Value = Mapping[str, Any]
"""Geometry of a region, merged from all its results."""


# --- opening ---


def recognize(source: Path) -> bool:
    """Whether this is a JSON export of Label Studio, or a folder with one."""
    return bool(_exports(source))


def _exports(source: Path) -> list[Path]:
    try:
        paths = sorted(source.glob("*.json")) if source.is_dir() else [source]
    except OSError:
        return []
    return [path for path in paths if _is_export(path)]


def _is_export(path: Path) -> bool:
    if json_begins(path, _MINIMAL):
        return True  # refused with the reason when it is opened
    return json_begins(path, ("annotations", "result")) and not json_begins(path, ("images", "categories"))


def open_label_studio(source: Path) -> ShapeSource[_Value]:
    """Open an export of Label Studio and check everything that needs no pixels.

    Args:
        source: The JSON file, or a folder with it; pictures lie beside it, or in ``images/`` there, under the names
            that the export gives them, with or without the prefix of uploads, in folders or not.

    Raises:
        InputError: The file is damaged, a region has no label or more than one, or pictures are missing.
    """
    exports = _exports(source) if source.is_dir() else [source]
    if len(exports) != 1:
        raise InputError(f"{source}: holds {len(exports)} JSON exports of Label Studio; name the file to read")
    path = exports[0]
    document = read_json(path)
    if not isinstance(document, list):
        raise InputError(f"{path}: holds a {type(document).__name__}, not a list of tasks; export as JSON")
    folders = [path.parent / "images", path.parent, path.parent / "media"]
    pictures: list[ShapedPicture[_Value]] = []
    missing, left_out = [], Counter[str]()
    unlabelled: list[str] = []
    several: list[str] = []
    found: dict[Path, str] = {}
    for position, task in enumerate(document):
        where = f"{path}: {_task_name(task, position)}"
        kept = _kept_results(task, where)
        if not kept:
            unlabelled.append(_task_name(task, position))
            continue
        if len(kept) > 1:
            several.append(_task_name(task, position))
        # The first of the highest: ground truth before others, in the order of the file.
        results = max(kept, key=lambda entry: entry[0])[1]
        address = _address(field(task, "data", dict, where), where)
        image = _find(address, folders, where)
        if image is None:
            missing.append(address)
            continue
        if image in found:
            raise InputError(f"{where}: its picture is {image}, as that of {found[image]}; keep folders apart, or one")
        found[image] = _task_name(task, position)
        sized = _read_regions(results, where, left_out)
        size = _common_size(sized) if sized else picture_size(image)
        pictures.append(ShapedPicture(image, size, tuple(region for region, _ in sized)))
    refuse_missing(missing, path, folders)
    if not pictures:
        raise InputError(f"{path}: no task has an annotation that was not cancelled; annotate, then export as JSON")
    if unlabelled:
        count = f"{len(unlabelled)} of {len(document)} tasks have no annotation that was not cancelled"
        warnings.warn(f"{path}: {count} and are left out, the first is {unlabelled[0]}", stacklevel=2)
    if several:
        count = f"{len(several)} tasks have several annotations, of which the ground truth, else the first, is taken"
        warnings.warn(f"{path}: {count}; the first is {several[0]}", stacklevel=2)
    if left_out:
        listed = ", ".join(f"{count} of the kind {kind}" for kind, count in left_out.items())
        warnings.warn(f"{path}: results without an area are left out: {listed}", stacklevel=2)
    names = dict.fromkeys(region.category for picture in pictures for region in picture.shapes)
    return ShapeSource(tuple(DrawnCategory(name) for name in names), tuple(pictures), _decode)


def _task_name(task: Any, position: int) -> str:
    return f"task {task.get('id', position + 1) if isinstance(task, dict) else position + 1}"


def _kept_results(task: Any, where: str) -> list[tuple[bool, Sequence[Any]]]:
    """The results of every annotation that was not cancelled, and whether it is the ground truth."""
    if isinstance(task, dict) and "annotations" not in task and ("image" in task or "annotation_id" in task):
        raise InputError(f"{where}: this is Label Studio's JSON-MIN, which names no regions; export as JSON")
    annotations = field(task, "annotations", list, where)
    kept = []
    for annotation in annotations:
        results = field(annotation, "result", list, f"{where}: an annotation")
        if not annotation.get("was_cancelled"):
            kept.append((bool(annotation.get("ground_truth")), results))
    return kept


def _read_regions(results: Sequence[Any], where: str, left_out: Counter[str]) -> list[tuple[Shape[_Value], Size]]:
    """The regions, each with the size of the picture that it was drawn on."""
    merged: dict[str, list[Mapping[str, Any]]] = {}
    for position, result in enumerate(results):
        kind = field(result, "type", str, f"{where}: result {position + 1}")
        if kind in _UNREAD:
            raise InputError(f"{where}: result {position + 1} is of the kind {kind}, which is not read; use brushes")
        if kind in _WITHOUT_AREA:
            left_out[kind] += 1
        elif kind != "relation" and "id" in result and "original_width" in result:
            merged.setdefault(str(result["id"]), []).append(result)
    parents = {
        name: str(entry["parentID"]) for name, entries in merged.items() for entry in entries if entry.get("parentID")
    }
    regions = []
    for name, entries in merged.items():
        here = f"{where}: region {name}"
        value: dict[str, Any] = {}
        labels: list[str] = []
        for entry in entries:
            part = field(entry, "value", dict, here)
            value = part | value
            if entry["type"].endswith("labels") and entry["type"] in part:
                labels += field(part, entry["type"], list, here)
        if not any(key in value for key in ("rle", "points", "x")):
            continue  # an answer about the region or the picture, not a shape
        names = list(dict.fromkeys(map(str, labels)))
        if len(names) != 1 or not isinstance(labels[0], str):
            count = f"the labels {', '.join(names)}" if names else "no label"
            raise InputError(f"{here}: has {count}; a pixel is of one class, give the region one label")
        if any(entry.get("image_rotation") for entry in entries):
            raise InputError(f"{here}: drawn on a picture turned in the tool; turn the picture file itself instead")
        first = entries[0]
        size = read_size(first.get("original_height"), first.get("original_width"), f"{here}: original size")
        regions.append((Shape(value, labels[0], _topmost(name, parents), f"{here} ({labels[0]})"), size))
    return regions


def _topmost(name: str, parents: Mapping[str, str]) -> str | None:
    if name not in parents and name not in parents.values():
        return None
    seen = [name]
    while seen[-1] in parents and parents[seen[-1]] not in seen:
        seen.append(parents[seen[-1]])
    return seen[-1]


def _common_size(sized: Sequence[tuple[Shape[_Value], Size]]) -> Size:
    size = sized[0][1]
    for region, other in sized:
        if other != size:
            raise InputError(
                f"{region.where}: drawn on a picture of {other[1]} x {other[0]} pixels (width x height), "
                f"others on {size[1]} x {size[0]}; the picture was replaced in between, draw again"
            )
    return size


# --- pictures ---


def _address(data: Mapping[str, Any], where: str) -> str:
    """Where a task says its picture is; the key is the user's own choice."""
    if isinstance(data.get("image"), str):
        return data["image"]
    texts = [value for value in data.values() if isinstance(value, str)]
    pictures = [text for text in texts if _path(text).lower().endswith(PICTURE_SUFFIXES)]
    if len(pictures) != 1:
        raise InputError(f"{where}: data names {len(pictures)} pictures; expected one, best under the key 'image'")
    return pictures[0]


def _path(address: str) -> str:
    """The path in an address: of a local file, an upload, a URL, or an object in a bucket."""
    try:
        parts = urlsplit(address)
    except ValueError:  # brackets that belong to no address of IP version 6
        return address.replace("\\", "/")
    if parts.path.endswith("/data/local-files/") or parts.path.endswith("/data/local-files"):
        return parse_qs(parts.query).get("d", [""])[0].replace("\\", "/")
    # Only the query of a real URL is cut off: names of files may contain question marks.
    return unquote(parts.path) if parts.scheme or address.startswith("/data/") else address.replace("\\", "/")


def _find(address: str, folders: Sequence[Path], where: str) -> Path | None:
    """The longest end of the path that is there, since folders above it differ between server and export."""
    parts = [part for part in PurePosixPath(_path(address)).parts if part not in ("/", ".")]
    for begin in range(len(parts)):
        image = find_picture("/".join(parts[begin:]), folders, where)
        if image is not None:
            return image
    match = _UPLOAD_PREFIX.fullmatch(parts[-1]) if parts else None
    return find_picture(match[1], folders, where) if match else None


# --- shapes ---


def _decode(value: _Value, size: Size, where: str) -> Placed:
    if "rle" in value:
        return crop(decode_brush(field(value, "rle", list, where), size, where))
    height, width = size
    if "points" in value:
        points = field(value, "points", list, where)
        try:
            scaled = [[x * width / 100, y * height / 100] for x, y in points]
        except (TypeError, ValueError) as error:
            raise InputError(f"{where}: its points are not pairs of numbers; export again") from error
        outline = read_points(scaled, size, where)
        if len(outline) < 3:
            raise InputError(f"{where}: a polygon of {len(outline)} points has no area; draw or remove it")
        return fill_polygons([outline], size)
    x, y = finite(value.get("x"), "x", where) * width / 100, finite(value.get("y"), "y", where) * height / 100
    degrees = finite(value.get("rotation", 0), "rotation", where)
    if "radiusX" in value:
        radii = (
            finite(value["radiusX"], "radiusX", where) * width / 100,
            finite(value.get("radiusY"), "radiusY", where) * height / 100,
        )
        if min(radii) <= 0:
            raise InputError(f"{where}: an ellipse needs radii of more than 0; draw or remove it")
        return fill_turned(ellipse_outline((x, y), radii, degrees), size, where)
    right = x + finite(value.get("width"), "width", where) * width / 100
    bottom = y + finite(value.get("height"), "height", where) * height / 100
    if degrees:
        return fill_turned(turn(rectangle_outline(x, y, right, bottom), degrees, (x, y)), size, where)
    (x, y), (right, bottom) = read_points([[x, y], [right, bottom]], size, where).tolist()
    return fill_polygons([rectangle_outline(x, y, right, bottom)], size)
