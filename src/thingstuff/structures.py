"""The records that flow between the stages: the vocabulary of the package.

    files -> Sample -> Batch -> [backbone -> neck] -> Pyramid
    Pyramid -+-> rpn -> Proposals -> region -> Instances -+
             '-> semantic -----------------> Semantic ----+-> fusion -> PanopticMaps -> Panoptic -> everything outside

Conventions that hold everywhere:

* Boxes are ``xyxy`` in continuous pixel coordinates: pixel ``(x, y)`` covers ``[x, x + 1) x [y, y + 1)``, so the box
  of a mask is ``(x_min, y_min, x_max + 1, y_max + 1)`` and its width is ``x2 - x1``.
* In id maps 0 is void (no label); in label maps 255 is void. Nothing is learned from void or counted on it.
* A *class index* is contiguous: stuff by category id, then things by category id (see ``labels.LabelSet``).
  A *thing index* counts the things alone, from 0.
* Sizes are ``(height, width)``.

Three frames occur: the *original* picture, the *resized* picture (after the size policy) and the *padded* picture (the
resized one, padded right and bottom to the size of its batch). Resized and padded pixels have the same coordinates.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Float32, Int32, Int64, Shaped, UInt8

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    # Checked by shape and dtype alone, so that scoring and `--help` do not import torch.
    Tensor = Any

VOID_ID = 0
"""Value of id maps where nothing is labelled."""
VOID_LABEL = 255
"""Value of label maps where nothing is labelled."""
Size = tuple[int, int]
"""Height and width in pixels."""

NormKind = Literal["none", "batch", "sync_batch", "group"]
"""Norm after a convolution of neck and heads."""
BackboneNorm = Literal["frozen_batch", "batch", "sync_batch", "group"]
"""What becomes of a backbone's batch norms: constants, learned, learned over all processes, group norm instead."""
AnchorKind = Literal["exact", "rounded", "legacy"]
"""Anchors as they come, rounded to whole pixels (torchvision), or as Detectron makes them (see ``cell_anchors``)."""
MaskPaste = Literal["pixel_centers", "whole_pixels", "inclusive_pixels"]
"""How a mask comes to the picture: sampled at pixel centres, or resized to its box in whole pixels, which begin and end
where the box does, or of which the last one ends there."""
BottomUpOrder = Literal["paper", "mmdet"]
"""What a level of the bottom-up path is made of: the finished one below, or that before its last convolution."""
LevelFusion = Literal["max", "sum"]
"""How features of one region from several levels become one."""
Precision = Literal["float32", "bfloat16"]
"""Of a network's arithmetic; what is learned and what is counted stays float32."""
StuffFrame = Literal["output", "network"]
"""Whose pixels a limit for stuff counts: the map's that is asked for, or the picture's as the network sees it."""
StuffMajority = Literal["half", "more_than_half"]
"""Share of an instance that must look like one stuff class for the instance to become that stuff."""
PixelKind = Literal["rgb", "uint8", "uint16"]
"""Numbers of a picture: RGB of 8 bits, or as they stand in the file."""
ChannelOrder = Literal["rgb", "bgr"]
"""What the network expects; pictures outside the network are always RGB."""


# --- files -> transforms ---


@dataclass(frozen=True, slots=True)
class TruthSegment:
    """One annotated segment of an id map.

    Attributes:
        id: Its value in the id map, at least 1.
        label: Class index.
        crowd: A group of objects too many to tell apart: never learned as an instance, never counted as missed.
    """

    id: int
    label: int
    crowd: bool = False


@dataclass(frozen=True, slots=True)
class OverlappingInstances:
    """Instance masks that may overlap, as COCO's instance task annotates them.

    Attributes:
        masks: One full-size mask for each instance, in the frame of the picture.
        labels: Thing index of each.
        crowd: Crowd flag of each.
    """

    masks: Bool[np.ndarray, "n H W"]
    labels: Int64[np.ndarray, " n"]
    crowd: Bool[np.ndarray, " n"]


