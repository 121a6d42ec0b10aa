"""The comparison of two models as one HTML page: differences, causes, and the pictures on which they differ most."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from thingstuff.errors import InputError
from thingstuff.evaluation.compare import Comparison, Difference, PictureQuality
from thingstuff.evaluation.documents import ListedPicture, Listing, read_predictions, read_truth
from thingstuff.evaluation.losses import CAUSES
from thingstuff.evaluation.png import read_ids
from thingstuff.evaluation.problems import Problems
from thingstuff.labels import LabelSet
from thingstuff.report import ClassRow, Example, Headline, Picture, Report, write_report
from thingstuff.structures import VOID_ID, Panoptic, Segment
from thingstuff.viz import draw_ids, draw_panoptic

_MOST_CLASSES = 30
"""Classes whose differences are listed, the largest first."""


@dataclass(frozen=True, slots=True)
class ComparedFiles:
    """The files that were compared; folders as for ``evaluation.compare.compare``.

    Attributes:
        a: JSON file of the first model's predictions.
        b: JSON file of the second model's predictions.
        gt: JSON file of the truth.
        a_folder: PNG files of the first.
        b_folder: PNG files of the second.
        gt_folder: PNG files of the truth.
        images: Folder of the photographs; without it the maps are drawn alone.
    """

    a: Path
    b: Path
    gt: Path
    a_folder: Path | None = None
    b_folder: Path | None = None
    gt_folder: Path | None = None
    images: Path | None = None


def write_comparison(path: Path, comparison: Comparison, files: ComparedFiles, *, pictures: int = 12) -> None:
    """Write a comparison as one HTML file.

    Args:
        path: The file; its folder is made if need be.
        comparison: What ``compare`` found in the files.
        files: The files.
        pictures: How many pictures to show: half of them where the second model loses most against the first, half
            where it gains most.

    Raises:
        InputError: A file is missing or damaged.
    """
    # What is wrong in the files was said by `compare`.
    problems = Problems(lenient=True)
    truth = read_truth(files.gt, files.gt_folder, problems)
    listings = [
        read_predictions(json_file, folder, truth, problems)
        for json_file, folder in ((files.a, files.a_folder), (files.b, files.b_folder))
    ]
    labels = LabelSet(tuple(sorted(truth.categories, key=lambda category: (category.isthing, category.id))))
    photos = _photos(files)
    examples = [_example(quality, truth, listings, labels, photos) for quality in _extremes(comparison, pictures)]
    a, b = comparison.a, comparison.b
    report = Report(
        title="Two models compared",
        summary=(
            f"A is {files.a.name}, B is {files.b.name}, on {len(comparison.pictures)} pictures of {files.gt.name}. "
            f"Differences are B minus A in points; intervals hold {100 * comparison.confidence:g} % of "
            f"{comparison.resamples} data sets drawn anew from the pictures. The table of classes is that of B."
        ),
        headlines=(Headline("PQ of A", a.pq), Headline("PQ of B", b.pq), Headline("RQ of B", b.rq)),
        classes=_class_rows(comparison, labels),
        examples=examples,
        facts=[
            *_differences(comparison),
            *_losses(comparison),
            *_class_differences(comparison),
            *_warnings(comparison),
        ],
    )
    write_report(path, report)


def _extremes(comparison: Comparison, number: int) -> list[PictureQuality]:
    """Pictures on which the models differ most, in the order of the difference."""
    differing = [p for p in comparison.pictures if p.a is not None and p.b is not None and p.a != p.b]
    ordered = sorted(differing, key=lambda picture: (picture.b or 0) - (picture.a or 0))
    return ordered if len(ordered) <= number else [*ordered[: number // 2], *ordered[len(ordered) - number // 2 :]]


def _example(
    quality: PictureQuality,
    truth: Listing,
    listings: Sequence[Listing],
    labels: LabelSet,
    photos: dict[int | str, Path],
) -> Example:
    picture = truth.pictures[quality.image_id]
    photo = _read_photo(photos.get(quality.image_id))
    drawn = [Picture(_draw(picture, photo, labels), "truth")]
    for name, value, listing in (("A", quality.a, listings[0]), ("B", quality.b, listings[1])):
        predicted = listing.pictures.get(quality.image_id)
        if predicted is not None:
            drawn.append(Picture(_draw(predicted, photo, labels), name, f"PQ {100 * (value or 0):.1f}"))
    change = 100 * ((quality.b or 0) - (quality.a or 0))
    return Example(picture.path.name, f"B − A: {change:+.1f}", drawn)  # noqa: RUF001


def _draw(picture: ListedPicture, photo: np.ndarray | None, labels: LabelSet) -> Image.Image:
    panoptic = _panoptic(picture, labels)
    if photo is None or photo.shape[:2] != panoptic.ids.shape:
        return draw_ids(panoptic, labels)
    return draw_panoptic(photo, panoptic, labels)


def _panoptic(picture: ListedPicture, labels: LabelSet) -> Panoptic:
    try:
        ids = read_ids(picture.path)
    except InputError:
        # It counted as not predicted.
        return Panoptic(np.zeros((64, 64), dtype=np.int32), ())
    listed = sorted(picture.segments, key=lambda segment: segment.id)
    ids = np.where(np.isin(ids, [segment.id for segment in listed]), ids, VOID_ID).astype(np.int32)
    segments = []
    for segment in listed:
        y, x = np.nonzero(ids == segment.id)
        if y.size:
            corner = (int(x.min()), int(y.min()))
            box = (*corner, int(x.max()) - corner[0] + 1, int(y.max()) - corner[1] + 1)
            category = labels.categories[labels.index[segment.category_id]]
            segments.append(
                Segment(
                    segment.id, category.id, category.name, category.isthing, segment.score, y.size, box, segment.crowd
                )
            )
    return Panoptic(ids, tuple(segments))


def _photos(files: ComparedFiles) -> dict[int | str, Path]:
    """Photographs by image id, as far as the truth's JSON file names them."""
    if files.images is None:
        return {}
    if not files.images.is_dir():
        raise InputError(f"{files.images}: there is no such folder of photographs; leave it out to draw maps alone")
    listed = json.loads(files.gt.read_bytes()).get("images") or ()
    named = (entry for entry in listed if isinstance(entry, dict) and "id" in entry and "file_name" in entry)
    return {entry["id"]: files.images / str(entry["file_name"]) for entry in named}


