"""mmdetection's Faster R-CNN, Mask R-CNN and Panoptic FPN with ResNet-50 or ResNet-101, with or without PAFPN."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, assert_never

from torch import Tensor

from thingstuff.checkpoint import Checkpoint
from thingstuff.convert.classes import labels_for
from thingstuff.convert.foreign import read_weights
from thingstuff.convert.mapping import check_project, count_blocks, first_size, take_weights
from thingstuff.convert.resnet import resnet_modules
from thingstuff.recipe import Recipe, derive
from thingstuff.recipe_model import BackboneConfig, BottomUpConfig, PictureConfig
from thingstuff.recipes import panoptic_fpn_r50_coco

NetworkKind = Literal["panoptic", "mask_rcnn", "faster_rcnn"]
"""Whether a network has a semantic branch and masks, masks alone, or neither."""

MODULES = {
    "neck.lateral_convs.0.conv": "neck.lateral.0.0",
    "neck.lateral_convs.1.conv": "neck.lateral.1.0",
    "neck.lateral_convs.2.conv": "neck.lateral.2.0",
    "neck.lateral_convs.3.conv": "neck.lateral.3.0",
    "neck.fpn_convs.0.conv": "neck.output.0.0",
    "neck.fpn_convs.1.conv": "neck.output.1.0",
    "neck.fpn_convs.2.conv": "neck.output.2.0",
    "neck.fpn_convs.3.conv": "neck.output.3.0",
    "neck.downsample_convs.0.conv": "neck.bottom_up.down.0.0",
    "neck.downsample_convs.1.conv": "neck.bottom_up.down.1.0",
    "neck.downsample_convs.2.conv": "neck.bottom_up.down.2.0",
    "neck.pafpn_convs.0.conv": "neck.bottom_up.output.0.0",
    "neck.pafpn_convs.1.conv": "neck.bottom_up.output.1.0",
    "neck.pafpn_convs.2.conv": "neck.bottom_up.output.2.0",
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
    """Read a Faster R-CNN, Mask R-CNN or Panoptic FPN of mmdetection, whose neck may be a PAFPN.

    Its semantic outputs are stuff, then all things together, as ours; background is the last class, as ours. Things
    and stuff are each taken to be in order of their category ids, as in its COCO.

    Args:
        source: A `.pth` of mmdetection.
        labels: File with the classes (see ``read_labels``); None: COCO's, or without semantic branch COCO's things.

    Raises:
        InputError: The file cannot be read, is not such a network, or has other classes.
    """
    name = str(source)
    tensors: Mapping[str, Tensor] = read_weights(source).tensors
    check_project(tensors, "mmdet", name)
    network = "a Faster R-CNN, Mask R-CNN or Panoptic FPN of mmdetection"
    num_things = first_size(tensors, "roi_head.bbox_head.fc_cls.weight", name, network) - 1
    semantic = tensors.get("semantic_head.conv_logits.weight")
    label_set = labels_for(0 if semantic is None else len(semantic) - 1, num_things, labels, name)
    backbone = count_blocks(tensors, "backbone.layer3", name)
    masks = "roi_head.mask_head.conv_logits.weight" in tensors
    network_kind = "panoptic" if semantic is not None else "mask_rcnn" if masks else "faster_rcnn"
    recipe = mmdet_recipe(backbone, network_kind, path_aggregation="neck.pafpn_convs.0.conv.weight" in tensors)
    modules = resnet_modules(backbone, "backbone.") | MODULES
    weights = take_weights(tensors, modules, recipe, label_set, EXTRA, name)
    credit = f"converted from {Path(source).name} of mmdetection (Apache-2.0); the licence is that of this file"
    return Checkpoint(weights, recipe, label_set, credit=credit)


def mmdet_recipe(backbone: str, kind: NetworkKind = "panoptic", *, path_aggregation: bool = False) -> Recipe:
    """What mmdetection's networks are, with their 1x schedule (12 epochs).

    It learns scale and shift of the batch norms, whose statistics stand still; here they are constants.

    Args:
        backbone: Of the network.
        kind: Whether it is a Panoptic FPN, a Mask R-CNN or a Faster R-CNN.
        path_aggregation: Its neck is a PAFPN, not an FPN.

    Source: its configurations ``panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco``, ``mask_rcnn/mask-rcnn_r50_fpn_1x_coco``
    and ``pafpn/faster-rcnn_r50_pafpn_1x_coco``.
    """
    neck = "pafpn" if path_aggregation else "fpn"
    recipe = derive(
        panoptic_fpn_r50_coco(),
        name=f"mmdet_{kind}_{neck}_{backbone.replace('resnet', 'r')}_coco",
        picture=PictureConfig(),
        model__backbone=BackboneConfig(name=backbone, norm="frozen_batch", frozen_stages=2),
        model__neck__bottom_up=BottomUpConfig(relu=False, order="mmdet") if path_aggregation else None,
        augmentation__short_sides=(800,),
        # Epochs of 117266 pictures; the rate falls after 8 and 11 of 12.
        schedule__steps=87960,
        schedule__milestones=(58640, 80630),
        schedule__warmup_steps=500,
    )
    match kind:
        case "panoptic":
            return derive(
                recipe,
                model__region__score_threshold=0.6,
                model__region__class_agnostic_nms=True,
                model__fusion__score_threshold=0.6,
                loss__semantic_size="quarter",
                loss__semantic_mean="all",
            )
        case "mask_rcnn":
            return derive(recipe, model__semantic=None, model__fusion=None)
        case "faster_rcnn":
            return derive(recipe, model__semantic=None, model__fusion=None, model__region__mask_head=None)
        case _:
            assert_never(kind)
