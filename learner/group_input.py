"""Where the records of one group are, until the rank that trains it opens them."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.runtime import Ref, fetch
from learner.types import RolloutSignal, TrainGroup
from rollout.types import Prompt, RecordError, Rendered, RolloutGroup
from teacher.types import GroupScore, PrivilegedContext


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupInput:
    """Where the records of one group are; a `Ref` is opened by the rank that trains the group.

    `scores` answers one call to a teacher, with this group's score at `score_index`; None for an
    objective without a teacher. `contrast_scores` likewise, at the same index, under the second
    context. `contexts` and `signals` as in `TrainGroup`.
    """

    prompt: Rendered | Ref[Prompt]
    rollouts: RolloutGroup
    scores: Ref[list[GroupScore]] | None = None
    score_index: int = 0
    signals: tuple[RolloutSignal, ...] = ()
    contrast_scores: Ref[list[GroupScore]] | None = None
    contexts: tuple[Ref[PrivilegedContext], ...] = ()

    def open(self, timeout: float) -> TrainGroup:
        """Fetch what is remote. Raises RecordError when scores, contexts and rollouts have other ids."""
        prompt = self.prompt.get(timeout).rendered if isinstance(self.prompt, Ref) else self.prompt
        score, contrast = (
            scores.get(timeout)[self.score_index] if scores is not None else None
            for scores in (self.scores, self.contrast_scores)
        )
        contexts = fetch(self.contexts, timeout)
        if foreign := {one.sample_id for one in contexts} - {self.rollouts.sample_id}:
            raise RecordError(f"{self.rollouts.sample_id}: came with the context of {sorted(foreign)}")
        return TrainGroup(
            prompt=prompt,
            rollouts=self.rollouts,
            score=score,
            signals=self.signals,
            contrast=contrast,
            contexts=tuple(context.rendered for context in contexts),
        )
