"""From backbone features to a pyramid in which every level is semantically strong."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import nn

from thingstuff.model.layers import conv_norm, init_xavier
from thingstuff.structures import NormKind, Pyramid


class FPN(nn.Module):
    """Feature Pyramid Network: a top-down path with lateral connections.

    Args:
        in_channels: Channels of the backbone's levels, finest first.
        channels: Channels of every level of the result.
        norm: Norm after each convolution; the paper has none.

    Source: Lin et al., Feature Pyramid Networks for Object Detection, CVPR 2017; Detectron2's initialisation.
    """

    def __init__(self, in_channels: Sequence[int], channels: int = 256, norm: NormKind = "none") -> None:
        super().__init__()
        self.channels = channels
        self.lateral = nn.ModuleList(conv_norm(width, channels, 1, norm, relu=False) for width in in_channels)
        self.output = nn.ModuleList(conv_norm(channels, channels, 3, norm, relu=False) for _ in in_channels)
        init_xavier(self)

    def forward(self, pyramid: Pyramid) -> Pyramid:
        """Enrich strides 4 to 32 from the top down, and add stride 64 by taking every second pixel of stride 32."""
        features = [lateral(level) for lateral, level in zip(self.lateral, pyramid.features.values(), strict=True)]
        for fine in reversed(range(len(features) - 1)):
            coarse = F.interpolate(features[fine + 1], size=features[fine].shape[-2:], mode="nearest")
            features[fine] = features[fine] + coarse
        features = [output(level) for output, level in zip(self.output, features, strict=True)]
        features.append(F.max_pool2d(features[-1], kernel_size=1, stride=2))
        strides = [*pyramid.features, 2 * max(pyramid.features)]
        return Pyramid(dict(zip(strides, features, strict=True)))
