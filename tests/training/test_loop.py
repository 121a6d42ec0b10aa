import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import replace
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from thingstuff import arithmetic
from thingstuff.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from thingstuff.data.scenes import SceneSource
from thingstuff.errors import InputError, InterruptedWork
from thingstuff.evaluate import Evaluation
from thingstuff.predict import load
from thingstuff.recipe import Recipe, derive
from thingstuff.structures import Batch, Sample
from thingstuff.training import diary, loop
from thingstuff.training.logs import read_rows
from thingstuff.training.loop import train
from thingstuff.training.objective import Losses, Objective
from thingstuff.training.optim import learning_rate_factor
from thingstuff.training.run import Run
from thingstuff.training.state import STATE_FILE

# --- what a run leaves behind ---


def check_equal_runs(one: Path, other: Path) -> None:
    """Two runs wrote the same numbers, each step once, and ended with the same weights."""
    for name in ("steps", "evaluations"):
        rows, others = (read_rows(folder / f"{name}.csv") for folder in (one, other))
        assert [row["step"] for row in rows] == [row["step"] for row in others]
        assert len({row["step"] for row in rows}) == len(rows)
        for row, expected in zip(rows, others, strict=True):
            assert row.keys() == expected.keys()
            for column in row.keys() - {"images_per_second"}:
                assert float(row[column]) == pytest.approx(float(expected[column]), rel=1e-6, abs=1e-12), (row, column)
        assert logged_steps(one, name) == [int(row["step"]) for row in rows]
    for name in ("best", "last"):
        weights, others = (load_file(folder / f"{name}.safetensors") for folder in (one, other))
        for key, tensor in weights.items():
            torch.testing.assert_close(tensor, others[key], rtol=1e-6, atol=1e-7)


def logged_steps(folder: Path, name: str) -> list[int]:
    events = EventAccumulator(str(folder / "tensorboard" / name))
    events.Reload()
    return [event.step for event in events.Scalars(events.Tags()["scalars"][0])]


def go_on(recipe: Recipe, run: Run) -> None:
    """Resume a run that this process began, but not within the same second.

    TensorBoard reads its files in the order of their names: the second, the process, and a count without leading zeros.
    """
    time.sleep(1 - time.time() % 1)
    train(recipe, replace(run, resume=True))


def saved_step(folder: Path) -> int:
    return torch.load(folder / STATE_FILE, weights_only=True)["progress"]["step"]


