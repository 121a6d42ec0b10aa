"""The stuff of the procedural scenes: one function for each kind, and the shapes of water.

Roads, water and sky know their place in the picture; buildings and trees are drawn with a ``Pen`` at their foot.
"""

import numpy as np
from jaxtyping import Float32

from thingstuff.data.scene_canvas import Canvas, Color, Pen, Window, ellipse, grain, pick_color, rgb, smooth_noise

ANY_HUE = (0.0, 1.0)
PALE = rgb(235, 235, 228)


def draw_sky(canvas: Canvas, segment: int, zenith: Color, cloudiness: float) -> None:
    """A gradient from the zenith to the haze at the horizon, with clouds and sometimes the sun."""
    rng, unit = canvas.rng, canvas.unit
    window = canvas.window(0, 0, canvas.width, canvas.horizon + 3 * unit)
    height = np.clip(1 - window.y / canvas.horizon, 0, 1)
    canvas.image[:, window.rows] = canvas.haze + np.sqrt(height) * (zenith - canvas.haze)
    canvas.ids[window.rows] = segment
    if rng.random() < 0.3:
        x, y, radius = rng.uniform(0, canvas.width), rng.uniform(0.1, 0.9) * canvas.horizon, rng.uniform(3, 7) * unit
        disc = canvas.window(x - radius, y - radius, x + radius, y + radius)
        canvas.blend(disc, ellipse(disc, x, y, radius, radius), 0.3 * canvas.haze + 0.7 * rgb(255, 248, 225))
    if cloudiness > 0:
        rows, columns = window.y / (11 * unit), window.x / (30 * unit)
        clouds = smooth_noise(rng, rows, columns) + 0.5 * smooth_noise(rng, 2.3 * rows, 2.7 * columns)
        cover = np.clip(1.2 * (clouds + 2 * cloudiness - 1.1), 0, 0.85) * (0.4 + 0.6 * height)
        bright = canvas.haze + 0.75 * (rgb(255, 255, 255) * canvas.light - canvas.haze)
        canvas.blend(window, cover - 0.5, bright * (0.92 + 0.08 * clouds))


def draw_grass(canvas: Canvas, segment: int) -> None:
    """The ground up to the horizon: patches that shrink with distance, blades, sometimes mown stripes."""
    rng, window = canvas.rng, canvas.ground()
    if rng.random() < 0.25:  # dry
        color = pick_color(rng, (0.11, 0.18), (0.3, 0.55), (0.55, 0.8))
    else:
        color = pick_color(rng, (0.19, 0.36), (0.35, 0.7), (0.4, 0.72))
    depth, columns = _depth(canvas, window), window.x / canvas.height
    shade = 0.93 + 0.12 * smooth_noise(rng, 3 * depth, 5 * columns) + 0.1 * smooth_noise(rng, 9 * depth, 40 * columns)
    if rng.random() < 0.2:
        shade += 0.07 * np.sign(np.sin(rng.uniform(5, 9) * depth + rng.uniform(-4, 4) * columns))
    shade += 0.11 * grain(rng, *shade.shape)
    canvas.fill(window, color, segment, shade)


def draw_water(canvas: Canvas, segment: int, distance: Float32[np.ndarray, "h w"]) -> None:
    """Water inside a shape of the ground: it mirrors the sky far away and has waves that grow towards the viewer."""
    rng, window = canvas.rng, canvas.ground()
    own = pick_color(rng, (0.47, 0.66), (0.3, 0.7), (0.3, 0.65))
    depth, columns = _depth(canvas, window), window.x / canvas.height
    mirror = np.clip(0.85 - 0.3 * depth, 0.15, 0.8)
    waves = smooth_noise(rng, 22 * depth, rng.uniform(7, 14) * columns)
    waves += 0.6 * smooth_noise(rng, 9 * depth, 3 * columns) * mirror
    glint = np.clip(waves - 0.75, 0, 1)
    color = own * canvas.light + mirror * (0.9 * canvas.haze - own * canvas.light)
    coverage = canvas.blend(window, distance, color * (1 + 0.13 * waves) + 160 * glint)
    np.copyto(canvas.ids[window.rows], segment, where=coverage >= 0.5)


