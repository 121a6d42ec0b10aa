"""From a picture in any form to a panoptic result: what `thingstuff.load` returns, and what that returns."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int32, Int64, Shaped, UInt8
from PIL import Image

from thingstuff import viz
from thingstuff.checkpoint import Checkpoint, load_checkpoint
from thingstuff.data.coco import panoptic_annotation
from thingstuff.data.images import locate_segments, read_image, upright_rgb
from thingstuff.data.transforms import resize_image, target_size
from thingstuff.errors import InputError
from thingstuff.labels import LabelSet
from thingstuff.model import boxes as box_ops
from thingstuff.model.fusion import semantic_labels
from thingstuff.model.panoptic import SIZE_DIVISOR, PanopticSegmenter
from thingstuff.model.pasting import find_paste
from thingstuff.model.tta import Look, combine_looks
from thingstuff.published import PUBLISHED, published_checkpoint
from thingstuff.recipe_model import TTAConfig
from thingstuff.structures import MaskPaste, Outputs, Panoptic, PanopticMaps, Segment, Size, encode_ids

MAX_PIXELS = 100_000
"""Longest side that can be asked for."""
Picture = str | Path | Image.Image | np.ndarray
"""A path, a PIL image, or an (H, W, C) array, RGB where C = 3."""


@dataclass(frozen=True)
class DetectedInstances:
    """Every detection of the network, best first, in the frame of the output, also those not in the panoptic map.

    Attributes:
        boxes: ``xyxy`` in output pixels.
        scores: Probability of the object's class.
        category_ids: The data set's own category ids.
        mask_probabilities: The masks inside their boxes; None from a network without mask branch.
        size: Height and width of the output.
        mask_paste: How masks come to the picture.
    """

    boxes: Float32[np.ndarray, "n 4"]
    scores: Float32[np.ndarray, " n"]
    category_ids: Int64[np.ndarray, " n"]
    mask_probabilities: Float32[np.ndarray, "n M M"] | None
    size: Size
    mask_paste: MaskPaste = "pixel_centers"

    def __len__(self) -> int:
        return len(self.scores)

    def mask(self, row: int) -> Bool[np.ndarray, "H W"]:
        """One mask at the size of the output; only from a network with a mask branch."""
        assert self.mask_probabilities is not None
        probabilities, box = torch.from_numpy(self.mask_probabilities[row]), torch.from_numpy(self.boxes[row])
        window, (top, left) = find_paste(self.mask_paste)(probabilities, box, self.size)
        mask = np.zeros(self.size, dtype=bool)
        mask[top : top + window.shape[0], left : left + window.shape[1]] = window.numpy()
        return mask

    def masks(self) -> Bool[np.ndarray, "n H W"] | None:
        """All masks at the size of the output; None from a network without mask branch."""
        if self.mask_probabilities is None:
            return None
        masks = np.zeros((len(self), *self.size), dtype=bool)
        for row in range(len(self)):
            masks[row] = self.mask(row)
        return masks


class Result:
    """What a network sees in one picture.

    Attributes:
        image: The picture, upright.
        panoptic: The panoptic map, or None from a network that cannot make one.
        instances: Every detection, or None from a network without region branch.
        labels: The classes.
    """

    def __init__(
        self,
        image: Shaped[np.ndarray, "H W C"],
        panoptic: Panoptic | None,
        instances: DetectedInstances | None,
        labels: LabelSet,
        outputs: Outputs,
        sizes: tuple[Size, Size],
        things_merged: bool,
    ) -> None:
        self.image = image
        self.panoptic = panoptic
        self.instances = instances
        self.labels = labels
        self._outputs = outputs
        self._sizes = sizes
        self._things_merged = things_merged

    @property
    def ids(self) -> Int32[np.ndarray, "H W"] | None:
        """Segment id of every pixel, 0 where void; None from a network that makes no panoptic map."""
        return None if self.panoptic is None else self.panoptic.ids

    @property
    def segments(self) -> tuple[Segment, ...] | None:
        """The segments of ``ids``; None from a network that makes no panoptic map."""
        return None if self.panoptic is None else self.panoptic.segments

    @property
    def semantic(self) -> Int64[np.ndarray, "H W"] | None:
        """Category id of every pixel as the semantic branch alone sees it; None from a network without that branch.

        A network that merges all things in one output gives 0 where it sees a thing.
        """
        indices = self.semantic_indices()
        if indices is None:
            return None
        category_ids = self.labels.category_ids[: self.num_semantic_classes()].copy()
        if self._things_merged:
            category_ids[-1] = 0
        return category_ids[indices]

    def semantic_indices(self) -> UInt8[np.ndarray, "H W"] | None:
        """Strongest output of the semantic branch at every pixel; None from a network without that branch."""
        if self._outputs.semantic is None:
            return None
        return semantic_labels(self._outputs.semantic.logits[0], *self._sizes).cpu().numpy()

    def num_semantic_classes(self) -> int:
        """Outputs of the semantic branch: all classes, or the stuff classes and one for all things."""
        return 0 if self._outputs.semantic is None else self._outputs.semantic.logits.shape[1]

    def overlay(self, *, names: bool = True) -> Image.Image:
        """The picture with its segments drawn over it.

        Args:
            names: Write class names and scores.
        """
        size = self._sizes[1]
        image = resize_image(self.image, size)
        if image.shape[2] != 3 or image.dtype != np.uint8:
            raise InputError(
                f"overlay: the picture has {image.shape[2]} channels of {image.dtype}; only 8-bit RGB is drawn"
            )
        if self.panoptic is not None:
            return viz.draw_panoptic(image, self.panoptic, self.labels, names=names)
        if self.instances is not None:
            found = self.instances
            shown = found.scores >= 0.5
            masks = found.masks()
            return viz.draw_instances(
                image,
                found.boxes[shown],
                found.scores[shown],
                found.category_ids[shown],
                None if masks is None else masks[shown],
                self.labels,
                names=names,
            )
        return viz.draw_panoptic(image, self._semantic_panoptic(), self.labels, names=names)

    def to_coco(self) -> tuple[np.ndarray, list[dict[str, Any]]]:
        """The panoptic map as COCO writes it: the RGB array of the PNG file, and ``segments_info``.

        Raises:
            InputError: The network makes no panoptic map.
        """
        if self.panoptic is None:
            raise InputError("to_coco: this network makes no panoptic map; use result.instances or result.semantic")
        return encode_ids(self.panoptic.ids), panoptic_annotation(self.panoptic, 0, "")["segments_info"]

    def _semantic_panoptic(self) -> Panoptic:
        """The semantic label map as one segment for each class; where things are one class, they stay void."""
        indices = self.semantic_indices()
        assert indices is not None
        count = self.labels.num_stuff if self._things_merged else self.num_semantic_classes()
        ids = torch.from_numpy(np.where(indices < count, indices.astype(np.int32) + 1, 0))
        areas = torch.bincount(ids.flatten(), minlength=count + 1)[1:]
        return to_panoptic(PanopticMaps(ids, torch.arange(count), torch.ones(count), areas, areas > 0), self.labels)

    def _repr_png_(self) -> bytes:
        """Show the overlay in a notebook."""
        buffer = io.BytesIO()
        self.overlay().save(buffer, format="PNG")
        return buffer.getvalue()

    def __repr__(self) -> str:
        height, width = self._sizes[1]
        if self.segments is not None:
            names = ", ".join(segment.name for segment in self.segments[:5]) + (
                ", ..." if len(self.segments) > 5 else ""
            )
            return f"Result({width}x{height}, {len(self.segments)} segments: {names})"
        found = "" if self.instances is None else f", {len(self.instances)} instances"
        return f"Result({width}x{height}{found})"


class Model:
    """A trained network, ready for pictures.

    Args:
        checkpoint: The network, its recipe and its classes.
        device: Where it runs.
        short_side: Bring the shorter side of pictures to this many pixels; None: as the checkpoint says; 0: leave them.
        max_side: The longer side is at most this long; None: as the checkpoint says.
        tta: Look at every picture several times, as the recipe's `tta` says: better and slower.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        device: str | torch.device = "cpu",
        short_side: int | None = None,
        max_side: int | None = None,
        tta: bool = False,
    ) -> None:
        network = checkpoint.network().to(_usable_device(device))
        self._prepare(network, checkpoint, short_side, max_side, tta)

    @classmethod
    def of_network(cls, network: PanopticSegmenter, checkpoint: Checkpoint) -> "Model":
        """Wrap a network as it stands, for example in the middle of its training; no weights are loaded."""
        model = cls.__new__(cls)
        model._prepare(network, checkpoint, None, None, tta=False)
        return model

    def _prepare(
        self,
        network: PanopticSegmenter,
        checkpoint: Checkpoint,
        short_side: int | None,
        max_side: int | None,
        tta: bool,
    ) -> None:
        picture = checkpoint.recipe.picture
        self.network = network
        self.recipe = checkpoint.recipe
        self.labels = checkpoint.labels
        self.credit = checkpoint.credit
        self.metrics = checkpoint.metrics
        self.tta = checkpoint.recipe.tta if tta else None
        self.short_side = _limit("short_side", picture.short_side if short_side is None else short_side, 0)
        if max_side is not None and self.short_side == 0:
            raise InputError(f"max_side is {max_side}, but pictures keep their size here; give short_side as well")
        self.max_side = _limit("max_side", picture.max_side if max_side is None else max_side, 1)

    @overload
    def __call__(self, pictures: Picture, *, output_size: Size | None = None) -> Result: ...

    @overload
    def __call__(self, pictures: Sequence[Picture], *, output_size: Size | None = None) -> list[Result]: ...

    def __call__(
        self, pictures: Picture | Sequence[Picture], *, output_size: Size | None = None
    ) -> Result | list[Result]:
        """See what is in a picture, or in each of several.

        Args:
            pictures: A path, a PIL image or an (H, W, C) array, RGB where C = 3; or a list of them.
            output_size: Height and width of the results; None: the picture's own.

        Raises:
            InputError: A picture cannot be read or does not fit the network.
        """
        if isinstance(pictures, Picture):
            return self._predict(as_array(pictures, self.recipe.picture.channels), output_size)
        return [self._predict(as_array(one, self.recipe.picture.channels), output_size) for one in pictures]

    @torch.inference_mode()
    def _predict(self, image: Shaped[np.ndarray, "H W C"], output_size: Size | None) -> Result:
        original = image.shape[0], image.shape[1]
        size = target_size(original, self.short_side, self.max_side)
        output_size = _checked_size(output_size) if output_size is not None else original
        outputs = self._see(image, size)
        panoptic = None
        if self.network.fusion is not None:
            panoptic = to_panoptic(self.network.fusion(outputs, 0, size, output_size), self.labels)
        region = self.recipe.model.region
        paste = region.mask_head.mask_paste if region and region.mask_head else "pixel_centers"
        instances = _to_instances(outputs, size, output_size, self.labels, paste)
        semantic = self.recipe.model.semantic
        merged = semantic is not None and semantic.things == "merged" and self.labels.num_things > 0
        return Result(image, panoptic, instances, self.labels, outputs, (size, output_size), merged)

    def _see(self, image: Shaped[np.ndarray, "H W C"], size: Size) -> Outputs:
        """What the network says of a picture in the frame of ``size``, at one look or at several."""
        if self.tta is None:
            sizes = torch.tensor([size], device=self.network.pixel_mean.device)
            return self.network(self._padded(resize_image(image, size)), sizes)
        looks = self._looks(image, self.tta)
        voting = {"box_voting": self.tta.box_voting, "mask_voting": self.tta.mask_voting}
        return combine_looks(self.network, looks, size, **voting)

    def _looks(self, image: Shaped[np.ndarray, "H W C"], tta: TTAConfig) -> Iterator[Look]:
        for size in look_sizes((image.shape[0], image.shape[1]), self.short_side, self.max_side, tta):
            resized = resize_image(image, size)
            yield Look(self._padded(resized), size)
            if tta.flip:
                yield Look(self._padded(resized[:, ::-1]), size, mirrored=True)

    def _padded(self, image: Shaped[np.ndarray, "h w C"]) -> torch.Tensor:
        pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None]
        bottom, right = (-side % SIZE_DIVISOR for side in image.shape[:2])
        return torch.nn.functional.pad(pixels.to(self.network.pixel_mean.device), (0, right, 0, bottom))


