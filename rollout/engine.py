"""What every rollout engine can do, and the identity of what it samples."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from rollout.types import Prompt, RolloutGroup, SamplingSpec, WeightReceipt, WireTensor


class EngineFault(RuntimeError):
    """An engine that gave no usable answer: aborted, empty, or without a whole set of weights."""


class RolloutEngine(Protocol):
    """Samples answers from one policy version.

    Weights change in the order `start_update`, `load_chunk` for each chunk, `finish_update`; between
    start and finish, and after a failed finish, the engine holds no version and refuses to sample.
    """

    @property
    def policy_version(self) -> int:
        """Version of the weights, 0 for those of the model folder. Raises EngineFault without one."""

    def generate(self, prompts: Sequence[Prompt], spec: SamplingSpec, step: int) -> list[RolloutGroup]:
        """One group for each prompt, in order. Raises EngineFault and MediaMismatch."""

    def greedy(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[np.ndarray]:
        """The likeliest answer, token by token: int32 [T] for each prompt, in order."""

    def score(self, prompt: Prompt, response_ids: np.ndarray) -> np.ndarray:
        """Log-probs of a given answer at temperature 1, float32 [T]."""

    def start_update(self, version: int) -> None:
        """Open for the weights of a version."""

    def load_chunk(self, tensors: Sequence[WireTensor]) -> None:
        """Take in some of its tensors (thinker names). Raises WeightFault."""

    def finish_update(self, version: int, digest: str) -> WeightReceipt:
        """Hold the version from now on. Raises WeightFault when it did not come whole."""


@runtime_checkable
class CollectiveReceiver(Protocol):
    """An engine whose workers can receive weights in collectives (`weights.transport: nccl`)."""

    def join_transfer(self, init_info: dict[str, Any]) -> None:
        """Meet the learner's rank 0; returns when the group stands."""

    def begin_transfer(self, version: int) -> None:
        """Open for the weights of a version."""

    def receive_transfer(self, update_info: dict[str, Any]) -> None:
        """Take part in the broadcasts of all tensors. Raises WeightFault on a hole in their names."""

    def end_transfer(self, version: int) -> WeightReceipt:
        """Hold the version from now on; the receipt has no digest, the probe has to judge."""


@runtime_checkable
class SleepingEngine(Protocol):
    """An engine that gives its GPUs to the learner between two generations (`rollout.sleep_cycle`)."""

    def sleep(self) -> None:
        """Give up weights and key-values. Raises EngineFault out of order, as the next two."""

    def wake_weights(self) -> None:
        """Take memory for the weights back; a push has to fill it."""

    def wake_cache(self) -> None:
        """Take memory for key-values back, once a push is complete: the engine samples again."""


def rollout_id(step: int, sample_id: str, index: int) -> str:
    """Names one rollout of a run, e.g. "12/clip-0007/3"."""
    return f"{step}/{sample_id}/{index}"


def rollout_seed(seed: int, step: int, sample_id: str, index: int) -> int:
    """Seed of one rollout (31 bits): the same for a rerun, whatever was batched with it and for any G."""
    text = f"{seed}|{step}|{index}|{sample_id}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "big") >> 1


def room(prompt: Prompt, max_new_tokens: int, max_context: int) -> int:
    """New tokens that fit behind a prompt. Raises EngineFault when it fills the context by itself."""
    left = max_context - len(prompt.rendered.token_ids)
    if left < 1:
        raise EngineFault(
            f"sample {prompt.sample_id}: the prompt has {len(prompt.rendered.token_ids)} tokens, "
            f"model.max_context is {max_context}: raise it, or lower media.max_frames"
        )
    return min(left, max_new_tokens)


def require_unique(prompts: Sequence[Prompt]) -> None:
    """Raises EngineFault when one call names a sample twice: its rollouts would share their ids."""
    names = [prompt.sample_id for prompt in prompts]
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise EngineFault(f"one generate call has the samples {twice[:3]} more than once")
