"""What a cache holds: coverage of a data set, lengths, cost, models, refusals, duplicates."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from omniopsd.samples import Sample
from rationale_cache.keys import digest
from rationale_cache.types import RationaleRecord


def cache_stats(records: Iterable[RationaleRecord], samples: Sequence[Sample] = ()) -> dict[str, Any]:
    """All counts as JSON values. Coverage is by sample id: a sample counts once, however many records it has."""
    tally = _Tally()
    for record in records:
        tally.add(record)
    return tally.result() | ({"coverage": _coverage(samples, tally)} if samples else {})


def print_stats(stats: dict[str, Any], console: Console) -> None:
    """The counts as tables for people."""
    if "coverage" in stats:
        _print_coverage(stats["coverage"], console)
    table = Table(
        "data set", "records", "texts", "none", "characters (median / p95 / max)", "tokens", "cost (USD)"
    )
    for name, row in [*stats["datasets"].items(), ("all", stats["all"])]:
        length = row["characters"]
        table.add_row(
            name or "(no name)", f"{row['records']:,}", f"{row['texts']:,}", f"{row['records'] - row['texts']:,}",
            f"{length['median']:,} / {length['p95']:,} / {length['max']:,}", f"{row['tokens']:,}", _cost(row),
        )  # fmt: skip
    console.print(table)
    for title, counts in stats["counts"].items():
        if counts:
            said = ", ".join(f"{name or '(not said)'} {count:,}" for name, count in counts.items())
            console.print(f"{title}: {said}", markup=False, highlight=False, soft_wrap=True)
    twins = stats["duplicates"]
    console.print(
        f"same text for several samples: {twins['texts']:,} texts, {twins['records']:,} records"
        + (f" (such as {', '.join(twins['example'])})" if twins["example"] else ""),
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


class _Tally:
    """Counts over one pass; per record it keeps a length and the hash of its text."""

    def __init__(self) -> None:
        self.lengths: dict[str, list[int]] = defaultdict(list)
        self.sums: dict[str, Counter[str]] = defaultdict(Counter)
        self.cost: dict[str, float] = defaultdict(float)
        self.counts: dict[str, Counter[str]] = defaultdict(Counter)
        self.texts: dict[str, set[str]] = defaultdict(set)
        self.reasons: dict[str, str] = {}
        self.with_text: set[str] = set()

    def add(self, record: RationaleRecord) -> None:
        name, request = record.dataset, record.request
        sums = self.sums[name]
        sums["records"] += 1
        sums["tokens"] += record.usage.total
        sums["unpriced"] += record.cost is None
        self.cost[name] += record.cost or 0.0
        if record.text is None:
            self.counts["no rationale"][record.reason or ""] += 1
            self.reasons[record.sample_id] = record.reason or ""
        else:
            self.lengths[name].append(len(record.text))
            self.texts[digest(" ".join(record.text.lower().split()))].add(record.sample_id)
            self.with_text.add(record.sample_id)
        asked, answered = request.model, record.model_answered
        self.counts["model"][asked if answered in ("", asked) else f"{asked} answered as {answered}"] += 1
        self.counts["mode"][request.mode] += 1
        self.counts["prompt"][request.prompt_hash[:8]] += 1
        self.counts["finish reason"][record.finish_reason] += 1
        self.counts["attempts"][str(record.attempts)] += 1
        for verdict in record.verdicts:
            self.counts["failed filter"][verdict.filter] += not verdict.passed

    def result(self) -> dict[str, Any]:
        names = sorted(self.sums)
        twins = sorted((ids for ids in self.texts.values() if len(ids) > 1), key=len, reverse=True)
        return {
            "datasets": {name: self._row([name]) for name in names},
            "all": self._row(names),
            "counts": {title: dict(+counts) for title, counts in self.counts.items()},
            "duplicates": {
                "texts": len(twins),
                "records": sum(len(ids) for ids in twins),
                "example": sorted(twins[0])[:3] if twins else [],
            },
        }

    def _row(self, names: Sequence[str]) -> dict[str, Any]:
        lengths = np.array([length for name in names for length in self.lengths[name]] or [0])
        return {
            "records": sum(self.sums[name]["records"] for name in names),
            "texts": sum(len(self.lengths[name]) for name in names),
            "tokens": sum(self.sums[name]["tokens"] for name in names),
            "cost": round(sum(self.cost[name] for name in names), 6),
            "records_without_price": sum(self.sums[name]["unpriced"] for name in names),
            "characters": {
                "median": int(np.median(lengths)),
                "p95": int(np.percentile(lengths, 95)),
                "max": int(lengths.max()),
            },
        }


def _coverage(samples: Sequence[Sample], tally: _Tally) -> dict[str, dict[str, int]]:
    """By data set of the data file: samples with a rationale, with only a reason, and without any record."""
    result: dict[str, dict[str, int]] = defaultdict(
        lambda: {"samples": 0, "rationale": 0, "reason": 0, "missing": 0}
    )
    for sample in samples:
        row = result[sample.dataset]
        row["samples"] += 1
        if sample.sample_id in tally.with_text:
            row["rationale"] += 1
        else:
            row["reason" if sample.sample_id in tally.reasons else "missing"] += 1
    return dict(result)


def _print_coverage(coverage: dict[str, dict[str, int]], console: Console) -> None:
    table = Table("data", "samples", "rationale", "no rationale: reason", "missing", "coverage")
    for name, row in coverage.items():
        share = f"{row['rationale'] / row['samples']:.1%}"
        table.add_row(
            name or "(no name)",
            *(f"{row[key]:,}" for key in ("samples", "rationale", "reason", "missing")),
            share,
        )
    console.print(table)


def _cost(row: dict[str, Any]) -> str:
    if row["records_without_price"] == row["records"]:
        return "not known"
    more = f" and {row['records_without_price']:,} unpriced" if row["records_without_price"] else ""
    return f"{row['cost']:,.2f}{more}"
