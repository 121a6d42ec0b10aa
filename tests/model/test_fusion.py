"""Merge by score on maps small enough to check by hand, and the semantic argmax."""

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from thingstuff.model.fusion import merge_by_score, semantic_labels
from thingstuff.structures import Instances, Outputs, PanopticMaps, Semantic, Size

FULL, EMPTY = 20.0, -20.0
SIZE = (8, 16)
STUFF = 2


def instances(
    boxes: Sequence[Sequence[float]],
    scores: Sequence[float],
    labels: Sequence[int] | None = None,
    masks: Tensor | None = None,
    valid: Sequence[bool] | None = None,
) -> Instances:
    """Detections of one picture that fill their boxes, unless masks are given."""
    count = len(boxes)
    return Instances(
        boxes=torch.tensor(boxes, dtype=torch.float32).view(1, count, 4),
        scores=torch.tensor([scores], dtype=torch.float32),
        labels=torch.tensor([labels if labels is not None else [0] * count], dtype=torch.int64),
        mask_logits=(torch.full((count, 28, 28), FULL) if masks is None else masks)[None],
        valid=torch.tensor([valid if valid is not None else [True] * count], dtype=torch.bool),
    )


def columns(*widths: tuple[int, int]) -> Semantic:
    """Channels side by side: each of so many quarter-size columns, whatever the row; channels are 0, 1 and things."""
    labels = torch.cat([torch.full((width,), channel) for channel, width in widths])
    logits = FULL * F.one_hot(labels, STUFF + 1).float().T
    return Semantic(logits[None, :, None].expand(1, STUFF + 1, 2, len(labels)).contiguous())


def merge(
    found: Instances | None, semantic: Semantic | None, output_size: Size = SIZE, row: int = 0, **options
) -> PanopticMaps:
    options = {"num_stuff": STUFF, "stuff_area": 0, **options}
    return merge_by_score(Outputs(found, semantic), row, SIZE, output_size, **options)


def segments(maps: PanopticMaps) -> list[tuple[int, int]]:
    """(class index, area) of each segment; checks that the table agrees with the map."""
    count = len(maps.labels)
    assert maps.ids.dtype == torch.int32
    assert maps.valid.tolist() == [True] * count
    assert maps.areas.tolist() == [int((maps.ids == number).sum()) for number in range(1, count + 1)]
    assert len(maps.scores) == count
    assert int(maps.ids.max()) <= count
    return list(zip(maps.labels.tolist(), maps.areas.tolist(), strict=True))


# --- things ---


def test_better_scores_come_first_whatever_their_order() -> None:
    boxes = [[0, 0, 8, 4], [4, 0, 12, 4], [2, 0, 6, 8]]
    maps = merge(instances(boxes, [0.6, 0.9, 0.7], [0, 1, 2]), None, overlap_threshold=1.0)
    assert segments(maps) == [(STUFF + 1, 32), (STUFF + 2, 24), (STUFF, 8)]
    torch.testing.assert_close(maps.scores, torch.tensor([0.9, 0.7, 0.6]))
    expected = [[3, 3, 2, 2, *[1] * 8, *[0] * 4]] * 4 + [[0, 0, *[2] * 4, *[0] * 10]] * 4
    assert maps.ids.tolist() == expected


def test_overlap_of_exactly_the_threshold_is_kept_and_more_is_not() -> None:
    half = instances([[0, 0, 8, 4], [4, 0, 12, 4]], [0.9, 0.8])
    assert segments(merge(half, None)) == [(STUFF, 32), (STUFF, 16)]
    assert segments(merge(half, None, overlap_threshold=0.499)) == [(STUFF, 32)]
    more = instances([[0, 0, 9, 4], [4, 0, 12, 4]], [0.9, 0.8])
    assert segments(merge(more, None)) == [(STUFF, 36)]


def test_an_instance_that_stays_out_hides_nothing() -> None:
    boxes = [[0, 0, 8, 8], [0, 0, 10, 8], [8, 0, 12, 8]]
    assert segments(merge(instances(boxes, [0.9, 0.8, 0.7]), None)) == [(STUFF, 64), (STUFF, 32)]


def test_overlap_counts_over_all_classes() -> None:
    maps = merge(instances([[0, 0, 8, 8], [0, 0, 8, 7]], [0.9, 0.8], [0, 1]), None)
    assert segments(maps) == [(STUFF, 64)]


def test_empty_masks_and_low_scores_stay_out() -> None:
    masks = torch.full((4, 28, 28), FULL)
    masks[0] = EMPTY
    boxes = [[0, 0, 4, 4], [0, 0, 4, 4], [4, 0, 8, 4], [8, 0, 12, 4]]
    maps = merge(instances(boxes, [0.99, 0.5, 0.499, 0.9], masks=masks), None)
    assert maps.scores.tolist() == pytest.approx([0.9, 0.5])
    assert segments(maps) == [(STUFF, 16), (STUFF, 16)]