def _read_photo(path: Path | None) -> np.ndarray | None:
    if path is None or not path.is_file():
        return None
    try:
        with Image.open(path) as image:
            return np.array(image.convert("RGB"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read as a picture ({error}); save it again") from error


def _class_rows(comparison: Comparison, labels: LabelSet) -> list[ClassRow]:
    rows = []
    for category in labels.categories:
        own = comparison.b.per_class[category.id]
        numbers = (own.pq, own.sq, own.rq) if own.tp + own.fp + own.fn else (None, None, None)
        rows.append(ClassRow(category.name, category.isthing, category.color, *numbers, own.tp, own.fp, own.fn))
    return rows


def _differences(comparison: Comparison) -> Iterable[tuple[str, str]]:
    for group in comparison.groups:
        for name, difference in (("PQ", group.pq), ("SQ", group.sq), ("RQ", group.rq)):
            yield f"{name} of {group.name}, B minus A", _spread(difference)


def _class_differences(comparison: Comparison) -> list[tuple[str, str]]:
    groups = [group for group in comparison.per_class.values() if group.pq.value is not None]
    groups.sort(key=lambda group: -abs(group.pq.value or 0))
    return [(f"PQ of {group.name}, B minus A", _spread(group.pq)) for group in groups[:_MOST_CLASSES]]


def _losses(comparison: Comparison) -> Iterable[tuple[str, str]]:
    for cause in CAUSES:
        gains = (comparison.losses_a[cause], comparison.losses_b[cause])
        yield (
            f"PQ regained by mending: {cause}",
            " · ".join(f"{name} {100 * gain:+.1f}" for name, gain in zip("AB", gains, strict=True)),
        )


def _warnings(comparison: Comparison) -> Iterable[tuple[str, str]]:
    for warning in comparison.warnings:
        yield f"Warning: {warning.kind}, {warning.count} times", warning.example


def _spread(difference: Difference) -> str:
    if difference.value is None or difference.low is None or difference.high is None or difference.better is None:
        return "\N{EN DASH}"
    low, high = 100 * difference.low, 100 * difference.high
    sure = f"B better in {100 * difference.better:.0f} % of the draws"
    return f"{100 * difference.value:+.2f} ({low:+.2f} to {high:+.2f}), {sure}"
