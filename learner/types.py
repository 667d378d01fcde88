"""The records of the learner's side: what one step trains on, how it is cut, and what came of it.

    R   ranks     M   micro-batches of a rank     T   response tokens     V   vocabulary

A worked example: 16 groups of 4 rollouts on R = 2 ranks with M = 2 micro-batches make a plan of
2 x 2 cells of 4 groups each; `tokens` and `sequences` count the whole step, so every rank divides
by the same number and the split leaves no trace in the gradient.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from rollout.types import MediaUse, RecordError, Rendered, RolloutGroup
from teacher.types import GroupScore


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutSignal:
    """What is known of one rollout before the forward pass, by its text and its sample's labels.

    `weights` float32 [T], the product of all factors that need no model (0 leaves a token out of the step's
    count); None for 1 everywhere. `reward` and the `advantage` made of it, None without a reward term.
    """

    weights: np.ndarray | None = None
    reward: float | None = None
    advantage: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainGroup:
    """One sample with its rollouts and their scores; no scores for an objective without a teacher.

    `signals` in the order of the rollouts; empty where the objective asks for none. `contrast` are the
    scores under the second context of `objective.contrast`. With a colocated teacher there are no scores,
    but the `contexts` (the privileged one, then the second) that the learner is to score under.
    """

    prompt: Rendered
    rollouts: RolloutGroup
    score: GroupScore | None
    signals: tuple[RolloutSignal, ...] = ()
    contrast: GroupScore | None = None
    contexts: tuple[Rendered, ...] = ()

    def __post_init__(self) -> None:
        require_signals(self.rollouts, self.signals)
        asked = [r.rollout_id for r in self.rollouts.rollouts]
        for score in (self.score, self.contrast):
            given = [s.rollout_id for s in score.scores] if score else asked
            if asked != given:
                raise RecordError(f"{self.rollouts.sample_id}: rollouts {asked} but scores {given}")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPlan:
    """Who trains what: `cells[rank][micro]` holds group positions, an empty cell is a dummy pass.

    Every rank has the same number of cells, so all ranks run the same collectives. `tokens` and
    `sequences` are the trained response tokens and responses of the whole step: those with a weight above
    0, the denominator of the token loss. `policy_tokens` and `policy_sequences` are those that may be
    trained by how they finished, whatever their weight: the denominator of the reward term. `seed` is
    the run's, for numbers drawn in the learner.
    """

    step: int
    cells: tuple[tuple[tuple[int, ...], ...], ...]
    tokens: int
    sequences: int
    policy_tokens: int = 0
    policy_sequences: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if len({len(rank) for rank in self.cells}) > 1:
            raise RecordError(
                f"ranks have {[len(rank) for rank in self.cells]} cells: all need the same number"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """What one rank saw in one step: sums and counts, divided once, by the driver.

    `sums` over this rank's trained tokens (or sequences where the name says so); `media_use` by
    sample id; `student_logprobs`, `teacher_logprobs`, `divergence` (float32 [T]) and `teacher_versions`
    by rollout id; `teacher_seconds` is what the teachers needed for this rank's groups.
    """

    rank: int
    version: int
    loss: float
    grad_norm: float
    sums: dict[str, float]
    tokens: int
    sequences: int
    media_use: dict[str, tuple[MediaUse, ...]]
    student_logprobs: dict[str, object] = field(default_factory=dict)
    divergence: dict[str, object] = field(default_factory=dict)
    teacher_logprobs: dict[str, object] = field(default_factory=dict)
    teacher_versions: dict[str, int] = field(default_factory=dict)
    teacher_seconds: float = 0.0
    seconds: float = 0.0
    peak_bytes: int = 0


def require_signals(group: RolloutGroup, signals: tuple[RolloutSignal, ...]) -> None:
    """Raises RecordError when signals are there and do not fit the rollouts."""
    if not signals:
        return
    if len(signals) != len(group.rollouts):
        raise RecordError(f"{group.sample_id}: {len(group.rollouts)} rollouts and {len(signals)} signals")
    for rollout, signal in zip(group.rollouts, signals, strict=True):
        if signal.weights is not None and len(signal.weights) != len(rollout.response_ids):
            raise RecordError(
                f"{rollout.rollout_id}: {len(rollout.response_ids)} tokens and {len(signal.weights)} weights"
            )
