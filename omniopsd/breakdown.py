"""One step's rollouts by data set, by modalities, by segment and by correctness. Pure.

    T   response tokens

Each part has sums over its tokens, divided by their number; a part without tokens or rollouts is left out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

import numpy as np

TAIL = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenRollout:
    """One rollout as the telemetry sees it; `divergence` and `gain` float32 [T], `gain` None without a teacher.

    `modalities`: "audio+video+text" and so on; `correct` None for a sample without labels; `answer_start`
    the first token of `<answer>`, T when there is none.
    """

    dataset: str
    modalities: str
    format_valid: bool
    correct: bool | None
    answer_start: int
    divergence: np.ndarray
    gain: np.ndarray | None
    text: str

    @property
    def length(self) -> int:
        """T."""
        return len(self.divergence)


def breakdown(seen: Sequence[SeenRollout]) -> dict[str, Any]:
    """`by_dataset`, `by_modality`, `by_segment`, `by_correctness`, as in docs/telemetry.md."""
    right = {True: "right", False: "wrong"}
    judged = [one for one in seen if one.correct is not None]
    return {
        "by_dataset": _split(seen, lambda one: one.dataset or "all"),
        "by_modality": _split(seen, lambda one: one.modalities),
        "by_correctness": _split(judged, lambda one: right[bool(one.correct)]),
        "by_segment": by_segment(seen),
    }


def length_tail(seen: Sequence[SeenRollout]) -> float:
    """95th percentile of the lengths, in tokens."""
    return float(np.quantile([one.length for one in seen], TAIL))


def leak_rate(seen: Sequence[SeenRollout], phrases: Sequence[str]) -> float:
    """Share of the answers that contain one of the phrases, in any case."""
    wanted = [phrase.lower() for phrase in phrases]
    return mean(any(phrase in one.text.lower() for phrase in wanted) for one in seen)


def by_segment(seen: Sequence[SeenRollout]) -> dict[str, dict[str, float]]:
    """Reasoning (before `<answer>`) and answer (from it on, the end token included)."""
    spans = {
        "reasoning": [slice(0, one.answer_start) for one in seen],
        "answer": [slice(one.answer_start, None) for one in seen],
    }
    parts = {name: _tokens(seen, own) for name, own in spans.items()}
    return {name: part for name, part in parts.items() if part}


def _split(seen: Sequence[SeenRollout], key: Callable[[SeenRollout], str]) -> dict[str, dict[str, float]]:
    groups: defaultdict[str, list[SeenRollout]] = defaultdict(list)
    for one in seen:
        groups[key(one)].append(one)
    return {name: _part(own) for name, own in sorted(groups.items())}


def _part(own: Sequence[SeenRollout]) -> dict[str, float]:
    judged = [one.correct for one in own if one.correct is not None]
    part: dict[str, float] = {
        "rollouts": len(own),
        "format_rate": mean(one.format_valid for one in own),
        "response_length": mean(one.length for one in own),
        "response_length_p95": length_tail(own),
    }
    if judged:
        part["accuracy"] = mean(judged)
    return part | _tokens(own, [slice(None)] * len(own))


def _tokens(own: Sequence[SeenRollout], spans: Sequence[slice]) -> dict[str, float]:
    """Token means of the divergence, and of the gain where a teacher gave one."""
    divergence = np.concatenate([one.divergence[span] for one, span in zip(own, spans, strict=True)])
    if not len(divergence):
        return {}
    means = {"tokens": float(len(divergence)), "divergence": float(divergence.mean(dtype=np.float64))}
    gains = [one.gain[span] for one, span in zip(own, spans, strict=True) if one.gain is not None]
    if gains:
        means["teacher_gain"] = float(np.concatenate(gains).mean(dtype=np.float64))
    return means
