"""Choosing the thresholds of panoptic maps on validation pictures."""

from dataclasses import replace

import pytest

from thingstuff.checkpoint import load_checkpoint
from thingstuff.data.scenes import SceneSource
from thingstuff.evaluate import evaluate_pictures
from thingstuff.evaluation.pq import Score
from thingstuff.predict import Model
from thingstuff.recipe import derive
from thingstuff.recipe_model import FusionConfig
from thingstuff.thresholds import Rated, best_of, candidates, rate

SCENES = SceneSource(seed=7, count=4, size=(96, 128))


def test_the_setting_that_there_is_comes_first_and_the_others_once() -> None:
    fusion = FusionConfig(score_threshold=0.45, overlap_threshold=0.5, stuff_area=64)
    tried = candidates(fusion)
    assert tried[0] == fusion
    assert len(set(tried)) == len(tried) == 7 * 2 * 4
    assert {one.stuff_area for one in tried} == {0, 64, 192, 640}
    assert all(replace_thresholds(one, fusion) == fusion for one in tried)


def test_what_is_given_stays() -> None:
    fusion = FusionConfig(score_threshold=0.45, stuff_area=0)
    tried = candidates(fusion, {"score_threshold"})
    assert {one.score_threshold for one in tried} == {0.45}
    assert [(one.overlap_threshold, one.stuff_area) for one in tried] == [(0.5, 0), (0.3, 0)]


def replace_thresholds(one: FusionConfig, by: FusionConfig) -> FusionConfig:
    names = ("score_threshold", "overlap_threshold", "stuff_area")
    return one.model_copy(update={name: getattr(by, name) for name in names})


@pytest.mark.parametrize("kind", ["merge_by_score", "panoptic_logits"])
def test_every_setting_is_rated_as_a_model_with_it_would_be(kind: str) -> None:
    """UPSNet's head is given the semantic channels of another head: its maps are bad, but must be the same ones."""
    checkpoint = load_checkpoint("tiny-scenes")
    if kind == "panoptic_logits":
        recipe = derive(checkpoint.recipe, model__semantic__things="separate", model__fusion__kind=kind)
        num_things = checkpoint.labels.num_things
        weights = {
            name: tensor if "semantic.predictor" not in name else tensor[[*range(len(tensor) - 1), *[-1] * num_things]]
            for name, tensor in checkpoint.weights.items()
        }
        checkpoint = replace(checkpoint, recipe=recipe, weights=weights)
    fusion = checkpoint.recipe.model.fusion
    assert fusion is not None
    settings = [
        fusion,
        fusion.model_copy(update={"score_threshold": 0.2, "overlap_threshold": 0.3}),
        fusion.model_copy(update={"score_threshold": 0.7, "stuff_area": 600}),
    ]
    rated = rate(checkpoint, SCENES, settings)
    assert [one.fusion for one in rated] == settings
    assert len({one.score.pq for one in rated}) == 3
    for setting, score in rated:
        model = Model(replace(checkpoint, recipe=derive(checkpoint.recipe, model__fusion=setting)))
        assert score == evaluate_pictures(model, SCENES, range(len(SCENES)), with_ap=False).evaluation().panoptic


def test_a_bad_setting_is_left_for_a_better_one() -> None:
    checkpoint = load_checkpoint("tiny-scenes")
    fusion = checkpoint.recipe.model.fusion
    assert fusion is not None
    bad = fusion.model_copy(update={"score_threshold": 0.99, "stuff_area": 4000})
    rated = rate(checkpoint, SCENES, candidates(bad, {"overlap_threshold"}))
    chosen = best_of(rated)
    assert chosen.fusion.score_threshold < 0.99
    assert chosen.fusion.stuff_area == 0
    assert chosen.score.pq is not None
    assert rated[0].score.pq is not None
    assert chosen.score.pq > rated[0].score.pq + 0.1


def test_of_equal_settings_the_first_stays() -> None:
    nothing = Score(pq=0.0, sq=0.0, rq=0.0, n=1, things=None, stuff=None, per_class={})
    rated = [Rated(FusionConfig(stuff_area=area), nothing) for area in (5, 0)]
    assert best_of(rated).fusion.stuff_area == 5
