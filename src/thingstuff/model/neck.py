"""From backbone features to a pyramid in which every level is semantically strong."""

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from thingstuff.model.layers import conv_norm, init_xavier, make_norm
from thingstuff.structures import BottomUpOrder, NormKind, Pyramid


class FPN(nn.Module):
    """Feature Pyramid Network: a top-down path with lateral connections.

    Args:
        in_channels: Channels of the backbone's levels, finest first.
        channels: Channels of every level of the result.
        norm: Norm after each convolution; the paper has none.
        global_average: Add the mean of the backbone's coarsest level, brought to ``channels`` by a linear layer, to
            the top of the pyramid (UPSNet).
        bottom_up: Path back from fine to coarse, given the levels in a list, finest first; None: there is none.

    Source: Lin et al., Feature Pyramid Networks for Object Detection, CVPR 2017; Detectron2's initialisation.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int = 256,
        norm: NormKind = "none",
        *,
        global_average: bool = False,
        bottom_up: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.lateral = nn.ModuleList(conv_norm(width, channels, 1, norm, relu=False) for width in in_channels)
        self.output = nn.ModuleList(conv_norm(channels, channels, 3, norm, relu=False) for _ in in_channels)
        init_xavier(self)
        self.global_average = nn.Linear(in_channels[-1], channels) if global_average else None
        self.bottom_up = bottom_up

    def forward(self, pyramid: Pyramid) -> Pyramid:
        """Enrich strides 4 to 32, and add stride 64 by taking every second pixel of stride 32."""
        levels = list(pyramid.features.values())
        features = [lateral(level) for lateral, level in zip(self.lateral, levels, strict=True)]
        if self.global_average is not None:
            features[-1] = features[-1] + self.global_average(levels[-1].mean(dim=(2, 3)))[..., None, None]
        for fine in reversed(range(len(features) - 1)):
            coarse = F.interpolate(features[fine + 1], size=features[fine].shape[-2:], mode="nearest")
            features[fine] = features[fine] + coarse
        features = [output(level) for output, level in zip(self.output, features, strict=True)]
        if self.bottom_up is not None:
            features = self.bottom_up(features)
        # Detectron2's pooling with a window of one pixel. Torch 2.11 exports that for one parity of the size alone.
        features.append(features[-1][..., ::2, ::2])
        strides = [*pyramid.features, 2 * max(pyramid.features)]
        return Pyramid(dict(zip(strides, features, strict=True)))


class BottomUpPath(nn.Module):
    """PANet's second path, from fine to coarse: every level is a few layers away from the edges in the finest one.

    Args:
        channels: Channels of every level.
        norm: Norm after each convolution.
        levels: Levels of the pyramid.
        relu: ReLU after each convolution.
        conv_bias: Convolutions have a bias even with a norm behind them; without norm they always do.
        order: ``paper``: the finished level below is brought to half its size; ``mmdet``: what it was before its last
            convolution.

    Source: Liu et al., Path Aggregation Network for Instance Segmentation, CVPR 2018, section 3.1; initialised like
    the pyramid below it.
    """

    def __init__(
        self,
        channels: int,
        norm: NormKind = "none",
        *,
        levels: int = 4,
        relu: bool = True,
        conv_bias: bool = False,
        order: BottomUpOrder = "paper",
    ) -> None:
        super().__init__()

        def layers(stride: int) -> nn.Sequential:
            conv = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=conv_bias or norm == "none")
            parts: list[nn.Module] = [conv]
            if norm != "none":
                parts.append(make_norm(norm, channels))
            if relu:
                parts.append(nn.ReLU(inplace=True))
            return nn.Sequential(*parts)

        self.order = order
        self.down = nn.ModuleList(layers(stride=2) for _ in range(levels - 1))
        self.output = nn.ModuleList(layers(stride=1) for _ in range(levels - 1))
        init_xavier(self)

    def forward(self, features: Sequence[Float[Tensor, "B C _ _"]]) -> list[Float[Tensor, "B C _ _"]]:
        """Enrich all levels but the finest, which stays.

        Args:
            features: Levels, finest first; each has half the size of the one before, rounded up.
        """
        below, path = features[0], [features[0]]
        for level, down, output in zip(features[1:], self.down, self.output, strict=True):
            merged = down(below) + level
            path.append(output(merged))
            below = path[-1] if self.order == "paper" else merged
        return path
