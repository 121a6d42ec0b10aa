"""What `finetune` chooses, by numbers that can be followed by hand."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thingstuff.recipe import Recipe, derive
from thingstuff.recipes import panoptic_fpn_r50_3x_coco, tiny_facades
from thingstuff.recipes.finetune import Choice, DataProfile, Machine, finetune

PROCESSOR = Machine(cores=2)
GPU = Machine(cores=16, gpu_memory=24 * 1024**3)

# 400 photographs of 300 x 400. With 300 pixels a side, objects have from 12 to 192 pixels, boxes (over sqrt(0.75)) have
# from 13.9 to 221.7; the middle of that is 55.4, so that anchors begin at 13.9, which the nearest half octave is 16 of.
PHOTOGRAPHS = DataProfile(
    pictures=400,
    short_side=300.0,
    aspect=4 / 3,
    channels=3,
    dtype="uint8",
    mean=(),
    std=(),
    object_sizes=(0.04, 0.06, 0.08, 0.12, 0.2, 0.4, 0.64),
    objects_95=20.0,
    objects_max=48,
    stuff_area=300.0,
    class_shares=(1.0, 0.9, 0.5, 0.05),
    num_things=2,
    num_stuff=2,
)


def chosen(recipe: Recipe, choices: tuple[Choice, ...]) -> dict[str, object]:
    """The choices by field, after a look whether the recipe holds what is said."""
    for choice in choices:
        value: object = recipe
        for part in choice.field.split("."):
            value = getattr(value, part)
        assert value == choice.value
        assert "\n" not in choice.why
    return {choice.field: choice.value for choice in choices}


def test_photographs_on_a_processor() -> None:
    recipe, choices = finetune(PHOTOGRAPHS, PROCESSOR, tiny_facades())
    assert recipe.name == "finetune"
    assert chosen(recipe, choices) == {
        "picture.short_side": 300,
        "augmentation.crop": (300, 300),
        "model.region.rpn.anchor_sizes": ((16.0,), (32.0,), (64.0,), (128.0,), (256.0,)),
        "model.region.num_detections": 60,  # 1.25 * 48
        "model.region.rpn.num_proposals": (320, 220),
        "model.region.rpn.candidates_per_level": (320, 220),
        "model.fusion.stuff_area": 300,  # below 0.4% of 120,000
        "optim.batch_size": 8,
        "optim.learning_rate": 2.5e-3,
        "schedule.steps": 2500,  # 50 * 400 / 8
        "schedule.repeat_threshold": 0.3,
    }
    assert recipe.picture.max_side == recipe.augmentation.max_side == 600
    assert recipe.augmentation.short_sides == (300,)
    assert recipe.augmentation.color == tiny_facades().augmentation.color
    assert (recipe.schedule.evaluate_every, recipe.schedule.warmup_steps) == (250, 40)
    assert recipe.model.backbone == tiny_facades().model.backbone
    assert recipe.augmentation.paste == 0


def test_the_limit_of_stuff_is_that_of_the_size_the_network_sees() -> None:
    large = replace(PHOTOGRAPHS, short_side=1200.0, stuff_area=4800.0)
    recipe, _ = finetune(large, PROCESSOR, tiny_facades(), short_side=300)
    assert recipe.model.fusion is not None
    assert (recipe.model.fusion.stuff_area, recipe.model.fusion.stuff_frame) == (300, "network")


def test_what_small_recipes_were_found_with_is_chosen_again() -> None:
    """Numbers of the nuclei of 2018's Data Science Bowl: `tiny_nuclei` has (8, ..., 128), 250, 600 and 500, 400."""
    nuclei = replace(
        PHOTOGRAPHS,
        pictures=589,
        short_side=256.0,
        object_sizes=(0.016, 0.028, 0.04, 0.06, 0.09, 0.12, 0.165),
        objects_95=69.0,
        objects_max=162,
        stuff_area=51000.0,
    )
    recipe, _ = finetune(nuclei, PROCESSOR, tiny_facades())
    assert recipe.model.region is not None
    assert recipe.model.fusion is not None
    assert recipe.model.region.rpn.anchor_sizes == ((8.0,), (16.0,), (32.0,), (64.0,), (128.0,))
    assert recipe.model.region.num_detections == 210
    assert recipe.model.region.samples == 128
    assert recipe.model.region.rpn.num_proposals == (620, 520)
    assert recipe.model.fusion.stuff_area == 349  # 0.004 * 4 / 3 * 256**2 = 349.5
    assert recipe.schedule.steps == 3000


