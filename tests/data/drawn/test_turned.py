import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thingstuff.data.drawn.turned import ellipse_outline, fill_turned, rectangle_outline, turn
from thingstuff.errors import InputError


def test_quarter_turns_are_clockwise_and_exact():
    point = np.array([[3.0, 1.0]])
    for degrees, expected in [(0, (3, 1)), (90, (1, 3)), (180, (-1, 1)), (270, (1, -1)), (-90, (1, -1)), (450, (1, 3))]:
        assert turn(point, float(degrees), (1.0, 1.0)).tolist() == [list(expected)]


@given(degrees=st.floats(-1000, 1000), x=st.floats(-50, 50), y=st.floats(-50, 50))
def test_turns_keep_distances_and_can_be_undone(degrees, x, y):
    points = np.array([[x, y], [4.0, 7.0]])
    turned = turn(points, degrees, (4.0, 7.0))
    np.testing.assert_allclose(turned[1], [4, 7], atol=1e-9)
    assert np.hypot(*(turned[0] - turned[1])) == pytest.approx(np.hypot(*(points[0] - points[1])), abs=1e-9)
    np.testing.assert_allclose(turn(turned, -degrees, (4.0, 7.0)), points, atol=1e-9)


@pytest.mark.parametrize("radii", [(0.2, 0.2), (3.0, 40.0), (1000.0, 700.0)])
def test_chords_of_an_ellipse_stay_close_to_it(radii):
    outline = ellipse_outline((10.0, 20.0), radii)
    middle = (outline + np.roll(outline, 1, axis=0)) / 2
    for points, tolerance in ((outline, 1e-9), (middle, 0.01)):
        share = np.hypot(*((points - (10, 20)) / radii).T)
        assert (share <= 1 + 1e-9).all()
        assert ((1 - share) * max(radii) <= tolerance).all()


def test_what_lies_outside_is_cut_or_refused():
    mask, corner = fill_turned(rectangle_outline(-5.0, 1.0, 2.0, 3.0), (4, 4), "a")
    assert (mask.shape, corner, mask.all()) == ((2, 2), (1, 0), True)
    for outline in (rectangle_outline(4.0, 0.0, 5.0, 1.0), rectangle_outline(0.0, -3.0, 1.0, 0.0)):
        with pytest.raises(InputError, match=r"^a: lies outside the picture of 4 x 4 pixels"):
            fill_turned(outline, (4, 4), "a")
