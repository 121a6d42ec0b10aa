"""torchvision's Mask R-CNN with ResNet-50 and FPN, and its ImageNet ResNets as backbones to begin with."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from thingstuff.checkpoint import Checkpoint
from thingstuff.convert.classes import coco_labels, labels_for, things_only
from thingstuff.convert.foreign import read_weights
from thingstuff.convert.mapping import ClassLayers, check_project, count_blocks, first_size, in_our_order, take_weights
from thingstuff.convert.resnet import EPSILON, resnet_modules
from thingstuff.recipe import AugmentationConfig, Recipe, derive
from thingstuff.recipe_model import BackboneConfig, PictureConfig
from thingstuff.recipes import panoptic_fpn_r50_coco

MODULES = {
    "backbone.fpn.inner_blocks.0.0": "neck.lateral.0.0",
    "backbone.fpn.inner_blocks.1.0": "neck.lateral.1.0",
    "backbone.fpn.inner_blocks.2.0": "neck.lateral.2.0",
    "backbone.fpn.inner_blocks.3.0": "neck.lateral.3.0",
    "backbone.fpn.layer_blocks.0.0": "neck.output.0.0",
    "backbone.fpn.layer_blocks.1.0": "neck.output.1.0",
    "backbone.fpn.layer_blocks.2.0": "neck.output.2.0",
    "backbone.fpn.layer_blocks.3.0": "neck.output.3.0",
    "rpn.head.conv.0.0": "rpn.conv",
    "rpn.head.cls_logits": "rpn.objectness",
    "rpn.head.bbox_pred": "rpn.deltas",
    "roi_heads.box_head.fc6": "region.box_pool.entry.1",
    "roi_heads.box_head.fc7": "region.box_head.hidden.0",
    "roi_heads.box_predictor.cls_score": "region.box_head.outputs.classes",
    "roi_heads.box_predictor.bbox_pred": "region.box_head.outputs.deltas",
    "roi_heads.mask_head.0.0": "region.mask_pool.entry.0",
    "roi_heads.mask_head.1.0": "region.mask_head.convs.0.0",
    "roi_heads.mask_head.2.0": "region.mask_head.convs.1.0",
    "roi_heads.mask_head.3.0": "region.mask_head.convs.2.0",
    "roi_heads.mask_predictor.conv5_mask": "region.mask_head.upsample",
    "roi_heads.mask_predictor.mask_fcn_logits": "region.mask_head.predictor",
}
"""Our module by torchvision's, without the residual blocks."""

CLASS_LAYERS = ClassLayers(
    classes="roi_heads.box_predictor.cls_score",
    deltas="roi_heads.box_predictor.bbox_pred",
    masks="roi_heads.mask_predictor.mask_fcn_logits",
)
"""The layers with an output for each class, background first."""

OLD_MODULES = {
    **{
        f"backbone.fpn.{blocks}.{level}": f"backbone.fpn.{blocks}.{level}.0"
        for blocks in ("inner_blocks", "layer_blocks")
        for level in range(4)
    },
    "rpn.head.conv": "rpn.head.conv.0.0",
    **{f"roi_heads.mask_head.mask_fcn{number + 1}": f"roi_heads.mask_head.{number}.0" for number in range(4)},
}
"""Today's name by the name that files of 2019 have, the published weights among them."""

EXTRA = r".*\.num_batches_tracked"
"""Counters of batch norm, which mean nothing once it stands still."""

COCO_CLASSES = 91
"""torchvision's outputs for COCO: background, then one for each number up to 90, ten of which are no category's id."""


