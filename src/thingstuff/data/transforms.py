"""Augmentation and sizing of samples, and the step from samples to a batch.

Everything random comes from one generator made from ``Sample.seed``. The geometry is chosen first, as one window of
the original picture, one size and flips, and then happens once to the picture and once to the id map; boxes and masks
are derived from the map afterwards, so objects cut by the window are right by construction.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Int64, Shaped
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from thingstuff.data.images import locate_segments
from thingstuff.errors import InputError
from thingstuff.labels import LabelSet
from thingstuff.structures import VOID_LABEL, Batch, OverlappingInstances, Sample, Size, Targets, Truth, TruthSegment

# --- sizes ---


def target_size(size: Size, short_side: int, max_side: int) -> Size:
    """Size of a picture whose shorter side becomes ``short_side`` while its longer one stays within ``max_side``.

    Source: Detectron2's ``ResizeShortestEdge``: the scale is kept as a float and each side is rounded half up.

    Args:
        size: Original size.
        short_side: Pixels; 0 leaves the picture as it is.
        max_side: Pixels.
    """
    if short_side == 0:
        return size
    scale = short_side / min(size)
    height, width = scale * size[0], scale * size[1]
    if max(height, width) > max_side:
        cap = max_side / max(height, width)
        height, width = height * cap, width * cap
    return _round_size(height, width)


def resize_image(image: Shaped[np.ndarray, "H W C"], size: Size) -> Shaped[np.ndarray, "h w C"]:
    """Resize a picture, uint8 or uint16, bilinearly with antialiasing; the dtype stays."""
    if image.shape[:2] == size:
        return image
    # torch resizes neither uint16 nor int32, so 16 bits go through float.
    pixels = _tensor(image if image.dtype == np.uint8 else image.astype(np.float32))
    resized = F.resize(pixels.permute(2, 0, 1), list(size), InterpolationMode.BILINEAR, antialias=True)
    resized = resized.permute(1, 2, 0).contiguous().numpy()
    return resized if image.dtype == np.uint8 else np.round(resized).clip(0, 65535).astype(image.dtype)


def _tensor(array: np.ndarray) -> torch.Tensor:
    """Share an array with torch, which takes no negative strides and warns of read-only memory: those are copied."""
    return torch.from_numpy(np.require(array, requirements=["C_CONTIGUOUS", "WRITEABLE"]))


def _round_size(height: float, width: float) -> Size:
    return max(1, int(height + 0.5)), max(1, int(width + 0.5))


# --- augmentation ---


@dataclass(frozen=True, slots=True)
class ColorJitter:
    """Strengths of random changes of colour, each from 0 (none) to 1, applied in random order.

    Attributes:
        brightness: The factor is drawn from ``1 - brightness`` to ``1 + brightness``; likewise the next two.
        contrast: See brightness.
        saturation: See brightness.
        hue: The shift is drawn from ``-hue / 2`` to ``hue / 2`` of the colour circle.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Random changes of a sample.

    Attributes:
        short_sides: Lengths of the shorter side in pixels, one of which is drawn; 0 leaves the size as it is.
        max_side: Limit of the longer side in pixels, before ``scale_jitter``.
        flip: Probability of a left-right flip.
        vertical_flip: Probability of an upside-down flip.
        scale_jitter: The size is multiplied by a factor drawn between these two (large-scale jitter).
        crop: Size of a random window of the scaled picture, where it is larger. None keeps all of it.
        color: Change of colours, for 8-bit RGB pictures.
    """

    short_sides: tuple[int, ...]
    max_side: int
    flip: float = 0.0
    vertical_flip: float = 0.0
    scale_jitter: tuple[float, float] = (1.0, 1.0)
    crop: Size | None = None
    color: ColorJitter | None = None


@dataclass(frozen=True, slots=True)
class _Geometry:
    """A window of the original picture, given by slices, that is brought to ``size`` and then flipped."""

    rows: slice
    columns: slice
    size: Size
    flip: bool
    vertical_flip: bool


def augment(sample: Sample, augmentation: Augmentation) -> Sample:
    """Change a sample at random, as a function of its seed alone.

    The image is resized bilinearly, id map and masks by taking the nearest pixel. Segments that lose all their pixels
    stay listed. Unchanged arrays are not copied.

    Raises:
        InputError: Colours are to be changed in a picture that is not 8-bit RGB.
    """
    generator = np.random.default_rng(sample.seed)
    geometry = _draw_geometry((sample.image.shape[0], sample.image.shape[1]), augmentation, generator)
    image = resize_image(sample.image[geometry.rows, geometry.columns], geometry.size)
    image = _flip(image, geometry)
    if augmentation.color is not None:
        image = _jitter_color(image, augmentation.color, generator, sample.file_name)
    truth = None if sample.truth is None else _transform_truth(sample.truth, geometry)
    return replace(sample, image=image, truth=truth)


def _draw_geometry(size: Size, augmentation: Augmentation, generator: np.random.Generator) -> _Geometry:
    short_side = augmentation.short_sides[generator.integers(len(augmentation.short_sides))]
    factor = generator.uniform(*augmentation.scale_jitter)
    flip, vertical_flip = generator.random(2) < (augmentation.flip, augmentation.vertical_flip)
    height, width = target_size(size, short_side, augmentation.max_side)
    scaled = _round_size(factor * height, factor * width)
    crop = augmentation.crop or scaled
    target = min(crop[0], scaled[0]), min(crop[1], scaled[1])
    rows, columns = (_draw_window(*lengths, generator) for lengths in zip(size, scaled, target, strict=True))
    return _Geometry(rows, columns, target, bool(flip), bool(vertical_flip))


def _draw_window(original: int, scaled: int, target: int, generator: np.random.Generator) -> slice:
    """The stretch of ``original`` pixels that shows as ``target`` pixels once the whole shows as ``scaled``.

    Cutting it out first means that nothing larger than the result is ever resized. It consists of whole pixels, which
    changes the scale by at most half a pixel over the window.
    """
    length = min(original, max(1, int(original * target / scaled + 0.5)))
    start = int(generator.integers(original - length + 1))
    return slice(start, start + length)


def _flip(array: np.ndarray, geometry: _Geometry, first_axis: int = 0) -> np.ndarray:
    axes = tuple(first_axis + axis for axis, wanted in enumerate((geometry.vertical_flip, geometry.flip)) if wanted)
    return _tensor(array).flip(axes).numpy() if axes else array  # many times faster than numpy's flip


def _transform_truth(truth: Truth, geometry: _Geometry) -> Truth:
    instances = truth.instances
    if instances is not None:
        masks = _flip(_nearest(instances.masks, geometry), geometry, first_axis=1)
        instances = OverlappingInstances(masks, instances.labels, instances.crowd)
    return Truth(_flip(_nearest(truth.ids, geometry), geometry), truth.segments, instances)


def _nearest(maps: Shaped[np.ndarray, "*n H W"], geometry: _Geometry) -> Shaped[np.ndarray, "*n h w"]:
    maps = maps[..., geometry.rows, geometry.columns]
    if maps.shape[-2:] == geometry.size:
        return maps
    rows, columns = (
        nearest_indices(length, target) for length, target in zip(maps.shape[-2:], geometry.size, strict=True)
    )
    return maps.take(rows, axis=-2).take(columns, axis=-1)


def nearest_indices(source: int, target: int) -> Int64[np.ndarray, " target"]:
    """Which of ``source`` pixels shows at each of ``target`` ones: the one under its centre, by exact arithmetic."""
    return (2 * np.arange(target) + 1) * source // (2 * target)


def _jitter_color(
    image: Shaped[np.ndarray, "H W C"], color: ColorJitter, generator: np.random.Generator, file_name: str
) -> Shaped[np.ndarray, "H W C"]:
    if image.dtype != np.uint8 or image.shape[2] != 3:
        kind = f"{image.shape[2]} channels of {image.dtype}"
        raise InputError(
            f"{file_name}: colours can be changed in 8-bit RGB pictures only, not in {kind}; set color to none"
        )
    strengths = color.brightness, color.contrast, color.saturation, color.hue / 2
    centers = 1, 1, 1, 0
    adjustments = F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue
    draws = generator.uniform(-1, 1, size=4)
    pixels = _tensor(image).permute(2, 0, 1)
    for which in generator.permutation(4):
        if strengths[which]:
            pixels = adjustments[which](pixels, centers[which] + float(draws[which]) * strengths[which])
    return pixels.permute(1, 2, 0).contiguous().numpy()


def paste(sample: Sample, other: Sample, labels: LabelSet, thing: int) -> Sample:
    """Lay all objects of one class in another picture over a picture, where they are, as far as they fit.

    What they hide is gone from the map; crowds are not laid over. Where objects overlap as the data set has them, as
    masks of their own, hidden parts are cut off and the pasted masks come last.

    Source: Ghiasi et al., Simple Copy-Paste (CVPR 2021), without blending.

    Args:
        sample: An annotated picture, changed at random or not.
        other: Another one of the same kind of pixels.
        labels: Classes of the annotation.
        thing: Thing index of the class.

    Raises:
        InputError: The pictures differ in number of channels or bits.
    """
    _check_alike(other, sample)
    assert sample.truth is not None
    assert other.truth is not None
    height, width = (min(sides) for sides in zip(sample.image.shape[:2], other.image.shape[:2], strict=True))
    objects = _objects_of(other.truth, labels, thing)[:, :height, :width]
    first = 1 + max((segment.id for segment in sample.truth.segments), default=0)
    image, ids = sample.image.copy(), sample.truth.ids.copy()
    for number, mask in enumerate(objects):
        ids[:height, :width][mask] = first + number
    laid = ids >= first
    image[laid] = other.image[:height, :width][laid[:height, :width]]
    pasted = (TruthSegment(first + number, labels.num_stuff + thing) for number in range(len(objects)))
    instances = sample.truth.instances
    if instances is not None:
        masks = np.zeros((len(objects), *ids.shape), dtype=bool)
        masks[:, :height, :width] = objects
        instances = OverlappingInstances(
            np.concatenate([instances.masks & ~laid, masks]),
            np.append(instances.labels, np.full(len(objects), thing)),
            np.append(instances.crowd, np.zeros(len(objects), dtype=bool)),
        )
    return replace(sample, image=image, truth=Truth(ids, (*sample.truth.segments, *pasted), instances))


def _objects_of(truth: Truth, labels: LabelSet, thing: int) -> Bool[np.ndarray, "n H W"]:
    """Masks of all objects of a class, without crowds."""
    if truth.instances is not None:
        wanted = (truth.instances.labels == thing) & ~truth.instances.crowd
        return truth.instances.masks[wanted]
    label = labels.num_stuff + thing
    found = [segment.id for segment in truth.segments if segment.label == label and not segment.crowd]
    return truth.ids == np.array(found, dtype=truth.ids.dtype)[:, None, None]


# --- samples -> batch ---


def make_targets(sample: Sample, labels: LabelSet) -> Targets:
    """Derive boxes, cropped masks and the label map from an annotated sample, in the frame of its picture.

    Segments and instances without pixels are dropped; crowd regions keep their class in the label map.
    """
    truth = sample.truth
    assert truth is not None, f"{sample.file_name}: no annotation to make targets from"
    located = locate_segments(truth.ids, [segment.id for segment in truth.segments])
    class_of = np.array([VOID_LABEL, *(segment.label for segment in truth.segments)], dtype=np.uint8)
    label_map = torch.from_numpy(class_of.take(located.index))
    if truth.instances is not None:
        return _overlapping_targets(truth.instances, label_map)
    things = [
        row
        for row, segment in enumerate(truth.segments)
        if segment.label >= labels.num_stuff and located.areas[row] > 0
    ]
    masks = tuple(
        torch.from_numpy(located.index[top:bottom, left:right] == row + 1)
        for row, (left, top, right, bottom) in zip(things, located.boxes[things].tolist(), strict=True)
    )
    return Targets(
        boxes=torch.from_numpy(located.boxes[things].astype(np.float32)),
        labels=torch.tensor([truth.segments[row].label - labels.num_stuff for row in things], dtype=torch.int64),
        crowd=torch.tensor([truth.segments[row].crowd for row in things], dtype=torch.bool),
        masks=masks,
        label_map=label_map,
    )


def _overlapping_targets(instances: OverlappingInstances, label_map: torch.Tensor) -> Targets:
    kept, boxes, masks = [], [], []
    for row, mask in enumerate(instances.masks):
        lines, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if lines.size:
            left, top, right, bottom = columns[0], lines[0], columns[-1] + 1, lines[-1] + 1
            kept.append(row)
            boxes.append((left, top, right, bottom))
            masks.append(torch.from_numpy(mask[top:bottom, left:right].copy()))
    return Targets(
        boxes=torch.from_numpy(np.array(boxes, dtype=np.float32).reshape(-1, 4)),
        labels=torch.from_numpy(instances.labels[kept]),
        crowd=torch.from_numpy(instances.crowd[kept]),
        masks=tuple(masks),
        label_map=label_map,
    )


def collate(samples: Sequence[Sample], labels: LabelSet, size_divisor: int) -> Batch:
    """Pad pictures right and bottom with 0 to their common size, rounded up to a multiple of ``size_divisor``.

    Args:
        samples: At least one; all annotated (the batch then has targets) or none.
        labels: Classes of the annotation.
        size_divisor: Pixels; the network's coarsest stride.

    Raises:
        InputError: The pictures differ in number of channels or bits.
    """
    sizes = torch.tensor([sample.image.shape[:2] for sample in samples], dtype=torch.int64)
    height, width = (-(-int(side) // size_divisor) * size_divisor for side in sizes.amax(dim=0))
    first = _tensor(samples[0].image)
    images = torch.zeros(len(samples), first.shape[2], height, width, dtype=first.dtype)
    for sample, padded in zip(samples, images, strict=True):
        _check_alike(sample, samples[0])
        padded[:, : sample.image.shape[0], : sample.image.shape[1]] = _tensor(sample.image).permute(2, 0, 1)
    annotated = samples[0].truth is not None
    targets = tuple(make_targets(sample, labels) for sample in samples) if annotated else None
    return Batch(images, sizes, targets, tuple(sample.seed for sample in samples))


def _check_alike(sample: Sample, first: Sample) -> None:
    kinds = [f"{one.image.shape[2]} channels of {one.image.dtype}" for one in (sample, first)]
    if kinds[0] != kinds[1]:
        raise InputError(
            f"{sample.file_name} has {kinds[0]}, {first.file_name} has {kinds[1]}; convert all pictures to one kind"
        )
