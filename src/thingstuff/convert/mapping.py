"""Foreign weights under our names: every tensor finds its place, or the file is refused."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from thingstuff.errors import InputError
from thingstuff.labels import LabelSet
from thingstuff.model.build import build_network
from thingstuff.recipe import Recipe, derive

PROJECTS = {
    "detectron2": "proposal_generator.rpn_head.conv.weight",
    "torchvision": "rpn.head.bbox_pred.weight",
    "mmdet": "rpn_head.rpn_conv.weight",
    "upsnet": "rpn.conv_proposal.0.weight",
    "panet": "RPN.FPN_RPN_conv.weight",
}
"""Of each project, a tensor that its detectors have and those of the others have not."""

_NAMES_SHOWN = 8


@dataclass(frozen=True, slots=True)
class ClassLayers:
    """Foreign layers with an output for each class, background first.

    Attributes:
        classes: Logits of the box head.
        deltas: Its box deltas, four for each class.
        masks: Logits of the mask head.
    """

    classes: str
    deltas: str
    masks: str


def check_project(foreign: Iterable[str], kind: str, source: str) -> None:
    """Refuse the weights of a project that another kind of conversion is for.

    Args:
        foreign: Names of the tensors.
        kind: The conversion asked for.
        source: What to call the file in messages.

    Raises:
        InputError: They are of another project in ``PROJECTS``.
    """
    names = set(foreign)
    for other, name in PROJECTS.items():
        if name in names and other != kind:
            raise InputError(
                f"{source}: has {name!r}, so it is not of the kind {kind}; use: thingstuff convert {other}"
            )


def take_weights(
    foreign: Mapping[str, Tensor],
    modules: Mapping[str, str],
    recipe: Recipe,
    labels: LabelSet,
    extra: str,
    source: str,
    *,
    part: str = "",
) -> dict[str, Tensor]:
    """Give foreign weights our names.

    Args:
        foreign: Tensors by their foreign names, with the classes in our order.
        modules: Our module by foreign module; the last part of a tensor's name (``weight``, ``running_mean``) is the
            same in both.
        recipe: Of the network that the weights are for.
        labels: Its classes.
        extra: Regular expression for the foreign tensors that have no place in our network and need none.
        source: What to call the file in messages.
        part: Take only the tensors whose names with us begin so.

    Raises:
        InputError: Tensors are missing, unexpected or of another shape; the message names them.
    """
    shapes = {name: shape for name, shape in network_shapes(recipe, labels).items() if name.startswith(part)}
    ours = foreign_names(shapes, modules)
    unexpected = [name for name in foreign if name not in ours and not re.fullmatch(extra, name)]
    missing = [name for name in ours if name not in foreign]
    wrong = [
        f"{name} {tuple(foreign[name].shape)}, not {tuple(shapes[our])}"
        for name, our in ours.items()
        if name in foreign and foreign[name].shape != shapes[our]
    ]
    problems = [
        f"{what} {len(names)} ({_listed(names)})"
        for what, names in (("lacks", missing), ("has unexpected", unexpected), ("has another shape of", wrong))
        if names
    ]
    if problems:
        raise InputError(
            f"{source}: not the network of {recipe.name} with {labels.num_things} thing and {labels.num_stuff} stuff "
            f"classes: {'; '.join(problems)}; convert a checkpoint of that network"
        )
    return {our: foreign[name].contiguous() for name, our in ours.items()}


def in_our_order(foreign: Mapping[str, Tensor], layers: ClassLayers, kept: Sequence[int]) -> dict[str, Tensor]:
    """ClassLayers of the kept classes; background, which foreign networks have first, comes last.

    Args:
        foreign: By their foreign names.
        layers: Those concerned. One that is not there, or has not the outputs of all classes, stays as it is.
        kept: The foreign number of each of our classes.
    """
    changed = dict(foreign)
    count = len(foreign[f"{layers.classes}.weight"])
    for leaf in ("weight", "bias"):
        for layer, rows, chosen in (
            (layers.classes, count, [*kept, 0]),
            (layers.deltas, 4 * count, [4 * number + side for number in kept for side in range(4)]),
            (layers.masks, count, list(kept)),
        ):
            name = f"{layer}.{leaf}"
            if name in foreign and len(foreign[name]) == rows:
                changed[name] = foreign[name][chosen]
    return changed


def network_shapes(recipe: Recipe, labels: LabelSet) -> dict[str, torch.Size]:
    """Shape of every tensor of a recipe's network."""
    with torch.device("meta"):
        network = build_network(derive(recipe, model__backbone__pretrained=False), labels)
    return {name: tensor.shape for name, tensor in network.state_dict().items()}


def foreign_names(names: Iterable[str], modules: Mapping[str, str]) -> dict[str, str]:
    """Our name of every tensor by its foreign name."""
    theirs = {ours: foreign for foreign, ours in modules.items()}
    parts = [(name, *name.rpartition(".")) for name in names]
    return {f"{theirs[module]}.{leaf}": name for name, module, _, leaf in parts}


def first_size(foreign: Mapping[str, Tensor], name: str, source: str, network: str) -> int:
    """Length of a tensor: the number of outputs of a layer.

    Raises:
        InputError: The tensor is not there.
    """
    if name not in foreign:
        raise InputError(f"{source}: has no {name!r}, so it is not {network}; convert a checkpoint of that network")
    return foreign[name].shape[0]


def count_blocks(foreign: Iterable[str], stage: str, source: str) -> str:
    """Which ResNet it is, from the number of blocks of its stride-16 stage.

    Args:
        foreign: Names of the tensors.
        stage: What the names of that stage begin with.
        source: What to call the file in messages.

    Raises:
        InputError: It is neither ResNet-50 nor ResNet-101.
    """
    blocks = {int(match[1]) for name in foreign if (match := re.match(re.escape(stage) + r"\.(\d+)\.", name))}
    names = {6: "resnet50", 23: "resnet101"}
    if len(blocks) not in names:
        raise InputError(
            f"{source}: its stage {stage!r} has {len(blocks)} blocks; ResNet-50 has 6 and ResNet-101 has 23, "
            "others cannot be converted"
        )
    return names[len(blocks)]


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:_NAMES_SHOWN])
    return shown + (f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else "")
