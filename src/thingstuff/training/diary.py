"""What a run writes down on its way: logs, a progress bar, checkpoints and the state to go on from."""

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

import torch
from rich.progress import TextColumn

from thingstuff.arithmetic import usable_precision
from thingstuff.checkpoint import Checkpoint, save_checkpoint, write_synced
from thingstuff.data.loader import PictureSource
from thingstuff.errors import InterruptedWork
from thingstuff.evaluate import Evaluation
from thingstuff.progress import announce, console, make_progress
from thingstuff.recipe import Recipe
from thingstuff.training import state
from thingstuff.training.logs import RunLog
from thingstuff.training.objective import Losses
from thingstuff.training.run import Plan, Run

if TYPE_CHECKING:
    from accelerate import Accelerator

_FLUSH_EVERY = 20
"""Steps between reading losses from the device. Every step is logged, but waiting for each would cost time."""


_SAY_EVERY = 60
"""Seconds between lines that stand in for the progress bar where standard error is a file."""


class Diary:
    """Logs, progress bar, checkpoints and saved state; only the first process writes.

    Leaving it saves the state, also when the run is interrupted or fails, unless that happens half-way through a step:
    then the state saved before stays, from which the run can go on exactly.
    """

    def __init__(
        self,
        recipe: Recipe,
        run: Run,
        plan: Plan,
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

    def __enter__(self) -> "Diary":
        if not self.writes:
            return self
        step = self.trainee.progress.step
        write_synced(self.run.out / "recipe.json", self.recipe.model_dump_json(indent=2).encode())
        self.steps = RunLog(self.run.out, "steps", step + 1)
        self.evaluations = RunLog(self.run.out, "evaluations", step + 1)
        announce(self._announcement())
        self.bar = make_progress(TextColumn("{task.fields[numbers]}"))
        self.task = self.bar.add_task(self.recipe.name, total=self.plan.steps, completed=step, numbers="")
        self.bar.start()
        self.said_at = self.begun_at = time.monotonic()
        self.first_step = step
        return self

    def _announcement(self) -> str:
        """What is about to happen, in a line."""
        plan, step, device = self.plan, self.trainee.progress.step, self.accelerator.device
        precision = usable_precision(self.recipe.optim.precision, device)
        begin = f"from step {step} to" if step else "for"
        return (
            f"training {self.recipe.name} {begin} {plan.steps} steps of {plan.batch_size} pictures on "
            f"{device} in {precision}, learning rate {plan.learning_rate:g}: {self.run.out}"
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
        with hold_interrupt():
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
        if not console.is_terminal and now - self.said_at >= _SAY_EVERY:
            self.said_at = now
            left = (now - self.begun_at) / (step - self.first_step) * (self.plan.steps - step) / 60
            line = f"step {step} of {self.plan.steps}: {numbers}, about {left:.0f} minutes left"
            announce(line)

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
        announce(f"step {step}: {numbers}{'  (best)' if best else ''}")

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
def hold_interrupt() -> Iterator[None]:
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
