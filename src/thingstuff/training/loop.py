"""The training loop, visible from end to end: what happens at a step stands in `train`.

It runs on one process as it is, and on several under `torchrun` or `accelerate launch`.
"""

import math
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

import torch
from rich.progress import TextColumn
from torch import nn

from thingstuff.checkpoint import Checkpoint, save_checkpoint, write_synced
from thingstuff.data.loader import PictureSource, training_loader
from thingstuff.data.transforms import augment, collate
from thingstuff.errors import InputError, InterruptedWork
from thingstuff.evaluate import Evaluation, Tally, evaluate_pictures
from thingstuff.model.build import build_network
from thingstuff.model.panoptic import SIZE_DIVISOR, PanopticSegmenter
from thingstuff.predict import Model
from thingstuff.progress import console, make_progress
from thingstuff.recipe import Recipe
from thingstuff.structures import Batch
from thingstuff.training import sources, state
from thingstuff.training.logs import RunLog
from thingstuff.training.objective import Losses, Objective
from thingstuff.training.optim import learning_rate_factor, make_average, make_optimizer, set_learning_rate

if TYPE_CHECKING:
    from accelerate import Accelerator

_FLUSH_EVERY = 20
"""Steps between reading losses from the device. Every step is logged, but waiting for each would cost time."""


@dataclass(frozen=True, slots=True)
class Run:
    """What depends on the machine and the occasion, not on the recipe.

    Attributes:
        out: Folder that gets `best.safetensors`, `last.safetensors`, `recipe.json`, CSV and TensorBoard files, and
            `state/` for resuming.
        data: Root of the data set; scenes need none.
        resume: Go on where the run in `out` stopped.
        init: Checkpoint to take weights from, where names and shapes agree.
        batch_size: Pictures in a step over all processes; None: the recipe's. Learning rate and steps follow.
        accumulate: Split every step into so many parts, one after the other, to save memory.
        seed: Of everything random.
        workers: Processes that read pictures, for each training process; None: by the number of cores.
        save_minutes: Time between saved states.
        stop_after: Stop after this step, as if interrupted; None: go to the end.
    """

    out: Path
    data: Path | None = None
    resume: bool = False
    init: Path | None = None
    batch_size: int | None = None
    accumulate: int = 1
    seed: int = 0
    workers: int | None = None
    save_minutes: float = 2.0
    stop_after: int | None = None


@dataclass(frozen=True, slots=True)
class _Plan:
    """The schedule in steps of the batch that is really used."""

    batch_size: int
    steps: int
    scale: float
    learning_rate: float
    evaluate_every: int

    def evaluates_at(self, step: int) -> bool:
        """Whether the network is judged after so many steps."""
        return step % self.evaluate_every == 0 or step == self.steps


def train(recipe: Recipe, run: Run) -> Path:
    """Train a recipe.

    Args:
        recipe: What to learn.
        run: Where and how.

    Returns:
        The best checkpoint.

    Raises:
        InputError: Something that was given is wrong.
    """
    _check_numbers(run)
    accelerator = _make_accelerator(run.accumulate)
    state.check_folder(run.out, run.resume)
    train_source, val_source = sources.open_sources(recipe, run.data)
    plan = _make_plan(recipe, run, accelerator.num_processes)
    settings = state.run_settings(recipe, train_source, plan.batch_size, run.accumulate, run.seed)
    trainee, objective = _make_trainee(recipe, run, plan, train_source, accelerator)
    if run.resume:
        state.load_state(run.out, trainee, settings)
    progress, average = trainee.progress, trainee.average
    wrapped, optimizer = accelerator.prepare(objective, trainee.optimizer)
    batches = _read_batches(recipe, run, plan, train_source, progress.step, accelerator)
    judged = trainee.network if average is None else average.module
    device, bfloat16 = accelerator.device, recipe.optim.precision == "bfloat16"
    last = plan.steps if run.stop_after is None else min(plan.steps, run.stop_after)
    patience = recipe.schedule.early_stopping or plan.steps
    with _Diary(recipe, run, plan, trainee, settings, accelerator) as diary:
        while True:
            if progress.evaluated < progress.step and plan.evaluates_at(progress.step):
                diary.note_judging()
                judgement = _judge(recipe, judged, val_source, accelerator)
                diary.note_evaluation(*judgement, val_source)
            diary.save_if_due()
            if progress.step >= last or progress.evaluations_since_best >= patience:
                break
            # Read before anything changes: a damaged picture must not leave half a step behind.
            pictures = [_next(batches, run.out) for _ in range(run.accumulate)]
            with diary.whole():
                set_learning_rate(trainee.optimizer, learning_rate_factor(progress.step, recipe.schedule, plan.scale))
                # Random numbers inside the network depend on the step alone, so that a resumed run draws the same.
                torch.manual_seed(((run.seed * 1_000_003 + progress.step) * 1009 + accelerator.process_index) % 2**63)
                wrapped.train()
                parts: list[Losses] = []
                for batch in pictures:
                    with accelerator.accumulate(wrapped):
                        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
                            losses = wrapped(batch.to(device))
                        accelerator.backward(losses.total())
                        if recipe.optim.gradient_clip and accelerator.sync_gradients:
                            accelerator.clip_grad_norm_(wrapped.parameters(), recipe.optim.gradient_clip)
                        optimizer.step()
                        optimizer.zero_grad()
                        parts.append(losses)
                if average is not None:
                    average.update_parameters(trainee.network)
                progress.step += 1
                diary.note_step(parts)
    accelerator.end_training()
    return run.out / "best.safetensors"


