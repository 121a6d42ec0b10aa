import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from thingstuff.data.drawn.components import connected_parts


def flood(mask: np.ndarray) -> list[set[tuple[int, int]]]:
    """Pixels of every part, by spreading from one pixel to its eight neighbours."""
    left = {(int(row), int(column)) for row, column in np.argwhere(mask)}
    parts = []
    for start in sorted(left):
        if start not in left:
            continue
        left.remove(start)
        part, border = {start}, [start]
        while border:
            row, column = border.pop()
            around = {(row + down, column + right) for down in (-1, 0, 1) for right in (-1, 0, 1)} & left
            left -= around
            part |= around
            border += around
        parts.append(part)
    return parts


def pixels(placed: tuple[np.ndarray, tuple[int, int]]) -> set[tuple[int, int]]:
    mask, (top, left) = placed
    return {(int(row) + top, int(column) + left) for row, column in np.argwhere(mask)}


def check(mask: np.ndarray) -> None:
    parts = connected_parts(mask)
    assert [pixels(part) for part in parts] == flood(mask)
    for part, _ in parts:
        assert all(edge.any() for edge in (part[0], part[-1], part[:, 0], part[:, -1]))


def test_corners_touch():
    check(np.array([[1, 0, 0], [0, 1, 0], [1, 0, 1]], dtype=bool))
    assert len(connected_parts(np.eye(5, dtype=bool))) == 1
    assert len(connected_parts(np.eye(5, dtype=bool)[:, ::-1])) == 1


def test_the_ends_of_one_row_and_the_next_do_not_touch():
    assert len(connected_parts(np.array([[0, 0, 1], [1, 0, 0]], dtype=bool))) == 2


def test_a_spiral_is_one_part():
    spiral = np.zeros((41, 41), dtype=bool)
    row, column, length, turn = 20, 20, 1, 0
    while 2 < row < 39 and 2 < column < 39:
        for _ in range(length):
            spiral[row, column] = True
            row, column = row + (0, 1, 0, -1)[turn], column + (1, 0, -1, 0)[turn]
        turn, length = (turn + 1) % 4, length + (2 if turn % 2 else 0)
    check(spiral)
    assert len(connected_parts(spiral)) == 1


def test_nothing_and_everything():
    assert connected_parts(np.zeros((3, 4), dtype=bool)) == []
    assert connected_parts(np.zeros((0, 0), dtype=bool)) == []
    (only,) = connected_parts(np.ones((3, 4), dtype=bool))
    assert only[0].shape == (3, 4)


@given(st.integers(1, 14), st.integers(1, 14), st.integers(0, 2**32 - 1), st.sampled_from([0.2, 0.4, 0.6]))
def test_the_same_parts_as_a_flood(height: int, width: int, seed: int, share: float):
    check(np.random.default_rng(seed).random((height, width)) < share)


@given(st.integers(0, 2**32 - 1))
def test_the_same_parts_of_combs_whose_teeth_join_late(seed: int):
    """Long teeth that meet at the far end only: many runs have to learn of a distant root."""
    generator = np.random.default_rng(seed)
    mask = np.zeros((20, 31), dtype=bool)
    mask[:, ::2] = generator.random(16) < 0.8
    mask[-1] = generator.random(31) < 0.9
    mask[0] |= generator.random(31) < 0.2
    check(mask)
