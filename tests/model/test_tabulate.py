"""Class decision, stuff limit and table on maps of a few pixels."""

import pytest
import torch

from thingstuff.model.tabulate import smallest_stuff, tabulate
from thingstuff.structures import PanopticMaps, Size, StuffFrame, StuffMajority

VOID = 255


def class_map(maps: PanopticMaps) -> list[list[int]]:
    return torch.cat([torch.tensor([VOID]), maps.labels])[maps.ids.long()].tolist()


@pytest.mark.parametrize(
    ("limit", "classes", "table"),
    [
        (2, [[0, 0, 1, 1], [0, 2, 2, 1], [0, 2, 2, VOID], [0, 0, VOID, VOID]], [(2, 4, 0.9), (0, 6, 1.0), (1, 3, 1.0)]),
        (3, [[0, 0, 1, 1], [0, 2, 2, 1], [0, 2, 2, VOID], [0, 0, VOID, VOID]], [(2, 4, 0.9), (0, 6, 1.0), (1, 3, 1.0)]),
        (4, [[0, 0, VOID, VOID], [0, 2, 2, VOID], [0, 2, 2, VOID], [0, 0, VOID, VOID]], [(2, 4, 0.9), (0, 6, 1.0)]),
        (8, [[VOID] * 4, [VOID, 2, 2, VOID], [VOID, 2, 2, VOID], [VOID] * 4], [(2, 4, 0.9)]),
    ],
)
def test_example_of_the_panoptic_head(
    limit: int, classes: list[list[int]], table: list[tuple[int, int, float]]
) -> None:
    winners = torch.tensor([[0, 0, 3, 3], [0, 2, 2, 3], [0, 2, 2, 4], [0, 0, 4, 4]], dtype=torch.int32)
    semantic = torch.tensor([[0, 0, 1, 1], [0, 2, 2, 1], [0, 2, 2, 2], [0, 0, 2, 2]], dtype=torch.int32)
    labels, scores = torch.tensor([0, 1]), torch.tensor([0.9, 0.7])
    maps = tabulate(
        winners, semantic, labels, scores, num_stuff=2, num_classes=4, stuff_area=limit, stuff_majority="half"
    )
    assert class_map(maps) == classes
    valid = maps.valid.tolist()
    assert valid == sorted(valid, reverse=True)
    assert len(valid) == 4
    rows = list(zip(maps.labels.tolist(), maps.areas.tolist(), maps.scores.tolist(), strict=True))[: sum(valid)]
    assert rows == [(label, area, pytest.approx(score)) for label, area, score in table]
    assert maps.areas[sum(valid) :].tolist() == [0] * (4 - sum(valid))
    assert (maps.ids == 1).sum() == 4


@pytest.mark.parametrize(
    ("looks", "half", "more_than_half"),
    [
        ([7] * 10, 7, 7),
        ([2] * 10, 2, 2),
        ([5] * 10, 7, 7),
        ([2, 2, 2, 1, 1, 0, 0, 3, 3, 7], 7, 7),  # the largest stuff has 30 %
        ([1] * 5 + [7] * 5, 1, 7),
        ([7] * 6 + [1] * 4, 7, 7),
        ([1] * 6 + [7] * 4, 1, 1),
        ([4] * 5 + [3] * 5, 3, 7),  # of equal classes the smallest
        ([6] * 5 + [1] * 5, 1, 7),
        ([6] * 6 + [1] * 4, 7, 7),
    ],
)
def test_class_decisions(looks: list[int], half: int, more_than_half: int) -> None:
    winners = torch.full((1, 10), 5, dtype=torch.int32)
    semantic = torch.tensor([looks], dtype=torch.int32)
    decisions: tuple[tuple[StuffMajority, int], ...] = (("half", half), ("more_than_half", more_than_half))
    for majority, expected in decisions:
        maps = tabulate(
            winners,
            semantic,
            torch.tensor([2]),
            torch.tensor([0.9]),
            num_stuff=5,
            num_classes=8,
            stuff_area=10,
            stuff_majority=majority,
        )
        assert class_map(maps) == [[expected] * 10]
        assert maps.scores[0] == pytest.approx(0.9 if expected == 7 else 1.0)


def test_what_becomes_stuff_joins_it_and_counts_for_its_limit() -> None:
    winners = torch.tensor([[0, 0, 1, 2, 2, 2, 3, 3, 4]], dtype=torch.int32)  # two stuff, two instances, unknown
    semantic = torch.tensor([[0, 0, 1, 1, 1, 2, 3, 3, 3]], dtype=torch.int32)
    labels, scores = torch.tensor([0, 1]), torch.tensor([0.9, 0.8])
    expected = {
        1: [2, 2, 3, 3, 3, 3, 1, 1, 0],
        2: [2, 2, 3, 3, 3, 3, 1, 1, 0],
        4: [0, 0, 2, 2, 2, 2, 1, 1, 0],
        5: [0, 0, 0, 0, 0, 0, 1, 1, 0],
    }
    for limit, ids in expected.items():
        maps = tabulate(
            winners, semantic, labels, scores, num_stuff=2, num_classes=4, stuff_area=limit, stuff_majority="half"
        )
        assert maps.ids.tolist() == [ids]
        assert maps.labels[0] == 3


def test_no_instances_and_no_stuff() -> None:
    winners = torch.tensor([[1, 0, 1]], dtype=torch.int32)
    nobody, no_scores = torch.zeros(0, dtype=torch.int64), torch.zeros(0)
    options = {"num_classes": 2, "stuff_area": 0, "stuff_majority": "half"}
    maps = tabulate(winners, 0 * winners, nobody, no_scores, num_stuff=1, **options)
    assert maps.ids.tolist() == [[0, 1, 0]]
    assert maps.areas.tolist() == [1]
    maps = tabulate(winners, winners, torch.tensor([1]), torch.tensor([0.5]), num_stuff=0, **options)
    assert maps.ids.tolist() == [[0, 1, 0]]
    assert maps.labels.tolist() == [1]
    maps = tabulate(0 * winners, winners, nobody, no_scores, num_stuff=0, **options)
    assert maps.ids.tolist() == [[0, 0, 0]]
    assert maps.valid.tolist() == []


def test_an_instance_without_pixels_has_no_row() -> None:
    winners = torch.tensor([[2, 2, 0]], dtype=torch.int32)
    labels, scores = torch.tensor([0, 0]), torch.tensor([0.9, 0.8])
    maps = tabulate(winners, winners, labels, scores, num_stuff=1, num_classes=3, stuff_area=0, stuff_majority="half")
    assert maps.ids.tolist() == [[1, 1, 2]]
    assert maps.valid.tolist() == [True, True, False]
    assert maps.labels[:2].tolist() == [1, 0]
    assert maps.scores[:2].tolist() == pytest.approx([0.8, 1.0])


@pytest.mark.parametrize(
    ("frame", "output_size", "fewest"),
    [("output", (20, 20), 7), ("network", (10, 20), 7), ("network", (20, 40), 28), ("network", (3, 3), 1)],
)
def test_smallest_stuff(frame: StuffFrame, output_size: Size, fewest: int) -> None:
    assert smallest_stuff(7, frame, (10, 20), output_size) == fewest  # 7 * 9 / 200 is 0.3


def test_without_a_limit_any_pixel_is_enough() -> None:
    assert smallest_stuff(0, "network", (10, 20), (333, 7)) == 0
