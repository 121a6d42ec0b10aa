"""Exports of CVAT: "CVAT for images 1.1" and "CVAT for video 1.1".

An export is a folder with ``annotations.xml`` and, where pictures were exported too, ``images/``. Shapes are polygons,
boxes (perhaps turned around their centre), ellipses and masks; what has no area (points, lines, tags) is left out with
a warning. Of a video, the frames with a visible shape are read; a shape on a frame that says ``outside`` marks where
its object has left the picture. Frames are found by the numbers in their names. A task of pictures that was exported as
a video is refused: its frames are numbered in the order of pictures, whatever their names.

Source: https://docs.cvat.ai/docs/dataset_management/formats/format-cvat
"""

import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import numpy as np

from thingstuff.data.drawn.drawing import DrawnCategory, Shape, ShapedPicture, ShapeSource
from thingstuff.data.drawn.lookup import (
    find_picture,
    find_without_suffix,
    finite,
    picture_size,
    read_size,
    refuse_missing,
    refuse_repeated,
    whole,
)
from thingstuff.data.drawn.polygons import Placed, fill_polygons, read_points
from thingstuff.data.drawn.turned import ellipse_outline, fill_turned, rectangle_outline, turn
from thingstuff.data.images import is_picture
from thingstuff.errors import InputError
from thingstuff.structures import Size

_SHAPES = ("polygon", "box", "ellipse", "mask")
_WITHOUT_AREA = ("polyline", "points", "cuboid", "skeleton")
_LABELS_WITHOUT_AREA = ("polyline", "points", "cuboid", "skeleton", "tag")
_FRAME_NAME = re.compile(r"(?:frame_?)?(\d+)", re.IGNORECASE)
"""Names of exported frames: ``frame_000012``; plain numbers are what other tools cut videos into."""


# --- opening ---


def recognize(source: Path) -> bool:
    """Whether this is an export of CVAT: its folder, or the XML file in it."""
    path = source / "annotations.xml" if source.is_dir() else source
    try:
        with path.open("rb") as file:
            beginning = file.read(65536)
    except OSError:
        return False
    return b"<annotations" in beginning and any(mark in beginning for mark in (b"<meta", b"<image ", b"<track "))


def open_cvat(source: Path) -> ShapeSource[Element]:
    """Open an export of CVAT and check everything that needs no pixels.

    Args:
        source: Folder with ``annotations.xml``, or that file; pictures lie in ``images/`` beside it, or beside it.

    Raises:
        InputError: The file is damaged, a label is not in the list of labels, or pictures are missing.
    """
    path = source / "annotations.xml" if source.is_dir() else source
    root = _parse(path)
    images, tracks = root.findall("image"), root.findall("track")
    if not images and not tracks:
        raise InputError(f"{path}: has neither an <image> nor a <track>; export again as 'CVAT for images 1.1'")
    categories, known = _read_categories(root)
    folders = [path.parent / "images", path.parent]
    pictures = _read_images(images, path, folders) if images else _read_tracks(tracks, root, path, folders)
    shapes = [shape for picture in pictures for shape in picture.shapes]
    used = dict.fromkeys(shape.category for shape in shapes)
    for shape in shapes:
        if known and shape.category not in known:
            raise InputError(f"{shape.where}: the label is not in the list of labels at the top of the file; add it")
    listed = {category.name for category in categories}
    # Labels of the task that are made for lines or tags count only where something with an area has them.
    categories += tuple(known.get(name, DrawnCategory(name)) for name in used if name not in listed)
    _warn_of_shapes_without_area(root, path)
    return ShapeSource(categories, pictures, _decode)


