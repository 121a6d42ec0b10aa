"""The network as a whole. Read this first: `forward` is the papers' figure."""

from collections.abc import Sequence

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor, nn

from thingstuff.model.fusion import Fusion
from thingstuff.structures import ChannelOrder, Outputs

SIZE_DIVISOR = 32
"""Pictures are padded to a multiple of the backbone's largest stride."""


class PanopticSegmenter(nn.Module):
    """Backbone and neck shared by a region branch for things and a semantic branch for stuff.

    Args:
        backbone: Picture to features at strides 4 to 32.
        neck: Features to the pyramid that both branches share.
        rpn: Pyramid to proposals; None without region branch.
        region: Proposals to instances; None without region branch.
        semantic: Pyramid to class logits of every pixel; None without semantic branch.
        fusion: Makes a panoptic map of what both branches say; None if the parts cannot make one.
        pixel_mean: Of each channel, in the units of the raw picture and in the order of ``channel_order``.
        pixel_std: The same.
        channel_order: ``bgr`` for weights from Caffe; pictures themselves are always RGB.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        neck: nn.Module,
        rpn: nn.Module | None,
        region: nn.Module | None,
        semantic: nn.Module | None,
        fusion: Fusion | None,
        *,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        channel_order: ChannelOrder = "rgb",
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.rpn = rpn
        self.region = region
        self.semantic = semantic
        self.fusion = fusion
        self.channel_order = channel_order
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)

    def forward(self, images: Shaped[Tensor, "B C H W"], sizes: Int64[Tensor, "B 2"]) -> Outputs:
        """See what is in a batch of pictures.

        Args:
            images: Raw pixel values, padded right and bottom to a multiple of 32.
            sizes: Height and width of each picture before padding.
        """
        pyramid = self.neck(self.backbone(self.normalize(images, sizes)))
        instances = semantic = candidates = None
        if self.rpn is not None and self.region is not None:
            proposals = self.rpn(pyramid, sizes)
            instances, candidates = self.region(pyramid, proposals, sizes)
        if self.semantic is not None:
            semantic = self.semantic(pyramid)
        return Outputs(instances, semantic, candidates)

    def normalize(self, images: Shaped[Tensor, "B C H W"], sizes: Int64[Tensor, "B 2"]) -> Tensor:
        """Subtract the mean, divide by the deviation, and set the padding to 0, the mean picture."""
        if self.channel_order == "bgr":
            images = images.flip(1)
        normal = (images.float() - self.pixel_mean) / self.pixel_std
        rows = torch.arange(images.shape[2], device=images.device) < sizes[:, :1]
        columns = torch.arange(images.shape[3], device=images.device) < sizes[:, 1:]
        inside = rows[:, None, :, None] & columns[:, None, None, :]
        return torch.where(inside, normal, torch.zeros((), device=normal.device))
