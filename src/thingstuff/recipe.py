"""The typed schema of a recipe: everything that decides what is learned, and nothing that depends on the machine.

A recipe is frozen and validated as a whole; a wrong key, choice or value is refused with the name of the field.
What follows from other values (class counts, channels between parts) is not configured: it comes from data and parts.
Every constant of a paper stands here with its source.
"""

import difflib
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from tyro.conf import Suppress

from thingstuff.errors import InputError
from thingstuff.structures import AnchorKind, BackboneNorm, ChannelOrder, MaskPaste, NormKind

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


class NeckConfig(Schema):
    """The feature pyramid network."""

    channels: Count = 256
    """Channels of every level."""
    norm: NormKind = "none"
    """Norm after each convolution; none in the paper."""


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
    samples: Count = 256
    """Anchors of each picture that the loss sees."""
    positive_fraction: Fraction = 0.5
    """Largest share of positives among them."""

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
    """Two fully connected layers on each region."""

    size: Count = 7
    """Height and width of the pooled features."""
    width: Count = 1024
    """Length of the hidden vectors."""
    class_agnostic_boxes: bool = False
    """Predict one box for all classes; Detectron2 has one for each."""


class MaskHeadConfig(Schema):
    """A small fully convolutional network on each box."""

    size: Count = 14
    """Height and width of the pooled features; masks have twice as many."""
    channels: Count = 256
    """Channels of its layers."""
    num_convs: Count = 4
    """3x3 convolutions before the upsampling."""
    norm: NormKind = "none"
    """Norm after each convolution; none in the paper."""
    mask_paste: MaskPaste = "pixel_centers"
    """Masks are sampled at pixel centres (Detectron2), or resized to their box in whole pixels (torchvision)."""


class RegionConfig(Schema):
    """The branch for things. Defaults: Detectron2."""

    rpn: RPNConfig = RPNConfig()
    """Where to look."""
    box_head: BoxHeadConfig = BoxHeadConfig()
    """What and where exactly it is."""
    mask_head: MaskHeadConfig | None = MaskHeadConfig()
    """Which pixels it has; None for detection alone."""
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


class SemanticConfig(Schema):
    """The branch for stuff. Defaults: Panoptic FPN."""

    channels: Count = 128
    """Channels of the branch."""
    norm: NormKind = "group"
    """Norm after each convolution."""
    things: Literal["merged", "separate"] = "merged"
    """One output for all thing classes together, or one for each (Semantic FPN alone)."""


class FusionConfig(Schema):
    """Panoptic FPN's merge by score. Defaults: Detectron2."""

    score_threshold: Fraction = 0.5
    """Instances with a lower score stay out."""
    overlap_threshold: Fraction = 0.5
    """An instance stays out if better ones hide more than this share of it."""
    stuff_area: Annotated[int, Field(ge=0)] = 4096
    """Stuff of fewer pixels of the output stays out."""


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
        return self


class ScenesConfig(Schema):
    """Procedural pictures: no files needed."""

    kind: Annotated[Literal["scenes"], Suppress] = "scenes"
    train_seed: int = 1
    """Seed of the training pictures."""
    val_seed: int = 2
    """Seed of the validation pictures."""
    train_count: Count = 20000
    """Training pictures; they are drawn when needed."""
    val_count: Count = 128
    """Validation pictures."""
    size: tuple[Annotated[int, Field(ge=64)], Annotated[int, Field(ge=64)]] = (128, 192)
    """Height and width."""


class FilesConfig(Schema):
    """A data set in COCO panoptic format, under the folder given as `--data`."""

    kind: Annotated[Literal["files"], Suppress] = "files"
    train_split: str = "train"
    """Learned from: `panoptic_<split>.json`."""
    val_split: str = "val"
    """Judged on."""
    overlapping_instances: bool = False
    """Take instance masks from `instances_<split>.json`, where they may overlap, as Detectron2 does."""


