"""Dots with intervals as SVG, by plain text: the same numbers give the same bytes. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from benchmarks.experiments.summary import Estimate

Bars = Sequence[tuple[str, Sequence[tuple[str, Estimate]]]]
"""Rows (arms), each with its points (test, estimate)."""

COLOURS = ("#1b5e9b", "#c2571a", "#2e7d4f", "#7b4aa0", "#8a6d1d")
LEFT, WIDTH, RIGHT, TOP, LINE, GAP = 130, 420, 20, 44, 13, 10


def intervals(title: str, bars: Bars) -> str:
    """Accuracy 0 to 1 on the x axis, one line for each arm and test."""
    tests = [name for name, _ in bars[0][1]]
    rows = sum(len(points) * LINE + GAP for _, points in bars)
    height = TOP + rows + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + RIGHT} {height}" '
        'font-family="sans-serif" font-size="11">',
        f"<title>{escape(title)}</title>",
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        *_legend(tests),
        *_axis(TOP + rows),
    ]
    y = TOP
    for name, points in bars:
        middle = y + len(points) * LINE / 2
        parts.append(f'<text x="{LEFT - 10}" y="{middle + 4:.0f}" text-anchor="end">{escape(name)}</text>')
        for at, (_, point) in enumerate(points):
            parts += _point(point, y + at * LINE + LINE / 2, COLOURS[at % len(COLOURS)])
        y += len(points) * LINE + GAP
    return "\n".join([*parts, "</svg>"]) + "\n"


def _legend(tests: Sequence[str]) -> list[str]:
    parts, x = [], LEFT
    for at, test in enumerate(tests):
        parts.append(f'<circle cx="{x}" cy="16" r="4" fill="{COLOURS[at % len(COLOURS)]}"/>')
        parts.append(f'<text x="{x + 8}" y="20">{escape(test)}</text>')
        x += 84
    return parts


def _axis(bottom: int) -> list[str]:
    parts = []
    for tenth in range(0, 11, 2):
        x = _x(tenth / 10)
        parts.append(f'<line x1="{x}" y1="{TOP - 8}" x2="{x}" y2="{bottom}" stroke="#dddddd"/>')
        parts.append(f'<text x="{x}" y="{bottom + 16}" text-anchor="middle">{tenth / 10:.1f}</text>')
    return parts


def _point(point: Estimate, y: float, colour: str) -> list[str]:
    parts = []
    if point.low is not None and point.high is not None:
        low, high = _x(max(0.0, point.low)), _x(min(1.0, point.high))
        parts.append(f'<line x1="{low}" y1="{y}" x2="{high}" y2="{y}" stroke="{colour}" stroke-width="2"/>')
    parts.append(f'<circle cx="{_x(point.mean)}" cy="{y}" r="4" fill="{colour}"/>')
    return parts


def _x(share: float) -> float:
    return round(LEFT + WIDTH * share, 1)
