"""The records of the learner's side: what one step trains on, how it is cut, and what came of it.

    R   ranks     M   micro-batches of a rank     T   response tokens     V   vocabulary

A worked example: 16 groups of 4 rollouts on R = 2 ranks with M = 2 micro-batches make a plan of
2 x 2 cells of 4 groups each; `tokens` and `sequences` count the whole step, so every rank divides
by the same number and the split leaves no trace in the gradient.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rollout.types import MediaUse, RecordError, Rendered, RolloutGroup
from teacher.types import GroupScore


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainGroup:
    """One sample with its rollouts and their scores; no scores for the cross-entropy objective."""

    prompt: Rendered
    rollouts: RolloutGroup
    score: GroupScore | None

    def __post_init__(self) -> None:
        if self.score is None:
            return
        asked = [r.rollout_id for r in self.rollouts.rollouts]
        given = [s.rollout_id for s in self.score.scores]
        if asked != given:
            raise RecordError(f"{self.rollouts.sample_id}: rollouts {asked} but scores {given}")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPlan:
    """Who trains what: `cells[rank][micro]` holds group positions, an empty cell is a dummy pass.

    Every rank has the same number of cells, so all ranks run the same collectives. `tokens` and
    `sequences` are the trained response tokens and responses of the whole step.
    """

    step: int
    cells: tuple[tuple[tuple[int, ...], ...], ...]
    tokens: int
    sequences: int

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
