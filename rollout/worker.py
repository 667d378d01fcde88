"""One rollout actor: an engine and the door in front of it. Only student prompts come in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from cluster.runtime import Ref, fetch
from rollout.config import ModelConfig, RolloutConfig, WeightsConfig
from rollout.engine import CollectiveReceiver, EngineFault, RolloutEngine, SleepingEngine
from rollout.sleep_cycle import SleepUnsupported
from rollout.types import Prompt, RecordError, RolloutGroup, SamplingSpec, WeightReceipt, WeightUpdate
from rollout.weights import WeightFault

OPEN_SECONDS = 300.0


class RolloutWorker:
    """Builds its engine, samples, and takes new weights; refuses anything that is not a `Prompt`."""

    def __init__(
        self,
        index: int,
        model: ModelConfig,
        rollout: RolloutConfig,
        weights: WeightsConfig,
        sleeps: bool = False,
    ) -> None:
        """`sleeps`: whether the engine shares its GPUs with the learner and sleeps while that one trains."""
        self.name = f"rollout-{index}"
        torch.set_num_threads(max(1, int(rollout.cpus)))
        self.engine = make_engine(self.name, model, rollout, weights, sleeps)

    def ready(self) -> str:
        """Answers once the engine runs."""
        return self.name

    def generate(self, prompts: Sequence[Ref[Prompt]], spec: SamplingSpec, step: int) -> list[RolloutGroup]:
        """As `RolloutEngine.generate`."""
        return self.engine.generate(_opened(prompts), spec, step)

    def greedy(self, prompts: Sequence[Ref[Prompt]], max_new_tokens: int) -> list[np.ndarray]:
        """As `RolloutEngine.greedy`."""
        return self.engine.greedy(_opened(prompts), max_new_tokens)

    def score(self, prompt: Prompt, response_ids: np.ndarray) -> np.ndarray:
        """As `RolloutEngine.score`: the probe after a push."""
        return self.engine.score(prompt, response_ids)

    def update(self, update: WeightUpdate) -> WeightReceipt:
        """Take over a version, chunk after chunk. Raises WeightFault when it does not come whole."""
        self.engine.start_update(update.version)
        for chunk in update.chunks:
            self.engine.load_chunk(chunk.get(OPEN_SECONDS))
        return self.engine.finish_update(update.version, update.digest)

    def join_transfer(self, init_info: dict[str, Any]) -> None:
        """As `CollectiveReceiver.join_transfer`; this and the next three are for `weights.transport: nccl`."""
        self._receiver().join_transfer(init_info)

    def begin_transfer(self, version: int) -> None:
        """As `CollectiveReceiver.begin_transfer`."""
        self._receiver().begin_transfer(version)

    def receive_transfer(self, update_info: dict[str, Any]) -> None:
        """As `CollectiveReceiver.receive_transfer`."""
        self._receiver().receive_transfer(update_info)

    def end_transfer(self, version: int) -> WeightReceipt:
        """As `CollectiveReceiver.end_transfer`."""
        return self._receiver().end_transfer(version)

    def sleep(self) -> None:
        """As `SleepingEngine.sleep`; this and the next two are for `runtime.colocate: rollout-learner`."""
        self._sleeper().sleep()

    def wake_weights(self) -> None:
        """As `SleepingEngine.wake_weights`."""
        self._sleeper().wake_weights()

    def wake_cache(self) -> None:
        """As `SleepingEngine.wake_cache`."""
        self._sleeper().wake_cache()

    def _sleeper(self) -> SleepingEngine:
        if not isinstance(self.engine, SleepingEngine):
            raise EngineFault(f"{self.name}: this engine cannot sleep")
        return self.engine

    def _receiver(self) -> CollectiveReceiver:
        if not isinstance(self.engine, CollectiveReceiver):
            raise WeightFault(f"{self.name}: this engine takes weights as chunks only, not in collectives")
        return self.engine


def make_engine(
    name: str, model: ModelConfig, rollout: RolloutConfig, weights: WeightsConfig, sleeps: bool = False
) -> RolloutEngine:
    """The engine that the config names; its library is imported only now. Raises SleepUnsupported."""
    if rollout.engine == "transformers":
        from rollout.transformers_engine import TransformersEngine

        if sleeps:
            raise SleepUnsupported(
                f"{name}: the transformers engine cannot sleep; write rollout.engine: vllm"
            )
        return TransformersEngine(model, rollout, name)
    from rollout.vllm_engine import VllmEngine

    return VllmEngine(model, rollout, name, transport=weights.transport, sleeps=sleeps)


def _opened(refs: Sequence[Ref[Prompt]]) -> list[Prompt]:
    prompts = fetch(refs, OPEN_SECONDS)
    for prompt in prompts:
        if not isinstance(prompt, Prompt):
            raise RecordError(
                f"a rollout worker was sent a {type(prompt).__name__}: only student prompts are let in"
            )
    return prompts
