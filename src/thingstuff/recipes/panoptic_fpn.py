"""Panoptic FPN and Semantic FPN as published."""

from thingstuff.recipe import (
    AugmentationConfig,
    ColorConfig,
    FilesConfig,
    Recipe,
    derive,
)
from thingstuff.recipe_model import (
    BackboneConfig,
    ModelConfig,
    PictureConfig,
)


def panoptic_fpn_r50_coco() -> Recipe:
    """Panoptic FPN with ResNet-50 on COCO, 1x: Detectron2's configuration, PQ 39.4.

    It begins with the MSRA ResNet-50 (`--init`), whose statistics are these means with deviation 1, in BGR.
    """
    return Recipe(
        name="panoptic_fpn_r50_coco",
        picture=PictureConfig(mean=(103.530, 116.280, 123.675), std=(1.0, 1.0, 1.0), channel_order="bgr"),
        model=ModelConfig(
            backbone=BackboneConfig(name="resnet50", norm="frozen_batch", frozen_stages=2, stride_in_first_conv=True)
        ),
        source=FilesConfig(overlapping_instances=True),
    )


def panoptic_fpn_r50_3x_coco() -> Recipe:
    """The same, three times as long: PQ 41.5."""
    return derive(
        panoptic_fpn_r50_coco(),
        name="panoptic_fpn_r50_3x_coco",
        schedule__steps=270000,
        schedule__milestones=(210000, 250000),
    )


def panoptic_fpn_r101_3x_coco() -> Recipe:
    """The same with ResNet-101: PQ 43.0."""
    return derive(panoptic_fpn_r50_3x_coco(), name="panoptic_fpn_r101_3x_coco", model__backbone__name="resnet101")


def panoptic_fpn_r50_cityscapes() -> Recipe:
    """Panoptic FPN with ResNet-50 on Cityscapes; the paper reports PQ 57.7.

    The training settings (scale 0.5 to 2, crop 512x1024, batch 32, 65k steps, rate 0.01 falling at 40k and 55k,
    colour) are recalled from the paper and not checked against it.
    """
    return derive(
        panoptic_fpn_r50_coco(),
        name="panoptic_fpn_r50_cityscapes",
        source=FilesConfig(),
        picture__short_side=1024,
        picture__max_side=2048,
        model__fusion__stuff_area=2048,
        augmentation=AugmentationConfig(
            short_sides=(1024,),
            max_side=4096,
            scale_jitter=(0.5, 2.0),
            crop=(512, 1024),
            color=ColorConfig(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.2),
        ),
        loss__semantic_weight=1.0,
        optim__learning_rate=0.01,
        optim__batch_size=32,
        schedule__steps=65000,
        schedule__milestones=(40000, 55000),
    )


def semantic_fpn_r50_coco() -> Recipe:
    """Semantic FPN with ResNet-50 on COCO: the semantic branch alone, telling all classes apart."""
    return derive(
        panoptic_fpn_r50_coco(),
        name="semantic_fpn_r50_coco",
        source=FilesConfig(),
        model__region=None,
        model__fusion=None,
        model__semantic__things="separate",
        loss__semantic_weight=1.0,
    )
