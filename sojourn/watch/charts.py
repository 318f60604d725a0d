"""Series as pictures: a line of block characters, and an SVG that needs nothing but a browser."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from sojourn import harmless
from sojourn.shorthand import format_number
from sojourn.watch.metrics import Point, Series, thinned

_BLOCKS = "▁▂▃▄▅▆▇█"
WIDTH, HEIGHT = 640, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 30, 28
_LINE = "#2e7bd6"
_FAINT = "#8a8f98"  # reads on white and on black


def sparkline(values: Sequence[float], width: int = 20) -> str:
    """The values as a line of blocks, lowest to highest; empty when there are fewer than two."""
    shown = thinned(values, width)
    if len(shown) < 2:
        return ""
    low, high = min(shown), max(shown)
    if high == low:
        return _BLOCKS[3] * len(shown)
    top = len(_BLOCKS) - 1
    return "".join(_BLOCKS[round((value - low) / (high - low) * top)] for value in shown)


def chart(name: str, series: Series) -> str:
    """One series as an SVG document: a line over steps, or over the order of reports where no steps are."""
    places = _places(series.points)
    across = "step" if series.points and series.points[-1].step is not None else "report"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'font-family="system-ui, sans-serif" font-size="12" fill="{_FAINT}">',
        f'<text x="{_LEFT}" y="18" font-weight="600">{escape(harmless.line(name, harmless.NAME))}</text>',
    ]
    if places:
        parts += _grid(places, across) + _curve(places)
    return "".join(parts) + "</svg>"


Place = tuple[float, float]


def _places(points: Sequence[Point]) -> list[Place]:
    stepped = all(point.step is not None for point in points)
    return [
        (point.step if stepped and point.step is not None else at, point.value)
        for at, point in enumerate(points, start=1)
        if point.value is not None
    ]


def _curve(places: list[Place]) -> list[str]:
    drawn = [_on_paper(place, places) for place in places]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in drawn)
    x, y = drawn[-1]
    return [
        f'<polyline points="{line}" fill="none" stroke="{_LINE}" stroke-width="2" stroke-linejoin="round"/>',
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{_LINE}"/>',
        f'<text x="{WIDTH - _RIGHT}" y="18" text-anchor="end" fill="{_LINE}">{format_number(places[-1][1])}</text>',
    ]


def _grid(places: list[Place], across: str) -> list[str]:
    lines = []
    for value in _ticks([y for _, y in places]):
        _, y = _on_paper((places[0][0], value), places)
        lines.append(
            f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{_FAINT}" opacity="0.3"/>'
            f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{format_number(value)}</text>'
        )
    first, last = places[0][0], places[-1][0]
    below = HEIGHT - 8
    lines.append(f'<text x="{_LEFT}" y="{below}">{across} {format_number(first)}</text>')
    lines.append(f'<text x="{WIDTH - _RIGHT}" y="{below}" text-anchor="end">{format_number(last)}</text>')
    return lines


def _ticks(values: list[float]) -> list[float]:
    """A few round numbers within the range of the values."""
    low, high = min(values), max(values)
    if high == low:
        return [low]
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    unit = next(step * power for step in (1, 2, 5, 10) if step * power >= rough)
    first = math.ceil(low / unit)
    return [float(f"{at * unit:.10g}") for at in range(first, math.floor(high / unit) + 1)]


def _on_paper(place: Place, places: list[Place]) -> Place:
    """Where a place lies on the drawing."""
    xs, ys = [x for x, _ in places], [y for _, y in places]
    across = _share(place[0], min(xs), max(xs))
    up = _share(place[1], min(ys), max(ys))
    return _LEFT + across * (WIDTH - _LEFT - _RIGHT), HEIGHT - _BOTTOM - up * (HEIGHT - _TOP - _BOTTOM)


def _share(value: float, low: float, high: float) -> float:
    return 0.5 if high == low else (value - low) / (high - low)