@dataclass(frozen=True, slots=True)
class Truth:
    """The annotation of one picture, in the frame of the picture it belongs to.

    Attributes:
        ids: Segment id of every pixel, 0 where void.
        segments: The segments of ``ids``. Some may have lost all their pixels to a crop.
        instances: Overlapping instance masks where the data set has them; they replace the things of ``ids`` as the
            truth of the region branch. None: instances are the thing segments of ``ids``.
    """

    ids: Int32[np.ndarray, "H W"]
    segments: tuple[TruthSegment, ...]
    instances: OverlappingInstances | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """One picture and what is known about it.

    Attributes:
        image: RGB where it has three channels.
        truth: The annotation, or None for a picture to predict on.
        image_id: The data set's own id of the picture.
        file_name: The data set's own file name of the picture.
        original_size: Size of the picture as stored, upright, before any transform.
        seed: Seeds everything random that happens to this sample: a function of the run's seed, the epoch and the
            picture, never of a worker's state.
    """

    image: Shaped[np.ndarray, "H W C"]
    truth: Truth | None
    image_id: int | str
    file_name: str
    original_size: Size
    seed: int = 0


# --- loader -> model ---


@dataclass(frozen=True, slots=True)
class Targets:
    """What the objective compares one picture's prediction with, in the frame of the resized picture.

    Attributes:
        boxes: Tight box of each instance mask.
        labels: Thing index of each.
        crowd: Crowd flag of each.
        masks: Each instance's mask, cropped to its box.
        label_map: Class index of every pixel, 255 where void.
    """

    boxes: Float32[Tensor, "n 4"]
    labels: Int64[Tensor, " n"]
    crowd: Bool[Tensor, " n"]
    masks: tuple[Bool[Tensor, "_ _"], ...]
    label_map: UInt8[Tensor, "H W"]

    def to(self, device: "torch.device | str") -> "Targets":
        """Copy to ``device``."""
        masks = tuple(mask.to(device, non_blocking=True) for mask in self.masks)
        boxes, labels, crowd, label_map = (
            tensor.to(device, non_blocking=True) for tensor in (self.boxes, self.labels, self.crowd, self.label_map)
        )
        return Targets(boxes, labels, crowd, masks, label_map)

    def pin_memory(self) -> "Targets":
        """Copy to page-locked memory, from which copies to a GPU need not wait."""
        masks = tuple(mask.pin_memory() for mask in self.masks)
        boxes, labels, crowd, label_map = (
            tensor.pin_memory() for tensor in (self.boxes, self.labels, self.crowd, self.label_map)
        )
        return Targets(boxes, labels, crowd, masks, label_map)


@dataclass(frozen=True, slots=True)
class Batch:
    """Pictures padded to a common size.

    Attributes:
        images: Raw pixel values, padded right and bottom; what stands in the padding does not matter.
        sizes: Height and width of each picture before padding.
        targets: One for each picture, or None when predicting.
        seeds: Seed of each picture's random choices (see ``Sample.seed``).
    """

    images: Shaped[Tensor, "B C H W"]
    sizes: Int64[Tensor, "B 2"]
    targets: tuple[Targets, ...] | None = None
    seeds: tuple[int, ...] = ()

    def to(self, device: "torch.device | str") -> "Batch":
        """Copy to ``device``."""
        targets = None if self.targets is None else tuple(target.to(device) for target in self.targets)
        images, sizes = (tensor.to(device, non_blocking=True) for tensor in (self.images, self.sizes))
        return Batch(images, sizes, targets, self.seeds)

    def pin_memory(self) -> "Batch":
        """Copy to page-locked memory; called by torch's DataLoader."""
        targets = None if self.targets is None else tuple(target.pin_memory() for target in self.targets)
        return Batch(self.images.pin_memory(), self.sizes.pin_memory(), targets, self.seeds)


# --- inside the network ---


@dataclass(frozen=True, slots=True)
class Pyramid:
    """Features of the padded picture at several strides.

    Attributes:
        features: ``(B, C, ceil(H / stride), ceil(W / stride))`` by stride, finest first.
    """

    features: Mapping[int, Float[Tensor, "B _ _ _"]]


