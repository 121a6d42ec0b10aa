"""UPSNet's panoptic head: the pure function by hand, and inference in three forms that give the same map.

The plain form, which is written out here, holds every channel at full size; the eager form works inside of boxes and
tiles; the graph form has fixed sizes.
"""

import dataclasses
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torch._dynamo
import torch.nn.functional as F
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from production import as_in_production, loops_of_python
from thingstuff.model.fusion import panoptic_logits, segment_by_logits
from thingstuff.model.interpolation import surround, upsample_all
from thingstuff.model.panoptic_head import (
    Ranked,
    label_pixels,
    label_pixels_in_graph,
    mask_evidence,
    semantic_evidence,
)
from thingstuff.structures import Instances, Outputs, PanopticMaps, Semantic, Size, StuffMajority

VOID = 255


# --- example 1: training form, stride 4 ---

SEMANTIC_1 = torch.tensor(
    [
        [[2, 2, 2, 2], [2, 2, 2, 2], [0, 0, 0, 0], [0, 0, 0, 0]],
        [[0, 0, 0, 0], [0, 0, 0, 0], [2, 2, 2, 2], [2, 2, 2, 2]],
        [[1, 2, 3, 4]] * 4,
        [[4, 3, 2, 1]] * 4,
    ],
    dtype=torch.float32,
)
BOXES_1 = torch.tensor([[0, 0, 7, 7], [4, 4, 15, 15]], dtype=torch.float32) / 4
RAMP = (torch.arange(28.0) - 13.5) / 7
MASKS_1 = torch.stack([RAMP.expand(28, 28), 3 * RAMP[:, None].expand(28, 28)])


def cross_entropies(logits: Tensor, labels: list[list[int]]) -> Tensor:
    return F.cross_entropy(logits[None], torch.tensor([labels]), ignore_index=VOID, reduction="sum")


