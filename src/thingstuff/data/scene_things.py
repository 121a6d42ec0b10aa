"""The things of the procedural scenes: one function for each kind.

Each draws with a ``Pen`` that stands at the thing's foot and measures in metres.
"""

import numpy as np

from thingstuff.data.scene_canvas import Color, Pen, ellipse, pick_color, rgb

ANY_HUE = (0.0, 1.0)
DARK = rgb(28, 28, 32)
RUBBER = rgb(34, 34, 36)
PALE = rgb(235, 235, 228)


def draw_car(pen: Pen) -> None:
    """A car from the side, from the front or from behind: body, cabin, windows, wheels, lights."""
    rng = pen.canvas.rng
    paint = pick_color(rng, ANY_HUE, (0.0, 0.85), (0.2, 0.95))
    glass = 0.45 * pen.canvas.haze + 0.15 * DARK
    if rng.random() < 0.65:
        _draw_car_side(pen, paint, glass)
    else:
        _draw_car_end(pen, paint, glass)


def _draw_car_side(pen: Pen, paint: Color, glass: Color) -> None:
    rng = pen.canvas.rng
    half, roof = rng.uniform(1.8, 2.3), rng.uniform(1.4, 1.6)
    back, front = -0.92 * half, rng.uniform(0.3, 0.75) * half  # of the cabin
    if rng.random() < 0.6:
        back = rng.uniform(-0.75, -0.55) * half
    else:
        roof += rng.uniform(0.1, 0.5)
    pen.canvas.shadow(*pen.at(0, 0.02), 1.1 * half * pen.scale, 0.3 * pen.scale, 0.55)
    pen.polygon([(back, 0.8), (back + 0.25, roof), (front - 0.45, roof), (front + 0.1, 0.8)], 0.92 * paint)
    pen.box(-half, 0.28, half, 0.95, paint, radius=0.22)
    pen.box(-half + 0.05, 0.28, half - 0.05, 0.45, 0.55 * paint)
    middle = (back + front) / 2
    pen.polygon(
        [(back + 0.18, 0.92), (back + 0.36, roof - 0.12), (middle - 0.05, roof - 0.12), (middle - 0.05, 0.92)], glass
    )
    pen.polygon(
        [(middle + 0.05, 0.92), (middle + 0.05, roof - 0.12), (front - 0.5, roof - 0.12), (front - 0.1, 0.92)], glass
    )
    for wheel in (-0.6 * half, 0.6 * half):
        pen.ellipse(wheel, 0.34, 0.36, 0.36, RUBBER)
        pen.ellipse(wheel, 0.34, 0.17, 0.17, rgb(150, 150, 155))
    pen.box(half - 0.22, 0.62, half, 0.8, rgb(255, 240, 190))
    pen.box(-half, 0.62, -half + 0.16, 0.82, rgb(200, 30, 30))


def _draw_car_end(pen: Pen, paint: Color, glass: Color) -> None:
    rng = pen.canvas.rng
    half, roof = rng.uniform(0.85, 1.0), rng.uniform(1.4, 1.75)
    lamp = (rgb(255, 244, 205), rgb(205, 30, 30))[rng.integers(2)]
    pen.canvas.shadow(*pen.at(0, 0.02), 1.25 * half * pen.scale, 0.3 * pen.scale, 0.55)
    for wheel in (-1, 1):
        pen.box(wheel * (half - 0.3), 0, wheel * (half - 0.05), 0.5, RUBBER)
    pen.polygon([(-half + 0.08, 0.85), (-half + 0.3, roof), (half - 0.3, roof), (half - 0.08, 0.85)], 0.9 * paint)
    pen.polygon([(-half + 0.2, 0.92), (-half + 0.38, roof - 0.1), (half - 0.38, roof - 0.1), (half - 0.2, 0.92)], glass)
    pen.box(-half, 0.25, half, 0.95, paint, radius=0.15)
    pen.box(-half * 0.5, 0.32, half * 0.5, 0.55, 0.45 * paint)
    for side in (-1, 1):
        pen.box(side * (half - 0.36), 0.62, side * (half - 0.06), 0.82, lamp)