@dataclass(frozen=True, slots=True)
class Proposals:
    """Regions that may hold an object, best first, in the padded frame.

    Attributes:
        boxes: Clipped to the picture before padding.
        logits: Objectness before the sigmoid.
        valid: False in the rows that only fill up to the fixed number K.
    """

    boxes: Float32[Tensor, "B K 4"]
    logits: Float32[Tensor, "B K"]
    valid: Bool[Tensor, "B K"]


@dataclass(frozen=True, slots=True)
class Instances:
    """Detected objects, best first, in the padded frame.

    Attributes:
        boxes: Clipped to the picture before padding.
        scores: Probability of the object's class.
        labels: Thing index.
        mask_logits: The mask inside the box, before the sigmoid; None from a network without mask branch.
        valid: False in the rows that only fill up to the fixed number D.
    """

    boxes: Float32[Tensor, "B D 4"]
    scores: Float32[Tensor, "B D"]
    labels: Int64[Tensor, "B D"]
    mask_logits: Float32[Tensor, "B D M M"] | None
    valid: Bool[Tensor, "B D"]


@dataclass(frozen=True, slots=True)
class Semantic:
    """Class evidence of every pixel at stride 4 of the padded picture.

    Attributes:
        logits: Channels are stuff in class order, then either one for all things together or one for each thing.
    """

    logits: Float[Tensor, "B classes h w"]


@dataclass(frozen=True, slots=True)
class Outputs:
    """What the network says of a batch, before fusion.

    Attributes:
        instances: None from a network without region branch.
        semantic: None from a network without semantic branch.
        candidates: Instances that may enter the panoptic map, where other rules hold for them than for detections
            (UPSNet); None: the instances themselves.
    """

    instances: Instances | None
    semantic: Semantic | None
    candidates: Instances | None = None


# --- fusion -> everything outside ---


@dataclass(frozen=True, slots=True)
class PanopticMaps:
    """One picture's panoptic segmentation as tensors, at the output size.

    Attributes:
        ids: Segment of every pixel: row of the table plus one, 0 where void.
        labels: Class index of each segment.
        scores: Score of each thing segment; 1 for stuff.
        areas: Pixels of each segment.
        valid: False in rows of the table that hold no segment.
    """

    ids: Int32[Tensor, "H W"]
    labels: Int64[Tensor, " N"]
    scores: Float32[Tensor, " N"]
    areas: Int64[Tensor, " N"]
    valid: Bool[Tensor, " N"]


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment of a panoptic map.

    Attributes:
        id: Its value in the id map.
        category_id: The data set's own category id.
        name: Name of the category.
        isthing: A countable object, not amorphous stuff.
        score: Confidence of a predicted thing, None for stuff and for truth.
        area: Pixels.
        bbox: ``(x, y, width, height)``, as COCO writes it.
        iscrowd: A group of objects (truth only).
    """

    id: int
    category_id: int
    name: str
    isthing: bool
    score: float | None
    area: int
    bbox: tuple[int, int, int, int]
    iscrowd: bool = False


@dataclass(frozen=True, slots=True)
class Panoptic:
    """A panoptic map: every pixel belongs to one segment or to none.

    Attributes:
        ids: Segment id of every pixel, 0 where void.
        segments: The segments, in order of their ids.
    """

    ids: Int32[np.ndarray, "H W"]
    segments: tuple[Segment, ...]


def encode_ids(ids: Int32[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W 3"]:
    """Write an id map as the RGB picture of the COCO panoptic format: ``id = R + 256 G + 65536 B``."""
    little_endian = np.ascontiguousarray(ids, dtype="<i4").view(np.uint8)
    return np.ascontiguousarray(little_endian.reshape(*ids.shape, 4)[..., :3])


def decode_ids(rgb: UInt8[np.ndarray, "H W 3"]) -> Int32[np.ndarray, "H W"]:
    """Read an id map from the RGB picture of the COCO panoptic format: ``id = R + 256 G + 65536 B``."""
    red, green, blue = (rgb[..., channel].astype(np.int32) for channel in range(3))
    return red | green << 8 | blue << 16
