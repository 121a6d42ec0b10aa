"""Small networks that learn from nothing on two processor cores."""

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


def tiny_scenes() -> Recipe:
    """Procedural scenes, 192x128; learns from nothing within minutes on two cores."""
    return Recipe(
        name="tiny_scenes",
        picture=PictureConfig(short_side=0, max_side=1024),
        model=ModelConfig(
            # Cross stage partial Darknet: the fastest of timm's small networks here per picture, in bfloat16.
            backbone=BackboneConfig(name="cs3darknet_s", norm="batch"),
            # Norms in neck and heads make the first thousands of steps slower, not faster (see benchmarks/RESULTS.md).
            neck=NeckConfig(channels=64),
            region=RegionConfig(
                rpn=RPNConfig(
                    anchor_sizes=((8,), (16,), (32,), (64,), (128,)),
                    candidates_per_level=(300, 200),
                    num_proposals=(200, 100),
                    samples=128,
                    positive_iou=0.6,
                ),
                box_head=BoxHeadConfig(width=128),
                mask_head=MaskHeadConfig(channels=64, num_convs=3),
                num_detections=40,
                samples=64,
            ),
            semantic=SemanticConfig(channels=64, norm="group", predictor_std=0.01),
            fusion=FusionConfig(stuff_area=64, stuff_frame="network"),
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
            steps=1100, warmup_steps=40, decay="cosine", milestones=(), final_factor=0.01, evaluate_every=275
        ),
    )


def tiny_facades() -> Recipe:
    """Photographs of town houses at 320x320, from nothing: 5 things, 5 stuff, windows by the dozen."""
    return derive(
        tiny_scenes(),
        name="tiny_facades",
        picture=PictureConfig(short_side=320, max_side=640),
        source=FilesConfig(),
        model__region__num_detections=100,
        # Windows are a hundred times as many as shops: without turns, the network learns windows alone.
        model__region__samples=96,
        model__region__balanced=True,
        model__region__rpn__balanced=True,
        model__region__rpn__samples=256,
        model__region__rpn__num_proposals=(400, 300),
        # From lamp posts to balconies; the largest cars have 200 pixels.
        model__region__rpn__anchor_sizes=((8,), (18,), (40,), (90,), (180,)),
        model__region__rpn__aspect_ratios=(0.25, 0.5, 1.0, 2.0, 4.0),
        # Chosen on the validation pictures: smaller patches of stuff are wrong more often than right.
        model__fusion__stuff_area=4096,
        model__fusion__overlap_threshold=0.3,
        augmentation=AugmentationConfig(
            short_sides=(320,),
            max_side=640,
            scale_jitter=(0.7, 1.7),
            crop=(320, 320),
            color=ColorConfig(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.04),
            paste=0.5,
            paste_until=0.6,
        ),
        optim__batch_size=8,
        optim__learning_rate=2.5e-3,
        schedule__steps=3000,
        schedule__evaluate_every=300,
        schedule__repeat_threshold=0.3,
    )


def tiny_nuclei() -> Recipe:
    """Microscopy pictures of about 256x256, from nothing: 2 things, 3 stuff, nuclei by the dozen."""
    return derive(
        tiny_facades(),
        name="tiny_nuclei",
        # A nucleus has its size in pixels, whatever the size of the picture.
        picture=PictureConfig(short_side=0, max_side=1024),
        model__region__num_detections=250,
        model__region__samples=128,
        model__region__rpn__anchor_sizes=((8,), (16,), (32,), (64,), (128,)),
        model__region__rpn__aspect_ratios=(0.5, 1.0, 2.0),
        model__region__rpn__num_proposals=(600, 500),
        model__region__rpn__candidates_per_level=(600, 500),
        model__fusion__stuff_area=400,
        model__fusion__overlap_threshold=0.5,
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


def tiny_scenes_upsnet() -> Recipe:
    """Procedural scenes with UPSNet's semantic and panoptic head."""
    return derive(
        tiny_scenes(),
        name="tiny_scenes_upsnet",
        model__semantic=SemanticConfig(kind="deformable", channels=64, num_layers=2, norm="group", things="separate"),
        model__fusion=FusionConfig(
            kind="panoptic_logits", score_threshold=0.6, overlap_threshold=0.3, stuff_area=64, stuff_frame="network"
        ),
        loss__roi_semantic_weight=1.0,
        loss__panoptic_weight=0.5,
    )
