"""Cityscapes in its own layout: ``leftImg8bit/<split>/<city>/`` and ``gtFine/<split>/<city>/``.

The annotation is ``*_gtFine_instanceIds.png`` (16 bits): a label's id, or 1000 times it plus the number of the object.
A thing class without object number is a group, which becomes a crowd; what is not evaluated becomes void. Where a PNG
file is missing it is drawn anew from ``*_gtFine_polygons.json``, as the data set's own tools draw it.

Source: https://github.com/mcordts/cityscapesScripts, README and label definitions.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32
from PIL import Image, ImageDraw

from thingstuff.data.drawn.lookup import field, finite, read_json, read_size
from thingstuff.data.id_maps import IdMapSource, MapFiles, list_files, read_numbers, renumber, shipped_labels
from thingstuff.errors import InputError
from thingstuff.labels import LabelSet
from thingstuff.structures import Truth, TruthSegment

SPLITS = ("train", "val")
"""Those with annotations; what lies in ``test`` is all void."""
_NOT_EVALUATED = {
    "unlabeled": 0,
    "ego vehicle": 1,
    "rectification border": 2,
    "out of roi": 3,
    "static": 4,
    "dynamic": 5,
    "ground": 6,
    "parking": 9,
    "rail track": 10,
    "guard rail": 14,
    "bridge": 15,
    "tunnel": 16,
    "polegroup": 18,
    "caravan": 29,
    "trailer": 30,
    "license plate": -1,
}
_WITHOUT_ID = (255, 65535)
"""What -1 (license plate, never drawn by the data set's own tools) looks like without a sign."""
_PER_LABEL = 1000


def cityscapes_labels() -> LabelSet:
    """The 19 evaluated classes."""
    return shipped_labels("convert/cityscapes.toml")


def recognize(root: Path) -> bool:
    """Whether this is the root of Cityscapes."""
    try:
        return any((root / "gtFine" / split).is_dir() for split in SPLITS)
    except OSError:
        return False


def open_cityscapes(root: Path) -> IdMapSource:
    """Open the splits train and val of Cityscapes, as far as they are there.

    Args:
        root: Folder with ``leftImg8bit/`` and ``gtFine/``.

    Raises:
        InputError: There is no annotation, or one without its picture.
    """
    labels = cityscapes_labels()
    files = []
    for split in SPLITS:
        folder, image_folder = root / "gtFine" / split, root / "leftImg8bit" / split
        maps: dict[str, list[Path]] = {}
        # Sorted by name, polygons come after the PNG file, which is taken where both are there.
        for kind in ("polygons.json", "instanceIds.png"):
            for path in folder.glob(f"*/*_gtFine_{kind}"):
                maps[path.name.removesuffix(f"_gtFine_{kind}")] = [path]
        ending = "_leftImg8bit.png"
        images = {path.name.removesuffix(ending): path for path in image_folder.glob(f"*/*{ending}")}
        files += list_files(split, maps, images, image_folder)
    if not files:
        raise InputError(f"{root}: has no gtFine/train/*/*_gtFine_instanceIds.png; unpack gtFine_trainvaltest.zip here")
    return IdMapSource(labels, tuple(files), partial(_decode, labels=labels))


def _decode(files: MapFiles, labels: LabelSet) -> Truth:
    (path,) = files.maps
    numbers = read_numbers(path) if path.suffix == ".png" else _draw(path, labels)

    def meaning(number: int) -> TruthSegment | None:
        label_id = number // _PER_LABEL if number >= _PER_LABEL else number
        if number in _WITHOUT_ID or label_id in _NOT_EVALUATED.values():
            return None
        if label_id not in labels.index:
            raise InputError(f"{path}: {number} is no id of Cityscapes' labels; unpack the original file again")
        label = labels.index[label_id]
        if not labels.categories[label].isthing:
            return TruthSegment(label_id, label)
        return TruthSegment(number, label, crowd=number < _PER_LABEL)

    ids, segments = renumber(numbers, meaning)
    return Truth(ids, tuple(segments.values()))


def _draw(path: Path, labels: LabelSet) -> Int32[np.ndarray, "H W"]:
    """Draw the polygons of a picture, the later ones over the earlier, by the same library as the data set's tools."""
    document = read_json(path)
    height, width = (field(document, f"img{side}", int, str(path)) for side in ("Height", "Width"))
    height, width = read_size(height, width, str(path))
    label_ids = {category.name: category.id for category in labels.categories} | _NOT_EVALUATED
    things = {category.name for category in labels.categories if category.isthing}
    objects = dict.fromkeys(things, 0)
    image = Image.new("I", (width, height), 0)
    drawer = ImageDraw.Draw(image)
    for position, shape in enumerate(field(document, "objects", list, str(path))):
        where = f"{path}: objects[{position}]"
        name = field(shape, "label", str, where)
        if shape.get("deleted"):
            continue
        # "polegroup" is a label of its own; "cargroup" is a group of cars.
        single = name if name in label_ids else name.removesuffix("group")
        if single not in label_ids:
            raise InputError(f"{where}: {name!r} is no label of Cityscapes; unpack the original file again")
        number = label_ids[single]
        if name in things:
            number = number * _PER_LABEL + objects[name]
            objects[name] += 1
        if number < 0:
            continue
        drawer.polygon(_corners(field(shape, "polygon", list, where), where), fill=number)
    return np.array(image, dtype=np.int32)


def _corners(points: list[Any], where: str) -> list[tuple[float, float]]:
    corners = []
    for point in points:
        if not isinstance(point, list) or len(point) != 2:
            raise InputError(f"{where}: a point is {point!r}; expected x and y")
        corners.append((finite(point[0], "x", where), finite(point[1], "y", where)))
    if len(corners) < 2:
        raise InputError(f"{where}: a polygon of {len(corners)} points; unpack the original file again")
    return corners
