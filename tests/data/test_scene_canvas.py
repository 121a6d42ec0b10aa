import numpy as np
import pytest

from thingstuff.data.scene_canvas import Canvas, Pen, grain, pick_color, rgb, smooth_noise

RED = rgb(200, 0, 0)


@pytest.fixture
def canvas() -> Canvas:
    image, ids = np.zeros((3, 40, 60), dtype=np.float32), np.zeros((40, 60), dtype=np.int32)
    return Canvas(image, ids, np.random.default_rng(0), 10, 3.0, rgb(1, 1, 1), rgb(9, 9, 9))


def test_perspective_grows_from_the_horizon_down(canvas: Canvas):
    assert canvas.scale(10) == 0
    assert canvas.scale(40) == 10.0
    assert canvas.row(0.5) == 25.0


def test_box_covers_its_pixels_and_no_others(canvas: Canvas):
    Pen(canvas, 20, 30, 2.0, 7).box(-3, 0, 2, 5, RED)
    expected = np.zeros((40, 60), dtype=np.int32)
    expected[20:30, 14:24] = 7
    assert np.array_equal(canvas.ids, expected)
    assert np.array_equal(canvas.image[0], np.where(expected, 200, 0))


def test_flipped_box_is_mirrored_at_its_foot(canvas: Canvas):
    Pen(canvas, 20, 30, 2.0, 7, flip=-1).box(-3, 0, 2, 5, RED)
    assert np.flatnonzero(canvas.ids.any(axis=0)).tolist() == list(range(16, 26))


def test_half_covered_pixels_are_half_coloured(canvas: Canvas):
    Pen(canvas, 20.5, 30, 1.0, 7).box(0, 0, 10, 10, RED)
    assert canvas.image[0, 25, 20] == pytest.approx(100)
    assert canvas.image[0, 25, 21] == pytest.approx(200)


@pytest.mark.parametrize("step", [1, -1])
def test_polygon_has_the_area_of_its_corners_either_way_round(canvas: Canvas, step: int):
    Pen(canvas, 30, 35, 1.0, 3).polygon([(-20, 0), (20, 0), (0, 24)][::step], RED)
    assert np.count_nonzero(canvas.ids == 3) == pytest.approx(0.5 * 40 * 24, rel=0.05)


def test_ellipse_has_the_area_of_an_ellipse(canvas: Canvas):
    Pen(canvas, 30, 20, 1.0, 3).ellipse(0, 0, 20, 10, RED)
    assert np.count_nonzero(canvas.ids == 3) == pytest.approx(np.pi * 20 * 10, rel=0.03)


def test_limb_is_a_bar_with_round_ends(canvas: Canvas):
    Pen(canvas, 10, 30, 1.0, 3).limb((0, 0), (30, 0), 8, RED)
    assert np.count_nonzero(canvas.ids == 3) == pytest.approx(30 * 8 + np.pi * 16, rel=0.03)


@pytest.mark.parametrize(("x", "y"), [(-90, 20), (150, 20), (30, -90), (30, 190)])
def test_nothing_is_drawn_outside(canvas: Canvas, x: int, y: int):
    pen = Pen(canvas, x, y, 1.0, 3)
    pen.box(-9, -9, 9, 9, RED)
    pen.ellipse(0, 0, 9, 9, RED)
    pen.limb((-5, 0), (5, 5), 4, RED)
    pen.polygon([(-9, 0), (9, 0), (0, 9)], RED)
    canvas.shadow(x, y, 9, 9)
    assert not canvas.ids.any()
    assert not canvas.image.any()


def test_later_shapes_lie_over_earlier_ones(canvas: Canvas):
    Pen(canvas, 20, 30, 1.0, 1).box(0, 0, 10, 10, RED)
    Pen(canvas, 25, 30, 1.0, 2).box(0, 0, 10, 10, rgb(0, 99, 0))
    assert np.count_nonzero(canvas.ids == 1) == 50
    assert canvas.image[:, 25, 27].tolist() == [0, 99, 0]


def test_daylight_multiplies_what_is_painted(canvas: Canvas):
    canvas.light = rgb(0.5, 1, 1)
    Pen(canvas, 20, 30, 1.0, 1).box(0, 0, 10, 10, rgb(200, 100, 50))
    assert canvas.image[:, 25, 25].tolist() == [100, 100, 50]


def test_shadow_darkens_and_keeps_the_segments(canvas: Canvas):
    canvas.fill(canvas.ground(), RED, 5)
    before = canvas.ids.copy()
    canvas.shadow(30, 30, 10, 5, 0.4)
    assert canvas.image[0, 30, 30] == pytest.approx(120, abs=1)
    assert canvas.image[0, 30, 50] == 200
    assert np.array_equal(canvas.ids, before)


def test_smooth_noise_passes_through_its_lattice_and_is_smooth_between():
    rows, columns = (np.linspace(0, 4, 81, dtype=np.float32), np.linspace(0, 6, 121, dtype=np.float32))
    values = smooth_noise(np.random.default_rng(3), rows, columns)
    lattice = 2 * np.random.default_rng(3).random((6, 8), dtype=np.float32) - 1
    assert values.dtype == np.float32
    np.testing.assert_allclose(values[::20, ::20], lattice[:5, :7], atol=1e-6)
    # Steepest between two neighbours, at most 2 apart: 1.5 times the slope, 20 samples to a cell.
    assert np.abs(np.diff(values, axis=1)).max() < 1.51 * 2 / 20


def test_grain_fills_its_range_evenly():
    values = grain(np.random.default_rng(0), 3, 100, 100)
    assert values.shape == (3, 100, 100)
    assert (values.min(), values.max()) == (-1, 1)
    assert abs(values.mean()) < 0.02


def test_hues_outside_the_circle_wrap_around():
    color = pick_color(np.random.default_rng(0), (1.0, 1.0), (1.0, 1.0), (1.0, 1.0))
    assert color.reshape(3).tolist() == [255, 0, 0]
