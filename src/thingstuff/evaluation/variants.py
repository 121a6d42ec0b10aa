"""Other rules for panoptic quality, and other measures of the same pictures.

* ``dagger``, PQ-dagger: a true stuff segment is not matched, but scores the IoU of every prediction of its class that
  touches it. In the numbers, every true stuff segment counts as found (so RQ is 1 and SQ equals PQ), predicted stuff is
  never invented, and a stuff class without true segments is left out. Things as usual.
  Source: Porzi et al. 2019, "Seamless Scene Segmentation" (arXiv 1905.01220).
* ``boundary``, boundary PQ: the IoU of a pair is the smaller of that of its masks and that of their boundaries. The
  boundary of a segment is what is within 2 % of the picture's diagonal of its outside; the picture's edge is outside.
  Source: Cheng et al. 2021, "Boundary IoU" (arXiv 2103.16562).
* ``torchmetrics``: the rules of ``torchmetrics.detection.PanopticQuality``. Stuff segments of a class are one segment,
  there are no crowds, void of the *prediction* leaves the union too, and true segments mostly under it are not missed.
  IoUs are rounded to 32 bits. It agrees with torchmetrics up to rounding.
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int32, Int64

from thingstuff.errors import InputError
from thingstuff.evaluation import ap
from thingstuff.evaluation.matching import MatchedPair, Overlaps, PictureMatch, match_tables
from thingstuff.evaluation.pictures import ComparedPicture
from thingstuff.labels import LabelSet
from thingstuff.structures import VOID_ID, Panoptic, Segment

Rules = Literal["panopticapi", "dagger", "boundary", "torchmetrics"]
"""How segments are matched; see the module's description."""
_BOUNDARY = 0.02
"""Width of a boundary in diagonals of the picture, as in the paper."""


def match_by_rules(compared: ComparedPicture, labels: LabelSet, rules: Rules) -> PictureMatch:
    """Which segments of a picture are the same object, by the rules wanted."""
    match rules:
        case "panopticapi":
            return match_tables(compared.truth, compared.predicted, compared.overlaps)
        case "dagger":
            return _match_dagger(compared, labels)
        case "boundary":
            return _match_boundary(compared)
        case "torchmetrics":
            return _match_torchmetrics(compared, labels)


# --- PQ-dagger ---


def _match_dagger(compared: ComparedPicture, labels: LabelSet) -> PictureMatch:
    usual = match_tables(compared.truth, compared.predicted, compared.overlaps)
    things = {category.id for category in labels.categories if category.isthing}
    pairs = [pair for pair in usual.pairs if pair.category_id in things]
    shared, areas = _shared(compared), _areas_outside_void(compared.overlaps)
    touching: dict[int, list[int]] = defaultdict(list)
    for true_id, identity in shared:
        touching[true_id].append(identity)
    for true_id, category in compared.truth.categories.items():
        if category in things or true_id in compared.truth.crowds:
            continue
        same = [identity for identity in touching[true_id] if compared.predicted.get(identity) == category]
        total = 0.0
        for identity in same:
            both = shared[true_id, identity]
            total += both / (compared.truth.areas[true_id] + areas[identity] - both)
        pairs.append(MatchedPair(true_id, same[0] if same else VOID_ID, category, total))
    return PictureMatch(
        tuple(pairs),
        tuple(category for category in usual.false_positives if category in things),
        tuple(category for category in usual.false_negatives if category in things),
    )


def _shared(compared: ComparedPicture) -> dict[tuple[int, int], int]:
    overlaps = compared.overlaps
    columns = (overlaps.truth_ids.tolist(), overlaps.predicted_ids.tolist(), overlaps.areas.tolist())
    return {(true_id, identity): area for true_id, identity, area in zip(*columns, strict=True)}


def _areas_outside_void(overlaps: Overlaps) -> dict[int, int]:
    """Pixels of predictions where the truth is not void."""
    areas: dict[int, int] = defaultdict(int)
    columns = (overlaps.truth_ids.tolist(), overlaps.predicted_ids.tolist(), overlaps.areas.tolist())
    for true_id, identity, area in zip(*columns, strict=True):
        areas[identity] += area if true_id != VOID_ID else 0
    return areas


# --- boundary PQ ---


def _match_boundary(compared: ComparedPicture) -> PictureMatch:
    true_ids, ids = compared.maps()
    height, width = true_ids.shape
    distance = max(1, round(_BOUNDARY * float(np.hypot(height, width))))
    on_truth, on_prediction = (boundaries(values, distance) for values in (true_ids, ids))
    true_areas = _count(true_ids[on_truth])
    areas = _count(ids[on_prediction & (true_ids != VOID_ID)])
    on_both = on_truth & on_prediction
    keys, shared = np.unique(true_ids[on_both].astype(np.int64) << 24 | ids[on_both], return_counts=True)
    limits = {}
    for key, both in zip(keys.tolist(), shared.tolist(), strict=True):
        true_id, identity = key >> 24, key & 0xFFFFFF
        if union := true_areas[true_id] + areas.get(identity, 0) - both:
            limits[true_id, identity] = both / union
    return match_tables(compared.truth, compared.predicted, compared.overlaps, limits)


