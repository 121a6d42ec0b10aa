"""The recipes that ship: one function each, each returns one complete recipe. A variant names its parent and differs.

`RECIPES` lists them; the command line finds them by name.
"""

import difflib
from collections.abc import Callable

from thingstuff.errors import InputError
from thingstuff.recipe import Recipe
from thingstuff.recipes.best import best_convnext_tiny_coco, best_r50_coco, panoptic_panet_r50_coco
from thingstuff.recipes.panet import (
    mask_rcnn_r50_coco,
    panet_r50_cityscapes,
    panet_r50_coco,
    panet_r50_coco_detection,
    panet_r50_mapillary,
    panet_x101_coco,
)
from thingstuff.recipes.panoptic_fpn import (
    panoptic_fpn_r50_3x_coco,
    panoptic_fpn_r50_cityscapes,
    panoptic_fpn_r50_coco,
    panoptic_fpn_r101_3x_coco,
    semantic_fpn_r50_coco,
)
from thingstuff.recipes.tiny import tiny_facades, tiny_nuclei, tiny_scenes, tiny_scenes_upsnet
from thingstuff.recipes.upsnet import (
    upsnet_r50_cityscapes,
    upsnet_r50_coco,
    upsnet_r101_cityscapes,
    upsnet_r101_dcn_coco,
)

RECIPES: dict[str, Callable[[], Recipe]] = {
    function.__name__: function
    for function in (
        tiny_scenes,
        tiny_scenes_upsnet,
        tiny_facades,
        tiny_nuclei,
        panoptic_fpn_r50_coco,
        panoptic_fpn_r50_3x_coco,
        panoptic_fpn_r101_3x_coco,
        panoptic_fpn_r50_cityscapes,
        semantic_fpn_r50_coco,
        upsnet_r50_coco,
        upsnet_r101_dcn_coco,
        upsnet_r50_cityscapes,
        upsnet_r101_cityscapes,
        mask_rcnn_r50_coco,
        panet_r50_coco,
        panet_r50_coco_detection,
        panet_x101_coco,
        panet_r50_cityscapes,
        panet_r50_mapillary,
        panoptic_panet_r50_coco,
        best_r50_coco,
        best_convnext_tiny_coco,
    )
}

FROM_DATA = "finetune"
"""The recipe that is made for a data set: see ``finetune.py``."""
FROM_DATA_SUMMARY = "Your own data: sizes, anchors, batch and steps are chosen for a data set and a machine."


def find_recipe(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        InputError: There is none; the message names the nearest and lists all.
    """
    if name in RECIPES:
        return RECIPES[name]()
    if name == FROM_DATA:
        raise InputError(
            "recipe finetune is made from data: thingstuff train finetune --data ROOT makes it, says what it chose and "
            "why, and trains; recipe.json in the run folder holds it"
        )
    near = difflib.get_close_matches(name, [FROM_DATA, *RECIPES], n=1)
    hint = f"did you mean {near[0]}? There are" if near else "there are"
    raise InputError(f"there is no recipe {name!r}; {hint}: {', '.join([FROM_DATA, *RECIPES])}")
