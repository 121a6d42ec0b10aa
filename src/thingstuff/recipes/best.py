"""What none of the papers has: PANet's parts in panoptic networks."""

from thingstuff.recipe import OptimizerConfig, Recipe, derive
from thingstuff.recipe_model import (
    BackboneConfig,
    BottomUpConfig,
    BoxHeadConfig,
    MaskHeadConfig,
    NeckConfig,
    PictureConfig,
    RegionConfig,
    TTAConfig,
)
from thingstuff.recipes.panoptic_fpn import panoptic_fpn_r50_coco
from thingstuff.recipes.upsnet import upsnet_r50_coco


def panoptic_panet_r50_coco() -> Recipe:
    """Panoptic FPN with PANet's bottom-up path, pooling and heads."""
    return derive(
        panoptic_fpn_r50_coco(),
        name="panoptic_panet_r50_coco",
        model__neck=_neck(),
        model__region=_region(),
    )


def best_r50_coco() -> Recipe:
    """PANet's neck, pooling and heads under UPSNet's semantic and panoptic head, trained on several scales.

    It begins with timm's ImageNet weights, so pictures are RGB with ImageNet's statistics; boxes and RoIAlign are
    Detectron2's. The schedule is three times UPSNet's.
    """
    return derive(
        upsnet_r50_coco(),
        name="best_r50_coco",
        picture=PictureConfig(),
        model__backbone=BackboneConfig(name="resnet50", pretrained=True, norm="frozen_batch", frozen_stages=2),
        model__neck=_neck().model_copy(update={"global_average": True}),
        model__region=_region(),
        tta=TTAConfig(scales=(0.75, 1.0, 1.25), max_side=1666),
        augmentation__short_sides=(480, 560, 640, 720, 800, 880, 960),
        augmentation__max_side=1600,
        schedule__steps=270000,
        schedule__milestones=(210000, 250000),
    )


def best_convnext_tiny_coco() -> Recipe:
    """The same with ConvNeXt-T and the optimiser it is used to."""
    return derive(
        best_r50_coco(),
        name="best_convnext_tiny_coco",
        model__backbone=BackboneConfig(name="convnext_tiny", pretrained=True, norm="batch"),
        optim=OptimizerConfig(
            kind="adamw",
            learning_rate=1e-4,
            weight_decay=0.05,
            bias_weight_decay=0.0,
            precision="bfloat16",
        ),
    )


def _neck() -> NeckConfig:
    return NeckConfig(norm="group", bottom_up=BottomUpConfig(norm="group"))


def _region() -> RegionConfig:
    return RegionConfig(
        pool="adaptive",
        box_head=BoxHeadConfig(kind="heavy", norm="group"),
        mask_head=MaskHeadConfig(kind="fused", norm="group"),
    )
