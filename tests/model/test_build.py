"""Every choice of a recipe reaches the network."""

from collections.abc import Callable
from functools import partial
from itertools import product

import pytest
import torch
from torch import nn

from thingstuff.errors import InputError
from thingstuff.labels import LabelSet
from thingstuff.model.box_head import HeavyBoxHead, LightBoxHead
from thingstuff.model.build import build_network
from thingstuff.model.fusion import merge_by_score
from thingstuff.model.mask_head import ConvMaskHead, FusedMaskHead
from thingstuff.model.neck import FPN, BottomUpPath
from thingstuff.model.panoptic import PanopticSegmenter
from thingstuff.model.pooling import AdaptivePool, AssignedLevelPool
from thingstuff.model.region import RegionBranch, Suppression
from thingstuff.model.rpn import RegionProposalNetwork
from thingstuff.model.semantic import UpsampleSumHead
from thingstuff.recipe import Recipe, derive
from thingstuff.recipe_model import BoxHeadConfig, MaskHeadConfig
from thingstuff.recipes import panet_r50_coco, panet_r50_coco_detection, panoptic_fpn_r50_coco, semantic_fpn_r50_coco

Maker = Callable[..., PanopticSegmenter]
SMALL = {"model__backbone__name": "test_resnet"}


@pytest.fixture(scope="module")
def coco_network(make_labels: Callable[[int, int], LabelSet]) -> PanopticSegmenter:
    with torch.device("meta"):
        return build_network(panoptic_fpn_r50_coco(), make_labels(53, 80))


def region_of(network: PanopticSegmenter) -> RegionBranch:
    assert isinstance(network.region, RegionBranch)
    return network.region


def classes_of(network: PanopticSegmenter) -> int | None:
    """Channels of the semantic branch."""
    if network.semantic is None:
        return None
    assert isinstance(network.semantic, UpsampleSumHead)
    return network.semantic.predictor.out_channels


def count(module: nn.Module | None, trainable: bool = False) -> int:
    assert module is not None
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable)


def test_panoptic_fpn_has_as_many_parameters_as_detectron2s(coco_network: PanopticSegmenter) -> None:
    assert count(coco_network) == 45_973_990
    assert count(coco_network, trainable=True) == 45_751_590
    assert count(coco_network.backbone) + count(coco_network.neck) == 26_799_296
    assert count(coco_network.rpn) == 593_935
    assert count(coco_network.region) == 16_949_985
    assert count(coco_network.semantic) == 1_630_774
    trainable = [name for name, parameter in coco_network.named_parameters() if parameter.requires_grad]
    assert len(trainable) == 107


def test_panoptic_fpn_has_detectron2s_constants(coco_network: PanopticSegmenter) -> None:
    rpn, region = coco_network.rpn, region_of(coco_network)
    assert isinstance(rpn, RegionProposalNetwork)
    assert (rpn.candidates_per_level, rpn.num_proposals, rpn.iou_threshold) == ((2000, 1000), (1000, 1000), 0.7)
    assert (region.num_detections, region.detection_rule) == (100, Suppression(0.05, 0.5))
    assert region.box_weights == (10, 10, 5, 5)
    for pool, size in ((region.box_pool, 7), (region.mask_pool, 14)):
        assert isinstance(pool, AssignedLevelPool)
        assert (pool.size, pool.sampling_ratio, pool.aligned, pool.strides) == (size, 0, True, (4, 8, 16, 32))
    fusion = coco_network.fusion
    assert isinstance(fusion, partial)
    assert fusion.func is merge_by_score
    expected = {"num_stuff": 53, "score_threshold": 0.5, "overlap_threshold": 0.5, "stuff_area": 4096}
    assert fusion.keywords.items() >= expected.items()
    assert coco_network.channel_order == "bgr"


def test_semantic_fpn_tells_all_classes_apart(make_labels: Callable[[int, int], LabelSet]) -> None:
    with torch.device("meta"):
        network = build_network(semantic_fpn_r50_coco(), make_labels(53, 80))
    assert network.rpn is network.region is network.fusion is None
    assert classes_of(network) == 133


@pytest.mark.parametrize(
    ("num_stuff", "num_things", "things", "classes"),
    [(3, 2, "merged", 4), (3, 0, "merged", 3), (0, 2, "merged", None), (3, 2, "separate", 5), (0, 2, "separate", 2)],
)
def test_branches_follow_the_classes(
    make_network: Maker, num_stuff: int, num_things: int, things: str, classes: int | None
) -> None:
    network = make_network(num_stuff, num_things, **SMALL, model__semantic__things=things)
    assert classes_of(network) == classes
    assert (network.region is None) == (network.rpn is None) == (num_things == 0)
    if num_things:
        head = region_of(network).box_head
        assert head.get_parameter("outputs.classes.weight").shape == (num_things + 1, 16)