def test_example_1() -> None:
    seen = semantic_evidence(SEMANTIC_1[2:], BOXES_1)
    assert seen.tolist() == [
        [[1, 2, 3, 0], [1, 2, 3, 0], [1, 2, 3, 0], [0, 0, 0, 0]],
        [[0, 0, 0, 0], [0, 3, 2, 1], [0, 3, 2, 1], [0, 3, 2, 1]],
    ]
    expected_masks = [
        [[-1, 1, 0, 0], [-1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
        [[0, 0, 0, 0], [0, -4, -4, -4], [0, 0, 0, 0], [0, 4, 4, 4]],
    ]
    masks = mask_evidence(MASKS_1, BOXES_1, (4, 4))
    torch.testing.assert_close(masks, torch.tensor(expected_masks, dtype=torch.float32), rtol=0, atol=1e-6)
    logits = panoptic_logits(SEMANTIC_1, BOXES_1, torch.tensor([0, 1]), MASKS_1, num_stuff=2)
    expected = [
        *SEMANTIC_1[:2].tolist(),
        [[0, 3, 3, 0], [0, 3, 3, 0], [1, 2, 3, 0], [0, 0, 0, 0]],
        [[0, 0, 0, 0], [0, -1, -2, -3], [0, 3, 2, 1], [0, 7, 6, 5]],
        [[3, 1, 0, 4], [3, 0, 0, 3], [3, 0, 0, 3], [4, 0, 1, 3]],
    ]
    torch.testing.assert_close(logits, torch.tensor(expected, dtype=torch.float32), rtol=0, atol=2e-6)
    assert logits.argmax(dim=0).tolist() == [[4, 2, 2, 4], [4, 2, 2, 4], [4, 3, 2, 4], [4, 3, 3, 3]]
    total = cross_entropies(logits, [[2, 2, 0, 0], [2, 3, 3, 0], [1, 3, 3, 3], [1, 1, 3, VOID]])
    assert total.item() == pytest.approx(35.437005, abs=2e-5)
    assert total.item() / 16 == pytest.approx(2.214813, abs=1e-6)
    assert total.item() / 15 == pytest.approx(2.362467, abs=1e-6)


def test_example_1_with_one_instance_made_unknown() -> None:
    logits = panoptic_logits(SEMANTIC_1, BOXES_1[1:], torch.tensor([1]), MASKS_1[1:], num_stuff=2)
    assert logits[3].tolist() == [[4, 3, 3, 4], [4, 0, 1, 3], [4, 0, 1, 3], [4, 0, 1, 3]]
    winners = logits.argmax(dim=0)
    winners[2, 2] = 2  # stuff and instance tie but for rounding
    assert winners.tolist() == [[3, 3, 3, 3], [3, 0, 0, 3], [3, 2, 2, 3], [3, 2, 2, 2]]
    total = cross_entropies(logits, [[3, 3, 0, 0], [3, 2, 2, 0], [1, 2, 2, 2], [1, 1, 2, VOID]])
    assert total.item() / 16 == pytest.approx(1.649119, abs=1e-6)


# --- example 2: inference ---

SEMANTIC_2 = torch.tensor(
    [
        [[3, 3, 1, 1]] * 4,
        [[1, 1, 3, 3]] * 4,
        [[0, 0, 0, 0], [0, 4, 4, 0], [0, 4, 4, 5], [0, 0, 5, 5]],
        [[-1, -1, 2, 2], [-1, -1, 2, 2], [-1] * 4, [-1] * 4],
    ],
    dtype=torch.float32,
)
RANKED_2 = Ranked(
    boxes=torch.tensor([[1, 1, 2, 2], [1, 1, 3, 2], [2, 0, 3, 1.5]]),
    labels=torch.tensor([0, 0, 1]),
    scores=torch.tensor([0.9, 0.8, 0.7]),
    mask_logits=torch.tensor([2.0, 2, 3])[:, None, None].expand(3, 28, 28),
    usable=torch.ones(3, dtype=torch.bool),
)


def test_example_2_channels() -> None:
    boxes, labels, _, masks, _ = (column[[0, 2]] for column in RANKED_2)
    seen = semantic_evidence(SEMANTIC_2[2 + labels], boxes)
    assert seen.tolist() == [
        [[0, 0, 0, 0], [0, 4, 4, 0], [0, 4, 4, 0], [0, 0, 0, 0]],
        [[0, 0, 2, 2], [0, 0, 2, 2], [0, 0, -1, -1], [0, 0, 0, 0]],
    ]
    logits = panoptic_logits(SEMANTIC_2, boxes, labels, masks, num_stuff=2)
    assert logits.tolist() == [
        *SEMANTIC_2[:2].tolist(),
        [[0, 0, 0, 0], [0, 6, 6, 0], [0, 6, 6, 0], [0, 0, 0, 0]],
        [[0, 0, 5, 5], [0, 0, 5, 5], [0, 0, -1, -1], [0, 0, 0, 0]],
        [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 5], [0, 0, 5, 5]],
    ]
    assert logits.argmax(dim=0).tolist() == [[0, 0, 3, 3], [0, 2, 2, 3], [0, 2, 2, 4], [0, 0, 4, 4]]
    assert SEMANTIC_2.argmax(dim=0).tolist() == [[0, 0, 1, 1], [0, 2, 2, 1], [0, 2, 2, 2], [0, 0, 2, 2]]


def test_example_2_pruning() -> None:
    # One cell at stride 4 is the whole map: its logits decide nothing here, the masks do.
    assert label_pixels(torch.zeros(4, 1, 1), RANKED_2, 2, 0.3, True).rows.tolist() == [0, 2]
    assert label_pixels(torch.zeros(4, 1, 1), RANKED_2, 2, 0.67, True).rows.tolist() == [0, 1, 2]


# --- the pure function ---


def random_case(
    seed: int, size: Size = (12, 16), stuff: int = 2, things: int = 3, count: int = 4
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits, boxes anywhere (also outside of the map, also of less than a pixel), labels, masks."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(stuff + things, *size, generator=generator)
    centers = torch.rand(count, 2, generator=generator) * 24 - 4
    sides = torch.rand(count, 2, generator=generator).square() * 20 - 0.8
    boxes = torch.cat([centers - sides / 2, centers + sides / 2], dim=1)
    labels = torch.randint(0, max(things, 1), (count,), generator=generator)
    return logits, boxes, labels, torch.randn(count, 28, 28, generator=generator)


def by_the_book(logits: Tensor, boxes: Tensor, labels: Tensor, masks: Tensor, num_stuff: int) -> np.ndarray:
    """The head as its description reads, with numpy's slices."""
    height, width = logits.shape[1:]
    things = logits[num_stuff:].numpy()
    seen, found = np.zeros((2, len(boxes), height, width), dtype=np.float32)
    for i, (x1, y1, x2, y2) in enumerate(boxes.double().numpy()):
        rows = slice(max(int(y1), 0), max(int(np.round(y2)) + 1, 0))
        columns = slice(max(int(x1), 0), max(int(np.round(x2)) + 1, 0))
        seen[i, rows, columns] = things[labels[i], rows, columns]
        left, top, right, bottom = (int(side) for side in (x1, y1, x2, y2))
        size = max(bottom - top + 1, 1), max(right - left + 1, 1)
        patch = F.interpolate(masks[i : i + 1, None], size=size, mode="bilinear", align_corners=False)[0, 0].numpy()
        for y in range(max(top, 0), min(bottom + 1, height)):
            for x in range(max(left, 0), min(right + 1, width)):
                found[i, y, x] = patch[y - top, x - left]
    unknown = things.max(axis=0) - (seen.max(axis=0) if len(boxes) else 0)
    return np.concatenate([logits[:num_stuff].numpy(), seen + found, unknown[None]])


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**31), st.integers(0, 4), st.integers(0, 5))
def test_channels_are_those_of_the_description(seed: int, stuff: int, count: int) -> None:
    logits, boxes, labels, masks = random_case(seed, stuff=stuff, count=count)
    mine = panoptic_logits(logits, boxes, labels, masks, num_stuff=stuff)
    assert mine.shape == (stuff + count + 1, 12, 16)
    np.testing.assert_allclose(mine, by_the_book(logits, boxes, labels, masks, stuff), rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("box", "semantic", "mask"),
    [
        # first and last column of each rectangle; a tie is rounded to even
        ([2, 0, 5, 0], (2, 5), (2, 5)),
        ([2.9, 0, 5.4, 0], (2, 5), (2, 5)),
        ([2, 0, 5.51, 0], (2, 6), (2, 5)),
        ([2, 0, 4.5, 0], (2, 4), (2, 4)),
        ([2, 0, 5.5, 0], (2, 6), (2, 5)),
        ([-3.7, 0, 2, 0], (0, 2), (0, 2)),
        ([-0.9, 0, -0.6, 0], None, (0, 0)),  # -0.6 is cut to 0 and rounded to -1
        ([-0.9, 0, -0.4, 0], (0, 0), (0, 0)),
        ([6, 0, 99, 0], (6, 7), (6, 7)),
        ([3, 0, 2.4, 0], None, None),
        ([3.9, 0, 2.6, 0], (3, 3), None),
        ([8, 0, 9, 0], None, None),
        ([-5, 0, -2, 0], None, None),
    ],
)
def test_rectangles(box: list[float], semantic: tuple[int, int] | None, mask: tuple[int, int] | None) -> None:
    boxes = torch.tensor([box], dtype=torch.float32)
    seen = semantic_evidence(torch.ones(1, 1, 8), boxes)[0, 0].nonzero()[:, 0].tolist()
    found = mask_evidence(torch.ones(1, 28, 28), boxes, (1, 8))[0, 0].nonzero()[:, 0].tolist()
    assert seen == (list(range(semantic[0], semantic[1] + 1)) if semantic else [])
    assert found == (list(range(mask[0], mask[1] + 1)) if mask else [])
    # Rows follow the same rule.
    turned = boxes[:, [1, 0, 3, 2]]
    assert semantic_evidence(torch.ones(1, 8, 1), turned)[0, :, 0].nonzero()[:, 0].tolist() == seen
    assert mask_evidence(torch.ones(1, 28, 28), turned, (8, 1))[0, :, 0].nonzero()[:, 0].tolist() == found


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 4), st.booleans())
def test_invariants(seed: int, count: int, negative: bool) -> None:
    logits, boxes, labels, masks = random_case(seed, count=count)
    if negative:
        logits = -logits.abs()
    things = logits[2:].amax(dim=0)
    channels = panoptic_logits(logits, boxes, labels, masks, num_stuff=2)
    instances, unknown = channels[2:-1], channels[-1]
    assert torch.equal(channels[:2], logits[:2])

    inside = semantic_evidence(torch.ones(count, 12, 16), boxes).bool()
    masked = mask_evidence(torch.ones(count, 28, 28), boxes, (12, 16)).bool()
    assert (instances[~inside & ~masked] == 0).all()
    assert torch.equal(unknown[~inside.any(dim=0)], things[~inside.any(dim=0)])
    owner = torch.zeros_like(inside)
    for i in range(count):
        owner[i] = inside[i] & (logits[2 + labels[i]] == things)
    if count:
        complete = inside.all(dim=0) & owner.any(dim=0)
        assert (unknown[complete] == 0).all()
    assert (unknown[things >= 0] >= 0).all()
    covered = torch.where(inside, logits[2 + labels], -torch.inf)
    highest = covered.amax(dim=0).clamp(min=0) if count else torch.zeros_like(things)
    assert (unknown >= things - highest).all()
    usual = ~(inside.all(dim=0) & (covered < 0).all(dim=0)) if count else torch.ones_like(things, dtype=torch.bool)
    assert torch.equal(unknown[usual], (things - highest)[usual])


