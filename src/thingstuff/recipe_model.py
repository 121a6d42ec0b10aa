"""The schema of a network: what a recipe says about pictures, parts and how they combine.

Every constant of a paper stands here with its source. What follows from other values (class counts, channels between
parts) is not configured: it comes from data and parts.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from thingstuff.structures import (
    AnchorKind,
    BackboneNorm,
    BottomUpOrder,
    ChannelOrder,
    LevelFusion,
    MaskPaste,
    NormKind,
    PixelKind,
    StuffFrame,
    StuffMajority,
)

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
TrainTest = tuple[Count, Count]
"""One value for training, one for inference."""


class Schema(BaseModel):
    """What all parts of a recipe share: they cannot be changed and have no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class PictureConfig(Schema):
    """How a picture enters the network."""

    channels: Count = 3
    """Channels of the pictures."""
    pixels: PixelKind = "rgb"
    """`rgb`: three channels are 8-bit RGB, and what is not becomes so; `uint8`, `uint16`: as they stand in the files,
    which must have that type. Other numbers of channels are always as in the files: .npy, and TIFF as Pillow reads it.
    """
    mean: tuple[float, ...] = (123.675, 116.28, 103.53)
    """Of each channel in raw units, in the order of `channel_order`. Default: ImageNet."""
    std: tuple[Positive, ...] = (58.395, 57.12, 57.375)
    """Deviation of each channel. Default: ImageNet."""
    channel_order: ChannelOrder = "rgb"
    """`bgr` for weights from Caffe."""
    short_side: Annotated[int, Field(ge=0)] = 800
    """Prediction brings the shorter side to this many pixels; 0 leaves pictures as they are."""
    max_side: Count = 1333
    """The longer side is at most this long."""

    @model_validator(mode="after")
    def _statistics_fit_channels(self) -> "PictureConfig":
        for name in ("mean", "std"):
            if len(values := getattr(self, name)) != self.channels:
                raise ValueError(f"{name} has {len(values)} values for {self.channels} channels; give one for each")
        return self


class BackboneConfig(Schema):
    """The network that makes features of pictures."""

    name: str = "resnet50"
    """Any timm network with features at strides 4, 8, 16 and 32."""
    pretrained: bool = False
    """Begin with timm's ImageNet weights, which are fetched from the hub."""
    norm: BackboneNorm = "frozen_batch"
    """What becomes of its batch norms. Frozen ones need trained weights to begin with."""
    frozen_stages: Annotated[int, Field(ge=0, le=5)] = 0
    """0 learns everything, 1 freezes the stem, 2 the stem and the stage of stride 4, and so on."""
    stride_in_first_conv: bool = False
    """Stride on the first 1x1 convolution of bottlenecks, as in Caffe's ResNets."""
    deformable_stages: Annotated[int, Field(ge=0, le=4)] = 0
    """So many stages, counted from the last, have deformable 3x3 convolutions (DCN v1); UPSNet's R101-DCN: 3."""


class BottomUpConfig(Schema):
    """PANet's bottom-up path on top of the pyramid. Defaults: the paper."""

    norm: NormKind = "none"
    """Norm after each convolution: synchronised batch norm in the paper, group norm in the official code."""
    relu: bool = True
    """ReLU after each convolution; the official code has none where it has no norm, mmdetection has none."""
    conv_bias: bool = False
    """Convolutions have a bias even with a norm behind them, as in the official code; without norm they always do."""
    order: BottomUpOrder = "paper"
    """`paper`: each level is made of the finished one below; `mmdet`: of what that was before its last convolution."""


class NeckConfig(Schema):
    """The feature pyramid network."""

    channels: Count = 256
    """Channels of every level."""
    norm: NormKind = "none"
    """Norm after each convolution; none in the paper."""
    global_average: bool = False
    """Add the mean of the coarsest features, brought to `channels`, to the top of the pyramid (UPSNet on COCO)."""
    bottom_up: BottomUpConfig | None = None
    """A second path from fine to coarse (PANet)."""


