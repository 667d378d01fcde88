"""The before/after table of the report: counts to rates, with intervals.

Intervals are Wilson's score intervals at 95 %. The interval of a change is Newcombe's, from the two
Wilson intervals (Statistics in Medicine 17, 1998, method 10); it takes the two sets of answers as
independent, which is cautious here, where the same items are asked before and after.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

Z95 = 1.959963984540054
ROLES = (
    ("before", "Student before", 6),
    ("teacher", "Teacher, privileged", 4),
    ("after", "Student after", 1),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """`correct` of `n` answers; `low` and `high` bound the rate at 95 %."""

    correct: int
    n: int
    low: float
    high: float

    @property
    def value(self) -> float:
        return self.correct / self.n


def rate_of(counts: Mapping[str, Any] | None) -> Rate | None:
    """The rate of `{"n": ..., "correct": ...}`; None where nothing was asked."""
    if not counts or not counts.get("n"):
        return None
    low, high = wilson(counts["correct"], counts["n"])
    return Rate(correct=counts["correct"], n=counts["n"], low=low, high=high)


def wilson(correct: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of correct/n; n above 0."""
    p, z2 = correct / n, Z95 * Z95
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def change_interval(before: Rate, after: Rate) -> tuple[float, float]:
    """Newcombe's 95 % interval of after - before."""
    change = after.value - before.value
    down = math.hypot(after.value - after.low, before.high - before.value)
    up = math.hypot(after.high - after.value, before.value - before.low)
    return change - down, change + up


def eval_table(results: Mapping[str, Any]) -> str:
    """The section's HTML; a sentence when nothing was evaluated yet."""
    overall = {role: rate_of(results.get(role)) for role, _, _ in ROLES}
    if not any(overall.values()):
        return '<p class="empty">No evaluation yet: the run has no eval.json.</p>'
    names = sorted({name for role, _, _ in ROLES for name in _by_dataset(results, role)})
    rows = [_row("All", overall, css="all")]
    for name in names:
        rates = {role: rate_of(_by_dataset(results, role).get(name)) for role, _, _ in ROLES}
        rows.append(_row(name, rates, css=""))
    heads = "".join(
        f'<th scope="col"><i class="key c{colour}"></i>{title}</th>' for _, title, colour in ROLES
    )
    return (
        '<div class="wide"><table class="evals"><thead><tr><th scope="col">Held-out items</th>'
        f'{heads}<th scope="col">Change</th><th scope="col" class="plot">0 to 100 %</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>{_notes(results, overall)}"
    )


def gap_closed(overall: Mapping[str, Rate | None]) -> float | None:
    """(after - before) / (teacher - before); None without a gap to close."""
    before, teacher, after = (overall.get(role) for role in ("before", "teacher", "after"))
    if not before or not teacher or not after or teacher.value <= before.value:
        return None
    return (after.value - before.value) / (teacher.value - before.value)


def _by_dataset(results: Mapping[str, Any], role: str) -> Mapping[str, Any]:
    return (results.get(role) or {}).get("by_dataset") or {}


def _row(name: str, rates: Mapping[str, Rate | None], css: str) -> str:
    cells = "".join(f"<td>{_rate_cell(rates[role])}</td>" for role, _, _ in ROLES)
    asked = [rate.n for rate in rates.values() if rate]
    return (
        f'<tr class="{css}"><th scope="row">{escape(name)}<small>n = {max(asked, default=0):,}</small></th>'
        f"{cells}"
        f'<td>{_change_cell(rates["before"], rates["after"])}</td><td class="plot">{_plot(rates)}</td></tr>'
    )


def _rate_cell(rate: Rate | None) -> str:
    if rate is None:
        return '<span class="none">not asked</span>'
    return (
        f"<b>{rate.value:.1%}</b><small>[{100 * rate.low:.1f}, {100 * rate.high:.1f}] "
        f"&middot; {rate.correct:,} of {rate.n:,}</small>"
    )


def _change_cell(before: Rate | None, after: Rate | None) -> str:
    if before is None or after is None:
        return '<span class="none">&ndash;</span>'
    low, high = change_interval(before, after)
    css = "up" if low > 0 else "down" if high < 0 else "even"
    return (
        f'<b class="{css}">{100 * (after.value - before.value):+.1f}</b>'
        f"<small>points [{100 * low:+.1f}, {100 * high:+.1f}]</small>"
    )


def _plot(rates: Mapping[str, Rate | None]) -> str:
    """Each rate as a dot with its interval, on one scale from 0 to 1."""
    marks = [f'<line class="grid" x1="{x}" x2="{x}" y1="0" y2="40"/>' for x in (5, 55, 105, 155, 205)]
    for place, (role, _, colour) in enumerate(ROLES):
        rate = rates[role]
        if rate is None:
            continue
        y, left, right = 8 + 12 * place, 5 + 200 * rate.low, 5 + 200 * rate.high
        marks.append(f'<line class="line c{colour}" x1="{left:.1f}" x2="{right:.1f}" y1="{y}" y2="{y}"/>')
        marks.append(f'<circle class="dot c{colour}" cx="{5 + 200 * rate.value:.1f}" cy="{y}" r="3.5"/>')
    return f'<svg viewBox="0 0 210 40" role="img" aria-label="rates with intervals">{"".join(marks)}</svg>'


def _notes(results: Mapping[str, Any], overall: Mapping[str, Rate | None]) -> str:
    closed = gap_closed(overall)
    said = []
    if closed is not None:
        said.append(
            f"The student closed {closed:.0%} of the gap to the teacher that sees the privileged context."
        )
    valid = [
        f"{title.lower()} {counts['format_valid'] / counts['n']:.1%}"
        for role, title, _ in ROLES
        if (counts := results.get(role)) and counts.get("n") and "format_valid" in counts
    ]
    if valid:
        said.append(f"Answers in the asked form: {', '.join(valid)}.")
    said.append(
        "Brackets: Wilson 95 % intervals; of a change: Newcombe 95 %, as if the answers were independent."
    )
    return f'<p class="note">{escape(" ".join(said))}</p>'