class _PlainXml(ElementTree.TreeBuilder):
    """Builds the tree of a file without entities of its own: they could make it grow without bound."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        """Called where the file defines its own document type."""
        raise InputError("defines a document type, which no export of CVAT has; export it again")


def _parse(path: Path) -> Element:
    try:
        root = ElementTree.parse(path, parser=ElementTree.XMLParser(target=_PlainXml())).getroot()
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except FileNotFoundError as error:
        below = list(path.parent.glob("*/annotations.xml"))
        remedy = f"name {below[0].parent}" if len(below) == 1 else "name the unpacked export, a folder or its XML file"
        raise InputError(f"{path}: there is no such file; {remedy}") from error
    except (ElementTree.ParseError, OSError, ValueError, LookupError) as error:
        raise InputError(f"{path}: cannot be read as XML ({error}); export it again") from error
    if root is None or root.tag != "annotations":
        tag = "nothing" if root is None else f"<{root.tag}>"
        raise InputError(f"{path}: begins with {tag}, not with <annotations>; export as 'CVAT for images 1.1'")
    return root


def _read_categories(root: Element) -> tuple[tuple[DrawnCategory, ...], dict[str, DrawnCategory]]:
    """The labels that may have an area, and all of them by name."""
    known, with_area = {}, []
    for label in root.iterfind("meta//labels/label"):
        name = label.findtext("name") or ""
        if name and name not in known:
            known[name] = DrawnCategory(name, color=_read_color(label.findtext("color")))
            if label.findtext("type") not in _LABELS_WITHOUT_AREA:
                with_area.append(known[name])
    return tuple(with_area), known


def _read_color(text: str | None) -> tuple[int, int, int] | None:
    if text is None or not re.fullmatch("#[0-9a-fA-F]{6}", text):
        return None
    red, green, blue = bytes.fromhex(text[1:])
    return red, green, blue


def _warn_of_shapes_without_area(root: Element, path: Path) -> None:
    counts = Counter(element.tag for element in root.iter() if element.tag in _WITHOUT_AREA)
    if counts:
        listed = ", ".join(f"{count} of the kind {kind}" for kind, count in counts.items())
        warnings.warn(f"{path}: shapes without an area are left out: {listed}", stacklevel=3)


# --- pictures, and frames of a video ---


def _read_images(images: Iterable[Element], path: Path, folders: Sequence[Path]) -> tuple[ShapedPicture[Element], ...]:
    pictures, missing = [], []
    for position, image in enumerate(images):
        name = image.get("name")
        if not name:
            raise InputError(f"{path}: <image> {position + 1} has no name; export it again")
        where = f"{path}: {name}"
        split = image.get("subset") or None
        # Exports of a project sort pictures into folders by subset.
        below = [folder / split for folder in folders] if split and "/" not in split and split != ".." else []
        places = [*below, *folders]
        # Frames of a video stand in exports for images under names without suffix.
        file = find_picture(name, places, where) or find_without_suffix(name, places, where)
        size = read_size(image.get("height"), image.get("width"), where)
        if file is None:
            missing.append(name)
            continue
        shapes = [
            Shape(
                element,
                _label(element, where),
                _group(element),
                f"{where}: {element.tag} {number} ({element.get('label')})",
            )
            for number, element in enumerate((each for each in image if each.tag in _SHAPES), start=1)
        ]
        pictures.append(ShapedPicture(file, size, _by_level(shapes), split))
    refuse_missing(missing, path, folders)
    refuse_repeated((picture.image for picture in pictures), path)
    return tuple(pictures)


def _read_tracks(
    tracks: Sequence[Element], root: Element, path: Path, folders: Sequence[Path]
) -> tuple[ShapedPicture[Element], ...]:
    by_task = {task: _read_task(task, root, path) for task in dict.fromkeys(map(_task, tracks))}
    frames: defaultdict[int, list[Shape[Element]]] = defaultdict(list)
    stated: defaultdict[int, set[Size]] = defaultdict(set)
    last_seen: dict[str, list[int]] = {}
    for track in tracks:
        where = f"{path}: track {track.get('id', '?')}"
        label, group, video_size = _label(track, where), _group(track), by_task[_task(track)]
        visible = []
        for element in track:
            if element.tag not in _SHAPES:
                continue
            frame = whole(element.get("frame"), "frame", where)
            if element.get("outside", "0") == "1":
                continue
            visible.append(frame)
            frames[frame].append(Shape(element, label, group, f"{where}, frame {frame}"))
            if video_size is not None:
                stated[frame].add(video_size)
        last_seen[where] = visible
    for where, visible in last_seen.items():
        repeated = [frame for frame, count in Counter(visible).items() if count > 1]
        if repeated:
            raise InputError(f"{where}: has two shapes on frame {repeated[0]}; remove one")
    files = _frame_files(folders)
    missing = [f"frame_{frame:06d}" for frame in sorted(frames) if frame not in files]
    refuse_missing(missing, path, folders)
    pictures = []
    for frame in sorted(frames):
        size = picture_size(files[frame])
        other = next(iter(stated[frame] - {size}), None)
        if other is not None:
            raise InputError(
                f"{files[frame]}: {size[1]} x {size[0]} pixels (width x height), but {path.name} says "
                f"{other[1]} x {other[0]}; extract the frames at the video's own size"
            )
        pictures.append(ShapedPicture(files[frame], size, _by_level(frames[frame])))
    return tuple(pictures)


def _by_level(shapes: Sequence[Shape[Element]]) -> tuple[Shape[Element], ...]:
    """The lowest first; shapes of a level stay in the order of drawing."""
    return tuple(sorted(shapes, key=lambda shape: whole(shape.content.get("z_order", "0"), "z_order", shape.where)))


def _frame_files(folders: Iterable[Path]) -> Mapping[int, Path]:
    files: dict[int, Path] = {}
    for folder in folders:
        for file in sorted(folder.iterdir()) if folder.is_dir() else []:
            match = _FRAME_NAME.fullmatch(file.stem)
            if match and is_picture(file):
                files.setdefault(int(match[1]), file)
    return files


def _task(track: Element) -> str:
    """The task of a track, which only exports of projects name."""
    return track.get("task_id", "")


def _read_task(identity: str, root: Element, path: Path) -> Size | None:
    """The size of a task's video; None where the file does not say, or says several."""
    own = [task for task in root.iterfind("meta//task") if task.findtext("id") == identity]
    described = own or root.findall("meta")
    if any(mode.text == "annotation" for each in described for mode in each.iter("mode")):
        name = f"task {identity}" if own else "the task"
        raise InputError(
            f"{path}: {name} has the mode 'annotation', so it is no video: its frames are numbered in the order of "
            "pictures, not by their names; export as 'CVAT for images 1.1'"
        )
    sizes = {
        read_size(size.findtext("height"), size.findtext("width"), f"{path}: original_size")
        for each in described
        for size in each.iter("original_size")
    }
    return sizes.pop() if len(sizes) == 1 else None