@pytest.mark.parametrize(("num_stuff", "num_things"), [(3, 0), (0, 2)])
def test_networks_for_one_kind_of_class_make_maps(make_network: Maker, num_stuff: int, num_things: int) -> None:
    network = make_network(
        num_stuff, num_things, **SMALL, model__fusion__stuff_area=0, model__fusion__score_threshold=0
    )
    images = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        outputs = network(images, torch.tensor([[64, 96]]))
    assert network.fusion is not None
    maps = network.fusion(outputs, 0, (64, 96), (64, 96))
    assert len(maps.labels) > 0
    assert ((maps.labels >= 0) & (maps.labels < num_stuff + num_things)).all()
    if num_things == 0:
        assert (maps.ids > 0).all()


def test_options_of_the_region_branch(make_network: Maker) -> None:
    network = make_network(
        **SMALL,
        model__region__sampling_ratio=2,
        model__region__aligned=False,
        model__region__score_threshold=0.1,
        model__region__iou_threshold=0.3,
        model__region__box_weights=(1.0, 2.0, 3.0, 4.0),
        model__region__box_head={"size": 5, "width": 24, "class_agnostic_boxes": True},
        model__region__mask_head={"size": 8, "channels": 12, "num_convs": 2, "norm": "group"},
    )
    region = region_of(network)
    for pool, size in ((region.box_pool, 5), (region.mask_pool, 8)):
        assert isinstance(pool, AssignedLevelPool)
        assert (pool.size, pool.sampling_ratio, pool.aligned) == (size, 2, False)
    assert (region.detection_rule, region.box_weights) == (Suppression(0.1, 0.3), (1, 2, 3, 4))
    assert region.box_head.get_parameter("outputs.deltas.weight").shape == (4, 24)
    assert region.get_parameter("box_pool.entry.1.weight").shape == (24, 16 * 25)
    assert region.get_parameter("mask_pool.entry.0.weight").shape == (12, 16, 3, 3)
    assert region.mask_head is not None
    assert sum(isinstance(module, nn.GroupNorm) for module in region.modules()) == 2


def test_options_of_the_other_parts(make_network: Maker) -> None:
    network = make_network(
        **SMALL,
        model__backbone__norm="group",
        model__backbone__frozen_stages=2,
        model__neck__norm="group",
        model__semantic__norm="none",
        model__fusion={"score_threshold": 0.1, "overlap_threshold": 0.2, "stuff_area": 3},
        model__region__rpn__iou_threshold=0.6,
        model__region__rpn__aspect_ratios=(1.0, 2.0),
    )
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.backbone.modules())
    assert any(not parameter.requires_grad for parameter in network.backbone.parameters())
    assert any(isinstance(module, nn.GroupNorm) for module in network.neck.modules())
    assert network.semantic is not None
    assert not any(isinstance(module, nn.BatchNorm2d | nn.GroupNorm) for module in network.semantic.modules())
    assert isinstance(network.fusion, partial)
    expected = {"num_stuff": 3, "score_threshold": 0.1, "overlap_threshold": 0.2, "stuff_area": 3}
    assert network.fusion.keywords.items() >= expected.items()
    assert isinstance(network.rpn, RegionProposalNetwork)
    assert network.rpn.iou_threshold == 0.6
    assert network.rpn.objectness.out_channels == 2


# --- PANet's parts ---


def neck_of(network: PanopticSegmenter) -> FPN:
    assert isinstance(network.neck, FPN)
    return network.neck


def test_options_of_the_neck(make_network: Maker) -> None:
    plain = neck_of(make_network(**SMALL))
    assert plain.bottom_up is plain.global_average is None
    options = {"norm": "group", "relu": False, "conv_bias": True, "order": "mmdet"}
    neck = neck_of(make_network(**SMALL, model__neck__bottom_up=options, model__neck__global_average=True))
    assert isinstance(neck.global_average, nn.Linear)
    assert isinstance(neck.bottom_up, BottomUpPath)
    assert neck.bottom_up.order == "mmdet"
    assert neck.bottom_up.get_parameter("down.2.0.bias").shape == (16,)
    assert sum(isinstance(module, nn.GroupNorm) for module in neck.bottom_up.modules()) == 6
    assert not any(isinstance(module, nn.ReLU) for module in neck.bottom_up.modules())
    assert not any(isinstance(module, nn.GroupNorm) for module in (*neck.lateral.modules(), *neck.output.modules()))


def test_options_of_adaptive_pools_and_panets_heads(make_network: Maker) -> None:
    network = make_network(
        **SMALL,
        model__region__pool="adaptive",
        model__region__level_fusion="sum",
        model__region__sampling_ratio=2,
        model__region__aligned=False,
        model__region__inclusive_boxes=True,
        model__region__box_head=BoxHeadConfig(
            kind="heavy", size=5, width=24, channels=12, num_convs=3, norm="group", class_agnostic_boxes=True
        ),
        model__region__mask_head=MaskHeadConfig(
            kind="fused", size=8, channels=10, num_convs=3, norm="group", fc_relu=True
        ),
    )
    region = region_of(network)
    for pool, size in ((region.box_pool, 5), (region.mask_pool, 8)):
        assert isinstance(pool, AdaptivePool)
        assert (pool.size, pool.strides, pool.fuse) == (size, (4, 8, 16, 32), "sum")
        assert (pool.sampling_ratio, pool.aligned, pool.inclusive_boxes) == (2, False, True)
    for level in range(4):
        assert region.get_parameter(f"box_pool.entries.{level}.0.weight").shape == (12, 16, 3, 3)
        assert region.get_parameter(f"mask_pool.entries.{level}.0.weight").shape == (10, 16, 3, 3)
    assert region.get_parameter("box_head.hidden.1.weight").shape == (24, 12 * 25)
    assert region.get_parameter("box_head.outputs.deltas.weight").shape == (4, 24)
    assert region.get_parameter("mask_head.fc.weight").shape == (256, 5 * 64)
    assert isinstance(region.box_head, HeavyBoxHead)
    assert isinstance(region.mask_head, FusedMaskHead)
    assert (len(region.box_head.convs), len(region.mask_head.convs), region.mask_head.fc_relu) == (2, 1, True)
    # Entries on four levels of two pools; two convolutions; one, the last one, and two of the branch.
    assert sum(isinstance(module, nn.GroupNorm) for module in region.modules()) == 8 + 2 + 4


