"""From replies and extracted labels to the scores of all sets, with everything that belongs beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from omniopsd.bench.datasets import NINE, BenchSet
from omniopsd.bench.extract import Extraction
from omniopsd.bench.labels import Gold
from omniopsd.bench.metrics import benchmark_mean
from omniopsd.bench.prepared import PreparedSet
from omniopsd.bench.score import ScoreError, SetScore, score_set
from omniopsd.bench.words import WordTable

FOUR_LABELS = "happy, sad, angry, worried"
"""The constant answer that games the hit rate (specification of MER-UniBench, section 2.7)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredSet:
    """One set. `labels` are step A's strings and `polarity` step B's words, by clip name; `gamed` is what the
    constant four-label answer would get on the same clips (None for sentiment sets)."""

    prepared: PreparedSet
    score: SetScore
    labels: Mapping[str, str]
    polarity: Mapping[str, str]
    replies: Mapping[str, str]
    cut: int
    gamed: SetScore | None

    @property
    def bench_set(self) -> BenchSet:
        """Which of the nine."""
        return self.prepared.bench_set


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """All sets that were run; `mean` is the official mean of nine in percent, `safe_mean` the one without NaN.

    Both are None unless all nine are there.
    """

    sets: tuple[ScoredSet, ...]
    mean: float | None
    safe_mean: float | None


def score_all(
    sets: Sequence[PreparedSet],
    replies: Mapping[str, str],
    extraction: Extraction,
    table: WordTable | None,
    cut: Mapping[str, bool],
) -> Scored:
    """Score every set; clips without usable media count as wrong. Raises ScoreError."""
    scored = tuple(_score(one, replies, extraction, table, cut) for one in sets)
    values = {one.score.name: 100 * one.score.value for one in scored}
    whole = set(values) == {one.name for one in NINE}
    safe = {one.score.name: 100 * one.score.safe for one in scored}
    return Scored(
        sets=scored,
        mean=benchmark_mean(values) if whole else None,
        safe_mean=benchmark_mean(safe) if whole else None,
    )


def _score(
    one: PreparedSet,
    replies: Mapping[str, str],
    extraction: Extraction,
    table: WordTable | None,
    cut: Mapping[str, bool],
) -> ScoredSet:
    name = one.bench_set.name
    ids = {sample.sample_id: sample.sample_id.partition("/")[2] for sample in one.samples}
    labels = {clip: extraction.labels[id_] for id_, clip in ids.items()}
    sentiment = one.bench_set.metric == "waf"
    polarity = {clip: extraction.polarity[id_] for id_, clip in ids.items()} if sentiment else {}
    if table is None and not sentiment:
        raise ScoreError(f"{name} is scored on the official word table; give the wheel folder with --wheel")
    if set(ids.values()) | set(one.broken) != set(one.gold):
        raise ScoreError(f"{name}: the samples are not those of the gold labels; prepare the folder anew")
    score = score_set(
        one.bench_set, one.gold, labels, table=table, sentiment=polarity if sentiment else None,
        allow_missing=bool(one.broken),
    )  # fmt: skip
    return ScoredSet(
        prepared=one,
        score=score,
        labels=labels,
        polarity=polarity,
        replies={clip: replies[id_] for id_, clip in ids.items()},
        cut=sum(cut.get(id_, False) for id_ in ids),
        gamed=None if sentiment else constant_score(one.bench_set, one.gold, FOUR_LABELS, table),
    )


def constant_score(
    bench_set: BenchSet, gold: Mapping[str, Gold], answer: str, table: WordTable | None
) -> SetScore:
    """What one answer to every clip would get."""
    return score_set(bench_set, gold, dict.fromkeys(gold, answer), table=table)


def percent(value: float | None) -> str:
    """A score in print: "78.54"; "NaN" and a dash where there is none."""
    if value is None:
        return "\u2013"
    return "NaN" if math.isnan(value) else f"{100 * value:.2f}"
