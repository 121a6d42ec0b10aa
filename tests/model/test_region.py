"""From proposals to detections: scores, boxes, what is dropped, which mask is taken."""

import math

import pytest
import torch
from torch import Tensor, nn

from production import loops_of_python
from thingstuff.model.box_head import BoxPredictions
from thingstuff.model.region import RegionBranch, Suppression
from thingstuff.structures import Instances, Proposals, Pyramid

PYRAMID = Pyramid({4: torch.zeros(1, 1, 25, 25)})
NOTHING = -1e4


class GivenPredictions(nn.Module):
    """Stands in for pool and head of the boxes: says what it was told, whatever it sees."""

    def __init__(self, class_logits: Tensor, deltas: Tensor) -> None:
        super().__init__()
        self.predictions = BoxPredictions(class_logits, deltas)

    def forward(self, _: Tensor) -> BoxPredictions:
        return self.predictions


class BoxesThemselves(nn.Module):
    """Stands in for a pool: the features of a box are its coordinates, of one pixel."""

    def forward(self, _: Pyramid, boxes: list[Tensor]) -> Tensor:
        return torch.cat(list(boxes))[:, :, None, None]


class MasksOfEveryClass(nn.Module):
    """Stands in for a mask head: the mask of class t of a box is full of 10 t + x1."""

    def forward(self, boxes: Tensor) -> Tensor:
        masks = 10 * torch.arange(3.0)[None, :, None, None] + boxes[:, :1]
        return masks.expand(-1, -1, 2, 2)


def proposals(boxes: list[list[float]], valid: list[bool] | None = None) -> Proposals:
    count = len(boxes)
    return Proposals(
        torch.tensor([boxes]), torch.zeros(1, count), torch.tensor([valid if valid is not None else [True] * count])
    )


def branch(
    class_logits: list[list[float]], deltas: Tensor | None = None, masks: bool = False, **options
) -> RegionBranch:
    """A branch for three thing classes that is told what its box head says."""
    if deltas is None:
        deltas = torch.zeros(len(class_logits), 3, 4)
    return RegionBranch(
        BoxesThemselves(),
        GivenPredictions(torch.tensor(class_logits), deltas),
        BoxesThemselves() if masks else None,
        MasksOfEveryClass() if masks else None,
        num_detections=options.pop("num_detections", 4),
        **options,
    )


SIZES = torch.tensor([[100, 100]])
TWO_BOXES = [[0.0, 0, 10, 10], [50, 50, 60, 60]]


def test_scores_are_probabilities_and_background_is_no_detection() -> None:
    found, _ = branch([[0.0, math.log(3), NOTHING, 0.0], [NOTHING, NOTHING, NOTHING, 5.0]])(
        PYRAMID, proposals(TWO_BOXES), SIZES
    )
    assert found.valid.tolist() == [[True, True, False, False]]
    torch.testing.assert_close(found.scores, torch.tensor([[0.6, 0.2, 0, 0]]))
    assert found.labels[0, :2].tolist() == [1, 0]
    assert found.boxes.tolist() == [[[0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 0, 0], [0, 0, 0, 0]]]
    assert found.mask_logits is None


def test_score_of_exactly_the_threshold_is_dropped() -> None:
    logits = [[0.0, NOTHING, NOTHING, 0.0], [0.1, NOTHING, NOTHING, 0.0]]
    found, _ = branch(logits, detection_rule=Suppression(0.5, 0.5))(PYRAMID, proposals(TWO_BOXES), SIZES)
    assert found.boxes[found.valid].tolist() == [TWO_BOXES[1]]


def test_classes_do_not_suppress_each_other() -> None:
    boxes = [[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 5]]
    logits = [[9.0, NOTHING, NOTHING, 0], [8.0, NOTHING, NOTHING, 0], [7.0, 7.5, NOTHING, 0]]
    found, _ = branch(logits)(PYRAMID, proposals(boxes), SIZES)
    # The second box of class 0 is hidden by the first; an overlap of exactly one half is allowed.
    kept = list(zip(found.labels[found.valid].tolist(), found.boxes[found.valid][:, 3].tolist(), strict=True))
    assert kept == [(0, 10), (1, 5), (0, 5)]