def test_rows_that_only_fill_up_stay_out_whatever_their_score() -> None:
    maps = merge(instances([[0, 0, 4, 4], [4, 0, 8, 4]], [0.9, 0.9], valid=[False, True]), None)
    assert segments(maps) == [(STUFF, 16)]
    assert maps.ids[0, :8].tolist() == [0] * 4 + [1] * 4


@pytest.mark.parametrize("box", [[3, 2, 3, 6], [3, 2, 7, 2], [16, 0, 20, 8], [-5, 0, 0, 8]])
def test_boxes_without_area_in_the_picture_stay_out(box: list[float]) -> None:
    assert segments(merge(instances([box], [0.9]), None)) == []


def test_instance_of_one_pixel() -> None:
    maps = merge(instances([[5, 3, 6, 4]], [0.9]), columns((0, 4)))
    assert segments(maps) == [(STUFF, 1), (0, 127)]
    assert maps.ids[3, 5] == 1


# --- stuff ---


def test_stuff_fills_what_things_leave_in_class_order() -> None:
    maps = merge(instances([[6, 0, 10, 8]], [0.9]), columns((1, 2), (0, 2)))
    assert segments(maps) == [(STUFF, 32), (0, 48), (1, 48)]
    assert maps.scores.tolist() == pytest.approx([0.9, 1, 1])
    assert maps.ids.tolist() == [[*[3] * 6, *[1] * 4, *[2] * 6]] * 8


@pytest.mark.parametrize(("limit", "kept"), [(47, True), (48, True), (49, False)])
def test_stuff_of_exactly_the_smallest_area_is_kept(limit: int, kept: bool) -> None:
    maps = merge(instances([[0, 0, 2, 8]], [0.9]), columns((0, 2), (1, 2)), stuff_area=limit)
    assert segments(maps) == [(STUFF, 16), *([(0, 48)] if kept else []), (1, 64)]
    assert (maps.ids[:, 2:8] == 0).all() != kept


def test_pixels_of_the_things_channel_without_instance_stay_void() -> None:
    maps = merge(instances([[0, 0, 4, 8]], [0.9]), columns((2, 2), (1, 2)))
    assert segments(maps) == [(STUFF, 32), (1, 64)]
    assert (maps.ids[:, 4:8] == 0).all()


def test_stuff_without_pixels_is_no_segment_even_without_a_limit() -> None:
    assert segments(merge(None, columns((1, 4)))) == [(1, 128)]


# --- branches that are not there, pictures without anything ---


def test_without_region_branch() -> None:
    assert segments(merge(None, columns((0, 1), (1, 1), (2, 2)))) == [(0, 32), (1, 32)]


def test_without_semantic_branch() -> None:
    maps = merge(instances([[0, 0, 4, 4]], [0.9], [3]), None)
    assert segments(maps) == [(STUFF + 3, 16)]
    assert (maps.ids > 0).sum() == 16


def test_without_mask_branch() -> None:
    found = instances([[0, 0, 4, 4]], [0.9])
    boxes_only = Instances(found.boxes, found.scores, found.labels, None, found.valid)
    assert segments(merge(boxes_only, columns((0, 4)))) == [(0, 128)]


def test_candidates_take_the_place_of_instances() -> None:
    candidates = instances([[8, 0, 16, 4], [0, 0, 4, 4]], [0.7, 0.8], [1, 2])
    outputs = Outputs(instances([[0, 0, 8, 8]], [0.9]), columns((0, 4)), candidates)
    maps = merge_by_score(outputs, 0, SIZE, SIZE, num_stuff=STUFF, stuff_area=0)
    assert segments(maps) == [(STUFF + 2, 16), (STUFF + 1, 32), (0, 80)]
    nobody = Outputs(instances([[0, 0, 8, 8]], [0.9]), columns((0, 4)), instances([], []))
    assert segments(merge_by_score(nobody, 0, SIZE, SIZE, num_stuff=STUFF, stuff_area=0)) == [(0, 128)]


def test_picture_with_nothing() -> None:
    for found in (instances([], []), instances([[0, 0, 0, 0]], [0], valid=[False])):
        maps = merge(found, columns((2, 4)))
        assert segments(maps) == []
        assert (maps.ids == 0).all()


def test_other_pictures_of_the_batch_do_not_matter() -> None:
    first, second = instances([[0, 0, 4, 4]], [0.9]), instances([[8, 0, 16, 8]], [0.8], [1])
    fields = ("boxes", "scores", "labels", "mask_logits", "valid")
    both = Instances(*(torch.cat([getattr(first, field), getattr(second, field)]) for field in fields))
    semantic = Semantic(torch.cat([columns((0, 4)).logits, columns((1, 4)).logits]))
    assert segments(merge(both, semantic, row=0)) == [(STUFF, 16), (0, 112)]
    assert segments(merge(both, semantic, row=1)) == [(STUFF + 1, 64), (1, 64)]


