import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align

from thingstuff.recipe import LossConfig
from thingstuff.structures import VOID_LABEL, Targets
from thingstuff.training.losses import Term
from thingstuff.training.pixel_terms import panoptic_term, roi_semantic_term, semantic_term

Box = tuple[int, int, int, int]


def targets_of(
    label_map: Tensor, boxes: Sequence[Box] = (), labels: Sequence[int] = (), crowd: Sequence[bool] = ()
) -> Targets:
    """Objects whose masks are the pixels of their class within their box."""
    return Targets(
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.tensor(labels, dtype=torch.int64),
        crowd=torch.tensor(crowd or [False] * len(boxes), dtype=torch.bool),
        masks=tuple(
            label_map[top:bottom, left:right] == 2 + label
            for (left, top, right, bottom), label in zip(boxes, labels, strict=True)
        ),
        label_map=label_map.to(torch.uint8),
    )


def mean(term: Term) -> float:
    return float(term.total.detach() / term.normalizer)


def cross_entropy(values: Sequence[float], label: int) -> float:
    return math.log(sum(math.exp(value) for value in values)) - values[label]


# --- inside the boxes of objects; two stuff classes, then things ---


# --- classes of all pixels ---


@pytest.mark.parametrize("height", [1, 7, 8, 9, 24, 25])  # of the logits: eight rows at a time
def test_full_size_loss_is_that_of_all_enlarged_logits(height: int) -> None:
    generator = torch.Generator().manual_seed(height)
    logits = torch.randn(2, 5, height, 6, generator=generator, requires_grad=True)
    labels = torch.randint(0, 5, (2, 4 * height, 24), generator=generator)
    labels[0, :3] = VOID_LABEL
    truth = [targets_of(label_map, [], []) for label_map in labels]
    term = semantic_term(logits, truth, LossConfig(semantic_size="full"), None)
    (3 * term.total).backward()

    plain = logits.detach().clone().requires_grad_()
    enlarged = F.interpolate(plain, scale_factor=4, mode="bilinear", align_corners=False)
    expected = F.cross_entropy(enlarged, labels, ignore_index=VOID_LABEL, reduction="sum")
    (3 * expected).backward()
    torch.testing.assert_close(term.total, expected)
    torch.testing.assert_close(logits.grad, plain.grad, rtol=1e-4, atol=1e-5)
    assert float(term.normalizer) == (labels != VOID_LABEL).sum()
    with torch.no_grad():
        torch.testing.assert_close(semantic_term(logits, truth, LossConfig(), None).total, expected.detach())


def test_roi_semantic_loss_by_hand() -> None:
    # One channel rises along x, one along y; the box includes pixels 8..40 and 4..20, cells 2..10 and 1..5.
    logits = torch.zeros(1, 3, 16, 16)
    logits[0, 1], logits[0, 2] = torch.arange(16), torch.arange(16)[:, None]
    label_map = torch.zeros(64, 64, dtype=torch.int64)
    label_map[:, 24:], label_map[12:] = 1, VOID_LABEL
    term = roi_semantic_term(logits, [targets_of(label_map, [(8, 4, 41, 21)], [0])], None)
    expected = []
    for i in range(28):
        for j in range(28):
            # The label map is cropped to columns 8..39 and rows 4..19.
            y, x = 4 + i * 16 // 28, 8 + j * 32 // 28
            if y < 12:
                values = (0.0, 2 + (j + 0.5) * 8 / 28, 1 + (i + 0.5) * 4 / 28)
                expected.append(cross_entropy(values, int(x >= 24)))
    assert float(term.total) == pytest.approx(sum(expected), rel=1e-5)
    assert float(term.normalizer) == 784  # void included


def test_small_boxes_are_looked_at_over_a_whole_cell() -> None:
    logits = torch.zeros(1, 2, 8, 8)
    logits[0, 1] = torch.arange(8)
    term = roi_semantic_term(logits, [targets_of(torch.ones(32, 32), [(8, 8, 9, 9)], [0])], None)
    expected = [cross_entropy((0.0, 2 + (j + 0.5) / 28), 1) for j in range(28)]
    assert float(term.total) == pytest.approx(28 * sum(expected), rel=1e-5)