def test_classes_suppress_each_other_where_asked() -> None:
    boxes = [[0.0, 0, 10, 10], [0, 0, 10, 9]]
    logits = [[8.0, NOTHING, NOTHING, 0], [NOTHING, 9.0, NOTHING, 0]]
    rule = Suppression(0.05, 0.5, class_agnostic=True)
    found, _ = branch(logits, detection_rule=rule)(PYRAMID, proposals(boxes), SIZES)
    assert found.labels[found.valid].tolist() == [1]


def test_boxes_with_a_short_side_are_dropped_before_they_suppress() -> None:
    boxes = [[0.0, 0, 10, 4], [0, 0, 10, 5]]
    logits = [[9.0, NOTHING, NOTHING, 0], [8.0, NOTHING, NOTHING, 0]]
    found, _ = branch(logits, min_size=5.0)(PYRAMID, proposals(boxes), SIZES)
    assert found.boxes[found.valid].tolist() == [boxes[1]]


def test_each_class_has_its_own_box_relative_to_the_proposal() -> None:
    deltas = torch.zeros(1, 3, 4)
    deltas[0, 0] = torch.tensor([5.0, 0, 0, 0])  # half a width to the right with weight 10
    deltas[0, 2] = torch.tensor([0, 0, 5 * math.log(2), 0])  # twice as wide with weight 5
    found, _ = branch([[2.0, NOTHING, 1.0, 0.0]], deltas)(PYRAMID, proposals([[40.0, 40, 60, 60]]), SIZES)
    assert found.labels[0, :2].tolist() == [0, 2]
    torch.testing.assert_close(found.boxes[0, :2], torch.tensor([[50.0, 40, 70, 60], [30, 40, 70, 60]]))


def test_one_box_for_all_classes() -> None:
    deltas = torch.tensor([[[5.0, 0, 0, 0]]])
    found, _ = branch([[2.0, NOTHING, 1.0, 0.0]], deltas)(PYRAMID, proposals([[40.0, 40, 60, 60]]), SIZES)
    torch.testing.assert_close(found.boxes[0, :2], torch.tensor([[50.0, 40, 70, 60]] * 2))


def test_boxes_end_at_the_border_of_their_own_picture() -> None:
    boxes = torch.tensor([[[10.0, 10, 90, 90]], [[10, 10, 90, 90]]])
    both = Proposals(boxes, torch.zeros(2, 1), torch.ones(2, 1, dtype=torch.bool))
    region = branch([[3.0, NOTHING, NOTHING, 0.0]] * 2, num_detections=1)
    found, _ = region(PYRAMID, both, torch.tensor([[50, 100], [100, 40]]))
    assert found.boxes.tolist() == [[[10, 10, 90, 50]], [[10, 10, 40, 90]]]


@pytest.mark.parametrize("broken", ["proposal", "delta", "growth", "score"])
def test_unusable_regions_are_dropped(broken: str) -> None:
    deltas, logits = torch.zeros(2, 3, 4), [[9.0, NOTHING, NOTHING, 0.0]] * 2
    valid = [broken != "proposal", True]
    if broken == "delta":
        deltas[0, 1, 0] = torch.nan
    if broken == "growth":
        deltas[0, 0, 0] = torch.inf
    if broken == "score":
        logits = [[torch.nan, 0.0, 0.0, 0.0], logits[1]]
    found, _ = branch(logits, deltas)(PYRAMID, proposals(TWO_BOXES, valid), SIZES)
    assert found.valid.tolist() == [[True, False, False, False]]
    assert found.boxes[0, 0].tolist() == TWO_BOXES[1]
    assert found.boxes.isfinite().all()
    assert found.scores.isfinite().all()


def test_candidates_have_a_rule_of_their_own() -> None:
    boxes = [[0.0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60]]
    logits = [[9.0, NOTHING, NOTHING, 0], [NOTHING, 8.0, NOTHING, 0], [0.0, NOTHING, NOTHING, 0]]
    rule = Suppression(0.6, 0.5, class_agnostic=True)
    found, candidates = branch(logits, masks=True, candidate_rule=rule)(PYRAMID, proposals(boxes), SIZES)
    assert found.labels[found.valid].tolist() == [0, 1, 0]
    assert candidates is not None
    assert candidates.labels[candidates.valid].tolist() == [0]
    assert candidates.boxes[candidates.valid].tolist() == [boxes[0]]
    assert candidates.mask_logits is not None
    assert candidates.mask_logits.shape == (1, 4, 2, 2)


