"""What every scorer offers: the log-probabilities of given responses under a privileged context."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
from torch import Tensor

from teacher.types import GroupScore, PrivilegedContext, ScoreRequest, Support


class Scorer(Protocol):
    """Scores response rows under the weights that it holds."""

    def hold(self, version: int, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Score with `weights` (thinker names) from now on, and name them `version` in every score."""

    def score(
        self, requests: Sequence[ScoreRequest], *, support: Support, top_k: int, temperature: float
    ) -> list[GroupScore]:
        """One GroupScore for each request, in order; log-probs at `temperature`, full vocabulary."""
        ...

    def answer(self, contexts: Sequence[PrivilegedContext], max_new_tokens: int) -> list[np.ndarray]:
        """Greedy answers to the contexts, int32 [T] each: for the before/after table only."""
        ...