@settings(deadline=None)
@given(st.integers(0, 2**31), st.permutations(range(4)))
def test_permuting_instances_permutes_their_channels(seed: int, order: list[int]) -> None:
    logits, boxes, labels, masks = random_case(seed)
    channels = panoptic_logits(logits, boxes, labels, masks, num_stuff=2)
    permuted = panoptic_logits(logits, boxes[order], labels[order], masks[order], num_stuff=2)
    assert torch.equal(permuted, channels[[0, 1, *(2 + i for i in order), 6]])


def test_unknown_does_not_depend_on_masks_nor_under_all_boxes_on_the_level_of_things() -> None:
    logits, boxes, labels, masks = random_case(3)
    boxes[0] = torch.tensor([1, 1, 9, 9])
    unknown = panoptic_logits(logits, boxes[:1], labels[:1], masks[:1], num_stuff=2)[-1]
    assert torch.equal(panoptic_logits(logits, boxes[:1], labels[:1], -5 * masks[:1], num_stuff=2)[-1], unknown)
    raised = torch.cat([logits[:2], logits[2:] + 4])
    lifted = panoptic_logits(raised, boxes[:1], labels[:1], masks[:1], num_stuff=2)[-1]
    torch.testing.assert_close(lifted[1:10, 1:10], unknown[1:10, 1:10], rtol=0, atol=1e-5)
    assert (lifted[10:] > unknown[10:]).all()


def test_without_unknown_class_the_other_channels_stay() -> None:
    logits, boxes, labels, masks = random_case(5)
    channels = panoptic_logits(logits, boxes, labels, masks, num_stuff=2)
    assert torch.equal(panoptic_logits(logits, boxes, labels, masks, num_stuff=2, unknown=False), channels[:-1])


def test_no_instance_no_thing_no_stuff() -> None:
    logits, boxes, labels, masks = random_case(0, count=0)
    channels = panoptic_logits(logits, boxes, labels, masks, num_stuff=2)
    assert torch.equal(channels, torch.cat([logits[:2], logits[2:].amax(dim=0)[None]]))
    no_thing = panoptic_logits(logits[:2], boxes, labels, masks, num_stuff=2)
    assert torch.equal(no_thing[:2], logits[:2])
    assert (no_thing[2] == -torch.inf).all()
    assert cross_entropies(no_thing, [[0] * 16] * 12).isfinite()
    assert panoptic_logits(logits, boxes, labels, masks, num_stuff=0).shape == (1, 12, 16)
    assert panoptic_logits(logits[:2], boxes, labels, masks, num_stuff=2, unknown=False).shape == (2, 12, 16)


@pytest.mark.parametrize("side", [1, 2, 14, 56])
def test_masks_of_any_size(side: int) -> None:
    logits, boxes, labels, _ = random_case(1)
    channels = panoptic_logits(logits, boxes, labels, torch.full((4, side, side), 2.5), num_stuff=2)
    inside = mask_evidence(torch.ones(4, 28, 28), boxes, (12, 16)).bool()
    expected = semantic_evidence(logits[2 + labels], boxes) + 2.5 * inside
    assert torch.equal(channels[2:-1], expected)