def boundaries(ids: Int32[np.ndarray, "H W"], distance: int) -> Bool[np.ndarray, "H W"]:
    """Pixels within a distance of another segment or of the edge of the picture.

    Args:
        ids: Segment ids.
        distance: In pixels, diagonal steps counting as one; at least 1.
    """
    padded = np.pad(ids, 1, constant_values=-1)
    inside = np.ones(ids.shape, dtype=bool)
    for dy, dx in ((0, 1), (2, 1), (1, 0), (1, 2), (0, 0), (0, 2), (2, 0), (2, 2)):
        inside &= padded[dy : dy + ids.shape[0], dx : dx + ids.shape[1]] == ids
    # Where no pixel around differs, a pixel's neighbours are of its own segment: from here on the masks can be worn off
    # all together.
    for _ in range(distance - 1):
        worn = np.pad(inside, 1)
        rows = worn[:-2] & worn[1:-1] & worn[2:]
        inside = rows[:, :-2] & rows[:, 1:-1] & rows[:, 2:]
    return ~inside


def _count(ids: Int32[np.ndarray, " n"]) -> dict[int, int]:
    values, counts = np.unique(ids, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


# --- torchmetrics ---


def _match_torchmetrics(compared: ComparedPicture, labels: LabelSet) -> PictureMatch:
    stuff = {category.id for category in labels.categories if not category.isthing}
    shared: dict[tuple[int, int], int] = defaultdict(int)
    true_areas: dict[int, int] = defaultdict(int)
    areas: dict[int, int] = defaultdict(int)
    # Negative ids: all stuff segments of a class are one.
    kinds = {
        side: {identity: (-1 - category if category in stuff else identity) for identity, category in listed.items()}
        for side, listed in (("truth", compared.truth.categories), ("predicted", compared.predicted))
    }
    for (true_id, identity), area in _shared(compared).items():
        key = (kinds["truth"].get(true_id, VOID_ID), kinds["predicted"].get(identity, VOID_ID))
        shared[key] += area
        true_areas[key[0]] += area
        areas[key[1]] += area
    categories = _kind_categories(kinds["truth"], compared.truth.categories)
    guesses = _kind_categories(kinds["predicted"], compared.predicted)
    pairs = []
    for (true_id, identity), area in sorted(shared.items()):
        if VOID_ID in (true_id, identity) or categories[true_id] != guesses[identity]:
            continue
        union = true_areas[true_id] - shared.get((true_id, VOID_ID), 0) + areas[identity] - area
        iou = np.float32(area) / np.float32(union - shared.get((VOID_ID, identity), 0))
        if iou > 0.5:
            pairs.append(MatchedPair(true_id, identity, categories[true_id], float(iou)))
    found, used = {pair.truth_id for pair in pairs}, {pair.predicted_id for pair in pairs}
    invented = [i for i in areas if i not in used | {VOID_ID} and 2 * shared.get((VOID_ID, i), 0) <= areas[i]]
    missed = [i for i in true_areas if i not in found | {VOID_ID} and 2 * shared.get((i, VOID_ID), 0) <= true_areas[i]]
    return PictureMatch(tuple(pairs), tuple(guesses[i] for i in invented), tuple(categories[i] for i in missed))


def _kind_categories(kinds: dict[int, int], listed: Mapping[int, int]) -> dict[int, int]:
    return {kind: listed[identity] for identity, kind in kinds.items()}


# --- other measures of the same pictures ---


def confusion_of(compared: ComparedPicture, labels: LabelSet) -> Int64[np.ndarray, "n n+1"]:
    """What ``miou.confusion_matrix`` counts, from the overlaps of segments. Crowds are labelled pixels like others."""
    confusion = np.zeros((len(labels), len(labels) + 1), dtype=np.int64)
    for (true_id, identity), area in _shared(compared).items():
        category = compared.truth.categories.get(true_id)
        if category is not None:
            guess = compared.predicted.get(identity)
            confusion[labels.index[category], len(labels) if guess is None else labels.index[guess]] += area
    return confusion


def instances_of(compared: ComparedPicture, labels: LabelSet) -> tuple[ap.TruthInstances, ap.Detections]:
    """True things and predicted things with their scores, for average precision.

    Raises:
        InputError: A predicted thing has no score.
    """
    true_ids, ids = compared.maps()
    crowds = set(compared.truth.crowds)
    truth = ap.truth_instances(_things(true_ids, compared.truth.categories, labels, crowds))
    found = ap.truth_instances(_things(ids, compared.predicted, labels, set()))
    listed = compared.predicted_picture.segments if compared.predicted_picture else ()
    scores = {segment.id: segment.score for segment in listed}
    order = [i for i in sorted(compared.predicted) if labels.categories[labels.index[compared.predicted[i]]].isthing]
    values = []
    for identity in order:
        score = scores.get(identity)
        if score is None:
            path = compared.predicted_picture.path if compared.predicted_picture else "prediction"
            raise InputError(
                f"{path}: predicted segment {identity} has no score, which average precision ranks by; "
                "write 'score' into its segments_info or leave average precision out"
            )
        values.append(score)
    return truth, ap.Detections(found.boxes, np.array(values, dtype=np.float64), found.category_ids, found.masks)


def _things(ids: Int32[np.ndarray, "H W"], listed: Mapping[int, int], labels: LabelSet, crowds: set[int]) -> Panoptic:
    segments = []
    for identity in sorted(listed):
        category = labels.categories[labels.index[listed[identity]]]
        if category.isthing:
            y, x = np.nonzero(ids == identity)
            left, top = int(x.min()), int(y.min())
            box = (left, top, int(x.max()) - left + 1, int(y.max()) - top + 1)
            segments.append(
                Segment(identity, category.id, category.name, True, None, int(y.size), box, identity in crowds)
            )
    return Panoptic(ids, tuple(segments))
