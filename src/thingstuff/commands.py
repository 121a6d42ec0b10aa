"""The verbs of the command line: each reads its words and calls the package."""

import importlib.util
import inspect
import json
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

# Before pydantic is imported: its web addresses do not help at a terminal.
os.environ.setdefault("PYDANTIC_ERRORS_INCLUDE_URL", "0")

import tyro
from tyro.conf import AvoidSubcommands, FlagCreatePairsOff, Positional, arg

from thingstuff.cli import FAILED, SUCCESS
from thingstuff.errors import InputError, InterruptedWork
from thingstuff.evaluation.problems import CountedWarning
from thingstuff.evaluation.table import TableStyle
from thingstuff.evaluation.variants import Rules
from thingstuff.overrides import override, split_overrides
from thingstuff.recipe import Recipe, read_recipe
from thingstuff.recipes import RECIPES, find_recipe

Options = TypeVar("Options")


def _parse(options: Callable[..., Options], verb: str, description: str, words: list[str]) -> Options:
    config = (FlagCreatePairsOff, AvoidSubcommands)
    return tyro.cli(options, prog=f"thingstuff {verb}", description=description, args=words, config=config)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def _warn(text: str) -> None:
    sys.stderr.write(f"thingstuff: {text}\n")


def _say_json(value: Any) -> None:
    _say(json.dumps(value, indent=2))


# --- demo ---


@dataclass(frozen=True)
class DemoOptions:
    """Options of `demo`."""

    out: Path = Path("runs/demo")
    """Folder for pictures, predictions, metrics.json and report.html."""
    json: bool = False
    """Print the numbers as JSON."""


def demo(words: list[str]) -> int:
    """Show a trained network at work."""
    description = "Label 64 scenes that the bundled network has never seen, and score the result."
    options = _parse(DemoOptions, "demo", description, words)
    from thingstuff.demo import run_demo
    from thingstuff.tables import evaluation_table

    evaluation = run_demo(options.out)
    if options.json:
        _say_json(evaluation.to_json())
    else:
        _say(evaluation_table(evaluation))
        _say(f"\nOpen {options.out / 'report.html'} in a browser to see the pictures.")
    return SUCCESS


# --- train ---


def train(words: list[str]) -> int:
    """Train a recipe."""
    if words[:1] in (["--help"], ["-h"]):
        _say(f"usage: thingstuff train RECIPE [options]\n\nrecipes: {', '.join(RECIPES)},\n")
        _say("or a recipe.json, or FILE.py:FUNCTION\n\n`thingstuff train RECIPE --help` lists every option and field.")
        return SUCCESS
    if not words or words[0].startswith("-"):
        raise InputError(
            "train needs a recipe first: a name (see `thingstuff recipes`), a recipe.json, or FILE.py:FUNCTION; "
            "`thingstuff train RECIPE --help` lists what can be changed"
        )
    base = _chosen_recipe(words[0])
    from thingstuff.training.run import Run

    def parse(
        recipe: Annotated[Recipe, arg(name="")] = base,
        out: Path = Path("runs") / base.name,
        data: Path | None = None,
        resume: bool = False,
        init: Path | None = None,
        batch_size: int | None = None,
        accumulate: int = 1,
        seed: int = 0,
        workers: int | None = None,
        save_minutes: float = 2.0,
    ) -> tuple[Recipe, Run]:
        """Read the options.

        Args:
            recipe: What to learn.
            out: Folder for checkpoints, logs and state.
            data: Root of the data set; scenes need none.
            resume: Go on where the run in `out` stopped.
            init: Checkpoint to take weights from, where names and shapes agree.
            batch_size: Pictures in a step over all processes; learning rate and steps follow. None: the recipe's.
            accumulate: Split every step into so many parts, to save memory.
            seed: Of everything random.
            workers: Processes that read pictures. None: by the number of cores.
            save_minutes: Time between saved states.
        """
        run = Run(out, data, resume, init, batch_size, accumulate, seed, workers, save_minutes)
        return recipe, run

    overrides, rest = split_overrides(words[1:], {*inspect.signature(parse).parameters} - {"recipe"})
    base = override(base, overrides)
    _, run = _parse(parse, f"train {words[0]}", f"Train the recipe {base.name}.", rest)
    from thingstuff.training.loop import train as run_training

    best = run_training(base, run)
    _say(f"best checkpoint: {best}")
    return SUCCESS