@pytest.fixture(scope="module")
def whole(tiny_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    train(tiny_recipe, Run(folder, save_minutes=0.0))
    return folder


def test_a_run_leaves_logs_checkpoints_and_a_state(whole: Path, tiny_recipe: Recipe) -> None:
    steps, evaluations = (read_rows(whole / f"{name}.csv") for name in ("steps", "evaluations"))
    assert [row["step"] for row in steps] == ["1", "2", "3", "4", "5", "6"]
    assert [row["step"] for row in evaluations] == ["3", "6"]
    terms = ("semantic", "objectness", "proposal", "classification", "box", "mask")
    for step, row in enumerate(steps):
        assert float(row["total"]) == pytest.approx(sum(float(row[name]) for name in terms), rel=1e-6)
        rate = tiny_recipe.optim.learning_rate * learning_rate_factor(step, tiny_recipe.schedule)
        assert float(row["learning_rate"]) == pytest.approx(rate, rel=1e-6)
        assert float(row["images_per_second"]) > 0
    for row in evaluations:
        assert 0 <= float(row["pq"]) <= 1
        assert float(row["loss_total"]) == pytest.approx(sum(float(row[f"loss_{name}"]) for name in terms), rel=1e-5)
    assert logged_steps(whole, "steps") == [1, 2, 3, 4, 5, 6]
    assert saved_step(whole) == 6
    assert Recipe.model_validate_json((whole / "recipe.json").read_text()) == tiny_recipe


def test_its_checkpoint_predicts(whole: Path, tiny_recipe: Recipe) -> None:
    last = load_checkpoint(whole / "last.safetensors")
    assert last.recipe == tiny_recipe
    assert last.metrics["step"] == 6
    assert last.metrics["pq"] == pytest.approx(float(read_rows(whole / "evaluations.csv")[-1]["pq"]))
    picture = SceneSource(5, 1, (64, 96)).read(0).image
    assert load(whole / "best.safetensors")(picture).ids is not None


def test_it_says_how_far_it_is_where_nobody_watches_a_bar(
    tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(diary, "_SAY_EVERY", 0)
    train(tiny_recipe, Run(tmp_path / "run", stop_after=2))
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("step ")]
    assert [line.partition(":")[0] for line in lines] == ["step 1 of 6", "step 2 of 6"]
    assert all("images/s, about 0 minutes left" in line for line in lines)


def test_it_learns(whole: Path) -> None:
    losses = [float(row["loss_total"]) for row in read_rows(whole / "evaluations.csv")]
    assert losses[1] < losses[0]


def test_a_finished_run_can_be_resumed_without_effect(whole: Path, tiny_recipe: Recipe) -> None:
    before = {path: path.read_bytes() for path in whole.glob("*.*")}
    assert train(tiny_recipe, Run(whole, resume=True)) == whole / "best.safetensors"
    assert {path: path.read_bytes() for path in whole.glob("*.*")} == before


@pytest.mark.parametrize(("crop", "grouped"), [(None, True), ((64, 64), False)])
def test_windows_are_not_grouped_by_the_shape_of_their_pictures(
    tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crop: tuple[int, int] | None, grouped: bool
) -> None:
    def asked(*_: object, aspect_grouping: bool, **__: object) -> None:
        raise InputError(f"grouped: {aspect_grouping}")

    monkeypatch.setattr(loop, "training_loader", asked)
    with pytest.raises(InputError, match=f"^grouped: {grouped}$"):
        train(derive(tiny_recipe, augmentation__crop=crop), Run(tmp_path / "run"))


@pytest.mark.parametrize(("there", "used"), [(True, "bfloat16"), (False, "float32")])
def test_bfloat16_is_used_where_the_machine_has_it(
    tiny_recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    there: bool,
    used: str,
) -> None:
    seen, forward = [], Objective.forward

    def watched(objective: Objective, batch: Batch) -> Losses:
        seen.append(torch.is_autocast_enabled("cpu"))
        return forward(objective, batch)

    monkeypatch.setattr(arithmetic, "_has_bfloat16", lambda _: there)
    monkeypatch.setattr(Objective, "forward", watched)
    train(derive(tiny_recipe, optim__precision="bfloat16"), Run(tmp_path / "run", stop_after=1))
    assert seen == [there]
    assert f"on cpu in {used}, learning rate" in " ".join(capsys.readouterr().err.split())


# --- killed and resumed ---


@pytest.fixture(scope="module")
def start() -> Callable[[Recipe, Run], ForkServerProcess]:
    """Starts runs in processes of their own; what they import is imported once."""
    context: ForkServerContext = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["thingstuff.training.loop", "accelerate", "torch.utils.tensorboard"])

    def begin(recipe: Recipe, run: Run) -> ForkServerProcess:
        # As a daemon, so that one that hangs does not outlive the tests.
        process = context.Process(target=train, args=(recipe, run), daemon=True)
        process.start()
        return process

    return begin


Start = Callable[[Recipe, Run], ForkServerProcess]