def test_without_a_rule_of_their_own_detections_are_the_candidates() -> None:
    _, candidates = branch([[9.0, NOTHING, NOTHING, 0.0]])(PYRAMID, proposals(TWO_BOXES[:1]), SIZES)
    assert candidates is None


def test_nothing_found() -> None:
    found, _ = branch([[0.0, 0.0, 0.0, 50.0]] * 2, masks=True)(PYRAMID, proposals(TWO_BOXES), SIZES)
    assert not found.valid.any()
    assert (found.scores == 0).all()
    assert (found.boxes == 0).all()
    assert found.mask_logits is not None
    assert found.mask_logits.shape == (1, 4, 2, 2)


def test_only_the_best_detections_are_kept() -> None:
    boxes = [[20.0 * i, 0, 20 * i + 10, 10] for i in range(5)]
    logits = [[float(i), NOTHING, NOTHING, 0.0] for i in (3, 5, 1, 4, 2)]
    found, _ = branch(logits, num_detections=3)(PYRAMID, proposals(boxes), SIZES)
    assert found.valid.all()
    assert found.boxes[0, :, 0].tolist() == [20, 60, 0]
    torch.testing.assert_close(found.scores[0], torch.tensor([5.0, 4, 3]).sigmoid())


def test_each_detection_gets_the_mask_of_its_class_and_its_final_box() -> None:
    deltas = torch.zeros(2, 3, 4)
    deltas[1, :, 0] = 5  # half a width of 10 to the right
    found, _ = branch([[NOTHING, NOTHING, 2.0, 0], [NOTHING, 1.0, NOTHING, 0]], deltas, masks=True)(
        PYRAMID, proposals(TWO_BOXES), SIZES
    )
    assert found.mask_logits is not None
    assert found.labels[0, :2].tolist() == [2, 1]
    assert found.mask_logits[0, :2].flatten(1).tolist() == [[20.0] * 4, [65.0] * 4]


def test_masks_of_rows_that_only_fill_up_are_not_computed() -> None:
    region = branch([[0.0, math.log(3), NOTHING, 0.0], [NOTHING, NOTHING, NOTHING, 5.0]], masks=True)
    found, _ = region(PYRAMID, proposals(TWO_BOXES), SIZES)
    assert found.valid.tolist() == [[True, True, False, False]]
    assert found.mask_logits is not None
    assert found.mask_logits[0, :, 0, 0].tolist() == [10.0, 0.0, 0.0, 0.0]


class CountingMasks(MasksOfEveryClass):
    """Says how many masks it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: list[int] = []

    def forward(self, boxes: Tensor) -> Tensor:
        self.counts.append(len(boxes))
        return super().forward(boxes)


@pytest.mark.parametrize("counts", [(0, 0), (1, 0), (10, 3), (11, 0), (20, 24), (25, 25)])
def test_graphs_compute_masks_up_to_the_last_row_that_is_valid(
    counts: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    region = branch([[0.0] * 4], masks=True, num_detections=25)
    region.mask_head = head = CountingMasks()
    boxes, labels = torch.arange(200.0).view(2, 25, 4), torch.arange(50).view(2, 25) % 3
    valid = torch.arange(25) < torch.tensor(counts)[:, None]
    found = Instances(boxes, valid.float(), labels, None, valid)
    eager = region.with_masks(PYRAMID, found).mask_logits
    assert eager is not None
    assert torch.equal(eager[valid], (10 * labels + boxes[:, :, 0])[valid][:, None, None].expand(-1, 2, 2))
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    head.counts = []
    with loops_of_python():
        graph = region.with_masks(PYRAMID, found).mask_logits
    assert graph is not None
    assert torch.equal(graph[valid], eager[valid])
    assert head.counts == [20] * math.ceil(max(counts) / 10)  # ten of each of two pictures


def test_without_any_detection_there_is_no_mask_to_compute() -> None:
    found, _ = branch([[NOTHING, NOTHING, NOTHING, 5.0]], masks=True)(PYRAMID, proposals(TWO_BOXES[:1]), SIZES)
    assert found.mask_logits is not None
    assert found.mask_logits.shape == (1, 4, 2, 2)
    assert not found.mask_logits.any()
