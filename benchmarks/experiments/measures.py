"""What the answers to one test are worth. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np

BINS = 10


class Measures(TypedDict):
    """Of one test: shares 0..1, tokens, counts."""

    accuracy: float
    macro_f1: float
    calibration_error: float
    brier: float
    format_rate: float
    length: float
    length_p95: float
    distinct_texts: int
    distinct_answers: int


def macro_f1(labels: Sequence[str], answers: Sequence[str | None]) -> float:
    """Mean F1 over the labels that occur; an answer without form is no label."""
    scores = []
    for label in sorted(set(labels)):
        pairs = list(zip(labels, answers, strict=True))
        hit = sum(gold == label == given for gold, given in pairs)
        asked, told = sum(g == label for g in labels), sum(a == label for a in answers)
        scores.append(2 * hit / (asked + told))
    return float(np.mean(scores))


def calibration_error(confidence: Sequence[float], correct: Sequence[bool]) -> float:
    """Expected calibration error over ten equal bins of confidence (Naeini et al. 2015)."""
    sure, right = np.asarray(confidence, float), np.asarray(correct, float)
    bins = np.minimum((sure * BINS).astype(int), BINS - 1)
    gaps = [abs(sure[bins == b].sum() - right[bins == b].sum()) for b in range(BINS)]
    return float(sum(gaps) / len(sure))


def measure(
    labels: Sequence[str],
    answers: Sequence[str | None],
    confidence: Sequence[float],
    tokens: Sequence[int],
    texts: Sequence[str],
) -> Measures:
    """All measures of one test; an answer without form counts as wrong."""
    correct = [gold == given for gold, given in zip(labels, answers, strict=True)]
    sure = np.asarray(confidence, float)
    return Measures(
        accuracy=float(np.mean(correct)),
        macro_f1=macro_f1(labels, answers),
        calibration_error=calibration_error(confidence, correct),
        brier=float(np.mean((sure - np.asarray(correct, float)) ** 2)),
        format_rate=float(np.mean([answer is not None for answer in answers])),
        length=float(np.mean(tokens)),
        length_p95=float(np.quantile(tokens, 0.95)),
        distinct_texts=len(set(texts)),
        distinct_answers=len({answer for answer in answers if answer is not None}),
    )
