import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from thingstuff.checkpoint import Checkpoint, save_checkpoint
from thingstuff.data.scenes import SCENES, SceneSource
from thingstuff.errors import InputError
from thingstuff.labels import LabelSet
from thingstuff.model.build import build_network
from thingstuff.recipe import OptimizerConfig, Recipe, derive
from thingstuff.training.optim import make_average, make_optimizer
from thingstuff.training.state import (
    STATE_FILE,
    Progress,
    Trainee,
    check_folder,
    initialize,
    load_state,
    run_settings,
    save_state,
)

SETTINGS: dict[str, Any] = {"seed": 0, "optim.momentum": 0.9, "classes": ["sky", "car"]}


def make_trainee(seed: int = 0, steps: int = 0) -> Trainee:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    optimizer = make_optimizer(network, OptimizerConfig(kind="adamw"), 0.1)
    trainee = Trainee(network, optimizer, make_average(network, 0.9), Progress())
    for step in range(steps):
        take_step(trainee, step)
    return trainee


def take_step(trainee: Trainee, step: int) -> None:
    inputs = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
    trainee.network(inputs).square().sum().backward()
    trainee.optimizer.step()
    trainee.optimizer.zero_grad()
    assert trainee.average is not None
    trainee.average.update_parameters(trainee.network)
    trainee.progress.step += 1


def test_a_trainee_goes_on_from_its_state_as_if_nothing_had_happened(tmp_path: Path) -> None:
    first = make_trainee(steps=3)
    first.progress.note(0.5)
    save_state(tmp_path, first, SETTINGS)
    second = make_trainee(seed=1)
    load_state(tmp_path, second, SETTINGS)
    assert second.progress == first.progress
    for step in range(3, 6):
        take_step(first, step)
        take_step(second, step)
    assert first.average is not None
    assert second.average is not None
    for one, other in ((first.network, second.network), (first.average, second.average)):
        theirs = other.state_dict()
        for name, tensor in one.state_dict().items():
            assert torch.equal(tensor, theirs[name]), name


def test_progress_knows_the_best_evaluation() -> None:
    progress = Progress()
    seen = []
    for step, headline in enumerate((0.0, 0.5, 0.5, 0.4, 0.6), start=1):
        progress.step = step
        seen.append((progress.note(headline), progress.evaluations_since_best, progress.evaluated))
    assert seen == [(True, 0, 1), (True, 0, 2), (True, 1, 3), (False, 2, 4), (True, 0, 5)]


def test_without_a_state_a_run_begins_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainee = make_trainee()
    load_state(tmp_path, trainee, SETTINGS)
    assert trainee.progress == Progress()
    assert "no saved state yet" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("now", "message"),
    [
        (SETTINGS | {"seed": 1}, "the run was started with seed 0, not 1"),
        (SETTINGS | {"optim.momentum": 0.8}, r"the run was started with optim\.momentum 0\.9, not 0\.8"),
        (SETTINGS | {"classes": ["sky"]}, r"classes \['sky', 'car'\], not \['sky'\]"),
        (SETTINGS | {"new": 3}, "new None, not 3"),
    ],
)
def test_another_setting_is_refused_by_its_name(tmp_path: Path, now: dict[str, Any], message: str) -> None:
    save_state(tmp_path, make_trainee(), SETTINGS)
    with pytest.raises(InputError, match=message) as caught:
        load_state(tmp_path, make_trainee(), now)
    assert "resume with the same settings, or begin another run with another --out" in str(caught.value)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_a_state_cut_short_is_refused_with_a_remedy(tmp_path: Path, share: float) -> None:
    save_state(tmp_path, make_trainee(steps=1), SETTINGS)
    path = tmp_path / STATE_FILE
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError) as caught:
        load_state(tmp_path, make_trainee(), SETTINGS)
    text = str(caught.value)
    assert text.startswith(f"{path}: damaged (")
    assert text.endswith(f"); delete the folder {path.parent} to begin anew")
    assert "\n" not in text


@pytest.mark.parametrize("content", [{"something": 1}, [1, 2], torch.zeros(3)])
def test_a_file_that_is_no_state_is_refused(tmp_path: Path, content: object) -> None:
    path = tmp_path / STATE_FILE
    path.parent.mkdir()
    torch.save(content, path)
    with pytest.raises(InputError, match="damaged"):
        load_state(tmp_path, make_trainee(), SETTINGS)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch executed",)


