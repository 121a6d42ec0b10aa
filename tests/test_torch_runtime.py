"""What runs a network in torch: looks, and torch's compiler."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.exc import FailOnRecompileLimitHit
from torch._inductor.exc import InductorError

from thingstuff.checkpoint import Checkpoint
from thingstuff.data.scenes import draw_scene
from thingstuff.errors import InputError
from thingstuff.predict import Model
from thingstuff.recipe_model import TTAConfig
from thingstuff.torch_runtime import Looks, TorchRuntime

SCENE = draw_scene(3, 0, (64, 96)).image


def same(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    return one is not None and other is not None and np.array_equal(one, other)


def test_several_pictures_are_seen_one_after_the_other(tiny_checkpoint: Checkpoint) -> None:
    runtime = TorchRuntime(tiny_checkpoint.network())
    with torch.inference_mode():
        both = runtime.see([SCENE, SCENE[:, ::-1]], (64, 96), (32, 48))
        alone = runtime.see([SCENE[:, ::-1]], (64, 96), (32, 48))
    assert runtime.batch == 1
    assert [sight.frame for sight in both] == [(64, 96)] * 2  # instances are in the network's frame
    assert both[1].maps is not None
    assert alone[0].maps is not None
    assert both[1].maps.ids.shape == (32, 48)
    assert torch.equal(both[1].maps.ids, alone[0].maps.ids)
    assert both[1].semantic is not None
    assert both[1].semantic().shape == (32, 48)


@pytest.mark.parametrize(
    ("limits", "changes", "sizes"),
    [
        ((50, 1000), {}, [(25, 50), (50, 100), (100, 200)]),
        ((50, 80), {}, [(20, 40), (40, 80), (80, 160)]),
        ((50, 1000), {"max_side": 80}, [(25, 50), (40, 80)]),
        ((50, 1000), {"scales": (1.0, 1.0)}, [(50, 100)]),
        ((0, 10), {}, [(50, 100), (100, 200), (200, 400)]),
        ((0, 10), {"max_side": 150}, [(50, 100), (75, 150)]),
        ((0, 10), {"scales": (0.001,)}, [(1, 1)]),
    ],
)
def test_sizes_of_the_looks(limits: tuple[int, int], changes: dict[str, Any], sizes: list[tuple[int, int]]) -> None:
    tta = TTAConfig.model_validate({"scales": (0.5, 1.0, 2.0)} | changes)
    assert Looks(tta, *limits).sizes((100, 200)) == sizes


# --- torch's compiler ---


def test_compiled_networks_are_asked_for_outputs(tiny_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def compile_nothing(network: torch.nn.Module, *, fullgraph: bool) -> torch.nn.Module:
        asked.append(fullgraph)
        return network

    monkeypatch.setattr(torch, "compile", compile_nothing)
    found = Model(tiny_checkpoint, runtime="compile")(SCENE)
    assert asked == [True]
    assert same(found.ids, Model(tiny_checkpoint)(SCENE).ids)


@pytest.mark.parametrize("fails", ["limit", "compiler"])
def test_what_the_compiler_cannot_do(tiny_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    def compile_nothing(network: torch.nn.Module, *, fullgraph: bool) -> Callable[..., Any]:
        def run(*_: torch.Tensor) -> Any:
            if fails == "limit":
                raise FailOnRecompileLimitHit("eight were enough")
            raise InductorError(RuntimeError("no compiler"), None)  # pyright: ignore[reportArgumentType]

        return run

    monkeypatch.setattr(torch, "compile", compile_nothing)
    model = Model(tiny_checkpoint, runtime="compile")
    if fails == "limit":
        assert same(model(SCENE).ids, Model(tiny_checkpoint)(SCENE).ids)
    else:
        with pytest.raises(InputError, match=r"runtime 'compile' needs a C\+\+ compiler that works .*use 'torch'"):
            model(SCENE)
