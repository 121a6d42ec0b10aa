"""From regions to features of fixed size. A pool owns the first layer of the head behind it, its ``entry``.

PANet fuses levels only after a first layer with separate weights per level; giving every pool that layer lets all pools
stand before all heads.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn
from torchvision.ops import roi_align

from thingstuff.model import boxes as box_ops
from thingstuff.model.layers import has_own_steps
from thingstuff.model.roi_align import roi_align_pyramid
from thingstuff.structures import LevelFusion, Pyramid

CANONICAL_LEVEL = 4
CANONICAL_SIZE = 224
"""A box of 224 pixels, ImageNet's picture size, is pooled from level 4, stride 16 (FPN paper)."""


class AssignedLevelPool(nn.Module):
    """RoIAlign on the one level that suits each region's size, then the entry layer.

    Args:
        size: Height and width of the pooled features.
        entry: First layer of the head.
        strides: Levels to pool from, finest first, each twice the one before.
        sampling_ratio: Samples in each direction of a bin; 0 takes as many as the region has pixels (Detectron2).
        aligned: Shift by half a pixel, so that pixel centres are where they are (RoIAlign v2).
        inclusive_boxes: Pool regions up to the first side of their last pixel, as networks do whose boxes include
            their last pixel (Detectron and what came of it).
    """

    def __init__(
        self,
        size: int,
        entry: nn.Module,
        strides: Sequence[int] = (4, 8, 16, 32),
        sampling_ratio: int = 0,
        aligned: bool = True,
        inclusive_boxes: bool = False,
    ) -> None:
        super().__init__()
        self.size = size
        self.entry = entry
        self.strides = tuple(strides)
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned
        self.inclusive_boxes = inclusive_boxes

    def forward(self, pyramid: Pyramid, boxes: Sequence[Float32[Tensor, "_ 4"]]) -> Float[Tensor, "R ..."]:
        """Pool and enter.

        Args:
            pyramid: Features of the batch.
            boxes: Regions of each picture in the padded frame; R in all.
        """
        return self.entry(self.pool(pyramid, boxes))

    def pool(self, pyramid: Pyramid, boxes: Sequence[Float32[Tensor, "_ 4"]]) -> Float[Tensor, "R C size size"]:
        """Pool each region from its level."""
        regions = with_batch_index(boxes)
        level = assign_level(regions[:, 1:], self.strides)
        if self.inclusive_boxes:
            regions = regions - regions.new_tensor((0, 0, 0, 1, 1))
        features = [pyramid.features[stride].float() for stride in self.strides]  # bfloat16 cannot say where a box is
        if has_own_steps(features[0]):
            return roi_align_pyramid(
                features, regions, level, self.size, self.strides, self.sampling_ratio, self.aligned
            )
        pooled = None
        for position, stride in enumerate(self.strides):
            mine = (level == position)[:, None]
            # A region that belongs to another level has no size here: RoIAlign takes no sample and returns zeros, so
            # the sum over levels picks the right one without a data-dependent number of regions per level.
            here = torch.cat([regions[:, :1], regions[:, 1:] * mine], dim=1)
            part = roi_align(features[position], here, self.size, 1 / stride, self.sampling_ratio, self.aligned)
            if not self.aligned or self.sampling_ratio > 0:
                part = part * mine[..., None, None]
            pooled = part if pooled is None else pooled + part
        assert pooled is not None
        return pooled


class AdaptivePool(nn.Module):
    """RoIAlign on every level for every region, an entry layer of its own for each level, and all levels become one.

    Without gradient no more than one level's pooled regions exist at a time. Learning keeps those of all levels: the
    weights of the entries need them.

    Args:
        size: Height and width of the pooled features.
        entries: First layer of the head, once for each level, in the order of ``strides``.
        strides: Levels to pool from.
        fuse: How the levels become one, element by element.
        sampling_ratio: As in ``AssignedLevelPool``.
        aligned: As in ``AssignedLevelPool``. Without it, a region is at least one pixel of each level wide and high.
        inclusive_boxes: As in ``AssignedLevelPool``.

    Source: Liu et al., Path Aggregation Network for Instance Segmentation, CVPR 2018, section 3.2.
    """

    def __init__(
        self,
        size: int,
        entries: Sequence[nn.Module],
        strides: Sequence[int] = (4, 8, 16, 32),
        *,
        fuse: LevelFusion = "max",
        sampling_ratio: int = 0,
        aligned: bool = True,
        inclusive_boxes: bool = False,
    ) -> None:
        super().__init__()
        self.size = size
        self.entries = nn.ModuleList(entries)
        self.strides = tuple(strides)
        self.fuse: LevelFusion = fuse
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned
        self.inclusive_boxes = inclusive_boxes

    def forward(self, pyramid: Pyramid, boxes: Sequence[Float32[Tensor, "_ 4"]]) -> Float[Tensor, "R ..."]:
        """Pool, enter and join.

        Args:
            pyramid: Features of the batch.
            boxes: Regions of each picture in the padded frame; R in all.
        """
        if self.inclusive_boxes:
            boxes = [box_ops.inclusive(picture) for picture in boxes]
        regions = with_batch_index(boxes)
        joined = None
        for stride, entry in zip(self.strides, self.entries, strict=True):
            joined = self._join(joined, entry(self.pool(pyramid.features[stride], regions, stride)))
        assert joined is not None
        return joined

    def pool(
        self, features: Float[Tensor, "B C _ _"], regions: Float32[Tensor, "R 5"], stride: int
    ) -> Float32[Tensor, "R C size size"]:
        """Pool all regions from one level.

        Args:
            features: The level.
            regions: Number of the picture, then ``xyxy`` in the padded frame.
            stride: Of the level.
        """
        features = features.float()  # bfloat16 cannot say where a box is
        if has_own_steps(features):
            level = torch.zeros_like(regions[:, 0], dtype=torch.int64)
            return roi_align_pyramid([features], regions, level, self.size, [stride], self.sampling_ratio, self.aligned)
        return roi_align(features, regions, self.size, 1 / stride, self.sampling_ratio, self.aligned)

    def _join(self, joined: Tensor | None, entered: Tensor) -> Tensor:
        if joined is None:
            return entered
        return torch.maximum(joined, entered) if self.fuse == "max" else joined + entered


def with_batch_index(boxes: Sequence[Float32[Tensor, "_ 4"]]) -> Float32[Tensor, "R 5"]:
    """Put the regions of all pictures in one table, each row beginning with the number of its picture."""
    index = torch.cat([torch.full_like(picture[:, :1], number) for number, picture in enumerate(boxes)])
    return torch.cat([index, torch.cat(list(boxes))], dim=1)


def assign_level(boxes: Float32[Tensor, "R 4"], strides: Sequence[int]) -> Tensor:
    """Position in ``strides`` of the level that suits each box: one level coarser for twice the side.

    Source: Lin et al., Feature Pyramid Networks, equation 1; Detectron2's epsilon.
    """
    side = box_ops.area(boxes).clamp(min=0).sqrt()
    finest = strides[0].bit_length() - 1
    level = (CANONICAL_LEVEL + torch.log2(side / CANONICAL_SIZE + 1e-8)).floor()
    return level.clamp(finest, finest + len(strides) - 1).to(torch.int64) - finest
