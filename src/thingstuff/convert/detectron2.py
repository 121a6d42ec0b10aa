"""Detectron2's Panoptic FPN: names, class order, and the files of its model zoo."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from thingstuff.checkpoint import Checkpoint
from thingstuff.convert.caffe2 import convert_caffe2_resnet, is_caffe2_resnet
from thingstuff.convert.classes import labels_for
from thingstuff.convert.foreign import ForeignWeights, read_weights
from thingstuff.convert.mapping import check_project, count_blocks, first_size, take_weights
from thingstuff.convert.resnet import BLOCKS
from thingstuff.errors import InputError
from thingstuff.model.rpn import cell_anchors
from thingstuff.recipe import Recipe, derive
from thingstuff.recipes import panoptic_fpn_r50_3x_coco, panoptic_fpn_r50_coco, panoptic_fpn_r101_3x_coco

MODULES = {
    "backbone.bottom_up.stem.conv1": "backbone.body.conv1",
    "backbone.bottom_up.stem.conv1.norm": "backbone.body.bn1",
    "backbone.fpn_lateral2": "neck.lateral.0.0",
    "backbone.fpn_lateral3": "neck.lateral.1.0",
    "backbone.fpn_lateral4": "neck.lateral.2.0",
    "backbone.fpn_lateral5": "neck.lateral.3.0",
    "backbone.fpn_output2": "neck.output.0.0",
    "backbone.fpn_output3": "neck.output.1.0",
    "backbone.fpn_output4": "neck.output.2.0",
    "backbone.fpn_output5": "neck.output.3.0",
    "proposal_generator.rpn_head.conv": "rpn.conv",
    "proposal_generator.rpn_head.objectness_logits": "rpn.objectness",
    "proposal_generator.rpn_head.anchor_deltas": "rpn.deltas",
    "roi_heads.box_head.fc1": "region.box_pool.entry.1",
    "roi_heads.box_head.fc2": "region.box_head.hidden.0",
    "roi_heads.box_predictor.cls_score": "region.box_head.outputs.classes",
    "roi_heads.box_predictor.bbox_pred": "region.box_head.outputs.deltas",
    "roi_heads.mask_head.mask_fcn1": "region.mask_pool.entry.0",
    "roi_heads.mask_head.mask_fcn2": "region.mask_head.convs.0.0",
    "roi_heads.mask_head.mask_fcn3": "region.mask_head.convs.1.0",
    "roi_heads.mask_head.mask_fcn4": "region.mask_head.convs.2.0",
    "roi_heads.mask_head.deconv": "region.mask_head.upsample",
    "roi_heads.mask_head.predictor": "region.mask_head.predictor",
    "sem_seg_head.p2.0": "semantic.levels.0.0.0",
    "sem_seg_head.p2.0.norm": "semantic.levels.0.0.1",
    "sem_seg_head.p3.0": "semantic.levels.1.0.0",
    "sem_seg_head.p3.0.norm": "semantic.levels.1.0.1",
    "sem_seg_head.p4.0": "semantic.levels.2.0.0",
    "sem_seg_head.p4.0.norm": "semantic.levels.2.0.1",
    "sem_seg_head.p4.2": "semantic.levels.2.1.0",
    "sem_seg_head.p4.2.norm": "semantic.levels.2.1.1",
    "sem_seg_head.p5.0": "semantic.levels.3.0.0",
    "sem_seg_head.p5.0.norm": "semantic.levels.3.0.1",
    "sem_seg_head.p5.2": "semantic.levels.3.1.0",
    "sem_seg_head.p5.2.norm": "semantic.levels.3.1.1",
    "sem_seg_head.p5.4": "semantic.levels.3.2.0",
    "sem_seg_head.p5.4.norm": "semantic.levels.3.2.1",
    "sem_seg_head.predictor": "semantic.predictor",
}
"""Our module by Detectron2's, without the residual blocks."""

BLOCK_MODULES = {
    "conv1": "conv1",
    "conv1.norm": "bn1",
    "conv2": "conv2",
    "conv2.norm": "bn2",
    "conv3": "conv3",
    "conv3.norm": "bn3",
    "shortcut": "downsample.0",
    "shortcut.norm": "downsample.1",
}
"""The same inside a residual block."""

EXTRA = r"pixel_(mean|std)|proposal_generator\.anchor_generator\.cell_anchors\.[0-4]"
"""Constants that older versions of Detectron2 kept among the weights."""


@dataclass(frozen=True, slots=True)
class ReleasedFile:
    """A file of Detectron2's model zoo.

    Attributes:
        title: What the model zoo calls it.
        path: Below the model zoo's address.
        md5_prefix: The beginning of the file's MD5, which its name ends with.
        sha256: Of the file, where known.
        recipe: Makes our recipe for it.
    """

    title: str
    path: str
    md5_prefix: str
    sha256: str | None
    recipe: Callable[[], Recipe]

    @property
    def credit(self) -> str:
        """Licence and whom to name."""
        return (
            f"{self.title} of the Detectron2 Model Zoo (Facebook AI Research), CC BY-SA 3.0, "
            "https://creativecommons.org/licenses/by-sa/3.0/; trained on COCO 2017 (annotations CC BY 4.0); "
            "changed: tensors renamed, classes in another order"
        )


