"""Charts of values over training steps as inline SVG, for the report."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_MOST_POINTS = 600
"""Points of a line in a chart; more would make the page heavy and not be seen."""
_COLORS_OF_LINES = 6
_Point = tuple[int | float, int | float]
_WIDTH, _HEIGHT = 520, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 30, 10, 30


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a chart.

    Attributes:
        name: For the key; may be empty where a chart has one line.
        points: ``(step, value)`` by step. Values that are not finite leave a gap.
    """

    name: str
    points: Sequence[_Point]


@dataclass(frozen=True, slots=True)
class Curve:
    """A chart of values over training steps.

    Attributes:
        title: What is shown.
        series: Its lines.
    """

    title: str
    series: Sequence[Series]


def draw_curves(curves: Sequence[Curve]) -> str:
    """Charts as a section of a page; nothing where there is nothing to draw."""
    charts = "\n".join(chart for chart in map(_chart, curves) if chart)
    return f"<section>\n<h2>Training</h2>\n<div class='curves'>\n{charts}\n</div>\n</section>" if charts else ""


def _chart(curve: Curve) -> str:
    """One chart as inline SVG, coloured by the style sheet so that it follows light and dark."""
    points = [point for series in curve.series for point in series.points if _finite(point)]
    if not points:
        return ""
    steps, values = _ticks([float(step) for step, _ in points]), _ticks([float(value) for _, value in points])
    grid = "".join(
        f"<line class='grid' x1='{_LEFT}' x2='{_WIDTH - _RIGHT}' y1='{y:.1f}' y2='{y:.1f}'/>"
        f"<text x='{_LEFT - 8}' y='{y + 4:.1f}' text-anchor='end'>{value:,.6g}</text>"
        for value, y in ((value, _y(value, values)) for value in values)
    ) + "".join(
        f"<text x='{_x(step, steps):.1f}' y='{_HEIGHT - 8}' text-anchor='middle'>{step:,.6g}</text>" for step in steps
    )
    lines = "".join(
        f"<polyline class='series-{number % _COLORS_OF_LINES}' points='{run}'/>"
        for number, series in enumerate(curve.series)
        for run in _runs(series, steps, values)
    )
    return (
        f"<figure class='curve card'>\n<figcaption>{escape(curve.title)}</figcaption>\n"
        f"<svg viewBox='0 0 {_WIDTH} {_HEIGHT}' role='img' aria-label='{escape(curve.title)}'>{grid}{lines}</svg>\n"
        f"{_keys(curve.series)}</figure>"
    )


def _keys(series: Sequence[Series]) -> str:
    keys = "".join(
        f"<li><i class='series-{number % _COLORS_OF_LINES}'></i>{escape(line.name)}</li>"
        for number, line in enumerate(series)
        if line.name
    )
    return f"<ul class='keys'>{keys}</ul>\n" if keys else ""


def _runs(series: Series, steps: Sequence[float], values: Sequence[float]) -> list[str]:
    """The line as polylines, broken where a value is not finite."""
    stride = math.ceil(len(series.points) / _MOST_POINTS) or 1
    thinned = [*series.points[:-1:stride], *series.points[-1:]]
    runs: list[list[str]] = [[]]
    for point in thinned:
        if _finite(point):
            runs[-1].append(f"{_x(float(point[0]), steps):.1f},{_y(float(point[1]), values):.1f}")
        elif runs[-1]:
            runs.append([])
    # A point alone is drawn as a dot: a line from it to itself, with round ends.
    return [" ".join(run if len(run) > 1 else run * 2) for run in runs if run]


def _finite(point: _Point) -> bool:
    return math.isfinite(point[0]) and math.isfinite(point[1])


def _x(step: float, ticks: Sequence[float]) -> float:
    return _LEFT + (step - ticks[0]) / (ticks[-1] - ticks[0]) * (_WIDTH - _LEFT - _RIGHT)


def _y(value: float, ticks: Sequence[float]) -> float:
    return _HEIGHT - _BOTTOM - (value - ticks[0]) / (ticks[-1] - ticks[0]) * (_HEIGHT - _TOP - _BOTTOM)


def _ticks(values: Sequence[float]) -> list[float]:
    """Three to eight round numbers at even distance that span the values."""
    low, high = min(values), max(values)
    if high - low <= max(1e-9 * max(abs(low), abs(high)), 1e-12):
        margin = abs(low) / 2 if abs(low) > 1e-9 else 0.5
        low, high = low - margin, high + margin
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= 0.999 * rough)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]
