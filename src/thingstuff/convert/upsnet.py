"""UPSNet's published networks and what its code has trained, told apart by what their files hold."""

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from thingstuff.checkpoint import Checkpoint
from thingstuff.convert.classes import coco_labels, labels_for
from thingstuff.convert.foreign import read_weights
from thingstuff.convert.mapping import ClassLayers, check_project, count_blocks, first_size, in_our_order, take_weights
from thingstuff.convert.resnet import resnet_modules, with_statistics
from thingstuff.errors import InputError
from thingstuff.labels import LabelSet
from thingstuff.recipe import Recipe, derive
from thingstuff.recipes import RECIPES, upsnet_r50_cityscapes, upsnet_r50_coco

MODULES = {
    "fpn.fpn_p2_1x1": "neck.lateral.0.0",
    "fpn.fpn_p3_1x1": "neck.lateral.1.0",
    "fpn.fpn_p4_1x1": "neck.lateral.2.0",
    "fpn.fpn_p5_1x1": "neck.lateral.3.0",
    "fpn.fpn_p2": "neck.output.0.0",
    "fpn.fpn_p3": "neck.output.1.0",
    "fpn.fpn_p4": "neck.output.2.0",
    "fpn.fpn_p5": "neck.output.3.0",
    "fpn.fpn_gap": "neck.global_average",
    "rpn.conv_proposal.0": "rpn.conv",
    "rpn.cls_score": "rpn.objectness",
    "rpn.bbox_pred": "rpn.deltas",
    "rcnn.fc6.0": "region.box_pool.entry.1",
    "rcnn.fc7.0": "region.box_head.hidden.0",
    "rcnn.cls_score": "region.box_head.outputs.classes",
    "rcnn.bbox_pred": "region.box_head.outputs.deltas",
    "mask_branch.mask_conv1.0": "region.mask_pool.entry.0",
    "mask_branch.mask_conv2.0": "region.mask_head.convs.0.0",
    "mask_branch.mask_conv3.0": "region.mask_head.convs.1.0",
    "mask_branch.mask_conv4.0": "region.mask_head.convs.2.0",
    "mask_branch.mask_deconv1.0": "region.mask_head.upsample",
    "mask_branch.mask_score": "region.mask_head.predictor",
    "fcn_head.score": "semantic.predictor",
}
"""Our module by UPSNet's, without the residual blocks and the deformable layers."""

CLASS_LAYERS = ClassLayers(classes="rcnn.cls_score", deltas="rcnn.bbox_pred", masks="mask_branch.mask_score")
"""The layers with an output for each thing class, background first."""

EXTRA = r".*\.num_batches_tracked"
"""Counters of batch norm, which mean nothing once it stands still."""

STAGES = tuple(f"res{number}.layers" for number in range(2, 6))
"""UPSNet's names of the backbone's stages."""


def convert_upsnet(source: Path | str, labels: Path | str | None = None) -> Checkpoint:
    """Read a UPSNet, as published or of a user's own training.

    Which network it is follows from its tensors: the depth of the backbone, its deformable stages, the mean of the
    coarsest features in the pyramid, and the layers of the semantic branch. Picture statistics and sizes, thresholds
    and box conventions are not in the file; they are those of the recipe.

    A Caffe ResNet, with which UPSNet's trainings begin, gives a checkpoint of its backbone alone (`--init`).

    Things are taken to be in order of their category ids, and stuff, which comes first in the semantic outputs as here,
    likewise.

    Args:
        source: What torch has saved: weights by name.
        labels: File with the classes (see ``read_labels``); None: COCO's or Cityscapes', by their number.

    Raises:
        InputError: The file cannot be read, is not such a network, or has other classes.
    """
    name = str(source)
    tensors = read_weights(source).tensors
    check_project(tensors, "upsnet", name)
    if "conv1.weight" in tensors:
        return _convert_resnet(tensors, name)
    num_things = first_size(tensors, f"{CLASS_LAYERS.classes}.weight", name, "a UPSNet") - 1
    num_classes = first_size(tensors, "fcn_head.score.weight", name, "a UPSNet")
    if num_classes < num_things:
        raise InputError(
            f"{name}: has {num_things} thing classes but {num_classes} semantic outputs, which are to count stuff and "
            "things; convert a whole checkpoint of a UPSNet"
        )
    label_set = labels_for(num_classes - num_things, num_things, labels, name)
    recipe = upsnet_recipe(tensors, label_set, name)
    tensors = in_our_order(tensors, CLASS_LAYERS, range(1, num_things + 1))
    weights = take_weights(tensors, upsnet_modules(recipe), recipe, label_set, EXTRA, name)
    return Checkpoint(weights, recipe, label_set, credit=_credit(source))


