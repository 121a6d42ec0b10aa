"""Recipes: what is wrong is said in one line with the nearest right name, and nothing is lost on the way to JSON."""

from collections.abc import Callable

import pytest
import torch
from pydantic import ValidationError

from thingstuff.errors import InputError
from thingstuff.labels import Category, LabelSet
from thingstuff.model.build import build_network
from thingstuff.recipe import Recipe, ScenesConfig, ScheduleConfig, derive, field_names, read_recipe
from thingstuff.recipe_model import FusionConfig, ModelConfig, PictureConfig, RPNConfig
from thingstuff.recipes import RECIPES, find_recipe, panoptic_fpn_r50_coco, tiny_scenes

LABELS = LabelSet(
    (
        Category(1, "sky", False, (0, 0, 1)),
        Category(2, "grass", False, (0, 0, 2)),
        Category(3, "car", True, (0, 0, 3)),
    )
)


def complaint(action: Callable[[], object]) -> str:
    """What is said, which has to be one line."""
    with pytest.raises(InputError) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def wrong(**changes: object) -> str:
    return complaint(lambda: derive(tiny_scenes(), **changes))


# --- wrong keys ---


@pytest.mark.parametrize(
    ("path", "near"),
    [
        ("optim__learning_rat", "optim.learning_rate"),
        ("optim__lr_rate", "optim.learning_rate"),
        ("model__region__rpn__num_proposal", "model.region.rpn.num_proposals"),
        ("model__backbone__nane", "model.backbone.name"),
        ("schedule__warm_up_steps", "schedule.warmup_steps"),
        ("source__train_sed", "source.train_seed"),
        ("augmentations", "augmentation"),
    ],
)
def test_wrong_key_names_the_nearest(path: str, near: str) -> None:
    message = wrong(**{path: 1})
    assert message == f"recipe tiny_scenes: {path.replace('__', '.')} is not a field; did you mean {near}?"


def test_key_in_the_wrong_place_names_the_right_one() -> None:
    assert wrong(learning_rate=1).endswith("learning_rate is not a field; did you mean optim.learning_rate?")


def test_key_without_any_likeness() -> None:
    assert wrong(optim__zzzzzzzz=1) == "recipe tiny_scenes: optim.zzzzzzzz is not a field"


def test_key_below_a_part_that_is_not_there() -> None:
    bare = derive(tiny_scenes(), model__region=None, model__fusion=None)
    message = complaint(lambda: derive(bare, model__region__num_detections=5))
    assert message == "recipe tiny_scenes: model.region.num_detections cannot be set, 'region' is not there"


def test_all_mistakes_are_named_at_once() -> None:
    message = wrong(optim__learning_rate=-1, schedule__decay="linear")
    assert "optim.learning_rate is -1:" in message
    assert "schedule.decay is 'linear':" in message


# --- wrong choices and values ---


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("optim__kind", "sdg", "optim.kind is 'sdg': input should be 'sgd' or 'adamw'"),
        (
            "model__backbone__norm",
            "layer",
            "model.backbone.norm is 'layer': input should be 'frozen_batch', 'batch', 'sync_batch' or 'group'",
        ),
        ("picture__channel_order", "grb", "picture.channel_order is 'grb': input should be 'rgb' or 'bgr'"),
        ("optim__learning_rate", 0, "optim.learning_rate is 0: input should be greater than 0"),
        ("augmentation__flip", 1.5, "augmentation.flip is 1.5: input should be less than or equal to 1"),
        ("model__region__num_detections", 0, "model.region.num_detections is 0: input should be greater than or equal"),
        ("model__backbone__frozen_stages", 6, "model.backbone.frozen_stages is 6: input should be less than or equal"),
        ("schedule__steps", "many", "schedule.steps is 'many': input should be a valid integer"),
        ("schedule__steps", 2.5, "schedule.steps is 2.5: input should be a valid integer"),
        ("model__region__box_weights", (1.0, 2.0), "model.region.box_weights.2"),
        ("picture__mean", (1.0, 2.0), "picture: mean has 2 values for 3 channels; give one for each"),
        ("picture__channels", 4, "picture: mean has 3 values for 4 channels; give one for each"),
        ("model__region__rpn__anchor_sizes", ((8.0,),) * 4, "model.region.rpn: anchor_sizes has 4 levels; give 5"),
        (
            "model__region__rpn__anchor_sizes",
            ((8.0,),) * 4 + ((8.0, 9.0),),
            "model.region.rpn: anchor_sizes has levels with different numbers of sizes",
        ),
        ("model__region__rpn__negative_iou", 0.9, "model.region.rpn: negative_iou 0.9 is above positive_iou 0.6; swap"),
        ("model__region", None, "model: fusion needs region with mask_head, and semantic; set fusion to None or add"),
        ("model__semantic", None, "model: fusion needs region with mask_head, and semantic"),
        ("model__region__mask_head", None, "model: fusion needs region with mask_head, and semantic"),
    ],
)
def test_wrong_values_name_the_field_and_what_is_allowed(path: str, value: object, expected: str) -> None:
    assert wrong(**{path: value}).startswith(f"recipe tiny_scenes: {expected}")


