"""PANet's official networks: with masks, and for detection alone with either box head."""

from collections.abc import Iterable
from pathlib import Path

from thingstuff.checkpoint import Checkpoint
from thingstuff.convert.classes import labels_for
from thingstuff.convert.foreign import read_weights
from thingstuff.convert.mapping import ClassLayers, check_project, count_blocks, first_size, in_our_order, take_weights
from thingstuff.convert.resnet import resnet_modules, with_statistics
from thingstuff.recipe import Recipe, derive
from thingstuff.recipes import panet_r50_coco, panet_r50_coco_detection

BACKBONE = "Conv_Body.conv_body."
"""What names of the backbone begin with."""

STAGES = ("res2", "res3", "res4", "res5")
"""Names of the backbone's stages."""

LAYERS = {
    "Conv_Body.conv_top": "neck.lateral.3",
    "Conv_Body.topdown_lateral_modules.0.conv_lateral": "neck.lateral.2",
    "Conv_Body.topdown_lateral_modules.1.conv_lateral": "neck.lateral.1",
    "Conv_Body.topdown_lateral_modules.2.conv_lateral": "neck.lateral.0",
    "Conv_Body.posthoc_modules.0": "neck.output.3",
    "Conv_Body.posthoc_modules.1": "neck.output.2",
    "Conv_Body.posthoc_modules.2": "neck.output.1",
    "Conv_Body.posthoc_modules.3": "neck.output.0",
    "Conv_Body.panet_buttomup_conv1_modules.0": "neck.bottom_up.down.0",
    "Conv_Body.panet_buttomup_conv1_modules.1": "neck.bottom_up.down.1",
    "Conv_Body.panet_buttomup_conv1_modules.2": "neck.bottom_up.down.2",
    "Conv_Body.panet_buttomup_conv2_modules.0": "neck.bottom_up.output.0",
    "Conv_Body.panet_buttomup_conv2_modules.1": "neck.bottom_up.output.1",
    "Conv_Body.panet_buttomup_conv2_modules.2": "neck.bottom_up.output.2",
    "Mask_Head.mask_conv1.0": "region.mask_pool.entries.0",
    "Mask_Head.mask_conv1.1": "region.mask_pool.entries.1",
    "Mask_Head.mask_conv1.2": "region.mask_pool.entries.2",
    "Mask_Head.mask_conv1.3": "region.mask_pool.entries.3",
    "Mask_Head.mask_conv4": "region.mask_head.conv_fcn",
    "Mask_Head.mask_conv4_fc": "region.mask_head.conv_fc.0",
    "Mask_Head.mask_conv5_fc": "region.mask_head.conv_fc.1",
}
"""Our convolution with its norm by PANet's. The pyramid is numbered from its coarse end, all else from the fine one."""

MODULES = {
    **{f"{theirs}.{part}": f"{ours}.{part}" for theirs, ours in LAYERS.items() for part in (0, 1)},
    "RPN.FPN_RPN_conv": "rpn.conv",
    "RPN.FPN_RPN_cls_score": "rpn.objectness",
    "RPN.FPN_RPN_bbox_pred": "rpn.deltas",
    "Box_Outs.cls_score": "region.box_head.outputs.classes",
    "Box_Outs.bbox_pred": "region.box_head.outputs.deltas",
    "Mask_Head.conv_fcn.0": "region.mask_head.convs.0.0",
    "Mask_Head.conv_fcn.1": "region.mask_head.convs.0.1",
    "Mask_Head.conv_fcn.3": "region.mask_head.convs.1.0",
    "Mask_Head.conv_fcn.4": "region.mask_head.convs.1.1",
    "Mask_Head.mask_fc.0": "region.mask_head.fc",
    "Mask_Head.upconv": "region.mask_head.upsample",
    "Mask_Outs.classify": "region.mask_head.predictor",
}
"""Our module by PANet's, without the residual blocks and the box head."""

