"""One small scene as every tool would export it.

    sky   sky   sky   sky   sky   sky   sky   sky
    sky   sky   car 1 car 1 car 1 sky   sky   sky
    road  road  car 1 car 1 car 1 road  car 2 road
    road  road  road  road  road  road  void  void
    road  car 1 road  road  road  road  void  void

Car 1 has two parts; the last corner is nobody's.
"""

import base64
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from faster_coco_eval.core import mask as coco_masks
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from published_sets import write_ade20k, write_cityscapes, write_mapillary, write_mapillary_config

CLASSES = np.array(
    [
        [1, 1, 1, 1, 1, 1, 1, 1],
        [1, 1, 2, 2, 2, 1, 1, 1],
        [0, 0, 2, 2, 2, 0, 2, 0],
        [0, 0, 0, 0, 0, 0, 255, 255],
        [0, 2, 0, 0, 0, 0, 255, 255],
    ],
    dtype=np.uint8,
)
OBJECTS = np.zeros_like(CLASSES)
OBJECTS[1:3, 2:5] = OBJECTS[4, 1] = 1
OBJECTS[2, 6] = 2
NAMES = ("road", "sky", "car")
THINGS = ("car",)
SIZE = (5, 8)
SEGMENTS = {
    ("road", 0): CLASSES == 0,
    ("sky", 0): CLASSES == 1,
    ("car", 1): OBJECTS == 1,
    ("car", 2): OBJECTS == 2,
}
"""Name and object of every segment."""


def photograph(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.stack([CLASSES * 50] * 3, axis=-1)).save(path)


def text(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def png(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def compressed(mask: np.ndarray) -> str:
    return coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()


def runs(mask: np.ndarray) -> list[tuple[int, int, int]]:
    """Row, first column and the one after the last of every run."""
    found = []
    for row, line in enumerate(mask):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], line.astype(int), [0]]))).reshape(-1, 2)
        found += [(row, left, right) for left, right in edges.tolist()]
    return found


def coco(root: Path) -> None:
    photograph(root / "val2017/a.png")
    things, stuff = [], []
    for number, ((name, _), mask) in enumerate(SEGMENTS.items(), start=1):
        segmentation = {"size": list(SIZE), "counts": compressed(mask)}
        entry = {"id": number, "image_id": 5, "category_id": 10 + NAMES.index(name), "segmentation": segmentation}
        (things if name in THINGS else stuff).append(
            entry | {"iscrowd": 0, "area": int(mask.sum()), "bbox": [0, 0, 1, 1]}
        )
    images = [{"id": 5, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]}]
    for task, annotations in (("instances", things), ("stuff", stuff)):
        used = {annotation["category_id"] for annotation in annotations}
        categories = [{"id": each, "name": NAMES[each - 10], "supercategory": "x"} for each in sorted(used)]
        document = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
        text(root / f"annotations/{task}_val2017.json", document)


def yolo(root: Path) -> None:
    """One outline for each object, its parts joined by lines there and back, as Ultralytics writes it."""
    photograph(root / "images/val/a.png")
    lines = []
    for (name, _), mask in SEGMENTS.items():
        points: list[tuple[int, int]] = []
        for row, left, right in runs(mask):
            points += [(left, row), (right, row), (right, row + 1), (left, row + 1), (left, row), (0, 0)]
        shares = " ".join(f"{x / SIZE[1]:.6g} {y / SIZE[0]:.6g}" for x, y in [(0, 0), *points])
        lines.append(f"{NAMES.index(name)} {shares}")
    text(root / "labels/val/a.txt", "\n".join(lines) + "\n")
    text(root / "data.yaml", f"path: .\nval: images/val\nnames: {list(NAMES)}\n")


