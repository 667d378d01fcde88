"""The curves and checks of the report, from the lines of metrics.jsonl."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from omniopsd.report_charts import Series, line_chart, number, stacked_chart
from omniopsd.report_table import rate_of

Rows = Sequence[Mapping[str, Any]]

STAGES = (("rollout", 1), ("teacher", 4), ("learner", 2), ("push", 3))
GAIN = "Teacher minus student log-probability of the sampled tokens; above 0 the teacher likes them more."
CHECKS = (
    ("Engine and learner on the sampled tokens: difference", "rollout_learner_difference", None),
    (
        "Engine and learner on the probe after a push: difference",
        "probe_difference",
        "weights.probe_tolerance",
    ),
    ("Oldest policy trained on, in versions", "staleness_max", "rollout.max_policy_lag"),
)


def curve_section(rows: Rows, results: Mapping[str, Any]) -> str:
    """All charts that have numbers; a sentence when there are none."""
    if not rows:
        return '<p class="empty">No steps yet: the run has no metrics.jsonl.</p>'
    figures = (*_learning(rows, results), *_answers(rows), *_machine(rows))
    return f'<div class="charts">{"".join(figures)}</div>'


def check_section(rows: Rows, config: Mapping[str, Any]) -> str:
    """A table of the differences that should stay small, with the limits of the config."""
    lines = []
    for title, key, limit_key in CHECKS:
        values = [value for row in rows if (value := value_at(row, key)) is not None]
        if values:
            lines.append(
                _check(title, max(values), values[-1], value_at(config, limit_key) if limit_key else None)
            )
    if not lines:
        return '<p class="empty">No checks were measured.</p>'
    head = "<tr><th>Check</th><th>Largest</th><th>Last</th><th>Limit</th><th></th></tr>"
    table = f'<table class="checks"><thead>{head}</thead><tbody>{"".join(lines)}</tbody></table>'
    return f'<div class="wide">{table}</div>'


def value_at(tree: Mapping[str, Any], key: str) -> Any:
    """The value under a dotted key, or None."""
    value: Any = tree
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _learning(rows: Rows, results: Mapping[str, Any]) -> list[str]:
    accuracy = [_series(rows, "accuracy_train", "training rollouts"), _held_out(rows, results)]
    return [
        line_chart("Loss", "What the optimizer descends.", [_series(rows, "loss")], from_zero=True),
        line_chart("Accuracy", "Share of right answers.", accuracy, percent=True),
        line_chart("Teacher gain", GAIN, [_series(rows, "teacher_gain", colour=4)], from_zero=True),
        line_chart("Divergence", "Per response token.", [_series(rows, "divergence")], from_zero=True),
        line_chart(
            "Divergence by position", "Mean over each eighth of the response.", _by_position(rows),
            x_name="eighth of the response", from_zero=True,
        ),
        line_chart("Gradient norm", "Before clipping.", [_series(rows, "grad_norm")], from_zero=True),
    ]  # fmt: skip


def _answers(rows: Rows) -> list[str]:
    length, entropy = _series(rows, "response_length"), _series(rows, "student_entropy", colour=3)
    return [
        line_chart("Response length", "Tokens, mean of the step.", [length], from_zero=True),
        line_chart("Student entropy", "Nats per token.", [entropy], from_zero=True),
        line_chart(
            "Answers in the asked form",
            "Share of the training rollouts.",
            [_series(rows, "format_rate")],
            percent=True,
        ),
    ]


def _machine(rows: Rows) -> list[str]:
    speeds = [_series(rows, f"tokens_per_second.{name}", name, colour) for name, colour in STAGES[:3]]
    memory = [
        _series(rows, f"peak_bytes.{name}", name, colour, 1e-9)
        for name, colour in (("driver", 6), ("learner", 2))
    ]
    return [
        stacked_chart(
            "Seconds per stage", "Stages can overlap: the stack may pass the line of the whole step.",
            _stage_layers(rows), _series(rows, "seconds.step", "whole step", 0),
        ),
        line_chart("Tokens per second", "While the stage was busy.", speeds, from_zero=True),
        line_chart("Peak memory", "GB.", memory, from_zero=True),
    ]  # fmt: skip


def _held_out(rows: Rows, results: Mapping[str, Any]) -> Series:
    measured = {0: results.get("before"), rows[-1]["step"]: results.get("after")}
    measured |= {int(step): counts for step, counts in (results.get("steps") or {}).items()}
    points = [
        (float(step), rate.value) for step, counts in sorted(measured.items()) if (rate := rate_of(counts))
    ]
    return Series(name="held-out items", points=points, colour=2, dots=True)


def _by_position(rows: Rows) -> list[Series]:
    """The means of up to four stretches of the run, over the parts of a response."""
    rows = [row for row in rows if row.get("divergence_by_position")]
    parts = min(4, len(rows))
    series = []
    for part in range(parts):
        some = rows[part * len(rows) // parts : (part + 1) * len(rows) // parts]
        columns = zip(*(row["divergence_by_position"] for row in some), strict=True)
        points = [(float(index), sum(column) / len(column)) for index, column in enumerate(columns, start=1)]
        name = f"steps {some[0]['step']} to {some[-1]['step']}"
        series.append(Series(name=name, points=points, colour=(6, 3, 2, 1)[part + 4 - parts]))
    return series


def _stage_layers(rows: Rows) -> list[Series]:
    """One layer for each stage that was ever timed; 0 in a step without it, so that all share their x."""
    timed = [row for row in rows if row.get("seconds")]
    layers = []
    for name, colour in STAGES:
        points = [(float(row["step"]), row["seconds"].get(name, 0.0)) for row in timed]
        if any(y for _, y in points):
            layers.append(Series(name=name, points=points, colour=colour))
    return layers


def _series(rows: Rows, key: str, name: str | None = None, colour: int = 1, scale: float = 1.0) -> Series:
    found = [(float(row["step"]), value) for row in rows if (value := value_at(row, key)) is not None]
    return Series(name=name or key, points=[(x, scale * y) for x, y in found], colour=colour)


def _check(title: str, largest: float, last: float, limit: float | None) -> str:
    verdict = "" if limit is None else "over" if largest > limit else "within"
    css = {"over": "wrong", "within": "right", "": ""}[verdict]
    badge = f'<span class="badge {css}">{verdict}</span>' if verdict else ""
    cells = (title, number(largest), number(last), "&ndash;" if limit is None else number(limit), badge)
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
