"""The score of one set, and all that belongs beside it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from omniopsd.bench.datasets import BenchSet, Metric
from omniopsd.bench.labels import Gold
from omniopsd.bench.lists import Labels, LoneBracketError, normal_labels
from omniopsd.bench.metrics import EwF1, HitRate, Sentiment, ew_f1, hit_rate
from omniopsd.bench.metrics import sentiment as sentiment_score
from omniopsd.bench.overlaps import project
from omniopsd.bench.words import WordTable

NOT_POSITIVE, POSITIVE = "negative", "positive"


class ScoreError(ValueError):
    """Predictions that cannot be scored as they are, for example because clips are missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelHabits:
    """What the label lists look like: means over all clips with a prediction (rates in [0, 1]).

    `unknown_label_rate`: share of the labels that are no form in the word table; None without a table.
    """

    labels_per_clip: float
    empty_rate: float
    unknown_label_rate: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SetScore:
    """`value` is the primary score as a fraction, NaN where the official code gives NaN; `safe` then is ours.

    `missing` clips were counted as wrong; `unreadable` ones (a lone "[", on which the official code stops)
    as having no labels. The word table of a sentiment set only tells unknown labels; None without one.
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
        """For scores.json: every NaN as null; `score` and `safe_score` in percent, the rest as fractions."""
        plain = _without_nan(dataclasses.asdict(self))
        value, safe = plain.pop("value"), plain.pop("safe")
        score = None if value is None else 100 * value
        return {"score": score, "safe_score": 100 * safe, "official_nan": value is None, **plain}


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
    readable, unreadable = _readable(predictions or {})
    detail: HitRate | EwF1 | Sentiment
    if bench_set.metric == "waf":
        detail, missing = _by_polarity(bench_set, gold, sentiment, allow_missing)
        if predictions is not None:
            _missing(bench_set, gold, predictions, "prediction", allow_missing)
    else:
        if predictions is None or table is None:
            raise ScoreError(f"{bench_set.title} is scored on label lists and a word table; give both")
        detail, missing = _by_clusters(bench_set, gold, readable, table, allow_missing)
    value, safe = _primary(detail)
    return SetScore(
        name=bench_set.name,
        metric=bench_set.metric,
        value=value,
        safe=safe,
        detail=detail,
        clips=len(gold),
        official_clips=bench_set.clips,
        missing=tuple(missing),
        unreadable=tuple(unreadable),
        habits=label_habits(readable, table),
        table_version=None if table is None else table.version,
        table_sha256=None if table is None else table.sha256,
    )


def label_habits(predictions: Mapping[str, Labels], table: WordTable | None) -> LabelHabits | None:
    """Counts over label lists; None when there is no list."""
    if not predictions:
        return None
    lists = [[label for label in normal_labels(one) if label] for one in predictions.values()]
    labels = [label for one in lists for label in one]
    unknown = None if table is None else sum(label not in table for label in labels) / max(len(labels), 1)
    return LabelHabits(
        labels_per_clip=len(labels) / len(lists),
        empty_rate=sum(not one for one in lists) / len(lists),
        unknown_label_rate=unknown,
    )


def _by_clusters(
    bench_set: BenchSet,
    gold: Mapping[str, Gold],
    predictions: Mapping[str, Labels],
    table: WordTable,
    allow_missing: bool,
) -> tuple[HitRate | EwF1, list[str]]:
    missing = _missing(bench_set, gold, predictions, "prediction", allow_missing)
    texts: dict[str, Labels] = {name: str(label) for name, label in gold.items()}
    overlaps = project(texts, {**dict.fromkeys(missing), **predictions}, table)
    return (hit_rate(overlaps) if bench_set.metric == "hit_rate" else ew_f1(overlaps)), missing


def _by_polarity(
    bench_set: BenchSet,
    gold: Mapping[str, Gold],
    polarities: Mapping[str, str] | None,
    allow_missing: bool,
) -> tuple[Sentiment, list[str]]:
    if polarities is None:
        raise ScoreError(
            f"{bench_set.title} is scored on polarities; give the -openset-sentiment.npz with --sentiment"
        )
    missing = _missing(bench_set, gold, polarities, "polarity", allow_missing)
    values = {name: float(value) for name, value in gold.items()}
    # Not naming a polarity would be right for a negative clip: a missing one gets the wrong side.
    wrong = {name: NOT_POSITIVE if values[name] > 0 else POSITIVE for name in missing}
    words = [wrong.get(name) or polarities[name] for name in values]
    return sentiment_score(list(values.values()), words), missing


def _primary(detail: HitRate | EwF1 | Sentiment) -> tuple[float, float]:
    if isinstance(detail, HitRate):
        return detail.hitrate, detail.safe_hitrate
    if isinstance(detail, EwF1):
        return detail.fscore, detail.safe_fscore
    return detail.waf, detail.safe_waf


def _missing(
    bench_set: BenchSet,
    gold: Collection[str],
    found: Collection[str],
    what: str,
    allow_missing: bool,
) -> list[str]:
    unknown = [name for name in found if name not in gold]
    if unknown:
        raise ScoreError(
            f"{bench_set.title}: {len(unknown)} of the {what} names are no clip of the label file: "
            f"{', '.join(unknown[:10])}{' ...' if len(unknown) > 10 else ''}"
        )
    missing = [name for name in gold if name not in found]
    if missing and not allow_missing:
        raise ScoreError(
            f"{bench_set.title}: {len(missing)} of {len(gold)} clips have no {what}; add them, or count them as wrong "
            f"with --allow-missing: {', '.join(missing)}"
        )
    return missing


def _readable(predictions: Mapping[str, Labels]) -> tuple[dict[str, Labels], list[str]]:
    """The predictions with a lone "[" as no labels, and the clips where that was so."""
    unreadable = []
    for name, labels in predictions.items():
        try:
            normal_labels(labels)
        except LoneBracketError:
            unreadable.append(name)
    return {**predictions, **dict.fromkeys(unreadable)}, unreadable


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value
