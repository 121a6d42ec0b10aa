"""The recipe `finetune`: made for a data set and a machine, from the recipe of a network that has learned something.

It is a pure function of a few numbers, so that what it chooses can be read, tested and said. What it chooses for town
houses and nuclei on a processor is close to `tiny_facades` and `tiny_nuclei`, which were found by trying.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from thingstuff.recipe import FilesConfig, Recipe, derive

PERCENTILES = (2, 10, 25, 50, 75, 90, 98)
"""Of the sizes of objects."""

_FILLED = 0.75
"""Share of its box that the mask of an object covers, about; an ellipse covers 0.79."""
_CLEAR_SIDE = 16
"""Pixels: objects of this size have four cells of the pyramid's finest level across."""
_SHORT_SIDES = {"processor": (320, 512), "gpu": (800, 1024)}
"""The shorter side is brought to one between these: 320 is what the small recipes were found with, 800 what networks
have learned on COCO with."""
_WINDOW = 320
"""Side in pixels of the windows that are learned from."""
_ANCHORS = (8.0, 32.0)
"""Of stride 4: at least twice the stride, or too few anchors meet an object; at most Detectron2's."""
_DETECTIONS = (40, 400)
_CROWDED = 60
"""Objects in a picture from which more regions of a picture are learned from."""
_CROWDED_SAMPLES = 128
_STUFF_SHARE = 0.004
"""Of a picture: less is no stuff that anybody would miss; of 256x256 about the 400 pixels of `tiny_nuclei`."""
_PROCESSOR_BATCH = 8
_EPOCHS = {"from nothing": 50, "from weights": 20}
_MANY_CORES = 8
_STEPS = {
    ("few cores", "from nothing"): (1500, 3000),
    ("few cores", "from weights"): (600, 1000),
    ("many cores", "from nothing"): (1500, 6000),
    ("many cores", "from weights"): (600, 3000),
    ("gpu", "from nothing"): (2000, 20000),
    ("gpu", "from weights"): (2000, 20000),
}
"""Fewest and most. From nothing the small recipes began to give maps at some 1,000 steps. With weights to begin from,
300 steps on nuclei were as good as 1,500 from nothing; 1,000 take an hour or two on a core without bfloat16."""
_LEAST_BETWEEN = 50
"""Steps between evaluations, which may take longer than some steps."""
_BYTES_PER_PIXEL = 3000
"""Memory for a pixel of a batch with all that gradients need: Detectron2's model zoo has 4.8 GB for two pictures."""
_RESERVED_BYTES = 2 * 1024**3
_FREE_SHARE = 0.8


@dataclass(frozen=True, slots=True)
class DataProfile:
    """What a data set is like, in the numbers that choices rest on.

    Attributes:
        pictures: How many there are to learn from.
        short_side: Median length of the shorter side in pixels.
        aspect: 95th percentile of longer over shorter side.
        channels: Of a picture.
        dtype: Of its numbers, ``uint8`` or ``uint16``.
        mean: Of each channel, where pictures are not 8-bit RGB; else empty.
        std: The same.
        object_sizes: Percentiles (see ``PERCENTILES``) of the square root of an object's area over the shorter side of
            its picture; empty without objects. Times the shorter side that a network sees, they are in its pixels.
        objects_95: 95th percentile of the objects in a picture.
        objects_max: Most objects in a picture.
        stuff_area: 5th percentile of the areas of stuff in pixels; 0 without stuff.
        class_shares: In which share of the pictures each class is, in class order.
        num_things: Thing classes.
        num_stuff: Stuff classes.
    """

    pictures: int
    short_side: float
    aspect: float
    channels: int
    dtype: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    object_sizes: tuple[float, ...]
    objects_95: float
    objects_max: int
    stuff_area: float
    class_shares: tuple[float, ...]
    num_things: int
    num_stuff: int

    @property
    def is_rgb(self) -> bool:
        """Whether pictures are 8-bit RGB."""
        return (self.channels, self.dtype) == (3, "uint8")


@dataclass(frozen=True, slots=True)
class Machine:
    """What there is to compute with.

    Attributes:
        cores: Of the processor.
        gpu_memory: Bytes of one GPU; None: there is none.
        processes: That learn together.
    """

    cores: int
    gpu_memory: int | None = None
    processes: int = 1


class Choice(NamedTuple):
    """One choice: a field of the recipe, its value, and why."""

    field: str
    value: Any
    why: str


