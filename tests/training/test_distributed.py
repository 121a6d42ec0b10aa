import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed
from safetensors.torch import load_file

from thingstuff.recipe import Recipe, derive
from thingstuff.training.logs import read_rows
from thingstuff.training.loop import train
from thingstuff.training.run import Run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not torch.distributed.is_available() or not torch.distributed.is_gloo_available(), reason="torch without gloo"
    ),
]

SCRIPT = """
import sys
from pathlib import Path
from thingstuff.recipe import read_recipe
from thingstuff.training.loop import train
from thingstuff.training.run import Run

recipe, out, resume, stop_after = sys.argv[1:]
train(
    read_recipe(Path(recipe).read_bytes(), recipe),
    Run(Path(out), resume=resume == "resume", stop_after=int(stop_after) or None),
)
"""


TWO_PROCESSES = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


def train_elsewhere(
    launcher: tuple[str, ...], recipe: Recipe, folder: Path, resume: bool = False, stop_after: int = 0
) -> None:
    """Train in processes of their own: one without a launcher."""
    script, text = folder.with_suffix(".py"), folder.with_suffix(".json")
    script.write_text(SCRIPT)
    text.write_text(recipe.model_dump_json())
    words = [str(script), str(text), str(folder), "resume" if resume else "anew", str(stop_after)]
    done = subprocess.run([sys.executable, *launcher, *words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def check_equal_runs(one: Path, other: Path) -> None:
    for name in ("steps", "evaluations"):
        rows, others = (read_rows(folder / f"{name}.csv") for folder in (one, other))
        assert [row["step"] for row in rows] == [row["step"] for row in others]
        for row, expected in zip(rows, others, strict=True):
            for column in row.keys() - {"images_per_second"}:
                # Losses; all else counts pixels, of which one or two may be undecided between two classes.
                counted = name == "evaluations" and not column.startswith("loss_")
                close = pytest.approx(float(expected[column]), rel=1e-5, abs=1e-3 if counted else 1e-8)
                assert float(row[column]) == close, (row, column)
    weights, others = (load_file(folder / "last.safetensors") for folder in (one, other))
    for key, tensor in weights.items():
        torch.testing.assert_close(tensor, others[key], rtol=0, atol=1e-4, msg=lambda text, key=key: f"{key}: {text}")


@pytest.fixture
def recipe(tiny_recipe: Recipe) -> Recipe:
    """With plain gradients: AdamW turns even the last digits of tiny ones into steps of full length."""
    return derive(
        tiny_recipe,
        optim__kind="sgd",
        optim__learning_rate=0.02,
        optim__batch_size=4,
        source__val_count=3,
        schedule__steps=4,
        schedule__evaluate_every=2,
    )


def test_two_processes_give_the_losses_of_one_with_the_whole_batch(recipe: Recipe, tmp_path: Path) -> None:
    """Three steps and an evaluation in two processes, the rest in one: who computes does not matter."""
    train(recipe, Run(tmp_path / "one"))
    train_elsewhere(TWO_PROCESSES, recipe, tmp_path / "two", stop_after=3)
    assert [row["step"] for row in read_rows(tmp_path / "two" / "steps.csv")] == ["1", "2", "3"]
    train_elsewhere((), recipe, tmp_path / "two", resume=True)
    check_equal_runs(tmp_path / "two", tmp_path / "one")


def test_two_processes_with_frozen_norms_to_the_end(recipe: Recipe, tmp_path: Path) -> None:
    frozen = derive(recipe, model__backbone__norm="frozen_batch")
    train(frozen, Run(tmp_path / "one"))
    train_elsewhere(TWO_PROCESSES, frozen, tmp_path / "two")
    check_equal_runs(tmp_path / "two", tmp_path / "one")


def test_two_processes_with_batch_norm_go_on_exactly(recipe: Recipe, tmp_path: Path) -> None:
    """Norms see other pictures in each process; what is judged, saved and gone on with is the first one's."""
    norms = {f"model__{part}__norm": "batch" for part in ("backbone", "neck", "semantic", "region__mask_head")}
    batch_norm = derive(recipe, **norms)
    train_elsewhere(TWO_PROCESSES, batch_norm, tmp_path / "whole")
    train_elsewhere(TWO_PROCESSES, batch_norm, tmp_path / "parts", stop_after=1)
    train_elsewhere(TWO_PROCESSES, batch_norm, tmp_path / "parts", resume=True)
    check_equal_runs(tmp_path / "parts", tmp_path / "whole")
