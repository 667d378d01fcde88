"""The order in which an engine sleeps and wakes, so that learner ranks can use its GPUs meanwhile.

    awake --sleep--> asleep --wake_weights--> loading --push, wake_cache--> awake

Asleep the engine has neither weights nor key-values. The push fills the weights, and only then comes the memory
of the key-values back. Out of order vLLM warns and goes on: it would sample from memory that holds nothing.
"""

from __future__ import annotations

from typing import Literal

from rollout.engine import EngineFault
from rollout.weights import WeightFault

State = Literal["awake", "asleep", "loading"]
WORDS = {"awake": "is awake", "asleep": "is asleep", "loading": "is waking and has no key-value cache yet"}


class SleepUnsupported(ValueError):
    """An engine that cannot sleep was asked to share its GPUs with the learner."""


class SleepCycle:
    """Where one engine stands; every wrong call is refused by its name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.state: State = "awake"

    def require_awake(self) -> None:
        """Raises EngineFault unless the engine may sample and score."""
        if self.state != "awake":
            raise EngineFault(f"{self.name} {WORDS[self.state]}: nothing is sampled or scored before it woke")

    def require_weight_memory(self) -> None:
        """Raises WeightFault when a push would have no memory to go to."""
        if self.state == "asleep":
            raise WeightFault(f"{self.name} is asleep: wake its weights before a push")

    def sleep(self) -> None:
        """Raises EngineFault unless it was awake."""
        self._step("awake", "asleep")

    def wake_weights(self) -> None:
        """Raises EngineFault unless it was asleep."""
        self._step("asleep", "loading")

    def wake_cache(self, version: int | None) -> None:
        """Raises EngineFault unless its weights are there: `version` is that of the push."""
        if self.state == "loading" and version is None:
            raise EngineFault(f"{self.name}: no weights were pushed since it slept; push before it wakes")
        self._step("loading", "awake")

    def _step(self, before: State, after: State) -> None:
        if self.state != before:
            raise EngineFault(
                f"{self.name} {WORDS[self.state]}, and only from {before} it can become {after}"
            )
        self.state = after
