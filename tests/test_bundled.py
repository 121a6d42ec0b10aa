"""The networks that come with the package."""

import numpy as np
import pytest
import torch

from thingstuff import arithmetic
from thingstuff.checkpoint import BUNDLED, find_checkpoint, load_checkpoint
from thingstuff.data.scenes import draw_scene
from thingstuff.predict import load
from thingstuff.recipes import RECIPES
from thingstuff.result import Result


@pytest.mark.parametrize("name", BUNDLED)
def test_a_bundled_network_is_small_credited_and_measured(name: str) -> None:
    assert find_checkpoint(name).stat().st_size <= 8_000_000
    checkpoint = load_checkpoint(name)
    assert checkpoint.recipe.name in RECIPES
    assert "licence" in checkpoint.credit.lower() or "Apache-2.0" in checkpoint.credit
    assert 0.2 < checkpoint.metrics["pq"] < 1
    assert all(tensor.isfinite().all() for tensor in checkpoint.weights.values() if tensor.is_floating_point())


@pytest.mark.parametrize("name", BUNDLED)
def test_a_bundled_network_works_offline(name: str) -> None:
    """Also on a picture with nothing of what it knows."""
    torch.manual_seed(0)
    noise = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    model = load(name)
    result = model(noise)
    assert result.ids is not None
    assert result.ids.shape == (70, 90)
    assert result.segments is not None
    assert {segment.name for segment in result.segments} <= {
        one.name for one in load_checkpoint(name).labels.categories
    }


def see_in_both(monkeypatch: pytest.MonkeyPatch, *, there: bool) -> tuple[Result, Result]:
    """A scene in float32 and in bfloat16, on a machine that has it or not."""
    monkeypatch.setattr(arithmetic, "_has_bfloat16", lambda _: there)
    scene = draw_scene(5, 0, (128, 192)).image
    exact, other = load("tiny-scenes")(scene), load("tiny-scenes", precision="bfloat16")(scene)
    assert exact.instances is not None
    assert other.instances is not None
    return exact, other


def test_bfloat16_sees_nearly_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    exact, rounded = see_in_both(monkeypatch, there=True)
    assert exact.ids is not None
    assert rounded.ids is not None
    assert exact.semantic is not None
    assert (exact.semantic == rounded.semantic).mean() > 0.97
    assert not np.array_equal(exact.instances.scores, rounded.instances.scores)  # pyright: ignore
    assert abs(len(exact.segments or ()) - len(rounded.segments or ())) <= 2


def test_bfloat16_means_float32_where_the_machine_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    exact, same = see_in_both(monkeypatch, there=False)
    assert np.array_equal(exact.instances.scores, same.instances.scores)  # pyright: ignore
