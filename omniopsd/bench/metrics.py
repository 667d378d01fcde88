"""Hit rate, EW precision / recall / F1, sentiment WAF / ACC and the mean of nine, as fractions in [0, 1].

Each comes twice: the official value, which can be NaN, and `safe`, where a wheel's NaN is 0 (as the code of the
MER2026 challenge has it); `safe` differs from the official value only when that is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omniopsd.bench.overlaps import Overlaps


@dataclass(frozen=True, slots=True, kw_only=True)
class WheelHit:
    """One wheel: clips that count, and the means over them (NaN when none does)."""

    wheel: int
    kept: int
    hitrate: float
    mscore: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HitRate:
    """Means over the wheels. `hitrate` can exceed 1 when a gold label lists several emotions."""

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
    """The metric of the four basic sets (specification of MER-UniBench, section "Hit rate")."""
    raise NotImplementedError


def ew_f1(overlaps: Overlaps) -> EwF1:
    """The metric of OV-MERD+; the level is that of the projection."""
    raise NotImplementedError


def sentiment(gold: Sequence[float], polarities: Sequence[str]) -> Sentiment:
    """Weighted average F1 and accuracy of positive / not positive over clips whose gold value is not 0.

    Only the exact word "positive" counts as positive.
    """
    raise NotImplementedError


def benchmark_mean(scores: Mapping[str, float]) -> float:
    """The unweighted mean of the nine primary scores in percent, rounded to 2 decimals after the mean.

    Keys are names or aliases of the sets. Raises ValueError when one of the nine is missing or given twice.
    """
    raise NotImplementedError


def official(value: float) -> float | None:
    """A number for JSON: None stands for the official NaN."""
    return None if math.isnan(value) else value


Json = dict[str, Any]
