from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import roi_align

from thingstuff.structures import VOID_LABEL, Targets
from thingstuff.training.targets import (
    NO_LABEL,
    Matches,
    choose_shown,
    inside_picture,
    label_crops,
    mask_targets,
    match_boxes,
    panoptic_targets,
    sample,
)

NO_BOXES = torch.zeros(0, 4)


def boxes(*rows: tuple[float, float, float, float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32)


def match(candidates: Tensor, objects: Tensor, low_quality: bool = True) -> Matches:
    return match_boxes(candidates, objects, negative_iou=0.3, positive_iou=0.7, low_quality=low_quality)


# --- matching ---


def test_candidates_are_judged_by_their_best_overlap() -> None:
    objects = boxes((0, 0, 10, 10), (100, 100, 110, 110))
    candidates = boxes(
        (0, 0, 10, 10),  # 1
        (0, 0, 10, 7),  # 0.7 exactly: positive
        (0, 0, 10, 5),  # 0.5: neither
        (0, 0, 10, 3),  # 0.3 exactly: neither
        (0, 0, 10, 2),  # 0.2: background
        (50, 50, 60, 60),  # 0: background
        (100, 100, 110, 110),  # 1 with the second object
    )
    matches = match(candidates, objects)
    assert matches.positive.tolist() == [True, True, False, False, False, False, True]
    assert matches.negative.tolist() == [False, False, False, False, True, True, False]
    assert matches.nearest.tolist()[:5] == [0] * 5
    assert matches.nearest[6] == 1


def test_the_best_candidates_of_an_object_are_positive_ties_included() -> None:
    objects = boxes((0, 0, 10, 10))
    candidates = boxes((0, 0, 10, 2), (0, 8, 10, 10), (0, 0, 10, 1))  # 0.2, 0.2, 0.1
    matches = match(candidates, objects)
    assert matches.positive.tolist() == [True, True, False]
    assert matches.negative.tolist() == [False, False, True]
    strict = match(candidates, objects, low_quality=False)
    assert not strict.positive.any()
    assert strict.negative.all()


def test_a_low_quality_match_stands_for_the_object_it_overlaps_most() -> None:
    # The candidate is the best of both objects, with IoU 60 / 100 and 40 / 160.
    objects = boxes((0, 0, 10, 6), (0, 6, 10, 16))
    candidates = boxes((0, 0, 10, 10), (200, 200, 210, 210))
    matches = match(candidates, objects)
    assert matches.positive.tolist() == [True, False]
    assert matches.nearest[0] == 0


def test_an_object_that_no_candidate_touches_makes_none_positive() -> None:
    matches = match(boxes((0, 0, 10, 10), (20, 20, 30, 30)), boxes((0, 0, 10, 10), (500, 500, 510, 510)))
    assert matches.positive.tolist() == [True, False]
    assert matches.negative.tolist() == [False, True]


@pytest.mark.parametrize("low_quality", [True, False])
def test_without_objects_everything_is_background(low_quality: bool) -> None:
    matches = match(boxes((0, 0, 10, 10), (0, 0, 1, 1)), NO_BOXES, low_quality)
    assert not matches.positive.any()
    assert matches.negative.all()
    assert matches.nearest.tolist() == [0, 0]


def test_without_candidates_nothing_is_matched() -> None:
    matches = match_boxes(NO_BOXES, NO_BOXES, negative_iou=0.5, positive_iou=0.5, low_quality=False)
    assert len(matches.nearest) == len(matches.positive) == len(matches.negative) == 0


def test_candidates_that_are_not_usable_count_for_nothing() -> None:
    objects = boxes((0, 0, 10, 10), (100, 100, 110, 110))
    candidates = boxes(
        (0, 0, 10, 10),  # 1, but not usable
        (0, 0, 10, 5),  # 0.5: the best of the others
        (0, 0, 10, 4),  # 0.4: neither
        (0, 0, 10, 1),  # 0.1: background
        (50, 50, 60, 60),  # not usable
        (100, 100, 110, 101),  # not usable, and the only one that touches the second object
    )
    usable = torch.tensor([False, True, True, True, False, False])
    matches = match_boxes(candidates, objects, negative_iou=0.3, positive_iou=0.7, low_quality=True, usable=usable)
    assert matches.positive.tolist() == [False, True, False, False, False, False]
    assert matches.negative.tolist() == [False, False, False, True, False, False]
    assert matches.nearest[1] == 0


def test_without_objects_only_usable_candidates_are_background() -> None:
    usable = torch.tensor([True, False])
    candidates = boxes((0, 0, 10, 10), (0, 0, 1, 1))
    matches = match_boxes(candidates, NO_BOXES, negative_iou=0.3, positive_iou=0.7, low_quality=True, usable=usable)
    assert not matches.positive.any()
    assert matches.negative.tolist() == [True, False]


def test_what_lies_inside_a_picture() -> None:
    candidates = boxes(
        (0, 0, 20, 10), (-1, 0, 20, 10), (0, -1, 20, 10), (0, 0, 21, 10), (0, 0, 20, 11), (3, 3, 4, 4), (25, 2, 30, 5)
    )
    assert inside_picture(candidates, (10, 20)).tolist() == [True, False, False, False, False, True, False]


SIDES = st.tuples(*[st.integers(0, 12)] * 2, *[st.integers(1, 12)] * 2)


@given(st.lists(SIDES, min_size=1, max_size=8), st.lists(SIDES, min_size=1, max_size=4))
def test_matching_agrees_with_a_direct_count(candidates: list, objects: list) -> None:
    first, second = ([(x, y, x + w, y + h) for x, y, w, h in rows] for rows in (candidates, objects))
    overlaps = [[_iou(one, other) for other in second] for one in first]
    best_of_object = [max(row[column] for row in overlaps) for column in range(len(second))]
    matches = match(boxes(*first), boxes(*second))
    for row, shares in enumerate(overlaps):
        wanted = any(share > 0 and abs(share - best) < 1e-6 for share, best in zip(shares, best_of_object, strict=True))
        best = max(shares)
        if all(abs(best - limit) > 1e-6 for limit in (0.3, 0.7)):
            assert bool(matches.positive[row]) == (best >= 0.7 or wanted)
            assert bool(matches.negative[row]) == (best < 0.3 and not wanted)
        assert shares[int(matches.nearest[row])] == pytest.approx(best, abs=1e-6)


def _iou(one: tuple, other: tuple) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return shared / (sum(areas) - shared)


# --- sampling ---


def flags(positive: int, negative: int, neither: int = 0) -> Matches:
    kinds = torch.tensor([1] * positive + [0] * negative + [2] * neither)
    kinds = kinds[torch.randperm(len(kinds), generator=torch.Generator().manual_seed(5))]
    return Matches(torch.zeros_like(kinds), kinds == 1, kinds == 0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("positive", "negative", "count", "fraction", "expected"),
    [
        (100, 100, 32, 0.5, (16, 16)),
        (5, 100, 32, 0.5, (5, 27)),  # negatives fill up
        (100, 4, 32, 0.5, (16, 4)),  # positives do not
        (100, 100, 10, 0.25, (2, 8)),  # the largest share is rounded down
        (0, 3, 32, 0.5, (0, 3)),
        (3, 0, 32, 0.5, (3, 0)),
        (0, 0, 32, 0.5, (0, 0)),
    ],
)
def test_sample_counts(positive: int, negative: int, count: int, fraction: float, expected: tuple[int, int]) -> None:
    matches = flags(positive, negative, neither=20)
    chosen, others = sample(matches, count, fraction, generator())
    assert (len(chosen), len(others)) == expected
    assert matches.positive[chosen].all()
    assert matches.negative[others].all()
    assert len(set(chosen.tolist() + others.tolist())) == sum(expected)


def test_samples_depend_on_the_generator_alone() -> None:
    matches = flags(50, 50)
    first = [part.tolist() for part in sample(matches, 20, 0.5, generator(3))]
    torch.manual_seed(99)
    assert [part.tolist() for part in sample(matches, 20, 0.5, generator(3))] == first
    assert [part.tolist() for part in sample(matches, 20, 0.5, generator(4))] != first


def test_every_candidate_can_be_chosen() -> None:
    matches, seen, shared = flags(6, 6), set(), generator(1)
    for _ in range(60):
        chosen, others = sample(matches, 4, 0.5, shared)
        seen |= {*chosen.tolist(), *others.tolist()}
    assert seen == set(range(12))


def test_classes_take_turns() -> None:
    # Objects 0 to 2 are of class 0, object 3 of class 1; each has ten candidates.
    nearest = torch.arange(40) // 10
    matches = Matches(nearest, torch.ones(40, dtype=torch.bool), torch.zeros(40, dtype=torch.bool))
    labels = torch.tensor([0, 0, 0, 1])
    seen = set()
    for seed in range(20):
        chosen, others = sample(matches, 16, 0.5, generator(seed), labels)
        assert len(others) == 0
        assert labels[nearest[chosen]].bincount().tolist() == [4, 4]
        seen |= set(chosen.tolist())
    assert len(seen) > 35  # still at random within a class
    chosen, _ = sample(matches, 60, 0.5, generator(), labels)
    assert labels[nearest[chosen]].bincount().tolist() == [20, 10]  # a class that is used up leaves its turns
    assert len(set(chosen.tolist())) == 30


def test_without_positives_no_class_has_a_turn() -> None:
    chosen, others = sample(flags(0, 9), 4, 0.5, generator(), torch.empty(0, dtype=torch.int64))
    assert (len(chosen), len(others)) == (0, 4)


# --- mask targets ---


def targets_of(full: Tensor) -> Targets:
    """Targets with one object for each full-size mask."""
    found = []
    for mask in full:
        rows, columns = mask.any(dim=1).nonzero()[:, 0], mask.any(dim=0).nonzero()[:, 0]
        found.append((int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1))
    masks = tuple(mask[top:bottom, left:right] for mask, (left, top, right, bottom) in zip(full, found, strict=True))
    count = len(full)
    return Targets(
        boxes=torch.tensor(found, dtype=torch.float32).reshape(-1, 4),
        labels=torch.zeros(count, dtype=torch.int64),
        crowd=torch.zeros(count, dtype=torch.bool),
        masks=masks,
        label_map=torch.full(tuple(full.shape[1:]), VOID_LABEL, dtype=torch.uint8),
    )


@st.composite
def masks_and_regions(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    height, width = draw(st.integers(1, 20)), draw(st.integers(1, 20))
    count = draw(st.integers(1, 3))
    seed = draw(st.integers(0, 2**31))
    density = draw(st.sampled_from((0.1, 0.5, 0.9, 1.0)))
    full = torch.rand(count, height, width, generator=generator(seed)) < density
    for mask in full:
        mask[draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))] = True
    number = draw(st.integers(0, 5))
    # Also regions far larger than the mask and, as nothing forbids them, beyond the picture.
    regions = [
        (x, y, x + w, y + h)
        for x, y, w, h in draw(
            st.lists(
                st.tuples(*[st.floats(-3, 20, width=32)] * 2, *[st.floats(0.25, 25, width=32)] * 2),
                min_size=number,
                max_size=number,
            )
        )
    ]
    rows = draw(st.lists(st.integers(0, count - 1), min_size=number, max_size=number))
    return full, torch.tensor(regions).reshape(-1, 4), torch.tensor(rows, dtype=torch.int64)


