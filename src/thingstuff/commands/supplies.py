"""Verbs for what work begins with: weights of other projects, and recipes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from thingstuff.cli import SUCCESS
from thingstuff.commands.recipe_words import chosen_recipe
from thingstuff.commands.terminal import parse, say, say_json
from thingstuff.errors import InputError
from thingstuff.recipes import FROM_DATA, FROM_DATA_SUMMARY, RECIPES

# --- convert ---


@dataclass(frozen=True)
class ConvertOptions:
    """Options of `convert`."""

    kind: Positional[Literal["detectron2", "torchvision", "mmdet", "upsnet", "panet"]]
    """Whose weights they are."""
    source: Annotated[Positional[Path], arg(metavar="SOURCE")]
    """The weight file; it is read without running any code that may stand in it."""
    out: Annotated[Positional[Path], arg(metavar="OUT")]
    """The checkpoint to write, ending in .safetensors."""
    labels: Path | None = None
    """A COCO panoptic .json, or a .toml with [[category]] tables, that lists the classes. None: COCO's or
    Cityscapes', by the number of outputs."""


def convert(words: list[str]) -> int:
    """Convert the weights of another project."""
    options = parse(ConvertOptions, "convert", "Convert the weights of another project to a checkpoint.", words)
    from thingstuff.convert import convert as convert_weights

    checkpoint = convert_weights(options.kind, options.source, options.out, options.labels)
    say(f"{options.out}: {len(checkpoint.weights)} tensors, {len(checkpoint.labels)} classes, {checkpoint.recipe.name}")
    if checkpoint.credit:
        say(checkpoint.credit)
    return SUCCESS


# --- recipes ---


@dataclass(frozen=True)
class RecipesOptions:
    """Options of `recipes`."""

    action: Positional[tuple[str, ...]] = ()
    """Nothing lists all recipes; `show NAME` prints one, also a recipe.json or FILE.py:FUNCTION."""
    json: bool = False
    """Print as JSON."""


def recipes(words: list[str]) -> int:
    """List the recipes, or show one."""
    options = parse(RecipesOptions, "recipes", "List the recipes, or show one with `show NAME`.", words)
    match options.action:
        case ():
            summaries = {FROM_DATA: FROM_DATA_SUMMARY}
            summaries |= {name: (function.__doc__ or "").split("\n")[0] for name, function in RECIPES.items()}
            if options.json:
                say_json(summaries)
            else:
                width = max(map(len, summaries))
                say("\n".join(f"{name:{width}s}  {summary}" for name, summary in summaries.items()))
        case ("show", name) if name == FROM_DATA:
            say(
                f"{FROM_DATA} is made from data: `thingstuff train {FROM_DATA} --data ROOT` chooses sizes, anchors,\n"
                "batch, steps and weights to begin with for the data set and the machine, says why, and trains.\n"
                "All other fields are those of the network that it begins with; recipe.json in the run folder has all."
            )
        case ("show", name):
            say(chosen_recipe(name).model_dump_json(indent=2))
        case _:
            raise InputError(f"recipes {' '.join(options.action)}: write `recipes` or `recipes show NAME`")
    return SUCCESS
