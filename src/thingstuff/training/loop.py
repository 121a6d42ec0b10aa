"""The training loop, visible from end to end: what happens at a step stands in `train`.

It runs on one process as it is, and on several under `torchrun` or `accelerate launch`.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from thingstuff.arithmetic import usable_precision
from thingstuff.checkpoint import Checkpoint
from thingstuff.data.loader import PictureSource, training_loader
from thingstuff.data.transforms import augment, collate
from thingstuff.errors import InputError, InterruptedWork
from thingstuff.evaluate import Evaluation, Tally, evaluate_pictures
from thingstuff.model.build import build_network
from thingstuff.model.panoptic import SIZE_DIVISOR, PanopticSegmenter
from thingstuff.predict import Model
from thingstuff.recipe import Recipe
from thingstuff.structures import Batch
from thingstuff.training import sources, state
from thingstuff.training.diary import Diary
from thingstuff.training.objective import Losses, Objective
from thingstuff.training.optim import follow_schedule, make_average, make_optimizer
from thingstuff.training.run import Plan, Run, make_plan

if TYPE_CHECKING:
    from accelerate import Accelerator


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
    accelerator = _make_accelerator(run.accumulate)
    state.check_folder(run.out, run.resume)
    train_source, val_source = sources.open_sources(recipe, run.data)
    plan = make_plan(recipe, run, accelerator.num_processes)
    settings = state.run_settings(recipe, train_source, plan.batch_size, run.accumulate, run.seed)
    trainee, objective = _make_trainee(recipe, run, plan, train_source, accelerator)
    if run.resume:
        state.load_state(run.out, trainee, settings)
    progress, average = trainee.progress, trainee.average
    wrapped, optimizer = accelerator.prepare(objective, trainee.optimizer)
    batches = _read_batches(recipe, run, plan, train_source, progress.step, accelerator)
    judged = trainee.network if average is None else average.module
    device = accelerator.device
    bfloat16 = usable_precision(recipe.optim.precision, device) == "bfloat16"
    last = plan.steps if run.stop_after is None else min(plan.steps, run.stop_after)
    patience = recipe.schedule.early_stopping or plan.steps
    with Diary(recipe, run, plan, trainee, settings, accelerator) as diary, _on_the_way(run.out):
        while True:
            if progress.evaluated < progress.step and plan.evaluates_at(progress.step):
                diary.note_judging()
                judgement = _judge(recipe, judged, val_source, accelerator)
                diary.note_evaluation(*judgement, val_source)
            diary.save_if_due()
            if progress.step >= last or progress.evaluations_since_best >= patience:
                break
            # Read before anything changes: a damaged picture must not leave half a step behind.
            pictures = [next(batches) for _ in range(run.accumulate)]
            with diary.whole():
                follow_schedule(trainee.optimizer, progress.step, recipe.schedule, plan.scale, recipe.optim.momentum_of)
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


def _make_accelerator(accumulate: int) -> "Accelerator":
    try:
        from accelerate import Accelerator
    except ImportError as error:
        raise InputError("training needs more packages; install them with: pip install 'thingstuff[train]'") from error
    # The loop chooses the precision itself: Accelerate would hold on to the first one for as long as Python runs.
    return Accelerator(cpu=not torch.cuda.is_available(), mixed_precision="no", gradient_accumulation_steps=accumulate)


def _make_trainee(
    recipe: Recipe, run: Run, plan: Plan, source: PictureSource, accelerator: "Accelerator"
) -> tuple[state.Trainee, Objective]:
    torch.manual_seed(run.seed)
    network = build_network(recipe, source.labels)
    if run.init is not None:
        state.initialize(network, run.init, recipe, source.labels)
    network.to(accelerator.device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimizer = make_optimizer(network, recipe.optim, plan.learning_rate)
    average = make_average(network, recipe.optim.ema_decay) if recipe.optim.ema_decay else None
    trainee = state.Trainee(network, optimizer, average, state.Progress())
    return trainee, Objective(network, recipe, source.labels.num_stuff)


def _read_batches(
    recipe: Recipe, run: Run, plan: Plan, source: PictureSource, step: int, accelerator: "Accelerator"
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
        # Windows are of one shape. Sorted by that of their pictures, batches would teach batch norms the sort: where
        # all pictures of a class are square, they would be known by their company, which no picture has later on.
        aspect_grouping=recipe.augmentation.crop is None,
        repeats=sources.repeats(source, recipe.schedule.repeat_threshold),
        pasting=sources.find_pasting(source, recipe.augmentation, plan.steps * run.accumulate),
    )


@contextmanager
def _on_the_way(folder: Path) -> Iterator[None]:
    """From here on, wrong input interrupts a run that has begun and can go on."""
    try:
        yield
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
