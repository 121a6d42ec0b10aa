import numpy as np
import pytest

from thingstuff.data import scene_stuff
from thingstuff.data.scene_canvas import Canvas, Pen, rgb

SEEDS = range(12)


def blank(seed: int) -> Canvas:
    image, ids = np.zeros((3, 120, 180), dtype=np.float32), np.zeros((120, 180), dtype=np.int32)
    return Canvas(image, ids, np.random.default_rng(seed), 40, 4.0, rgb(1, 1, 1), rgb(200, 210, 230))


@pytest.mark.parametrize("seed", SEEDS)
def test_sky_and_grass_meet_at_the_horizon(seed: int):
    canvas = blank(seed)
    scene_stuff.draw_sky(canvas, 1, rgb(80, 120, 200), 0.5)
    scene_stuff.draw_grass(canvas, 2)
    assert np.all(canvas.ids[:40] == 1)
    assert np.all(canvas.ids[40:] == 2)


@pytest.mark.parametrize("seed", SEEDS)
def test_road_narrows_to_a_point_at_the_horizon(seed: int):
    canvas = blank(seed)
    scene_stuff.draw_road(canvas, 4, 3.0)
    widths = np.count_nonzero(canvas.ids == 4, axis=1)
    assert not widths[:40].any()
    assert widths[40] <= 2
    # 3 m to both sides at 4 m camera height, perhaps with pavements that add 30 %; a bend may leave the picture.
    assert max(widths) == pytest.approx(2 * 3 / 4 * 80, rel=0.35)


@pytest.mark.parametrize("seed", SEEDS)
def test_crossing_road_leaves_ground_on_both_sides(seed: int):
    canvas = blank(seed)
    scene_stuff.draw_crossing_road(canvas, 4, 3.0)
    assert np.all((canvas.ids == 4).any(axis=0))
    assert not (canvas.ids[:42] == 4).any()


@pytest.mark.parametrize("seed", SEEDS)
def test_lake_lies_between_its_shores(seed: int):
    canvas = blank(seed)
    scene_stuff.draw_water(canvas, 3, scene_stuff.lake_shape(canvas, 50.0, 90.0))
    rows = np.flatnonzero((canvas.ids == 3).any(axis=1))
    assert rows.min() == 50
    assert rows.max() == pytest.approx(90, abs=0.05 * 120 + 0.15 * 90 + 1)


@pytest.mark.parametrize("seed", SEEDS)
def test_pond_is_surrounded_by_ground(seed: int):
    canvas = blank(seed)
    scene_stuff.draw_water(canvas, 3, scene_stuff.pond_shape(canvas))
    water = canvas.ids == 3
    assert water.sum() > 200
    assert not water[:45].any()
    assert not water[-5:].any()


@pytest.mark.parametrize("seed", SEEDS)
def test_building_stands_on_its_foot_and_has_windows(seed: int):
    canvas = blank(seed)
    scene_stuff.draw_building(Pen(canvas, 90, 110, 3.0, 5), 90.0)
    rows, columns = np.nonzero(canvas.ids == 5)
    assert rows.max() == 109
    assert np.median(columns) == pytest.approx(90, abs=3)
    assert canvas.image[:, canvas.ids == 5].std(axis=1).max() > 10


@pytest.mark.parametrize("seed", SEEDS)
def test_treeline_stands_on_the_horizon(seed: int):
    canvas = blank(seed)
    scene_stuff.draw_treeline(canvas, 6)
    rows = np.flatnonzero((canvas.ids == 6).any(axis=1))
    assert 35 <= rows.max() <= 42
    assert rows.min() > 0


@pytest.mark.parametrize("seed", SEEDS)
def test_tree_rises_from_its_foot(seed: int):
    canvas = blank(seed)
    scene_stuff.draw_tree(Pen(canvas, 90, 110, 15.0, 6))
    rows, columns = np.nonzero(canvas.ids == 6)
    assert rows.max() == pytest.approx(110, abs=8)
    assert 0.8 * 15 < np.ptp(rows) < 6.5 * 15
    assert abs(columns.mean() - 90) < 15
