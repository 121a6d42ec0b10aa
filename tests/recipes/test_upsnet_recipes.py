"""The published values of UPSNet's recipes, and how many parameters the parts of its networks have."""

import pytest
import torch
from torch import nn

from thingstuff.convert.classes import coco_labels
from thingstuff.model.build import build_network
from thingstuff.recipe import Recipe
from thingstuff.recipes.upsnet import (
    upsnet_r50_cityscapes,
    upsnet_r50_coco,
    upsnet_r101_cityscapes,
    upsnet_r101_dcn_coco,
)

RECIPES = [upsnet_r50_coco, upsnet_r101_dcn_coco, upsnet_r50_cityscapes, upsnet_r101_cityscapes]
SEVERAL = tuple(range(640, 833, 32))
CITYSCAPES = tuple(range(800, 1025, 32))
PUBLISHED = {
    "model.backbone.name": ("resnet50", "resnet101", "resnet50", "resnet101"),
    "model.backbone.deformable_stages": (0, 3, 0, 0),
    "model.neck.global_average": (True, True, False, False),
    "model.semantic.num_layers": (3, 3, 2, 2),
    "loss.semantic_weight": (0.2, 0.2, 1.0, 1.0),
    "loss.roi_semantic_weight": (0.04, 0.04, 0.0, 0.0),
    "loss.panoptic_weight": (0.1, 0.1, 0.5, 0.5),
    "model.fusion.kept_fraction": (0.7,) * 4,
    "augmentation.short_sides": ((800,), SEVERAL, CITYSCAPES, CITYSCAPES),
    "augmentation.max_side": (1333, 1333, 2048, 2048),
    "picture.short_side": (800, 800, 1024, 1024),
    "picture.max_side": (1333, 1333, 2048, 2048),
    "optim.batch_size": (16,) * 4,
    "schedule.steps": (90_000, 270_000, 12_000, 3000),
    "schedule.milestones": ((60_000, 80_000), (210_000, 250_000), (9000,), (2000,)),
    "schedule.gamma": (0.1,) * 4,
    "schedule.warmup_steps": (1500, 1500, 1500, 0),
    "optim.learning_rate": (0.02,) * 4,
    "optim.momentum": (0.9,) * 4,
    "optim.weight_decay": (1e-4,) * 4,
    "optim.bias_weight_decay": (0.0,) * 4,
    "optim.bias_learning_rate_factor": (2.0,) * 4,
    "model.fusion.stuff_area": (4096, 4096, 2048, 2048),
    "model.fusion.stuff_frame": ("output",) * 4,
    "model.fusion.score_threshold": (0.6,) * 4,
    "model.fusion.iou_threshold": (0.5,) * 4,
    "model.fusion.overlap_threshold": (0.3,) * 4,
    "model.region.num_detections": (100,) * 4,
    "model.region.score_threshold": (0.05,) * 4,
}


def value_of(recipe: Recipe, field: str) -> object:
    found: object = recipe
    for name in field.split("."):
        found = getattr(found, name)
    return found


@pytest.mark.parametrize("field", PUBLISHED)
def test_published_values(field: str) -> None:
    assert tuple(value_of(recipe(), field) for recipe in RECIPES) == PUBLISHED[field]


@pytest.mark.parametrize(
    ("names", "thousands"),
    [
        (("backbone",), 23_508),
        (("neck",), 3_869),
        (("rpn",), 594),
        (("semantic",), 1_205),
        # A pool owns the first layer of the head behind it. The published network has boxes for the background as well,
        # 4 outputs of 1,025 numbers, and a mask for it, 257, which nobody reads.
        (("region.box_pool", "region.box_head"), 14_311 - 4.1),
        (("region.mask_pool", "region.mask_head"), 2_644 - 0.257),
    ],
)
def test_parameters_of_the_parts(names: tuple[str, ...], thousands: float) -> None:
    with torch.device("meta"):
        network = build_network(upsnet_r50_coco(), coco_labels())
    parts = nn.ModuleList(network.get_submodule(name) for name in names)
    count = sum(parameter.numel() for parameter in parts.parameters())
    # Frozen norms keep weight and bias as buffers.
    count += sum(buffer.numel() for name, buffer in parts.named_buffers() if name.endswith(("weight", "bias")))
    assert count / 1000 == pytest.approx(thousands, abs=1)
