"""UPSNet as published.

Source: Xiong et al., UPSNet: A Unified Panoptic Segmentation Network, CVPR 2019, and the published configurations.
"""

from thingstuff.recipe import FilesConfig, OptimizerConfig, Recipe, derive
from thingstuff.recipe_model import BackboneConfig, FusionConfig, ModelConfig, NeckConfig, PictureConfig, SemanticConfig
from thingstuff.recipes.legacy import detectron_region
from thingstuff.recipes.panoptic_fpn import panoptic_fpn_r50_coco

COCO_NAMES_OF_CITYSCAPES = {
    "sidewalk": "pavement-merged",
    "building": "building-other-merged",
    "wall": "wall-other-merged",
    "fence": "fence-merged",
    "vegetation": "tree-merged",
    "sky": "sky-other-merged",
}
"""What COCO calls classes of Cityscapes, where the names differ; rider, pole, traffic sign and terrain have none."""


def upsnet_r50_coco() -> Recipe:
    """UPSNet with ResNet-50 on COCO: PQ 42.5.

    It begins with the Caffe ResNet-50 (`--init`), whose statistics are these means with deviation 1, in BGR.
    """
    return derive(
        panoptic_fpn_r50_coco(),
        name="upsnet_r50_coco",
        picture=PictureConfig(mean=(102.9801, 115.9465, 122.7717), std=(1.0, 1.0, 1.0), channel_order="bgr"),
        model=ModelConfig(
            backbone=BackboneConfig(name="resnet50", norm="frozen_batch", frozen_stages=2, stride_in_first_conv=True),
            neck=NeckConfig(global_average=True),
            region=detectron_region(),
            semantic=SemanticConfig(kind="deformable", num_layers=3, norm="none", things="separate"),
            fusion=FusionConfig(kind="panoptic_logits", score_threshold=0.6, overlap_threshold=0.3),
        ),
        augmentation__short_sides=(800,),
        loss__semantic_weight=0.2,
        loss__roi_semantic_weight=0.04,
        loss__panoptic_weight=0.1,
        loss__box_beta=1.0,
        loss__rpn_beta=1 / 9,
        optim=OptimizerConfig(bias_weight_decay=0.0, bias_learning_rate_factor=2.0, momentum_of="steps"),
        schedule__warmup_steps=1500,
        schedule__warmup_factor=0.1,
    )


def upsnet_r101_dcn_coco() -> Recipe:
    """UPSNet with a ResNet-101 whose last three stages are deformable, three times as long: PQ 46.6 on test-dev."""
    return derive(
        upsnet_r50_coco(),
        name="upsnet_r101_dcn_coco",
        model__backbone__name="resnet101",
        model__backbone__deformable_stages=3,
        augmentation__short_sides=(640, 672, 704, 736, 768, 800, 832),
        schedule__steps=270000,
        schedule__milestones=(210000, 250000),
    )


def upsnet_r50_cityscapes() -> Recipe:
    """UPSNet with ResNet-50 on Cityscapes: PQ 59.3."""
    return derive(
        upsnet_r50_coco(),
        name="upsnet_r50_cityscapes",
        source=FilesConfig(),
        picture__short_side=1024,
        picture__max_side=2048,
        model__neck__global_average=False,
        model__semantic__num_layers=2,
        model__fusion__stuff_area=2048,
        augmentation__short_sides=(800, 832, 864, 896, 928, 960, 992, 1024),
        augmentation__max_side=2048,
        loss__semantic_weight=1.0,
        loss__roi_semantic_weight=0.0,
        loss__panoptic_weight=0.5,
        schedule__steps=12000,
        schedule__milestones=(9000,),
    )


def upsnet_r101_cityscapes() -> Recipe:
    """UPSNet with ResNet-101 on Cityscapes, begun with weights from COCO (`--init`): PQ 61.8 with `--tta`.

    The network on COCO that it begins with is this one with COCO's classes; what the published result was tested with
    beyond several scales is not known.
    """
    return derive(
        upsnet_r50_cityscapes(),
        name="upsnet_r101_cityscapes",
        model__backbone__name="resnet101",
        init_names=COCO_NAMES_OF_CITYSCAPES,
        schedule__steps=3000,
        schedule__milestones=(2000,),
        schedule__warmup_steps=0,
    )
