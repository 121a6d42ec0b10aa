"""Procedural landscapes and streets with panoptic ground truth: a data set without files.

Every picture is a function of ``(seed, index)``. It has a horizon and a perspective: what stands further up is further
away and smaller, and hides behind what is nearer. Colours say little, shape and place say much.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import UInt8

from thingstuff.data import scene_stuff as stuff
from thingstuff.data import scene_things as things
from thingstuff.data.scene_canvas import Canvas, Color, Pen, ellipse, grain, pick_color, rgb, smooth_noise
from thingstuff.errors import InputError
from thingstuff.labels import Category, LabelSet
from thingstuff.structures import VOID_ID, Sample, Size, Truth, TruthSegment

SCENES = LabelSet(
    (
        Category(1, "sky", False, (142, 196, 236)),
        Category(2, "grass", False, (154, 205, 96)),
        Category(3, "water", False, (44, 112, 190)),
        Category(4, "road", False, (122, 118, 132)),
        Category(5, "building", False, (196, 164, 132)),
        Category(6, "foliage", False, (38, 110, 72)),
        Category(7, "car", True, (214, 57, 70)),
        Category(8, "person", True, (247, 148, 49)),
        Category(9, "ball", True, (252, 222, 72)),
        Category(10, "box", True, (140, 78, 40)),
        Category(11, "bird", True, (140, 82, 196)),
        Category(12, "boat", True, (240, 118, 182)),
    )
)
"""The classes of the scenes."""

SKY, GRASS, WATER, ROAD, BUILDING, FOLIAGE, CAR, PERSON, BALL, BOX, BIRD, BOAT = range(12)
MIN_AREA = 24
"""Segments with fewer visible pixels become void."""
MIN_SIDE = 64
"""Of a picture, in pixels: in smaller ones most things would be too small to keep."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A kind of landscape: how likely each part of it is.

    Attributes:
        paved: The ground is pavement, not grass.
        lake: Water from the horizon to a shore.
        pond: Water on the ground.
        road: A road into the distance.
        crossing: A road from left to right.
        skyline: A row of buildings in the distance.
        houses: Up to so many nearer buildings.
        treeline: Foliage along the horizon.
        trees: Up to so many trees and bushes.
    """

    paved: float
    lake: float
    pond: float
    road: float
    crossing: float
    skyline: float
    houses: int
    treeline: float
    trees: int


STREET = Layout(0.35, 0.0, 0.0, 0.65, 0.5, 0.8, 5, 0.4, 3)
LAKE = Layout(0.1, 1.0, 0.0, 0.05, 0.15, 0.2, 1, 0.8, 3)
PARK = Layout(0.0, 0.0, 0.35, 0.35, 0.05, 0.15, 1, 0.8, 7)
MIXED = Layout(0.1, 0.4, 0.15, 0.4, 0.3, 0.4, 3, 0.5, 4)
LAYOUTS = (STREET, LAKE, PARK, MIXED)


@dataclass(frozen=True, slots=True)
class Daylight:
    """A time of day, as RGB.

    Attributes:
        zenith: Colour of the sky above.
        haze: Colour of the sky at the horizon.
        light: What falls on the ground; 255 is white.
    """

    zenith: tuple[int, int, int]
    haze: tuple[int, int, int]
    light: tuple[int, int, int]


NOON = Daylight((70, 130, 215), (190, 215, 240), (255, 252, 245))
OVERCAST = Daylight((150, 160, 172), (205, 210, 215), (222, 226, 232))
MORNING = Daylight((120, 160, 215), (250, 225, 190), (255, 238, 212))
SUNSET = Daylight((90, 90, 160), (250, 165, 95), (225, 175, 145))
DUSK = Daylight((30, 40, 85), (125, 105, 145), (150, 148, 185))
DAYLIGHTS = (NOON, NOON, OVERCAST, MORNING, SUNSET, DUSK)


@dataclass(frozen=True, slots=True)
class Kind:
    """Something that stands, floats or flies: how it is drawn and where it belongs.

    Attributes:
        label: Class index.
        draw: Draws one.
        surfaces: Class indices of the stuff it may stand on.
        nearness: Where its foot may be: 0 at the horizon, 1 at the lower edge of the picture (for birds the upper).
        half_width: Metres to its left and right that must be on the surface too.
    """

    label: int
    draw: Callable[[Pen], None]
    surfaces: tuple[int, ...]
    nearness: tuple[float, float]
    half_width: float


KINDS = (
    Kind(CAR, things.draw_car, (ROAD,), (0.25, 0.95), 1.2),
    Kind(PERSON, things.draw_person, (GRASS, ROAD), (0.3, 1.0), 0.2),
    Kind(BALL, things.draw_ball, (GRASS, ROAD), (0.3, 1.0), 0.4),
    Kind(BOX, things.draw_box, (GRASS, ROAD), (0.3, 1.0), 0.5),
    Kind(BIRD, things.draw_bird, (SKY,), (0.15, 0.87), 0.3),
    Kind(BOAT, things.draw_boat, (WATER,), (0.1, 0.75), 1.8),
)
CROWD_KINDS = (KINDS[1], KINDS[1], KINDS[4])
TREE = Kind(FOLIAGE, stuff.draw_tree, (GRASS,), (0.08, 0.95), 0.3)


@dataclass(frozen=True)
class SceneSource:
    """A data set of procedural scenes.

    Attributes:
        seed: Another seed gives other pictures.
        count: Number of pictures.
        size: Height and width of every picture.
    """

    seed: int
    count: int
    size: Size = (128, 192)

    @property
    def labels(self) -> LabelSet:
        """The classes."""
        return SCENES

    def __len__(self) -> int:
        return self.count

    def picture_sizes(self) -> list[Size]:
        """Height and width of every picture, without drawing any."""
        return [self.size] * self.count

    def read(self, index: int) -> Sample:
        """Draw one picture with its truth.

        Raises:
            IndexError: There is no such picture.
        """
        if not 0 <= index < self.count:
            raise IndexError(f"scene {index} of {self.count}")
        return draw_scene(self.seed, index, self.size)


def draw_scene(seed: int, index: int, size: Size = (128, 192)) -> Sample:
    """Draw one picture with its panoptic truth.

    Args:
        seed: Of the data set, at least 0.
        index: Of the picture in it, at least 0; it becomes the image id.
        size: Height and width in pixels. Everything scales with them.

    Returns:
        An RGB picture and its truth: at most one segment for each stuff class, one for each thing, now and then a
        crowd or an unlabelled region.

    Raises:
        InputError: The size is too small to hold things.
    """
    height, width = size
    if min(size) < MIN_SIDE:
        raise InputError(
            f"size of scenes is {height} x {width}, expected at least {MIN_SIDE} on both sides; enlarge it"
        )
    rng = np.random.default_rng([seed, index])
    layout = LAYOUTS[rng.integers(len(LAYOUTS))]
    canvas, zenith = _new_canvas(rng, size)
    _draw_ground(canvas, layout, zenith)
    segments = {label + 1: TruthSegment(label + 1, label) for label in range(SCENES.num_stuff)}
    items = _place_trees(canvas, layout)
    for kind, pens, crowd in _place_things(canvas):
        identity = len(segments) + 1
        segments[identity] = TruthSegment(identity, kind.label, crowd)
        items += [(kind.draw, replace(pen, segment=identity)) for pen in pens]
    for draw, pen in sorted(items, key=lambda item: item[1].y):
        draw(pen)
    if rng.random() < 0.05:
        _draw_void(canvas)
    truth = _keep_visible(canvas, segments)
    return Sample(_develop(canvas), truth, index, f"{index:06d}.png", size)


def _new_canvas(rng: np.random.Generator, size: Size) -> tuple[Canvas, Color]:
    """An empty canvas with a horizon, a camera and a time of day, and the colour of the zenith."""
    height, width = size
    daylight = DAYLIGHTS[rng.integers(len(DAYLIGHTS))]
    zenith, haze, light = (
        rgb(*color) * rng.uniform(0.88, 1.12, (3, 1, 1)).astype(np.float32)
        for color in (daylight.zenith, daylight.haze, daylight.light)
    )
    # Portraits are seen from higher up, so that things do not fill their width.
    camera = rng.uniform(3.4, 5.2) * max(1.0, height / width)
    image, ids = np.zeros((3, height, width), dtype=np.float32), np.zeros(size, dtype=np.int32)
    horizon = round(rng.uniform(0.28, 0.48) * height)
    return Canvas(image, ids, rng, horizon, float(camera), light / 255, np.minimum(haze, 255)), zenith


def _draw_ground(canvas: Canvas, layout: Layout, zenith: Color) -> None:
    """Draw all stuff but the trees, from the sky to the nearest house."""
    rng = canvas.rng
    paved, lake, pond, road, crossing, skyline, treeline = (
        rng.random() < chance
        for chance in (
            layout.paved, layout.lake, layout.pond, layout.road, layout.crossing, layout.skyline, layout.treeline
        )
    )  # fmt: skip
    stuff.draw_sky(canvas, SKY + 1, zenith, rng.uniform(-0.2, 0.8))
    if paved:
        stuff.draw_pavement(canvas, ROAD + 1)
    else:
        stuff.draw_grass(canvas, GRASS + 1)
    if lake:
        far = rng.uniform(0.1, 0.14) if skyline else rng.uniform(-0.03, 0.06)
        lake_shape = stuff.lake_shape(canvas, canvas.row(far), canvas.row(rng.uniform(0.4, 0.95)))
        stuff.draw_water(canvas, WATER + 1, lake_shape)
    elif pond and not paved:
        stuff.draw_water(canvas, WATER + 1, stuff.pond_shape(canvas))
    if crossing:
        stuff.draw_crossing_road(canvas, ROAD + 1, rng.uniform(3.0, 5.0))
    if road and not lake:
        stuff.draw_road(canvas, ROAD + 1, rng.uniform(2.5, 5.0))
    if treeline:
        stuff.draw_treeline(canvas, FOLIAGE + 1)
    _draw_buildings(canvas, skyline, int(rng.integers(layout.houses + 1)))


def _draw_buildings(canvas: Canvas, skyline: bool, houses: int) -> None:
    """Draw a row of buildings in the distance and some nearer houses beside roads and water."""
    rng, feet = canvas.rng, []
    if skyline:
        x, end = sorted((rng.uniform(-0.3, 1.3, 2) * canvas.width).tolist())
        while x < end:
            foot = canvas.row(rng.uniform(0.06, 0.12))
            feet.append((foot, x))
            x += rng.uniform(4, 10) * canvas.scale(foot)
    for _ in range(houses):
        foot, x = canvas.row(rng.uniform(0.14, 0.32)), rng.uniform(0, canvas.width)
        if _stands_on(canvas, (GRASS,), foot, x, 4 * canvas.scale(foot)):
            feet.append((foot, x))
    vanish = rng.uniform(0.3, 0.7) * canvas.width
    for foot, x in sorted(feet):
        stuff.draw_building(Pen(canvas, x, foot, canvas.scale(foot), BUILDING + 1), vanish)


def _stands_on(canvas: Canvas, surfaces: tuple[int, ...], row: float, x: float, half_width: float) -> bool:
    """Whether the canvas shows one of these kinds of stuff at a point and at both sides of it."""
    line = canvas.ids[min(int(row), canvas.height - 1)]
    return all(
        line[min(max(int(column), 0), canvas.width - 1)] - 1 in surfaces
        for column in (x - half_width, x, x + half_width)
    )


def _find_place(canvas: Canvas, kind: Kind, beside: Pen | None = None) -> Pen | None:
    """Look for room for a thing, first close to another one if given; None if a few trials find none."""
    rng = canvas.rng
    for trial, (across, nearness) in enumerate(rng.random((10, 2)).tolist()):
        nearness = kind.nearness[0] + nearness * (kind.nearness[1] - kind.nearness[0])
        x, foot = across * canvas.width, canvas.row(nearness)
        if kind.label == BIRD:
            foot = (1 - nearness) * canvas.horizon
            scale = canvas.unit * rng.uniform(15, 33)
        else:
            if trial < 3 and beside is not None:
                x, foot = beside.x + (2 * across - 1) * 1.5 * beside.scale, beside.y + 0.06 * across * canvas.height
            scale = canvas.scale(foot)
        if _stands_on(canvas, kind.surfaces, foot, x, kind.half_width * scale):
            return Pen(canvas, x, foot, scale, VOID_ID, 1 if rng.random() < 0.5 else -1)
    return None


def _place_trees(canvas: Canvas, layout: Layout) -> list[tuple[Callable[[Pen], None], Pen]]:
    """Trees and bushes on the grass."""
    places = [_find_place(canvas, TREE) for _ in range(canvas.rng.integers(layout.trees + 1))]
    # In true proportion the nearest trees would hide half of the picture.
    return [
        (TREE.draw, replace(pen, segment=FOLIAGE + 1, scale=1.8 * canvas.unit**0.15 * pen.scale**0.85))
        for pen in places
        if pen is not None
    ]


def _place_things(canvas: Canvas) -> list[tuple[Kind, list[Pen], bool]]:
    """Choose things for the surfaces there are: the kind, one pen for each member, and whether they are a crowd."""
    rng = canvas.rng
    coarse = canvas.ids[::4, ::4].reshape(-1)
    visible = set((np.flatnonzero(np.bincount(coarse) > 0.02 * coarse.size) - 1).tolist())
    kinds = [kind for kind in KINDS if visible.intersection(kind.surfaces)]
    placed, last = [], None
    for _ in range(0 if rng.random() < 0.04 else rng.integers(3, 10)):
        kind = kinds[rng.integers(len(kinds))]
        pen = _find_place(canvas, kind, last if rng.random() < 0.35 else None)
        if pen is not None:
            placed.append((kind, [pen], False))
            last = None if kind.label == BIRD else pen
    if rng.random() < 0.07:
        kind = CROWD_KINDS[rng.integers(len(CROWD_KINDS))]
        middle = _find_place(canvas, replace(kind, nearness=(kind.nearness[0], 0.6)))
        if middle is not None:
            placed.append((kind, _gather(canvas, kind, middle), True))
    return placed


def _gather(canvas: Canvas, kind: Kind, middle: Pen) -> list[Pen]:
    """Many small things in a tight group around one of them."""
    rng, number = canvas.rng, int(canvas.rng.integers(8, 17))
    if kind.label == BIRD:
        unit = canvas.unit
        offsets = rng.normal(0, (11 * unit, 5 * unit), (number, 2)).tolist()
        return [replace(middle, x=middle.x + x, y=middle.y + y, scale=9 * unit) for x, y in offsets]
    offsets = rng.uniform((-0.24 * number, 0), (0.24 * number, 0.5), (number, 2)).tolist()
    return [replace(middle, x=middle.x + x * middle.scale, y=middle.y + y * middle.scale) for x, y in offsets]


def _draw_void(canvas: Canvas) -> None:
    """Something nobody labelled: a strip along an edge of the picture or a rock on the ground."""
    rng, unit = canvas.rng, canvas.unit
    color = pick_color(rng, (0.0, 1.0), (0.0, 0.3), (0.05, 0.6))
    if rng.random() < 0.5:
        thickness = rng.uniform(3, 8) * unit
        pen = Pen(canvas, 0, canvas.height, 1, VOID_ID)
        right, top = (canvas.width + 9, thickness) if rng.random() < 0.5 else (thickness, canvas.height + 9)
        pen.box(-9, -9, right, top, color)
        return
    x, y = rng.uniform(0, canvas.width), canvas.row(rng.uniform(0.2, 1.0))
    radius_x, radius_y = rng.uniform(6, 16) * unit, rng.uniform(4, 10) * unit
    window = canvas.window(x - 1.3 * radius_x, y - 1.3 * radius_y, x + 1.3 * radius_x, y + 1.3 * radius_y)
    lumps = smooth_noise(rng, window.y / (4 * unit), window.x / (4 * unit))
    inside = ellipse(window, x, y, radius_x, radius_y) + 0.25 * radius_y * lumps
    canvas.paint(window, inside, color, VOID_ID, 0.85 + 0.3 * lumps)


def _keep_visible(canvas: Canvas, segments: dict[int, TruthSegment]) -> Truth:
    """Turn segments of a few visible pixels into void and list the others."""
    areas = np.bincount(canvas.ids.reshape(-1), minlength=len(segments) + 1)
    kept = areas >= MIN_AREA
    ids = np.where(kept, np.arange(len(areas)), VOID_ID).astype(np.int32)[canvas.ids]
    return Truth(ids, tuple(segment for identity, segment in segments.items() if kept[identity]))


def _develop(canvas: Canvas) -> UInt8[np.ndarray, "H W 3"]:
    """Contrast, exposure and noise of a cheap camera."""
    rng = canvas.rng
    image = grain(rng, *canvas.image.shape)
    image *= rng.uniform(1, 9)
    contrast = rng.uniform(0.85, 1.1)
    canvas.image *= contrast
    image += canvas.image
    image += 128 * (1 - contrast) + rng.uniform(-12, 12)
    return np.ascontiguousarray(np.clip(image, 0, 255, out=image).astype(np.uint8).transpose(1, 2, 0))