@pytest.fixture(scope="module")
def whole_elsewhere(start: Start, tiny_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted, in a process like those that are killed."""
    folder = tmp_path_factory.mktemp("elsewhere")
    finish(start(tiny_recipe, Run(folder)))
    return folder


def finish(process: ForkServerProcess) -> None:
    process.join(120)
    assert process.exitcode == 0


def end_at_random(process: ForkServerProcess, folder: Path, generator: random.Random, number: signal.Signals) -> bool:
    """Send a signal a random while after a random number of further steps; False if the run was done before."""
    wanted = len(read_rows(folder / "steps.csv")) + generator.randint(0, 2)
    deadline = time.monotonic() + 120
    while process.is_alive() and time.monotonic() < deadline and len(read_rows(folder / "steps.csv")) < wanted:
        time.sleep(0.005)
    time.sleep(generator.uniform(0, 0.3))
    if not process.is_alive():
        return False
    assert process.pid is not None
    os.kill(process.pid, number)
    process.join(120)
    assert process.exitcode is not None
    return process.exitcode != 0


def kill_again_and_again(start: Start, recipe: Recipe, folder: Path, times: int, seed: int) -> int:
    generator, killed = random.Random(seed), 0
    for number in range(times):
        process = start(recipe, Run(folder, resume=number > 0, save_minutes=0.0))
        killed += end_at_random(process, folder, generator, signal.SIGKILL)
    finish(start(recipe, Run(folder, resume=True, save_minutes=0.0)))
    return killed


def test_a_run_killed_at_random_goes_on_exactly(
    start: Start, whole_elsewhere: Path, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    assert kill_again_and_again(start, tiny_recipe, tmp_path / "run", 2, seed=int(time.time())) > 0
    check_equal_runs(tmp_path / "run", whole_elsewhere)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_runs_killed_often_go_on_exactly(
    start: Start, whole_elsewhere: Path, tiny_recipe: Recipe, tmp_path: Path, seed: int
) -> None:
    assert kill_again_and_again(start, tiny_recipe, tmp_path / "run", 8, seed) > 0
    check_equal_runs(tmp_path / "run", whole_elsewhere)


def test_ctrl_c_leaves_a_state_of_the_step_it_came_in(
    start: Start, whole_elsewhere: Path, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    folder, process = tmp_path, None
    for attempt, delay in enumerate((0.3, 0.1, 0.0, 0.0)):
        folder = tmp_path / f"run{attempt}"
        process = start(tiny_recipe, Run(folder, save_minutes=1000.0))
        while process.is_alive() and not (folder / STATE_FILE).exists():
            time.sleep(0.005)
        time.sleep(delay)
        assert process.pid is not None
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGINT)
        process.join(120)
        if process.exitcode != 0:  # on a busy machine the run may be over before the signal comes
            break
    assert process is not None
    assert process.exitcode == 1
    assert saved_step(folder) == len(read_rows(folder / "steps.csv"))
    finish(start(tiny_recipe, Run(folder, resume=True)))
    check_equal_runs(folder, whole_elsewhere)


@pytest.mark.parametrize(("times", "done"), [(0, ["all"]), (1, ["all"]), (2, [])])
def test_ctrl_c_waits_for_what_belongs_together_but_not_the_second(times: int, done: list[str]) -> None:
    usual, found = signal.getsignal(signal.SIGINT), []

    def interrupted() -> None:
        with diary.hold_interrupt():
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
            found.append("all")

    with pytest.raises(KeyboardInterrupt) if times else nullcontext():
        interrupted()
    assert found == done
    assert signal.getsignal(signal.SIGINT) is usual


def test_signals_are_left_alone_outside_the_main_thread() -> None:
    def enter() -> bool:
        with diary.hold_interrupt():
            return True

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(enter).result()


class Failure(Exception):
    pass


def fail_at(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, call: int, error: BaseException) -> None:
    """Let a function fail once, at the given call."""
    original, calls = getattr(owner, name), iter(range(1, 1_000_000))

    def failing(*args: Any, **options: Any) -> Any:
        if next(calls) == call:
            raise error
        return original(*args, **options)

    monkeypatch.setattr(owner, name, failing)


@pytest.mark.parametrize(
    ("owner", "name", "call", "error", "step"),
    [
        (loop, "_judge", 1, KeyboardInterrupt(), 3),  # the evaluation is made up for
        (diary.Diary, "_write_evaluation", 1, Failure(), 2),  # half noted: from the state before
        (torch.optim.AdamW, "step", 5, Failure(), 4),  # half a step: from the state before
        (SceneSource, "read", 12, InputError("picture.png: damaged"), 3),  # two for each step, four for the evaluation
    ],
)
def test_a_run_that_failed_goes_on_exactly(
    whole: Path,
    tiny_recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    call: int,
    error: BaseException,
    step: int,
) -> None:
    with monkeypatch.context() as patch:
        fail_at(patch, owner, name, call, error)
        with pytest.raises(InterruptedWork if isinstance(error, InputError) else type(error)):
            train(tiny_recipe, Run(tmp_path, save_minutes=0.0))
    assert saved_step(tmp_path) == step
    go_on(tiny_recipe, Run(tmp_path))
    check_equal_runs(tmp_path, whole)


def test_parts_batch_norm_and_bfloat16_go_on_exactly(tiny_recipe: Recipe, tmp_path: Path) -> None:
    norms = {f"model__{part}__norm": "batch" for part in ("backbone", "neck", "semantic", "region__mask_head")}
    recipe = derive(tiny_recipe, **norms, optim__precision="bfloat16", optim__kind="sgd", optim__batch_size=4)
    settings: dict[str, Any] = {"batch_size": 4, "accumulate": 2, "seed": 2**40}
    train(recipe, Run(tmp_path / "whole", **settings))
    train(recipe, Run(tmp_path / "parts", **settings, stop_after=2))
    assert [row["step"] for row in read_rows(tmp_path / "parts" / "steps.csv")] == ["1", "2"]
    go_on(recipe, Run(tmp_path / "parts", **settings))
    check_equal_runs(tmp_path / "parts", tmp_path / "whole")


# --- schedule ---


def test_parts_of_a_step_are_averaged(tiny_recipe: Recipe, tmp_path: Path) -> None:
    """With plain sums of gradients and group norm, parts give nearly what the whole batch gives."""
    recipe = derive(tiny_recipe, optim__kind="sgd", optim__batch_size=4, optim__learning_rate=0.01)
    for parts in (1, 2):
        train(recipe, Run(tmp_path / str(parts), accumulate=parts, stop_after=1))
    rows = [read_rows(tmp_path / str(parts) / "steps.csv")[0] for parts in (1, 2)]
    # These have the same normaliser in every part.
    for name in ("objectness", "proposal", "semantic"):
        assert float(rows[0][name]) == pytest.approx(float(rows[1][name]), rel=1e-2 if name == "semantic" else 1e-5)


def test_learning_rate_and_steps_follow_the_batch(tiny_recipe: Recipe, tmp_path: Path) -> None:
    train(tiny_recipe, Run(tmp_path, batch_size=4))
    rows = read_rows(tmp_path / "steps.csv")
    assert len(rows) == 3
    for step, row in enumerate(rows):
        rate = 2 * tiny_recipe.optim.learning_rate * learning_rate_factor(2 * step, tiny_recipe.schedule)
        assert float(row["learning_rate"]) == pytest.approx(rate, rel=1e-6)
    assert [row["step"] for row in read_rows(tmp_path / "evaluations.csv")] == ["2", "3"]


@pytest.fixture
def headlines(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What evaluations say one after the other."""
    values = [0.5, 0.6, 0.6, 0.4, 0.9, 0.9]
    said = iter(values)
    monkeypatch.setattr(Evaluation, "headline", lambda _self: next(said))
    return values


def test_training_stops_early_and_keeps_the_last_of_the_best(
    tiny_recipe: Recipe, tmp_path: Path, headlines: list[float]
) -> None:
    recipe = derive(tiny_recipe, schedule__early_stopping=2, schedule__evaluate_every=1)
    best = train(recipe, Run(tmp_path))
    assert [row["step"] for row in read_rows(tmp_path / "evaluations.csv")] == ["1", "2", "3", "4"]
    assert len(read_rows(tmp_path / "steps.csv")) == 4 < len(headlines)
    assert best == tmp_path / "best.safetensors"
    assert load_checkpoint(best).metrics["step"] == 3
    assert load_checkpoint(tmp_path / "last.safetensors").metrics["step"] == 4
    train(recipe, Run(tmp_path, resume=True))
    assert len(read_rows(tmp_path / "steps.csv")) == 4


def test_a_diverging_run_stops_and_keeps_its_last_good_state(tiny_recipe: Recipe, tmp_path: Path) -> None:
    recipe = derive(tiny_recipe, optim__kind="sgd", optim__learning_rate=1e30, optim__gradient_clip=None)
    with pytest.raises(
        InterruptedWork, match=r"the loss is (nan|inf) at step \d: it has diverged; .* lower --optim\.learn"
    ):
        train(recipe, Run(tmp_path, save_minutes=0.0))
    rows = read_rows(tmp_path / "steps.csv")
    assert not np.isfinite(float(rows[-1]["total"]))
    assert all(np.isfinite(float(row["total"])) for row in rows[:-1])
    assert saved_step(tmp_path) == len(rows) - 1


def test_a_run_can_begin_with_weights_of_another(
    tiny_recipe: Recipe, tiny_checkpoint: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_checkpoint(tmp_path / "other.safetensors", tiny_checkpoint)
    recipe = derive(tiny_recipe, optim__learning_rate=1e-12, model__neck__channels=24)
    train(recipe, Run(tmp_path / "run", init=tmp_path / "other.safetensors", stop_after=1))
    said = capsys.readouterr().err
    assert "tensors taken" in said
    assert "learned from nothing: neck" in said
    weights = torch.load(tmp_path / "run" / STATE_FILE, weights_only=True)["network"]
    name = next(name for name in weights if name.startswith("backbone") and weights[name].ndim == 4)
    torch.testing.assert_close(weights[name], tiny_checkpoint.weights[name], rtol=0, atol=1e-6)


# --- wrong input ---


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "--batch-size is 0; give a whole number from 1"),
        ({"accumulate": 0}, "--accumulate is 0; give a whole number from 1"),
        ({"seed": -1}, "--seed is -1; give a whole number from 0"),
        ({"workers": -1}, "--workers is -1; give a whole number from 0"),
        ({"accumulate": 4}, r"a batch of 2 pictures cannot be shared .* take a multiple of 4 as --batch-size"),
        ({"init": Path("nothing.safetensors")}, r"nothing\.safetensors: there is no such checkpoint"),
    ],
)
def test_wrong_options(tiny_recipe: Recipe, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        train(tiny_recipe, Run(tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_written_over(whole: Path, tiny_recipe: Recipe) -> None:
    before = (whole / "steps.csv").read_bytes()
    with pytest.raises(InputError, match="holds a run already; go on with --resume"):
        train(tiny_recipe, Run(whole))
    assert (whole / "steps.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("recipe_changes", "run_changes", "message"),
    [
        ({"optim__learning_rate": 0.5}, {}, r"the run was started with optim\.learning_rate 0\.002, not 0\.5"),
        ({"model__backbone__name": "resnet18"}, {}, r"model\.backbone\.name test_resnet, not resnet18"),
        ({"source__train_count": 8}, {}, r"not 8"),
        ({}, {"seed": 3}, "the run was started with seed 0, not 3"),
        ({}, {"batch_size": 4}, "the run was started with batch_size 2, not 4"),
        ({}, {"accumulate": 2}, "the run was started with accumulate 1, not 2"),
    ],
)
def test_a_run_goes_on_with_the_same_settings_only(
    whole: Path, tiny_recipe: Recipe, recipe_changes: dict[str, Any], run_changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        train(derive(tiny_recipe, **recipe_changes), Run(whole, resume=True, **run_changes))


def test_a_damaged_state(whole: Path, tiny_recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / STATE_FILE).parent.mkdir()
    (tmp_path / STATE_FILE).write_bytes((whole / STATE_FILE).read_bytes()[:5000])
    with pytest.raises(InputError, match=r"training\.pt: damaged \(.*\); delete the folder .*state to begin anew"):
        train(tiny_recipe, Run(tmp_path, resume=True))


@pytest.mark.parametrize("place", ["", "below", "state", "steps.csv", "tensorboard"])
def test_what_cannot_be_written_is_named(tiny_recipe: Recipe, tmp_path: Path, place: str) -> None:
    """A file stands where a folder is needed, or the other way round."""
    folder = tmp_path / "run"
    obstacle = {"": folder, "below": folder}.get(place, folder / place)
    if "." in place:
        obstacle.mkdir(parents=True)
    else:
        obstacle.parent.mkdir(exist_ok=True)
        obstacle.write_text("")
    out = folder / "below" if place == "below" else folder
    with pytest.raises(InputError, match=str(obstacle)):
        train(derive(tiny_recipe, schedule__evaluate_every=1), Run(out, stop_after=1))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tiny_recipe: Recipe, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="cannot be written"):
        train(tiny_recipe, Run(tmp_path / "run"))


def test_training_needs_its_packages(tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(InputError, match=r"pip install 'thingstuff\[train\]'"):
        train(tiny_recipe, Run(tmp_path))


def test_a_damaged_picture_ends_the_run_with_its_name(
    tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(_self: SceneSource, _index: int) -> Sample:
        raise InputError("picture.png: damaged")

    monkeypatch.setattr(SceneSource, "read", read)
    with pytest.raises(InterruptedWork, match=r"picture\.png: damaged"):
        train(tiny_recipe, Run(tmp_path))
