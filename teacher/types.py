"""The records of the teacher's side: the privileged context, and the scores under it.

    C   context tokens     T   response tokens     K   top-k     D   hidden width

A worked example: the rationale adds 13 tokens to a prompt of 48, so C = 61. For a response of
T = 17 ids the teacher returns 17 log-probabilities and, with `support: full`, 17 hidden rows of
D = 192, from which the learner rebuilds the teacher's 17 full distributions with the teacher's
head of the same version.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from rollout.types import MediaUse, RecordError, Rendered

Privilege = Literal["none", "label", "rationale", "redacted", "rationale+label", "shuffled", "other-row"]
TeacherRule = Literal["frozen", "live", "ema", "hard", "gated", "trust_region"]
Support = Literal["full", "topk", "sampled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivilegedContext:
    """The teacher's prompt: the student's messages and media, and the evidence.

    `evidence_id` names the row whose evidence was used (the sample itself, or, in the control
    modes, another one); empty for the mode "none".
    """

    sample_id: str
    rendered: Rendered
    privilege: Privilege
    evidence_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRequest:
    """Score the responses of one group under one context. `responses`: int32 [T] each, by id."""

    context: PrivilegedContext
    rollout_ids: tuple[str, ...]
    responses: tuple[np.ndarray, ...]

    def __post_init__(self) -> None:
        if len(self.rollout_ids) != len(self.responses):
            raise RecordError(f"{len(self.rollout_ids)} rollout ids and {len(self.responses)} responses")


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherScore:
    """What the teacher thinks of one response.

    `logprobs` float32 [T] of the sampled ids at temperature 1; with top-k support also `topk_ids`
    int32 [T,K] and `topk_logprobs` float32 [T,K] (full-vocabulary normalised, so the tail mass is
    1 - sum exp); with full support `hidden` float32 or bfloat16-as-uint16 [T,D], after the final norm.
    `teacher_version` counts the pushes that this teacher has received; `head_digest` names the head
    that turns `hidden` into logits.
    """

    rollout_id: str
    teacher_version: int
    head_digest: str
    logprobs: np.ndarray
    topk_ids: np.ndarray | None
    topk_logprobs: np.ndarray | None
    hidden: np.ndarray | None

    def __post_init__(self) -> None:
        for name in ("logprobs", "topk_logprobs"):
            values = getattr(self, name)
            if values is not None and not np.isfinite(values).all():
                raise RecordError(f"{self.rollout_id}: teacher {name} has a value that is not finite")
        for name in ("topk_ids", "topk_logprobs", "hidden"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.logprobs):
                raise RecordError(
                    f"{self.rollout_id}: teacher {name} has {len(values)} rows, log-probs {len(self.logprobs)}"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupScore:
    """The scores of one group, in the order of its request, and the media that were used."""

    sample_id: str
    scores: tuple[TeacherScore, ...]
    media_use: tuple[MediaUse, ...]
    seconds: float
