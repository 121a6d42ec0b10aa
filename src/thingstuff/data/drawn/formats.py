"""The formats that can be converted, and which of them something is."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from thingstuff.data import ade20k, cityscapes, mapillary
from thingstuff.data.drawn import (
    coco_instances,
    cvat,
    datumaro,
    label_studio,
    labelme,
    png_folders,
    png_pairs,
    semantic_png,
    yolo,
)
from thingstuff.data.drawn.drawing import DrawingSource
from thingstuff.errors import InputError


@dataclass(frozen=True, slots=True)
class Format:
    """One way to keep annotations.

    Attributes:
        name: For the command line.
        title: For people.
        recognize: Whether a file or folder is of this format, by what is in it; cheap, and never raises.
        open: Opens it.
        merged: It does not tell objects of one class apart.
        general: Others look like it, too; it is taken where no other fits.
    """

    name: str
    title: str
    recognize: Callable[[Path], bool]
    open: Callable[[Path], DrawingSource]
    merged: bool = False
    general: bool = False


FORMATS = (
    Format("coco", "COCO instances", coco_instances.recognize, coco_instances.open_coco_instances),
    Format("yolo", "YOLO segmentation", yolo.recognize, yolo.open_yolo),
    Format("labelme", "labelme JSON", labelme.recognize, labelme.open_labelme),
    Format("cvat", "CVAT XML", cvat.recognize, cvat.open_cvat),
    Format("label-studio", "Label Studio JSON", label_studio.recognize, label_studio.open_label_studio),
    Format("datumaro", "Datumaro", datumaro.recognize, datumaro.open_datumaro),
    Format("cityscapes", "Cityscapes", cityscapes.recognize, cityscapes.open_cityscapes),
    Format("mapillary", "Mapillary Vistas", mapillary.recognize, mapillary.open_mapillary),
    Format("ade20k", "ADE20K", ade20k.recognize, ade20k.open_ade20k),
    Format(
        "png-pairs",
        "pairs of semantic and instance PNG files",
        png_pairs.recognize,
        png_pairs.open_png_pairs,
        general=True,
    ),
    Format(
        "semantic-png",
        "semantic PNG files",
        semantic_png.recognize,
        semantic_png.open_semantic_png,
        merged=True,
        general=True,
    ),
)
"""All of them."""


def find_format(source: Path, name: str | None) -> Format:
    """The format of an export.

    Args:
        source: File or folder.
        name: What the user says it is; None: find out.

    Raises:
        InputError: There is no such file, name or format, or several fit.
    """
    if not source.exists():
        raise InputError(f"{source}: there is no such file or folder; check the path")
    names = [each.name for each in FORMATS]
    if name is not None:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]}? There are" if near else "there are"
            raise InputError(f"--from {name}: there is no such format; {hint}: {', '.join(names)}")
        return FORMATS[names.index(name)]
    fitting = [each for each in FORMATS if each.recognize(source)]
    fitting = [each for each in fitting if not each.general] or fitting
    if len(fitting) > 1:
        raise InputError(
            f"{source}: looks like {' and '.join(e.title for e in fitting)}; say with --from which it is: "
            f"{' or '.join(each.name for each in fitting)}"
        )
    if not fitting:
        raise InputError(f"{source}: {_what_it_is(source)}; formats: {', '.join(names)}")
    return fitting[0]


def _what_it_is(source: Path) -> str:
    folders = (source, *(path for path in source.glob("*") if path.is_dir())) if source.is_dir() else ()
    if source.match("panoptic_*.json") or any(any(folder.glob("panoptic_*.json")) for folder in folders):
        return "is in the COCO panoptic format already, which needs no conversion (thingstuff data check looks at it)"
    if source.suffix.lower() in (".zip", ".tar", ".gz", ".tgz", ".7z"):
        return "is an archive; unpack it first"
    if (masks := png_folders.find_masks_alone(source)) is not None:
        return png_folders.describe_masks_alone(masks)
    return "no known annotations were found here; give the folder or file that the tool exported, or force --from"
