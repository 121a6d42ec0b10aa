"""Residual blocks under the names that torchvision gives them, which mmdetection and timm share."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

BLOCKS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}
"""Residual blocks of the stages of strides 4 to 32."""

EPSILON = 1e-5
"""What norms here add to the variance."""

STAGES = ("layer1", "layer2", "layer3", "layer4")
"""torchvision's names of the stages."""

_OF_A_BLOCK = ("conv1", "bn1", "conv2", "bn2", "conv3", "bn3", "downsample.0", "downsample.1")


def resnet_modules(backbone: str, prefix: str, *, stem: str = "", stages: Sequence[str] = STAGES) -> dict[str, str]:
    """Our module by torchvision's, or by names that differ in those of stem and stages alone.

    Args:
        backbone: Name in ``BLOCKS``.
        prefix: What foreign names begin with.
        stem: What foreign names of the stem go on with.
        stages: Foreign names of the stages of strides 4 to 32.
    """
    modules = {f"{prefix}{stem}{name}": f"backbone.body.{name}" for name in ("conv1", "bn1")}
    for stage, ours, count in zip(stages, STAGES, BLOCKS[backbone], strict=True):
        for block in range(count):
            modules |= {
                f"{prefix}{stage}.{block}.{part}": f"backbone.body.{ours}.{block}.{part}" for part in _OF_A_BLOCK
            }
    return modules


def with_statistics(tensors: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """Give norms of scale and shift alone the mean 0 and a variance that makes 1 with what norms here add to it.

    Args:
        tensors: Mean and variance of the norms may have been put into scale and shift, as Caffe2's users do.
        prefix: Change only norms whose names begin so.
    """
    changed = dict(tensors)
    for name, tensor in tensors.items():
        module, _, leaf = name.rpartition(".")
        if leaf == "weight" and tensor.ndim == 1 and name.startswith(prefix) and f"{module}.running_var" not in tensors:
            changed[f"{module}.running_mean"] = torch.zeros_like(tensor)
            changed[f"{module}.running_var"] = torch.full_like(tensor, 1 - EPSILON)
    return changed