def test_at_least_one_branch() -> None:
    message = wrong(model__region=None, model__semantic=None, model__fusion=None)
    assert message == "recipe tiny_scenes: model: region and semantic are both None; keep at least one branch"


def test_momentum_of_steps_is_for_sgd() -> None:
    message = wrong(optim__momentum_of="steps")
    assert message == (
        "recipe tiny_scenes: optim: momentum_of is steps, which is for sgd, and kind is adamw; "
        "set momentum_of to gradients"
    )


def test_losses_need_what_they_see() -> None:
    assert wrong(loss__panoptic_weight=0.5).startswith(
        "recipe tiny_scenes: loss.panoptic_weight is 0.5, but there is no panoptic head to learn through"
    )
    assert wrong(model__semantic=None, model__fusion=None, loss__roi_semantic_weight=1).startswith(
        "recipe tiny_scenes: loss.roi_semantic_weight is 1.0, but model.semantic is None"
    )


def test_the_panoptic_head_needs_logits_of_each_thing() -> None:
    assert wrong(model__fusion__kind="panoptic_logits").startswith(
        "recipe tiny_scenes: model: fusion.kind panoptic_logits needs semantic logits of each thing class; set"
    )


def test_milestones_come_before_the_end() -> None:
    recipe = panoptic_fpn_r50_coco()
    message = complaint(lambda: derive(recipe, schedule__steps=80000))
    assert message.startswith("recipe panoptic_fpn_r50_coco: schedule: milestones (60000, 80000) must come before")
    assert derive(recipe, schedule__steps=80000, schedule__decay="cosine").schedule.steps == 80000


def test_unknown_kind_of_source() -> None:
    message = wrong(source={"kind": "video"})
    assert "source" in message
    assert "'scenes', 'files'" in message


# --- deriving ---


def test_derive_changes_what_is_named_and_nothing_else() -> None:
    parent = tiny_scenes()
    child = derive(parent, name="child", model__region__num_detections=7, schedule=ScheduleConfig(steps=90001))
    assert child.model.region is not None
    assert child.model.region.num_detections == 7
    assert child.schedule == ScheduleConfig(steps=90001)
    assert derive(child, name=parent.name, model__region__num_detections=40, schedule=parent.schedule) == parent
    assert parent == tiny_scenes()


def test_derive_takes_whole_parts() -> None:
    fusion = FusionConfig(score_threshold=0.3)
    child = derive(tiny_scenes(), model__fusion=fusion, source=ScenesConfig(size=(64, 64)))
    assert child.model.fusion == fusion
    assert child.source == ScenesConfig(size=(64, 64))


def test_derive_validates_the_whole() -> None:
    one_branch = derive(tiny_scenes(), model__region=None, model__fusion=None)
    message = complaint(lambda: derive(one_branch, model__fusion=FusionConfig()))
    assert message.startswith("recipe tiny_scenes: model: fusion needs region")


def test_recipes_cannot_be_changed() -> None:
    recipe = tiny_scenes()
    with pytest.raises(ValidationError, match="frozen"):
        recipe.name = "other"
    with pytest.raises(ValidationError, match="frozen"):
        recipe.optim.learning_rate = 1.0