class ColorConfig(Schema):
    """Random changes of colour; each is the largest relative change."""

    brightness: Fraction = 0.0
    """Of brightness."""
    contrast: Fraction = 0.0
    """Of contrast."""
    saturation: Fraction = 0.0
    """Of saturation."""
    hue: Fraction = 0.0
    """Of hue; 1 is half the colour circle either way."""


class AugmentationConfig(Schema):
    """What happens to training pictures. Defaults: Detectron2."""

    short_sides: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (
        640,
        672,
        704,
        736,
        768,
        800,
    )
    """One of these is the length of the shorter side; 0 leaves it as it is."""
    max_side: Count = 1333
    """The longer side is at most this long."""
    scale_jitter: tuple[Positive, Positive] = (1.0, 1.0)
    """The size is multiplied by a factor between these."""
    crop: tuple[Count, Count] | None = None
    """Height and width of a random window, cut after scaling."""
    flip: Fraction = 0.5
    """Probability of a horizontal flip."""
    vertical_flip: Fraction = 0.0
    """Probability of a vertical flip."""
    color: ColorConfig | None = None
    """Random changes of colour."""

    @model_validator(mode="after")
    def _jitter_rises(self) -> "AugmentationConfig":
        if self.scale_jitter[0] > self.scale_jitter[1]:
            raise ValueError(f"scale_jitter {self.scale_jitter} falls; give the smaller factor first")
        return self


class LossConfig(Schema):
    """Weights and forms of the losses. L = instance (Lc + Lb + Lm) + semantic Ls + Lrpn."""

    instance_weight: Annotated[float, Field(ge=0)] = 1.0
    """Lambda_i of the paper: classes, boxes and masks of regions; proposals have weight 1, as in Detectron2."""
    semantic_weight: Annotated[float, Field(ge=0)] = 0.5
    """Lambda_s of the paper."""
    semantic_size: Literal["full", "quarter"] = "full"
    """Compare logits with the label map at full size (Detectron2), or at stride 4, which is far cheaper."""
    semantic_mean: Literal["labelled", "all"] = "labelled"
    """Mean over the labelled pixels (the paper, Detectron2), or over all, void and padding included (mmdetection)."""
    box_beta: Annotated[float, Field(ge=0)] = 0.0
    """Smooth L1 is quadratic below it; 0 is plain L1 (Detectron2)."""
    rpn_beta: Annotated[float, Field(ge=0)] = 0.0
    """The same for proposals."""


class OptimizerConfig(Schema):
    """How weights follow gradients. Defaults: Detectron2."""

    kind: Literal["sgd", "adamw"] = "sgd"
    """SGD has Nesterov off."""
    learning_rate: Positive = 0.02
    """For `batch_size` pictures; with another batch it is scaled in proportion."""
    batch_size: Count = 16
    """Pictures in a step over all processes, unless the command says otherwise."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Of SGD; the first beta of AdamW."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    """Of weights that are neither norm nor bias."""
    norm_weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Of the norms' weights and biases."""
    bias_weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    """Of the other biases."""
    bias_learning_rate_factor: Positive = 1.0
    """Learning rate of the other biases as a multiple; Caffe's habit is 2."""
    gradient_clip: Positive | None = None
    """Largest norm of the gradient of all weights."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the network's arithmetic; losses and weights stay float32."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Keep an exponential moving average of the weights and predict with it."""


class ScheduleConfig(Schema):
    """How long, and how the learning rate goes. Defaults: Detectron2's 1x."""

    steps: Count = 90000
    """Steps of `batch_size` pictures; fewer or more where the batch is larger or smaller."""
    warmup_steps: Annotated[int, Field(ge=0)] = 1000
    """Steps in which the learning rate rises linearly."""
    warmup_factor: Fraction = 0.001
    """Where it begins."""
    decay: Literal["steps", "cosine"] = "steps"
    """Falls by `gamma` at `milestones`, or along half a cosine to `final_factor`."""
    milestones: tuple[Count, ...] = (60000, 80000)
    """Steps at which it falls."""
    gamma: Fraction = 0.1
    """Factor at each milestone."""
    final_factor: Fraction = 0.0
    """Where the cosine ends."""
    evaluate_every: Count = 5000
    """Steps between evaluations on the validation pictures."""
    early_stopping: Count | None = None
    """Stop after so many evaluations without a better PQ."""
    repeat_threshold: Fraction = 0.0
    """Show pictures with classes that fewer pictures have more often (repeat factor sampling, LVIS); 0 does not."""

    @model_validator(mode="after")
    def _milestones_fit(self) -> "ScheduleConfig":
        if self.decay == "steps" and any(milestone >= self.steps for milestone in self.milestones):
            raise ValueError(f"milestones {self.milestones} must come before the last of {self.steps} steps")
        return self


