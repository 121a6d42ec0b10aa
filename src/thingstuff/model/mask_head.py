"""From pooled region features to mask logits."""

from jaxtyping import Float
from torch import Tensor, nn

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