def load(
    name: str | Path,
    *,
    device: str | torch.device = "cpu",
    short_side: int | None = None,
    max_side: int | None = None,
    tta: bool = False,
) -> Model:
    """Load a trained network.

    Args:
        name: The path of a checkpoint, the name of a network that comes with the package (``"tiny-scenes"``), or a
            published one (``"coco/panoptic-fpn-r50-3x"``), which is fetched, converted and kept at its first use.
        device: Where it runs.
        short_side: Bring the shorter side of pictures to this many pixels; None: as the checkpoint says; 0: leave them.
        max_side: The longer side is at most this long; None: as the checkpoint says.
        tta: Test-time augmentation: look at every picture at several sizes and mirrored, as the recipe's `tta` says,
            and unite what is seen. Better and several times slower.

    Raises:
        InputError: There is no such checkpoint, it is damaged, or it cannot be fetched.

    Example:
        >>> import thingstuff as ts
        >>> model = ts.load("tiny-scenes")
        >>> result = model("street.jpg")  # doctest: +SKIP
        >>> result.overlay().save("street_panoptic.png")  # doctest: +SKIP
    """
    file = published_checkpoint(str(name)) if str(name) in PUBLISHED else name
    return Model(load_checkpoint(file), device=device, short_side=short_side, max_side=max_side, tta=tta)