@pytest.mark.parametrize(
    ("cores", "pictures", "learned", "steps"),
    [
        (2, 20, False, 1500), (2, 400, False, 2500), (2, 10_000, False, 3000), (16, 10_000, False, 6000),
        (2, 20, True, 600), (2, 300, True, 750), (2, 400, True, 1000), (2, 10_000, True, 1000),
        (16, 10_000, True, 3000),
    ],
)  # fmt: skip
def test_steps_are_bounded_and_fewer_with_weights_to_begin_with(
    cores: int, pictures: int, learned: bool, steps: int
) -> None:
    profile = replace(PHOTOGRAPHS, pictures=pictures)
    recipe, choices = finetune(profile, Machine(cores), tiny_facades(), learned=learned)
    assert recipe.schedule.steps == steps
    assert f"about {steps * 8 / pictures:.0f} times" in next(c.why for c in choices if c.field == "schedule.steps")


def test_large_pictures_are_learned_from_in_windows() -> None:
    """A quarter of the objects is below 0.04 of a side: of 400 pixels that is 16, and 400 is 12 times 32 and a bit."""
    large = replace(PHOTOGRAPHS, short_side=3000.0, object_sizes=(0.01, 0.02, 0.04, 0.1, 0.2, 0.4, 0.6))
    recipe, _ = finetune(large, PROCESSOR, tiny_facades())
    assert recipe.picture.short_side == 384
    assert recipe.augmentation.crop == (320, 320)
    # The smallest picture shows nearly all of itself in a window: 0.9 * 320 / 384 = 0.75, but 0.7 is usual.
    assert recipe.augmentation.scale_jitter == (0.7, 1.7)
    tiny_objects = replace(large, object_sizes=(0.001, 0.002, 0.003, 0.004, 0.005, 0.01, 0.02))
    recipe, choices = finetune(tiny_objects, PROCESSOR, tiny_facades())
    assert recipe.picture.short_side == 512
    assert recipe.augmentation.scale_jitter == (0.56, 1.7)
    assert "a quarter of the objects has less than 2 pixels" in choices[0].why


def test_a_large_network_on_a_gpu() -> None:
    recipe, choices = finetune(PHOTOGRAPHS, GPU, panoptic_fpn_r50_3x_coco())
    said = chosen(recipe, choices)
    # 300 pixels may become 600; 24 GiB: (0.8 * 24 - 2) * 2**30 / (3000 * 600 * 1200) = 8.5, so 8.
    assert said["picture.short_side"] == 600
    assert said["augmentation.short_sides"] == (480, 504, 528, 552, 576, 600)
    assert said["optim.batch_size"] == 8
    assert said["optim.learning_rate"] == 0.01  # 0.02 for 16
    assert said["model.region.rpn.num_proposals"] == (1000, 1000)
    assert recipe.augmentation.crop is None
    assert recipe.schedule.decay == "cosine"
    assert recipe.optim.kind == "sgd"


def test_several_gpus_share_a_batch() -> None:
    recipe, _ = finetune(PHOTOGRAPHS, replace(GPU, processes=3), panoptic_fpn_r50_3x_coco())
    assert recipe.optim.batch_size == 18  # the parent's 16, for three alike
    small = replace(GPU, gpu_memory=4 * 1024**3, processes=2)
    assert finetune(PHOTOGRAPHS, small, panoptic_fpn_r50_3x_coco())[0].optim.batch_size == 2


