"""What every scorer offers: the log-probabilities of given responses under a privileged context."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from teacher.types import GroupScore, ScoreRequest, Support


class Scorer(Protocol):
    """Scores response rows only; never decodes."""

    def score(
        self, requests: Sequence[ScoreRequest], *, support: Support, top_k: int, temperature: float
    ) -> list[GroupScore]:
        """One GroupScore for each request, in order; log-probs at `temperature`, full vocabulary."""
        ...