@given(masks_and_regions(), st.sampled_from((1, 7, 28)))
@settings(max_examples=200, deadline=None)
def test_mask_targets_equal_roi_align_of_the_full_size_mask(case: tuple[Tensor, Tensor, Tensor], size: int) -> None:
    full, regions, rows = case
    found = mask_targets(targets_of(full), regions, rows, size)
    indexed = torch.cat([rows[:, None].float(), regions], dim=1)
    pooled = roi_align(full[:, None].float(), indexed, size, 1.0, 0, True)[:, 0]
    assert found.shape == (len(regions), size, size)
    assert set(found.unique().tolist()) <= {0.0, 1.0}
    # Exactly at one half, the order of additions decides.
    clear = (pooled - 0.5).abs() > 1e-4
    torch.testing.assert_close(found[clear], (pooled >= 0.5).float()[clear], rtol=0, atol=0)


def test_mask_targets_by_hand() -> None:
    full = torch.zeros(1, 8, 8, dtype=torch.bool)
    full[0, 2:6, 4:8] = True  # touches the right border of the picture
    region = boxes((2, 2, 8, 6), (4, 2, 8, 6), (0, 0, 4, 8))
    found = mask_targets(targets_of(full), region, torch.zeros(3, dtype=torch.int64), 4)
    # Bins are 1.5 wide: the first ends at x = 3.5, and most of the second lies on the mask.
    assert found[0].tolist() == [[0.0, 1.0, 1.0, 1.0]] * 4
    assert found[1].tolist() == [[1.0] * 4] * 4
    assert found[2].sum() == 0


