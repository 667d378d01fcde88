"""Curves as inline SVG: no script, no file from elsewhere, colours from the page's style sheet.

Series are drawn with the classes `c0` to `c6` of report.css, so light and dark need no second picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 380, 206
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 32
MOST_POINTS = 240  # more than the pixels of a curve can show
MOST_HITS = 80  # places where the pointer finds a number
SMOOTH_FROM = 30  # steps from which a smoothed curve is drawn over the raw one

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One curve: (x, y) points by rising x; `dots` draws points instead of a line."""

    name: str
    points: Points
    colour: int = 1
    dots: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Axes:
    """The ranges of a chart and its ticks, and how to get from values to picture units."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float
    show_y: Callable[[float], str]

    def x(self, value: float) -> float:
        span = (self.x_high - self.x_low) or 1.0
        return LEFT + (value - self.x_low) / span * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        span = (self.y_high - self.y_low) or 1.0
        return HEIGHT - BOTTOM - (value - self.y_low) / span * (HEIGHT - TOP - BOTTOM)


def line_chart(
    title: str,
    note: str,
    series: Sequence[Series],
    *,
    x_name: str = "step",
    percent: bool = False,
    from_zero: bool = False,
) -> str:
    """A figure with curves and a legend; empty text when no series has a point."""
    series = [one for one in series if one.points]
    if not series:
        return ""
    axes = _axes([point for one in series for point in one.points], percent=percent, from_zero=from_zero)
    body = [_grid(axes, x_name)]
    for one in series:
        body.append(_dots(axes, one) if one.dots else _curve(axes, one))
    body.append(_hits(axes, series, x_name))
    return _figure(title, note, "".join(body), _legend(series))


def stacked_chart(title: str, note: str, layers: Sequence[Series], total: Series | None) -> str:
    """A figure of layers on top of each other, which share their x, and a line for the measured total."""
    layers = [one for one in layers if one.points]
    if not layers:
        return ""
    thin = [_thinned(one.points) for one in layers]
    xs = [x for x, _ in thin[0]]
    floor, tops = [0.0] * len(xs), []
    for points in thin:
        floor = [low + max(0.0, y) for low, (_, y) in zip(floor, points, strict=True)]
        tops.append(floor)
    over = list(total.points) if total else []
    axes = _axes([*zip(xs, floor, strict=True), *over], percent=False, from_zero=True)
    body = [_grid(axes, "step"), _bands(axes, xs, layers, tops)]
    shown = list(layers)
    if total and total.points:
        body.append(_path(axes, _thinned(total.points), f"line c{total.colour}"))
        shown.append(total)
    body.append(_hits(axes, shown, "step"))
    return _figure(title, note, "".join(body), _legend(shown))


def smoothed(points: Points) -> Points:
    """A centred running mean over a twentieth of the points, at least 5."""
    half = max(2, len(points) // 40)
    ys = [y for _, y in points]
    windows = (ys[max(0, index - half) : index + half + 1] for index in range(len(ys)))
    return [(x, sum(window) / len(window)) for (x, _), window in zip(points, windows, strict=True)]


def number(value: float) -> str:
    """A short spelling: 0.0123, 3.4, 1,250, 2.5e-07."""
    size = abs(value)
    if size == 0:
        return "0"
    if size >= 1000:
        return f"{value:,.0f}"
    if size < 1e-3:
        return f"{value:.1e}"
    return f"{value:.3g}"


def ticks(low: float, high: float, most: int = 4) -> list[float]:
    """Round values inside [low, high], at most `most` + 1 of them."""
    if high <= low:
        return [low]
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def _axes(points: Points, *, percent: bool, from_zero: bool) -> Axes:
    xs, ys = [x for x, _ in points], [y for _, y in points]
    if percent:
        return Axes(x_low=min(xs), x_high=max(xs), y_low=0.0, y_high=1.0, show_y=lambda value: f"{value:.0%}")
    low, high = min(ys), max(ys)
    low = min(0.0, low) if from_zero else low
    margin = (high - low) * 0.06 or max(abs(high) * 0.1, 1e-6)
    bottom = low if from_zero and low == 0 else low - margin
    return Axes(x_low=min(xs), x_high=max(xs), y_low=bottom, y_high=high + margin, show_y=number)


def _grid(axes: Axes, x_name: str) -> str:
    marks = []
    for value in ticks(axes.y_low, axes.y_high):
        y = axes.y(value)
        marks.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        marks.append(
            f'<text x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{escape(axes.show_y(value))}</text>'
        )
    whole = [value for value in ticks(axes.x_low, axes.x_high) if value == int(value)]
    for value in whole:
        x = axes.x(value)
        anchor = "end" if x > WIDTH - RIGHT - 20 else "middle"
        marks.append(
            f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 14}" text-anchor="{anchor}">{value:,.0f}</text>'
        )
    marks.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 4}" text-anchor="end">{escape(x_name)}</text>')
    return "".join(marks)


def _curve(axes: Axes, one: Series) -> str:
    if len(one.points) == 1:
        return _dots(axes, one)
    raw = _path(axes, _thinned(one.points), f"line c{one.colour}")
    if len(one.points) < SMOOTH_FROM:
        return raw
    faint = raw.replace('class="line', 'class="line faint')
    return faint + _path(axes, _thinned(smoothed(one.points)), f"line c{one.colour}")


def _path(axes: Axes, points: Points, css: str) -> str:
    way = " ".join(f"{axes.x(x):.1f},{axes.y(y):.1f}" for x, y in points)
    return f'<polyline class="{css}" points="{way}"/>'


def _dots(axes: Axes, one: Series) -> str:
    return "".join(
        f'<circle class="dot c{one.colour}" cx="{axes.x(x):.1f}" cy="{axes.y(y):.1f}" r="3.5"/>'
        for x, y in one.points
    )


def _bands(axes: Axes, xs: list[float], layers: Sequence[Series], tops: list[list[float]]) -> str:
    bands, floor = [], [0.0] * len(xs)
    for layer, top in zip(layers, tops, strict=True):
        up = [f"{axes.x(x):.1f},{axes.y(y):.1f}" for x, y in zip(xs, top, strict=True)]
        down = [f"{axes.x(x):.1f},{axes.y(y):.1f}" for x, y in zip(xs, floor, strict=True)]
        bands.append(f'<polygon class="band c{layer.colour}" points="{" ".join([*up, *reversed(down)])}"/>')
        floor = top
    return "".join(bands)


def _hits(axes: Axes, series: Sequence[Series], x_name: str) -> str:
    """Invisible columns that tell their numbers under the pointer."""
    xs = sorted({x for one in series for x, _ in one.points})
    xs = xs[:: max(1, math.ceil(len(xs) / MOST_HITS))]
    width = (WIDTH - LEFT - RIGHT) / max(1, len(xs))
    tables = [(one.name, dict(one.points)) for one in series]
    columns = []
    for x in xs:
        said = [f"{name}: {axes.show_y(table[x])}" for name, table in tables if x in table]
        text = escape(f"{x_name} {x:g}\n" + "\n".join(said))
        left = min(max(axes.x(x) - width / 2, LEFT), WIDTH - RIGHT)
        columns.append(
            f'<rect class="hit" x="{left:.1f}" y="{TOP}" width="{width:.1f}" '
            f'height="{HEIGHT - TOP - BOTTOM}"><title>{text}</title></rect>'
        )
    return "".join(columns)


def _thinned(points: Points) -> Points:
    """Means of neighbours when there are more points than a picture can show."""
    size = math.ceil(len(points) / MOST_POINTS)
    if size <= 1:
        return points
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [
        (sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups
    ]


def _legend(series: Sequence[Series]) -> str:
    if len(series) < 2:
        return ""
    items = "".join(f'<li><i class="key c{one.colour}"></i>{escape(one.name)}</li>' for one in series)
    return f'<ul class="legend">{items}</ul>'


def _figure(title: str, note: str, body: str, legend: str) -> str:
    return (
        f'<figure class="chart"><figcaption><h3>{escape(title)}</h3><p>{escape(note)}</p></figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{body}</svg>'
        f"{legend}</figure>"
    )
