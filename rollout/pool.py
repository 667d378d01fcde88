"""The pool of rollout actors: who gets which prompts, and the invariant that all hold one version."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cluster.runtime import Actor, Ref, Resources, Runtime, fetch
from rollout.config import ModelConfig, RolloutConfig, WeightsConfig
from rollout.types import Prompt, RolloutGroup, SamplingSpec, WeightUpdate
from rollout.weights import WeightFault, require_receipts
from rollout.worker import RolloutWorker

VLLM_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutCall:
    """One generate call under way: `ref` answers with the groups of `sample_ids`, in order."""

    sample_ids: tuple[str, ...]
    ref: Ref[list[RolloutGroup]]


class RolloutPool:
    """Engines in a fixed order; prompt chunks go round, so the same run asks the same engine the same."""

    def __init__(
        self,
        runtime: Runtime,
        model: ModelConfig,
        rollout: RolloutConfig,
        weights: WeightsConfig,
        *,
        devices: Sequence[str] = (),
    ) -> None:
        """`devices`: for each engine the GPUs of the learner ranks that it shares; the pool then sleeps and wakes."""
        self.rollout, self.weights = rollout, weights
        self._asleep = False
        self.actors = [
            runtime.start(
                f"rollout-{index}",
                resources(rollout, devices[index] if devices else None),
                RolloutWorker,
                index,
                model,
                rollout,
                weights,
                bool(devices),
            )
            for index in range(rollout.replicas)
        ]

    def wait_ready(self) -> None:
        """Raises what an engine's start raised."""
        fetch([actor.call(RolloutWorker.ready) for actor in self.actors], self.rollout.timeout_seconds)

    def submit(self, prompts: Mapping[str, Ref[Prompt]], spec: SamplingSpec, step: int) -> list[RolloutCall]:
        """Start sampling; `prompts` by sample id, cut into calls of at most `samples_per_call`.

        Smaller ones when engines would otherwise stand idle.
        """
        calls = []
        size = min(self.rollout.samples_per_call, -(-len(prompts) // len(self.actors)))
        for number, part in enumerate(_parts(list(prompts), size)):
            actor = self.actors[number % len(self.actors)]
            ref = actor.call(RolloutWorker.generate, [prompts[s] for s in part], spec, step)
            calls.append(RolloutCall(sample_ids=tuple(part), ref=ref))
        return calls

    def greedy(self, prompts: Mapping[str, Ref[Prompt]], max_new_tokens: int) -> list[np.ndarray]:
        """The likeliest answers, int32 [T] each, in the order of `prompts`."""
        share = -(-len(prompts) // len(self.actors))
        refs = [
            actor.call(RolloutWorker.greedy, [prompts[s] for s in part], max_new_tokens)
            for actor, part in zip(self.actors, _parts(list(prompts), share), strict=False)
        ]
        return [answer for part in fetch(refs, self.rollout.timeout_seconds) for answer in part]

    def _each(self, method: Callable[[RolloutWorker], None]) -> None:
        fetch([actor.call(method) for actor in self.actors], self.weights.timeout_seconds)

    def nccl_client(self) -> NcclClient:
        """What a sender over NCCL drives these engines by."""
        return NcclClient(self.actors, self.rollout.tensor_parallel_size, self.weights.timeout_seconds)

    def sleep(self) -> None:
        """Every engine gives its GPUs free; the next `push` wakes them."""
        self._each(RolloutWorker.sleep)
        self._asleep = True

    def push(self, update: WeightUpdate) -> None:
        """Give every engine a version. Raises WeightFault naming the engine that does not hold it.

        Engines that sleep get memory for the weights before, and for key-values when all hold the version.
        """
        if self._asleep:
            self._each(RolloutWorker.wake_weights)
        refs = [actor.call(RolloutWorker.update, update) for actor in self.actors]
        require_receipts(fetch(refs, self.weights.timeout_seconds), update)
        if self._asleep:
            self._each(RolloutWorker.wake_cache)
        self._asleep = False

    def require_probe(
        self, prompt: Prompt, response_ids: np.ndarray, expected: np.ndarray, version: int
    ) -> float:
        """Score a fixed answer on every engine; the largest mean |difference| from `expected` [T].

        Raises WeightFault when it is above `weights.probe_tolerance`: an engine computes with weights
        that are not the learner's, whatever it says it holds.
        """
        refs = [actor.call(RolloutWorker.score, prompt, response_ids) for actor in self.actors]
        worst = 0.0
        for actor, scored in zip(self.actors, fetch(refs, self.weights.timeout_seconds), strict=True):
            difference = float(np.abs(scored - expected).mean())
            if not difference <= self.weights.probe_tolerance:
                raise WeightFault(
                    f"{actor.name}: after the push of version {version} its log-probs differ from the learner's "
                    f"by {difference:.2e} on the probe, weights.probe_tolerance is {self.weights.probe_tolerance:g}: "
                    "a weight is stale or the two compute differently"
                )
            worst = max(worst, difference)
        return worst


class NcclClient:
    """The engines as vLLM's trainer sees them (its `VLLMWeightSyncClient`), for `rollout.vllm_weights`.

    Every call goes to all engines at once: they meet each other and the learner's rank 0 inside the
    same collectives. Set `version` before each `send_weights()`; the trainer does not pass one on.
    Never run on a GPU so far; `tests/test_rollout_pool.py` holds its side of the contract.
    """

    def __init__(
        self, actors: Sequence[Actor[RolloutWorker]], gpus_per_engine: int, timeout_seconds: float
    ) -> None:
        self._actors, self._gpus, self._timeout = tuple(actors), gpus_per_engine, timeout_seconds
        self.version = 0

    @property
    def receivers(self) -> int:
        """GPUs of all engines, each a rank of the transfer group."""
        return len(self._actors) * self._gpus

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Give each engine ranks of its own in the group, behind those of the trainer."""
        infos = [
            init_info | {"rank_offset": int(init_info["rank_offset"]) + index * self._gpus}
            for index in range(len(self._actors))
        ]
        pairs = zip(self._actors, infos, strict=True)
        fetch([actor.call(RolloutWorker.join_transfer, info) for actor, info in pairs], self._timeout)

    def start_weight_update(self) -> None:
        """Open every engine for `version`."""
        fetch([a.call(RolloutWorker.begin_transfer, self.version) for a in self._actors], self._timeout)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Let every engine take part in the broadcasts."""
        fetch([a.call(RolloutWorker.receive_transfer, update_info) for a in self._actors], self._timeout)

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Raises WeightFault naming the engine that does not hold `version` now."""
        refs = [a.call(RolloutWorker.end_transfer, self.version) for a in self._actors]
        held = WeightUpdate(version=self.version, chunks=(), digest="")
        require_receipts(fetch(refs, self._timeout), held)


def resources(rollout: RolloutConfig, devices: str | None = None) -> Resources:
    """What one engine reserves, and the environment that vLLM needs from its process's start.

    `devices` ("0,1") are GPUs that others have reserved.
    """
    environment = {"OMP_NUM_THREADS": str(max(1, int(rollout.cpus)))} | VLLM_ENVIRONMENT
    if devices is not None:
        environment["CUDA_VISIBLE_DEVICES"] = devices
    return Resources(cpus=rollout.cpus, gpus=rollout.gpus, env=environment)


def _parts(items: Sequence[str], size: int) -> list[Sequence[str]]:
    return [items[at : at + size] for at in range(0, len(items), max(1, size))]