def finetune(
    profile: DataProfile,
    machine: Machine,
    parent: Recipe,
    *,
    learned: bool = False,
    short_side: int | None = None,
    batch_size: int | None = None,
    steps: int | None = None,
) -> tuple[Recipe, tuple[Choice, ...]]:
    """Make a recipe for a data set and a machine.

    Args:
        profile: What the data set is like.
        machine: What there is to compute with.
        parent: Recipe of the network to begin from: parts, losses and optimiser are its own.
        learned: Weights come with it; else more steps are needed.
        short_side: Shorter side that the user wants; None: chosen. What hangs on it follows.
        batch_size: Pictures in a step, likewise.
        steps: Steps, likewise.

    Returns:
        The recipe, and what is worth saying of the choices.
    """
    size = _choose_short_side(profile, machine) if short_side is None else _given("picture.short_side", short_side)
    side = size.value or round(profile.short_side)
    longest = math.ceil(side * min(4.0, max(2.0, profile.aspect)))
    windows = _choose_windows(profile, machine, parent, side)
    seen = math.prod(windows.value) if windows.field == "augmentation.crop" else side * longest
    batch = _choose_batch(machine, parent, seen) if batch_size is None else _given("optim.batch_size", batch_size)
    rate = float(f"{parent.optim.learning_rate * batch.value / parent.optim.batch_size:.3g}")
    length = _choose_steps(profile, machine, batch.value, learned) if steps is None else _given("schedule.steps", steps)
    choices = (
        *_choose_channels(profile),
        size,
        windows,
        *_choose_for_objects(profile, machine, parent, side),
        *_choose_stuff_area(profile, parent, side),
        batch,
        Choice("optim.learning_rate", rate, f"as {parent.name}, in proportion to the batch"),
        length,
        _choose_repeat_threshold(profile),
    )
    changes = _what_follows(profile, parent, size.value, longest, windows, length.value)
    changes |= {choice.field: choice.value for choice in choices}
    return derive(parent, **{field.replace(".", "__"): value for field, value in changes.items()}), choices