def test_gradients() -> None:
    logits, boxes, labels, masks = random_case(2, (5, 6))
    inputs = logits.double().requires_grad_(), masks[:, :3, :3].double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: panoptic_logits(x, boxes, labels, y, num_stuff=2), inputs)


def test_gradients_reach_both_branches_and_only_inside_of_boxes() -> None:
    logits, _, _, masks = random_case(2)
    logits.requires_grad_()
    masks = masks[:2].clone().requires_grad_()
    boxes = torch.tensor([[2, 3, 7, 8.7], [30, 30, 40, 40]])
    channels = panoptic_logits(logits, boxes, torch.tensor([0, 1]), masks, num_stuff=2, unknown=False)
    channels.square().sum().backward()
    assert logits.grad is not None
    assert masks.grad is not None
    inside = torch.zeros(12, 16, dtype=torch.bool)
    inside[3:10, 2:8] = True
    assert (logits.grad[2] != 0).equal(inside)
    assert (logits.grad[3:] == 0).all()
    assert (logits.grad[:2] != 0).all()
    assert (masks.grad[0] != 0).any()
    assert (masks.grad[1] == 0).all()  # outside of the map


# --- inference: three forms ---


def make_outputs(
    seed: int, kind: str = "noise", stuff: int = 3, things: int = 3, cells: Size = (9, 13), count: int = 5
) -> Outputs:
    """One picture. ``noise``: no two values are equal; ``ties``: eighths, of which many are."""
    generator = torch.Generator().manual_seed(seed)
    height, width = 4 * cells[0], 4 * cells[1]
    logits = 2 * torch.randn(1, stuff + things, *cells, generator=generator)
    masks = 2 * torch.randn(1, count, 28, 28, generator=generator)
    corners = torch.rand(count, 2, 2, generator=generator) * torch.tensor([width, height])
    boxes = torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=1)[None]
    scores = torch.rand(1, count, generator=generator)
    if kind == "ties":
        logits, scores = logits.round() / 8, (4 * scores).round() / 4
        masks = masks[..., :1, :1].round().expand(masks.shape) / 8
        boxes = (2 * boxes).round() / 2
    labels = torch.randint(0, max(things, 1), (1, count), generator=generator)
    valid = torch.rand(1, count, generator=generator) < 0.9
    return Outputs(Instances(boxes, scores, labels, masks, valid), Semantic(logits))