BOXES: list[list[Box]] = [[(3, 5, 30, 22), (0, 0, 64, 48), (63, 47, 64, 48)], [], [(10, 0, 11, 48), (40, 8, 60, 30)]]


@pytest.mark.parametrize("things_channel", [None, 2])
def test_roi_semantic_loss_is_that_of_pooled_logits(things_channel: int | None) -> None:
    generator = np.random.default_rng(0)
    maps = [torch.from_numpy(generator.choice([0, 1, 2, 3, 4, VOID_LABEL], (48, 64))) for _ in BOXES]
    truth = [targets_of(m, rows, [0] * len(rows)) for m, rows in zip(maps, BOXES, strict=True)]
    logits = torch.randn(3, 5 if things_channel is None else 3, 16, 16, generator=torch.Generator().manual_seed(0))
    terms = []
    for picture, label_map in enumerate(maps):
        for left, top, right, bottom in BOXES[picture]:
            region = torch.tensor([[picture, left, top, right - 1, bottom - 1]], dtype=torch.float32)
            pooled = roi_align(logits, region, 28, 0.25, 2, False)[0].double()
            width, height = max(right - 1 - left, 1), max(bottom - 1 - top, 1)
            for i in range(28):
                for j in range(28):
                    label = int(label_map[top + i * height // 28, left + j * width // 28])
                    if label != VOID_LABEL:
                        label = label if things_channel is None else min(label, things_channel)
                        terms.append(float(pooled[:, i, j].logsumexp(0) - pooled[label, i, j]))
    for needs_gradient in (False, True):
        found = roi_semantic_term(logits.clone().requires_grad_(needs_gradient), truth, things_channel)
        assert float(found.total.detach()) == pytest.approx(math.fsum(terms), rel=1e-5)
        assert float(found.normalizer) == 5 * 784


def test_a_crowd_has_no_roi_semantic_loss() -> None:
    logits = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    label_map = torch.full((32, 32), 2)
    alone = targets_of(label_map, [(0, 0, 16, 16)], [0])
    both = targets_of(label_map, [(8, 8, 32, 32), (0, 0, 16, 16)], [0, 0], [True, False])
    assert mean(roi_semantic_term(logits, [alone], None)) == mean(roi_semantic_term(logits, [both], None))


# --- behind the panoptic head: example 1 of the specification (section 8.3), at stride 4 ---

CELLS = torch.tensor([[2, 2, 0, 0], [2, 3, 3, 0], [1, 3, 3, 3], [1, 1, 3, 255]])
LABEL_MAP = CELLS.repeat_interleave(4, 0).repeat_interleave(4, 1)
EXAMPLE = targets_of(LABEL_MAP, [(0, 0, 8, 8), (4, 4, 16, 16)], [0, 1])


def example_logits() -> Tensor:
    upper = torch.tensor([[2.0], [2.0], [0.0], [0.0]]).expand(4, 4)
    rising = torch.tensor([1.0, 2.0, 3.0, 4.0]).expand(4, 4)
    return torch.stack([upper, 2 - upper, rising, 5 - rising])[None]


def example_masks() -> Tensor:
    ramp = (torch.arange(28) - 13.5) / 7
    return torch.stack([ramp.expand(28, 28), 3 * ramp[:, None].expand(28, 28)])


def example_term(shown: list[int], unknown: bool, truth: Targets = EXAMPLE) -> Term:
    rows = torch.tensor(shown, dtype=torch.int64)
    masks = example_masks()[rows]
    return panoptic_term(example_logits(), [masks], [rows], [truth], num_stuff=2, unknown=unknown)


def test_panoptic_loss_with_all_objects() -> None:
    term = example_term([0, 1], True)
    assert float(term.total) == pytest.approx(35.437005, abs=2e-5)
    assert mean(term) == pytest.approx(2.214813, abs=2e-6)


def test_panoptic_loss_with_one_object_unknown() -> None:
    assert mean(example_term([1], True)) == pytest.approx(1.649119, abs=2e-6)


def test_the_order_of_objects_does_not_matter_where_they_do_not_overlap() -> None:
    assert mean(example_term([1, 0], True)) == pytest.approx(2.214813, abs=2e-6)


def test_without_unknown_what_is_not_shown_has_no_label() -> None:
    # Channels of the specification's table without the unknown; the cells of A have no label.
    instance = [[0, 0, 0, 0], [0, -1, -2, -3], [0, 3, 2, 1], [0, 7, 6, 5]]
    expected = 0.0
    for y in range(4):
        for x in range(4):
            label = int(CELLS[y, x])
            if label not in (2, 255):
                values = (2.0 * (y < 2), 2.0 * (y >= 2), instance[y][x])
                expected += cross_entropy(values, 2 if label == 3 else label)
    term = example_term([1], False)
    assert float(term.total) == pytest.approx(expected, rel=1e-5)
    assert float(term.normalizer) == 16


def test_without_objects_there_are_stuff_and_the_unknown() -> None:
    term = example_term([], True)
    expected = 0.0
    for y in range(4):
        for x in range(4):
            label = int(CELLS[y, x])
            if label != 255:
                values = (2.0 * (y < 2), 2.0 * (y >= 2), float(max(1 + x, 4 - x)))
                expected += cross_entropy(values, min(label, 2))
    assert float(term.total) == pytest.approx(expected, rel=1e-5)


def test_padding_counts_in_the_mean_and_pictures_keep_apart() -> None:
    logits = torch.zeros(2, 4, 6, 8)
    logits[1:, :, :4, :4] = example_logits()
    rows = [torch.zeros(0, dtype=torch.int64), torch.tensor([1])]
    truth = [targets_of(torch.full((9, 30), VOID_LABEL)), EXAMPLE]
    masks = example_masks()
    term = panoptic_term(logits, [masks[:0], masks[1:]], rows, truth, num_stuff=2, unknown=True)
    assert float(term.normalizer) == 2 * 6 * 8
    assert float(term.total) == pytest.approx(16 * 1.649119, abs=3e-5)


def test_gradients_reach_logits_and_masks() -> None:
    logits, masks = example_logits().requires_grad_(), example_masks().requires_grad_()
    term = panoptic_term(logits, [masks], [torch.tensor([0, 1])], [EXAMPLE], num_stuff=2, unknown=True)
    term.total.backward()
    assert logits.grad is not None
    assert masks.grad is not None
    assert logits.grad[0].abs().amax(dim=(1, 2)).min() > 0
    assert masks.grad.abs().amax(dim=(1, 2)).min() > 0
    assert not logits.grad[0, :2, 3, 3].any()  # void


NOTHING = {
    "void": (targets_of(torch.full((16, 16), VOID_LABEL)), 4, 2, True),
    "too small for a cell": (targets_of(torch.zeros(1, 2)), 4, 2, True),
    "things alone, none shown, no unknown": (targets_of(torch.full((16, 16), 1)), 2, 0, False),
}


@pytest.mark.parametrize("name", NOTHING)
def test_nothing_labelled_costs_nothing(name: str) -> None:
    target, classes, num_stuff, unknown = NOTHING[name]
    logits = torch.randn(1, classes, 4, 4, requires_grad=True)
    masks = torch.zeros(0, 28, 28, requires_grad=True)
    rows = torch.zeros(0, dtype=torch.int64)
    term = panoptic_term(logits, [masks], [rows], [target], num_stuff=num_stuff, unknown=unknown)
    term.total.backward()
    assert mean(term) == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_more_than_255_objects() -> None:
    count = 300
    label_map = torch.full((4, 4 * count), 2)
    boxes: list[Box] = [(4 * number, 0, 4 * number + 4, 4) for number in range(count)]
    target = targets_of(label_map, boxes, [0] * count)
    logits = torch.zeros(1, 3, 1, count)
    masks = torch.full((count, 28, 28), 5.0)
    term = panoptic_term(logits, [masks], [torch.arange(count)], [target], num_stuff=2, unknown=True)
    # Every object is 5 in its own cell and 0 elsewhere, like both stuff classes and the unknown.
    assert mean(term) == pytest.approx(math.log(math.exp(5) + count - 1 + 3) - 5, rel=1e-5)
