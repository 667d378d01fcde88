"""Sums over the trained tokens of one rank; the driver divides them once, by counts from all ranks.

divergence        the objective's distance, nats
student_entropy   of the student's full distribution, nats
teacher_entropy, topk_overlap   where the teacher's full distribution is known (see `learner.chunked`)
teacher_gain      teacher log-prob - student log-prob of the sampled token (0 without a teacher)
logprob_gap       |rollout log-prob - student log-prob|: engine and learner must agree
importance_clipped  tokens whose importance weight reached the cap, or fell out of the gate
clipped           tokens that objective.clip touched; clip_removed, what it took away (nats)
entropy_gate      factor of the entropy gate; ratio_clipped, tokens at PPO's bound
divergence_bin_0..7, tokens_bin_0..7   by position in the response, eighths of its length
truncated, aborted   sequences that ended by length, or not by the policy at all
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from torch import Tensor

from learner.chunked import RowOutcome
from learner.microbatch import MicroBatch

POSITION_BINS = 8
SUMMED = (
    "divergence",
    "student_entropy",
    "teacher_gain",
    "logprob_gap",
    "importance_clipped",
    "clipped",
    "clip_removed",
    "entropy_gate",
    "ratio_clipped",
)


OF_TEACHER = ("teacher_entropy", "topk_overlap")


class StepSums:
    """What one rank has seen so far in one step."""

    def __init__(self) -> None:
        self.sums: defaultdict[str, float] = defaultdict(float)
        self.tokens = self.sequences = 0
        self.student_logprobs: dict[str, np.ndarray] = {}
        self.divergence: dict[str, np.ndarray] = {}
        self.teacher_logprobs: dict[str, np.ndarray] = {}

    def add(self, micro: MicroBatch, outcome: RowOutcome) -> None:
        """Take in one micro-batch that was not empty."""
        rows = _rows(micro, outcome)
        split = {name: micro.pack.split(values) for name, values in rows.items()}
        for at, rollout in enumerate(micro.rollouts):
            own = {name: values[at] for name, values in split.items()}
            self.student_logprobs[rollout.rollout_id] = own["student_logprobs"]
            self.divergence[rollout.rollout_id] = own["divergence"]
            if outcome.teacher_logprobs is not None:
                self.teacher_logprobs[rollout.rollout_id] = own["teacher_logprobs"]
            self.sums["truncated"] += rollout.finish == "length"
            self.sums["aborted"] += rollout.finish == "abort"
            if own["weights"].any():
                self._add_response(own)

    def _add_response(self, own: dict[str, np.ndarray]) -> None:
        trained = own["weights"] != 0
        length = len(trained)
        self.tokens += int(trained.sum())
        self.sequences += 1
        for name in (*SUMMED, *(name for name in OF_TEACHER if name in own)):
            self.sums[name] += float(own[name][trained].sum(dtype=np.float64))
        bins = np.arange(length) * POSITION_BINS // length
        for number in range(POSITION_BINS):
            inside = own["divergence"][trained & (bins == number)]
            self.sums[f"divergence_bin_{number}"] += float(inside.sum(dtype=np.float64))
            self.sums[f"tokens_bin_{number}"] += len(inside)


def _rows(micro: MicroBatch, outcome: RowOutcome) -> dict[str, np.ndarray]:
    """float32 [N] by name."""
    student, divergence = _array(outcome.student_logprobs), _array(outcome.divergence)
    teacher = (
        {} if outcome.teacher_logprobs is None else {"teacher_logprobs": _array(outcome.teacher_logprobs)}
    )
    for name in OF_TEACHER:
        values = getattr(outcome, name)
        if values is not None:
            teacher[name] = _array(values)
    return teacher | {
        "weights": _array(micro.weights),
        "student_logprobs": student,
        "divergence": divergence,
        "student_entropy": _array(outcome.entropy),
        "teacher_gain": _array(outcome.teacher_gain),
        "logprob_gap": np.abs(_array(micro.rollout_logprobs) - student),
        "importance_clipped": _bound(micro, _array(outcome.importance)).astype(np.float32),
        "clipped": _array(outcome.clipped),
        "clip_removed": _array(outcome.clip_removed),
        "entropy_gate": _array(outcome.gate),
        "ratio_clipped": _array(outcome.ratio_clipped),
    }


def _bound(micro: MicroBatch, importance: np.ndarray) -> np.ndarray:
    """Where the cap or the gate of the importance weight took effect: bool [N]."""
    if micro.objective.importance == "capped":
        return importance >= micro.objective.importance_cap
    return (importance == 0) & (micro.objective.importance == "gated")


def _array(values: Tensor) -> np.ndarray:
    return np.asarray(values.detach().cpu().numpy())
