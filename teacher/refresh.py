"""When a push concerns the teachers: always, never, every M steps, or while the answers get better.

Copies at fixed intervals were seen to collapse late in long runs; refusing a copy unless the reward has
risen and the tail of the answer lengths has not grown mended it (arXiv 2606.03532).

    steps     1 .. M        M+1 .. 2M          2M+1 .. 3M
    gated     a window: the first teacher's baseline
                            a window: better, not longer? copy, and it is the new baseline; else keep both
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from teacher.config import TeacherConfig

TAIL = 95.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What was seen over `copy_every` steps: mean reward in [0, 1], and the tail of the lengths in tokens."""

    reward: float
    length_tail: float


class TeacherRefresh:
    """Asked after every step, before its push; its state belongs into the checkpoint."""

    def __init__(self, config: TeacherConfig) -> None:
        self.config = config
        self._rewards: list[float] = []
        self._lengths: list[int] = []
        self._baseline: Window | None = None

    @property
    def watches(self) -> bool:
        """Whether `observe` must be called after every step."""
        return self.config.weights == "gated"

    def observe(self, rewards: Sequence[float], lengths: Sequence[int]) -> None:
        """Note one step: the reward in [0, 1] and the length in tokens of each of its answers."""
        self._rewards += [float(reward) for reward in rewards]
        self._lengths += [int(length) for length in lengths]

    def due(self, step: int) -> bool:
        """Whether the teachers take in the weights after `step`. Ask once for each step."""
        rule = self.config.weights
        if rule in ("hard", "gated") and step % self.config.copy_every:
            return False
        return self._passes() if rule == "gated" else rule != "frozen"

    def _passes(self) -> bool:
        window = Window(
            reward=float(np.mean(self._rewards)), length_tail=float(np.percentile(self._lengths, TAIL))
        )
        self._rewards, self._lengths = [], []
        baseline = self._baseline
        if baseline is None:
            self._baseline = window
            return False
        better = window.reward > baseline.reward + self.config.gate_gain
        safe = window.length_tail <= baseline.length_tail * self.config.gate_length_tail
        if better and safe:
            self._baseline = window
        return better and safe

    def state(self) -> dict[str, Any]:
        """What a resumed run needs, as JSON values."""
        baseline = asdict(self._baseline) if self._baseline else None
        return {"baseline": baseline, "rewards": list(self._rewards), "lengths": list(self._lengths)}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take a state back."""
        self._rewards, self._lengths = list(state["rewards"]), list(state["lengths"])
        self._baseline = Window(**state["baseline"]) if state["baseline"] else None