def test_norm_of_the_light_box_head(make_network: Maker) -> None:
    region = region_of(make_network(**SMALL, model__region__box_head={"width": 16, "norm": "group"}))
    for name in ("box_pool.entry.2", "box_head.hidden.1"):
        assert isinstance(region.get_submodule(name), nn.GroupNorm)


COMBINATIONS = list(product(("assigned", "adaptive"), ("light", "heavy"), (None, "conv", "fused"), (False, True)))


@pytest.mark.parametrize(("pool", "box", "mask", "path"), COMBINATIONS)
def test_all_combinations_find_many_things_and_none(
    make_network: Maker, pool: str, box: str, mask: str | None, path: bool
) -> None:
    norm = "group" if path else "none"
    network = make_network(
        **SMALL,
        model__neck__bottom_up={"norm": norm} if path else None,
        model__neck__global_average=path,
        model__region__pool=pool,
        model__region__box_head={"kind": box, "width": 16, "channels": 8, "norm": norm},
        model__region__mask_head=mask and {"kind": mask, "size": 6, "channels": 8, "norm": norm},
        model__fusion=None,
    )
    region = region_of(network)
    assert type(region.box_head) is {"light": LightBoxHead, "heavy": HeavyBoxHead}[box]
    assert type(region.mask_head) is {None: type(None), "conv": ConvMaskHead, "fused": FusedMaskHead}[mask]
    pools = {"assigned": AssignedLevelPool, "adaptive": AdaptivePool}
    assert {type(part) for part in (region.box_pool, region.mask_pool) if part is not None} == {pools[pool]}
    images = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    background = region.box_head.get_parameter("outputs.classes.bias")
    for offset, expected in ((-1000.0, 12), (1000.0, 0)):
        with torch.no_grad():
            background[-1] = offset
            found = network(images, torch.tensor([[64, 96], [50, 70]])).instances
        assert found.valid.sum(dim=1).tolist() == [expected, expected]
        assert found.boxes.shape == (2, 12, 4)
        assert (found.mask_logits is None) == (mask is None)
        if mask is not None:
            assert found.mask_logits.shape == (2, 12, 12, 12)
            assert found.mask_logits.isfinite().all()


@pytest.mark.parametrize(
    ("recipe", "changes", "official"),
    [
        (panet_r50_coco, {}, 73_356_357),
        (panet_r50_coco_detection, {}, 48_385_508),
        (panet_r50_coco_detection, {"model__region__box_head__kind": "light"}, 83_851_236),
    ],
)
def test_panet_has_as_many_parameters_as_the_official_code(
    make_labels: Callable[[int, int], LabelSet], recipe: Callable[[], Recipe], changes: dict, official: int
) -> None:
    with torch.device("meta"):
        network = build_network(derive(recipe(), **changes), make_labels(0, 80))
    # The official count has scale and shift of the frozen norms, four deltas and a mask for background.
    weights = (tensor for name, tensor in network.state_dict().items() if "running" not in name)
    region = region_of(network)
    background = 4 * 1025 + (257 if region.mask_head is not None else 0)
    assert sum(tensor.numel() for tensor in weights) == official - background


def test_a_fused_mask_head_with_one_convolution_is_refused(make_network: Maker) -> None:
    with pytest.raises(InputError, match="num_convs is 1; a fused mask head needs at least 2"):
        make_network(**SMALL, model__region__mask_head={"kind": "fused", "num_convs": 1})


def test_pixel_statistics_come_from_the_recipe(make_network: Maker) -> None:
    network = make_network(**SMALL, picture__mean=(1.0, 2.0, 3.0), picture__std=(4.0, 5.0, 6.0))
    assert network.pixel_mean.flatten().tolist() == [1, 2, 3]
    assert network.pixel_std.flatten().tolist() == [4, 5, 6]


def test_unknown_backbone_is_refused(small_recipe, make_labels: Callable[[int, int], LabelSet]) -> None:
    recipe = derive(small_recipe, model__backbone__name="resnet5000")
    with pytest.raises(InputError, match="backbone: timm has no network named 'resnet5000'"):
        build_network(recipe, make_labels(3, 2))
