"""mmdetection's Panoptic FPN with ResNet-50 or ResNet-101."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from thingstuff.checkpoint import Checkpoint
from thingstuff.convert.classes import labels_for
from thingstuff.convert.foreign import read_weights
from thingstuff.convert.mapping import count_blocks, first_size, take_weights
from thingstuff.convert.resnet import resnet_modules
from thingstuff.recipe import Recipe, derive
from thingstuff.recipe_model import BackboneConfig, PictureConfig
from thingstuff.recipes import panoptic_fpn_r50_coco

MODULES = {
    "neck.lateral_convs.0.conv": "neck.lateral.0.0",
    "neck.lateral_convs.1.conv": "neck.lateral.1.0",
    "neck.lateral_convs.2.conv": "neck.lateral.2.0",
    "neck.lateral_convs.3.conv": "neck.lateral.3.0",
    "neck.fpn_convs.0.conv": "neck.output.0.0",
    "neck.fpn_convs.1.conv": "neck.output.1.0",
    "neck.fpn_convs.2.conv": "neck.output.2.0",
    "neck.fpn_convs.3.conv": "neck.output.3.0",
    "rpn_head.rpn_conv": "rpn.conv",
    "rpn_head.rpn_cls": "rpn.objectness",
    "rpn_head.rpn_reg": "rpn.deltas",
    "roi_head.bbox_head.shared_fcs.0": "region.box_pool.entry.1",
    "roi_head.bbox_head.shared_fcs.1": "region.box_head.hidden.0",
    "roi_head.bbox_head.fc_cls": "region.box_head.outputs.classes",
    "roi_head.bbox_head.fc_reg": "region.box_head.outputs.deltas",
    "roi_head.mask_head.convs.0.conv": "region.mask_pool.entry.0",
    "roi_head.mask_head.convs.1.conv": "region.mask_head.convs.0.0",
    "roi_head.mask_head.convs.2.conv": "region.mask_head.convs.1.0",
    "roi_head.mask_head.convs.3.conv": "region.mask_head.convs.2.0",
    "roi_head.mask_head.upsample": "region.mask_head.upsample",
    "roi_head.mask_head.conv_logits": "region.mask_head.predictor",
    "semantic_head.conv_upsample_layers.0.conv.0.conv": "semantic.levels.0.0.0",
    "semantic_head.conv_upsample_layers.0.conv.0.gn": "semantic.levels.0.0.1",
    "semantic_head.conv_upsample_layers.1.conv.0.conv": "semantic.levels.1.0.0",
    "semantic_head.conv_upsample_layers.1.conv.0.gn": "semantic.levels.1.0.1",
    "semantic_head.conv_upsample_layers.2.conv.0.conv": "semantic.levels.2.0.0",
    "semantic_head.conv_upsample_layers.2.conv.0.gn": "semantic.levels.2.0.1",
    "semantic_head.conv_upsample_layers.2.conv.1.conv": "semantic.levels.2.1.0",
    "semantic_head.conv_upsample_layers.2.conv.1.gn": "semantic.levels.2.1.1",
    "semantic_head.conv_upsample_layers.3.conv.0.conv": "semantic.levels.3.0.0",
    "semantic_head.conv_upsample_layers.3.conv.0.gn": "semantic.levels.3.0.1",
    "semantic_head.conv_upsample_layers.3.conv.1.conv": "semantic.levels.3.1.0",
    "semantic_head.conv_upsample_layers.3.conv.1.gn": "semantic.levels.3.1.1",
    "semantic_head.conv_upsample_layers.3.conv.2.conv": "semantic.levels.3.2.0",
    "semantic_head.conv_upsample_layers.3.conv.2.gn": "semantic.levels.3.2.1",
    "semantic_head.conv_logits": "semantic.predictor",
}
"""Our module by mmdetection's, without the residual blocks."""

EXTRA = r"backbone\..*\.num_batches_tracked"
"""Counters of batch norm, which mean nothing once it stands still."""


def convert_mmdet(source: Path | str, labels: Path | str | None = None) -> Checkpoint:
    """Read a Panoptic FPN of mmdetection.

    Its semantic outputs are stuff, then all things together, as ours; background is the last class, as ours. Things
    and stuff are each taken to be in order of their category ids, as in its COCO.

    Args:
        source: A `.pth` of mmdetection.
        labels: File with the classes (see ``read_labels``); None: COCO's.

    Raises:
        InputError: The file cannot be read, is not such a network, or has other classes.
    """
    name = str(source)
    tensors: Mapping[str, Tensor] = read_weights(source).tensors
    network = "a Panoptic FPN of mmdetection"
    num_things = first_size(tensors, "roi_head.bbox_head.fc_cls.weight", name, network) - 1
    num_stuff = first_size(tensors, "semantic_head.conv_logits.weight", name, network) - 1
    label_set = labels_for(num_stuff, num_things, labels, name)
    backbone = count_blocks(tensors, "backbone.layer3", name)
    recipe = mmdet_recipe(backbone)
    modules = resnet_modules(backbone, "backbone.") | MODULES
    weights = take_weights(tensors, modules, recipe, label_set, EXTRA, name)
    credit = f"converted from {Path(source).name} of mmdetection (Apache-2.0); the licence is that of this file"
    return Checkpoint(weights, recipe, label_set, credit=credit)


def mmdet_recipe(backbone: str) -> Recipe:
    """What mmdetection's Panoptic FPN is, with its 1x schedule (12 epochs).

    Source: its configuration ``panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco``. It learns scale and shift of the batch
    norms, whose statistics stand still; here they are constants.
    """
    return derive(
        panoptic_fpn_r50_coco(),
        name=f"mmdet_panoptic_fpn_{backbone.replace('resnet', 'r')}_coco",
        picture=PictureConfig(),
        model__backbone=BackboneConfig(name=backbone, norm="frozen_batch", frozen_stages=2),
        model__region__score_threshold=0.6,
        model__region__class_agnostic_nms=True,
        model__fusion__score_threshold=0.6,
        augmentation__short_sides=(800,),
        loss__semantic_size="quarter",
        loss__semantic_mean="all",
        # Epochs of 117266 pictures; the rate falls after 8 and 11 of 12.
        schedule__steps=87960,
        schedule__milestones=(58640, 80630),
        schedule__warmup_steps=500,
    )
