"""The only place where the choices of a recipe become objects."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import assert_never

from torch import nn

from thingstuff.labels import LabelSet
from thingstuff.model.backbone import Backbone
from thingstuff.model.box_head import HeavyBoxHead, LightBoxHead, fully_connected_entry
from thingstuff.model.fusion import Fusion, merge_by_score, segment_by_logits
from thingstuff.model.mask_head import ConvMaskHead, FusedMaskHead, convolution_entry
from thingstuff.model.neck import FPN, BottomUpPath
from thingstuff.model.panoptic import PanopticSegmenter
from thingstuff.model.pooling import AdaptivePool, AssignedLevelPool
from thingstuff.model.region import RegionBranch, Suppression
from thingstuff.model.rpn import RegionProposalNetwork
from thingstuff.model.semantic import DeformableHead, UpsampleSumHead
from thingstuff.recipe import Recipe
from thingstuff.recipe_model import (
    BoxHeadConfig,
    FusionConfig,
    MaskHeadConfig,
    NeckConfig,
    RegionConfig,
    RPNConfig,
    SemanticConfig,
)

STRIDES = (4, 8, 16, 32)
"""Levels that the backbone has and regions are pooled from."""


def build_network(recipe: Recipe, labels: LabelSet) -> PanopticSegmenter:
    """Build the network of a recipe for the classes of a data set.

    A branch that has nothing to find is left out: the region branch where there are no things, the semantic branch
    where there is no stuff and things are not told apart by it.

    Raises:
        InputError: The backbone is unknown or does not fit.
    """
    model = recipe.model
    backbone = Backbone(
        model.backbone.name,
        in_channels=recipe.picture.channels,
        pretrained=model.backbone.pretrained,
        norm=model.backbone.norm,
        frozen_stages=model.backbone.frozen_stages,
        stride_in_first_conv=model.backbone.stride_in_first_conv,
        deformable_stages=model.backbone.deformable_stages,
    )
    channels = model.neck.channels
    region = model.region if labels.num_things else None
    return PanopticSegmenter(
        backbone,
        _build_neck(model.neck, backbone.channels),
        _build_rpn(region.rpn, channels) if region else None,
        _build_region(region, model.fusion, channels, labels.num_things) if region else None,
        _build_semantic(model.semantic, channels, labels),
        build_fusion(model.fusion, model.region, labels),
        pixel_mean=recipe.picture.mean,
        pixel_std=recipe.picture.std,
        channel_order=recipe.picture.channel_order,
    )


def _build_neck(config: NeckConfig, in_channels: Sequence[int]) -> FPN:
    path = config.bottom_up
    bottom_up = None
    if path is not None:
        bottom_up = BottomUpPath(config.channels, path.norm, relu=path.relu, conv_bias=path.conv_bias, order=path.order)
    return FPN(in_channels, config.channels, config.norm, global_average=config.global_average, bottom_up=bottom_up)


def _build_rpn(config: RPNConfig, channels: int) -> RegionProposalNetwork:
    return RegionProposalNetwork(
        channels,
        config.anchor_sizes,
        config.aspect_ratios,
        config.candidates_per_level,
        config.num_proposals,
        config.iou_threshold,
        min_size=config.min_size,
        anchor_kind=config.anchor_kind,
        fitted_strides=config.fitted_strides,
    )


def _build_region(config: RegionConfig, fusion: FusionConfig | None, channels: int, num_things: int) -> RegionBranch:
    pool = partial(_build_pool, config)
    mask_pool = mask_head = None
    if config.mask_head is not None:
        mask_pool, mask_head = _build_mask_head(config.mask_head, pool, channels, num_things)
    box_pool, box_head = _build_box_head(config.box_head, pool, channels, num_things)
    return RegionBranch(
        box_pool,
        box_head,
        mask_pool,
        mask_head,
        num_detections=config.num_detections,
        detection_rule=Suppression(config.score_threshold, config.iou_threshold, config.class_agnostic_nms),
        candidate_rule=_candidate_rule(fusion),
        box_weights=config.box_weights,
        min_size=config.min_size,
    )


def _candidate_rule(fusion: FusionConfig | None) -> Suppression | None:
    if fusion is None or fusion.kind == "merge_by_score":
        return None
    return Suppression(fusion.score_threshold, fusion.iou_threshold, class_agnostic=True)


PoolBuilder = Callable[[int, Callable[[], nn.Module]], nn.Module]
"""Builds the pool of a head from the size of the pooled features and what builds the head's first layer."""


