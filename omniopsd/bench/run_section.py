"""The benchmark's part of a run's own report: scores by step, and which checkpoint was chosen on what."""

from __future__ import annotations

from html import escape
from pathlib import Path

from omniopsd.bench.run_results import SELECTED_ON_TEST, read_results
from omniopsd.report_charts import Series, line_chart

COLOURS = 6


def bench_section(run: Path) -> str:
    """HTML of the section; empty text when the run has no benchmark scores. Raises RunResultsError."""
    results = read_results(run)
    steps = {int(name): result for name, result in results.get("steps", {}).items()}
    if not steps:
        return ""
    what = "validation" if results["split"] == "val" else "test"
    note = f"{what} clips ({sum(results['sets'].values())} of {len(results['sets'])} sets), labels by fixed rules"
    mean = Series(name="mean", points=[(step, result["score"]) for step, result in steps.items()], colour=0)
    sets = [
        Series(
            name=name,
            points=[(step, result["scores"][name]) for step, result in steps.items()],
            colour=1 + at % COLOURS,
        )
        for at, name in enumerate(results["sets"])
    ]
    charts = line_chart("Mean score", note, [mean], from_zero=True)
    charts += line_chart("Score of each set", note, sets, from_zero=True)
    best = results.get("best")
    chosen = "" if best is None else f"The checkpoint of step {best} scored best and is kept. "
    if best is not None and results["split"] == "test":
        chosen += SELECTED_ON_TEST
    return f'<div class="charts">{charts}</div><p class="note">{escape(chosen)}</p>'