def test_what_the_user_wants_carries_what_hangs_on_it() -> None:
    recipe, choices = finetune(PHOTOGRAPHS, PROCESSOR, tiny_facades(), short_side=150, batch_size=4, steps=10)
    said = {choice.field: choice for choice in choices}
    assert {said[field].why for field in ("picture.short_side", "optim.batch_size", "schedule.steps")} == {"as given"}
    assert (recipe.picture.short_side, recipe.augmentation.short_sides, recipe.augmentation.crop) == (
        150, (150,), (150, 150),
    )  # fmt: skip
    assert recipe.model.region is not None
    assert recipe.model.region.rpn.anchor_sizes[0] == (8.0,)
    assert recipe.optim.learning_rate == 1.25e-3
    assert (recipe.schedule.steps, recipe.schedule.warmup_steps, recipe.schedule.evaluate_every) == (10, 1, 50)


def test_pictures_as_they_are() -> None:
    recipe, _ = finetune(PHOTOGRAPHS, PROCESSOR, tiny_facades(), short_side=0)
    assert (recipe.picture.short_side, recipe.augmentation.short_sides, recipe.augmentation.crop) == (
        0, (0,), (300, 300),
    )  # fmt: skip


def test_other_channels_bring_their_own_statistics_and_keep_their_colours() -> None:
    bands = replace(PHOTOGRAPHS, channels=4, dtype="uint16", mean=(900.0,) * 4, std=(300.0,) * 4)
    recipe, choices = finetune(bands, PROCESSOR, tiny_facades())
    picture = recipe.picture
    assert (picture.channels, picture.pixels, picture.mean, picture.std) == (4, "uint16", (900.0,) * 4, (300.0,) * 4)
    assert recipe.augmentation.color is None
    assert choices[0].field == "picture.channels"


def test_without_things_or_stuff() -> None:
    no_things = replace(PHOTOGRAPHS, object_sizes=(), objects_95=0.0, objects_max=0, num_things=0, num_stuff=4)
    recipe, choices = finetune(no_things, PROCESSOR, tiny_facades())
    assert recipe.model.region == tiny_facades().model.region
    assert not any(choice.field.startswith("model.region") for choice in choices)
    no_stuff = replace(PHOTOGRAPHS, stuff_area=0.0, num_things=1, num_stuff=0, class_shares=(0.8,))
    recipe, choices = finetune(no_stuff, PROCESSOR, tiny_facades())
    assert recipe.model.fusion == tiny_facades().model.fusion
    assert (recipe.schedule.repeat_threshold, recipe.augmentation.paste) == (0.0, 0.0)


def test_a_parent_without_branches() -> None:
    parent = derive(tiny_facades(), model__fusion=None, model__region=None)
    recipe, choices = finetune(PHOTOGRAPHS, PROCESSOR, parent)
    assert recipe.model == parent.model
    chosen(recipe, choices)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 10**6),
    st.floats(1, 20_000),
    st.floats(1, 50),
    st.lists(st.floats(0, 1), min_size=7, max_size=7).map(sorted),
    st.integers(0, 5000),
    st.lists(st.floats(0, 1), min_size=1, max_size=5),
    st.sampled_from([PROCESSOR, GPU, Machine(64, 2**31, 5)]),
    st.sampled_from([tiny_facades(), panoptic_fpn_r50_3x_coco()]),
)
def test_whatever_the_data_there_is_a_recipe(
    pictures: int,
    short_side: float,
    aspect: float,
    sizes: list[float],
    objects: int,
    shares: list[float],
    machine: Machine,
    parent: Recipe,
) -> None:
    profile = replace(
        PHOTOGRAPHS,
        pictures=pictures,
        short_side=short_side,
        aspect=aspect,
        object_sizes=tuple(sizes),
        objects_95=0.9 * objects,
        objects_max=objects,
        class_shares=tuple(shares),
    )
    recipe, choices = finetune(profile, machine, parent)
    chosen(recipe, choices)
    assert recipe.model.region is not None
    assert 40 <= recipe.model.region.num_detections <= 400
    assert 8 <= recipe.model.region.rpn.anchor_sizes[0][0] <= 32
    assert recipe.optim.batch_size % machine.processes == 0
    assert recipe.picture.max_side >= recipe.picture.short_side
    again, _ = finetune(profile, machine, parent)
    assert again == recipe