class Recipe(Schema):
    """Everything that decides what is learned."""

    name: Annotated[str, Suppress]
    """Name of the recipe."""
    picture: PictureConfig = PictureConfig()
    """How a picture enters the network."""
    model: ModelConfig = ModelConfig()
    """The parts of the network."""
    source: Annotated[ScenesConfig | FilesConfig, Field(discriminator="kind")] = FilesConfig()
    """Where pictures come from."""
    augmentation: AugmentationConfig = AugmentationConfig()
    """What happens to training pictures."""
    loss: LossConfig = LossConfig()
    """What is minimised."""
    optim: OptimizerConfig = OptimizerConfig()
    """How weights follow gradients."""
    schedule: ScheduleConfig = ScheduleConfig()
    """How long."""


def derive(recipe: Recipe, **changes: Any) -> Recipe:
    """A recipe that differs from its parent in some fields, validated as a whole.

    Args:
        recipe: The parent.
        changes: A field's new value, which may be a whole part; in nested names two underscores stand for a dot, as in
            ``model__backbone__name="resnet101"``.

    Raises:
        InputError: A field does not exist or a value does not fit.
    """
    values = recipe.model_dump()
    for path, value in changes.items():
        *parents, last = path.split("__")
        target = values
        for parent in parents:
            if not isinstance(target.get(parent), dict):
                raise InputError(
                    f"recipe {recipe.name}: {path.replace('__', '.')} cannot be set, {parent!r} is not there"
                )
            target = target[parent]
        target[last] = value.model_dump() if isinstance(value, BaseModel) else value
    return read_recipe(values, f"recipe {recipe.name}")


def read_recipe(values: Mapping[str, Any] | str | bytes, source: str) -> Recipe:
    """Validate a recipe that comes from a file, a checkpoint or another recipe.

    Args:
        values: As a mapping or as JSON.
        source: What to call the origin in messages.

    Raises:
        InputError: One line that names each wrong field, its value and what is allowed.
    """
    try:
        if isinstance(values, str | bytes):
            return Recipe.model_validate_json(values)
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{source}: {describe(error)}") from None


def describe(error: ValidationError) -> str:
    """Say in one line what is wrong with which field, with the nearest valid name for a wrong key."""
    return "; ".join(_describe_one(detail) for detail in error.errors(include_url=False))


def _describe_one(detail: Any) -> str:
    location = [part for part in detail["loc"] if part not in ("scenes", "files")]
    field = ".".join(str(part) for part in location)
    if detail["type"] == "extra_forbidden":
        near = difflib.get_close_matches(field, field_names(), n=1) or difflib.get_close_matches(
            str(location[-1]), {name.rsplit(".", 1)[-1] for name in field_names()}, n=1
        )
        return f"{field} is not a field" + (f"; did you mean {near[0]}?" if near else "")
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] in ("value_error", "missing"):
        return f"{field}: {message}" if field else message
    return f"{field} is {detail['input']!r}: {message[0].lower()}{message[1:]}"


def field_names(schema: type[BaseModel] = Recipe, prefix: str = "") -> list[str]:
    """Dotted names of all fields of a recipe."""
    names = []
    for name, field in schema.model_fields.items():
        names.append(prefix + name)
        for part in _schemas(field.annotation):
            names.extend(field_names(part, f"{prefix}{name}."))
    return names


def _schemas(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in getattr(annotation, "__args__", ()):
        yield from _schemas(part)