def _chosen_recipe(word: str) -> Recipe:
    """A recipe by its name, from a JSON file, or from a function in somebody's own Python file."""
    path, _, function = (f"{word}:" if word.endswith(".py") else word).rpartition(":")
    if path.endswith(".py"):
        if not Path(path).exists():
            raise InputError(f"{path}: there is no such file; give FILE.py:FUNCTION")
        return _own_recipe(Path(path), function)
    if word.endswith(".json"):
        if not Path(word).is_file():
            raise InputError(f"{word}: there is no such file; every run folder has its recipe.json")
        return read_recipe(Path(word).read_bytes(), word)
    return find_recipe(word)


def _own_recipe(path: Path, function: str) -> Recipe:
    """The recipe that a function in somebody's own file returns."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        recipe = getattr(module, function)() if function and hasattr(module, function) else None
    except InputError:
        raise
    except Exception as error:  # whatever their code raises
        raise InputError(f"{path}: {type(error).__name__}: {' '.join(str(error).split())}") from error
    if not isinstance(recipe, Recipe):
        raise InputError(f"{path}: which function returns the recipe? Give {path}:FUNCTION; {function!r} does not")
    return recipe


# --- evaluate ---


@dataclass(frozen=True)
class EvaluateOptions:
    """Options of `evaluate`."""

    checkpoint: Positional[str]
    """A .safetensors file, or the name of a bundled network."""
    data: Path | None = None
    """Root of the data set; a network trained on scenes needs none."""
    split: str = "val"
    """Which pictures: `panoptic_<split>.json`."""
    out: Path = Path("runs/evaluate")
    """Folder for metrics.json and the predictions."""
    device: str = "cpu"
    """Where the network runs."""
    skip_damaged: bool = False
    """Leave damaged pictures out instead of stopping."""
    json: bool = False
    """Print the numbers as JSON."""


def evaluate(words: list[str]) -> int:
    """Score a checkpoint on a data set."""
    description = "Predict every picture of a data set and compare with the truth: PQ, AP, mean IoU."
    options = _parse(EvaluateOptions, "evaluate", description, words)
    from thingstuff.data.coco import write_json
    from thingstuff.evaluate import PictureEvaluation, check_labels, evaluate_pictures
    from thingstuff.predict import load
    from thingstuff.predictions import PredictionWriter
    from thingstuff.progress import track
    from thingstuff.tables import evaluation_table
    from thingstuff.training.sources import open_evaluation_source

    model = load(options.checkpoint, device=options.device)
    source = open_evaluation_source(model.recipe, options.data, options.split)
    check_labels(model.labels, source.labels, str(options.data))
    writer = PredictionWriter(options.out, model.labels)
    (options.out / "metrics.json").unlink(missing_ok=True)  # numbers of an earlier run beside new predictions mislead
    with_ap = importlib.util.find_spec("faster_coco_eval") is not None
    if not with_ap:
        _warn("average precision is left out; for it, pip install 'thingstuff[train]'")

    def keep(picture: PictureEvaluation) -> None:
        writer.write(picture.result, picture.sample.image_id, picture.sample.file_name)

    try:
        indices = track(range(len(source)), "evaluating", len(source))
        tally = evaluate_pictures(
            model, source, indices, with_ap=with_ap, skip_damaged=options.skip_damaged, on_picture=keep
        )
    except InputError as error:
        raise InterruptedWork(
            f"{error} ({len(writer.images)} predictions are kept in {options.out}; --skip-damaged goes on without it)"
        ) from error
    finally:
        writer.close()
    evaluation = tally.evaluation()
    write_json(options.out / "metrics.json", evaluation.to_json())
    if options.json:
        _say_json(evaluation.to_json())
    else:
        _say(evaluation_table(evaluation))
        _say(f"\nnumbers and predictions: {options.out}")
    return SUCCESS


# --- score ---


@dataclass(frozen=True)
class ScoreOptions:
    """Options of `score`."""

    gt: Positional[Path]
    """JSON file of the truth, in COCO panoptic format."""
    pred: Positional[Path]
    """JSON file of the predictions, in the same format."""
    gt_folder: Path | None = None
    """PNG files of the truth. None: the JSON file's path without its suffix."""
    pred_folder: Path | None = None
    """PNG files of the predictions. None: the JSON file's path without its suffix."""
    workers: int | None = None
    """Threads. None: one for each core."""
    reference_cores: int = 1
    """Add in the order in which panopticapi adds on a machine with so many cores, to equal it to the last bit."""
    lenient: bool = False
    """Recount or leave out what is wrong in the files, and warn, instead of stopping."""
    emulate_panopticapi: bool = False
    """Give panopticapi's answer, whatever it is."""
    rules: Rules = "panopticapi"
    """Whose rules decide what is found."""
    table: TableStyle = "plain"
    """Layout of the table."""
    miou: bool = False
    """Also mean IoU of the same files."""
    ap: bool = False
    """Also box and mask AP of the same files."""
    json: Path | None = None
    """Also write the numbers to this file, as fractions."""