# --- what a run is made of ---


def _check_numbers(run: Run) -> None:
    for name, least in (("batch_size", 1), ("accumulate", 1), ("seed", 0), ("workers", 0)):
        value = getattr(run, name)
        if value is not None and value < least:
            raise InputError(f"--{name.replace('_', '-')} is {value}; give a whole number from {least}")


def _make_accelerator(accumulate: int) -> "Accelerator":
    try:
        from accelerate import Accelerator
    except ImportError as error:
        raise InputError("training needs more packages; install them with: pip install 'thingstuff[train]'") from error
    # The loop chooses the precision itself: Accelerate would hold on to the first one for as long as Python runs.
    return Accelerator(cpu=not torch.cuda.is_available(), mixed_precision="no", gradient_accumulation_steps=accumulate)


def _make_plan(recipe: Recipe, run: Run, num_processes: int) -> _Plan:
    batch_size = run.batch_size or recipe.optim.batch_size
    if batch_size % (num_processes * run.accumulate):
        raise InputError(
            f"a batch of {batch_size} pictures cannot be shared by {num_processes} processes with {run.accumulate} "
            f"parts each; take a multiple of {num_processes * run.accumulate} as --batch-size"
        )
    scale = recipe.optim.batch_size / batch_size
    return _Plan(
        batch_size=batch_size,
        steps=max(1, round(recipe.schedule.steps * scale)),
        scale=scale,
        learning_rate=recipe.optim.learning_rate / scale,
        evaluate_every=max(1, round(recipe.schedule.evaluate_every * scale)),
    )