def lake_shape(canvas: Canvas, far: float, near: float) -> Float32[np.ndarray, "h w"]:
    """Signed distance to a lake from a straight shore at row ``far`` to a winding one at about row ``near``."""
    window, rng = canvas.ground(), canvas.rng
    wind = smooth_noise(rng, np.zeros(1, dtype=np.float32), 3 * window.x / canvas.height)
    slope = rng.uniform(-0.15, 0.15) * (window.x - canvas.width / 2)
    return np.minimum(near + 0.05 * canvas.height * wind + slope - window.y, window.y - far)


def pond_shape(canvas: Canvas) -> Float32[np.ndarray, "h w"]:
    """Signed distance to an uneven pond somewhere on the ground."""
    window, rng = canvas.ground(), canvas.rng
    y, x = canvas.row(rng.uniform(0.35, 0.7)), rng.uniform(0.2, 0.8) * canvas.width
    radius_y = rng.uniform(0.13, 0.24) * (canvas.height - canvas.horizon)
    wind = smooth_noise(rng, 4 * window.y / canvas.height, 4 * window.x / canvas.height)
    return ellipse(window, x, y, rng.uniform(2.2, 3.6) * radius_y, radius_y) + 0.18 * radius_y * wind


def draw_road(canvas: Canvas, segment: int, half_width: float) -> None:
    """A road of ``2 * half_width`` metres that runs into the distance, perhaps in a bend."""
    rng, window = canvas.rng, canvas.ground()
    near = (window.y - canvas.horizon) / (canvas.height - canvas.horizon)
    vanish, bottom = rng.uniform(0.3, 0.7) * canvas.width, rng.uniform(0.25, 0.75) * canvas.width
    bend = rng.uniform(-0.4, 0.4) * canvas.width if rng.random() < 0.5 else 0.0
    middle = vanish + (bottom - vanish) * near + bend * near * (1 - near)
    # From the middle line, in units of the half width at this row.
    pixels = half_width * (window.y - canvas.horizon) / canvas.camera
    across = (window.x - middle) / pixels
    _draw_roadway(canvas, window, segment, across, pixels, 2.2 / near)


def draw_crossing_road(canvas: Canvas, segment: int, half_width: float) -> None:
    """A road of ``2 * half_width`` metres that passes from left to right."""
    rng, window = canvas.rng, canvas.ground()
    row = canvas.row(rng.uniform(0.35, 0.8))
    # Seen at this distance, a metre into the distance is this many pixels high.
    pixels = half_width * max(0.45 * canvas.scale(row), 0.03 * canvas.height)
    slope = rng.uniform(-0.08, 0.08)
    across = (window.y - row - slope * (window.x - canvas.width / 2)) / pixels
    _draw_roadway(canvas, window, segment, across, pixels, window.x[None] / (1.5 * canvas.scale(row)))


def _draw_roadway(
    canvas: Canvas,
    window: Window,
    segment: int,
    across: Float32[np.ndarray, "h w"],
    pixels: Float32[np.ndarray, "#h #w"] | float,
    along: Float32[np.ndarray, "#h #w"],
) -> None:
    """Surface, pavement or verge, and markings; ``across`` is -1 and 1 at the edges, ``along`` counts dashes."""
    rng, offset = canvas.rng, np.abs(across)
    texture = smooth_noise(rng, 12 * window.y / canvas.height, 12 * window.x / canvas.height)
    shade = 1 + 0.06 * texture + 0.05 * grain(rng, *across.shape)
    if rng.random() < 0.25:  # a track of earth or gravel with two ruts
        color = pick_color(rng, (0.06, 0.12), (0.15, 0.45), (0.5, 0.75))
        shade -= np.float32(0.15) * (np.abs(offset - 0.5) < 0.15)
        canvas.paint(window, (1 - offset) * pixels, color, segment, shade)
        return
    color = pick_color(rng, (0.55, 0.75), (0.0, 0.12), (0.25, 0.6))
    if rng.random() < 0.6:
        kerb = pick_color(rng, (0.05, 0.15), (0.0, 0.2), (0.6, 0.8))
        canvas.paint(window, (1.3 - offset) * pixels, kerb, segment, shade)
    canvas.paint(window, (1 - offset) * pixels, color, segment, shade)
    marking = (PALE, rgb(235, 200, 90))[int(rng.random() < 0.3)] * canvas.light
    lines = np.where(along % 2 < 1.1, 0.035 - offset, np.float32(-1))
    if rng.random() < 0.6:
        lines = np.maximum(lines, 0.03 - np.abs(offset - 0.9))
    canvas.blend(window, np.minimum(lines * pixels + 0.3, 0.4), marking)