def plain(
    outputs: Outputs,
    size: Size,
    output_size: Size,
    num_stuff: int,
    *,
    score_threshold: float = 0.3,
    overlap_threshold: float = 0.3,
    stuff_area: int = 20,
    unknown: bool = True,
    stuff_majority: StuffMajority = "half",
    library: bool = False,
) -> PanopticMaps:
    """All channels at full size, loops over instances, pixels and classes.

    Args:
        library: Take torch's interpolation for the semantic logits.
    """
    found, semantic = outputs.instances, outputs.semantic
    assert found is not None
    assert found.mask_logits is not None
    assert semantic is not None
    padded = 4 * semantic.logits.shape[2], 4 * semantic.logits.shape[3]
    full = upsample_all(surround(semantic.logits[0]), padded)
    if library:
        full = F.interpolate(semantic.logits, scale_factor=4, mode="bilinear", align_corners=False)[0]
    order = sorted(range(found.scores.shape[1]), key=lambda i: -float(found.scores[0, i]))
    order = [i for i in order if found.valid[0, i] and found.scores[0, i] > score_threshold]
    canvases = np.zeros((full.shape[0], *padded), dtype=bool)
    kept = []
    for i in order:
        box = found.boxes[0, i : i + 1] - torch.tensor([0, 0, 1, 1])
        mask = (mask_evidence(found.mask_logits[0, i : i + 1], box, padded)[0] > 0).numpy()
        canvas = canvases[int(found.labels[0, i])]
        if mask.any() and (mask & canvas).sum() / mask.sum() <= overlap_threshold:
            canvas |= mask
            kept.append(i)
    boxes = found.boxes[0, kept] - torch.tensor([0, 0, 1, 1])
    labels = found.labels[0, kept]
    channels = panoptic_logits(full, boxes, labels, found.mask_logits[0, kept], num_stuff=num_stuff, unknown=unknown)
    rows = [(2 * y + 1) * size[0] // (2 * output_size[0]) for y in range(output_size[0])]
    columns = [(2 * x + 1) * size[1] // (2 * output_size[1]) for x in range(output_size[1])]
    nothing = torch.full(padded, num_stuff)  # where there is no channel at all
    winners = channels.argmax(dim=0) if channels.shape[0] else nothing
    winners, looks = (plane[rows][:, columns].numpy().copy() for plane in (winners, full.argmax(dim=0)))
    table = []
    for number, i in enumerate(kept, start=num_stuff):
        area = int((winners == number).sum())
        votes = np.bincount(looks[winners == number], minlength=full.shape[0])
        top = int(votes.argmax())
        share = votes[top] / max(area, 1)
        if area and top < num_stuff and (share >= 0.5 if stuff_majority == "half" else share > 0.5):
            winners[winners == number] = top
        elif area:
            table.append((number, num_stuff + int(found.labels[0, i]), float(found.scores[0, i])))
    for label in range(num_stuff):
        area = int((winners == label).sum())
        if area and area >= stuff_area:
            table.append((label, label, 1.0))
    ids = np.zeros(output_size, dtype=np.int32)
    for identity, (winner, _, _) in enumerate(table, start=1):
        ids[winners == winner] = identity
    return PanopticMaps(
        torch.from_numpy(ids),
        torch.tensor([label for _, label, _ in table], dtype=torch.int64),
        torch.tensor([score for _, _, score in table], dtype=torch.float32),
        torch.tensor([int((ids == i).sum()) for i in range(1, len(table) + 1)], dtype=torch.int64),
        torch.ones(len(table), dtype=torch.bool),
    )


def segment(outputs: Outputs, size: Size, output_size: Size, num_stuff: int, **options) -> PanopticMaps:
    options = {"score_threshold": 0.3, "stuff_area": 20, **options}
    return segment_by_logits(outputs, 0, size, output_size, num_stuff=num_stuff, **options)


def segment_in_graph(*args, **options) -> PanopticMaps:
    with pytest.MonkeyPatch.context() as patch, loops_of_python():
        patch.setattr(torch.compiler, "is_compiling", lambda: True)
        return segment(*args, **options)


def assert_same(mine: PanopticMaps, expected: PanopticMaps) -> None:
    """Equal maps, and equal valid rows, which come first."""
    assert torch.equal(mine.ids, expected.ids)
    count = int(mine.valid.sum())
    assert mine.valid[:count].all()
    for field in ("labels", "scores", "areas"):
        assert torch.equal(getattr(mine, field)[:count], getattr(expected, field)[: len(expected.valid)])
    assert count == int(expected.valid.sum())


@settings(deadline=None, max_examples=80)
@given(
    seed=st.integers(0, 2**31),
    kind=st.sampled_from(["noise", "ties"]),
    stuff=st.integers(0, 3),
    things=st.integers(0, 3),
    count=st.integers(0, 7),
    unknown=st.booleans(),
    majority=st.sampled_from(["half", "more_than_half"]),
    size=st.tuples(st.integers(1, 36), st.integers(1, 52)),
    output_size=st.one_of(st.none(), st.tuples(st.integers(1, 60), st.integers(1, 60))),
)
def test_plain_eager_and_graph_form_give_the_same_map(
    seed: int,
    kind: str,
    stuff: int,
    things: int,
    count: int,
    unknown: bool,
    majority: StuffMajority,
    size: Size,
    output_size: Size | None,
) -> None:
    assume(stuff + things > 0)
    outputs = make_outputs(seed, kind, stuff, things, count=count if things else 0)
    options = {"unknown": unknown, "stuff_majority": majority}
    expected = plain(outputs, size, output_size or size, stuff, **options)
    eager = segment(outputs, size, output_size or size, stuff, **options)
    assert_same(eager, expected)
    assert eager.valid.all()
    graph = segment_in_graph(outputs, size, output_size or size, stuff, **options)
    assert_same(graph, eager)
    assert len(graph.valid) == count * (things > 0) + stuff


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31))
def test_with_torchs_interpolation_the_map_is_the_same(seed: int) -> None:
    outputs = make_outputs(seed, "ties", cells=(10, 12))
    assert_same(segment(outputs, (40, 48), (40, 48), 3), plain(outputs, (40, 48), (40, 48), 3, library=True))


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 2**31), st.integers(1, 4))
@example(0, 1)
def test_large_maps_where_tiles_leave_channels_out(seed: int, count: int) -> None:
    outputs = make_outputs(seed, stuff=6, things=6, cells=(40, 50), count=count)
    assert outputs.semantic is not None
    coarse = outputs.semantic.logits[..., :3, :3]
    smooth = Semantic(F.interpolate(4 * coarse, size=(40, 50), mode="bilinear"))
    outputs = Outputs(outputs.instances, smooth)
    size = (157, 199)
    assert_same(segment(outputs, size, size, 6), plain(outputs, size, size, 6))


@pytest.mark.parametrize("order", [[4, 3, 2, 1, 0], [2, 0, 4, 1, 3]])
def test_the_order_of_the_rows_does_not_matter(order: list[int]) -> None:
    outputs = make_outputs(3)
    *columns, logits = as_arguments(outputs)
    permuted = as_outputs(*(column[:, order] for column in columns), logits)
    expected = segment(outputs, (36, 52), (36, 52), 3)
    assert len(expected.labels) > 3
    assert_same(segment(permuted, (36, 52), (36, 52), 3), expected)
    assert_same(segment_in_graph(permuted, (36, 52), (36, 52), 3), expected)


def test_other_pictures_of_the_batch_do_not_matter() -> None:
    pictures = make_outputs(0), make_outputs(1)
    columns = zip(*(as_arguments(picture) for picture in pictures), strict=True)
    both = as_outputs(*(torch.cat(column) for column in columns))
    for row, alone in enumerate(pictures):
        mine = segment_by_logits(both, row, (36, 52), (36, 52), num_stuff=3, score_threshold=0.3, stuff_area=20)
        assert_same(mine, segment(alone, (36, 52), (36, 52), 3))


def as_arguments(outputs: Outputs) -> tuple[Tensor, ...]:
    found, semantic = outputs.instances, outputs.semantic
    assert found is not None
    assert found.mask_logits is not None
    assert semantic is not None
    return found.boxes, found.scores, found.labels, found.mask_logits, found.valid, semantic.logits


def as_outputs(*arguments: Tensor) -> Outputs:
    return Outputs(Instances(*arguments[:5]), Semantic(arguments[5]))


# --- inference by hand: 16 x 32 pixels, constant planes ---

SIZE = (16, 32)