def upsnet_modules(recipe: Recipe) -> dict[str, str]:
    """Our module by UPSNet's, with residual blocks and deformable layers."""
    modules = resnet_modules(recipe.model.backbone.name, "resnet_backbone.", stem="conv1.", stages=STAGES) | MODULES
    modules |= {f"{theirs}_offset": f"{ours}.offset" for theirs, ours in modules.items() if ours.endswith(".conv2")}
    assert recipe.model.semantic is not None
    for layer in range(recipe.model.semantic.num_layers):
        modules[f"fcn_head.fcn_subnet.conv.{layer}.0.conv"] = f"semantic.layers.{layer}.0"
        modules[f"fcn_head.fcn_subnet.conv.{layer}.0.conv_offset"] = f"semantic.layers.{layer}.0.offset"
    return modules


def upsnet_recipe(tensors: Mapping[str, Tensor], labels: LabelSet, source: str) -> Recipe:
    """What network it is: a recipe that ships, or the nearest with its parts.

    Sizes of pictures and the limit of stuff are COCO's where the classes or the pyramid are, else Cityscapes'.

    Args:
        tensors: By UPSNet's names.
        labels: Its classes.
        source: What to call the file in messages.

    Raises:
        InputError: The backbone is neither ResNet-50 nor ResNet-101, or the semantic branch has too few layers.
    """
    backbone = count_blocks(tensors, f"resnet_backbone.{STAGES[2]}", source)
    deformable = {match[1] for name in tensors if (match := re.match(r"resnet_backbone\.(res\d)\..*_offset\.", name))}
    layers = {match[1] for name in tensors if (match := re.match(r"fcn_head\.fcn_subnet\.conv\.(\d+)\.", name))}
    if len(layers) < 2:
        raise InputError(
            f"{source}: its semantic branch has {len(layers)} deformable layers; UPSNet has 2 or 3, fewer cannot be "
            "converted"
        )
    global_average = "fpn.fpn_gap.weight" in tensors
    on_coco = global_average or labels == coco_labels()
    suffix = ("_dcn" if deformable else "") + ("_coco" if on_coco else "_cityscapes")
    recipe = derive(
        upsnet_r50_coco() if on_coco else upsnet_r50_cityscapes(),
        name=f"upsnet_{backbone.replace('resnet', 'r')}{suffix}",
        model__backbone__name=backbone,
        model__backbone__deformable_stages=len(deformable),
        model__neck__global_average=global_average,
        model__semantic__num_layers=len(layers),
    )
    shipped = RECIPES.get(recipe.name)
    return shipped() if shipped is not None and shipped().model == recipe.model else recipe


def _convert_resnet(tensors: Mapping[str, Tensor], source: str) -> Checkpoint:
    backbone = count_blocks(tensors, "layer3", source)
    recipe = derive(upsnet_r50_coco(), name=f"caffe_{backbone}", model__backbone__name=backbone)
    labels, modules = coco_labels(), resnet_modules(backbone, "")
    extra = rf"{EXTRA}|fc\.(weight|bias)"
    weights = take_weights(with_statistics(tensors), modules, recipe, labels, extra, source, part="backbone.")
    return Checkpoint(weights, recipe, labels, credit=_credit(source))


def _credit(source: Path | str) -> str:
    return (
        f"converted from {Path(source).name} of UPSNet (Uber Non-Commercial License); the licence is that of this file"
    )
