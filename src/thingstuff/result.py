"""What a network saw in one picture, in the form that people use."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int32, Int64, Shaped, UInt8
from PIL import Image

from thingstuff import viz
from thingstuff.data.coco import panoptic_annotation
from thingstuff.data.images import locate_segments
from thingstuff.data.transforms import resize_image
from thingstuff.errors import InputError
from thingstuff.labels import LabelSet
from thingstuff.model import boxes as box_ops
from thingstuff.model.pasting import find_paste
from thingstuff.structures import Instances, MaskPaste, Panoptic, PanopticMaps, Segment, Size, encode_ids


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

    def __repr__(self) -> str:
        best = f", scores {self.scores[0]:.2f} to {self.scores[-1]:.2f}" if len(self) else ""
        masks = "no masks" if self.mask_probabilities is None else "masks"
        return f"DetectedInstances({len(self)} in {self.size[1]}x{self.size[0]}, {masks}{best})"

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


class SemanticSource(NamedTuple):
    """Where a result has the label map of the semantic branch from.

    Attributes:
        indices: Gives the strongest output of the branch at every pixel of the output.
        num_classes: Outputs of the branch.
        things_merged: The last one stands for all things.
    """

    indices: Callable[[], UInt8[np.ndarray, "H W"]]
    num_classes: int
    things_merged: bool


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
        size: Size,
        semantic: SemanticSource | None,
    ) -> None:
        self.image = image
        self.panoptic = panoptic
        self.instances = instances
        self.labels = labels
        self._size = size
        self._semantic = semantic

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
        if self._semantic is None:
            return None
        category_ids = self.labels.category_ids[: self._semantic.num_classes].copy()
        if self._semantic.things_merged:
            category_ids[-1] = 0
        return category_ids[self._semantic.indices()]

    def semantic_indices(self) -> UInt8[np.ndarray, "H W"] | None:
        """Strongest output of the semantic branch at every pixel; None from a network without that branch."""
        return None if self._semantic is None else self._semantic.indices()

    def num_semantic_classes(self) -> int:
        """Outputs of the semantic branch: all classes, or the stuff classes and one for all things."""
        return 0 if self._semantic is None else self._semantic.num_classes

    def overlay(self, *, names: bool = True) -> Image.Image:
        """The picture with its segments drawn over it; of other than 8-bit RGB, what ``viz.as_photo`` shows.

        Args:
            names: Write class names and scores.
        """
        image = viz.as_photo(resize_image(self.image, self._size))
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
        assert self._semantic is not None
        indices = self._semantic.indices()
        count = self.labels.num_stuff if self._semantic.things_merged else self._semantic.num_classes
        ids = torch.from_numpy(np.where(indices < count, indices.astype(np.int32) + 1, 0))
        areas = torch.bincount(ids.flatten(), minlength=count + 1)[1:]
        return to_panoptic(PanopticMaps(ids, torch.arange(count), torch.ones(count), areas, areas > 0), self.labels)

    def _repr_png_(self) -> bytes:
        """Show the overlay in a notebook."""
        buffer = io.BytesIO()
        self.overlay().save(buffer, format="PNG")
        return buffer.getvalue()

    def __repr__(self) -> str:
        height, width = self._size
        if self.segments is not None:
            names = ", ".join(segment.name for segment in self.segments[:5]) + (
                ", ..." if len(self.segments) > 5 else ""
            )
            return f"Result({width}x{height}, {len(self.segments)} segments: {names})"
        found = "" if self.instances is None else f", {len(self.instances)} instances"
        return f"Result({width}x{height}{found})"


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


def to_instances(
    found: Instances | None, frame: Size, output_size: Size, labels: LabelSet, mask_paste: MaskPaste
) -> DetectedInstances | None:
    """Bring the detections of one picture from tensors to the record that everything outside the network uses.

    Args:
        found: For a batch of one.
        frame: Size of the picture where the detections are.
        output_size: Of the result.
        labels: The classes.
        mask_paste: How masks come to the picture.

    Returns:
        Detections with an area, best first; None from a network without region branch.
    """
    if found is None:
        return None
    boxes = box_ops.rescale(found.boxes[0], frame, output_size)
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
