"""Data sets in the COCO panoptic format: reading, checking and writing.

A data set ROOT holds ``images/``, and for every split ``panoptic_<split>.json`` and ``panoptic_<split>/`` with one PNG
file for each picture (segment id = R + 256 G + 65536 B, 0 is void). Other layouts are read too, see ``layouts``.

Source: https://cocodataset.org/#format-data
"""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int32
from PIL import Image

from thingstuff.data.coco_json import (
    MAX_ID,
    AnnotatedPicture,
    check_files,
    read_annotations,
    read_document,
    read_images,
    read_instances,
)
from thingstuff.data.images import locate_segments, read_id_map, read_picture
from thingstuff.data.layouts import PanopticFiles, find_panoptic
from thingstuff.errors import InputError
from thingstuff.labels import Category, LabelSet
from thingstuff.structures import (
    VOID_ID,
    OverlappingInstances,
    Panoptic,
    PixelKind,
    Sample,
    Segment,
    Size,
    Truth,
    encode_ids,
)


@dataclass(frozen=True)
class CocoPanopticSource:
    """The annotated pictures of one split, in the order of the annotations; made by ``open_coco_panoptic``.

    Attributes:
        labels: The classes.
        json_path: ``panoptic_<split>.json``.
        image_folder: ``images/``.
        map_folder: ``panoptic_<split>/``.
        pictures: What the JSON file says of each.
        instances: COCO's own instance annotations of each picture, where overlapping masks were asked for.
        layout: Which layout was recognized, and the places in it, in a line.
        channels: Of the pictures, as whoever reads them takes them (see ``read_picture``).
        pixels: The same.
    """

    labels: LabelSet
    json_path: Path
    image_folder: Path
    map_folder: Path
    pictures: tuple[AnnotatedPicture, ...]
    instances: tuple[tuple[Mapping[str, Any], ...], ...] | None = None
    layout: str = ""
    channels: int = 3
    pixels: PixelKind = "rgb"

    def __len__(self) -> int:
        return len(self.pictures)

    def picture_sizes(self) -> list[Size]:
        """Original size of every picture, without decoding any."""
        return [picture.size for picture in self.pictures]

    def picture_labels(self, index: int) -> frozenset[int]:
        """The classes in one picture, without decoding it."""
        return frozenset(segment.label for segment in self.pictures[index].segments)

    def image_path(self, index: int) -> Path:
        """The file of one picture."""
        return self.image_folder / self.pictures[index].file_name

    def map_path(self, index: int) -> Path:
        """The PNG file of one picture's id map."""
        return self.map_folder / self.pictures[index].map_name

    def read(self, index: int) -> Sample:
        """Decode one picture and its annotation.

        Raises:
            InputError: A file is damaged; sizes, ids or areas of picture, PNG and JSON file contradict each other.
        """
        picture = self.pictures[index]
        image = read_picture(self.image_path(index), self.channels, self.pixels)
        ids = read_id_map(self.map_path(index))
        self._check_sizes(index, (image.shape[0], image.shape[1]), (ids.shape[0], ids.shape[1]))
        self._check_segments(index, ids)
        instances = None
        if self.instances is not None:
            instances = _decode_instances(self.instances[index], picture, self.labels)
        truth = Truth(ids, picture.segments, instances)
        return Sample(image, truth, picture.image_id, picture.file_name, picture.size)

    def _check_sizes(self, index: int, image_size: Size, map_size: Size) -> None:
        for path, size in ((self.image_path(index), image_size), (self.map_path(index), map_size)):
            expected = self.pictures[index].size
            if size != expected:
                raise InputError(
                    f"{path}: {size[1]} x {size[0]} pixels (width x height, upright), but {self.json_path.name} says "
                    f"{expected[1]} x {expected[0]}; picture, PNG and JSON must agree after EXIF rotation"
                )

    def _check_segments(self, index: int, ids: Int32[np.ndarray, "H W"]) -> None:
        picture, path = self.pictures[index], self.map_path(index)
        located = locate_segments(ids, [segment.id for segment in picture.segments])
        unlisted = ids[(located.index == 0) & (ids != VOID_ID)]
        if unlisted.size:
            raise InputError(
                f"{path}: id {unlisted[0]} has {np.count_nonzero(unlisted == unlisted[0])} pixels, but "
                f"{self.json_path.name} does not list it; add it to segments_info or paint it 0 (void)"
            )
        for segment, area, counted in zip(picture.segments, picture.areas, located.areas.tolist(), strict=True):
            if counted == 0:
                raise InputError(
                    f"{path}: no pixel has id {segment.id}, which {self.json_path.name} lists; "
                    "remove it from segments_info or paint it"
                )
            if area is not None and area != counted:
                raise InputError(
                    f"{self.json_path}: segment {segment.id} of {picture.map_name} has area {area}, but the PNG file "
                    f"has {counted} pixels of it; write {counted} (scores rest on this number)"
                )


