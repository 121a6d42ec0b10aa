"""Anchors by hand, the head's layout, and proposals against a version without limits."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from thingstuff.model import boxes as box_ops
from thingstuff.model.rpn import AnchorPredictions, RegionProposalNetwork, cell_anchors
from thingstuff.structures import Proposals, Pyramid

STRIDES = (4, 8, 16, 32, 64)
DETECTRON2_SIZES = [[32.0], [64.0], [128.0], [256.0], [512.0]]
RATIOS = [0.5, 1.0, 2.0]


def pyramid(height: int, width: int, batch: int = 2, channels: int = 8) -> Pyramid:
    generator = torch.Generator().manual_seed(0)
    return Pyramid(
        {
            s: torch.randn(batch, channels, math.ceil(height / s), math.ceil(width / s), generator=generator)
            for s in STRIDES
        }
    )


def lively_rpn(**options) -> RegionProposalNetwork:
    """An RPN for small pictures whose random weights spread logits and move boxes; no two logits are equal."""
    torch.manual_seed(0)
    rpn = RegionProposalNetwork(8, [[8.0], [16.0], [32.0], [64.0], [128.0]], RATIOS, **options).eval()
    for layer, std in ((rpn.conv, 0.1), (rpn.objectness, 1.0), (rpn.deltas, 0.1)):
        torch.nn.init.normal_(layer.weight, std=std)
    torch.nn.init.constant_(rpn.get_parameter("conv.bias"), 3.0)  # no dead cells, which would all have the same logits
    return rpn


# --- anchors ---


def test_cell_anchors_by_hand() -> None:
    # Height over width of one half: sides of 32 * sqrt(2) = 45.25 and 32 / sqrt(2) = 22.63, area still 1024.
    wide, square, tall = cell_anchors([32.0], RATIOS)
    assert wide == pytest.approx((-22.627417, -11.313708, 22.627417, 11.313708))
    assert square == (-16, -16, 16, 16)
    assert tall == pytest.approx((-11.313708, -22.627417, 11.313708, 22.627417))


def test_cell_anchors_list_every_ratio_of_a_size_before_the_next_size() -> None:
    anchors = cell_anchors([8.0, 16.0], [1.0, 4.0])
    assert anchors == ((-4, -4, 4, 4), (-2, -8, 2, 8), (-8, -8, 8, 8), (-4, -16, 4, 16))


def test_anchors_stand_on_the_top_left_corners_of_cells_row_by_row() -> None:
    rpn = RegionProposalNetwork(8, DETECTRON2_SIZES, RATIOS)
    predictions = rpn.predict(pyramid(64, 96))
    assert predictions.counts == (16 * 24 * 3, 8 * 12 * 3, 4 * 6 * 3, 2 * 3 * 3, 1 * 2 * 3)
    levels = predictions.anchors.split(predictions.counts)
    for level, stride, size in zip(levels, STRIDES, (32, 64, 128, 256, 512), strict=True):
        columns = math.ceil(96 / stride)
        squares = level[1::3]
        for index in (0, 1, len(squares) - 1):
            y, x = divmod(index, columns)
            assert squares[index].tolist() == [
                x * stride - size / 2,
                y * stride - size / 2,
                x * stride + size / 2,
                y * stride + size / 2,
            ]
        torch.testing.assert_close(box_ops.area(level), torch.full((len(level),), float(size * size)))
        ratios = (level[:, 3] - level[:, 1]) / (level[:, 2] - level[:, 0])
        torch.testing.assert_close(ratios, torch.tensor(RATIOS).repeat(len(level) // 3))


# --- head ---


def test_shape_of_the_anchor_is_the_fastest_index_of_the_head() -> None:
    rpn = RegionProposalNetwork(8, DETECTRON2_SIZES, RATIOS)
    with torch.no_grad():
        rpn.get_parameter("objectness.bias").copy_(torch.tensor([1.0, 2, 3]))
        rpn.get_parameter("deltas.bias").copy_(torch.arange(12.0))
        rpn.conv.weight.zero_()
        predictions = rpn.predict(pyramid(32, 32))
    count = len(predictions.anchors)
    assert predictions.logits.tolist() == [[1, 2, 3] * (count // 3)] * 2
    assert torch.equal(predictions.deltas, torch.arange(12.0).view(3, 4).repeat(count // 3, 1).expand(2, -1, -1))


def test_logits_and_deltas_belong_to_their_place() -> None:
    rpn, features = lively_rpn(), pyramid(64, 96)
    with torch.no_grad():
        predictions = rpn.predict(features)
        hidden = rpn.conv(features.features[8]).relu()
        objectness, deltas = rpn.objectness(hidden), rpn.deltas(hidden)
    logits = predictions.logits.split(predictions.counts, dim=1)[1].view(2, 8, 12, 3)
    assert torch.equal(logits[1, 5, 7], objectness[1, :, 5, 7])
    boxes = predictions.deltas.split(predictions.counts, dim=1)[1].view(2, 8, 12, 3, 4)
    assert torch.equal(boxes[1, 5, 7], deltas[1, :, 5, 7].view(3, 4))


def test_initialisation_and_size() -> None:
    torch.manual_seed(0)
    rpn = RegionProposalNetwork(256, DETECTRON2_SIZES, RATIOS)
    assert sum(parameter.numel() for parameter in rpn.parameters()) == 593_935
    for layer in (rpn.conv, rpn.objectness, rpn.deltas):
        assert layer.weight.std().item() == pytest.approx(0.01, rel=0.1)
        assert (layer.bias == 0).all()


# --- proposals ---


def naive_proposals(
    predictions: AnchorPredictions, row: int, size: Sequence[int], iou: float
) -> list[tuple[Tensor, float]]:
    """All boxes that survive within their level, best first, without any limit on their number."""
    boxes = box_ops.decode(predictions.deltas[row], predictions.anchors, (1.0, 1.0, 1.0, 1.0))
    boxes = box_ops.clip(boxes, size[0], size[1])
    survivors: list[tuple[Tensor, float]] = []
    for level, logits in zip(
        boxes.split(predictions.counts), predictions.logits[row].split(predictions.counts), strict=True
    ):
        sides = level[:, 2:] - level[:, :2]
        alive = (sides > 0).all(dim=1)
        overlaps = box_ops.iou(level, level)
        for index in logits.argsort(descending=True).tolist():
            if alive[index]:
                survivors.append((level[index], logits[index].item()))
                alive &= overlaps[index] <= iou
    return sorted(survivors, key=lambda survivor: -survivor[1])


def unlimited(rpn: RegionProposalNetwork, features: Pyramid, sizes: Tensor) -> tuple[AnchorPredictions, Proposals]:
    with torch.no_grad():
        predictions = rpn.predict(features)
        return predictions, rpn(features, sizes)


def assert_equals_naive(proposals: Proposals, row: int, expected: list[tuple[Tensor, float]]) -> None:
    count = len(expected)
    assert proposals.valid[row].tolist() == [True] * count + [False] * (proposals.valid.shape[1] - count)
    torch.testing.assert_close(proposals.logits[row, :count], torch.tensor([logit for _, logit in expected]))
    torch.testing.assert_close(proposals.boxes[row, :count], torch.stack([box for box, _ in expected]))


def test_limits_that_do_not_bind_change_nothing() -> None:
    rpn = lively_rpn(candidates_per_level=(5000, 5000), num_proposals=(5000, 5000))
    sizes = torch.tensor([[64, 96], [41, 67]])
    predictions, proposals = unlimited(rpn, pyramid(64, 96), sizes)
    for row in range(2):
        expected = naive_proposals(predictions, row, sizes[row].tolist(), 0.7)
        assert 100 < len(expected) < len(predictions.anchors)
        assert_equals_naive(proposals, row, expected)


def test_the_default_limits_do_not_bind_on_a_small_pyramid() -> None:
    rpn = lively_rpn()
    sizes = torch.tensor([[64, 64], [33, 64]])
    features = Pyramid({stride: level[..., : 64 // stride] for stride, level in pyramid(64, 64).features.items()})
    predictions, proposals = unlimited(rpn, features, sizes)
    assert max(predictions.counts) < 1000
    for row in range(2):
        assert_equals_naive(proposals, row, naive_proposals(predictions, row, sizes[row].tolist(), 0.7))


def test_fewer_proposals_are_the_best_of_all() -> None:
    everything = lively_rpn(candidates_per_level=(5000, 5000), num_proposals=(5000, 5000))
    some = lively_rpn(candidates_per_level=(5000, 5000), num_proposals=(10, 20))
    features, sizes = pyramid(64, 96), torch.tensor([[64, 96], [64, 96]])
    best = everything(features, sizes)
    for mode, count in ((True, 10), (False, 20)):
        chosen = some.train(mode)(features, sizes)
        assert chosen.valid.all()
        assert chosen.boxes.shape == (2, count, 4)
        assert torch.equal(chosen.logits, best.logits[:, :count])
        assert torch.equal(chosen.boxes, best.boxes[:, :count])


def test_candidates_are_limited_level_by_level() -> None:
    rpn = lively_rpn(candidates_per_level=(3, 5), iou_threshold=1.0)
    features, sizes = pyramid(64, 96), torch.tensor([[64, 96], [64, 96]])
    with torch.no_grad():
        rpn.deltas.weight.zero_()
        predictions = rpn.predict(features)
        for mode, limit in ((True, 3), (False, 5)):
            proposals = rpn.train(mode).select(predictions, sizes)
            best = torch.cat(
                [level.topk(limit, dim=1).values for level in predictions.logits.split(predictions.counts, 1)], 1
            )
            assert torch.equal(proposals.logits, best.sort(dim=1, descending=True).values)


def hand_made(boxes: list[list[float]], logits: list[float], counts: tuple[int, ...]) -> AnchorPredictions:
    """Predictions whose decoded boxes are the anchors."""
    anchors = torch.tensor(boxes)
    return AnchorPredictions(anchors, torch.tensor([logits]), torch.zeros(1, len(boxes), 4), counts)


def select(predictions: AnchorPredictions, size: tuple[int, int] = (100, 100)) -> Proposals:
    return RegionProposalNetwork(1, DETECTRON2_SIZES, RATIOS).eval().select(predictions, torch.tensor([size]))


def test_overlap_counts_within_a_level_only() -> None:
    boxes = [[0.0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 7], [0, 0, 10, 10]]
    proposals = select(hand_made(boxes, [4.0, 3.0, 2.0, 1.0], (3, 1)))
    # 0.8 is over the limit of 0.7, 0.7 is not.
    assert proposals.valid.tolist() == [[True, True, True, False]]
    assert proposals.logits.tolist() == [[4, 2, 1, 0]]


def test_boxes_without_area_in_the_picture_are_no_proposals() -> None:
    boxes = [[0.0, 0, 10, 10], [100, 0, 120, 10], [-20, 0, 0, 10], [30, 60, 40, 60], [90, 90, 130, 130]]
    proposals = select(hand_made(boxes, [1.0, 5.0, 4.0, 3.0, 2.0], (5,)))
    assert proposals.valid.tolist() == [[True, True, False, False, False]]
    assert proposals.boxes[0, :2].tolist() == [[90, 90, 100, 100], [0, 0, 10, 10]]


def test_what_is_not_a_number_is_no_proposal() -> None:
    predictions = hand_made([[0.0, 0, 10, 10], [20, 20, 30, 30], [40, 40, 50, 50], [60, 60, 70, 70]], [1.0] * 4, (4,))
    predictions.deltas[0, 0, 0] = torch.nan
    predictions.deltas[0, 1, 1] = torch.inf
    predictions.logits[0, 2] = torch.nan
    proposals = select(predictions)
    assert proposals.valid.tolist() == [[True, False, False, False]]
    assert proposals.boxes[0, 0].tolist() == [60, 60, 70, 70]
    assert proposals.logits.isfinite().all()
    assert proposals.boxes.isfinite().all()


def test_picture_of_one_pixel() -> None:
    proposals = lively_rpn()(pyramid(32, 32), torch.tensor([[1, 1], [32, 32]]))
    valid = proposals.boxes[0][proposals.valid[0]]
    assert len(valid) > 0
    assert ((valid >= 0) & (valid <= 1)).all()


def test_a_picture_does_not_depend_on_its_neighbours() -> None:
    rpn, sizes = lively_rpn(), torch.tensor([[64, 96], [30, 40]])
    with torch.no_grad():
        predictions = rpn.predict(pyramid(64, 96))
    together = rpn.select(predictions, sizes)
    for row in range(2):
        logits, deltas = predictions.logits[row : row + 1], predictions.deltas[row : row + 1]
        single = AnchorPredictions(predictions.anchors, logits, deltas, predictions.counts)
        alone = rpn.select(single, sizes[row : row + 1])
        for field in ("boxes", "logits", "valid"):
            assert torch.equal(getattr(alone, field)[0], getattr(together, field)[row])


def test_proposals_carry_no_gradient() -> None:
    proposals = lively_rpn()(pyramid(32, 32), torch.tensor([[32, 32], [32, 32]]))
    assert not proposals.boxes.requires_grad
    assert not proposals.logits.requires_grad
    assert proposals.boxes.dtype == proposals.logits.dtype == torch.float32
