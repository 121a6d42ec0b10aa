"""Outlines of shapes that tools describe by centre, size and angle."""

import math

import numpy as np
from jaxtyping import Float64

from thingstuff.data.drawn.polygons import Placed, fill_polygons
from thingstuff.errors import InputError
from thingstuff.structures import Size


def turn(points: Float64[np.ndarray, "n 2"], degrees: float, pivot: tuple[float, float]) -> Float64[np.ndarray, "n 2"]:
    """Turn points clockwise, as seen on the screen, around ``pivot``; quarter turns are exact."""
    quarters, rest = divmod(degrees % 360, 90)
    if rest:
        cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    else:
        cosine, sine = ((1, 0), (0, 1), (-1, 0), (0, -1))[int(quarters) % 4]  # tiny negative angles give four
    # Rows of points times the transposed rotation; y points down, so positive angles turn clockwise.
    return (points - pivot) @ np.array([[cosine, sine], [-sine, cosine]], dtype=np.float64) + pivot


def rectangle_outline(x1: float, y1: float, x2: float, y2: float) -> Float64[np.ndarray, "4 2"]:
    """Corners of an upright rectangle."""
    return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], dtype=np.float64)


def ellipse_outline(
    center: tuple[float, float], radii: tuple[float, float], degrees: float = 0.0
) -> Float64[np.ndarray, "n 2"]:
    """Points on an ellipse, so close that the chords between them stay within a hundredth of a pixel.

    Args:
        center: x and y.
        radii: Along x and y before turning, more than 0.
        degrees: Clockwise, as seen on the screen.
    """
    # A chord over the angle t leaves an arc of radius r by r (1 - cos(t / 2)).
    count = min(max(12, math.ceil(2 * math.pi / math.sqrt(8 * 0.01 / max(*radii, 1)))), 10_000)
    angles = np.arange(count) * (2 * math.pi / count)
    points = np.stack([radii[0] * np.cos(angles), radii[1] * np.sin(angles)], axis=1) + center
    return turn(points, degrees, center)


def fill_turned(outline: Float64[np.ndarray, "n 2"], size: Size, where: str) -> Placed:
    """The pixels inside the outline of a turned shape, which may reach out of the picture, cut at the picture's edge.

    Args:
        outline: Its points.
        size: Of the picture.
        where: What to call the shape in messages.

    Raises:
        InputError: No part of it lies in the picture.
    """
    (left, top), (right, bottom) = outline.min(axis=0), outline.max(axis=0)
    if right <= 0 or bottom <= 0 or left >= size[1] or top >= size[0]:
        raise InputError(
            f"{where}: lies outside the picture of {size[1]} x {size[0]} pixels (width x height); is it drawn on "
            "another picture, or at another scale?"
        )
    return fill_polygons([outline], size)