RELEASED = tuple(
    ReleasedFile(title, f"COCO-PanopticSegmentation/{title}/{number}/model_final_{prefix}.pkl", prefix, sha256, recipe)
    for title, number, prefix, sha256, recipe in (
        ("panoptic_fpn_R_50_1x", 139514544, "dbfeb4", None, panoptic_fpn_r50_coco),
        ("panoptic_fpn_R_50_3x", 139514569, "c10459", None, panoptic_fpn_r50_3x_coco),
        (
            "panoptic_fpn_R_101_3x",
            139514519,
            "cafdb1",
            "808c675e647298688589c895c9581f7f3963995c5708bc53f66449200321d147",
            panoptic_fpn_r101_3x_coco,
        ),
    )
)
"""Panoptic FPN in Detectron2's model zoo."""


def convert_detectron2(source: Path | str, labels: Path | str | None = None) -> Checkpoint:
    """Read a Panoptic FPN of Detectron2, from its model zoo or from a user's own training.

    A ResNet of its model zoo under Caffe2's names (`ImageNetPretrained/MSRA/R-50.pkl`) gives a checkpoint of its
    backbone alone, which a training can begin with (`--init`).

    The file holds weights only: picture statistics, thresholds and sizes are those of Detectron2's configuration, but
    for the statistics and anchors that older versions kept among the weights, which are taken or must agree.

    Args:
        source: A `.pkl` of the model zoo or a `.pth` of a training.
        labels: File with the classes (see ``read_labels``); None: COCO's. Detectron2 numbers things by ascending id,
            and stuff likewise after one class for all things.

    Raises:
        InputError: The file cannot be read, is not such a network, or has other classes.
    """
    name = str(source)
    foreign = read_weights(source)
    if is_caffe2_resnet(foreign.tensors):
        return convert_caffe2_resnet(foreign.tensors, Path(source))
    check_project(foreign.tensors, "detectron2", name)
    network = "a Panoptic FPN of Detectron2"
    num_things = first_size(foreign.tensors, "roi_heads.box_predictor.cls_score.weight", name, network) - 1
    num_stuff = first_size(foreign.tensors, "sem_seg_head.predictor.weight", name, network) - 1
    label_set = labels_for(num_stuff, num_things, labels, name)
    backbone = count_blocks(foreign.tensors, "backbone.bottom_up.res4", name)
    released = find_released(Path(source))
    recipe = _with_constants(_recipe(backbone, released), foreign.tensors, name)
    tensors = {key: _in_our_order(key, tensor) for key, tensor in foreign.tensors.items()}
    weights = take_weights(tensors, all_modules(backbone), recipe, label_set, EXTRA, name)
    return Checkpoint(weights, recipe, label_set, credit=_credit(foreign, released, Path(source)))


def all_modules(backbone: str) -> dict[str, str]:
    """Our module by Detectron2's, with the residual blocks of a ResNet."""
    modules = dict(MODULES)
    for stage, count in enumerate(BLOCKS[backbone]):
        for block in range(count):
            for theirs, ours in BLOCK_MODULES.items():
                modules[f"backbone.bottom_up.res{stage + 2}.{block}.{theirs}"] = (
                    f"backbone.body.layer{stage + 1}.{block}.{ours}"
                )
    return modules


def find_released(file: Path) -> ReleasedFile | None:
    """The file of the model zoo that this is, told by its content."""
    with open(file, "rb") as opened:
        digest = hashlib.file_digest(opened, "md5").hexdigest()
    return next((released for released in RELEASED if digest.startswith(released.md5_prefix)), None)


def _in_our_order(name: str, tensor: Tensor) -> Tensor:
    """Detectron2's first semantic output is all things together, ours is the last."""
    return tensor.roll(-1, dims=0) if name.startswith("sem_seg_head.predictor.") else tensor


def _recipe(backbone: str, released: ReleasedFile | None) -> Recipe:
    if released is not None:
        return released.recipe()
    return panoptic_fpn_r50_coco() if backbone == "resnet50" else panoptic_fpn_r101_3x_coco()


def _with_constants(recipe: Recipe, foreign: Mapping[str, Tensor], source: str) -> Recipe:
    """Take the statistics that stand among the weights; refuse anchors that are not the recipe's."""
    for field, name in (("picture__mean", "pixel_mean"), ("picture__std", "pixel_std")):
        if name in foreign:
            # Values come from float32; the recipe's are decimal.
            values = tuple(round(value, 4) for value in foreign[name].flatten().tolist())
            recipe = derive(recipe, **{field: values})
    assert recipe.model.region is not None
    rpn = recipe.model.region.rpn
    for level, sizes in enumerate(rpn.anchor_sizes):
        anchors = foreign.get(f"proposal_generator.anchor_generator.cell_anchors.{level}")
        expected = torch.tensor(cell_anchors(sizes, rpn.aspect_ratios))
        if anchors is not None and not (
            anchors.shape == expected.shape and torch.allclose(anchors, expected, atol=1e-3)
        ):
            raise InputError(
                f"{source}: its anchors of level {level} are {anchors.tolist()}, not those of sizes {sizes} and ratios "
                f"{rpn.aspect_ratios}; only Detectron2's standard anchors can be converted"
            )
    return recipe


def _credit(foreign: ForeignWeights, released: ReleasedFile | None, source: Path) -> str:
    if released is not None:
        return released.credit
    if foreign.author:
        return f"{source.name}, by {foreign.author}; the licence is that of this file"
    return f"converted from {source.name} of a Detectron2 training; the licence is that of this file"
