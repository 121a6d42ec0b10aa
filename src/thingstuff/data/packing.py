"""Batches as a handful of tensors, for the way from a worker process to the training process."""

import itertools
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float32, Int64, Shaped, UInt8
from torch import Tensor

from thingstuff.structures import Batch, Targets


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """A batch as a handful of tensors.

    Every tensor that leaves a worker process takes a file descriptor, and a batch may hold thousands of masks, more
    than a process may open.
    """

    images: Shaped[Tensor, "B C H W"]
    sizes: Int64[Tensor, "B 2"]
    seeds: tuple[int, ...]
    counts: tuple[int, ...]
    boxes: Float32[Tensor, "n 4"]
    labels: Int64[Tensor, " n"]
    crowd: Bool[Tensor, " n"]
    mask_pixels: Bool[Tensor, " pixels"]
    label_pixels: UInt8[Tensor, " pixels2"]

    def pin_memory(self) -> "PackedBatch":
        """Copy to page-locked memory; called by torch's DataLoader."""
        tensors = {
            name: value.pin_memory() for name in self.__slots__ if isinstance(value := getattr(self, name), Tensor)
        }
        return replace(self, **tensors)

    def unpack(self) -> Batch:
        """The batch, as views of the packed tensors."""
        sides = (self.boxes[:, 2:] - self.boxes[:, :2]).long()
        masks = [
            pixels.view(height, width)
            for pixels, (width, height) in zip(
                self.mask_pixels.split(sides.prod(dim=1).tolist()), sides.tolist(), strict=True
            )
        ]
        label_maps = self.label_pixels.split(self.sizes.prod(dim=1).tolist())
        ends = list(itertools.accumulate(self.counts))
        targets = tuple(
            Targets(
                self.boxes[end - count : end],
                self.labels[end - count : end],
                self.crowd[end - count : end],
                tuple(masks[end - count : end]),
                pixels.view(*size),
            )
            for count, end, pixels, size in zip(self.counts, ends, label_maps, self.sizes.tolist(), strict=True)
        )
        return Batch(self.images, self.sizes, targets, self.seeds)


def pack(batch: Batch) -> PackedBatch:
    """Put the tensors of a batch with targets together."""
    targets = batch.targets
    assert targets is not None, "training needs annotated pictures"
    masks = [mask.flatten() for target in targets for mask in target.masks]
    return PackedBatch(
        images=batch.images,
        sizes=batch.sizes,
        seeds=batch.seeds,
        counts=tuple(len(target.labels) for target in targets),
        boxes=torch.cat([target.boxes for target in targets]),
        labels=torch.cat([target.labels for target in targets]),
        crowd=torch.cat([target.crowd for target in targets]),
        mask_pixels=torch.cat(masks) if masks else torch.zeros(0, dtype=torch.bool),
        label_pixels=torch.cat([target.label_map.flatten() for target in targets]),
    )