def _make_trainee(
    recipe: Recipe, run: Run, plan: _Plan, source: PictureSource, accelerator: "Accelerator"
) -> tuple[state.Trainee, Objective]:
    torch.manual_seed(run.seed)
    network = build_network(recipe, source.labels)
    if run.init is not None:
        state.initialize(network, run.init)
    network.to(accelerator.device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimizer = make_optimizer(network, recipe.optim, plan.learning_rate)
    average = make_average(network, recipe.optim.ema_decay) if recipe.optim.ema_decay else None
    trainee = state.Trainee(network, optimizer, average, state.Progress())
    return trainee, Objective(network, recipe, source.labels.num_stuff)


def _read_batches(
    recipe: Recipe, run: Run, plan: _Plan, source: PictureSource, step: int, accelerator: "Accelerator"
) -> Iterator[Batch]:
    workers = run.workers
    if workers is None:
        # On the processor itself, readers would only take cores from the network.
        cores = (os.cpu_count() or 1) // accelerator.num_processes
        workers = min(8, cores - 1) if accelerator.device.type != "cpu" else 0
    return training_loader(
        sources.with_cache(source, workers * accelerator.num_processes),
        sources.training_augmentation(recipe.augmentation),
        source.labels,
        batch_size=plan.batch_size // run.accumulate,
        seed=run.seed,
        start_step=step * run.accumulate,
        num_steps=plan.steps * run.accumulate,
        size_divisor=SIZE_DIVISOR,
        num_workers=workers,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        aspect_grouping=True,
        repeats=sources.repeats(source, recipe.schedule.repeat_threshold),
    )


def _next(batches: Iterator[Batch], folder: Path) -> Batch:
    try:
        return next(batches)
    except InputError as error:
        raise InterruptedWork(f"{error}; mend it and go on with --resume --out {folder}") from error


# --- evaluation on the way ---


def _judge(
    recipe: Recipe, network: nn.Module, source: PictureSource, accelerator: "Accelerator"
) -> tuple[Evaluation, dict[str, float]]:
    """Numbers and losses on the validation pictures, shared among the processes; every process gets all of them."""
    from accelerate.utils import broadcast, gather_object

    assert isinstance(network, PanopticSegmenter)
    network.eval()
    # Norms have seen other pictures in every process; what is judged must be what the first process writes down.
    broadcast(list(network.buffers()))
    mine = range(accelerator.process_index, len(source), accelerator.num_processes)
    model = Model.of_network(network, Checkpoint({}, recipe, source.labels))
    tally = evaluate_pictures(model, source, mine, with_ap=network.fusion is None)
    losses = _validation_losses(recipe, network, source, mine, accelerator.device)
    tallies: list[Tally] = gather_object([tally])
    all_losses: list[dict[str, float]] = gather_object(losses)
    names = all_losses[0] if all_losses else {}
    means = {name: sum(row[name] for row in all_losses) / len(all_losses) for name in names}
    return tallies[0].merge(tallies[1:]).evaluation(), means


@torch.no_grad()
def _validation_losses(
    recipe: Recipe, network: PanopticSegmenter, source: PictureSource, indices: Sequence[int], device: torch.device
) -> list[dict[str, float]]:
    objective = Objective(network, recipe, source.labels.num_stuff).eval()
    sizing = sources.test_sizing(recipe.picture)
    losses = []
    for index in indices:
        sample = augment(source.read(index), sizing)
        terms = objective(collate([sample], source.labels, SIZE_DIVISOR).to(device))
        losses.append({name: float(value) for name, value in terms.terms().items()} | {"total": float(terms.total())})
    return losses


# --- what a run writes down ---


class _Diary:
    """Logs, progress bar, checkpoints and saved state; only the first process writes.

    Leaving it saves the state, also when the run is interrupted or fails, unless that happens half-way through a step:
    then the state saved before stays, from which the run can go on exactly.
    """

    def __init__(
        self,
        recipe: Recipe,
        run: Run,
        plan: _Plan,
        trainee: state.Trainee,
        settings: dict[str, Any],
        accelerator: "Accelerator",
    ) -> None:
        self.recipe, self.run, self.plan, self.trainee, self.settings = recipe, run, plan, trainee, settings
        self.accelerator = accelerator
        self.writes = accelerator.is_main_process
        self.pending: list[tuple[int, float, float, dict[str, torch.Tensor]]] = []
        self.last_total = math.nan
        self.step_started = time.monotonic()
        self.saved_at = -math.inf
        self.can_resume = True

    def __enter__(self) -> "_Diary":
        if not self.writes:
            return self
        step = self.trainee.progress.step
        write_synced(self.run.out / "recipe.json", self.recipe.model_dump_json(indent=2).encode())
        self.steps = RunLog(self.run.out, "steps", step + 1)
        self.evaluations = RunLog(self.run.out, "evaluations", step + 1)
        console.print(self._announcement(), highlight=False, soft_wrap=True)
        self.bar = make_progress(TextColumn("{task.fields[numbers]}"))
        self.task = self.bar.add_task(self.recipe.name, total=self.plan.steps, completed=step, numbers="")
        self.bar.start()
        return self

    def _announcement(self) -> str:
        """What is about to happen, in a line."""
        plan, step = self.plan, self.trainee.progress.step
        begin = f"from step {step} to" if step else "for"
        return (
            f"training {self.recipe.name} {begin} {plan.steps} steps of {plan.batch_size} pictures on "
            f"{self.accelerator.device} in {self.recipe.optim.precision}, learning rate {plan.learning_rate:g}: "
            f"{self.run.out}"
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.writes:
            return
        self.bar.stop()
        try:
            if self.can_resume and self.trainee.progress.step > 0:
                self._flush()
                state.save_state(self.run.out, self.trainee, self.settings)
        finally:
            self.steps.close()
            self.evaluations.close()

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Around changes that belong together: Ctrl-C waits for their end; if they fail, no state is saved."""
        self.can_resume = False
        with _hold_interrupt():
            yield
            self.can_resume = True

    def note_judging(self) -> None:
        """Say that the network is being judged, which takes its time."""
        if self.writes:
            self.bar.update(self.task, description="evaluating", refresh=True)

    def note_step(self, parts: list[Losses]) -> None:
        """Note a step's losses, as means over all processes, and speed."""
        now = time.monotonic()
        speed = self.plan.batch_size / (now - self.step_started)
        self.step_started = now
        table = torch.stack([torch.stack(list(part.terms().values())).detach() for part in parts])
        means = self.accelerator.reduce(table.mean(dim=0), "mean")
        assert isinstance(means, torch.Tensor)
        if not self.writes:
            return
        step, rate = self.trainee.progress.step, self.trainee.optimizer.param_groups[0]["lr"]
        self.pending.append((step, rate, speed, dict(zip(parts[0].terms(), means, strict=True))))
        if len(self.pending) >= _FLUSH_EVERY or math.isnan(self.last_total):
            self._flush()
        numbers = f"loss {self.last_total:.3f}  {speed:.1f} images/s"
        self.bar.update(self.task, description=self.recipe.name, completed=step, numbers=numbers)

    def note_evaluation(self, evaluation: Evaluation, losses: dict[str, float], source: PictureSource) -> None:
        """Note an evaluation, and write the last checkpoint and perhaps the best."""
        with self.whole():
            best = self.trainee.progress.note(evaluation.headline())
            if self.writes:
                self._write_evaluation(evaluation, losses, source, best)
        self.step_started = time.monotonic()

    def _write_evaluation(
        self, evaluation: Evaluation, losses: dict[str, float], source: PictureSource, best: bool
    ) -> None:
        self._flush()
        step = self.trainee.progress.step
        self.evaluations.add(step, _headlines(evaluation) | {f"loss_{name}": loss for name, loss in losses.items()})
        network = self.trainee.network if self.trainee.average is None else self.trainee.average.module
        metrics = evaluation.to_json() | {"step": step}
        checkpoint = Checkpoint(network.state_dict(), self.recipe, source.labels, metrics)
        save_checkpoint(self.run.out / "last.safetensors", checkpoint)
        if best:
            save_checkpoint(self.run.out / "best.safetensors", checkpoint)
        numbers = "  ".join(f"{name} {value:.3f}" for name, value in _headlines(evaluation).items())
        console.print(f"step {step}: {numbers}{'  (best)' if best else ''}", highlight=False, soft_wrap=True)

    def save_if_due(self) -> None:
        """Save the state if the last time is long enough ago."""
        due = time.monotonic() - self.saved_at >= 60 * self.run.save_minutes
        if self.writes and due and self.trainee.progress.step > 0:
            self._flush()
            state.save_state(self.run.out, self.trainee, self.settings)
            self.saved_at = time.monotonic()

    def _flush(self) -> None:
        rows, self.pending = self.pending, []
        for step, rate, speed, losses in rows:
            terms = {name: float(loss) for name, loss in losses.items()}
            self.last_total = sum(terms.values())
            self.steps.add(
                step, {"total": self.last_total} | terms | {"learning_rate": rate, "images_per_second": speed}
            )
            if not math.isfinite(self.last_total):
                self.can_resume = False
                raise InterruptedWork(
                    f"{self.run.out}: the loss is {self.last_total} at step {step}: it has diverged; begin another run "
                    "with a lower --optim.learning-rate or a --optim.gradient-clip"
                )


@contextmanager
def _hold_interrupt() -> Iterator[None]:
    """Hold Ctrl-C back until the end of the block; the second one comes through at once."""
    if threading.current_thread() is not threading.main_thread():  # only there can signals be handled
        yield
        return
    received: list[int] = []

    def hold(number: int, frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    usual = signal.signal(signal.SIGINT, hold)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
    if received:
        raise KeyboardInterrupt


def _headlines(evaluation: Evaluation) -> dict[str, float]:
    """The numbers worth a line, by name."""
    values: dict[str, float | None] = {}
    if (score := evaluation.panoptic) is not None:
        values |= {"pq": score.pq, "sq": score.sq, "rq": score.rq}
        values |= {f"pq_{name}": group.pq for name in ("things", "stuff") if (group := getattr(score, name))}
    for name in ("mask", "box"):
        if (precision := getattr(evaluation, name)) is not None:
            values[f"{name}_ap"] = precision.ap
    if evaluation.semantic is not None:
        values["miou"] = evaluation.semantic.miou
    return {name: value for name, value in values.items() if value is not None}
