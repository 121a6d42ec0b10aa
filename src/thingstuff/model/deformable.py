"""Convolution whose taps look where the picture tells them to (DCN v1), and a form of it that is fast on a processor.

torchvision's operator is the one for other devices and for graphs. On a processor the samples are taken by
``grid_sample`` and weighed by a product of matrices: the same values, the same gradients, several times faster
(``benchmarks/deformable.py``).
"""

import contextlib

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from thingstuff.model.layers import has_own_steps

_SAMPLES_AT_ONCE = 2**24
"""Numbers: 64 MB in float32. All samples of a picture are nine times its features."""


class DeformableConv2d(nn.Module):
    """A convolution that adds a learned offset to the position of each of its taps, anew at every place.

    The offsets come from a convolution beside it, which begins at zero: a new layer is an ordinary convolution. They
    and the samples are computed in the precision of the weights, also under autocast: bfloat16 cannot say where a
    sample is.

    Args:
        in_channels: Channels of the features.
        out_channels: Channels of the result.
        kernel_size: Height and width of the kernel.
        stride: Distance of the places at which it is evaluated.
        padding: Zeros on each side.
        dilation: Distance of its taps.
        bias: Add a learned bias; the offsets always have one.

    Source: Dai et al., Deformable Convolutional Networks, ICCV 2017; no modulation, one group of offsets.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        padding: int = 1,
        dilation: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.stride = (stride, stride)
        self.padding = (padding, padding)
        self.dilation = (dilation, dilation)
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.offset = nn.Conv2d(in_channels, 2 * kernel_size**2, kernel_size, stride, padding, dilation)
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")
        nn.init.zeros_(self.offset.weight)
        assert self.offset.bias is not None
        nn.init.zeros_(self.offset.bias)

    def forward(self, features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        """Compute the offsets and convolve there; the result has the type of ``features``."""
        kind = features.device.type
        # No context where there is nothing to switch off: exporters would make a graph of its own of what is in it.
        lowered = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
        exactly = torch.autocast(kind, enabled=False) if lowered else contextlib.nullcontext()
        with exactly:
            exact = features.to(self.weight.dtype)
            offset = self.offset(exact)
            convolve = deform_conv2d_by_sampling if has_own_steps(exact) else deform_conv2d
            result = convolve(exact, offset, self.weight, self.bias, self.stride, self.padding, self.dilation)
        return result.to(features.dtype)


def deform_conv2d_by_sampling(
    features: Float[Tensor, "B C H W"],
    offset: Float[Tensor, "B two_K h w"],
    weight: Float[Tensor, "D C _ _"],
    bias: Float[Tensor, " D"] | None,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
) -> Float[Tensor, "B D h w"]:
    """Do what torchvision's ``deform_conv2d`` does, some rows of the result at a time.

    Args:
        features: To convolve; zeros lie around them, and values in between are bilinear.
        offset: Of each tap, row by row of the kernel: first down, then to the right, in pixels of ``features``.
        weight: The kernel.
        bias: Added to each channel of the result.
        stride: Distance of the places at which the kernel is evaluated, down and to the right.
        padding: Zeros above and below, left and right.
        dilation: Distance of the taps, down and to the right.
    """
    batch, channels, height, width = features.shape
    rows, columns = weight.shape[2:]
    out_height, out_width = offset.shape[2:]
    place_y = torch.arange(out_height, device=offset.device) * stride[0] - padding[0]
    place_x = torch.arange(out_width, device=offset.device) * stride[1] - padding[1]
    tap_y = torch.arange(rows, device=offset.device) * dilation[0]
    tap_x = torch.arange(columns, device=offset.device) * dilation[1]
    by_tap = offset.unflatten(1, (rows, columns, 2))
    y = by_tap[:, :, :, 0] + tap_y[:, None, None, None] + place_y[:, None]
    x = by_tap[:, :, :, 1] + tap_x[:, None, None] + place_x
    # grid_sample counts from -1 to 1. In maps whose sides are powers of two whole pixels survive that exactly, and at
    # whole pixels, where every offset begins, it matters to the gradient on which side of them a sample lies.
    padded_height, padded_width = (1 << (side - 1).bit_length() for side in (height, width))
    padded = F.pad(features, (0, padded_width - width, 0, padded_height - height)).contiguous()
    grid = torch.stack([(2 * x + 1) / padded_width - 1, (2 * y + 1) / padded_height - 1], dim=-1)
    kernels = weight.reshape(1, len(weight), -1).expand(batch, -1, -1)
    rows_at_once = max(1, _SAMPLES_AT_ONCE // max(1, batch * channels * rows * columns * out_width))
    strips = []
    for strip in grid.split(rows_at_once, dim=3):
        samples = F.grid_sample(padded, strip.flatten(1, 3), mode="bilinear", padding_mode="zeros", align_corners=False)
        product = torch.bmm(kernels, samples.view(batch, channels * rows * columns, strip.shape[3] * out_width))
        strips.append(product.view(batch, len(weight), strip.shape[3], out_width))
    result = torch.cat(strips, dim=2)
    return result if bias is None else result + bias[:, None, None]