# --- opening: what JSON and file listing can show ---


def open_coco_panoptic(root: Path, split: str, overlapping: bool = False) -> CocoPanopticSource:
    """Open one split of a data set and check everything that needs no pixels.

    Pictures without annotation are left out.

    Args:
        root: Folder of the data set, in any layout that ``layouts`` lists.
        split: Name of the split.
        overlapping: Take the instances from ``instances_<split>.json``, whose masks may overlap, instead of the id map.

    Raises:
        InputError: Something is missing, or the files contradict themselves.
    """
    return open_panoptic_files(find_panoptic(root, split), overlapping)


def open_panoptic_files(files: PanopticFiles, overlapping: bool = False) -> CocoPanopticSource:
    """The same for files that are found already."""
    document = read_document(files.json_path)
    labels = LabelSet.from_coco(document["categories"], str(files.json_path))
    named = read_images(document["images"], files.json_path)
    images = {identity: (files.picture_name(name), size) for identity, (name, size) in named.items()}
    pictures = read_annotations(document["annotations"], images, labels, files.json_path)
    check_files(files.image_folder, [picture.file_name for picture in pictures], "pictures")
    check_files(files.map_folder, [picture.map_name for picture in pictures], "PNG files")
    instances = None
    if overlapping:
        _import_mask_operations()
        instances = read_instances(files.instances_path, pictures, labels)
    return CocoPanopticSource(
        labels, files.json_path, files.image_folder, files.map_folder, pictures, instances, files.describe()
    )


# --- COCO's instance annotations, which may overlap ---


def _decode_instances(
    annotations: Sequence[Mapping[str, Any]], picture: AnnotatedPicture, labels: LabelSet
) -> OverlappingInstances:
    decoded = [(_decode_mask(annotation["segmentation"], picture), annotation) for annotation in annotations]
    kept = [(mask, annotation) for mask, annotation in decoded if mask is not None]
    masks = np.zeros((len(kept), *picture.size), dtype=bool)
    for row, (mask, _) in enumerate(kept):
        masks[row] = mask
    indices = [labels.index[annotation["category_id"]] - labels.num_stuff for _, annotation in kept]
    crowd = [bool(annotation.get("iscrowd", 0)) for _, annotation in kept]
    return OverlappingInstances(masks, np.array(indices, dtype=np.int64), np.array(crowd, dtype=bool))


def _decode_mask(
    segmentation: list[Any] | Mapping[str, Any], picture: AnnotatedPicture
) -> Bool[np.ndarray, "H W"] | None:
    """The mask of one annotation; None where no polygon of it has three corners, as in a few of COCO's own."""
    operations = _import_mask_operations()
    try:
        if isinstance(segmentation, list):
            polygons = [polygon for polygon in segmentation if len(polygon) >= 6 and len(polygon) % 2 == 0]
            if not polygons:
                return None
            encoded = operations.merge(operations.frPyObjects(polygons, *picture.size))
        elif isinstance(segmentation["counts"], list):
            encoded = operations.frPyObjects(segmentation, *segmentation["size"])
        else:
            encoded = segmentation
        mask = operations.decode(encoded).astype(bool)
    except (TypeError, ValueError, KeyError, RuntimeError) as error:
        raise InputError(
            f"{picture.file_name}: a segmentation in the instances file cannot be decoded ({error}); "
            "write polygons or a run-length encoding as pycocotools does"
        ) from error
    if mask.shape != picture.size:
        raise InputError(
            f"{picture.file_name}: a run-length encoding in the instances file is of {mask.shape[1]} x "
            f"{mask.shape[0]} pixels, the picture of {picture.size[1]} x {picture.size[0]}; correct its 'size'"
        )
    return mask