def _build_pool(config: RegionConfig, size: int, entry: Callable[[], nn.Module]) -> nn.Module:
    match config.pool:
        case "assigned":
            return AssignedLevelPool(
                size,
                entry(),
                STRIDES,
                sampling_ratio=config.sampling_ratio,
                aligned=config.aligned,
                inclusive_boxes=config.inclusive_boxes,
            )
        case "adaptive":
            return AdaptivePool(
                size,
                [entry() for _ in STRIDES],
                STRIDES,
                fuse=config.level_fusion,
                sampling_ratio=config.sampling_ratio,
                aligned=config.aligned,
                inclusive_boxes=config.inclusive_boxes,
            )
        case _:
            assert_never(config.pool)


def _build_box_head(
    config: BoxHeadConfig, pool: PoolBuilder, channels: int, num_things: int
) -> tuple[nn.Module, nn.Module]:
    match config.kind:
        case "light":
            entry = partial(fully_connected_entry, channels, config.size, config.width, config.norm)
            head = LightBoxHead(config.width, num_things, config.class_agnostic_boxes, config.norm)
        case "heavy":
            entry = partial(convolution_entry, channels, config.channels, config.norm)
            head = HeavyBoxHead(
                config.channels,
                config.size,
                config.width,
                num_things,
                config.num_convs,
                config.norm,
                config.class_agnostic_boxes,
            )
        case _:
            assert_never(config.kind)
    return pool(config.size, entry), head


def _build_mask_head(
    config: MaskHeadConfig, pool: PoolBuilder, channels: int, num_things: int
) -> tuple[nn.Module, nn.Module]:
    entry = partial(convolution_entry, channels, config.channels, config.norm)
    match config.kind:
        case "conv":
            head = ConvMaskHead(config.channels, num_things, config.num_convs, config.norm)
        case "fused":
            head = FusedMaskHead(
                config.channels, num_things, config.size, config.num_convs, config.norm, config.fc_relu
            )
        case _:
            assert_never(config.kind)
    return pool(config.size, entry), head


def _build_semantic(
    config: SemanticConfig | None, channels: int, labels: LabelSet
) -> UpsampleSumHead | DeformableHead | None:
    if config is None:
        return None
    merged = config.things == "merged"
    if merged and labels.num_stuff == 0:
        return None
    num_classes = labels.num_stuff + min(labels.num_things, 1) if merged else len(labels)
    match config.kind:
        case "upsample_sum":
            return UpsampleSumHead(
                channels, config.channels, num_classes, STRIDES, config.norm, predictor_std=config.predictor_std
            )
        case "deformable":
            return DeformableHead(channels, config.channels, num_classes, config.num_layers, STRIDES, config.norm)
        case _:
            assert_never(config.kind)


def build_fusion(config: FusionConfig | None, region: RegionConfig | None, labels: LabelSet) -> Fusion | None:
    """Make the function that fuses both branches.

    Args:
        config: How; None: not at all.
        region: The branch for things, which says how masks come to the picture.
        labels: The classes.
    """
    if config is None or region is None or region.mask_head is None:
        return None
    match config.kind:
        case "merge_by_score":
            return partial(
                merge_by_score,
                num_stuff=labels.num_stuff,
                score_threshold=config.score_threshold,
                overlap_threshold=config.overlap_threshold,
                stuff_area=config.stuff_area,
                stuff_frame=config.stuff_frame,
                mask_paste=region.mask_head.mask_paste,
            )
        case "panoptic_logits":
            return partial(
                segment_by_logits,
                num_stuff=labels.num_stuff,
                score_threshold=config.score_threshold,
                overlap_threshold=config.overlap_threshold,
                stuff_area=config.stuff_area,
                stuff_frame=config.stuff_frame,
                unknown=config.kept_fraction < 1,
                stuff_majority=config.stuff_majority,
            )
        case _:
            assert_never(config.kind)