def _label(element: Element, where: str) -> str:
    label = element.get("label")
    if not label:
        raise InputError(f"{where}: a <{element.tag}> has no label; give it one")
    return label


def _group(element: Element) -> str | None:
    group = element.get("group_id", "0")
    return None if group in ("", "0") else group


# --- shapes ---


def _decode(shape: Element, size: Size, where: str) -> Placed:
    if shape.tag == "mask":
        return _decode_mask(shape, size, where)
    if shape.tag == "polygon":
        points = [point.split(",") for point in shape.get("points", "").split(";") if point.strip()]
        outline = read_points(points, size, where)
        if len(outline) < 3:
            raise InputError(f"{where}: a polygon of {len(outline)} points has no area; draw or remove it")
        return fill_polygons([outline], size)
    degrees = finite(shape.get("rotation", "0"), "rotation", where)
    if shape.tag == "box":
        x1, y1, x2, y2 = (finite(shape.get(side), side, where) for side in ("xtl", "ytl", "xbr", "ybr"))
        if not degrees:
            (x1, y1), (x2, y2) = read_points([[x1, y1], [x2, y2]], size, where).tolist()
        return fill_turned(
            turn(rectangle_outline(x1, y1, x2, y2), degrees, ((x1 + x2) / 2, (y1 + y2) / 2)), size, where
        )
    x, y, across, down = (finite(shape.get(part), part, where) for part in ("cx", "cy", "rx", "ry"))
    if across <= 0 or down <= 0:
        raise InputError(f"{where}: rx is {across:g} and ry is {down:g}; both must be more than 0")
    return fill_turned(ellipse_outline((x, y), (across, down), degrees), size, where)


def _decode_mask(shape: Element, size: Size, where: str) -> Placed:
    """A mask of runs in its box, row by row; the first run is of pixels that do not belong to it."""
    left, top, width, height = (whole(shape.get(part), part, where) for part in ("left", "top", "width", "height"))
    if left < 0 or top < 0 or width < 1 or height < 1 or top + height > size[0] or left + width > size[1]:
        raise InputError(
            f"{where}: its box of {width} x {height} pixels at left {left}, top {top} does not lie in the picture of "
            f"{size[1]} x {size[0]} (width x height); is it drawn on another picture?"
        )
    try:
        lengths = np.array([int(run) for run in shape.get("rle", "").split(",")], dtype=np.int64)
    except (ValueError, OverflowError) as error:
        raise InputError(f"{where}: rle is not a list of whole numbers ({error}); export it again") from error
    if lengths.min() < 0 or lengths.max() > width * height or lengths.sum() != width * height:
        raise InputError(
            f"{where}: the runs of rle have {lengths.sum()} pixels, its box has {width * height}; export it again"
        )
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(height, width), (top, left)
