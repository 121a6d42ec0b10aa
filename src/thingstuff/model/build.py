"""The only place where the choices of a recipe become objects."""

from functools import partial

from torch import nn

from thingstuff.labels import LabelSet
from thingstuff.model.backbone import Backbone
from thingstuff.model.box_head import LightBoxHead, fully_connected_entry
from thingstuff.model.fusion import Fusion, merge_by_score
from thingstuff.model.mask_head import ConvMaskHead, convolution_entry
from thingstuff.model.neck import FPN
from thingstuff.model.panoptic import PanopticSegmenter
from thingstuff.model.pooling import AssignedLevelPool
from thingstuff.model.region import RegionBranch
from thingstuff.model.rpn import RegionProposalNetwork
from thingstuff.model.semantic import UpsampleSumHead
from thingstuff.recipe import Recipe
from thingstuff.recipe_model import FusionConfig, RegionConfig, RPNConfig, SemanticConfig


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
    )
    channels = model.neck.channels
    region = model.region if labels.num_things else None
    return PanopticSegmenter(
        backbone,
        FPN(backbone.channels, channels, model.neck.norm),
        _build_rpn(region.rpn, channels) if region else None,
        _build_region(region, channels, labels.num_things) if region else None,
        _build_semantic(model.semantic, channels, labels),
        _build_fusion(model.fusion, model.region, labels),
        pixel_mean=recipe.picture.mean,
        pixel_std=recipe.picture.std,
        channel_order=recipe.picture.channel_order,
    )


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


def _build_region(config: RegionConfig, channels: int, num_things: int) -> RegionBranch:
    def pool(size: int, entry: nn.Module) -> AssignedLevelPool:
        return AssignedLevelPool(
            size,
            entry,
            sampling_ratio=config.sampling_ratio,
            aligned=config.aligned,
            inclusive_boxes=config.inclusive_boxes,
        )

    box, mask = config.box_head, config.mask_head
    mask_pool = mask_head = None
    if mask is not None:
        mask_pool = pool(mask.size, convolution_entry(channels, mask.channels, mask.norm))
        mask_head = ConvMaskHead(mask.channels, num_things, mask.num_convs, mask.norm)
    return RegionBranch(
        pool(box.size, fully_connected_entry(channels, box.size, box.width)),
        LightBoxHead(box.width, num_things, box.class_agnostic_boxes),
        mask_pool,
        mask_head,
        num_detections=config.num_detections,
        score_threshold=config.score_threshold,
        iou_threshold=config.iou_threshold,
        box_weights=config.box_weights,
        class_agnostic_nms=config.class_agnostic_nms,
        min_size=config.min_size,
    )


def _build_semantic(config: SemanticConfig | None, channels: int, labels: LabelSet) -> UpsampleSumHead | None:
    if config is None:
        return None
    merged = config.things == "merged"
    if merged and labels.num_stuff == 0:
        return None
    num_classes = labels.num_stuff + min(labels.num_things, 1) if merged else len(labels)
    return UpsampleSumHead(channels, config.channels, num_classes, norm=config.norm)


def _build_fusion(config: FusionConfig | None, region: RegionConfig | None, labels: LabelSet) -> Fusion | None:
    if config is None or region is None or region.mask_head is None:
        return None
    return partial(
        merge_by_score,
        num_stuff=labels.num_stuff,
        score_threshold=config.score_threshold,
        overlap_threshold=config.overlap_threshold,
        stuff_area=config.stuff_area,
        mask_paste=region.mask_head.mask_paste,
    )
