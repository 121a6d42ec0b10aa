"""What depends on the machine and the occasion, and the schedule that follows from it."""

from dataclasses import dataclass
from pathlib import Path

from thingstuff.errors import InputError
from thingstuff.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Run:
    """What depends on the machine and the occasion, not on the recipe.

    Attributes:
        out: Folder that gets `best.safetensors`, `last.safetensors`, `recipe.json`, CSV and TensorBoard files, and
            `state/` for resuming.
        data: Root of the data set; scenes need none.
        resume: Go on where the run in `out` stopped.
        init: Checkpoint to take weights from: of classes by their names, all else where names and shapes agree.
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
class Plan:
    """The schedule in steps of the batch that is really used."""

    batch_size: int
    steps: int
    scale: float
    learning_rate: float
    evaluate_every: int

    def evaluates_at(self, step: int) -> bool:
        """Whether the network is judged after so many steps."""
        return step % self.evaluate_every == 0 or step == self.steps


def make_plan(recipe: Recipe, run: Run, num_processes: int) -> Plan:
    """Scale a recipe's schedule and learning rate to the batch that is really used.

    Raises:
        InputError: A number is too small, or the batch cannot be shared evenly.
    """
    _check_numbers(run)
    batch_size = run.batch_size or recipe.optim.batch_size
    if batch_size % (num_processes * run.accumulate):
        raise InputError(
            f"a batch of {batch_size} pictures cannot be shared by {num_processes} processes with {run.accumulate} "
            f"parts each; take a multiple of {num_processes * run.accumulate} as --batch-size"
        )
    scale = recipe.optim.batch_size / batch_size
    return Plan(
        batch_size=batch_size,
        steps=max(1, round(recipe.schedule.steps * scale)),
        scale=scale,
        learning_rate=recipe.optim.learning_rate / scale,
        evaluate_every=max(1, round(recipe.schedule.evaluate_every * scale)),
    )


def _check_numbers(run: Run) -> None:
    for name, least in (("batch_size", 1), ("accumulate", 1), ("seed", 0), ("workers", 0)):
        value = getattr(run, name)
        if value is not None and value < least:
            raise InputError(f"--{name.replace('_', '-')} is {value}; give a whole number from {least}")
    if run.seed >= 2**63:
        raise InputError(f"--seed is {run.seed}; give a whole number below 2**63")
    if not run.save_minutes >= 0:
        raise InputError(f"--save-minutes is {run.save_minutes}; give a number of minutes, at least 0")