# --- sizes ---


@pytest.mark.parametrize("factor", [2, 5])
def test_output_of_another_size(factor: int) -> None:
    semantic = columns((0, 2), (1, 2))
    maps = merge(instances([[6, 2, 10, 6]], [0.9]), semantic, (8 * factor, 16 * factor))
    area = factor * factor
    assert segments(maps) == [(STUFF, 16 * area), (0, 56 * area), (1, 56 * area)]
    assert (maps.ids[2 * factor : 6 * factor, 6 * factor : 10 * factor] == 1).all()


def test_limits_are_pixels_of_the_output() -> None:
    semantic = columns((0, 2), (1, 2))
    assert segments(merge(None, semantic, stuff_area=65)) == []
    assert segments(merge(None, semantic, (16, 32), stuff_area=65)) == [(0, 256), (1, 256)]


@pytest.mark.parametrize("output_size", [(8, 16), (16, 32), (4, 4)])
def test_limits_in_pixels_of_the_network_are_a_share_of_the_picture(output_size: Size) -> None:
    semantic = columns((0, 2), (1, 2))
    pixels = output_size[0] * output_size[1] // 2
    found = segments(merge(None, semantic, output_size, stuff_area=64, stuff_frame="network"))
    assert found == [(0, pixels), (1, pixels)]
    assert segments(merge(None, semantic, output_size, stuff_area=65, stuff_frame="network")) == []


def test_output_of_one_pixel() -> None:
    maps = merge(instances([[0, 0, 16, 8]], [0.9]), columns((0, 4)), (1, 1))
    assert segments(maps) == [(STUFF, 1)]


# --- semantic argmax ---


def assert_strongest(labels: Tensor, logits: Tensor, size: Size, output_size: Size) -> None:
    """Both resizes on all channels at once, then the argmax; where two channels tie but for rounding, either."""
    full = F.interpolate(logits[None], scale_factor=4, mode="bilinear", align_corners=False)[..., : size[0], : size[1]]
    full = F.interpolate(full, size=output_size, mode="bilinear", align_corners=False)[0]
    assert labels.dtype == torch.uint8
    assert labels.shape == output_size
    torch.testing.assert_close(full.gather(0, labels[None].long()), full.amax(dim=0, keepdim=True), rtol=0, atol=1e-5)
    clear = full.topk(min(2, len(full)), dim=0).values
    clear = (clear[0] - clear[-1] > 1e-5) | (len(full) == 1)
    assert torch.equal(labels[clear].long(), full.argmax(dim=0)[clear])


@settings(deadline=None)
@given(
    st.integers(1, 40),
    st.integers(1, 64),
    st.integers(1, 64),
    st.one_of(st.none(), st.tuples(st.integers(1, 90), st.integers(1, 90))),
    st.sampled_from([1, 4, 16]),
    st.integers(0, 2**31),
)
def test_semantic_labels_equal_the_argmax_of_the_plain_resize(
    classes: int, height: int, width: int, output_size: Size | None, coarseness: int, seed: int
) -> None:
    # The coarser, the fewer channels win anywhere.
    logits = torch.randn(classes, 16 // coarseness, 16 // coarseness, generator=torch.Generator().manual_seed(seed))
    logits = F.interpolate(logits[None], size=(16, 16), mode="bilinear")[0]
    output_size = output_size or (height, width)
    assert_strongest(semantic_labels(logits, (height, width), output_size), logits, (height, width), output_size)


@pytest.mark.parametrize("output_size", [(96, 128), (50, 70), (250, 333)])
def test_a_class_that_wins_in_one_cell_is_found(output_size: Size) -> None:
    logits = torch.randn(30, 24, 32, generator=torch.Generator().manual_seed(3))
    logits[0] = 9
    for row in (0, 7, 8, 10, 11, 23):
        narrow = logits.clone()
        narrow[17, row, row] = 30
        labels = semantic_labels(narrow, (96, 128), output_size)
        assert set(labels.unique().tolist()) == {0, 17}
        assert_strongest(labels, narrow, (96, 128), output_size)


@pytest.mark.parametrize("output_size", [(16, 16), (9, 70)])
def test_equal_logits_give_the_first_class(output_size: Size) -> None:
    assert (semantic_labels(torch.zeros(20, 4, 4), (16, 16), output_size) == 0).all()


def test_the_most_classes_that_fit() -> None:
    logits = torch.zeros(255, 2, 2)
    logits[254] = 1
    assert (semantic_labels(logits, (8, 8), (8, 8)) == 254).all()