def look_sizes(original: Size, short_side: int, max_side: int, tta: TTAConfig) -> list[Size]:
    """Sizes at which test-time augmentation looks at a picture; where a limit makes two scales equal, one stays.

    Args:
        original: Size of the picture.
        short_side: Usual length of the shorter side; 0: the picture's own.
        max_side: Usual limit of the longer side; it does not count where pictures keep their size.
        tta: Says how far from there to go.
    """
    if short_side == 0:
        short_side, max_side = min(original), max(original)
    sizes = (
        target_size(original, max(1, round(scale * short_side)), tta.max_side or max(1, round(scale * max_side)))
        for scale in tta.scales
    )
    return list(dict.fromkeys(sizes))


def as_array(picture: Picture, channels: int) -> Shaped[np.ndarray, "H W C"]:
    """Bring a picture to the form that networks take.

    Args:
        picture: A path, a PIL image or an array.
        channels: How many the network expects.

    Raises:
        InputError: The picture cannot be read, or an array has another shape or dtype.
    """
    if isinstance(picture, str | Path):
        image = read_image(picture)
    elif isinstance(picture, Image.Image):
        image = upright_rgb(picture, "picture")
    else:
        image = picture
    if image.ndim != 3 or image.shape[2] != channels or 0 in image.shape or image.dtype not in (np.uint8, np.uint16):
        shape = " x ".join(str(side) for side in image.shape)
        raise InputError(
            f"picture: an array of {shape} {image.dtype}; give (height, width, {channels}) of uint8 or uint16"
        )
    # Colour pictures of 16 bits are seen as files of them are: scaled to the 8 bits that networks know.
    if channels == 3 and image.dtype == np.uint16:
        image = ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return image