class RPNConfig(Schema):
    """The region proposal network. Defaults: Detectron2."""

    anchor_sizes: tuple[tuple[Positive, ...], ...] = ((32.0,), (64.0,), (128.0,), (256.0,), (512.0,))
    """Square roots of the anchors' areas in pixels, for strides 4, 8, 16, 32 and 64."""
    aspect_ratios: tuple[Positive, ...] = (0.5, 1.0, 2.0)
    """Height over width."""
    candidates_per_level: TrainTest = (2000, 1000)
    """Anchors of each level that enter suppression, in training and inference."""
    num_proposals: TrainTest = (1000, 1000)
    """Proposals that leave, in training and inference."""
    iou_threshold: Fraction = 0.7
    """Largest overlap of two proposals of one level."""
    min_size: Annotated[float, Field(ge=0)] = 0.0
    """Shortest side of a proposal in pixels; torchvision: 0.001."""
    anchor_kind: AnchorKind = "exact"
    """Anchors as they come (Detectron2), rounded to whole pixels (torchvision), or as in Detectron: rounded when small,
    then enlarged, around the middle of the cell."""
    fitted_strides: bool = False
    """Anchors lie apart by picture size over level size, rounded down, as in torchvision, not by the level's stride."""
    negative_iou: Fraction = 0.3
    """Anchors that overlap every object by less are background."""
    positive_iou: Fraction = 0.7
    """Anchors that overlap an object by at least this are positive; in between they do not count."""
    anchors_inside: bool = False
    """Only anchors that lie in the picture learn, as in Detectron, PANet and UPSNet."""
    samples: Count = 256
    """Anchors of each picture that the loss sees."""
    positive_fraction: Fraction = 0.5
    """Largest share of positives among them."""
    balanced: bool = False
    """Positives are taken from one class after the other, so that the objects of a rare one are seen as well."""

    @model_validator(mode="after")
    def _five_levels(self) -> "RPNConfig":
        if len(self.anchor_sizes) != 5:
            raise ValueError(f"anchor_sizes has {len(self.anchor_sizes)} levels; give 5, for strides 4, 8, 16, 32, 64")
        if len({len(sizes) for sizes in self.anchor_sizes}) != 1:
            raise ValueError(
                "anchor_sizes has levels with different numbers of sizes; the head is shared, so give equal"
            )
        if self.negative_iou > self.positive_iou:
            raise ValueError(f"negative_iou {self.negative_iou} is above positive_iou {self.positive_iou}; swap them")
        return self


class BoxHeadConfig(Schema):
    """A small network on each region."""

    kind: Literal["light", "heavy"] = "light"
    """`light`: two fully connected layers (FPN); `heavy`: convolutions, then one fully connected layer (PANet)."""
    size: Count = 7
    """Height and width of the pooled features."""
    width: Count = 1024
    """Length of the hidden vectors."""
    channels: Count = 256
    """Channels of the convolutions; `heavy` alone."""
    num_convs: Count = 4
    """3x3 convolutions; `heavy` alone."""
    norm: NormKind = "none"
    """Norm after each convolution of `heavy` and after each layer of `light`."""
    class_agnostic_boxes: bool = False
    """Predict one box for all classes; Detectron2 has one for each."""


class MaskHeadConfig(Schema):
    """A small network on each box."""

    kind: Literal["conv", "fused"] = "conv"
    """`conv`: convolutions alone (Mask R-CNN); `fused`: a fully connected branch beside them (PANet)."""
    size: Count = 14
    """Height and width of the pooled features; masks have twice as many."""
    channels: Count = 256
    """Channels of its layers."""
    num_convs: Count = 4
    """3x3 convolutions before the upsampling."""
    norm: NormKind = "none"
    """Norm after each convolution; none in the paper."""
    fc_relu: bool = False
    """A ReLU behind the fully connected layer of `fused`, which official PANet weights have and the paper has not."""
    mask_paste: MaskPaste = "pixel_centers"
    """Masks are sampled at pixel centres (Detectron2), or resized to their box in whole pixels (torchvision), in which
    the last pixel of the box is the last one (Detectron, PANet, UPSNet)."""


class RegionConfig(Schema):
    """The branch for things. Defaults: Detectron2."""

    rpn: RPNConfig = RPNConfig()
    """Where to look."""
    box_head: BoxHeadConfig = BoxHeadConfig()
    """What and where exactly it is."""
    mask_head: MaskHeadConfig | None = MaskHeadConfig()
    """Which pixels it has; None for detection alone."""
    pool: Literal["assigned", "adaptive"] = "assigned"
    """Regions are pooled from the level that suits their size (FPN), or from every level (PANet)."""
    level_fusion: LevelFusion = "max"
    """How `adaptive` joins the levels, behind a first layer with weights of its own for each."""
    sampling_ratio: Annotated[int, Field(ge=0)] = 0
    """RoIAlign's samples in each direction of a bin; 0: as many as the region has pixels."""
    aligned: bool = True
    """RoIAlign with pixel centres where they are; torchvision's detectors and older networks: False."""
    score_threshold: Fraction = 0.05
    """Detections with at most this probability are dropped."""
    iou_threshold: Fraction = 0.5
    """Largest overlap of two detections of one class."""
    inclusive_boxes: bool = False
    """Boxes include their last pixel, as in Detectron, PANet and UPSNet: regions are pooled up to its first side. Size,
    deltas, overlaps and levels of such boxes are those of boxes that end behind it, so nothing else differs."""
    class_agnostic_nms: bool = False
    """Detections of different classes suppress each other, as in mmdetection's Panoptic FPN."""
    min_size: Annotated[float, Field(ge=0)] = 0.0
    """Detections with a shorter side, in pixels, are dropped before suppression; torchvision: 0.01."""
    num_detections: Count = 100
    """Detections kept for each picture."""
    box_weights: tuple[Positive, Positive, Positive, Positive] = (10.0, 10.0, 5.0, 5.0)
    """Factors of the box deltas (dx, dy, dw, dh)."""
    positive_iou: Fraction = 0.5
    """Regions that overlap an object by at least this learn its class, others learn background."""
    samples: Count = 512
    """Regions of each picture that the losses see."""
    positive_fraction: Fraction = 0.25
    """Largest share of objects among them."""
    balanced: bool = False
    """Objects are taken from one class after the other, as for `rpn.balanced`."""


