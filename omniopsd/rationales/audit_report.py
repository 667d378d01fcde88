"""An audit for people: a table for the terminal, a page with charts, and the warning. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from rich.table import Table

from omniopsd.rationales.audit_counts import MODES
from omniopsd.report import POLICY

STYLE = Path(__file__).parent.parent / "report.css"
MEANING = {
    "none": "control: what the student sees",
    "label": "the bare answer",
    "rationale": "the evidence",
    "redacted": "the evidence without the answer's words",
    "shuffled": "control: another sample's evidence",
}


def audit_table(result: Mapping[str, Any]) -> Table:
    """Overall, then each data set and modality where there are several: one line for each mode."""
    table = Table(title=f"audit of {result['n']} samples: {result['model']}", title_justify="left", box=None)
    for name in ("", "privilege", "accuracy", "gain", "95 %", "|log q - log p|", "log q - log p"):
        table.add_column(name, justify="left" if name in ("", "privilege") else "right", no_wrap=True)
    for part, modes in parts(result):
        for mode in MODES:
            one = modes[mode]
            first = f"{part} (n = {one['n']}, student {one['student']:.3f})" if mode == MODES[0] else ""
            table.add_row(
                first,
                mode,
                f"{one['accuracy']:.3f}",
                f"{one['gain']:+.3f}",
                f"{one['low']:+.2f} to {one['high']:+.2f}",
                f"{one['gap']:.3f}",
                f"{one['signed_gap']:+.3f}",
            )
    return table


def parts(result: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """All samples, and the splits that split anything."""
    found: list[tuple[str, Mapping[str, Any]]] = [("all", result["modes"])]
    for split in ("by_dataset", "by_modality"):
        if len(result[split]) > 1:
            found += list(result[split].items())
    return found


def no_gain(modes: Mapping[str, Any], privilege: str) -> str:
    """Why this privilege is not worth distilling, as a sentence; empty when it is."""
    gain, shuffled = modes[privilege]["gain"], modes["shuffled"]["gain"]
    if gain <= 0:
        return (
            f"under the privilege {privilege} the teacher is no better than the student (gain {gain:+.3f}); there is "
            "nothing to distil"
        )
    if shuffled >= gain:
        return (
            f"another sample's rationale helps as much ({shuffled:+.3f}) as the own {privilege} ({gain:+.3f}); the "
            "gain does not come from the evidence"
        )
    return ""


def warnings(result: Mapping[str, Any]) -> list[str]:
    """What must be said before anybody trains with this evidence, overall first, then by part."""
    said = [(part, no_gain(modes, result["privilege"])) for part, modes in parts(result)]
    return [f"{part}: {why}" for part, why in said if why]


def audit_page(result: Mapping[str, Any]) -> str:
    """One self-contained page in the style of the run report: charts, table, warning."""
    told = "".join(f'<p class="note"><b>Warning.</b> {escape(line)}</p>' for line in warnings(result))
    charts = _bars(
        "Gain in accuracy", "Teacher with this privilege minus student; 95 % intervals.", result, "gain"
    ) + _bars("Tokens moved", "Mean |log q - log p| of the student's own tokens, in nats.", result, "gap")
    rows = "".join(_rows(part, modes) for part, modes in parts(result))
    head = "".join(
        f"<th>{name}</th>"
        for name in ("", "Privilege", "Accuracy", "Gain", "95 %", "Gap", "Signed gap", "Tokens")
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Audit of rationales</title><style>{STYLE.read_text(encoding='utf-8')}</style></head><body><main>"
        f"<h1>What the evidence is worth</h1><p>{escape(str(result['model']))}, {result['n']} samples of "
        f"{escape(str(result['data']))}; {result['left_out']} without label or rationale left out.</p>{told}"
        f'<div class="charts">{charts}</div><div class="wide"><table class="checks"><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div></main></body></html>\n"
    )


def _rows(part: str, modes: Mapping[str, Any]) -> str:
    lines = []
    for mode in MODES:
        one = modes[mode]
        first = (
            f"{escape(part)}<small>n = {one['n']}, student {one['student']:.1%}</small>"
            if mode == MODES[0]
            else ""
        )
        lines.append(
            f'<tr><th scope="row">{first}</th><td>{mode}<small>{MEANING[mode]}</small></td><td>{one["accuracy"]:.1%}</td>'
            f"<td><b>{100 * one['gain']:+.1f}</b></td><td>{100 * one['low']:+.1f} to {100 * one['high']:+.1f}</td>"
            f"<td>{one['gap']:.3f}</td><td>{one['signed_gap']:+.3f}</td><td>{one['tokens']:,}</td></tr>"
        )
    return "".join(lines)


WIDTH, ROW, LEFT, TOP = 380, 30, 84, 14


def _bars(title: str, note: str, result: Mapping[str, Any], key: str) -> str:
    """One horizontal bar for each mode, from 0; the gain's interval as a line."""
    modes = result["modes"]
    edges = [
        modes[mode][name] for mode in MODES for name in ([key, "low", "high"] if key == "gain" else [key])
    ]
    low, high = min(0.0, *edges), max(0.0, *edges, 1e-9)
    high += (high - low) * 0.14  # room for the number
    height = TOP + ROW * len(MODES)

    def x(value: float) -> float:
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - 8)

    marks = [f'<line class="grid" x1="{x(0):.1f}" x2="{x(0):.1f}" y1="4" y2="{height}"/>']
    for place, mode in enumerate(MODES):
        value, y = modes[mode][key], TOP + ROW * place
        left, right = sorted((x(0), x(value)))
        marks.append(f'<text x="{LEFT - 8}" y="{y + 13}" text-anchor="end">{mode}</text>')
        marks.append(
            f'<rect class="band c{1 if mode == "rationale" else 4}" x="{left:.1f}" y="{y + 2}" '
            f'width="{max(1.0, right - left):.1f}" height="14"/>'
        )
        end = right
        if key == "gain":
            one = modes[mode]
            end = max(end, x(one["high"]))
            marks.append(
                f'<line class="line c6" x1="{x(one["low"]):.1f}" x2="{x(one["high"]):.1f}" y1="{y + 9}" y2="{y + 9}"/>'
            )
        shown = f"{100 * value:+.1f}" if key == "gain" else f"{value:.3f}"
        marks.append(f'<text x="{min(end + 4, WIDTH - 40):.1f}" y="{y + 13}">{shown}</text>')
    return (
        f'<figure class="chart"><figcaption><h3>{escape(title)}</h3><p>{escape(note)}</p></figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">{"".join(marks)}</svg></figure>'
    )