def to_panoptic(maps: PanopticMaps, labels: LabelSet) -> Panoptic:
    """Bring one panoptic map from tensors to the record that everything outside the network uses.

    Ids are renumbered from 1 without gaps, in the order of the table.
    """
    rows = maps.valid.nonzero()[:, 0].tolist()
    new_id = torch.zeros(len(maps.valid) + 1, dtype=torch.int32, device=maps.ids.device)
    new_id[torch.tensor(rows, dtype=torch.int64) + 1] = torch.arange(1, len(rows) + 1, dtype=torch.int32).to(new_id)
    ids = new_id[maps.ids.long()].cpu().numpy()
    located = locate_segments(ids, range(1, len(rows) + 1))
    segments = []
    for number, row in enumerate(rows, start=1):
        category = labels.categories[int(maps.labels[row])]
        x1, y1, x2, y2 = located.boxes[number - 1].tolist()
        segments.append(
            Segment(
                id=number,
                category_id=category.id,
                name=category.name,
                isthing=category.isthing,
                score=float(maps.scores[row]) if category.isthing else None,
                area=int(located.areas[number - 1]),
                bbox=(x1, y1, x2 - x1, y2 - y1),
            )
        )
    return Panoptic(ids, tuple(segments))


def _to_instances(
    outputs: Outputs, size: Size, output_size: Size, labels: LabelSet, mask_paste: MaskPaste
) -> DetectedInstances | None:
    found = outputs.instances
    if found is None:
        return None
    boxes = box_ops.rescale(found.boxes[0], size, output_size)
    keep = (found.valid[0] & ((boxes[:, 2:] - boxes[:, :2]) > 0).all(dim=1)).nonzero()[:, 0]
    probabilities = None if found.mask_logits is None else found.mask_logits[0, keep].sigmoid().cpu().numpy()
    return DetectedInstances(
        boxes[keep].cpu().numpy(),
        found.scores[0, keep].cpu().numpy(),
        labels.category_ids[labels.num_stuff + found.labels[0, keep].cpu().numpy()],
        probabilities,
        output_size,
        mask_paste,
    )


def _limit(name: str, value: int, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or not least <= value <= MAX_PIXELS:
        raise InputError(f"{name} is {value!r}; give a whole number of pixels from {least} to {MAX_PIXELS}")
    return int(value)


def _checked_size(size: Size) -> Size:
    if not isinstance(size, Sequence) or len(size) != 2:
        raise InputError(f"output_size is {size!r}; give (height, width)")
    return _limit("height of output_size", size[0], 1), _limit("width of output_size", size[1], 1)


def _usable_device(device: str | torch.device) -> torch.device:
    try:
        wanted = torch.device(device)
        torch.zeros(1, device=wanted).item()
    except (RuntimeError, TypeError, AssertionError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:80]
        raise InputError(f"device is {device!r}, which cannot be used here ({reason}); use 'cpu'") from error
    return wanted
