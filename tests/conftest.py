"""A network small enough to be trained for a few steps within seconds, which several test files share."""

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

from shell import Shell, make_shell
from thingstuff.checkpoint import Checkpoint
from thingstuff.data.scenes import SCENES
from thingstuff.model.build import build_network
from thingstuff.recipe import Recipe, ScenesConfig, derive
from thingstuff.recipes import tiny_scenes


@pytest.fixture(scope="session")
def tiny_recipe() -> Recipe:
    """Scenes of 64x96, two pictures in a step, group norm, float32; six steps with an evaluation after every third."""
    return derive(
        tiny_scenes(),
        name="tiny",
        model__backbone__name="test_resnet",
        model__backbone__norm="group",
        model__neck__channels=16,
        model__neck__norm="group",
        model__region__rpn__candidates_per_level=(40, 30),
        model__region__rpn__num_proposals=(30, 20),
        model__region__rpn__samples=32,
        model__region__samples=16,
        model__region__num_detections=10,
        model__region__box_head__width=16,
        model__region__mask_head__channels=8,
        model__region__mask_head__num_convs=1,
        model__region__mask_head__norm="group",
        model__semantic__channels=8,
        model__semantic__norm="group",
        source=ScenesConfig(train_count=7, val_count=2, size=(64, 96)),
        optim__batch_size=2,
        optim__precision="float32",
        optim__ema_decay=0.9,
        schedule__steps=6,
        schedule__warmup_steps=2,
        schedule__evaluate_every=3,
    )


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_recipe: Recipe) -> Checkpoint:
    """That network with random weights, on the classes of the scenes."""
    torch.manual_seed(0)
    network = build_network(tiny_recipe, SCENES)
    return Checkpoint(network.state_dict(), tiny_recipe, SCENES, {"pq": 0.5}, "nobody's")


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """Runs a command line in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return make_shell(capsys)
