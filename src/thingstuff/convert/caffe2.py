"""ImageNet ResNets of Caffe2's names, such as the MSRA networks that Detectron2's trainings begin with."""

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from thingstuff.checkpoint import Checkpoint
from thingstuff.convert.classes import coco_labels
from thingstuff.convert.mapping import count_blocks, take_weights
from thingstuff.convert.resnet import resnet_modules, with_statistics
from thingstuff.errors import InputError
from thingstuff.recipe import derive
from thingstuff.recipes import panoptic_fpn_r50_coco

LAYERS = {"1": "downsample.0", "2a": "conv1", "2b": "conv2", "2c": "conv3"}
NORMS = {"1": "downsample.1", "2a": "bn1", "2b": "bn2", "2c": "bn3"}
"""Our name of a branch's convolution and of its norm."""

EXTRA = r"(fc1000|pred)_[wb]|.*_momentum"
"""The classifier, and what an optimiser remembers."""

_LARGEST_ZERO = 1e-4
"""Convolutions have no bias; the file has one for the first all the same, of about 1e-9."""


def is_caffe2_resnet(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the names are Caffe2's."""
    return "conv1_w" in tensors


def convert_caffe2_resnet(tensors: Mapping[str, Tensor], source: Path) -> Checkpoint:
    """Give the weights of a ResNet our names; a training can begin with the result (`--init`).

    Its norms have scale and shift alone: mean and variance have been put into them.

    Raises:
        InputError: It is neither ResNet-50 nor ResNet-101, or something is missing or unexpected.
    """
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        ours = _our_name(name)
        if re.fullmatch(r"(.*\.)?(conv\d|downsample\.0)\.bias", ours):
            _check_zero(name, tensor, source)
            continue
        renamed[ours] = tensor
    backbone = count_blocks(renamed, "layer3", str(source))
    recipe = derive(panoptic_fpn_r50_coco(), name=f"caffe2_{backbone}", model__backbone__name=backbone)
    labels, modules = coco_labels(), resnet_modules(backbone, "")
    weights = take_weights(with_statistics(renamed), modules, recipe, labels, EXTRA, str(source), part="backbone.")
    return Checkpoint(weights, recipe, labels, credit=f"converted from {source.name}, trained on ImageNet")


def _our_name(name: str) -> str:
    """Our name within the backbone, or the name itself where it is none of a layer."""
    if stem := re.fullmatch(r"(conv1|res_conv1_bn)_([wsb])", name):
        return f"{'conv1' if stem[1] == 'conv1' else 'bn1'}.{'bias' if stem[2] == 'b' else 'weight'}"
    if found := re.fullmatch(r"res([2-5])_(\d+)_branch(1|2a|2b|2c)(_bn)?_([wsb])", name):
        stage, block, branch, norm, leaf = found.groups()
        layer = (NORMS if norm else LAYERS)[branch]
        return f"layer{int(stage) - 1}.{block}.{layer}.{'bias' if leaf == 'b' else 'weight'}"
    return name


def _check_zero(name: str, tensor: Tensor, source: Path) -> None:
    if tensor.abs().max() > _LARGEST_ZERO:
        raise InputError(
            f"{source}: {name!r} is a bias of up to {tensor.abs().max():.2g}, but a ResNet's convolutions have none; "
            "convert a plain ResNet"
        )