class SemanticConfig(Schema):
    """The branch for stuff. Defaults: Panoptic FPN."""

    kind: Literal["upsample_sum", "deformable"] = "upsample_sum"
    """`upsample_sum`: convolutions and x2 steps for each level, added up (Panoptic FPN); `deformable`: one deformable
    network for all levels, side by side (UPSNet)."""
    channels: Count = 128
    """Channels of the branch."""
    num_layers: Annotated[int, Field(ge=2)] = 3
    """Layers of `deformable`; UPSNet has 3 on COCO and 2 on Cityscapes."""
    norm: NormKind = "group"
    """Norm after each convolution; UPSNet has none."""
    predictor_std: Positive | None = None
    """Deviation of the first weights of the last layer of `upsample_sum`; None: Kaiming's, as in Detectron2, which for
    a handful of classes begins with logits of ten and more. `deformable` begins with 0.01."""
    things: Literal["merged", "separate"] = "merged"
    """One output for all thing classes together, or one for each (Semantic FPN alone, UPSNet)."""


class FusionConfig(Schema):
    """How instances and semantic logits become one map. Defaults: Panoptic FPN as in Detectron2."""

    kind: Literal["merge_by_score", "panoptic_logits"] = "merge_by_score"
    """`merge_by_score`: the heuristic of Panoptic FPN; `panoptic_logits`: UPSNet's panoptic head."""
    score_threshold: Fraction = 0.5
    """Instances with a lower score stay out; `panoptic_logits`: and those with this score. UPSNet: 0.6."""
    overlap_threshold: Fraction = 0.5
    """An instance stays out if better ones hide more than this share of it; `panoptic_logits`: better ones of its
    class. UPSNet: 0.3."""
    stuff_area: Annotated[int, Field(ge=0)] = 4096
    """Stuff of fewer pixels stays out."""
    stuff_frame: StuffFrame = "output"
    """Pixels of the `output` (Detectron2, UPSNet), or of the picture as the `network` sees it: then the limit is the
    same share of a picture at whatever size its map is asked for."""
    iou_threshold: Fraction = 0.5
    """Largest overlap of two boxes of any class that enter `panoptic_logits`."""
    kept_fraction: Annotated[float, Field(gt=0, le=1)] = 0.7
    """Share of the true instances that `panoptic_logits` is shown in training; the others teach it the unknown class.
    1: there is no unknown class."""
    stuff_majority: StuffMajority = "half"
    """An instance of `panoptic_logits` becomes stuff where the semantic branch sees one stuff class in at least `half`
    of it (UPSNet's code), or in `more_than_half` (the paper)."""

    @model_validator(mode="after")
    def _thresholds_leave_something(self) -> "FusionConfig":
        if self.kind == "panoptic_logits" and self.score_threshold >= 1:
            raise ValueError("score_threshold is 1, which no score exceeds; give less")
        return self


class ModelConfig(Schema):
    """The parts of the network."""

    backbone: BackboneConfig = BackboneConfig()
    """Picture to features."""
    neck: NeckConfig = NeckConfig()
    """Features to the pyramid that both branches share."""
    region: RegionConfig | None = RegionConfig()
    """The branch for things; None for Semantic FPN alone."""
    semantic: SemanticConfig | None = SemanticConfig()
    """The branch for stuff; None for Mask R-CNN alone."""
    fusion: FusionConfig | None = FusionConfig()
    """How both become one map; None where one branch is alone."""

    @model_validator(mode="after")
    def _branches_fit(self) -> "ModelConfig":
        if self.region is None and self.semantic is None:
            raise ValueError("region and semantic are both None; keep at least one branch")
        if self.fusion is not None and (self.region is None or self.region.mask_head is None or self.semantic is None):
            raise ValueError(
                "fusion needs region with mask_head, and semantic; set fusion to None or add what is missing"
            )
        by_logits = self.fusion is not None and self.fusion.kind == "panoptic_logits"
        if by_logits and self.semantic is not None and self.semantic.things == "merged":
            raise ValueError(
                "fusion.kind panoptic_logits needs semantic logits of each thing class; set semantic.things to separate"
            )
        return self


class TTAConfig(Schema):
    """Test-time augmentation: several looks at one picture. Used only where it is asked for (`--tta`)."""

    scales: Annotated[tuple[Positive, ...], Field(min_length=1)] = (0.75, 1.0, 1.25)
    """Sizes of the picture relative to the usual one."""
    max_side: Count | None = None
    """The longer side is at most this long; None: the usual limit, scaled."""
    flip: bool = True
    """Look at the mirrored picture as well."""
    box_voting: Fraction | None = 0.8
    """A box becomes the mean of all boxes of its class that overlap it by at least this, weighted by score; None: it
    stays. Source: Gidaris and Komodakis, ICCV 2015; Detectron's threshold."""
    mask_voting: Fraction | None = None
    """The same for masks: those of overlapping boxes are averaged in, weighted by score (PANet's challenge entry)."""