def score(words: list[str]) -> int:
    """Score predictions of any tool."""
    options = _parse(ScoreOptions, "score", "Score predictions of any tool in COCO panoptic format.", words)
    from thingstuff.data.coco import write_json
    from thingstuff.evaluation.files import score_files
    from thingstuff.progress import track

    result = score_files(
        options.gt,
        options.pred,
        gt_folder=options.gt_folder,
        pred_folder=options.pred_folder,
        workers=options.workers,
        reference_cores=options.reference_cores,
        lenient=options.lenient,
        emulate_panopticapi=options.emulate_panopticapi,
        rules=options.rules,
        with_miou=options.miou,
        with_ap=options.ap,
        progress=lambda items, total: track(items, "scoring", total),
    )
    _warn_counted(result.warnings)
    if result.loading_seconds > 2:
        _warn(f"compiling took {result.loading_seconds:.0f} s of processor time; from now on it is there")
    _say(result.table(options.table))
    if options.json is not None:
        write_json(options.json, result.to_json())
    return SUCCESS


def _warn_counted(warnings: Iterable[CountedWarning]) -> None:
    for warning in warnings:
        _warn(f"{warning.count} times {warning.kind}, first: {warning.example}")


# --- compare ---


@dataclass(frozen=True)
class CompareOptions:
    """Options of `compare`."""

    a: Positional[Path]
    """JSON file of the first model's predictions."""
    b: Positional[Path]
    """JSON file of the second model's predictions."""
    gt: Path
    """JSON file of the truth."""
    a_folder: Path | None = None
    """PNG files of the first. None: the JSON file's path without its suffix."""
    b_folder: Path | None = None
    """PNG files of the second. None: the JSON file's path without its suffix."""
    gt_folder: Path | None = None
    """PNG files of the truth. None: the JSON file's path without its suffix."""
    images: Path | None = None
    """Folder of the photographs, for the report."""
    report: Path | None = None
    """Also write a page with the pictures on which the models differ most."""
    resamples: int = 10_000
    """Data sets drawn for the confidence intervals."""
    workers: int | None = None
    """Threads. None: one for each core."""
    lenient: bool = False
    """Recount or leave out what is wrong in the files, and warn, instead of stopping."""
    json: Path | None = None
    """Also write the numbers to this file, as fractions."""


def compare(words: list[str]) -> int:
    """Compare the predictions of two models."""
    description = "Which of two models is better, by how much, how sure that is, and where each loses."
    options = _parse(CompareOptions, "compare", description, words)
    from thingstuff.compare_report import ComparedFiles, write_comparison
    from thingstuff.data.coco import write_json
    from thingstuff.evaluation.compare import compare as compare_files
    from thingstuff.progress import track

    comparison = compare_files(
        options.a,
        options.b,
        options.gt,
        a_folder=options.a_folder,
        b_folder=options.b_folder,
        gt_folder=options.gt_folder,
        workers=options.workers,
        lenient=options.lenient,
        resamples=options.resamples,
        progress=lambda items, total: track(items, "comparing", total),
    )
    _warn_counted(comparison.warnings)
    _say(comparison.table())
    if options.json is not None:
        write_json(options.json, comparison.to_json())
    if options.report is not None:
        folders = (options.a_folder, options.b_folder, options.gt_folder)
        files = ComparedFiles(options.a, options.b, options.gt, *folders, options.images)
        write_comparison(options.report, comparison, files)
        _say(f"\nOpen {options.report} in a browser to see the pictures.")
    return SUCCESS


