"""`omniopsd bench score`: from files to a score, and its lines for people."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from omniopsd.bench.datasets import BenchSet, bench_set
from omniopsd.bench.labels import read_labels
from omniopsd.bench.metrics import EwF1, HitRate, WheelF1
from omniopsd.bench.own_words import own_table
from omniopsd.bench.predictions import polarities, read_predictions
from omniopsd.bench.score import ScoreError, SetScore, score_set
from omniopsd.bench.words import WordTable, read_words, version_name

METRICS = {"hit_rate": "hit rate", "waf": "WAF", "ew_f1": "EW-F1"}
SUFFIX = "-sentiment"


def score_files(
    dataset: str,
    *,
    labels: str | Path,
    predictions: str | Path,
    sentiment: str | Path | None = None,
    wheel: str | Path | None = None,
    wheel_version: str = "affectgpt",
    allow_missing: bool = False,
) -> SetScore:
    """The score of one set from its files. Raises ScoreError and the errors of the readers, all ValueErrors."""
    one = bench_set(dataset)
    table = _table(one, wheel, wheel_version)
    words = None
    if one.metric == "waf":
        path = _sentiment_path(one, Path(predictions), sentiment)
        words = polarities(read_predictions(path), path)
    elif sentiment is not None:
        raise ScoreError(f"{one.title} is scored on its label lists; leave --sentiment out")
    lists = None if Path(predictions) == Path(sentiment or "") else read_predictions(predictions)
    gold = read_labels(one, labels)
    return score_set(one, gold, lists, table=table, sentiment=words, allow_missing=allow_missing)


def score_lines(score: SetScore) -> list[str]:
    """The score for the terminal: what was scored, the number, what belongs beside it."""
    one, detail = bench_set(score.name), score.detail
    lines = [f"{one.title}: {METRICS[score.metric]} {_percent(score.value)}"]
    if math.isnan(score.value):
        lines.append(
            f"  the official code gives NaN here; with 0 for every such wheel: {_percent(score.safe)}"
        )
    if isinstance(detail, HitRate):
        lines.append(f"  mscore {_percent(detail.mscore)} (falls when many emotions are named)")
    elif isinstance(detail, EwF1):
        lines.append(f"  precision {_percent(detail.precision)}, recall {_percent(detail.recall)}")
    else:
        lines.append(f"  ACC {_percent(detail.acc)} of {detail.kept} clips whose label is not 0")
    if isinstance(detail, HitRate | EwF1):
        for wheel in detail.wheels:
            value = wheel.f if isinstance(wheel, WheelF1) else wheel.hitrate
            lines.append(f"  wheel {wheel.wheel}: {_percent(value)} of {wheel.kept} clips that count")
    return [*lines, *(f"  {line}" for line in _remarks(score))]


def _remarks(score: SetScore) -> Iterator[str]:
    if score.habits is not None:
        habits = score.habits
        unknown = habits.unknown_label_rate
        words = "" if unknown is None else f", {_percent(unknown)} % of labels unknown to the word table"
        yield (
            f"{habits.labels_per_clip:.2f} labels per clip, {_percent(habits.empty_rate)} % of lists empty{words}"
        )
    if score.clips != score.official_clips:
        yield f"{score.clips} clips; the official set has {score.official_clips}"
    if score.missing:
        yield f"{len(score.missing)} clips without prediction, counted as wrong: {', '.join(score.missing)}"
    if score.unreadable:
        clips = ", ".join(score.unreadable)
        yield f'{len(score.unreadable)} lists are a lone "[", where the official code stops; counted as empty: {clips}'
    if score.table_sha256 is not None:
        yield f"word table {score.table_version}, sha256 {score.table_sha256}"
    if score.table_version == "own" and score.metric != "waf":
        yield "scored with the built-in word table: not a MER-UniBench score"


def _table(one: BenchSet, wheel: str | Path | None, version: str) -> WordTable | None:
    if version_name(version) == "own":
        if wheel is not None:
            raise ScoreError("the word table own is built in; leave --wheel out")
        return own_table()
    if wheel is not None:
        return read_words(wheel, version)
    if one.metric == "waf":
        return None
    raise ScoreError(
        f"{one.title} is scored with the emotion wheels; give the official emotion_wheel folder with --wheel"
    )


def _sentiment_path(one: BenchSet, predictions: Path, sentiment: str | Path | None) -> Path:
    if sentiment is not None:
        return Path(sentiment)
    beside = predictions.with_name(f"{predictions.stem}{SUFFIX}{predictions.suffix}")
    if beside.is_file():
        return beside
    raise ScoreError(
        f"{one.title} is scored on polarities, and there is no {beside.name} beside the predictions; "
        "give the file with --sentiment"
    )


def _percent(value: float) -> str:
    return "NaN" if math.isnan(value) else f"{100 * value:.4f}"