def convert_torchvision(source: Path | str, labels: Path | str | None = None) -> Checkpoint:
    """Read a ``maskrcnn_resnet50_fpn`` or an ImageNet ResNet of torchvision.

    A ResNet gives a checkpoint of its backbone alone, which a training can begin with (`--init`).

    A Mask R-CNN with 91 outputs is COCO's; its ten outputs that are no category's id are left out. Of others with N
    outputs, output 1 is the first thing class of ``labels`` by category id, output N - 1 the last.

    Frozen norms of torchvision's ``maskrcnn_resnet50_fpn(weights="DEFAULT")`` add nothing to the variance, and so do
    networks that were fine-tuned from it; files with frozen norms are read that way. Files with counters of batch norm
    add 1e-5.

    Raises:
        InputError: The file cannot be read, is not such a network, or has other classes.
    """
    name = str(source)
    tensors = {_todays_name(key): tensor for key, tensor in read_weights(source).tensors.items()}
    check_project(tensors, "torchvision", name)
    if "conv1.weight" in tensors:
        return _convert_resnet(tensors, name)
    outputs = first_size(tensors, "roi_heads.box_predictor.cls_score.weight", name, "a Mask R-CNN of torchvision")
    if outputs == COCO_CLASSES and labels is None:
        label_set = things_only(coco_labels())
        kept = [category.id for category in label_set.categories]
    else:
        label_set = labels_for(0, outputs - 1, labels, name)
        kept = list(range(1, outputs))
    tensors = in_our_order(_without_epsilon(tensors), CLASS_LAYERS, kept)
    modules = resnet_modules("resnet50", "backbone.body.") | MODULES
    recipe = mask_rcnn_recipe()
    weights = take_weights(tensors, modules, recipe, label_set, EXTRA, name)
    credit = f"converted from {Path(source).name} of torchvision (BSD 3-Clause); the licence is that of this file"
    return Checkpoint(weights, recipe, label_set, credit=credit)


def mask_rcnn_recipe() -> Recipe:
    """What torchvision's ``maskrcnn_resnet50_fpn`` is, and how its reference training went."""
    return derive(
        panoptic_fpn_r50_coco(),
        name="torchvision_mask_rcnn_r50_coco",
        picture=PictureConfig(),
        model__backbone=BackboneConfig(name="resnet50", norm="frozen_batch", frozen_stages=2),
        model__semantic=None,
        model__fusion=None,
        model__region__aligned=False,
        model__region__sampling_ratio=2,
        model__region__min_size=0.01,
        model__region__rpn__min_size=0.001,
        model__region__rpn__anchor_kind="rounded",
        model__region__rpn__fitted_strides=True,
        model__region__rpn__num_proposals=(2000, 1000),
        model__region__mask_head__mask_paste="whole_pixels",
        augmentation=AugmentationConfig(short_sides=(800,)),
        loss__box_beta=1 / 9,
        loss__rpn_beta=1 / 9,
        # 26 epochs of 117266 pictures, the rate falls after 16 and 22.
        schedule__steps=190580,
        schedule__milestones=(117280, 161260),
    )


def _convert_resnet(tensors: Mapping[str, Tensor], source: str) -> Checkpoint:
    backbone = count_blocks(tensors, "layer3", source)
    recipe = derive(
        panoptic_fpn_r50_coco(),
        name=f"torchvision_{backbone}",
        picture=PictureConfig(),
        model__backbone=BackboneConfig(name=backbone, norm="frozen_batch", frozen_stages=2),
    )
    labels = coco_labels()
    extra = rf"{EXTRA}|fc\.(weight|bias)"
    weights = take_weights(tensors, resnet_modules(backbone, ""), recipe, labels, extra, source, part="backbone.")
    credit = f"converted from {Path(source).name} of torchvision (BSD 3-Clause), trained on ImageNet"
    return Checkpoint(weights, recipe, labels, credit=credit)


def _todays_name(name: str) -> str:
    module, _, leaf = name.rpartition(".")
    return f"{OLD_MODULES.get(module, module)}.{leaf}"


def _without_epsilon(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Frozen norms that add nothing to the variance, as norms that add ``EPSILON``."""
    changed = dict(tensors)
    if any(name.endswith(".num_batches_tracked") for name in tensors):
        return changed
    for name, variance in tensors.items():
        module, _, leaf = name.rpartition(".")
        if leaf == "running_var" and f"{module}.weight" in tensors:
            changed[f"{module}.weight"] = tensors[f"{module}.weight"] / variance.sqrt()
            changed[name] = torch.full_like(variance, 1 - EPSILON)
    return changed
