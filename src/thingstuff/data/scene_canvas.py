"""The painter of the procedural scenes: a picture with its id map, soft-edged shapes and smooth noise.

Everything is computed on the window that a shape covers, from its signed distance in pixels: positive inside, so that
``clip(distance + 0.5, 0, 1)`` is how much of a pixel is covered.
"""

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float32, Int32

Color = Float32[np.ndarray, "3 #h #w"]
"""RGB from 0 to 255, channels first: the last axis stays long, which numpy needs to be fast."""
Number = int | float
Point = tuple[Number, Number]


@dataclass(frozen=True, slots=True)
class Window:
    """A rectangle of the canvas, possibly empty, with the coordinates of its pixel centres.

    Attributes:
        rows: The rows it covers.
        columns: The columns it covers.
        x: Pixel centres along a row.
        y: Pixel centres along a column.
    """

    rows: slice
    columns: slice
    x: Float32[np.ndarray, " w"]
    y: Float32[np.ndarray, "h 1"]


@dataclass(slots=True)
class Canvas:
    """A picture in the making.

    Attributes:
        image: RGB from 0 to 255, channels first.
        ids: Segment id of every pixel, 0 where nothing is labelled.
        rng: The only source of randomness.
        horizon: First row below the horizon.
        camera: Height of the camera above the ground in metres, which sets the size of everything.
        light: Colour of the daylight as a factor; it multiplies what is painted.
        haze: Colour of the sky at the horizon.
    """

    image: Float32[np.ndarray, "3 H W"]
    ids: Int32[np.ndarray, "H W"]
    rng: np.random.Generator
    horizon: int
    camera: Number
    light: Color
    haze: Color
    _x: Float32[np.ndarray, " W"] = field(init=False)
    _y: Float32[np.ndarray, "H 1"] = field(init=False)

    def __post_init__(self) -> None:
        self._x = np.arange(self.width, dtype=np.float32) + 0.5
        self._y = np.arange(self.height, dtype=np.float32)[:, None] + 0.5

    @property
    def height(self) -> int:
        """Height in pixels."""
        return self.ids.shape[0]

    @property
    def width(self) -> int:
        """Width in pixels."""
        return self.ids.shape[1]

    @property
    def unit(self) -> float:
        """What a pixel of a picture of 128 x 192 is here, for lengths that have no perspective."""
        return min(self.height, self.width) / 128

    def scale(self, foot: Number) -> float:
        """Pixels per metre for what stands on the ground at row ``foot``."""
        return (foot - self.horizon) / self.camera

    def row(self, nearness: Number) -> float:
        """Row of the ground between the horizon (0) and the lower edge of the picture (1)."""
        return self.horizon + nearness * (self.height - self.horizon)

    def window(self, left: Number, top: Number, right: Number, bottom: Number) -> Window:
        """The pixels that a shape with these bounds can touch, cut at the edges of the picture."""
        rows = slice(max(int(top - 1), 0), max(int(bottom + 2), 0))
        columns = slice(max(int(left - 1), 0), max(int(right + 2), 0))
        return Window(rows, columns, self._x[columns], self._y[rows])

    def ground(self) -> Window:
        """Everything below the horizon."""
        return self.window(0, self.horizon + 1, self.width, self.height)

    def paint(
        self,
        window: Window,
        distance: Float32[np.ndarray, "#h #w"],
        color: Color,
        segment: int,
        shade: Float32[np.ndarray, "#h #w"] | Number = 1.0,
    ) -> None:
        """Cover what lies inside the shape with a lit colour and give its pixels to a segment.

        Args:
            window: Where the shape is.
            distance: Signed distance to its edge in pixels, positive inside.
            color: RGB from 0 to 255.
            segment: Id of the pixels at least half covered.
            shade: Brightness as a factor.
        """
        coverage = self.blend(window, distance, color * self.light * shade)
        np.copyto(self.ids[window.rows, window.columns], segment, where=coverage >= 0.5)

    def fill(
        self, window: Window, color: Color, segment: int, shade: Float32[np.ndarray, "#h #w"] | Number = 1.0
    ) -> None:
        """Cover a whole window with a lit colour and give it to a segment."""
        self.image[:, window.rows, window.columns] = color * self.light * shade
        self.ids[window.rows, window.columns] = segment

    def blend(
        self, window: Window, distance: Float32[np.ndarray, "#h #w"], color: Color
    ) -> Float32[np.ndarray, "#h #w"]:
        """Colour the inside of a shape, leave the segments, and return how much of each pixel it covers."""
        coverage = np.minimum(np.maximum(distance + 0.5, 0), 1)
        region = self.image[:, window.rows, window.columns]
        change = color - region
        change *= coverage
        region += change
        return coverage

    def shadow(self, x: Number, y: Number, radius_x: Number, radius_y: Number, strength: Number = 0.4) -> None:
        """Darken an ellipse of the ground, softly."""
        window = self.window(x - radius_x, y - radius_y, x + radius_x, y + radius_y)
        depth = 1 - ((window.x - x) / radius_x) ** 2 - ((window.y - y) / radius_y) ** 2
        self.image[:, window.rows, window.columns] *= 1 - strength * np.minimum(np.maximum(2 * depth, 0), 1)


