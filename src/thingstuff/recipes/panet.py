"""PANet as published, and the Mask R-CNN that it is measured against.

Source: Liu et al., Path Aggregation Network for Instance Segmentation, CVPR 2018, and the configurations of its
official code, which differ from the paper: group norm instead of synchronised batch norm, other sizes and schedules.
"""

from thingstuff.recipe import FilesConfig, OptimizerConfig, Recipe, derive
from thingstuff.recipe_model import (
    BackboneConfig,
    BottomUpConfig,
    BoxHeadConfig,
    MaskHeadConfig,
    ModelConfig,
    NeckConfig,
    PictureConfig,
    TTAConfig,
)
from thingstuff.recipes.legacy import detectron_region
from thingstuff.recipes.panoptic_fpn import panoptic_fpn_r50_coco


def mask_rcnn_r50_coco() -> Recipe:
    """Mask R-CNN with ResNet-50 and FPN on COCO, 1x, as in Detectron2: what PANet's parts are added to."""
    return derive(panoptic_fpn_r50_coco(), name="mask_rcnn_r50_coco", model__semantic=None, model__fusion=None)


def panet_r50_coco() -> Recipe:
    """PANet with ResNet-50 on COCO, 2x: the official code's 43.1 box AP and 38.3 mask AP.

    It begins with the Caffe ResNet-50 (`--init`), whose statistics are these means with deviation 1, in BGR.
    """
    region = detectron_region().model_copy(
        update={
            "pool": "adaptive",
            "box_head": BoxHeadConfig(kind="heavy", norm="group"),
            "mask_head": MaskHeadConfig(kind="fused", norm="group", fc_relu=True, mask_paste="inclusive_pixels"),
        }
    )
    return derive(
        mask_rcnn_r50_coco(),
        name="panet_r50_coco",
        picture=PictureConfig(
            mean=(102.9801, 115.9465, 122.7717),
            std=(1.0, 1.0, 1.0),
            channel_order="bgr",
            short_side=1000,
            max_side=1400,
        ),
        model=ModelConfig(
            backbone=BackboneConfig(name="resnet50", norm="frozen_batch", frozen_stages=2, stride_in_first_conv=True),
            neck=NeckConfig(norm="group", bottom_up=BottomUpConfig(norm="group", conv_bias=True)),
            region=region,
            semantic=None,
            fusion=None,
        ),
        # Shorter sides of 600, 800, 1000 and 1200 pixels.
        tta=TTAConfig(scales=(0.6, 0.8, 1.0, 1.2), max_side=1400),
        augmentation__short_sides=(1200, 1200, 1000, 800, 600, 400),
        augmentation__max_side=1400,
        loss__box_beta=1 / 3,
        loss__rpn_beta=1 / 9,
        optim=OptimizerConfig(bias_weight_decay=0.0, bias_learning_rate_factor=2.0, norm_biases_as="biases"),
        schedule__steps=180000,
        schedule__milestones=(120000, 160000),
        schedule__warmup_steps=500,
        schedule__warmup_factor=1 / 3,
    )


def panet_r50_coco_detection() -> Recipe:
    """PANet without masks, 1x: 39.8 box AP; with `--model.region.box-head.kind light` 39.6."""
    return derive(
        panet_r50_coco(),
        name="panet_r50_coco_detection",
        model__region__mask_head=None,
        schedule__steps=90000,
        schedule__milestones=(60000, 80000),
    )


def panet_x101_coco() -> Recipe:
    """PANet with ResNeXt-101 64x4d on COCO: the paper's 42.0 mask AP on test-dev with multi-scale training.

    It begins with timm's ImageNet weights, so pictures are RGB with ImageNet's statistics.
    """
    return derive(
        panet_r50_coco(),
        name="panet_x101_coco",
        picture=PictureConfig(short_side=1000, max_side=1400),
        model__backbone=BackboneConfig(name="resnext101_64x4d", pretrained=True, norm="frozen_batch", frozen_stages=2),
    )


def panet_r50_cityscapes() -> Recipe:
    """PANet with ResNet-50 on the things of Cityscapes: the paper's 36.5 mask AP on val from fine annotations alone.

    Sizes, batch and schedule are the paper's; norms are the official code's.
    """
    return derive(
        panet_r50_coco(),
        name="panet_r50_cityscapes",
        source=FilesConfig(),
        picture__short_side=1024,
        picture__max_side=2048,
        tta=TTAConfig(),
        augmentation__short_sides=(800, 1024),
        augmentation__max_side=2048,
        optim__learning_rate=0.01,
        optim__batch_size=8,
        schedule__steps=24000,
        schedule__milestones=(18000,),
        schedule__evaluate_every=3000,
    )


def panet_r50_mapillary() -> Recipe:
    """PANet with ResNet-50 on the things of Mapillary Vistas: the paper's 23.6 mask AP on val at one scale.

    The paper has anchors of 7 sizes, from 8 to 512 pixels, and 5 shapes; which level has which is not said. Here every
    level has two neighbouring sizes, the small ones on the fine levels.
    """
    return derive(
        panet_r50_coco(),
        name="panet_r50_mapillary",
        source=FilesConfig(),
        picture__short_side=1800,
        picture__max_side=2400,
        tta=TTAConfig(scales=(1600 / 1800, 1.0, 2000 / 1800), max_side=2400),
        model__region__rpn__anchor_sizes=((8, 16), (16, 32), (64, 128), (128, 256), (256, 512)),
        model__region__rpn__aspect_ratios=(0.2, 0.5, 1.0, 2.0, 5.0),
        augmentation__short_sides=tuple(range(600, 2001, 100)),
        augmentation__max_side=2400,
        schedule__steps=80000,
        schedule__milestones=(60000,),
    )