def draw_person(pen: Pen) -> None:
    """A standing or walking person: legs or a skirt, torso, arms, head and hair."""
    rng = pen.canvas.rng
    pen = Pen(pen.canvas, pen.x, pen.y, pen.scale * rng.uniform(0.85, 1.1), pen.segment, pen.flip)
    skin = pick_color(rng, (0.04, 0.08), (0.3, 0.6), (0.4, 0.95))
    shirt = pick_color(rng, ANY_HUE, (0.0, 0.85), (0.25, 0.95))
    trousers = pick_color(rng, ANY_HUE, (0.0, 0.6), (0.12, 0.7))
    stride, swing = rng.uniform(0.06, 0.3), rng.uniform(0.1, 0.3)
    pen.canvas.shadow(*pen.at(0, 0), 0.45 * pen.scale, 0.16 * pen.scale)
    pen.limb((-0.08, 0.85), (-stride, 0.05), 0.19, 0.85 * trousers)
    pen.limb((0.08, 0.85), (stride, 0.05), 0.19, trousers)
    pen.limb((-0.2, 1.35), (-0.22 - swing / 2, 0.85), 0.13, 0.8 * shirt)
    if rng.random() < 0.25:
        pen.polygon([(-0.14, 1.0), (0.14, 1.0), (0.3, 0.5), (-0.3, 0.5)], trousers)
    pen.polygon([(-0.25, 1.45), (0.25, 1.45), (0.18, 0.8), (-0.18, 0.8)], shirt)
    pen.limb((0.2, 1.35), (0.22 + swing, 0.85), 0.13, 0.9 * shirt)
    pen.ellipse(0, 1.66, 0.16, 0.17, pick_color(rng, (0.02, 0.13), (0.2, 0.6), (0.1, 0.6)))
    pen.ellipse(0.03, 1.6, 0.14, 0.16, skin)


def draw_ball(pen: Pen) -> None:
    """A round ball in one to three colours: stripes, quarters, a dot or plain."""
    canvas, rng = pen.canvas, pen.canvas.rng
    radius = max(rng.uniform(0.35, 0.75) * pen.scale, 4.2 * canvas.unit)
    x, y = pen.x, pen.y - radius
    canvas.shadow(x, pen.y, 1.1 * radius, 0.35 * radius, 0.5)
    window = canvas.window(x - radius, y - radius, x + radius, y + radius)
    u, v = (window.x - x) / radius, (window.y - y) / radius
    cosine, sine = (f(rng.uniform(0, 6.3)) for f in (np.cos, np.sin))
    across, along = np.float32(cosine) * u + np.float32(sine) * v, np.float32(cosine) * v - np.float32(sine) * u
    pattern = (across % 0.8 < 0.4, across * along > 0, across**2 + along**2 < 0.25, np.zeros_like(across, dtype=bool))[
        rng.integers(4)
    ]
    first, second = pick_color(rng, ANY_HUE, (0.4, 0.95), (0.6, 1.0)), pick_color(rng, ANY_HUE, (0.0, 0.9), (0.3, 1.0))
    shade = 1.12 - 0.42 * ((u + 0.35) ** 2 + (v + 0.4) ** 2)
    canvas.paint(window, ellipse(window, x, y, radius, radius), np.where(pattern, first, second), pen.segment, shade)
    pen.canvas.blend(
        window, np.minimum(ellipse(window, x - 0.35 * radius, y - 0.4 * radius, 0.2 * radius, 0.2 * radius), 0.1), PALE
    )