def test_a_state_cannot_execute_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / STATE_FILE
    path.parent.mkdir()
    torch.save({"settings": Evil()}, path)
    with pytest.raises(InputError, match="damaged"):
        load_state(tmp_path, make_trainee(), SETTINGS)
    assert not (tmp_path / "executed").exists()


def test_a_state_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    with pytest.raises(InputError, match=r"state/training\.pt: cannot be written .*; choose another folder"):
        save_state(tmp_path, make_trainee(), SETTINGS)


def test_settings_name_every_field_and_the_data(tiny_recipe: Recipe) -> None:
    source = SceneSource(1, 7)
    settings = run_settings(tiny_recipe, source, 4, 2, 5)
    assert settings["optim.learning_rate"] == tiny_recipe.optim.learning_rate
    assert settings["model.backbone.name"] == "test_resnet"
    assert (settings["batch_size"], settings["accumulate"], settings["seed"], settings["pictures"]) == (4, 2, 5, 7)
    assert settings["classes"] == [category.name for category in SCENES.categories]
    # They come back from the state's JSON text as they went in.
    assert json.loads(json.dumps(settings)) == settings
    other = run_settings(derive(tiny_recipe, model__region__rpn__samples=16), replace(source, count=8), 4, 2, 5)
    assert {name for name in settings if settings[name] != other[name]} == {"model.region.rpn.samples", "pictures"}


# --- folders ---


def test_a_folder_with_a_run_is_not_overwritten(tmp_path: Path) -> None:
    check_folder(tmp_path / "new", resume=False)
    check_folder(tmp_path, resume=False)
    (tmp_path / "recipe.json").write_text("{}")
    check_folder(tmp_path, resume=False)  # a run that failed before its first step left nothing to keep
    (tmp_path / "last.safetensors").write_bytes(b"")
    check_folder(tmp_path, resume=True)
    with pytest.raises(
        InputError, match=r"holds a run already; go on with --resume, or name another folder with --out"
    ):
        check_folder(tmp_path, resume=False)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file: this is a file; name a folder with --out"):
        check_folder(tmp_path / "file", resume=True)


# --- weights of another run ---


def test_weights_are_taken_where_names_and_shapes_agree(
    tmp_path: Path, tiny_checkpoint: Checkpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "other.safetensors"
    save_checkpoint(path, tiny_checkpoint)
    wider = derive(tiny_checkpoint.recipe, model__region__box_head__width=24)
    torch.manual_seed(5)
    network = build_network(wider, SCENES)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    initialize(network, path, wider, SCENES)
    own = {name for name, tensor in before.items() if tensor.shape != tiny_checkpoint.weights[name].shape}
    assert 0 < len(own) < len(before) / 2
    for name, tensor in network.state_dict().items():
        expected = before[name] if name in own else tiny_checkpoint.weights[name]
        assert torch.equal(tensor, expected), name
    said = capsys.readouterr().err
    assert f"{len(before) - len(own)} of {len(before)} tensors taken" in said
    assert "learned from nothing: region.box_head.hidden.0" in said
    assert "new classes" not in said


def test_outputs_are_taken_class_by_class(
    tmp_path: Path, tiny_checkpoint: Checkpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "other.safetensors"
    save_checkpoint(path, tiny_checkpoint)
    fewer = LabelSet(SCENES.categories[2:-1])
    network = build_network(tiny_checkpoint.recipe, fewer)
    initialize(network, path, tiny_checkpoint.recipe, fewer)
    state = network.state_dict()
    for name, rows in (("semantic.predictor.bias", [2, 3, 4, 5, 6]), ("region.mask_head.predictor.bias", range(5))):
        assert torch.equal(state[name], tiny_checkpoint.weights[name][list(rows)]), name
    said = capsys.readouterr().err
    assert f"{len(state)} of {len(state)} tensors taken" in said
    assert "classes taken by name (9): water, road, building, foliage, car, person, ball, box, bird\n" in said
    assert "learned from nothing" not in said


def test_weights_of_something_else_are_refused(tmp_path: Path, tiny_checkpoint: Checkpoint) -> None:
    path = tmp_path / "other.safetensors"
    save_checkpoint(path, replace(tiny_checkpoint, weights={"something": torch.zeros(3)}))
    with pytest.raises(InputError, match=r"other\.safetensors: no tensor has a name and shape of this network"):
        initialize(build_network(tiny_checkpoint.recipe, SCENES), path, tiny_checkpoint.recipe, SCENES)