def labelme(root: Path) -> None:
    photograph(root / "a.png")
    shapes = []
    for (name, number), mask in SEGMENTS.items():
        buffer = io.BytesIO()
        Image.fromarray(mask).save(buffer, "PNG")
        data = base64.b64encode(buffer.getvalue()).decode()
        points = [[0, 0], [SIZE[1] - 1, SIZE[0] - 1]]
        shapes.append(
            {
                "label": name,
                "points": points,
                "group_id": number or None,
                "shape_type": "mask",
                "flags": {},
                "mask": data,
            }
        )
    sizes = {"imageHeight": SIZE[0], "imageWidth": SIZE[1]}
    text(
        root / "a.json",
        {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": "a.png", "imageData": None} | sizes,
    )


def cvat(root: Path) -> None:
    photograph(root / "images/a.png")
    shapes = ""
    for (name, _), mask in SEGMENTS.items():
        flat = np.concatenate([[False], mask.ravel(), [~mask[-1, -1]]])  # row by row, the first run of False
        counts = np.diff(np.flatnonzero(flat[1:] != flat[:-1]), prepend=0).tolist()
        rle = ", ".join(map(str, counts))
        shapes += (
            f'<mask label="{name}" source="manual" occluded="0" rle="{rle}" left="0" top="0" '
            f'width="{SIZE[1]}" height="{SIZE[0]}" z_order="0"></mask>'
        )
    labels = "".join(f"<label><name>{name}</name><color>#102030</color><type>any</type></label>" for name in NAMES)
    text(
        root / "annotations.xml",
        f'<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version><meta><task><labels>{labels}'
        f'</labels></task></meta><image id="0" name="a.png" width="{SIZE[1]}" height="{SIZE[0]}">{shapes}</image>'
        "</annotations>\n",
    )


def label_studio(root: Path) -> None:
    """Rectangles, one for each run of pixels; those of an object lie below the first in the outliner."""
    photograph(root / "images/a.png")
    results: list[dict[str, Any]] = []
    for (name, number), mask in SEGMENTS.items():
        first = ""
        for row, left, right in runs(mask):
            here = f"{name}{number}-{row}-{left}"
            value = {
                "x": 100 * left / SIZE[1], "y": 100 * row / SIZE[0], "width": 100 * (right - left) / SIZE[1],
                "height": 100 / SIZE[0], "rotation": 0, "rectanglelabels": [name],
            }  # fmt: skip
            sizes = {"original_width": SIZE[1], "original_height": SIZE[0], "image_rotation": 0}
            entry = {"id": here, "type": "rectanglelabels", "value": value, "from_name": "l", "to_name": "i"}
            results.append(entry | sizes | ({"parentID": first} if first else {}))
            first = first or here
    annotation = {"id": 1, "result": results, "was_cancelled": False}
    text(root / "export.json", [{"id": 1, "annotations": [annotation], "data": {"image": "/data/upload/1/a.png"}}])


def datumaro(root: Path) -> None:
    photograph(root / "images/default/a.png")
    annotations = [
        {
            "id": number, "type": "mask", "attributes": {}, "group": number, "z_order": 0,
            "label_id": NAMES.index(name),
            "rle": {"counts": compressed(mask), "size": list(SIZE)},
        }
        for number, ((name, _), mask) in enumerate(SEGMENTS.items(), start=1)
    ]  # fmt: skip
    labels = [{"name": name, "parent": "", "attributes": []} for name in NAMES]
    item = {"id": "a", "annotations": annotations, "attr": {}, "image": {"path": "a.png", "size": list(SIZE)}}
    text(
        root / "annotations/default.json",
        {"dm_format_version": "1.0", "infos": {}, "categories": {"label": {"labels": labels}}, "items": [item]},
    )


def cityscapes(root: Path) -> None:
    labels = np.array([7, 23, 26], dtype=np.int32)[np.minimum(CLASSES, 2)]
    ids = np.where(OBJECTS > 0, 26000 + OBJECTS.astype(np.int32), np.where(CLASSES == 255, 0, labels))
    write_cityscapes(root, "val", "zurich_000000_000000", ids)


def mapillary(root: Path) -> None:
    labels = [(f"x--{name}", name, name in THINGS, True) for name in NAMES] + [("void--unlabeled", "u", False, False)]
    write_mapillary_config(root / "config.json", labels)
    write_mapillary(root, "validation", "a", np.where(CLASSES == 255, 3, CLASSES).astype(np.int32) * 256 + OBJECTS)
    write_mapillary(root, "training", "b", np.where(CLASSES == 255, 3, CLASSES).astype(np.int32) * 256 + OBJECTS)


def ade20k(root: Path) -> None:
    classes = np.array([7, 3, 21, 0], dtype=np.uint8)[np.minimum(CLASSES, 3)]
    objects = np.zeros((*SIZE, 3), dtype=np.uint8)
    objects[..., 0], objects[..., 1] = np.where(OBJECTS > 0, 9, 0), OBJECTS
    write_ade20k(root, "training", "ADE_train_00000001", classes, objects)


def png_pairs(root: Path) -> None:
    semantic_png(root)
    png(root / "instance/a.png", OBJECTS)


def semantic_png(root: Path) -> None:
    photograph(root / "images/a.png")
    png(root / "semantic/a.png", CLASSES)
    text(root / "classes.txt", "\n".join(NAMES))


EXPORTS: dict[str, Callable[[Path], None]] = {
    "coco": coco,
    "yolo": yolo,
    "labelme": labelme,
    "cvat": cvat,
    "label-studio": label_studio,
    "datumaro": datumaro,
    "cityscapes": cityscapes,
    "mapillary": mapillary,
    "ade20k": ade20k,
    "png-pairs": png_pairs,
    "semantic-png": semantic_png,
}
"""What writes the scene, by the name of the format."""
