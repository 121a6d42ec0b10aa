from collections.abc import Callable

import numpy as np
import pytest

from thingstuff.data import scene_things
from thingstuff.data.scene_canvas import Canvas, Pen, rgb

SCALE = 20.0
METRES: dict[Callable[[Pen], None], tuple[tuple[float, float], tuple[float, float]]] = {
    scene_things.draw_car: ((1.6, 4.7), (1.3, 2.2)),
    scene_things.draw_person: ((0.4, 1.2), (1.4, 2.1)),
    scene_things.draw_ball: ((0.6, 1.6), (0.6, 1.6)),
    scene_things.draw_box: ((1.1, 2.2), (0.8, 1.8)),
    scene_things.draw_bird: ((0.6, 1.2), (0.1, 0.8)),
    scene_things.draw_boat: ((3.3, 5.5), (1.5, 5.5)),
}
"""Width and height from and to, with a pixel to spare."""


def draw(thing: Callable[[Pen], None], seed: int, flip: int = 1) -> Canvas:
    image, ids = np.full((3, 140, 161), 128, dtype=np.float32), np.zeros((140, 161), dtype=np.int32)
    canvas = Canvas(image, ids, np.random.default_rng(seed), 40, 4.0, rgb(1, 1, 1), rgb(200, 210, 230))
    thing(Pen(canvas, 80.5, 120, SCALE, 9, flip))
    return canvas


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("thing", METRES)
def test_size_is_natural_and_the_foot_is_where_the_pen_stands(thing: Callable[[Pen], None], seed: int):
    rows, columns = np.nonzero(draw(thing, seed).ids == 9)
    (narrow, wide), (low, high) = METRES[thing]
    assert narrow < (np.ptp(columns) + 1) / SCALE < wide
    assert low < (np.ptp(rows) + 1) / SCALE < high
    assert columns.min() <= 80 <= columns.max()
    if thing is not scene_things.draw_bird:
        assert rows.max() == pytest.approx(119, abs=4)


@pytest.mark.parametrize("thing", METRES)
def test_parts_differ_in_colour(thing: Callable[[Pen], None]):
    spread = [canvas.image[:, canvas.ids == 9].std(axis=1).max() for canvas in (draw(thing, s) for s in range(12))]
    assert np.median(spread) > 12


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("thing", [thing for thing in METRES if thing is not scene_things.draw_ball])
def test_flipped_thing_is_the_mirror_image(thing: Callable[[Pen], None], seed: int):
    """A ball's highlight stays: the light does not turn with it."""
    ids, mirrored = draw(thing, seed).ids, draw(thing, seed, flip=-1).ids[:, ::-1]
    # Edges that halve a pixel may round either way.
    assert np.count_nonzero(ids != mirrored) <= 0.01 * np.count_nonzero(ids)


def test_another_thing_of_the_kind_looks_different():
    for thing in METRES:
        assert not np.array_equal(draw(thing, 0).image, draw(thing, 1).image)
