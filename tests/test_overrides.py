import pytest

from thingstuff.errors import InputError
from thingstuff.overrides import override, split_overrides
from thingstuff.recipe import Recipe
from thingstuff.recipes import tiny_scenes

OPTIONS = {"out", "data", "resume", "batch_size"}


def changed(*words: str) -> Recipe:
    overrides, rest = split_overrides(words, OPTIONS)
    assert rest == []
    return override(tiny_scenes(), overrides)


def test_fields_are_told_from_options():
    words = ["--out", "runs/x", "--optim.learning-rate", "0.1", "--resume", "--optim.kind=sgd", "--batch-size", "4"]
    overrides, rest = split_overrides(words, OPTIONS)
    assert overrides == {"optim.learning_rate": ["0.1"], "optim.kind": ["sgd"]}
    assert rest == ["--out", "runs/x", "--resume", "--batch-size", "4"]


def test_without_words_nothing_changes():
    assert changed() == tiny_scenes()


@pytest.mark.parametrize(
    ("words", "path", "value"),
    [
        ("--optim.learning-rate 0.5", "optim.learning_rate", 0.5),
        ("--optim.learning-rate=1e-3", "optim.learning_rate", 1e-3),
        ("--optim.learning_rate 0.5", "optim.learning_rate", 0.5),
        ("--optim.learning-rate 0.5 --optim.learning-rate 0.25", "optim.learning_rate", 0.25),
        ("--model.backbone.pretrained", "model.backbone.pretrained", True),
        ("--model.region.no-aligned", "model.region.aligned", False),
        ("--model.region.aligned false", "model.region.aligned", False),
        ("--optim.gradient-clip None", "optim.gradient_clip", None),
        ("--augmentation.short-sides 64 96", "augmentation.short_sides", (64, 96)),
        ("--augmentation.short-sides 64", "augmentation.short_sides", (64,)),
        ("--augmentation.crop 64 96", "augmentation.crop", (64, 96)),
        ("--schedule.milestones", "schedule.milestones", ()),
        ('--augmentation.color {"brightness":0.5}', "augmentation.color.brightness", 0.5),
        (
            "--model.region.rpn.anchor-sizes.0 4 --model.region.rpn.anchor-sizes.1 12",
            "model.region.rpn.anchor_sizes",
            ((4.0,), (12.0,), (32.0,), (64.0,), (128.0,)),
        ),
        (
            "--model.region.rpn.anchor-sizes [[4],[8],[16],[32],[64]]",
            "model.region.rpn.anchor_sizes",
            ((4.0,), (8.0,), (16.0,), (32.0,), (64.0,)),
        ),
    ],
)
def test_words_become_what_the_field_asks_for(words: str, path: str, value: object):
    found: object = changed(*words.split())
    for part in path.split("."):
        found = getattr(found, part)
    assert found == value


def test_a_branch_is_switched_off():
    recipe = changed("--model.region", "None", "--model.fusion", "None", "--model.semantic.things", "separate")
    assert recipe.model.region is None
    assert recipe.model.fusion is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--optim.lr 1", r"--optim\.lr is not an option; did you mean --optim\.learning-rate\?"),
        ("--optim.wd 1", r"did you mean --optim\.weight-decay\?"),
        ("--datta x", r"did you mean --data\?"),
        ("--schedule.stepps 3", r"did you mean --schedule\.steps\?"),
        ("--name x", r"--name is not an option"),
        ("--optim.learning-rate fast", r"optim\.learning_rate is 'fast': input should be a valid number"),
        ("--optim.kind adam", r"optim\.kind is 'adam': input should be 'sgd' or 'adamw'"),
        ("--optim.momentum 2", r"optim\.momentum is '2': input should be less than 1"),
        ("--optim.learning-rate", r"--optim\.learning-rate has no value; write one behind it"),
        ("--optim.learning-rate inf", r"optim\.learning_rate is 'inf': input should be a finite number"),
        ("--augmentation.scale-jitter 2 1", r"scale_jitter \(2\.0, 1\.0\) falls"),
        ("--augmentation.short-sides", r"short_sides is \(\): tuple should have at least 1 item"),
        ("--source.size 32 32", r"source\.size"),
        ("--model.region None", r"fusion needs region with mask_head, and semantic"),
        ("--model.region.rpn.anchor-sizes [[4", r"anchor_sizes is"),
        ("--model.region.rpn.anchor-sizes.7 4", r"anchor-sizes\.7: there are 5 rows, counted from 0"),
        ("--optim.kind.0 sgd", r"--optim\.kind\.0 is not an option; optim\.kind has no rows"),
        ("--augmentation.color.hue 0.1", r"color of recipe tiny_scenes is None, so it has no hue"),
    ],
)
def test_what_does_not_fit_is_named(words: str, message: str):
    with pytest.raises(InputError, match=message) as caught:
        changed(*words.split())
    assert "\n" not in str(caught.value)