def draw_box(pen: Pen) -> None:
    """A cardboard box, a crate or a parcel: front, side and top face."""
    rng = pen.canvas.rng
    kind = rng.integers(3)
    color = pick_color(rng, (0.05, 0.11) if kind < 2 else ANY_HUE, (0.3, 0.7), (0.45, 0.9))
    half, height, reach = rng.uniform(0.45, 0.8), rng.uniform(0.7, 1.4), rng.uniform(0.25, 0.5)
    rise = 0.55 * reach
    pen.canvas.shadow(*pen.at(reach / 2, 0.05), (1.3 * half + reach) * pen.scale, 0.25 * pen.scale, 0.5)
    pen.polygon([(half, 0), (half, height), (half + reach, height + rise), (half + reach, rise)], 0.6 * color)
    pen.polygon(
        [(-half, height), (half, height), (half + reach, height + rise), (reach - half, height + rise)], 1.2 * color
    )
    pen.box(-half, 0, half, height, color)
    if kind == 0:  # tape
        pen.box(-0.08, 0.55 * height, 0.08, height, 1.25 * color)
    elif kind == 1:  # planks
        for bar in (0.0, 0.42, 0.84):
            pen.box(-half, bar * height, half, (bar + 0.16) * height, 0.75 * color)
    else:  # ribbon
        ribbon = pick_color(rng, ANY_HUE, (0.1, 0.9), (0.5, 1.0))
        pen.box(-0.1, 0, 0.1, height, ribbon)
        pen.box(-half, 0.42 * height, half, 0.58 * height, ribbon)


def draw_bird(pen: Pen) -> None:
    """A flying bird with a wing span of one metre of the pen: body, head, beak, tail, two wings."""
    rng = pen.canvas.rng
    plumage = pick_color(rng, ANY_HUE, (0.0, 0.35), (0.08, 0.95))
    wings = plumage * rng.uniform(0.55, 0.95)
    lift, tip = rng.uniform(0.02, 0.3), rng.uniform(-0.12, 0.22)
    pen.polygon([(-0.15, 0.03), (-0.36, 0.1), (-0.34, -0.06)], wings)
    for side in (-1, 1):
        root = 0.03 * side
        pen.polygon(
            [(root - 0.14, 0), (root + 0.13, 0), (0.3 * side + 0.07, lift + 0.02), (0.3 * side - 0.12, lift)], wings
        )
        pen.polygon(
            [(0.27 * side - 0.11, lift), (0.27 * side + 0.08, lift + 0.02), (0.52 * side - 0.05, lift + tip)],
            0.85 * wings,
        )
    pen.ellipse(0, 0, 0.22, 0.1, plumage)
    pen.ellipse(0.21, 0.06, 0.09, 0.08, plumage)
    pen.polygon([(0.27, 0.09), (0.38, 0.05), (0.27, 0.02)], rgb(235, 160, 40))


def draw_boat(pen: Pen) -> None:
    """A sailing boat or a motor boat: hull with a stripe, sails on a mast or a cabin with windows."""
    rng = pen.canvas.rng
    half = rng.uniform(1.7, 2.7)
    hull, stripe = pick_color(rng, ANY_HUE, (0.0, 0.85), (0.25, 0.95)), pick_color(rng, ANY_HUE, (0.0, 0.9), (0.3, 1.0))
    pen.canvas.shadow(*pen.at(0, -0.1), 1.1 * half * pen.scale, 0.35 * pen.scale, 0.45)
    if rng.random() < 0.6:
        top, cloth = rng.uniform(1.3, 1.9) * half, pick_color(rng, ANY_HUE, (0.0, 0.6), (0.7, 1.0))
        pen.limb((0.1, 0.4), (0.1, top), 0.12, rgb(110, 85, 60))
        pen.polygon([(0.0, 0.85), (0.0, top), (-0.8 * half, 0.85)], cloth)
        pen.polygon([(0.2, 0.85), (0.2, 0.85 * top), (0.75 * half, 0.8)], 0.85 * cloth)
    else:
        roof = rng.uniform(1.4, 1.9)
        pen.box(-0.5 * half, 0.5, 0.3 * half, roof, PALE * rng.uniform(0.6, 1.0))
        pen.box(-0.42 * half, 1.0, 0.22 * half, roof - 0.2, 0.4 * pen.canvas.haze)
        pen.box(-0.58 * half, roof - 0.05, 0.4 * half, roof + 0.12, stripe)
    pen.polygon([(-half, 0.6), (half, 0.75), (0.72 * half, -0.12), (-0.85 * half, -0.12)], hull)
    pen.polygon([(-half, 0.62), (half, 0.78), (0.93 * half, 0.5), (-0.97 * half, 0.38)], stripe)
