import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thingstuff.data.drawn.polygons import Placed, crop, ellipse, fill_polygons, read_points, unite
from thingstuff.errors import InputError
from thingstuff.structures import Size

SIZE = (9, 11)
QUARTERS = st.integers(-8, 52).map(lambda number: number / 4)
"""Coordinates inside and outside the picture, many of them on corners and centres of pixels."""
OUTLINES = st.lists(st.tuples(QUARTERS, QUARTERS), min_size=3, max_size=7)


def outline(*points: tuple[float, float]) -> np.ndarray:
    return np.array(points, dtype=np.float64)


def full(placed: Placed, size: Size = SIZE) -> np.ndarray:
    mask, (top, left) = placed
    picture = np.zeros(size, dtype=bool)
    picture[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
    return picture


def inside(x: float, y: float, points: list[tuple[float, float]]) -> bool:
    """The rule for one centre: an odd number of edges left of it or on it, each with its upper end alone."""
    odd = False
    for (x1, y1), (x2, y2) in zip(points, points[1:] + points[:1], strict=True):
        if (y1 > y) == (y2 > y):
            continue
        upper, lower = ((x1, y1), (x2, y2)) if y1 < y2 else ((x2, y2), (x1, y1))
        crossing = upper[0] + (y - upper[1]) / (lower[1] - upper[1]) * (lower[0] - upper[0])
        odd ^= crossing <= x
    return odd


def test_a_rectangle_on_pixel_edges_has_exactly_its_pixels():
    mask, corner = fill_polygons([outline((2, 1), (5, 1), (5, 3), (2, 3))], SIZE)
    assert corner == (1, 2)
    np.testing.assert_array_equal(mask, np.ones((2, 3), dtype=bool))


def test_a_centre_on_an_edge_belongs_to_the_shape_right_of_it_or_below():
    # Left, right, upper and lower edge all pass through centres: those at the left and top are in.
    picture = full(fill_polygons([outline((2.5, 1.5), (4.5, 1.5), (4.5, 3.5), (2.5, 3.5))], SIZE))
    assert np.argwhere(picture).tolist() == [[1, 2], [1, 3], [2, 2], [2, 3]]


def test_a_triangle_by_hand():
    # Below the diagonal of a 3 x 3 square; the centres on the diagonal are on its right edge, and out.
    picture = full(fill_polygons([outline((0, 0), (3, 3), (0, 3))], SIZE))
    assert np.argwhere(picture).tolist() == [[1, 0], [2, 0], [2, 1]]


def test_an_outline_that_crosses_itself_has_a_hole_and_two_that_overlap_have_none():
    ring = outline((0, 0), (5, 0), (5, 5), (0, 5), (0, 0), (2, 2), (2, 3), (3, 3), (3, 2), (2, 2))
    picture = full(fill_polygons([ring], SIZE))
    assert picture.sum() == 24
    assert not picture[2, 2]
    block = outline((0, 0), (5, 0), (5, 5), (0, 5))
    assert full(fill_polygons([block, block - [1, 1]], SIZE)).sum() == 25


def test_what_lies_outside_is_cut_and_what_is_too_thin_is_empty():
    assert full(fill_polygons([outline((-5, -5), (50, -5), (50, 50), (-5, 50))], SIZE)).all()
    assert full(fill_polygons([outline((-5, 2), (2, 2), (2, 4), (-5, 4))], SIZE)).sum() == 4
    for empty in ([], [outline((1.6, 0), (1.9, 0), (1.9, 9), (1.6, 9))], [outline((20, 1), (30, 1), (30, 5))]):
        mask, corner = fill_polygons(empty, SIZE)
        assert mask.shape == (0, 0)
        assert corner == (0, 0)


@given(OUTLINES)
def test_every_pixel_follows_the_rule_for_its_centre(points: list[tuple[float, float]]):
    expected = [[inside(x + 0.5, y + 0.5, points) for x in range(SIZE[1])] for y in range(SIZE[0])]
    np.testing.assert_array_equal(full(fill_polygons([outline(*points)], SIZE)), expected)


@given(st.lists(OUTLINES, max_size=4))
def test_several_outlines_are_their_union(shapes: list[list[tuple[float, float]]]):
    expected = np.zeros(SIZE, dtype=bool)
    for points in shapes:
        expected |= full(fill_polygons([outline(*points)], SIZE))
    mask, corner = placed = fill_polygons([outline(*points) for points in shapes], SIZE)
    np.testing.assert_array_equal(full(placed), expected)
    assert corner[0] + mask.shape[0] <= SIZE[0]
    assert corner[1] + mask.shape[1] <= SIZE[1]


@given(st.floats(-1, 12), st.floats(-1, 10), st.lists(st.floats(0, 2 * math.pi), min_size=3, max_size=8, unique=True))
def test_neighbours_with_common_edges_leave_no_gap_and_share_no_pixel(x: float, y: float, angles: list[float]):
    """A fan of triangles around a point, so wide that it covers the picture wherever its outer polygon does."""
    rim = [(x + 40 * math.cos(angle), y + 40 * math.sin(angle)) for angle in sorted(angles)]
    fan = [outline((x, y), a, b) for a, b in zip(rim, rim[1:] + rim[:1], strict=True)]
    count = sum(full(fill_polygons([triangle], SIZE)).astype(int) for triangle in fan)
    # Inside the rim's polygon once where the point is inside too, as always with gaps below half a turn.
    gaps = np.diff([*sorted(angles), min(angles) + 2 * math.pi])
    if gaps.max() < math.pi - 1e-6:
        np.testing.assert_array_equal(count, full(fill_polygons([outline(*rim)], SIZE)).astype(int))


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_nearly_the_pixels_of_cocos_own_tools(seed: int):
    """COCO's own rule moves corners to a fine grid: only pixels at the border may differ."""
    mask_utils = pytest.importorskip("faster_coco_eval.core.mask")
    generator = np.random.default_rng(seed)
    angles = np.sort(generator.uniform(0, 2 * np.pi, 12))
    radii = generator.uniform(20, 60, 12)
    points = np.stack([70 + radii * np.cos(angles), 65 + radii * np.sin(angles)], axis=1)
    theirs = mask_utils.decode(mask_utils.merge(mask_utils.frPyObjects([points.ravel().tolist()], 130, 140)))
    ours = full(fill_polygons([points], (130, 140)), (130, 140))
    perimeter = np.hypot(*(points - np.roll(points, 1, axis=0)).T).sum()
    assert (ours != theirs.astype(bool)).sum() < perimeter


# --- masks ---


@given(st.integers(0, 2**20 - 1))
def test_crop_keeps_every_pixel_in_the_smallest_box(bits: int):
    picture = np.array([bits >> position & 1 for position in range(20)], dtype=bool).reshape(4, 5)
    mask, _ = placed = crop(picture)
    np.testing.assert_array_equal(full(placed, (4, 5)), picture)
    if bits:
        assert all(edge.any() for edge in (mask[0], mask[-1], mask[:, 0], mask[:, -1]))
    else:
        assert mask.shape == (0, 0)


def test_unite():
    one, other = np.array([[True]]), np.array([[True, False, True]])
    mask, corner = unite([(one, (4, 1)), (other, (2, 2))])
    assert corner == (2, 1)
    assert np.argwhere(mask).tolist() == [[0, 1], [0, 3], [2, 0]]
    assert unite([])[0].shape == (0, 0)


def test_a_circle_and_an_ellipse():
    # Centres within 1.6 of (4, 4): the four inner ones at 0.71 and eight at 1.58.
    assert full(ellipse((4.0, 4.0), (1.6, 1.6), SIZE)).sum() == 12
    wide = full(ellipse((4.0, 4.0), (2.6, 0.6), SIZE))
    assert np.argwhere(wide).tolist() == [[3, 3], [3, 4], [4, 3], [4, 4]]
    assert full(ellipse((0.0, 0.0), (100.0, 100.0), SIZE)).all()
    assert ellipse((4.0, 4.0), (0.0, 3.0), SIZE)[0].shape == (0, 0)
    assert ellipse((-9.0, 4.0), (3.0, 3.0), SIZE)[0].shape == (0, 0)


# --- numbers out of files ---


def test_points_are_read():
    np.testing.assert_array_equal(read_points([[1, 2.5], [0, 9]], SIZE, "a"), [[1, 2.5], [0, 9]])
    assert read_points([], SIZE, "a").shape == (0, 2)
    # Just outside is rounding, and stays where it is: moving a corner would turn its edges.
    np.testing.assert_array_equal(read_points([[-0.7, 9.9]], SIZE, "a"), [[-0.7, 9.9]])
    # A large picture has a wider margin: a hundredth of its side.
    assert len(read_points([[-9.0, 0.0]], (100, 1000), "a")) == 1


@pytest.mark.parametrize(
    ("points", "part"),
    [
        (7, "pairs of numbers"),
        ("ab", "pairs of numbers"),
        ([[1, 2], [3]], "pairs of numbers"),
        ([1, 2, 3, 4], "pairs of numbers"),
        ([[1, 2, 3]], "pairs of numbers"),
        ([["x", 2]], "pairs of numbers"),
        ([[None, 2]], "finite"),
        ({"x": 1}, "pairs of numbers"),
        ([[math.nan, 2]], "finite"),
        ([[math.inf, 2]], "finite"),
        ([[1, 2], [12.1, 3]], "(12.1, 3) lies outside the picture of 11 x 9"),
        ([[1, -1.2]], "outside"),
    ],
)
def test_wrong_points_are_refused_in_a_line(points: object, part: str):
    with pytest.raises(InputError) as caught:
        read_points(points, SIZE, "a.json: shape 3")
    assert part in str(caught.value)
    assert str(caught.value).startswith("a.json: shape 3")
    assert "\n" not in str(caught.value)