def _import_mask_operations() -> Any:
    try:
        from faster_coco_eval.core import mask
    except ImportError as error:
        raise InputError(
            "overlapping instances need the package faster-coco-eval; run pip install 'thingstuff[train]'"
        ) from error
    return mask


# --- writing ---


def panoptic_truth(sample: Sample, labels: LabelSet) -> Panoptic:
    """The annotation of a sample as a panoptic map, areas and boxes counted from its pixels.

    Segments without pixels are left out.
    """
    assert sample.truth is not None, f"{sample.file_name} is not annotated"
    return truth_to_panoptic(sample.truth, labels)


def truth_to_panoptic(truth: Truth, labels: LabelSet) -> Panoptic:
    """The same for the annotation alone."""
    listed = sorted(truth.segments, key=lambda segment: segment.id)
    located = locate_segments(truth.ids, [segment.id for segment in listed])
    segments = []
    for segment, area, box in zip(listed, located.areas.tolist(), located.boxes.tolist(), strict=True):
        if area:
            category = labels.categories[segment.label]
            segments.append(annotated_segment(segment.id, category, area, box, crowd=segment.crowd))
    return Panoptic(truth.ids, tuple(segments))


def annotated_segment(identity: int, category: Category, area: int, box: Sequence[int], *, crowd: bool) -> Segment:
    """A segment as an annotation lists it.

    Args:
        identity: Its value in the id map.
        category: What it is of.
        area: Pixels.
        box: ``xyxy``, in pixels of the map.
        crowd: Whether it is a group of objects.
    """
    left, top, right, bottom = box
    return Segment(
        id=identity,
        category_id=category.id,
        name=category.name,
        isthing=category.isthing,
        score=None,
        area=area,
        bbox=(left, top, right - left, bottom - top),
        iscrowd=crowd,
    )


def save_panoptic_png(ids: Int32[np.ndarray, "H W"], path: Path) -> None:
    """Write an id map as the PNG file of the COCO panoptic format.

    Raises:
        InputError: The file cannot be written, or an id does not fit into 24 bits.
    """
    if ids.min(initial=0) < 0 or ids.max(initial=0) > MAX_ID:
        raise InputError(f"{path}: ids from {ids.min()} to {ids.max()}; the format holds 0 to {MAX_ID}, renumber them")
    try:
        Image.fromarray(encode_ids(ids)).save(path, format="PNG")
    except OSError as error:
        raise _unwritable(path, error) from error


def panoptic_annotation(panoptic: Panoptic, image_id: int | str, file_name: str) -> dict[str, Any]:
    """One entry of ``annotations`` in a COCO panoptic JSON file.

    Args:
        panoptic: The map and its segments; predicted things carry their score into the file.
        image_id: The data set's own id of the picture.
        file_name: Of the PNG file with the id map.
    """
    segments_info = []
    for segment in panoptic.segments:
        info: dict[str, Any] = {
            "id": segment.id,
            "category_id": segment.category_id,
            "area": segment.area,
            "bbox": list(segment.bbox),
            "iscrowd": int(segment.iscrowd),
        }
        if segment.score is not None:
            info["score"] = segment.score
        segments_info.append(info)
    return {"image_id": image_id, "file_name": file_name, "segments_info": segments_info}


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file in one step: whoever reads it, even after a crash, finds the old file or the new one.

    Raises:
        InputError: The file cannot be written.
    """
    text = json.dumps(value, allow_nan=False)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with aside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        with suppress(OSError):
            aside.unlink()
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> InputError:
    reason = error.strerror or str(error)
    return InputError(f"{path}: cannot be written ({reason}); check that the folder exists, is yours and has space")
