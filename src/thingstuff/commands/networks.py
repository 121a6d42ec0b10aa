"""Verbs that run a network: demo, train, evaluate, predict."""

import importlib.util
import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from thingstuff.cli import FAILED, SUCCESS
from thingstuff.commands.recipe_words import chosen_recipe
from thingstuff.commands.terminal import parse, say, say_json, warn
from thingstuff.errors import InputError, InterruptedWork
from thingstuff.overrides import override, split_overrides
from thingstuff.recipe import Recipe, derive
from thingstuff.recipes import FROM_DATA, RECIPES, tiny_facades
from thingstuff.structures import Precision

RuntimeName = Literal["torch", "compile", "onnx", "openvino", "auto"]
"""As in ``runtimes``, which imports torch: `--help` has no time for that."""

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
    options = parse(DemoOptions, "demo", description, words)
    from thingstuff.demo import run_demo
    from thingstuff.tables import evaluation_table

    evaluation = run_demo(options.out)
    if options.json:
        say_json(evaluation.to_json())
    else:
        say(evaluation_table(evaluation))
        say(f"\nOpen {options.out / 'report.html'} in a browser to see the pictures.")
    return SUCCESS


# --- train ---


def train(words: list[str]) -> int:
    """Train a recipe."""
    if words[:1] in (["--help"], ["-h"]):
        say(f"usage: thingstuff train RECIPE [options]\n\nrecipes: {FROM_DATA}, {', '.join(RECIPES)},\n")
        say("or a recipe.json, or FILE.py:FUNCTION\n\n`thingstuff train RECIPE --help` lists every option and field.")
        return SUCCESS
    if not words or words[0].startswith("-"):
        raise InputError(
            "train needs a recipe first: a name (see `thingstuff recipes`), a recipe.json, or FILE.py:FUNCTION; "
            "`thingstuff train RECIPE --help` lists what can be changed"
        )
    from_data = words[0] == FROM_DATA
    base = derive(tiny_facades(), name=FROM_DATA) if from_data else chosen_recipe(words[0])
    from thingstuff.training.run import Run

    def read(
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
            init: Checkpoint, or name of a bundled network, to take weights from: of classes by their names, all else
                where names and shapes agree.
            batch_size: Pictures in a step over all processes; learning rate and steps follow. None: the recipe's.
            accumulate: Split every step into so many parts, to save memory.
            seed: Of everything random.
            workers: Processes that read pictures. None: by the number of cores.
            save_minutes: Time between saved states.
        """
        run = Run(out, data, resume, init, batch_size, accumulate, seed, workers, save_minutes)
        return recipe, run

    overrides, rest = split_overrides(words[1:], {*inspect.signature(read).parameters} - {"recipe"})
    description = f"Train the recipe {base.name}."
    if from_data:
        description = (
            "Train on your own data. Sizes, anchors, batch, steps and the weights to begin with come from the data set "
            "and the machine, and are said; what you give wins. The defaults of fields below are those of "
            "tiny_facades, before anything is chosen. --init None begins from nothing."
        )
    else:
        base = override(base, overrides)
    _, run = parse(read, f"train {words[0]}", description, rest)
    from thingstuff.commands.finetuning import made_for_data, settle_thresholds
    from thingstuff.training.loop import train as run_training
    from thingstuff.training.sources import is_first_process
    from thingstuff.training.state import STATE_FILE

    if from_data:
        init_given = any(word.partition("=")[0] == "--init" for word in rest)
        base, run = made_for_data(run, overrides, init_given)
    try:
        best = run_training(base, run)
        if from_data and is_first_process():
            settle_thresholds(best, base, run, overrides)
    except KeyboardInterrupt:
        can_go_on = (run.out / STATE_FILE).exists()
        hint = f"go on with --resume --out {run.out}" if can_go_on else "there is nothing yet to go on from"
        raise InterruptedWork(f"interrupted; {hint}") from None
    if is_first_process():
        say(f"best checkpoint: {best}")
    return SUCCESS


# --- evaluate ---


@dataclass(frozen=True)
class EvaluateOptions:
    """Options of `evaluate`."""

    checkpoint: Annotated[Positional[str], arg(metavar="CHECKPOINT")]
    """A .safetensors file, the name of a bundled or published network, or an exported file."""
    data: Path | None = None
    """Root of the data set; a network trained on scenes needs none."""
    split: str = "val"
    """Which pictures: `panoptic_<split>.json`."""
    out: Path = Path("runs/evaluate")
    """Folder for metrics.json and the predictions."""
    device: str = "cpu"
    """Where the network runs."""
    tta: bool = False
    """Look at every picture several times, as the recipe's `tta` says: at several sizes and mirrored. Slower."""
    runtime: RuntimeName | None = None
    """What computes; `auto` is OpenVINO where it is installed. None: torch, or what an exported file is for."""
    precision: Precision = "float32"
    """Of the arithmetic; bfloat16 is faster and changes results a little; float32 where the machine has none."""
    skip_damaged: bool = False
    """Leave damaged pictures out instead of stopping."""
    json: bool = False
    """Print the numbers as JSON."""


def evaluate(words: list[str]) -> int:
    """Score a checkpoint on a data set."""
    description = "Predict every picture of a data set and compare with the truth: PQ, AP, mean IoU."
    options = parse(EvaluateOptions, "evaluate", description, words)
    from thingstuff.data.coco import CocoPanopticSource, write_json
    from thingstuff.evaluate import PictureEvaluation, check_labels, evaluate_pictures
    from thingstuff.predict import load
    from thingstuff.predictions import PredictionWriter
    from thingstuff.progress import track
    from thingstuff.tables import evaluation_table
    from thingstuff.training.sources import open_evaluation_source

    model = load(
        options.checkpoint,
        device=options.device,
        tta=options.tta,
        runtime=options.runtime,
        precision=options.precision,
    )
    source = open_evaluation_source(model.recipe, options.data, options.split)
    check_labels(model.labels, source.labels, str(options.data))
    if isinstance(source, CocoPanopticSource):
        warn(f"{options.data}: {source.layout}")
    writer = PredictionWriter(options.out, model.labels)
    (options.out / "metrics.json").unlink(missing_ok=True)  # numbers of an earlier run beside new predictions mislead
    with_ap = importlib.util.find_spec("faster_coco_eval") is not None
    if not with_ap:
        warn("average precision is left out; for it, pip install 'thingstuff[train]'")

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
        say_json(evaluation.to_json())
    else:
        say(evaluation_table(evaluation))
        say(f"\nnumbers and predictions: {options.out}")
    return SUCCESS


# --- predict ---


@dataclass(frozen=True)
class PredictOptions:
    """Options of `predict`."""

    checkpoint: Annotated[Positional[str], arg(metavar="CHECKPOINT")]
    """A .safetensors file, the name of a bundled or published network, or an exported file."""
    inputs: Annotated[Positional[tuple[str, ...]], arg(metavar="PICTURES")]
    """Pictures, folders of pictures, or patterns such as 'photos/*.jpg'."""
    out: Annotated[Path, arg(metavar="DIR")]
    """Folder for the results."""
    overlay: bool = False
    """Also draw every result over its picture."""
    device: str = "cpu"
    """Where the network runs."""
    short_side: int | None = None
    """Bring the shorter side to this many pixels; 0 leaves pictures as they are. None: as the checkpoint says."""
    max_side: int | None = None
    """The longer side is at most this long. None: as the checkpoint says."""
    tta: bool = False
    """Look at every picture several times, as the recipe's `tta` says: at several sizes and mirrored. Slower."""
    runtime: RuntimeName | None = None
    """What computes; `auto` is OpenVINO where it is installed. None: torch, or what an exported file is for."""
    precision: Precision = "float32"
    """Of the arithmetic; bfloat16 is faster and changes results a little; float32 where the machine has none."""
    skip_damaged: bool = False
    """Leave damaged pictures out instead of stopping."""
    json: bool = False
    """Print what was written as JSON."""


def predict(words: list[str]) -> int:
    """Label pictures."""
    description = (
        "Label every pixel of pictures, and write the result in COCO panoptic format. A network without panoptic map "
        "writes its instances in COCO's result format, or semantic maps."
    )
    options = parse(PredictOptions, "predict", description, words)
    from thingstuff.predict import load
    from thingstuff.predictions import PredictionWriter, find_pictures, predict_files

    if not options.inputs:
        raise InputError("predict needs pictures: files, folders or patterns such as 'photos/*.jpg'")
    pictures = find_pictures(options.inputs)
    model = load(
        options.checkpoint,
        device=options.device,
        short_side=options.short_side,
        max_side=options.max_side,
        tta=options.tta,
        runtime=options.runtime,
        precision=options.precision,
    )
    writer = PredictionWriter(options.out, model.labels)
    problems: list[str] = []
    try:
        predict_files(
            model, pictures, writer, overlay=options.overlay, skip_damaged=options.skip_damaged, problems=problems
        )
    finally:
        written = writer.close()
    for problem in problems:
        warn(problem)
    if options.json:
        say_json({"pictures": writer.images, "written": [str(path) for path in written], "problems": problems})
    else:
        say(f"{len(writer.images)} of {len(pictures)} pictures labelled: {options.out}")
    return FAILED if problems and not options.skip_damaged else SUCCESS
