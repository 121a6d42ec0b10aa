"""Whether an exported file sees what the network sees: the same pictures through both."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from thingstuff.checkpoint import Checkpoint
from thingstuff.data.scenes import draw_scene
from thingstuff.errors import FileDiffers
from thingstuff.predict import Model, Picture
from thingstuff.recipe_model import PictureConfig
from thingstuff.result import DetectedInstances, Result
from thingstuff.runtimes import SUFFIXES, FileRuntime, open_exported
from thingstuff.structures import Panoptic, Size

LEAST_AGREEMENT = 0.999
"""Share of the pixels of a map that have to be the same."""
MOST_BOX_ERROR = 0.01
"""Pixels."""
MOST_SCORE_ERROR = 0.001
MOST_MASK_ERROR = 0.02
"""Of the probability that a cell of a mask is of the object."""
SCENE_SIZES: tuple[tuple[Size, Size | None], ...] = (((128, 192), None), ((150, 201), (97, 260)))
"""Sizes of the procedural pictures, and of the maps that are asked for."""


@dataclass(frozen=True, slots=True)
class Difference:
    """What a file makes of one picture, compared with the network.

    Attributes:
        picture: What it is.
        segments: How many segments the network sees, and how many the file sees; None without a panoptic map.
        agreement: Share of pixels with the same segment; 1 without a panoptic map.
        semantic: Share of pixels with the same class in the label map; None without one.
        instances: How many the network finds, and how many the file finds.
        boxes: Largest distance of a side from where the network sees it, in pixels.
        scores: Largest difference of a score.
        masks: Largest difference of a probability in a mask; None without masks.
    """

    picture: str
    segments: tuple[int, int] | None
    agreement: float
    semantic: float | None
    instances: tuple[int, int] | None
    boxes: float
    scores: float
    masks: float | None

    def problem(self) -> str | None:
        """Why this is too much, or None."""
        for name, counts in (("segments", self.segments), ("instances", self.instances)):
            if counts is not None and counts[0] != counts[1]:
                return f"{counts[1]} {name} instead of {counts[0]}"
        least = min(self.agreement, 1.0 if self.semantic is None else self.semantic)
        if least < LEAST_AGREEMENT:
            return f"{least:.3%} of the pixels agree, at least {LEAST_AGREEMENT:.1%} have to"
        if self.boxes > MOST_BOX_ERROR:
            return f"a box is off by {self.boxes:.3g} pixels, at most {MOST_BOX_ERROR} are allowed"
        if self.scores > MOST_SCORE_ERROR:
            return f"a score is off by {self.scores:.3g}, at most {MOST_SCORE_ERROR} is allowed"
        if self.masks is not None and self.masks > MOST_MASK_ERROR:
            return f"a mask is off by a probability of {self.masks:.3g}, at most {MOST_MASK_ERROR} is allowed"
        return None


def compare(checkpoint: Checkpoint, path: Path, pictures: Sequence[Picture] = ()) -> list[Difference]:
    """Let the network and a file see the same pictures: procedural scenes, darkness, and those that are given.

    Of a file for several pictures at once, every row sees scenes of its own.

    Args:
        checkpoint: The network.
        path: The exported file.
        pictures: More pictures, at the size that the checkpoint's policy gives them.
    """
    runtime = _open(path)
    file, eager = Model.of_file(runtime, short_side=0), Model(checkpoint, short_side=0)
    differences = []
    kind = checkpoint.recipe.picture
    for number, (size, output_size) in enumerate(SCENE_SIZES):
        scenes = [_scene(number + len(SCENE_SIZES) * row, size, kind) for row in range(runtime.batch)]
        results = zip(*(model(scenes, output_size=output_size) for model in (eager, file)), strict=True)
        for row, pair in enumerate(results, start=1):
            place = f", {row} of {runtime.batch}" if runtime.batch > 1 else ""
            differences.append(_difference(f"scene {size[0]}x{size[1]}{place}", *pair))
    dark = _darkness((96, 70), kind)
    differences.append(_difference("darkness 96x70", eager(dark), file(dark)))
    if pictures:
        file, eager = Model.of_file(runtime), Model(checkpoint)
        differences += [_difference(str(picture), eager(picture), file(picture)) for picture in pictures]
    return differences


def _open(path: Path) -> FileRuntime:
    if path.suffix == SUFFIXES["torch"]:
        # Loading such a file leaves its graph alone, which is what is to be compared here.
        from thingstuff.export.torch_file import run_trusted_file

        return run_trusted_file(path)
    runtime = open_exported(path, None, "float32", on_processor=True, tta=False)
    assert isinstance(runtime, FileRuntime)
    return runtime


def refuse(differences: Sequence[Difference], out: Path) -> None:
    """Stop where a file differs too much.

    Raises:
        FileDiffers: It does.
    """
    for difference in differences:
        if problem := difference.problem():
            raise FileDiffers(
                f"{out}: not written, because it differs from the network ({difference.picture}: {problem}); "
                "use the checkpoint, or another runtime"
            )


def _scene(number: int, size: Size, kind: PictureConfig) -> np.ndarray:
    """A scene with the channels and bits that the network takes."""
    image = draw_scene(number, 0, size).image
    image = np.ascontiguousarray(np.resize(image.transpose(2, 0, 1), (kind.channels, *size)).transpose(1, 2, 0))
    return _with_bits(image, kind)


def _darkness(size: Size, kind: PictureConfig) -> np.ndarray:
    """A picture of nothing. Were it black all over, regions would be alike, and rounding would choose between them."""
    return _with_bits(np.random.default_rng(0).integers(0, 8, (*size, kind.channels), dtype=np.uint8), kind)


def _with_bits(image: np.ndarray, kind: PictureConfig) -> np.ndarray:
    """A picture of 8 bits with those that the network takes."""
    return image.astype(np.uint16) * 257 if kind.pixels == "uint16" else image


def _difference(name: str, eager: Result, file: Result) -> Difference:
    segments = agreement = found = None
    boxes = scores = 0.0
    masks = None
    if eager.panoptic is not None and file.panoptic is not None:
        segments = len(eager.panoptic.segments), len(file.panoptic.segments)
        agreement = agree(eager.panoptic, file.panoptic)
    semantic, other = eager.semantic_indices(), file.semantic_indices()
    if eager.instances is not None and file.instances is not None:
        found = len(eager.instances), len(file.instances)
        boxes, scores, masks = furthest(eager.instances, file.instances)
    return Difference(
        name,
        segments,
        1.0 if agreement is None else agreement,
        None if semantic is None or other is None else float((semantic == other).mean()),
        found,
        boxes,
        scores,
        masks,
    )


def agree(one: Panoptic, other: Panoptic) -> float:
    """Share of pixels where two maps show the same segment.

    Ids follow the order of scores, so that a near tie may swap two: segments of one class that share most pixels are
    partners, each of at most one.
    """
    classes, other_classes = ({0: 0} | {s.id: s.category_id for s in panoptic.segments} for panoptic in (one, other))
    pairs, counts = np.unique(np.stack([one.ids.ravel(), other.ids.ravel()]), axis=1, return_counts=True)
    taken: set[int] = set()
    other_taken: set[int] = set()
    shared = 0
    for (first, second), count in sorted(zip(pairs.T.tolist(), counts.tolist(), strict=True), key=lambda p: -p[1]):
        alike = (first == 0) == (second == 0) and classes[first] == other_classes[second]
        if alike and first not in taken and second not in other_taken:
            taken.add(first)
            other_taken.add(second)
            shared += count
    return shared / one.ids.size


def furthest(one: DetectedInstances, other: DetectedInstances) -> tuple[float, float, float | None]:
    """Largest differences of box, score and mask between each instance and the nearest of its class in the other set.

    Each of the other set is taken once. What is not a finite number, or lacks a partner, is infinitely far. Without
    masks there is no difference of masks.
    """
    boxes = scores = 0.0
    masks = None if one.mask_probabilities is None or other.mask_probabilities is None else 0.0
    free = np.isfinite(other.boxes).all(axis=1) & np.isfinite(other.scores)
    for row, (box, score, category) in enumerate(zip(one.boxes, one.scores, one.category_ids, strict=True)):
        same = np.flatnonzero(free & (other.category_ids == category))
        if not len(same):
            return np.inf, np.inf, None if masks is None else np.inf
        distances = np.abs(other.boxes[same] - box).max(axis=1) + np.abs(other.scores[same] - score)
        nearest = same[distances.argmin()]
        free[nearest] = False
        boxes = max(boxes, float(np.abs(other.boxes[nearest] - box).max()))
        scores = max(scores, float(abs(other.scores[nearest] - score)))
        if masks is not None and one.mask_probabilities is not None and other.mask_probabilities is not None:
            apart = float(np.abs(other.mask_probabilities[nearest] - one.mask_probabilities[row]).max())
            masks = max(masks, apart) if np.isfinite(apart) else np.inf
    return boxes, scores, masks