@dataclass(frozen=True, slots=True)
class Pen:
    """Draws the parts of one object in metres: x to the right of its foot point, y up.

    Attributes:
        canvas: Where it draws.
        x: Column of the foot point in pixels.
        y: Row of the foot point in pixels.
        scale: Pixels per metre.
        segment: Id of what it draws.
        flip: -1 to mirror left and right.
    """

    canvas: Canvas
    x: Number
    y: Number
    scale: Number
    segment: int
    flip: int = 1

    def at(self, x: Number, y: Number) -> Point:
        """Column and row, in pixels, of a point of the object."""
        return self.x + self.flip * x * self.scale, self.y - y * self.scale

    def box(self, x0: Number, y0: Number, x1: Number, y1: Number, color: Color, radius: Number = 0.0) -> None:
        """An upright rectangle between two corners, with rounded corners if ``radius`` is given."""
        (ax, ay), (bx, by) = self.at(x0, y0), self.at(x1, y1)
        window = self.canvas.window(min(ax, bx), min(ay, by), max(ax, bx), max(ay, by))
        pixels = max(radius * self.scale, 0.5)
        over_x = np.maximum(np.abs(window.x - (ax + bx) / 2) - (abs(bx - ax) / 2 - pixels), 0)
        over_y = np.maximum(np.abs(window.y - (ay + by) / 2) - (abs(by - ay) / 2 - pixels), 0)
        distance = pixels - np.sqrt(over_x * over_x + over_y * over_y)
        self.canvas.paint(window, distance, color, self.segment)

    def ellipse(self, x: Number, y: Number, radius_x: Number, radius_y: Number, color: Color) -> None:
        """An upright ellipse."""
        (cx, cy), rx, ry = self.at(x, y), radius_x * self.scale, radius_y * self.scale
        window = self.canvas.window(cx - rx, cy - ry, cx + rx, cy + ry)
        self.canvas.paint(window, ellipse(window, cx, cy, rx, ry), color, self.segment)

    def limb(self, start: Point, end: Point, thickness: Number, color: Color) -> None:
        """A straight line with round ends."""
        (ax, ay), (bx, by), radius = self.at(*start), self.at(*end), thickness * self.scale / 2
        window = self.canvas.window(
            min(ax, bx) - radius, min(ay, by) - radius, max(ax, bx) + radius, max(ay, by) + radius
        )
        dx, dy = bx - ax, by - ay
        along = np.clip(((window.x - ax) * dx + (window.y - ay) * dy) / (dx * dx + dy * dy + 1e-9), 0, 1)
        away_x, away_y = window.x - ax - along * dx, window.y - ay - along * dy
        self.canvas.paint(window, radius - np.sqrt(away_x**2 + away_y**2), color, self.segment)

    def polygon(self, points: Sequence[Point], color: Color) -> None:
        """A convex polygon; its corners may go round either way."""
        corners = [self.at(*point) for point in points]
        xs, ys = zip(*corners, strict=True)
        window = self.canvas.window(min(xs), min(ys), max(xs), max(ys))
        edges = list(zip(corners, corners[1:] + corners[:1], strict=True))
        turn = 1 if sum(ax * by - bx * ay for (ax, ay), (bx, by) in edges) > 0 else -1
        distance = np.full((len(window.y), len(window.x)), np.inf, dtype=np.float32)
        for (ax, ay), (bx, by) in edges:
            length = turn * max(math.hypot(bx - ax, by - ay), 1e-6)
            normal_x, normal_y = (ay - by) / length, (bx - ax) / length
            np.minimum(distance, normal_x * (window.x - ax) + normal_y * (window.y - ay), out=distance)
        self.canvas.paint(window, distance, color, self.segment)


def ellipse(window: Window, x: Number, y: Number, radius_x: Number, radius_y: Number) -> Float32[np.ndarray, "h w"]:
    """Signed distance to an ellipse: exact for circles, close to the edge otherwise."""
    radius = np.sqrt(((window.x - x) / radius_x) ** 2 + ((window.y - y) / radius_y) ** 2)
    return (1 - radius) * min(radius_x, radius_y)


def rgb(red: Number, green: Number, blue: Number) -> Color:
    """A colour from its components from 0 to 255."""
    return np.array([red, green, blue], dtype=np.float32).reshape(3, 1, 1)


def pick_color(rng: np.random.Generator, hue: Point, saturation: Point, value: Point) -> Color:
    """A random colour inside ranges from 0 to 1; hues outside wrap around."""
    components = [
        low + part * (high - low)
        for part, (low, high) in zip(rng.random(3).tolist(), (hue, saturation, value), strict=True)
    ]
    red, green, blue = colorsys.hsv_to_rgb(components[0] % 1, components[1], components[2])
    return rgb(255 * red, 255 * green, 255 * blue)


def smooth_noise(
    rng: np.random.Generator, rows: Float32[np.ndarray, "h *_"], columns: Float32[np.ndarray, " w"]
) -> Float32[np.ndarray, "h w"]:
    """Random values from -1 to 1 on a lattice, interpolated smoothly at the given lattice coordinates (from 0)."""
    rows = rows.reshape(-1)
    cells = [int(axis.max(initial=0)) + 2 for axis in (rows, columns)]
    lattice = 2 * rng.random(cells, dtype=np.float32) - 1
    i, j = rows.astype(np.int32), columns.astype(np.int32)
    along, across = (rows % 1)[:, None], columns % 1
    along, across = along * along * (3 - 2 * along), across * across * (3 - 2 * across)
    strips = lattice[i] + along * (lattice[i + 1] - lattice[i])
    left, values = strips.take(j, axis=1), strips.take(j + 1, axis=1)
    values -= left
    values *= across
    values += left
    return values


def grain(rng: np.random.Generator, *shape: int) -> Float32[np.ndarray, "..."]:
    """Independent values from -1 to 1, one for each pixel; random bytes are ten times faster than normal deviates."""
    values = np.frombuffer(rng.bytes(math.prod(shape)), dtype=np.uint8).astype(np.float32)
    values *= 1 / 127.5
    values -= 1
    return values.reshape(shape)