def detections(
    boxes: Sequence[Sequence[float]], scores: Sequence[float], labels: Sequence[int], values: Sequence[float]
) -> Instances:
    """Instances with one mask value each."""
    count = len(boxes)
    masks = torch.tensor(values, dtype=torch.float32).view(count, 1, 1).expand(count, 28, 28)
    return Instances(
        torch.tensor(boxes, dtype=torch.float32).view(1, count, 4),
        torch.tensor([scores], dtype=torch.float32),
        torch.tensor([labels], dtype=torch.int64),
        masks[None],
        torch.ones(1, count, dtype=torch.bool),
    )


def constant(*values: float) -> Semantic:
    return Semantic(torch.tensor(values, dtype=torch.float32)[None, :, None, None].expand(1, len(values), 4, 8))


def segments(maps: PanopticMaps) -> list[tuple[int, int]]:
    return list(zip(maps.labels.tolist(), maps.areas.tolist(), strict=True))


def check(
    found: Instances | None, semantic: Semantic | None, expected: list[tuple[int, int]], **options
) -> PanopticMaps:
    """Both forms give this table: class index and area."""
    options = {"stuff_area": 0, **options}
    maps = segment(Outputs(found, semantic), SIZE, SIZE, 2, **options)
    assert segments(maps) == expected
    assert_same(segment_in_graph(Outputs(found, semantic), SIZE, SIZE, 2, **options), maps)
    return maps


def test_a_box_ends_where_its_last_pixel_ends() -> None:
    maps = check(detections([[4, 2, 12, 6]], [0.9], [0], [5]), constant(1, 0, 2, 0), [(2, 32)], unknown=True)
    expected = torch.zeros(SIZE, dtype=torch.int32)
    expected[2:6, 4:12] = 1
    assert torch.equal(maps.ids, expected)  # around it things are stronger than stuff, and unknown


def test_a_second_copy_is_pruned_within_its_class_alone() -> None:
    boxes = [[4, 2, 12, 6]] * 2
    semantic = constant(1, 0, 2, 2)
    check(detections(boxes, [0.9, 0.8], [0, 0], [5, 6]), semantic, [(2, 32)])
    check(detections(boxes, [0.9, 0.8], [0, 1], [5, 6]), semantic, [(3, 32)])
    check(detections(boxes, [0.8, 0.9], [0, 1], [6, 5]), semantic, [(2, 32)])


def test_pruning_is_strict() -> None:
    # The second box is 10 pixels wide, of which the first hides 3 or 4.
    semantic = constant(-1, -2, 2, 2)
    exact = [[0, 0, 10, 10], [7, 0, 17, 10]]
    check(detections(exact, [0.9, 0.8], [0, 0], [5, 6]), semantic, [(2, 70), (2, 100)])
    more = [[0, 0, 10, 10], [6, 0, 16, 10]]
    check(detections(more, [0.9, 0.8], [0, 0], [5, 6]), semantic, [(2, 100)])
    check(detections(more, [0.9, 0.8], [0, 0], [5, 6]), semantic, [(2, 60), (2, 100)], overlap_threshold=0.4)


def test_what_is_pruned_hides_nothing() -> None:
    boxes = [[0, 0, 8, 8], [0, 0, 10, 8], [8, 0, 12, 8]]
    check(detections(boxes, [0.9, 0.8, 0.7], [0, 0, 0], [5, 6, 7]), constant(-1, -2, 2, 2), [(2, 64), (2, 32)])


def test_the_whole_mask_is_kept_not_only_what_is_free() -> None:
    # The second is stronger also where it overlaps the first.
    boxes = [[0, 0, 10, 10], [7, 0, 17, 10]]
    maps = check(detections(boxes, [0.9, 0.8], [0, 0], [5, 6]), constant(-1, -2, 2, 2), [(2, 70), (2, 100)])
    assert (maps.ids[:10, 7:17] == 2).all()


def test_scores_must_exceed_the_threshold_and_order_instances() -> None:
    boxes = [[0, 0, 4, 4], [8, 0, 12, 4], [16, 0, 20, 4]]
    found = detections(boxes, [0.5, 0.75, 0.8], [0, 0, 1], [5, 5, 5])
    maps = check(found, constant(1, 0, 2, 2), [(3, 16), (2, 16)], score_threshold=0.5)
    assert maps.scores.tolist() == pytest.approx([0.8, 0.75])
    check(found, constant(1, 0, 2, 2), [(3, 16), (2, 16), (2, 16)], score_threshold=0.4999)


def test_of_equal_scores_the_first_comes_first() -> None:
    boxes = [[0, 0, 4, 4], [0, 0, 4, 4], [0, 0, 4, 4]]
    check(detections(boxes, [0.8, 0.8, 0.8], [1, 0, 1], [5, 5, 5]), constant(1, 0, 2, 2), [(3, 16)])


def test_candidates_take_the_place_of_instances() -> None:
    first, second = detections([[0, 0, 4, 4]], [0.9], [0], [5]), detections([[8, 0, 16, 4]], [0.9], [1], [5])
    maps = segment(Outputs(first, constant(1, 0, 2, 2), second), SIZE, SIZE, 2)
    assert segments(maps) == [(3, 32)]


@pytest.mark.parametrize("found", [None, detections([], [], [], [])])
def test_no_detection(found: Instances | None) -> None:
    check(found, constant(3, 1, 2, 0), [(0, 512)])
    check(found, constant(1, 0, 2, 0), [])
    check(found, constant(1, 0, 2, 0), [(0, 512)], unknown=False)


def test_boxes_without_masks_are_no_instances() -> None:
    found = detections([[0, 0, 8, 8]], [0.9], [0], [5])
    check(dataclasses.replace(found, mask_logits=None), constant(3, 1, 2, 0), [(0, 512)])


