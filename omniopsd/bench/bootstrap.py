"""How sure a score is: 95 % intervals from 1,000 bootstrap samples of the clips (percentile method).

Clips are drawn as counts, so one matrix product gives a metric's means for all samples. The mean of nine takes one
sample of each set at a time, the sets being independent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from omniopsd.bench.lists import Labels
from omniopsd.bench.overlaps import Overlaps, project
from omniopsd.bench.scoring import Scored, ScoredSet
from omniopsd.bench.words import WordTable

SAMPLES = 1000
LOW, HIGH = 2.5, 97.5
Interval = tuple[float, float]


def intervals(scored: Scored, table: WordTable | None, seed: int = 0) -> dict[str, Interval]:
    """95 % interval of each set's safe score by its name, and of "mean" when all nine are there; fractions."""
    rng = np.random.default_rng([seed, 95])
    drawn = {one.score.name: resampled(one, table, rng) for one in scored.sets}
    if scored.mean is not None:
        drawn["mean"] = np.mean(list(drawn.values()), axis=0)
    return {
        name: (float(a), float(b)) for name, v in drawn.items() for a, b in [np.percentile(v, (LOW, HIGH))]
    }


def resampled(one: ScoredSet, table: WordTable | None, rng: np.random.Generator) -> np.ndarray:
    """The set's primary score in each bootstrap sample: float64 [SAMPLES], NaN wheels as 0."""
    count = len(one.prepared.gold)
    weights = rng.multinomial(count, np.full(count, 1 / count), size=SAMPLES).astype(np.float64)
    if one.bench_set.metric == "waf":
        return _waf(weights, *_sides(one))
    assert table is not None  # the set was scored with it
    overlaps = set_overlaps(one, table)
    return _hit_rate(weights, overlaps) if one.bench_set.metric == "hit_rate" else _ew_f1(weights, overlaps)


def set_overlaps(one: ScoredSet, table: WordTable) -> Overlaps:
    """Counts of every clip that counts; one without prediction, or with an unreadable one, has no labels."""
    readable: Mapping[str, Labels] = {**one.labels, **dict.fromkeys(one.score.unreadable)}
    gold: dict[str, Labels] = {name: str(label) for name, label in one.prepared.gold.items()}
    return project(gold, {**dict.fromkeys(gold), **readable}, table)


def _hit_rate(weights: np.ndarray, overlaps: Overlaps) -> np.ndarray:
    kept = (overlaps.gold > 0).astype(np.float64)
    return _over(weights @ (overlaps.shared * kept).T, weights @ kept.T).mean(axis=1)


def _ew_f1(weights: np.ndarray, overlaps: Overlaps) -> np.ndarray:
    kept = (overlaps.gold > 0).astype(np.float64)
    shared = overlaps.shared * kept
    total = weights @ kept.T
    precision = _over(weights @ (shared / np.maximum(overlaps.predicted, 1)).T, total)
    recall = _over(weights @ (shared / np.maximum(overlaps.gold, 1)).T, total)
    return _over(2 * precision * recall, precision + recall).mean(axis=1)


def _sides(one: ScoredSet) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Kept, truly positive, said to be positive: bool [N] each; a missing clip has the wrong side."""
    gold = np.array([float(value) for value in one.prepared.gold.values()])
    truth = gold > 0
    missing = set(one.score.missing)
    pairs: Sequence[tuple[str, bool]] = list(zip(one.prepared.gold, truth, strict=True))
    said = np.array(
        [not side if name in missing else one.polarity[name] == "positive" for name, side in pairs]
    )
    return gold != 0, truth, said


def _waf(weights: np.ndarray, kept: np.ndarray, truth: np.ndarray, said: np.ndarray) -> np.ndarray:
    total, score = weights @ kept.astype(float), np.zeros(len(weights))
    for side in (False, True):
        wanted, found = kept & (truth == side), kept & (said == side)
        support = weights @ wanted.astype(float)
        both = weights @ (wanted & found).astype(float)
        score += support * _over(2 * both, support + weights @ found.astype(float))
    return _over(score, total)


def _over(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, 0 where there is nothing."""
    return np.divide(part, whole, out=np.zeros_like(part, dtype=np.float64), where=whole > 0)