def draw_pavement(canvas: Canvas, segment: int) -> None:
    """Paved ground up to the horizon instead of grass, counted as road."""
    rng, window = canvas.rng, canvas.ground()
    color = pick_color(rng, (0.05, 0.15), (0.0, 0.25), (0.45, 0.75))
    depth, columns = _depth(canvas, window), window.x / canvas.height
    shade = 0.97 + 0.06 * smooth_noise(rng, 4 * depth, 6 * columns) - np.float32(0.08) * ((6 * depth) % 1 < 0.08)
    canvas.fill(window, color, segment, shade + 0.04 * grain(rng, *shade.shape))


def draw_building(pen: Pen, vanish: float) -> None:
    """A house or a block: front with windows and door, a side that runs to the vanishing point, a roof."""
    rng, canvas = pen.canvas.rng, pen.canvas
    floors, bays = int(rng.integers(1, 7)), int(rng.integers(2, 6))
    half, height = 1.3 * bays, 2.9 * floors + 0.8
    wall = _wall_color(rng)
    middle, foot = (vanish - pen.x) / pen.scale, (pen.y - canvas.horizon) / pen.scale
    side = half if middle > half else -half
    if abs(middle) > half:
        reach = rng.uniform(0.1, 0.3)
        back = side + reach * (middle - side)
        pen.polygon(
            [(side, 0), (side, height), (back, height + reach * (foot - height)), (back, reach * foot)], 0.7 * wall
        )
    pen.box(-half, 0, half, height, wall)
    _draw_windows(pen, half, floors, bays)
    pen.box(-0.5, 0, 0.5, 2.0, pick_color(rng, ANY_HUE, (0.2, 0.6), (0.2, 0.5)))
    roof = pick_color(rng, (-0.03, 0.08), (0.1, 0.6), (0.25, 0.55))
    if floors <= 3 and rng.random() < 0.75:
        pen.polygon(
            [(-half - 0.4, height), (half + 0.4, height), (rng.uniform(-0.5, 0.5) * half, height + 0.9 * half)], roof
        )
    else:
        pen.box(-half - 0.2, height - 0.2, half + 0.2, height + 0.5, roof)


def _wall_color(rng: np.random.Generator) -> Color:
    kind = rng.integers(4)
    if kind == 0:  # brick
        return pick_color(rng, (-0.02, 0.05), (0.35, 0.65), (0.45, 0.7))
    if kind == 1:  # concrete or glass
        return pick_color(rng, (0.5, 0.65), (0.02, 0.25), (0.45, 0.75))
    return pick_color(rng, (0.05, 0.16) if kind == 2 else ANY_HUE, (0.08, 0.4), (0.65, 0.92))


def _draw_windows(pen: Pen, half: float, floors: int, bays: int) -> None:
    """Panes in a grid, each a little different, some of them lit when it is dark."""
    canvas, rng = pen.canvas, pen.canvas.rng
    (left, bottom), (right, top) = pen.at(-half, 0.4), pen.at(half, 0.4 + 2.9 * floors)
    window = canvas.window(left, top, right, bottom)
    column = np.clip((window.x - left) / (right - left), 0, 0.999) * bays
    floor = np.clip((bottom - window.y) / (bottom - top), 0, 0.999) * floors
    pane_x, pane_y = rng.uniform(0.25, 0.42), rng.uniform(0.22, 0.36)
    distance_x = (pane_x - np.abs(column % 1 - 0.5)) * (right - left) / bays
    distance_y = (pane_y - np.abs(floor % 1 - 0.55)) * (bottom - top) / floors
    variety = rng.random((floors, bays), dtype=np.float32)
    each = variety[floor[:, 0].astype(np.int32)][:, column.astype(np.int32)]
    dusk = float(canvas.light.mean()) < 0.75
    glass = 0.35 * canvas.haze + (20 + 60 * each)
    color = np.where(each > 0.55, rgb(250, 215, 130), 0.5 * glass) if dusk else glass
    canvas.paint(window, np.minimum(distance_x, distance_y), color / canvas.light, pen.segment)


