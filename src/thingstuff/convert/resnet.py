"""Residual blocks under the names that torchvision gives them, which mmdetection and timm share."""

BLOCKS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}
"""Residual blocks of the stages of strides 4 to 32."""

_OF_A_BLOCK = ("conv1", "bn1", "conv2", "bn2", "conv3", "bn3", "downsample.0", "downsample.1")


def resnet_modules(backbone: str, prefix: str) -> dict[str, str]:
    """Our module by torchvision's.

    Args:
        backbone: Name in ``BLOCKS``.
        prefix: What foreign names begin with.
    """
    names = ["conv1", "bn1"]
    for stage, count in enumerate(BLOCKS[backbone], start=1):
        names += [f"layer{stage}.{block}.{part}" for block in range(count) for part in _OF_A_BLOCK]
    return {prefix + name: f"backbone.body.{name}" for name in names}
