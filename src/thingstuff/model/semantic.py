"""From the pyramid to class logits of every pixel at stride 4."""

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import nn

from thingstuff.model.layers import conv_norm, init_msra
from thingstuff.structures import NormKind, Pyramid, Semantic


class UpsampleSumHead(nn.Module):
    """Panoptic FPN's semantic branch: bring every level to stride 4 by convolutions and x2 steps, and add them up.

    Args:
        in_channels: Channels of the pyramid.
        channels: Channels of the branch.
        num_classes: Logits for each pixel.
        strides: Levels to use, finest first; the finest is 4.
        norm: Norm after each convolution; the paper has group norm.

    Source: Kirillov et al., Panoptic Feature Pyramid Networks, CVPR 2019, figure 3; Detectron2's initialisation.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        num_classes: int,
        strides: Sequence[int] = (4, 8, 16, 32),
        norm: NormKind = "group",
    ) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.levels = nn.ModuleList()
        for steps in range(len(strides)):
            widths = [in_channels] + [channels] * max(1, steps)
            convs = (conv_norm(a, b, 3, norm, relu=True) for a, b in pairwise(widths))
            self.levels.append(nn.ModuleList(convs))
        self.predictor = nn.Conv2d(channels, num_classes, 1)
        init_msra(self)

    def forward(self, pyramid: Pyramid) -> Semantic:
        """Compute the logits."""
        total = None
        for steps, (stride, convs) in enumerate(zip(self.strides, self.levels, strict=True)):
            features = pyramid.features[stride]
            for conv in convs:  # pyright: ignore[reportGeneralTypeIssues]
                features = conv(features)
                if steps > 0:
                    features = F.interpolate(features, scale_factor=2, mode="bilinear", align_corners=False)
            total = features if total is None else total + features
        return Semantic(self.predictor(total).float())
