"""From pooled region features to mask logits."""

from jaxtyping import Float
from torch import Tensor, nn

from thingstuff.errors import InputError
from thingstuff.model.layers import conv_norm, init_msra, init_normal
from thingstuff.structures import NormKind


def convolution_entry(in_channels: int, channels: int, norm: NormKind = "none") -> nn.Sequential:
    """The first convolution of a convolutional head, which the pool before it owns."""
    entry = conv_norm(in_channels, channels, 3, norm, relu=True)
    init_msra(entry)
    return entry


class ConvMaskHead(nn.Module):
    """Small fully convolutional network on each region; its first convolution is the pool's entry.

    Args:
        channels: Channels of every layer.
        num_masks: Masks predicted for each region: one for each thing class.
        num_convs: 3x3 convolutions, counting the entry.
        norm: Norm after each convolution; the paper has none.

    Source: He et al., Mask R-CNN, ICCV 2017; Detectron2's initialisation.
    """

    def __init__(self, channels: int, num_masks: int, num_convs: int = 4, norm: NormKind = "none") -> None:
        super().__init__()
        convs = (conv_norm(channels, channels, 3, norm, relu=True) for _ in range(num_convs - 1))
        self.convs = nn.Sequential(*convs)
        self.upsample = nn.ConvTranspose2d(channels, channels, 2, stride=2)
        self.relu = nn.ReLU(inplace=True)
        self.predictor = nn.Conv2d(channels, num_masks, 1)
        init_msra(self)
        init_normal(self.predictor, std=0.001)

    def forward(self, features: Float[Tensor, "R C size size"]) -> Float[Tensor, "R masks _ _"]:
        """Predict mask logits at twice the size of the features."""
        return self.predictor(self.relu(self.upsample(self.convs(features))))


class FusedMaskHead(nn.Module):
    """``ConvMaskHead`` and, behind its last convolution but one, a fully connected branch that sees the whole region.

    The branch predicts one mask for all classes, object or not, which is added to the logits of each.

    Args:
        channels: Channels of every layer; the branch ends with half as many.
        num_masks: Masks predicted for each region: one for each thing class.
        size: Height and width of the features.
        num_convs: 3x3 convolutions of the convolutional path, counting the entry; at least 2.
        norm: Norm after each convolution.
        fc_relu: A ReLU behind the fully connected layer, so that the branch can only raise logits (official weights;
            the paper has none).

    Raises:
        InputError: There is no convolution for the branch to leave behind.

    Source: Liu et al., Path Aggregation Network for Instance Segmentation, CVPR 2018, section 3.3; the official
    code's initialisation.
    """

    def __init__(
        self,
        channels: int,
        num_masks: int,
        size: int = 14,
        num_convs: int = 4,
        norm: NormKind = "none",
        fc_relu: bool = False,
    ) -> None:
        super().__init__()
        if num_convs < 2:
            raise InputError(f"mask_head: num_convs is {num_convs}; a fused mask head needs at least 2, so give more")
        convs = (conv_norm(channels, channels, 3, norm, relu=True) for _ in range(num_convs - 2))
        self.convs = nn.Sequential(*convs)
        self.conv_fcn = conv_norm(channels, channels, 3, norm, relu=True)
        self.upsample = nn.ConvTranspose2d(channels, channels, 2, stride=2)
        self.relu = nn.ReLU(inplace=True)
        self.predictor = nn.Conv2d(channels, num_masks, 1)
        self.conv_fc = nn.Sequential(
            conv_norm(channels, channels, 3, norm, relu=True), conv_norm(channels, channels // 2, 3, norm, relu=True)
        )
        self.fc = nn.Linear(channels // 2 * size * size, (2 * size) ** 2)
        self.fc_relu = fc_relu
        init_msra(self)
        init_normal(self.fc, std=0.01)

    def forward(self, features: Float[Tensor, "R C size size"]) -> Float[Tensor, "R masks _ _"]:
        """Predict mask logits at twice the size of the features."""
        shared = self.convs(features)
        masks = self.predictor(self.relu(self.upsample(self.conv_fcn(shared))))
        return masks + self.foreground(shared)

    def foreground(self, shared: Float[Tensor, "R C size size"]) -> Float[Tensor, "R 1 _ _"]:
        """What the fully connected branch adds to every class."""
        side = 2 * shared.shape[-1]
        logits = self.fc(self.conv_fc(shared).flatten(1))
        if self.fc_relu:
            logits = logits.relu()
        return logits.unflatten(1, (1, side, side))
