"""Hit rate, EW precision / recall / F1, sentiment WAF / ACC and the mean of nine, as fractions in [0, 1].

Each comes twice: the official value, which can be NaN, and `safe`, where a wheel's NaN is 0 (as the code of the
MER2026 challenge has it); `safe` differs from the official value only when that is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from omniopsd.bench.datasets import NINE, bench_set
from omniopsd.bench.overlaps import Overlaps


class MeanError(ValueError):
    """Scores that are not those of the nine sets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WheelHit:
    """One wheel: clips that count, and the means over them (NaN when none does)."""

    wheel: int
    kept: int
    hitrate: float
    mscore: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HitRate:
    """Means over the wheels. `hitrate` can exceed 1 when a gold label lists several emotions.

    `mscore` divides each clip's hits by the predicted clusters that any gold label of the set could have: it falls
    when a model names many emotions, the hit rate does not.
    """

    hitrate: float
    mscore: float
    safe_hitrate: float
    safe_mscore: float
    wheels: tuple[WheelHit, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WheelF1:
    """One wheel: clips that count, the means of precision and recall over them, and F of those means."""

    wheel: int
    kept: int
    precision: float
    recall: float
    f: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EwF1:
    """Means over the wheels; F is per wheel from the mean precision and recall, not per clip."""

    fscore: float
    precision: float
    recall: float
    safe_fscore: float
    safe_precision: float
    safe_recall: float
    wheels: tuple[WheelF1, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentiment:
    """`kept`: clips whose gold value is not exactly 0. NaN (and safe 0) when there is none."""

    waf: float
    acc: float
    safe_waf: float
    safe_acc: float
    kept: int


def hit_rate(overlaps: Overlaps) -> HitRate:
    """The metric of the four basic sets: mean number of gold clusters that the prediction names."""
    wheels = []
    for wheel in range(len(overlaps.gold)):
        kept = overlaps.gold[wheel] > 0
        shared = overlaps.shared[wheel][kept]
        share = _ratio(shared, overlaps.candidates[wheel][kept])
        wheels.append(WheelHit(wheel=wheel + 1, kept=len(shared), hitrate=_mean(shared), mscore=_mean(share)))
    hits, mscores = [wheel.hitrate for wheel in wheels], [wheel.mscore for wheel in wheels]
    return HitRate(
        hitrate=_mean(hits),
        mscore=_mean(mscores),
        safe_hitrate=_safe_mean(hits),
        safe_mscore=_safe_mean(mscores),
        wheels=tuple(wheels),
    )


def ew_f1(overlaps: Overlaps) -> EwF1:
    """The metric of OV-MERD+; the level is that of the projection."""
    wheels = []
    for wheel in range(len(overlaps.gold)):
        kept = overlaps.gold[wheel] > 0
        shared = overlaps.shared[wheel][kept]
        precision = _mean(_ratio(shared, overlaps.predicted[wheel][kept]))
        recall = _mean(_ratio(shared, overlaps.gold[wheel][kept]))
        both = precision + recall
        f = 2 * (precision * recall) / both if both > 0 else math.nan
        wheels.append(WheelF1(wheel=wheel + 1, kept=len(shared), precision=precision, recall=recall, f=f))
    fs, precisions, recalls = (
        [getattr(wheel, name) for wheel in wheels] for name in ("f", "precision", "recall")
    )
    return EwF1(
        fscore=_mean(fs),
        precision=_mean(precisions),
        recall=_mean(recalls),
        safe_fscore=_safe_mean(fs),
        safe_precision=_safe_mean(precisions),
        safe_recall=_safe_mean(recalls),
        wheels=tuple(wheels),
    )


def sentiment(gold: Sequence[float], polarities: Sequence[str]) -> Sentiment:
    """Weighted average F1 and accuracy of positive / not positive over clips whose gold value is not 0.

    Only the exact word "positive" counts as positive: neutral, mixed and "Positive" are not.
    """
    pairs = [
        (value > 0, word == "positive") for value, word in zip(gold, polarities, strict=True) if value != 0
    ]
    truth = np.array([wanted for wanted, _ in pairs], dtype=bool)
    said = np.array([found for _, found in pairs], dtype=bool)
    if not pairs:
        return Sentiment(waf=math.nan, acc=math.nan, safe_waf=0.0, safe_acc=0.0, kept=0)
    waf = sum(_class_f1(truth == side, said == side) * np.mean(truth == side) for side in (False, True))
    acc = float(np.mean(truth == said))
    return Sentiment(waf=float(waf), acc=acc, safe_waf=float(waf), safe_acc=acc, kept=len(pairs))


def benchmark_mean(scores: Mapping[str, float]) -> float:
    """The unweighted mean of the nine primary scores in percent, rounded to 2 decimals after the mean.

    Keys are names or aliases of the sets. Raises MeanError when one of the nine is missing or given twice.
    """
    names = [bench_set(name).name for name in scores]
    gone = [one.name for one in NINE if one.name not in names]
    twice = sorted({name for name in names if names.count(name) > 1})
    if gone or twice:
        fault = f"{', '.join(gone)} missing" if gone else f"{', '.join(twice)} given twice"
        raise MeanError(f"the mean of MER-UniBench needs each of its nine scores once: {fault}")
    return round(float(np.mean(list(scores.values()))), 2)


def official(value: float) -> float | None:
    """A number for JSON: None stands for the official NaN."""
    return None if math.isnan(value) else value


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, 0 where there is nothing to divide by."""
    return np.where(whole > 0, part / np.maximum(whole, 1), 0.0)


def _mean(values: Sequence[float] | np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else math.nan


def _safe_mean(values: Sequence[float]) -> float:
    return _mean([0.0 if math.isnan(value) else value for value in values])


def _class_f1(truth: np.ndarray, said: np.ndarray) -> float:
    """F1 of one class, 0 when it has neither a gold clip nor a prediction."""
    total = int(truth.sum()) + int(said.sum())
    return 2 * int((truth & said).sum()) / total if total else 0.0
