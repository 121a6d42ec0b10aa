"""The recipes that ship: one function each, each returns one complete recipe. A variant names its parent and differs.

`RECIPES` lists them; the command line finds them by name.
"""

import difflib
from collections.abc import Callable

from thingstuff.errors import InputError
from thingstuff.recipe import (
    AugmentationConfig,
    ColorConfig,
    FilesConfig,
    LossConfig,
    OptimizerConfig,
    Recipe,
    ScenesConfig,
    ScheduleConfig,
    derive,
)
from thingstuff.recipe_model import (
    BackboneConfig,
    BoxHeadConfig,
    FusionConfig,
    MaskHeadConfig,
    ModelConfig,
    NeckConfig,
    PictureConfig,
    RegionConfig,
    RPNConfig,
    SemanticConfig,
)

# --- small networks that learn from nothing on two processor cores ---


def tiny_scenes() -> Recipe:
    """Procedural scenes, 192x128; learns from nothing within minutes on two cores."""
    return Recipe(
        name="tiny_scenes",
        picture=PictureConfig(short_side=0, max_side=1024),
        model=ModelConfig(
            # Cross stage partial Darknet: the fastest of timm's small networks here per picture, in bfloat16.
            backbone=BackboneConfig(name="cs3darknet_s", norm="batch"),
            neck=NeckConfig(channels=64, norm="batch"),
            region=RegionConfig(
                rpn=RPNConfig(
                    anchor_sizes=((8,), (16,), (32,), (64,), (128,)),
                    candidates_per_level=(300, 200),
                    num_proposals=(200, 100),
                    samples=128,
                    positive_iou=0.6,
                ),
                box_head=BoxHeadConfig(width=128),
                mask_head=MaskHeadConfig(channels=64, num_convs=3, norm="batch"),
                num_detections=40,
                samples=64,
            ),
            semantic=SemanticConfig(channels=64, norm="batch"),
            fusion=FusionConfig(stuff_area=64),
        ),
        source=ScenesConfig(),
        augmentation=AugmentationConfig(short_sides=(0,), max_side=1024),
        loss=LossConfig(semantic_weight=1.0, semantic_size="quarter"),
        optim=OptimizerConfig(
            kind="adamw",
            learning_rate=2e-3,
            batch_size=16,
            weight_decay=0.05,
            bias_weight_decay=0.0,
            gradient_clip=5.0,
            precision="bfloat16",
            ema_decay=0.998,
        ),
        schedule=ScheduleConfig(
            steps=1100, warmup_steps=100, decay="cosine", milestones=(), final_factor=0.01, evaluate_every=275
        ),
    )


def tiny_facades() -> Recipe:
    """Photographs of town houses at 320x320, from nothing: 5 things, 5 stuff, windows by the dozen."""
    return derive(
        tiny_scenes(),
        name="tiny_facades",
        source=FilesConfig(),
        model__region__num_detections=100,
        model__region__samples=128,
        model__region__rpn__num_proposals=(400, 300),
        model__region__rpn__samples=256,
        model__fusion__stuff_area=400,
        augmentation=AugmentationConfig(
            short_sides=(320,),
            max_side=640,
            scale_jitter=(0.8, 1.6),
            crop=(320, 320),
            color=ColorConfig(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.04),
        ),
        optim__batch_size=8,
        optim__learning_rate=1.5e-3,
        schedule__steps=2400,
        schedule__warmup_steps=150,
        schedule__evaluate_every=240,
        schedule__repeat_threshold=0.3,
    )


def tiny_nuclei() -> Recipe:
    """Microscopy pictures of about 256x256, from nothing: 2 things, 3 stuff, nuclei by the dozen."""
    return derive(
        tiny_facades(),
        name="tiny_nuclei",
        model__region__num_detections=250,
        model__region__rpn__num_proposals=(600, 500),
        model__region__rpn__candidates_per_level=(600, 500),
        augmentation=AugmentationConfig(
            short_sides=(256,),
            max_side=1024,
            scale_jitter=(0.7, 1.6),
            crop=(256, 256),
            vertical_flip=0.5,
            color=ColorConfig(brightness=0.3, contrast=0.3, saturation=0.2),
        ),
        schedule__steps=1500,
        schedule__evaluate_every=150,
    )


# --- Panoptic FPN as published ---


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


RECIPES: dict[str, Callable[[], Recipe]] = {
    function.__name__: function
    for function in (
        tiny_scenes,
        tiny_facades,
        tiny_nuclei,
        panoptic_fpn_r50_coco,
        panoptic_fpn_r50_3x_coco,
        panoptic_fpn_r101_3x_coco,
        panoptic_fpn_r50_cityscapes,
        semantic_fpn_r50_coco,
    )
}


def find_recipe(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        InputError: There is none; the message names the nearest and lists all.
    """
    if name in RECIPES:
        return RECIPES[name]()
    near = difflib.get_close_matches(name, RECIPES, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise InputError(f"there is no recipe {name!r}; {hint}There are: {', '.join(RECIPES)}")