def test_regions_come_back_in_their_order() -> None:
    full = torch.zeros(2, 6, 6, dtype=torch.bool)
    full[0, :3], full[1, 3:] = True, True
    region = boxes((0, 0, 6, 6)).expand(4, 4)
    found = mask_targets(targets_of(full), region, torch.tensor([1, 0, 1, 0]), 2)
    assert found[:, 0, 0].tolist() == [0.0, 1.0, 0.0, 1.0]
    assert all(not torch.equal(one, other) for one, other in pairwise(found))


def test_no_regions_no_masks() -> None:
    found = mask_targets(targets_of(torch.ones(1, 4, 4, dtype=torch.bool)), NO_BOXES, torch.zeros(0).long(), 28)
    assert found.shape == (0, 28, 28)


# --- crops of the label map ---


def test_a_crop_ends_before_the_last_pixel_of_its_box() -> None:
    label_map = torch.arange(48, dtype=torch.uint8).view(6, 8)
    # Columns 2..6 and rows 1..3 of the box; columns 2..5 and rows 1..2 of the crop.
    found = label_crops(label_map, boxes((2, 1, 7, 4)), 4)
    assert found[0].tolist() == [[10, 11, 12, 13]] * 2 + [[18, 19, 20, 21]] * 2


def test_a_crop_takes_the_nearest_pixel_below() -> None:
    label_map = torch.arange(12, dtype=torch.uint8).expand(3, 12)
    # 7 columns, 0..6, onto 4: floor(k * 7 / 4); onto 10: floor(k * 7 / 10).
    assert label_crops(label_map, boxes((0, 0, 8, 3)), 4)[0, 0].tolist() == [0, 1, 3, 5]
    assert label_crops(label_map, boxes((0, 0, 8, 3)), 10)[0, 0].tolist() == [0, 0, 1, 2, 2, 3, 4, 4, 5, 6]