def test_all_pruned() -> None:
    nothing = detections([[0, 0, 8, 8], [4, 4, 4, 4]], [0.9, 0.8], [0, 1], [-5, 5])
    # With a channel of zeros stuff below 0 would lose; there is none.
    check(nothing, constant(-3, -1, -2, -4), [(1, 512)])
    check(nothing, constant(-3, -2, -1, -4), [])


def test_outside_of_its_box_an_instance_has_zero() -> None:
    found = detections([[0, 0, 8, 8]], [0.9], [0], [5])
    check(found, constant(-3, -2.5, -2, -4), [(2, 512)])
    # Of equal channels stuff comes first, then instances, then unknown.
    check(found, constant(-3, 0, -2, 1), [(2, 64), (1, 448)], unknown=False)
    check(found, constant(-3, -1, 0, -2), [(2, 512)])


def test_of_several_zeros_the_first_instance_counts() -> None:
    found = detections([[0, 0, 8, 16], [0, 0, 24, 8]], [0.9, 0.8], [0, 1], [1, 1])
    maps = check(found, constant(-9, -9, -3, -3), [(2, 384), (3, 64)])
    assert (maps.ids[:8, :8] == 0).all()  # both -2, and unknown -3 + 3
    assert (maps.ids[8:, :8] == 2).all()  # the first -2, the second 0
    assert (maps.ids[:8, 8:24] == 1).all()  # the first 0, the second -2
    assert (maps.ids[:, 24:] == 1).all()
    maps = check(found, constant(-9, -9, -3, -3), [(2, 448), (3, 64)], unknown=False)
    assert (maps.ids[:8, :8] == 1).all()


def test_an_earlier_instance_far_away_wins_a_tie_at_zero() -> None:
    found = detections([[0, 0, 8, 8], [16, 0, 24, 8]], [0.9, 0.8], [0, 1], [5, 3])
    check(found, constant(-9, -9, -3, -3), [(2, 512)])
    check(found, constant(-9, -9, -3, -2.5), [(2, 448), (3, 64)])
    swapped = detections([[0, 0, 8, 8], [16, 0, 24, 8]], [0.8, 0.9], [0, 1], [3, 5])
    check(swapped, constant(-9, -9, -3, -3), [(3, 512)])


def test_inside_of_all_boxes_unknown_can_win_where_stuff_beats_every_thing() -> None:
    found = detections([[0, 0, 8, 8], [4, 0, 12, 8]], [0.9, 0.8], [1, 1], [5, 6])
    maps = check(found, constant(-1, -2, -20, -9, -3), [(0, 480)], overlap_threshold=0.6)
    assert (maps.ids[:8, 4:8] == 0).all()  # unknown -3 + 9
    assert maps.ids[0, 0] == 1  # the second instance's 0, but it looks like stuff


def test_unknown_takes_what_no_instance_explains() -> None:
    found = detections([[0, 0, 16, 16]], [0.9], [0], [3])
    maps = check(found, constant(1, 0, 2, 4), [(2, 256)])
    assert (maps.ids[:, 16:] == 0).all()
    check(found, constant(1, 0, 2, 9), [])  # 9 - 2 is more than 2 + 3
    check(found, constant(1, 0, 2, 9), [(2, 256), (0, 256)], unknown=False)


def test_a_box_in_the_first_half_pixel_has_a_mask_without_semantic_evidence() -> None:
    found = detections([[0, 0, 0.3, 0.3], [8, 0, 12, 4]], [0.9, 0.8], [0, 1], [30, 30])
    outputs = Outputs(found, constant(5, 0, 9, 9))
    maps = check(found, outputs.semantic, [(2, 1), (3, 16)])
    assert maps.ids[0, 0] == 1
    assert_same(maps, plain(outputs, SIZE, SIZE, 2, stuff_area=0))


def test_only_stuff_and_only_things() -> None:
    check(None, constant(2, 1), [(0, 512)])
    found = detections([[0, 0, 8, 8]], [0.9], [1], [5])
    maps = segment(Outputs(found, constant(3, 4)), SIZE, SIZE, 0)
    assert segments(maps) == [(1, 64)]
    assert_same(segment_in_graph(Outputs(found, constant(3, 4)), SIZE, SIZE, 0), maps)
    nothing = segment(Outputs(None, constant(3, 4)), SIZE, SIZE, 0, unknown=False)
    assert segments(nothing) == []
    assert (nothing.ids == 0).all()
    low = detections([[0, 0, 8, 8]], [0.2], [1], [5])
    assert_same(segment(Outputs(low, constant(3, 4)), SIZE, SIZE, 0, unknown=False), nothing)
    assert_same(segment_in_graph(Outputs(low, constant(3, 4)), SIZE, SIZE, 0, unknown=False), nothing)


def test_padding_is_cropped_before_the_resize() -> None:
    found = detections([[8, 0, 16, 8]], [0.9], [0], [5])
    outputs = Outputs(found, constant(1, 0, 2, 0))
    maps = segment(outputs, (8, 16), (16, 32), 2, stuff_area=0, unknown=False)
    assert segments(maps) == [(2, 256), (0, 256)]
    assert (maps.ids[:, 16:] == 1).all()


@pytest.mark.parametrize("form", [segment, segment_in_graph])
@pytest.mark.parametrize(("limit", "labels"), [(448, [2, 0]), (449, [2])])
def test_a_limit_in_pixels_of_the_network_is_a_share_of_the_picture(
    form: Callable[..., PanopticMaps], limit: int, labels: list[int]
) -> None:
    """Of 512 pixels 64 are an object, at whatever size the map is asked for."""
    outputs = Outputs(detections([[8, 0, 16, 8]], [0.9], [0], [5]), constant(1, 0, 2, 0))
    maps = form(outputs, SIZE, (32, 64), 2, stuff_area=limit, stuff_frame="network", unknown=False)
    assert maps.labels[maps.valid].tolist() == labels