def _what_follows(
    profile: DataProfile, parent: Recipe, short_side: int, longest: int, windows: Choice, steps: int
) -> dict[str, Any]:
    """Fields that need no words, because they follow from the choices."""
    changes: dict[str, Any] = {
        "name": "finetune",
        "source": FilesConfig(),
        "init_names": {},
        "picture.max_side": longest,
        "augmentation.max_side": longest,
        "schedule.warmup_steps": min(parent.schedule.warmup_steps, steps // 10),
        "schedule.decay": "cosine",
        "schedule.milestones": (),
        "schedule.final_factor": 0.01,
        "schedule.evaluate_every": max(_LEAST_BETWEEN, steps // 10),
        "schedule.early_stopping": None,
        # Measured on house fronts alone; elsewhere objects may come to stand where they never do.
        "augmentation.paste": 0.0,
    }
    if windows.field == "augmentation.crop":
        window = min(windows.value)
        low, high = parent.augmentation.scale_jitter if parent.augmentation.crop else (0.7, 1.7)
        # Large objects are seen whole where the picture is made smaller than the window.
        whole = 1.8 * window / longest
        changes["augmentation.short_sides"] = (short_side,)
        changes["augmentation.scale_jitter"] = (round(min(low, max(0.3, whole)), 2), high)
    if not profile.is_rgb:
        changes |= {
            "picture.pixels": profile.dtype,
            "picture.mean": profile.mean,
            "picture.std": profile.std,
            "picture.channel_order": "rgb",
            "augmentation.color": None,
        }
    if parent.model.fusion is not None:
        changes["model.fusion.stuff_frame"] = "network"
    region = parent.model.region
    if region is not None and profile.objects_95 > _CROWDED:
        changes["model.region.samples"] = max(region.samples, _CROWDED_SAMPLES)
    return changes


# --- one choice each ---


def _given(field: str, value: int) -> Choice:
    return Choice(field, value, "as given")


def _choose_channels(profile: DataProfile) -> list[Choice]:
    if profile.is_rgb:
        return []
    why = f"of {profile.dtype}, as in the files; mean and deviation are measured, colours stay as they are"
    return [Choice("picture.channels", profile.channels, why)]


def _choose_short_side(profile: DataProfile, machine: Machine) -> Choice:
    """The size at which three quarters of the objects are clear, as far as the machine and the pictures go."""
    least, most = _SHORT_SIDES["processor" if machine.gpu_memory is None else "gpu"]
    quarter = _size(profile, 25)
    wanted = max(least, math.ceil(min(most, _CLEAR_SIDE / quarter))) if quarter else least
    # Enlarged pictures show no more; but networks learned on COCO are used to pictures enlarged twofold.
    native = round(profile.short_side)
    largest = max(64, native if machine.gpu_memory is None else 2 * native)
    side = largest if wanted >= largest else wanted // 32 * 32
    why = "as the pictures are" if side == native else f"the pictures have {native}"
    if quarter:
        why += f"; a quarter of the objects has less than {math.ceil(quarter * side)} pixels a side then"
    return Choice("picture.short_side", side, why)


def _choose_windows(profile: DataProfile, machine: Machine, parent: Recipe, side: int) -> Choice:
    """What is seen of a training picture: a window, or on a GPU all of it where the parent learned so."""
    if machine.gpu_memory is not None and parent.augmentation.crop is None:
        sides = tuple(round(side * percent / 100) for percent in (80, 84, 88, 92, 96, 100))
        return Choice("augmentation.short_sides", sides, "whole pictures in several sizes, mirrored at random")
    window = max(32, min(side, _WINDOW))
    return Choice("augmentation.crop", (window, window), "windows of pictures scaled and mirrored at random")


def _choose_for_objects(profile: DataProfile, machine: Machine, parent: Recipe, side: int) -> list[Choice]:
    region = parent.model.region
    if region is None or not profile.object_sizes:
        return []
    least, most = (_size(profile, percent) * side / math.sqrt(_FILLED) for percent in (PERCENTILES[0], PERCENTILES[-1]))
    # Five octaves around the middle of what there is, in steps of half an octave.
    first = min(_ANCHORS[1], max(_ANCHORS[0], math.sqrt(least * most) / 4))
    first = float(round(_ANCHORS[0] * 2 ** (round(2 * math.log2(first / _ANCHORS[0])) / 2)))
    anchors = tuple((first * 2**level,) for level in range(5))

    # One picture that is full beyond measure does not decide.
    wanted = min(1.25 * profile.objects_max, 4 * profile.objects_95)
    detections = 10 * math.ceil(min(_DETECTIONS[1], max(_DETECTIONS[0], wanted)) / 10)
    tested = min(1000, 2 * detections + 100)
    proposals = (tested + 100, tested)
    if machine.gpu_memory is not None:
        proposals = tuple(max(pair) for pair in zip(proposals, region.rpn.num_proposals, strict=True))
    candidates = tuple(max(pair) for pair in zip(proposals, region.rpn.candidates_per_level, strict=True))
    counts = f"up to {profile.objects_max} objects in a picture, in 95% of them up to {profile.objects_95:.0f}"
    return [
        Choice("model.region.rpn.anchor_sizes", anchors, f"boxes of objects have {least:.0f} to {most:.0f} pixels"),
        Choice("model.region.num_detections", detections, counts),
        Choice("model.region.rpn.num_proposals", proposals, "two for each detection and some more"),
        Choice("model.region.rpn.candidates_per_level", candidates, "as many on each level"),
    ]


def _choose_stuff_area(profile: DataProfile, parent: Recipe, side: int) -> list[Choice]:
    if not profile.num_stuff or parent.model.fusion is None:
        return []
    share = _STUFF_SHARE * profile.aspect * side**2
    seen = profile.stuff_area * (side / profile.short_side) ** 2
    why = (
        "one in twenty pieces of stuff has fewer pixels"
        if seen <= share
        else f"{_STUFF_SHARE:.1%} of a picture, pixels"
    )
    return [Choice("model.fusion.stuff_area", max(16, math.floor(min(share, seen))), f"{why}, at that size")]


def _choose_batch(machine: Machine, parent: Recipe, pixels: int) -> Choice:
    if machine.gpu_memory is None:
        batch, why = min(_PROCESSOR_BATCH, parent.optim.batch_size), "on a processor; enough for learned batch norm"
    else:
        room = (_FREE_SHARE * machine.gpu_memory - _RESERVED_BYTES) / (_BYTES_PER_PIXEL * pixels)
        fitting = 2 ** math.floor(math.log2(max(1.0, room)))
        batch = min(parent.optim.batch_size, fitting * machine.processes)
        why = f"for {machine.gpu_memory / 1024**3:.0f} GiB of memory"
    shared = math.ceil(batch / machine.processes) * machine.processes
    if machine.processes > 1:
        why += f", {machine.processes} processes"
    return Choice("optim.batch_size", shared, why)


def _choose_steps(profile: DataProfile, machine: Machine, batch: int, learned: bool) -> Choice:
    beginning = "from weights" if learned else "from nothing"
    cores = "few cores" if machine.cores < _MANY_CORES else "many cores"
    least, most = _STEPS["gpu" if machine.gpu_memory is not None else cores, beginning]
    wanted = math.ceil(_EPOCHS[beginning] * profile.pictures / batch)
    steps = min(most, max(least, wanted))
    why = f"every picture about {steps * batch / profile.pictures:.0f} times"
    if steps > wanted:
        why += "; fewer steps teach little"
    elif steps < wanted:
        why += f"; bounded, on {machine.cores} cores" if machine.gpu_memory is None else "; bounded"
    return Choice("schedule.steps", steps, why)


def _choose_repeat_threshold(profile: DataProfile) -> Choice:
    shares = sorted(share for share in profile.class_shares if share > 0)
    if len(shares) < 2:
        return Choice("schedule.repeat_threshold", 0.0, "there is one class")
    # Among many classes each is rare; rare are those that have far less than the others.
    threshold = round(min(0.3, 2 * shares[len(shares) // 2]), 3)
    if shares[0] >= threshold:
        return Choice("schedule.repeat_threshold", 0.0, f"the rarest class is in {shares[0]:.0%} of the pictures")
    why = f"classes in fewer pictures are shown more often; the rarest is in {shares[0]:.1%}"
    return Choice("schedule.repeat_threshold", threshold, why)


def _size(profile: DataProfile, percent: int) -> float:
    return profile.object_sizes[PERCENTILES.index(percent)] if profile.object_sizes else 0.0
