"""What a set's predictions look like class by class, and which clips went worst."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from omniopsd.bench.bootstrap import set_overlaps
from omniopsd.bench.lists import LoneBracketError, normal_labels
from omniopsd.bench.scoring import ScoredSet
from omniopsd.bench.words import WordTable

NONE, OTHER = "none of these", "another word"


@dataclass(frozen=True, slots=True, kw_only=True)
class Confusion:
    """`shares` [rows][columns]: share of a row's clips (`counts`) whose prediction names the column's class.

    A prediction may name several classes, so a row's shares need not sum to 1. `note` says how it was counted.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    counts: tuple[int, ...]
    shares: tuple[tuple[float, ...], ...]
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipResult:
    """One clip that counts: its own part of the score, 0 to 1."""

    name: str
    value: float
    labels: int


def confusion(one: ScoredSet, table: WordTable | None) -> Confusion:
    """By gold class (basic sets), by sign (sentiment sets), or by cluster of the first wheel (open set)."""
    if one.bench_set.metric == "waf":
        return _by_sign(one)
    assert table is not None
    if one.bench_set.metric == "hit_rate":
        return _by_class(one, table)
    return _by_cluster(one, table)


def clip_results(one: ScoredSet, table: WordTable | None) -> list[ClipResult]:
    """Every clip that counts, worst first; among equals, those with more labels (or a stronger gold value)."""
    if one.bench_set.metric == "waf":
        found = [
            ClipResult(
                name=name,
                value=float(
                    (one.polarity.get(name) == "positive") == (float(gold) > 0) and name in one.polarity
                ),
                labels=round(1000 * abs(float(gold))),
            )
            for name, gold in one.prepared.gold.items()
            if float(gold) != 0
        ]
    else:
        assert table is not None
        found = _by_overlap(one, table)
    return sorted(found, key=lambda clip: (clip.value, -clip.labels, clip.name))


def _by_overlap(one: ScoredSet, table: WordTable) -> list[ClipResult]:
    overlaps = set_overlaps(one, table)
    kept = overlaps.gold > 0
    recall = overlaps.shared / np.maximum(overlaps.gold, 1)
    precision = overlaps.shared / np.maximum(overlaps.predicted, 1)
    both = np.maximum(precision + recall, 1e-12)
    value = recall if one.bench_set.metric == "hit_rate" else 2 * precision * recall / both
    wheels = kept.sum(axis=0)
    mean = (value * kept).sum(axis=0) / np.maximum(wheels, 1)
    return [
        ClipResult(name=name, value=float(mean[at]), labels=len(_labels(one, name)))
        for at, name in enumerate(overlaps.names)
        if wheels[at]
    ]


def _by_sign(one: ScoredSet) -> Confusion:
    words = ("positive", "neutral", "negative", OTHER)
    rows: dict[str, list[str]] = {"positive": [], "zero (not counted)": [], "negative": []}
    for name, gold in one.prepared.gold.items():
        value = float(gold)
        row = "positive" if value > 0 else "negative" if value < 0 else "zero (not counted)"
        if name in one.polarity:
            rows[row].append(one.polarity[name])
    shares = [
        [sum(word == column or (column == OTHER and word not in words) for word in said) for column in words]
        for said in rows.values()
    ]
    return _made(
        tuple(rows), words, [len(said) for said in rows.values()], shares,
        "Gold value by sign against the polarity of step B; all but the exact word positive is not positive.",
    )  # fmt: skip


def _by_class(one: ScoredSet, table: WordTable) -> Confusion:
    classes = one.bench_set.classes
    homes = {name: table.clusters(name) for name in classes}
    counts = dict.fromkeys(classes, 0)
    sums = {name: [0.0] * (len(classes) + 1) for name in classes}
    for clip, gold in one.prepared.gold.items():
        row = str(gold).strip().lower()
        labels = _labels(one, clip)
        named = [table.clusters(label) for label in labels]
        counts[row] += 1
        marks = [
            _named(homes[name], named) if any(homes[name]) else float(name in labels) for name in classes
        ]
        for at, mark in enumerate([*marks, float(not any(marks))]):
            sums[row][at] += mark
    return _made(
        classes, (*classes, NONE), [counts[name] for name in classes], [sums[name] for name in classes],
        "Gold class against classes named, in the mean over the wheels that have the class; neutral is on no "
        "wheel: it is counted by its word here and never in the score.",
    )  # fmt: skip


def _named(home: Sequence[str], named: Sequence[Sequence[str]]) -> float:
    wheels = [at for at, cluster in enumerate(home) if cluster]
    return sum(any(row[at] == home[at] for row in named) for at in wheels) / len(wheels)


def _by_cluster(one: ScoredSet, table: WordTable) -> Confusion:
    pairs = [
        (
            {table.clusters(label)[0] for label in normal_labels(str(gold))} - {""},
            {table.clusters(label)[0] for label in _labels(one, name)} - {""},
        )
        for name, gold in one.prepared.gold.items()
    ]
    clusters = tuple(sorted({cluster for pair in pairs for side in pair for cluster in side}))
    rows = [[found for wanted, found in pairs if cluster in wanted] for cluster in clusters]
    sums = [
        [
            *(float(sum(column in found for found in row)) for column in clusters),
            float(sum(not f for f in row)),
        ]
        for row in rows
    ]
    return _made(
        clusters, (*clusters, NONE), [len(row) for row in rows], sums,
        "Clusters of the first wheel in the gold list against those named; a clip stands in each of its rows.",
    )  # fmt: skip


def _made(
    rows: tuple[str, ...],
    columns: tuple[str, ...],
    counts: list[int],
    sums: Sequence[Sequence[float]],
    note: str,
) -> Confusion:
    shares = tuple(
        tuple(float(value) / max(1, count) for value in row) for row, count in zip(sums, counts, strict=True)
    )
    return Confusion(rows=rows, columns=columns, counts=tuple(counts), shares=shares, note=note)


def _labels(one: ScoredSet, name: str) -> list[str]:
    try:
        return normal_labels(one.labels.get(name))
    except LoneBracketError:
        return []