# --- export ---


class Flat(nn.Module):
    """Fusion as exporters want it: tensors in, a tuple of tensors out."""

    def __init__(self, **options) -> None:
        super().__init__()
        self.options = options

    def forward(
        self, boxes: Tensor, scores: Tensor, labels: Tensor, masks: Tensor, valid: Tensor, logits: Tensor
    ) -> tuple[Tensor, ...]:
        outputs = as_outputs(boxes, scores, labels, masks, valid, logits)
        maps = segment_by_logits(outputs, 0, (33, 50), (40, 61), num_stuff=3, **self.options)
        return maps.ids, maps.labels, maps.scores, maps.areas, maps.valid


@pytest.fixture
def without_shape_checks() -> Iterator[None]:
    """As in production: the compiler cannot see through them."""
    with as_in_production(), torch.no_grad():
        yield
    torch._dynamo.reset()


def export_cases() -> dict[str, tuple[Tensor, ...]]:
    boxes, scores, labels, masks, valid, logits = as_arguments(make_outputs(4, cells=(10, 14), count=6))
    scores = 0.7 + scores / 4
    few = torch.zeros_like(valid)
    one = few.clone()
    one[0, 3] = True
    two = one.clone()
    two[0, 1] = True
    ties = as_arguments(make_outputs(5, "ties", cells=(10, 14), count=6))
    return {
        "many": (boxes, scores, labels, masks, ~few, logits),
        "two": (boxes, scores, labels, masks, two, logits),
        "one": (boxes, scores, labels, masks, one, logits),
        "none": (boxes, scores, labels, masks, few, logits),
        "empty masks": (boxes, scores, labels, -masks.abs(), ~few, logits),
        "one place": (boxes[:, :1].expand(-1, 6, -1), scores, labels, masks.abs(), ~few, logits),
        "things everywhere": (boxes, scores, labels, masks, ~few, logits + 9 * (torch.arange(6) > 2).view(1, 6, 1, 1)),
        "low scores": (boxes, scores - 0.2, labels, masks, ~few, logits),
        "ties": (ties[0], torch.full_like(scores, 0.75), *ties[2:4], ~few, ties[5]),
    }


@pytest.mark.usefixtures("without_shape_checks")
def test_exported_and_compiled_graph_equal_eager() -> None:
    cases = export_cases()
    network = Flat(stuff_area=30)
    program = torch.export.export(network, cases["many"], strict=True)
    for node in program.graph.nodes:
        value = node.meta.get("val")
        assert not isinstance(value, Tensor) or all(isinstance(side, int) for side in value.shape)
    exported = program.run_decompositions().module()  # what exporters begin with
    compiled = torch.compile(network, fullgraph=True, backend="eager", dynamic=False)
    counts = {}
    for name, case in cases.items():
        eager = network(*case)
        counts[name] = len(eager[1])
        for graph in (exported(*case), compiled(*case)):
            assert torch.equal(graph[0], eager[0]), name
            assert graph[4].shape == (6 + 3,)
            assert int(graph[4].sum()) == counts[name]
            for column, expected in zip(graph[1:], eager[1:], strict=True):
                assert torch.equal(column[: counts[name]], expected), name
    assert counts["many"] > counts["none"] > 0


def test_graph_form_numbers_every_row_and_eager_form_those_kept() -> None:
    unusable = RANKED_2._replace(usable=torch.tensor([True, True, False]))
    with loops_of_python():
        graph = label_pixels_in_graph(torch.zeros(4, 1, 1), unusable, 2, 0.3, True)
    assert graph.rows.tolist() == [0, 1, 2]
    assert set(graph.winners.unique().tolist()) == {0, 2}


# --- memory ---

_MEASURE = """
import torch
from thingstuff.model.fusion import segment_by_logits
from thingstuff.structures import Instances, Outputs, Semantic

def run(height, width, count):
    generator = torch.Generator().manual_seed(0)
    coarse = 3 * torch.randn(1, 133, 9, 14, generator=generator)
    logits = torch.nn.functional.interpolate(coarse, size=(height // 4, width // 4), mode="bilinear")
    first, second = torch.rand(2, count, 2, generator=generator) * torch.tensor([0.3 * width, 0.3 * height])
    boxes = torch.cat([first, torch.tensor([width, height]) - second], dim=1)[None]
    masks = torch.nn.functional.interpolate(4 * torch.randn(1, count, 5, 5, generator=generator), size=(28, 28))
    labels = torch.arange(count)[None] % 80
    valid = torch.ones(1, count, dtype=torch.bool)
    outputs = Outputs(Instances(boxes, torch.full((1, count), 0.9), labels, masks, valid), Semantic(logits))
    before = memory("VmRSS")
    open("/proc/self/clear_refs", "w").write("5")
    maps = segment_by_logits(outputs, 0, (height, width - 11), (height, width - 11), num_stuff=53)
    return memory("VmHWM") - before, len(maps.labels)

def memory(field):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(field)) * 1024

run(64, 96, 5)
print(*run(800, 1344, 100))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's record of a process's memory")
def test_memory_for_a_hundred_large_instances_of_133_classes() -> None:
    answer = subprocess.run([sys.executable, "-c", _MEASURE], capture_output=True, text=True, check=True)
    peak, segments_found = (int(number) for number in answer.stdout.split())
    assert segments_found > 30
    assert peak < 300e6  # the plain form needs 154 planes of 4.3 MB for its result alone: 662 MB