# --- convert ---


@dataclass(frozen=True)
class ConvertOptions:
    """Options of `convert`."""

    kind: Positional[Literal["detectron2", "torchvision", "mmdet"]]
    """Whose weights they are."""
    source: Positional[Path]
    """The weight file; it is read without running any code that may stand in it."""
    out: Positional[Path]
    """The checkpoint to write, ending in .safetensors."""
    labels: Path | None = None
    """A COCO panoptic .json, or a .toml with [[category]] tables, that lists the classes. None: COCO's."""


def convert(words: list[str]) -> int:
    """Convert the weights of another project."""
    options = _parse(ConvertOptions, "convert", "Convert the weights of another project to a checkpoint.", words)
    from thingstuff.convert import convert as convert_weights

    checkpoint = convert_weights(options.kind, options.source, options.out, options.labels)
    _say(
        f"{options.out}: {len(checkpoint.weights)} tensors, {len(checkpoint.labels)} classes, {checkpoint.recipe.name}"
    )
    if checkpoint.credit:
        _say(checkpoint.credit)
    return SUCCESS


# --- predict ---


@dataclass(frozen=True)
class PredictOptions:
    """Options of `predict`."""

    checkpoint: Positional[str]
    """A .safetensors file, or the name of a bundled network."""
    inputs: Positional[tuple[str, ...]]
    """Pictures, folders of pictures, or patterns such as 'photos/*.jpg'."""
    out: Annotated[Path, arg(metavar="DIR")]
    """Folder for the results, in COCO panoptic format."""
    overlay: bool = False
    """Also draw every result over its picture."""
    device: str = "cpu"
    """Where the network runs."""
    short_side: int | None = None
    """Bring the shorter side to this many pixels; 0 leaves pictures as they are. None: as the checkpoint says."""
    max_side: int | None = None
    """The longer side is at most this long. None: as the checkpoint says."""
    skip_damaged: bool = False
    """Leave damaged pictures out instead of stopping."""
    json: bool = False
    """Print what was written as JSON."""


def predict(words: list[str]) -> int:
    """Label pictures."""
    description = "Label every pixel of pictures, and write the result in COCO panoptic format."
    options = _parse(PredictOptions, "predict", description, words)
    from thingstuff.predict import load
    from thingstuff.predictions import PredictionWriter, find_pictures, predict_files

    if not options.inputs:
        raise InputError("predict needs pictures: files, folders or patterns such as 'photos/*.jpg'")
    pictures = find_pictures(options.inputs)
    model = load(options.checkpoint, device=options.device, short_side=options.short_side, max_side=options.max_side)
    writer = PredictionWriter(options.out, model.labels)
    problems: list[str] = []
    try:
        predict_files(
            model, pictures, writer, overlay=options.overlay, skip_damaged=options.skip_damaged, problems=problems
        )
    finally:
        written = writer.close()
    for problem in problems:
        _warn(problem)
    if options.json:
        _say_json({"pictures": writer.images, "written": [str(path) for path in written], "problems": problems})
    else:
        _say(f"{len(writer.images)} of {len(pictures)} pictures labelled: {options.out}")
    return FAILED if problems and not options.skip_damaged else SUCCESS


# --- recipes ---


@dataclass(frozen=True)
class RecipesOptions:
    """Options of `recipes`."""

    action: Positional[tuple[str, ...]] = ()
    """Nothing lists all recipes; `show NAME` prints one."""
    json: bool = False
    """Print as JSON."""


def recipes(words: list[str]) -> int:
    """List the recipes, or show one."""
    options = _parse(RecipesOptions, "recipes", "List the recipes, or show one with `show NAME`.", words)
    match options.action:
        case ():
            summaries = {name: (function.__doc__ or "").split("\n")[0] for name, function in RECIPES.items()}
            if options.json:
                _say_json(summaries)
            else:
                width = max(map(len, summaries))
                _say("\n".join(f"{name:{width}s}  {summary}" for name, summary in summaries.items()))
        case ("show", name):
            _say(find_recipe(name).model_dump_json(indent=2))
        case _:
            raise InputError(f"recipes {' '.join(options.action)}: write `recipes` or `recipes show NAME`")
    return SUCCESS
