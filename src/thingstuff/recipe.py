"""The typed schema of a recipe: everything that decides what is learned, and nothing that depends on the machine.

A recipe is frozen and validated as a whole; a wrong key, choice or value is refused with the name of the field.
The network's part of the schema is in ``recipe_model.py``; here is what concerns learning, and the recipe itself.
"""

import difflib
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError, model_validator
from tyro.conf import Suppress

from thingstuff.errors import InputError
from thingstuff.recipe_model import Count, Fraction, ModelConfig, PictureConfig, Positive, Schema, TTAConfig
from thingstuff.structures import Precision


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
    paste: Fraction = 0.0
    """Probability that objects of another picture are laid over, mostly of rare classes (copy-paste)."""
    paste_until: Fraction = 1.0
    """Share of the steps after which that happens no more: the last ones see pictures as they are."""

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
    roi_semantic_weight: Annotated[float, Field(ge=0)] = 0.0
    """Of the semantic loss inside the boxes of objects (UPSNet on COCO: 0.04)."""
    panoptic_weight: Annotated[float, Field(ge=0)] = 0.0
    """Of the loss behind the panoptic head (UPSNet: 0.1 on COCO, 0.5 on Cityscapes)."""
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
    momentum_of: Literal["gradients", "steps"] = "gradients"
    """What SGD's momentum carries on: gradients (PyTorch), or steps, each with the learning rate of its time (Caffe,
    UPSNet). They differ where the rate rises or falls; at `milestones`, steps shrink with the rate, so that they
    agree there."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    """Of weights that are neither norm nor bias."""
    norm_weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Of the norms' weights and biases."""
    bias_weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    """Of the other biases."""
    bias_learning_rate_factor: Positive = 1.0
    """Learning rate of the other biases as a multiple; Caffe's habit is 2."""
    norm_biases_as: Literal["norms", "biases"] = "norms"
    """Whether biases of norms follow the rules of norms (Detectron2, UPSNet) or of other biases (PANet's code)."""
    gradient_clip: Positive | None = None
    """Largest norm of the gradient of all weights."""
    precision: Precision = "float32"
    """Of the network's arithmetic; losses and weights stay float32, and all does where a machine has no bfloat16."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Keep an exponential moving average of the weights and predict with it."""

    @model_validator(mode="after")
    def _momentum_fits(self) -> "OptimizerConfig":
        if self.momentum_of == "steps" and self.kind != "sgd":
            raise ValueError(
                f"momentum_of is steps, which is for sgd, and kind is {self.kind}; set momentum_of to gradients"
            )
        return self


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
    tta: TTAConfig = TTAConfig()
    """Test-time augmentation, where it is asked for."""
    init_names: Mapping[str, str] = {}
    """What the data that `--init` weights were trained on calls a class, where it has another name."""
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

    @model_validator(mode="after")
    def _losses_have_something_to_see(self) -> "Recipe":
        fusion = self.model.fusion
        if self.loss.panoptic_weight > 0 and (fusion is None or fusion.kind != "panoptic_logits"):
            raise ValueError(
                f"loss.panoptic_weight is {self.loss.panoptic_weight}, but there is no panoptic head to learn through; "
                "set model.fusion.kind to panoptic_logits, or the weight to 0"
            )
        if self.loss.roi_semantic_weight > 0 and self.model.semantic is None:
            raise ValueError(
                f"loss.roi_semantic_weight is {self.loss.roi_semantic_weight}, but model.semantic is None; set the "
                "weight to 0"
            )
        return self


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


CLASS_COUNTS = frozenset(("num_classes", "num_things", "num_stuff", "thing_classes", "stuff_classes"))
"""What other tools want to be told, and what goes wrong there in silence when it is not what the data say."""
FROM_CATEGORIES = (
    "how many classes there are, which of them are things, and their order follow from the data set's categories"
)


def describe(error: ValidationError) -> str:
    """Say in one line what is wrong with which field, with the nearest valid name for a wrong key."""
    return "; ".join(_describe_one(detail) for detail in error.errors(include_url=False))


def _describe_one(detail: Any) -> str:
    location = [part for part in detail["loc"] if part not in ("scenes", "files")]
    field = ".".join(str(part) for part in location)
    if detail["type"] == "extra_forbidden":
        if location[-1] in CLASS_COUNTS:
            return f"{field} is not a field; {FROM_CATEGORIES}"
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
