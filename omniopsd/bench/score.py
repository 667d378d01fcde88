"""The score of one set, and all that belongs beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omniopsd.bench.datasets import BenchSet, Metric
from omniopsd.bench.labels import Gold
from omniopsd.bench.lists import Labels
from omniopsd.bench.metrics import EwF1, HitRate, Sentiment
from omniopsd.bench.words import WordTable


class ScoreError(ValueError):
    """Predictions that cannot be scored as they are, for example because clips are missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelHabits:
    """What the predictions look like: means over all clips (rates in [0, 1])."""

    labels_per_clip: float
    empty_rate: float
    unknown_label_rate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SetScore:
    """`value` is the primary score as a fraction, NaN where the official code gives NaN; `safe` then is ours.

    `missing` clips were counted as wrong; `unreadable` ones (a lone "[", on which the official code stops)
    as having no labels. `table_version` and `table_sha256` are None for sentiment sets.
    """

    name: str
    metric: Metric
    value: float
    safe: float
    detail: HitRate | EwF1 | Sentiment
    clips: int
    official_clips: int
    missing: tuple[str, ...]
    unreadable: tuple[str, ...]
    habits: LabelHabits | None
    table_version: str | None
    table_sha256: str | None

    def as_json(self) -> dict[str, Any]:
        """For scores.json: NaN as null, the safe value beside it."""
        raise NotImplementedError


def score_set(
    bench_set: BenchSet,
    gold: Mapping[str, Gold],
    predictions: Mapping[str, Labels] | None,
    *,
    table: WordTable | None = None,
    sentiment: Mapping[str, str] | None = None,
    allow_missing: bool = False,
) -> SetScore:
    """Score one set. `predictions` are label lists (for sentiment sets only looked at for `habits`, may be
    None), `sentiment` the polarities of the second extraction step.

    Raises ScoreError when clips have no prediction and `allow_missing` is false, or names are unknown.
    """
    raise NotImplementedError
