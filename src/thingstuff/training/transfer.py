"""Weights of a checkpoint for a network that tells other classes apart: outputs are taken class by class, by name."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from thingstuff.checkpoint import Checkpoint
from thingstuff.errors import InputError
from thingstuff.labels import LabelSet
from thingstuff.recipe import Recipe
from thingstuff.recipe_model import ModelConfig

_NAMES_SHOWN = 8


class Output(NamedTuple):
    """What one output of a layer stands for.

    Attributes:
        name: The class; None: background, or all things together.
        side: Which of the four numbers of a box; 0 where there is one number.
    """

    name: str | None
    side: int = 0


@dataclass(frozen=True, slots=True)
class Transfer:
    """What a network can take of a checkpoint.

    Attributes:
        weights: Tensors of the shapes that the network has, by name.
        lines: Which class has its outputs from where, for people; empty where the outputs are the same.
    """

    weights: Mapping[str, Tensor]
    lines: Sequence[str]


def transfer(
    checkpoint: Checkpoint, own: Mapping[str, Tensor], recipe: Recipe, labels: LabelSet, source: str
) -> Transfer:
    """Take what a network can take of a checkpoint.

    A layer whose outputs stand for the same in both is taken as a whole, as is every other tensor of the same name and
    shape. Where outputs differ, each class that the checkpoint knows has its outputs from there, and a new class has
    them drawn: normal, with mean and deviation of all the checkpoint's classes in that tensor. A layer that knows no
    class of the network, or has other inputs, stays out. A class may be a thing in one and stuff in the other: it has
    from each layer what is there.

    Random numbers come from torch's own generator.

    Args:
        checkpoint: To take from.
        own: The network's tensors by name.
        recipe: The network's; its ``init_names`` says what the checkpoint calls a class.
        labels: The network's classes.
        source: What to call the checkpoint in messages.

    Raises:
        InputError: ``init_names`` names a class that the checkpoint does not know.

    Source: Xiong et al., UPSNet, CVPR 2019, and its code: from COCO to Cityscapes.
    """
    theirs, ours = class_outputs(checkpoint.recipe.model, checkpoint.labels), class_outputs(recipe.model, labels)
    differing = [layer for layer in ours if layer in theirs and theirs[layer] != ours[layer]]
    if any(f"{layer}.weight" in own.keys() & checkpoint.weights.keys() for layer in differing):
        _check_names(recipe.init_names, checkpoint.labels, source)
    taken = {
        name: checkpoint.weights[name]
        for name, mine in own.items()
        if name in checkpoint.weights
        and name.rpartition(".")[0] not in differing
        and checkpoint.weights[name].shape == mine.shape
    }
    moved = []
    for layer in differing:
        rows = [_counterpart(output, theirs[layer], recipe.init_names) for output in ours[layer]]
        known = any(row is not None and output.name is not None for row, output in zip(rows, ours[layer], strict=True))
        if known and _widths_agree(checkpoint.weights, theirs[layer], own, ours[layer], layer):
            moved.append(layer)
            for name in (f"{layer}.weight", f"{layer}.bias"):
                taken[name] = _by_class(checkpoint.weights[name], theirs[layer], rows)
    return Transfer(taken, _describe(labels, recipe.init_names, moved, theirs, ours) if moved else ())


def class_outputs(model: ModelConfig, labels: LabelSet) -> dict[str, tuple[Output, ...]]:
    """What the outputs of each layer stand for that has some for each class, by the layer's name in the network."""
    things = tuple(Output(category.name) for category in labels.categories if category.isthing)
    stuff = tuple(Output(category.name) for category in labels.categories if not category.isthing)
    outputs: dict[str, tuple[Output, ...]] = {}
    if model.region is not None and things:
        outputs["region.box_head.outputs.classes"] = (*things, Output(None))
        if not model.region.box_head.class_agnostic_boxes:
            sides = tuple(Output(name, side) for name, _ in things for side in range(4))
            outputs["region.box_head.outputs.deltas"] = sides
        if model.region.mask_head is not None:
            outputs["region.mask_head.predictor"] = things
    if model.semantic is not None and model.semantic.things == "separate":
        outputs["semantic.predictor"] = stuff + things
    elif model.semantic is not None and stuff:
        outputs["semantic.predictor"] = stuff + ((Output(None),) if things else ())
    return outputs


def _widths_agree(
    foreign: Mapping[str, Tensor],
    theirs: tuple[Output, ...],
    own: Mapping[str, Tensor],
    ours: tuple[Output, ...],
    layer: str,
) -> bool:
    """Whether a layer is in both, with as many outputs as expected and equal inputs."""
    names = (f"{layer}.weight", f"{layer}.bias")
    return all(
        name in foreign
        and name in own
        and (len(foreign[name]), len(own[name])) == (len(theirs), len(ours))
        and foreign[name].shape[1:] == own[name].shape[1:]
        for name in names
    )


def _by_class(tensor: Tensor, theirs: tuple[Output, ...], rows: Sequence[int | None]) -> Tensor:
    """The given rows of a tensor; a row that is None is drawn."""
    of_classes = tensor[[output.name is not None for output in theirs]]
    deviation, mean = torch.std_mean(of_classes, correction=0)
    result = mean + deviation * torch.randn(len(rows), *tensor.shape[1:])
    for position, row in enumerate(rows):
        if row is not None:
            result[position] = tensor[row]
    return result


def _counterpart(output: Output, theirs: tuple[Output, ...], names: Mapping[str, str]) -> int | None:
    """Where the checkpoint has an output of ours."""
    wanted = output if output.name is None else output._replace(name=names.get(output.name, output.name))
    return theirs.index(wanted) if wanted in theirs else None


def _check_names(names: Mapping[str, str], labels: LabelSet, source: str) -> None:
    known = [category.name for category in labels.categories]
    for ours, theirs in names.items():
        if theirs in known:
            continue
        near = difflib.get_close_matches(theirs, known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        more = f" and {len(known) - _NAMES_SHOWN} more" if len(known) > _NAMES_SHOWN else ""
        raise InputError(
            f"init_names: {ours!r} is to come from {theirs!r}, which {source} does not know; {hint}It knows "
            f'{", ".join(known[:_NAMES_SHOWN])}{more}; give others as --init-names \'{{"OURS": "THEIRS"}}\', or {{}}'
        )


def _describe(
    labels: LabelSet,
    names: Mapping[str, str],
    layers: Sequence[str],
    theirs: Mapping[str, tuple[Output, ...]],
    ours: Mapping[str, tuple[Output, ...]],
) -> list[str]:
    """One line for each way in which classes have come to their outputs in the layers taken class by class."""
    all_known, in_semantic, in_region, new = [], [], [], []
    for category in labels.categories:
        origin = names.get(category.name, category.name)
        asked = [layer for layer in layers if any(output.name == category.name for output in ours[layer])]
        known = [layer for layer in asked if any(output.name == origin for output in theirs[layer])]
        if not asked:
            continue
        group = in_semantic if "semantic.predictor" in known else in_region
        group = new if not known else all_known if known == asked else group
        group.append(category.name if origin == category.name or not known else f"{category.name} from {origin}")
    lines = {
        "classes taken by name": all_known,
        "taken in the semantic branch, new in the region branch": in_semantic,
        "taken in the region branch, new in the semantic branch": in_region,
        "new classes": new,
    }
    return [f"{what} ({len(found)}): {', '.join(found)}" for what, found in lines.items() if found]