def test_corners_of_crops_are_rounded_halves_to_the_even_side() -> None:
    label_map = torch.arange(12, dtype=torch.uint8).expand(3, 12)
    # Inclusive corners 0.5 .. 7.5 -> 0 .. 8, and 1.5 .. 6.5 -> 2 .. 6.
    found = label_crops(label_map, boxes((0.5, 0, 8.5, 3), (1.5, 0, 7.5, 3)), 2)
    assert found[:, 0].tolist() == [[0, 4], [2, 4]]


def test_boxes_of_one_pixel_have_a_crop_of_one_pixel() -> None:
    label_map = torch.arange(48, dtype=torch.uint8).view(6, 8)
    found = label_crops(label_map, boxes((3, 2, 4, 3), (7, 5, 8, 6), (0, 3, 8, 4), (7.6, 5.6, 8, 6)), 28)
    assert found[0].unique().tolist() == [19]
    assert found[1].unique().tolist() == [47]  # the last pixel of the picture
    assert found[2].unique().tolist() == [*range(24, 31)]  # a line, without its last pixel
    assert found[3].unique().tolist() == [47]  # rounded out of the picture, and brought back


def test_no_boxes_no_crops() -> None:
    assert label_crops(torch.zeros(4, 4, dtype=torch.uint8), NO_BOXES, 28).shape == (0, 28, 28)


