"""What `train finetune` does before it trains, and after: it makes the recipe for the data, and chooses thresholds."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from thingstuff.checkpoint import BUNDLED, load_checkpoint, save_checkpoint
from thingstuff.commands.terminal import warn
from thingstuff.data.coco import CocoPanopticSource, open_coco_panoptic
from thingstuff.data.layouts import find_panoptic
from thingstuff.errors import InputError
from thingstuff.evaluate import evaluate_pictures
from thingstuff.overrides import Overrides, override
from thingstuff.predict import Model
from thingstuff.progress import track
from thingstuff.published import published_checkpoint
from thingstuff.recipe import FilesConfig, Recipe, derive, read_recipe
from thingstuff.recipes import tiny_facades
from thingstuff.recipes.finetune import DataProfile, Machine, finetune
from thingstuff.thresholds import THRESHOLDS, best_of, candidates, rate
from thingstuff.training.profile import measure_profile, this_machine
from thingstuff.training.run import Run
from thingstuff.training.sources import is_first_process, open_evaluation_source

_PUBLISHED = "coco/panoptic-fpn-r50-3x"
_GIVEN = "as given"
_BUNDLED = ("tiny-facades", "tiny-scenes")
"""In the order of preference."""


def made_for_data(run: Run, overrides: Overrides, init_given: bool) -> tuple[Recipe, Run]:
    """The recipe `finetune` for the data set of a run, and the run with the weights that it begins with.

    A run that goes on has its recipe already, whatever the machine.

    Args:
        run: As the user wants it.
        overrides: Fields that the user has given; they stay as they are.
        init_given: The user has said what to begin with, or ``--init None``.

    Raises:
        InputError: The data set is missing, damaged or has nothing to judge on, or a field does not fit.
    """
    if run.resume and (run.out / "recipe.json").is_file():
        path = run.out / "recipe.json"
        return override(read_recipe(path.read_bytes(), str(path)), overrides), run
    if run.data is None:
        raise InputError("recipe finetune is made from your data; name the root of the data set with --data")
    source = _open_training_pictures(run.data, overrides)
    profile, machine = measure_profile(source), this_machine()
    parent, init, beginning = _choose_beginning(run, profile, machine, init_given)
    recipe, choices = finetune(profile, machine, parent, learned=init is not None)
    wished = override(recipe, overrides)
    own, wanted = _governing(recipe), _governing(wished)
    if given := {name: value for name, value in wanted.items() if value != own[name]}:
        recipe, choices = finetune(profile, machine, parent, learned=init is not None, **given)
        wished = override(recipe, overrides)
    if is_first_process():
        rows = [("begin with", *beginning)]
        for choice in choices:
            value = _value_of(wished, choice.field)
            rows.append((choice.field, _as_text(value), choice.why if value == choice.value else _GIVEN))
        if run.batch_size is not None:
            rows.append(("--batch-size", str(run.batch_size), f"{_GIVEN}; learning rate and steps follow"))
        warn("\n".join([f"{run.data}: {_describe(profile)}; chosen for it:", *_table(rows)]))
    return wished, replace(run, init=init)


def settle_thresholds(best: Path, recipe: Recipe, run: Run, overrides: Overrides) -> None:
    """Choose the thresholds of maps on the validation pictures, and write the best checkpoint anew with them.

    Args:
        best: The checkpoint.
        recipe: That the run learned with.
        run: Names the data set.
        overrides: Fields that the user has given; they stay as they are.

    Raises:
        InputError: A validation picture has become unreadable, or the checkpoint cannot be written.
    """
    fusion, source = recipe.model.fusion, recipe.source
    if fusion is None or not isinstance(source, FilesConfig):
        return
    checkpoint = load_checkpoint(best)
    given = {field.rpartition(".")[2] for field in overrides if field.startswith("model.fusion.")}
    pictures = open_evaluation_source(recipe, run.data, source.val_split)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    settings = candidates(fusion, given if checkpoint.labels.num_stuff else given | {"stuff_area"})
    rated = rate(
        checkpoint,
        pictures,
        settings,
        device=device,
        progress=lambda items, total: track(items, "choosing thresholds", total),
    )
    before, chosen = rated[0], best_of(rated)
    changed = [name for name in THRESHOLDS if getattr(chosen.fusion, name) != getattr(fusion, name)]
    if not changed:
        warn(f"thresholds stay as they are: no other of {len(rated)} settings is better on the validation pictures")
        return
    settled = replace(checkpoint, recipe=derive(checkpoint.recipe, model__fusion=chosen.fusion))
    evaluation = evaluate_pictures(
        Model(settled, device=device), pictures, range(len(pictures)), with_ap=False
    ).evaluation()
    metrics = evaluation.to_json() | {"step": checkpoint.metrics["step"]}
    save_checkpoint(best, replace(settled, metrics=metrics))
    words = ", ".join(f"{name} {getattr(chosen.fusion, name)} ({getattr(fusion, name)})" for name in changed)
    warn(f"chosen on the validation pictures: {words}; PQ {chosen.score.pq:.3f} ({before.score.pq:.3f})")


def _governing(recipe: Recipe) -> dict[str, int]:
    """The fields on which others hang, so that those follow what the user wants."""
    return {
        "short_side": recipe.picture.short_side,
        "batch_size": recipe.optim.batch_size,
        "steps": recipe.schedule.steps,
    }


def _open_training_pictures(data: Path, overrides: Overrides) -> CocoPanopticSource:
    """Open the pictures to learn from, after a look whether there are others to judge on."""
    parts = {field: words for field, words in overrides.items() if field.startswith("source.")}
    splits = override(tiny_facades(), parts).source
    assert isinstance(splits, FilesConfig)
    source = open_coco_panoptic(data, splits.train_split)
    try:
        find_panoptic(data, splits.val_split)
    except InputError as error:
        raise InputError(
            f"{error}; there must be pictures to judge on: name their split with --source.val-split, or put some aside "
            "when you convert, with thingstuff data convert SOURCE OUT --val-share 0.2"
        ) from error
    return source


def _choose_beginning(
    run: Run, profile: DataProfile, machine: Machine, init_given: bool
) -> tuple[Recipe, Path | None, tuple[str, str]]:
    """The recipe of the network to begin from, its weights, and what to say of both."""
    if init_given and run.init is not None:
        return _parent_of(run.init), run.init, (str(run.init), "as given; its network is taken over")
    if init_given:
        return tiny_facades(), None, ("nothing", "as given; the small network")
    if not profile.is_rgb:
        why = f"trained networks know 8-bit RGB, these pictures have {profile.channels} channels of {profile.dtype}"
        return tiny_facades(), None, ("nothing", why)
    unavailable = ""
    if machine.gpu_memory is not None:
        try:
            path = published_checkpoint(_PUBLISHED)
            return load_checkpoint(path).recipe, path, (_PUBLISHED, "there is a GPU")
        except InputError as error:
            unavailable = str(error)
    name = next((name for name in _BUNDLED if name in BUNDLED), None)
    if name is None:
        return tiny_facades(), None, ("nothing", unavailable or "no network comes with this package")
    why = "there is no GPU; the small network that comes with the package"
    return _parent_of(Path(name)), Path(name), (name, unavailable or why)


def _parent_of(path: Path) -> Recipe:
    """The checkpoint's own recipe; what has learned drawn scenes learns as photographs are learned from now on."""
    recipe = load_checkpoint(path).recipe
    if isinstance(recipe.source, FilesConfig):
        return recipe
    return derive(tiny_facades(), model=recipe.model, picture=recipe.picture)


# --- saying it ---


def _describe(profile: DataProfile) -> str:
    kinds = [f"{profile.num_things} thing classes" if profile.num_things != 1 else "1 thing class"]
    kinds.append(f"{profile.num_stuff} stuff classes" if profile.num_stuff != 1 else "1 stuff class")
    return f"{profile.pictures} pictures, {' and '.join(kinds)}"


def _value_of(recipe: Recipe, field: str) -> Any:
    value: Any = recipe
    for part in field.split("."):
        value = None if value is None else getattr(value, part)
    return value


def _as_text(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(_as_text(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _table(rows: list[tuple[str, str, str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return [f"  {name:{widths[0]}}  {value:{widths[1]}}  {why}" for name, value, why in rows]
