"""RoIAlign over a whole pyramid on a processor, several times faster than torchvision's, and more so its gradient.

A pooled value is a weighted sum of feature vectors. With the vectors of all levels as rows of one table, all regions
are one ``embedding_bag`` over it. Values equal torchvision's up to rounding; its operator stays the one for other
devices and for graphs, because here sizes depend on the data.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float32, Int64
from torch import Tensor


def roi_align_pyramid(
    features: Sequence[Float32[Tensor, "B C _ _"]],
    regions: Float32[Tensor, "R 5"],
    levels: Int64[Tensor, " R"],
    size: int,
    strides: Sequence[int],
    sampling_ratio: int,
    aligned: bool,
) -> Float32[Tensor, "R C size size"]:
    """Pool each region from its level.

    Args:
        features: One map for each level.
        regions: Number of the picture, then ``xyxy`` in the padded frame.
        levels: Position of each region's level.
        size: Height and width of the result.
        strides: Of the levels.
        sampling_ratio: Samples in each direction of a bin; 0: as many as the region has pixels, rounded up;
            a region without extent has none and becomes 0.
        aligned: Shift by half a pixel.

    Source: He et al., Mask R-CNN, section 3; torchvision's ``roi_align`` for samples at and beyond the border.
    """
    batch, channels = features[0].shape[:2]
    table = torch.cat([level.permute(0, 2, 3, 1).reshape(-1, channels) for level in features])
    shapes = torch.tensor([level.shape[2:] for level in features], device=regions.device)
    first_rows = torch.cat([shapes.new_zeros(1), (batch * shapes.prod(dim=1)).cumsum(0)])
    heights, widths = shapes[levels].unbind(dim=1)
    origins = first_rows[levels] + regions[:, 0].long() * heights * widths
    scales = 1 / torch.tensor(strides, dtype=torch.float32, device=regions.device)[levels]
    boxes = regions[:, 1:] * scales[:, None] - (0.5 if aligned else 0.0)
    sides = boxes[:, 2:] - boxes[:, :2]
    if not aligned:
        sides = sides.clamp(min=1)
    samples = torch.full_like(sides, sampling_ratio) if sampling_ratio else (sides / size).ceil().clamp(min=0)

    indices, weights, lengths, order = [], [], [], []
    # Regions with the same number of samples are handled together: a handful of groups.
    for columns, rows in samples.long().unique(dim=0).tolist():
        mine = ((samples[:, 0] == columns) & (samples[:, 1] == rows)).nonzero()[:, 0]
        y, y_weight = _axis(boxes[mine, 1], sides[mine, 1], heights[mine], size, rows)
        x, x_weight = _axis(boxes[mine, 0], sides[mine, 0], widths[mine], size, columns)
        y = origins[mine, None, None] + y * widths[mine, None, None]
        indices.append((y[:, :, None, :, None] + x[:, None, :, None, :]).flatten())
        weights.append((y_weight[:, :, None, :, None] * x_weight[:, None, :, None, :]).flatten())
        lengths.append(torch.full((len(mine) * size * size,), 4 * rows * columns, device=regions.device))
        order.append(mine)
    if not order:
        return features[0].new_zeros((0, channels, size, size)) + 0 * table.sum()
    length = torch.cat(lengths)
    bags = F.embedding_bag(
        torch.cat(indices), table, length.cumsum(0) - length, mode="sum", per_sample_weights=torch.cat(weights)
    )
    back = torch.cat(order).argsort()
    return bags.view(-1, size, size, channels)[back].permute(0, 3, 1, 2)


def _axis(start: Tensor, side: Tensor, limit: Tensor, size: int, samples: int) -> tuple[Tensor, Tensor]:
    """The pixels that the bins of one axis touch, and how much of each.

    Args:
        start: Where each region begins, in pixels of its level.
        side: How long it is.
        limit: How long its level is.
        size: Bins.
        samples: Samples in each bin.

    Returns:
        Index and weight, each ``(regions, size, 2 * samples)``: the lower and the upper neighbour of every sample.
    """
    # In torchvision's order, so that positions round as they do there.
    width = (side / size)[:, None]
    bins = start[:, None] + torch.arange(size, device=start.device) * width
    steps = (torch.arange(samples, device=start.device) + 0.5) * width / samples
    position = (bins[:, :, None] + steps[:, None]).flatten(1)
    inside = (position >= -1) & (position <= limit[:, None])
    last = (limit[:, None] - 1).float()
    position = position.clamp(min=0).minimum(last)
    low = position.floor()
    fraction = position - low
    index = torch.stack([low, (low + 1).minimum(last)], dim=-1).long()
    weight = torch.stack([1 - fraction, fraction], dim=-1) * inside[..., None] / samples
    shape = (len(start), size, 2 * samples)
    return index.view(shape), weight.view(shape)
