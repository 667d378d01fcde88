"""report.html: one page that tells a run, built from the files of its folder and from nothing else.

The page is one file: style, curves, frames and sounds are inside, and its own policy forbids it to load
or run anything. It opens without a server, years later, on a machine without this program.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import yaml

from omniopsd import metrics
from omniopsd.bench.run_section import bench_section
from omniopsd.durable import write_durably
from omniopsd.report_curves import Rows, check_section, curve_section, value_at
from omniopsd.report_rollouts import rollout_section
from omniopsd.report_table import ROLES, Rate, eval_table, gap_closed, rate_of
from omniopsd.run_folder import RunFolder

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:"
SUMMARY = (
    ("model", "model.path"), ("steps", "run.steps"), ("samples per step", "run.samples_per_step"),
    ("rollouts per sample", "rollout.rollouts_per_sample"), ("engine", "rollout.engine"),
    ("max policy lag", "rollout.max_policy_lag"), ("divergence", "objective.divergence"),
    ("beta", "objective.beta"), ("support", "objective.support"), ("teacher sees", "teacher.privilege"),
    ("teacher weights", "teacher.weights"), ("EMA decay", "teacher.ema"), ("learning rate", "learner.lr"),
    ("ranks", "learner.ranks"), ("ZeRO stage", "learner.zero_stage"), ("dtype", "model.dtype"),
    ("runtime", "runtime.kind"), ("seed", "run.seed"),
)  # fmt: skip


def build_report(folder: RunFolder) -> Path:
    """Write `report.html` into a run folder and return its path.

    What is not there yet (evaluations, metrics, rollouts) is a sentence in the page. Raises
    RunFolderError when there is no config, MetricsError when the metrics are damaged.
    """
    config = folder.saved_config()
    rows = metrics.read(folder.metrics_path)
    results = folder.read_eval()
    body = "".join(
        (
            _header(folder, config, rows, results),
            _section("result", "Before and after", eval_table(results)),
            _section("curves", "Training", curve_section(rows, results)),
            _section("benchmark", "Benchmark", bench) if (bench := bench_section(folder.path)) else "",
            _section("checks", "Checks", check_section(rows, config)),
            _section("rollouts", "Rollouts", rollout_section(folder.rollouts_path)),
            _section("settings", "Settings", _settings(folder, config)),
        )
    )
    write_durably(folder.report_path, _page(folder.name, body).encode())
    return folder.report_path


def _page(name: str, body: str) -> str:
    style = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(name)} &middot; OmniOPSD run</title><style>{style}</style></head>"
        f"<body><main>{body}</main></body></html>\n"
    )


def _header(folder: RunFolder, config: Mapping[str, Any], rows: Rows, results: Mapping[str, Any]) -> str:
    starts = folder.provenance().get("starts", [])
    facts = [starts[0]["time"].replace("T", " ").replace("+00:00", " UTC")] if starts else []
    facts.append(f"step {rows[-1]['step'] if rows else 0} of {value_at(config, 'run.steps')}")
    if seconds := sum(row.get("seconds", {}).get("step", 0.0) for row in rows):
        facts.append(f"{_duration(seconds)} of training")
    if len(starts) > 1:
        facts.append(f"resumed {len(starts) - 1} times")
    listed = "".join(f"<span>{escape(fact)}</span>" for fact in facts)
    links = "".join(
        f'<a href="#{anchor}">{title}</a>'
        for anchor, title in (("result", "Result"), ("curves", "Training"), ("checks", "Checks"),
                              ("rollouts", "Rollouts"), ("settings", "Settings"))
    )  # fmt: skip
    return (
        f'<header class="top"><p class="brand">OmniOPSD run</p><h1>{escape(folder.name)}</h1>'
        f'<p class="facts">{listed}</p>{_headline(results)}<dl class="summary">{_summary(config)}</dl>'
        f"<nav>{links}</nav></header>"
    )


def _headline(results: Mapping[str, Any]) -> str:
    overall = {role: rate_of(results.get(role)) for role, _, _ in ROLES}
    if not any(overall.values()):
        return ""
    tiles = [_tile(title, overall[role], colour) for role, title, colour in ROLES]
    closed = gap_closed(overall)
    if closed is not None:
        tiles.append(f'<div class="tile"><b>{closed:.0%}</b><span>of the gap closed</span></div>')
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _tile(title: str, rate: Rate | None, colour: int) -> str:
    value = "&ndash;" if rate is None else f"{rate.value:.1%}"
    return f'<div class="tile"><b>{value}</b><span><i class="key c{colour}"></i>{title}</span></div>'


def _summary(config: Mapping[str, Any]) -> str:
    pairs = [(title, value_at(config, key)) for title, key in SUMMARY]
    return "".join(
        f"<div><dt>{title}</dt><dd>{escape(str(value))}</dd></div>"
        for title, value in pairs
        if value is not None
    )


def _settings(folder: RunFolder, config: Mapping[str, Any]) -> str:
    text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
    starts = yaml.safe_dump(folder.provenance().get("starts", []), sort_keys=False, allow_unicode=True)
    return (
        f"<details><summary>config.yaml</summary><pre>{escape(text)}</pre></details>"
        f"<details><summary>Starts, versions and commit</summary><pre>{escape(starts)}</pre></details>"
    )


def _section(anchor: str, title: str, body: str) -> str:
    return f'<section id="{anchor}"><h2>{title}</h2>{body}</section>'


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
