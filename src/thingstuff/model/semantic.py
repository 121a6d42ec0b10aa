"""From the pyramid to class logits of every pixel at stride 4."""

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import nn

from thingstuff.model.deformable import DeformableConv2d
from thingstuff.model.layers import conv_norm, init_msra, init_normal, make_norm
from thingstuff.structures import NormKind, Pyramid, Semantic


class UpsampleSumHead(nn.Module):
    """Panoptic FPN's semantic branch: bring every level to stride 4 by convolutions and x2 steps, and add them up.

    Args:
        in_channels: Channels of the pyramid.
        channels: Channels of the branch.
        num_classes: Logits for each pixel.
        strides: Levels to use, finest first; the finest is 4.
        norm: Norm after each convolution; the paper has group norm.
        predictor_std: Deviation of the first weights of the last layer; None: Kaiming's, as in Detectron2.

    Source: Kirillov et al., Panoptic Feature Pyramid Networks, CVPR 2019, figure 3; Detectron2's initialisation.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        num_classes: int,
        strides: Sequence[int] = (4, 8, 16, 32),
        norm: NormKind = "group",
        *,
        predictor_std: float | None = None,
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
        if predictor_std is not None:
            init_normal(self.predictor, predictor_std)

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


class DeformableHead(nn.Module):
    """UPSNet's semantic branch: one deformable network for all levels, which are then laid side by side at stride 4.

    Args:
        in_channels: Channels of the pyramid.
        channels: Channels of the last two layers; those before have ``in_channels``.
        num_classes: Logits for each pixel.
        num_layers: Layers of the network, at least 2; UPSNet has 3 on COCO and 2 on Cityscapes.
        strides: Levels to use, finest first; the finest is 4.
        norm: Norm after each convolution; the paper has none.

    Source: Xiong et al., UPSNet: A Unified Panoptic Segmentation Network, CVPR 2019, section 3.2.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        num_classes: int,
        num_layers: int = 3,
        strides: Sequence[int] = (4, 8, 16, 32),
        norm: NormKind = "none",
    ) -> None:
        super().__init__()
        self.strides = tuple(strides)
        widths = [in_channels] * (num_layers - 1) + [channels] * 2
        self.layers = nn.ModuleList(_deformable_conv_norm(a, b, norm) for a, b in pairwise(widths))
        self.predictor = nn.Conv2d(channels * len(strides), num_classes, 1)
        init_normal(self.predictor, std=0.01)

    def forward(self, pyramid: Pyramid) -> Semantic:
        """Compute the logits."""
        # Upsampling and a 1x1 convolution commute: each level is predicted from at its own size, with its part of the
        # weights, and the parts are added up. The logits are the same, and on a processor they take three quarters of
        # the time with 133 classes and a seventh with 19.
        parts = self.predictor.weight.chunk(len(self.strides), dim=1)
        total = None
        for stride, weight in zip(self.strides, parts, strict=True):
            features = pyramid.features[stride]
            for layer in self.layers:
                features = layer(features)
            if total is None:
                total = F.conv2d(features, weight, self.predictor.bias).float()
            else:
                part = F.conv2d(features, weight).float()
                total = total + F.interpolate(part, size=total.shape[-2:], mode="bilinear", align_corners=False)
        assert total is not None
        return Semantic(total)


def _deformable_conv_norm(in_channels: int, out_channels: int, norm: NormKind) -> nn.Sequential:
    layers: list[nn.Module] = [DeformableConv2d(in_channels, out_channels, bias=norm == "none")]
    if norm != "none":
        layers.append(make_norm(norm, out_channels))
    return nn.Sequential(*layers, nn.ReLU(inplace=True))
