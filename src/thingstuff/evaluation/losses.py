"""Where panoptic quality is lost in a picture: every error belongs to one cause, and each cause can be mended.

The causes, looked for in this order; an invented or missed segment belongs to the first that explains it. IoU is that
of panoptic quality: the truth's void is in no union.

* ``split``: two or more predictions of a class lie mostly (over half of their pixels outside void) in one true segment
  of that class, and together match it. Mended, they are one prediction.
* ``merged``: a prediction covers over half of each of two or more true segments of its class. Mended, it is cut along
  their borders: each of them is found with the pixels that the prediction had of it.
* ``classification``: a missed true segment and an invented prediction of another class have an IoU over 0.5. Mended,
  the prediction has the right class.
* ``localisation``: pairs are not drawn exactly, or a missed true segment and an invented prediction of its class have
  an IoU over 0.1 (but not over 0.5). Mended, all these pairs have an IoU of 1; of several, those with the larger IoU go
  together.
* ``missed``: the other missed segments. Mended, they are found with an IoU of 1.
* ``invented``: the other invented segments. Mended, they do not exist.

The names follow Bolya et al. 2020, "TIDE: A General Toolbox for Identifying Object Detection Errors" (arXiv
2008.08115).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

from thingstuff.evaluation.matching import FoundSegments, TruthTable, find_segments
from thingstuff.evaluation.pictures import ComparedPicture
from thingstuff.structures import VOID_ID

Cause = Literal["localisation", "classification", "missed", "invented", "split", "merged"]
CAUSES: tuple[Cause, ...] = get_args(Cause)
_NEAR = 0.1
"""Smallest IoU of a true segment and a prediction that was meant for it."""


class Change(NamedTuple):
    """What mending changes in the counts of a class.

    Attributes:
        category_id: The class.
        tp: True positives gained.
        fp: False positives lost, as a negative number.
        fn: False negatives lost, as a negative number.
        iou: IoU gained.
    """

    category_id: int
    tp: int
    fp: int
    fn: int
    iou: float


@dataclass
class _Picture:
    """One picture while its errors are explained.

    Attributes:
        truth: The true segments.
        predicted: Category of predicted segments.
        shared: Pixels by true and predicted id.
        areas: Pixels of predictions outside void.
        found: What matches.
        invented: Invented segments not explained yet.
        missed: Missed segments not explained yet.
    """

    truth: TruthTable
    predicted: Mapping[int, int]
    shared: Mapping[tuple[int, int], int]
    areas: Mapping[int, int]
    found: FoundSegments
    invented: set[int] = field(default_factory=set)
    missed: set[int] = field(default_factory=set)

    def iou(self, truth_id: int, predicted_ids: Iterable[int]) -> float:
        """IoU of a true segment and the union of predictions."""
        ids = list(predicted_ids)
        both = sum(self.shared.get((truth_id, identity), 0) for identity in ids)
        return both / (self.truth.areas[truth_id] + sum(self.areas[identity] for identity in ids) - both)


def mend(compared: ComparedPicture) -> dict[Cause, list[Change]]:
    """What mending each cause alone would change in the counts of a picture."""
    overlaps = compared.overlaps
    columns = (overlaps.truth_ids.tolist(), overlaps.predicted_ids.tolist(), overlaps.areas.tolist())
    shared = {(true_id, identity): area for true_id, identity, area in zip(*columns, strict=True)}
    areas: dict[int, int] = dict.fromkeys(compared.predicted, 0)
    for (true_id, identity), area in shared.items():
        if true_id != VOID_ID and identity in areas:
            areas[identity] += area
    found = find_segments(compared.truth, compared.predicted, overlaps)
    picture = _Picture(compared.truth, compared.predicted, shared, areas, found, set(found.invented), set(found.missed))
    changes: dict[Cause, list[Change]] = {"split": _mend_split(picture), "merged": _mend_merged(picture)}
    changes["classification"] = _mend_classes(picture)
    changes["localisation"] = _mend_borders(picture)
    changes["missed"] = [Change(compared.truth.categories[identity], 1, 0, -1, 1.0) for identity in picture.missed]
    changes["invented"] = [Change(compared.predicted[identity], 0, -1, 0, 0.0) for identity in picture.invented]
    return changes


def _mend_split(picture: _Picture) -> list[Change]:
    partner = {pair.truth_id: pair for pair in picture.found.pairs}
    parts: dict[int, list[int]] = {}
    for (true_id, identity), area in picture.shared.items():
        category = picture.truth.categories.get(true_id)
        if category is None or picture.predicted.get(identity) != category or 2 * area <= picture.areas[identity]:
            continue
        own = partner.get(true_id)
        if identity in picture.invented or (own is not None and own.predicted_id == identity):
            parts.setdefault(true_id, []).append(identity)
    changes = []
    for true_id, ids in parts.items():
        if true_id not in partner and true_id not in picture.missed:
            continue  # a crowd
        iou = picture.iou(true_id, ids) if len(ids) > 1 else 0.0
        if iou <= 0.5:
            continue
        own = partner.get(true_id)
        invented = picture.invented.intersection(ids)
        changes.append(
            Change(
                picture.truth.categories[true_id],
                own is None,
                -len(invented),
                -(own is None),
                iou - (own.iou if own else 0.0),
            )
        )
        picture.invented -= invented
        picture.missed.discard(true_id)
    return changes


def _mend_merged(picture: _Picture) -> list[Change]:
    partner = {pair.predicted_id: pair for pair in picture.found.pairs}
    covered: dict[int, list[int]] = {}
    for (true_id, identity), area in picture.shared.items():
        category = picture.truth.categories.get(true_id)
        if category is None or picture.predicted.get(identity) != category:
            continue
        if 2 * area <= picture.truth.areas[true_id]:
            continue
        own = partner.get(identity)
        if true_id in picture.missed or (own is not None and own.truth_id == true_id):
            covered.setdefault(identity, []).append(true_id)
    changes = []
    for identity, true_ids in covered.items():
        if len(true_ids) < 2 or (identity not in partner and identity not in picture.invented):
            continue
        own = partner.get(identity)
        missed = picture.missed.intersection(true_ids)
        iou = sum(picture.shared[true_id, identity] / picture.truth.areas[true_id] for true_id in true_ids)
        invented = identity in picture.invented
        changes.append(
            Change(picture.predicted[identity], len(missed), -invented, -len(missed), iou - (own.iou if own else 0.0))
        )
        picture.invented.discard(identity)
        picture.missed -= missed
    return changes


def _near_pairs(picture: _Picture, least: float) -> list[tuple[float, int, int]]:
    """Missed true segments and invented predictions with an IoU over ``least``, the best first."""
    pairs = [
        (picture.iou(true_id, [identity]), true_id, identity)
        for true_id, identity in picture.shared
        if true_id in picture.missed and identity in picture.invented
    ]
    return sorted((pair for pair in pairs if pair[0] > least), key=lambda pair: (-pair[0], pair[1:]))


def _mend_classes(picture: _Picture) -> list[Change]:
    changes = []
    # Of one class they would match: over one half, all these pairs differ in class and no segment is in two.
    for iou, true_id, identity in _near_pairs(picture, 0.5):
        changes.append(Change(picture.truth.categories[true_id], 1, 0, -1, iou))
        changes.append(Change(picture.predicted[identity], 0, -1, 0, 0.0))
        picture.missed.discard(true_id)
        picture.invented.discard(identity)
    return changes


def _mend_borders(picture: _Picture) -> list[Change]:
    changes = [Change(pair.category_id, 0, 0, 0, 1 - pair.iou) for pair in picture.found.pairs]
    for _, true_id, identity in _near_pairs(picture, _NEAR):
        category = picture.truth.categories[true_id]
        if category == picture.predicted[identity] and true_id in picture.missed and identity in picture.invented:
            changes.append(Change(category, 1, -1, -1, 1.0))
            picture.missed.discard(true_id)
            picture.invented.discard(identity)
    return changes