HEAVY_MODULES = {
    **{
        f"Box_Head.conv1_head.{level}.{part}": f"region.box_pool.entries.{level}.{part}"
        for level in range(4)
        for part in (0, 1)
    },
    "Box_Head.convs.0": "region.box_head.convs.0.0",
    "Box_Head.convs.1": "region.box_head.convs.0.1",
    "Box_Head.convs.3": "region.box_head.convs.1.0",
    "Box_Head.convs.4": "region.box_head.convs.1.1",
    "Box_Head.convs.6": "region.box_head.convs.2.0",
    "Box_Head.convs.7": "region.box_head.convs.2.1",
    "Box_Head.fc": "region.box_head.hidden.1",
}
"""The same for the heavy box head."""

LIGHT_MODULES = {
    **{
        f"Box_Head.fc1.{level}.{part}": f"region.box_pool.entries.{level}.{part + 1}"
        for level in range(4)
        for part in (0, 1)
    },
    "Box_Head.fc2.0": "region.box_head.hidden.0",
    "Box_Head.fc2.1": "region.box_head.hidden.1",
}
"""The same for the light box head; our entries begin with a layer that flattens."""

CLASS_LAYERS = ClassLayers(classes="Box_Outs.cls_score", deltas="Box_Outs.bbox_pred", masks="Mask_Outs.classify")
"""The layers with an output for each class, background first."""


def convert_panet(source: Path | str, labels: Path | str | None = None) -> Checkpoint:
    """Read a PANet of its official code: a saved state of its training, as published.

    Whether it has masks, and which box head, follows from its tensors. The norms of its backbone have scale and shift
    alone; those of neck and heads are group norms, other variants are refused.

    Args:
        source: A `.pth` of that code.
        labels: File with the classes (see ``read_labels``), in order of their category ids; None: COCO's things.

    Raises:
        InputError: The file cannot be read, is not such a network, or has other classes.
    """
    name = str(source)
    tensors = read_weights(source).tensors
    check_project(tensors, "panet", name)
    num_things = first_size(tensors, f"{CLASS_LAYERS.classes}.weight", name, "a PANet of the official code") - 1
    label_set = labels_for(0, num_things, labels, name)
    recipe = panet_recipe(tensors, name)
    tensors = in_our_order(with_statistics(tensors, BACKBONE), CLASS_LAYERS, range(1, num_things + 1))
    weights = take_weights(tensors, panet_modules(recipe), recipe, label_set, "", name)
    credit = f"converted from {Path(source).name} of PANet's official code (MIT); the licence is that of this file"
    return Checkpoint(weights, recipe, label_set, credit=credit)


def panet_modules(recipe: Recipe) -> dict[str, str]:
    """Our module by PANet's, with the residual blocks and the box head of a recipe."""
    assert recipe.model.region is not None
    box_head = HEAVY_MODULES if recipe.model.region.box_head.kind == "heavy" else LIGHT_MODULES
    return resnet_modules(recipe.model.backbone.name, BACKBONE, stem="res1.", stages=STAGES) | MODULES | box_head


def panet_recipe(names: Iterable[str], source: str) -> Recipe:
    """What network it is.

    Args:
        names: Of its tensors.
        source: What to call the file in messages.

    Raises:
        InputError: The backbone is neither ResNet-50 nor ResNet-101.
    """
    known = set(names)
    masks, light = f"{CLASS_LAYERS.masks}.weight" in known, "Box_Head.fc1.0.0.weight" in known
    recipe = panet_r50_coco() if masks else panet_r50_coco_detection()
    if light:
        recipe = derive(recipe, name=f"{recipe.name}_light", model__region__box_head__kind="light")
    backbone = count_blocks(known, f"{BACKBONE}res4", source)
    if backbone == "resnet50":
        return recipe
    short = backbone.replace("resnet", "r")
    return derive(recipe, name=recipe.name.replace("r50", short), model__backbone__name=backbone)