def draw_treeline(canvas: Canvas, segment: int) -> None:
    """A wood or a hedge in the distance, along the horizon."""
    rng, unit = canvas.rng, canvas.unit
    top, flat = rng.uniform(5, 20) * unit, np.zeros(1, dtype=np.float32)
    window = canvas.window(0, canvas.horizon - 1.8 * top, canvas.width, canvas.horizon + 3 * unit)
    outline = (
        1
        + 0.45 * smooth_noise(rng, flat, window.x / (40 * unit))
        + 0.25 * smooth_noise(rng, flat, window.x / (6 * unit))
    )
    if rng.random() < 0.4:  # only part of the way
        outline += rng.choice((-2.0, 2.0)).item() * (window.x / canvas.width - rng.uniform(0.2, 0.8))
    rise = window.y - (canvas.horizon - top * outline)
    below = canvas.horizon + 2 * unit - window.y
    shade = 0.9 + 0.25 * smooth_noise(rng, window.y / (3 * unit), window.x / (3.5 * unit)) - 0.012 * rise / unit
    mist = rng.uniform(0.0, 0.4)
    color = (1 - mist) * _leaf_color(rng) + mist * canvas.haze / canvas.light
    canvas.paint(window, np.minimum(rise, below), color, segment, shade)


def draw_tree(pen: Pen) -> None:
    """A tree with a trunk under a crown of leaves, or a bush."""
    rng, color = pen.canvas.rng, _leaf_color(pen.canvas.rng)
    kind = rng.random()
    pen.canvas.shadow(*pen.at(0, 0), 1.6 * pen.scale, 0.4 * pen.scale)
    if kind < 0.35:  # bush
        size, places = rng.uniform(0.5, 1.0), ((-0.9, 0.5), (0.0, 0.8), (0.8, 0.5))
        _draw_leaves(pen, [(size * x, size * y, size * rng.uniform(0.6, 0.9)) for x, y in places], color)
        return
    trunk = rng.uniform(1.2, 2.2)
    pen.limb((0, 0), (0, trunk + 0.8), rng.uniform(0.3, 0.5), pick_color(rng, (0.04, 0.1), (0.2, 0.5), (0.2, 0.45)))
    if kind < 0.55:  # conifer
        discs = [(0.0, trunk + 0.85 * k, 1.15 - 0.21 * k) for k in range(5)]
    else:
        discs = [(rng.uniform(-1.2, 1.2), trunk + rng.uniform(0.4, 2.2), rng.uniform(0.8, 1.2)) for _ in range(5)]
        discs.append((0.0, trunk + 1.0, 1.2))
    _draw_leaves(pen, discs, color)


def _leaf_color(rng: np.random.Generator) -> Color:
    if rng.random() < 0.2:  # autumn
        return pick_color(rng, (0.0, 0.13), (0.5, 0.8), (0.45, 0.75))
    return pick_color(rng, (0.2, 0.42), (0.3, 0.75), (0.22, 0.55))


def _draw_leaves(pen: Pen, discs: list[tuple[float, float, float]], color: Color) -> None:
    """The union of discs ``(x, y, radius)`` with a ragged edge, lit from above and mottled."""
    canvas = pen.canvas
    circles = [(*pen.at(x, y), radius * pen.scale) for x, y, radius in discs]
    left, top = (min(c[axis] - 1.2 * c[2] for c in circles) for axis in (0, 1))
    right, bottom = (max(c[axis] + 1.2 * c[2] for c in circles) for axis in (0, 1))
    window = canvas.window(left, top, right, bottom)
    inside = np.full((len(window.y), len(window.x)), -np.inf, dtype=np.float32)
    for x, y, radius in circles:
        np.maximum(inside, ellipse(window, x, y, radius, radius), out=inside)
    cell = max(0.28 * pen.scale, 1.5)
    mottle = smooth_noise(
        canvas.rng, (window.y - window.y.min(initial=1e6)) / cell, (window.x - window.x.min(initial=1e6)) / cell
    )
    height = (bottom - window.y) / (bottom - top)
    canvas.paint(window, inside + 0.6 * cell * mottle, color, pen.segment, 0.65 + 0.5 * height + 0.3 * mottle)


def _depth(canvas: Canvas, window: Window) -> Float32[np.ndarray, "h 1"]:
    """A coordinate of the ground that grows quickly far away, so that textures get finer towards the horizon."""
    return np.log1p(14 * (window.y - canvas.horizon) / canvas.height, dtype=np.float32)