# --- what the panoptic head is shown ---


def objects(count: int, crowd: tuple[int, ...] = ()) -> Targets:
    full = torch.zeros(count, 1, max(count, 1), dtype=torch.bool)
    for number in range(count):
        full[number, 0, number] = True
    flags_ = torch.tensor([number in crowd for number in range(count)], dtype=torch.bool)
    return replace(targets_of(full), crowd=flags_)


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, 0), (1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (6, 4), (7, 4), (8, 5), (9, 6), (10, 7), (90, 62)],
)
def test_how_many_objects_are_shown(count: int, shown: int) -> None:
    chosen = choose_shown(objects(count), 0.7, generator())
    assert len(chosen) == shown
    assert len(chosen.unique()) == shown
    assert len(choose_shown(objects(count), 1.0, generator())) == count


def test_a_crowd_is_never_shown() -> None:
    targets = objects(6, crowd=(0, 2, 5))
    seen = [choose_shown(targets, 0.7, generator(seed)).tolist() for seed in range(30)]
    assert {len(rows) for rows in seen} == {2}  # int(0.7 * 3)
    assert {row for rows in seen for row in rows} == {1, 3, 4}
    assert choose_shown(objects(3, crowd=(0, 1, 2)), 0.7, generator()).tolist() == []


def test_objects_are_shown_in_random_order() -> None:
    orders = {tuple(choose_shown(objects(3), 1.0, generator(seed)).tolist()) for seed in range(60)}
    assert len(orders) == 6


# --- panoptic targets; three stuff classes ---


def scene(*masks: Tensor, label_map: Tensor, crowd: tuple[bool, ...] = ()) -> Targets:
    targets = targets_of(torch.stack(masks))
    crowds = torch.tensor(crowd or (False,) * len(masks))
    return replace(targets, label_map=label_map.to(torch.uint8), crowd=crowds)


def channels(targets: Targets, shown: list[int], size: tuple[int, int], unknown: bool = True) -> list[list[int]]:
    rows = torch.tensor(shown, dtype=torch.int64)
    return panoptic_targets(targets, rows, size, num_stuff=3, unknown=unknown).tolist()


def enlarged(cells: list[list[int]]) -> Tensor:
    """Every cell becomes 4 x 4 pixels, of which only the first is looked at; the others are 1, wrong on purpose."""
    small = torch.tensor(cells)
    full = torch.ones(4 * small.shape[0], 4 * small.shape[1], dtype=torch.int64)
    full[::4, ::4] = small
    return full