def test_parts_validate_alone() -> None:
    with pytest.raises(ValidationError, match="give one for each"):
        PictureConfig(channels=1)
    assert PictureConfig(channels=1, mean=(0.0,), std=(1.0,)).channels == 1
    with pytest.raises(ValidationError, match="keep at least one branch"):
        ModelConfig(region=None, semantic=None, fusion=None)
    with pytest.raises(ValidationError, match="swap them"):
        RPNConfig(negative_iou=0.8)


# --- reading ---


def test_truncated_json_names_the_file() -> None:
    message = complaint(lambda: read_recipe('{"name": "x"', "run/recipe.json"))
    assert message.startswith("run/recipe.json: ")
    assert "JSON" in message


def test_missing_name() -> None:
    assert complaint(lambda: read_recipe({}, "recipe.json")) == "recipe.json: name: Field required"


def test_wrong_key_of_a_file() -> None:
    message = complaint(lambda: read_recipe('{"name": "x", "schedul": {}}', "recipe.json"))
    assert message == "recipe.json: schedul is not a field; did you mean schedule?"


def test_field_names_reach_every_depth() -> None:
    names = field_names()
    assert {"name", "model", "model.region.rpn.anchor_sizes", "source.size", "source.train_split"} <= set(names)
    assert {"augmentation.color.hue", "model.region.mask_head.num_convs"} <= set(names)


# --- the recipes that ship ---


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_is_called_what_it_is_found_by(name: str) -> None:
    assert find_recipe(name).name == name
    assert find_recipe(name) == RECIPES[name]()


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_survives_json(name: str) -> None:
    recipe = find_recipe(name)
    again = read_recipe(recipe.model_dump_json(), "recipe.json")
    assert again == recipe
    assert again.model_dump_json() == recipe.model_dump_json()
    assert read_recipe(recipe.model_dump(), "recipe.json") == recipe


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_builds_a_network(name: str) -> None:
    recipe = derive(find_recipe(name), model__backbone__pretrained=False)
    device = "cpu" if name.startswith("tiny") else "meta"
    with torch.device(device):
        torch.manual_seed(0)
        network = build_network(recipe, LABELS).eval()
        images, sizes = torch.zeros(1, 3, 64, 96), torch.tensor([[64, 96]])
        with torch.no_grad():
            pyramid = network.neck(network.backbone(network.normalize(images, sizes)))
            outputs = network(images, sizes) if device == "cpu" else None
    channels = recipe.model.neck.channels
    assert {stride: tuple(level.shape) for stride, level in pyramid.features.items()} == {
        4: (1, channels, 16, 24),
        8: (1, channels, 8, 12),
        16: (1, channels, 4, 6),
        32: (1, channels, 2, 3),
        64: (1, channels, 1, 2),
    }
    assert (network.region is not None) == (recipe.model.region is not None)
    assert (network.semantic is not None) == (recipe.model.semantic is not None)
    if outputs is not None:
        assert recipe.model.region is not None
        assert outputs.instances is not None
        assert outputs.instances.boxes.shape == (1, recipe.model.region.num_detections, 4)


def test_unknown_recipe_names_the_nearest_and_all() -> None:
    message = complaint(lambda: find_recipe("tiny_scene"))
    assert message.startswith("there is no recipe 'tiny_scene'; did you mean tiny_scenes? There are: finetune, ")
    assert all(name in message for name in RECIPES)
    assert complaint(lambda: find_recipe("???")).startswith("there is no recipe '???'; there are: finetune, ")


def test_published_schedules() -> None:
    once, three = (find_recipe(f"panoptic_fpn_r50{times}_coco").schedule for times in ("", "_3x"))
    assert (once.steps, once.milestones) == (90000, (60000, 80000))
    assert (three.steps, three.milestones) == (270000, (210000, 250000))
    assert (once.warmup_steps, once.warmup_factor, once.gamma) == (1000, 0.001, 0.1)


def test_the_default_recipe_is_complete() -> None:
    recipe = Recipe(name="x")
    assert read_recipe(recipe.model_dump_json(), "x") == recipe