LABELS = enlarged([[0, 3, 3, 2], [0, 4, 4, 2], [VOID_LABEL, 4, 1, 1]])
FIRST = enlarged([[0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]).bool()
SECOND = enlarged([[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 0, 0]]).bool()


def test_panoptic_targets_by_hand() -> None:
    targets = scene(FIRST, SECOND, label_map=LABELS)
    n = NO_LABEL
    assert channels(targets, [0, 1], (3, 4)) == [[0, 3, 3, 2], [0, 4, 4, 2], [n, 4, 1, 1]]
    assert channels(targets, [1, 0], (3, 4)) == [[0, 4, 4, 2], [0, 3, 3, 2], [n, 3, 1, 1]]
    # What is not shown is unknown, which is the channel behind the last object.
    assert channels(targets, [1], (3, 4)) == [[0, 4, 4, 2], [0, 3, 3, 2], [n, 3, 1, 1]]
    assert channels(targets, [0], (3, 4)) == [[0, 3, 3, 2], [0, 4, 4, 2], [n, 4, 1, 1]]
    assert channels(targets, [], (3, 4)) == [[0, 3, 3, 2], [0, 3, 3, 2], [n, 3, 1, 1]]
    assert channels(targets, [1], (3, 4), unknown=False) == [[0, n, n, 2], [0, 3, 3, 2], [n, 3, 1, 1]]


def test_padding_has_no_label() -> None:
    targets = scene(FIRST, SECOND, label_map=LABELS)
    found = channels(targets, [0, 1], (5, 6))
    assert [row[:4] for row in found[:3]] == channels(targets, [0, 1], (3, 4))
    assert {value for row in found for value in row[4:]} | {value for row in found[3:] for value in row} == {NO_LABEL}


def test_later_objects_lie_over_earlier_ones_and_over_stuff_and_void() -> None:
    whole = torch.ones(12, 16, dtype=torch.bool)
    targets = scene(SECOND, whole, label_map=LABELS)
    assert channels(targets, [0, 1], (3, 4)) == [[4] * 4] * 3
    assert channels(targets, [1, 0], (3, 4)) == [[3] * 4, [3, 4, 4, 3], [3, 4, 3, 3]]


def test_a_crowd_becomes_unknown() -> None:
    targets = scene(FIRST, SECOND, label_map=LABELS, crowd=(True, False))
    assert channels(targets, [1], (3, 4)) == [[0, 4, 4, 2], [0, 3, 3, 2], [NO_LABEL, 3, 1, 1]]


@pytest.mark.parametrize(("side", "cells"), [(1, 0), (2, 0), (3, 1), (4, 1), (5, 1), (6, 2), (7, 2), (10, 2), (11, 3)])
def test_a_quarter_of_the_picture_is_rounded(side: int, cells: int) -> None:
    targets = replace(targets_of(torch.zeros(0, 1, 1)), label_map=torch.zeros(side, 8, dtype=torch.uint8))
    assert channels(targets, [], (4, 3)) == [[0, 0, NO_LABEL]] * cells + [[NO_LABEL] * 3] * (4 - cells)


def test_channels_beyond_255_do_not_become_void() -> None:
    count = 260
    full = torch.zeros(count, 4, 4 * count, dtype=torch.bool)
    for number in range(count):
        full[number, 0, 4 * number] = True
    targets = replace(targets_of(full), label_map=torch.full((4, 4 * count), 3, dtype=torch.uint8))
    assert channels(targets, [*range(count)], (1, count)) == [[*range(3, 3 + count)]]
    assert channels(targets, [], (1, count)) == [[3] * count]


@given(st.integers(0, 2**31), st.integers(1, 24), st.integers(1, 24), st.integers(0, 4), st.booleans())
@settings(max_examples=100, deadline=None)
def test_panoptic_targets_agree_with_full_size_masks(
    seed: int, height: int, width: int, count: int, unknown: bool
) -> None:
    draw = generator(seed)
    label_map = torch.tensor([0, 1, 2, 3, 4, VOID_LABEL])[torch.randint(6, (height, width), generator=draw)]
    full = torch.rand(count, height, width, generator=draw) < 0.4
    for mask in full:
        mask[int(torch.randint(height, (), generator=draw)), int(torch.randint(width, (), generator=draw))] = True
    shown = torch.randperm(count, generator=draw)[: max(count - 1, 0)]
    targets = replace(targets_of(full), label_map=label_map.to(torch.uint8))
    found = panoptic_targets(targets, shown, (6, 6), num_stuff=3, unknown=unknown)
    for y in range(6):
        for x in range(6):
            expected = NO_LABEL
            if y < round(height / 4) and x < round(width / 4):
                label = int(label_map[4 * y, 4 * x])
                if label < 3:
                    expected = label
                elif label != VOID_LABEL and unknown:
                    expected = 3 + len(shown)
                covering = [number for number, row in enumerate(shown.tolist()) if full[row, 4 * y, 4 * x]]
                expected = 3 + covering[-1] if covering else expected
            assert int(found[y, x]) == expected
