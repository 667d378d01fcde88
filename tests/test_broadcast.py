"""The learner's half of `weights.transport: nccl`: vLLM's own trainer and engine around a queue, for want of GPUs.

Real are vLLM's trainer and engine, the learner with its ZeRO-3 gathers, and the client between them. The
NCCL group and its two broadcast functions are stand-ins, because NCCL has no CPU form.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import learner.engine
from cluster.runtime import InlineActor
from learner.config import LearnerConfig
from learner.engine import LearnerFault
from learner.worker import LearnerWorker
from rollout.config import RolloutConfig, WeightsConfig
from rollout.pool import NcclClient
from rollout.thinker import PREFIX
from rollout.types import Prompt
from rollout.worker import RolloutWorker
from tests.learner_scene import Answer, Scene, free_address, full_weights, make_scene, run_ranks, worker

pytestmark = pytest.mark.slow
Wire = queue.Queue[tuple[str, torch.Tensor]]
WAIT_SECONDS = 60


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return make_scene(tmp_path_factory.mktemp("broadcast"))


def stage_nccl(wire: Wire) -> None:
    """Put a queue in the place of the NCCL group, in this process."""
    from vllm.distributed.weight_transfer import nccl_engine

    from rollout.vllm_weights import mend_packed_copies

    def send(iterator: Iterator[tuple[str, torch.Tensor]], **rest: Any) -> None:
        for name, tensor in iterator:
            wire.put((name, tensor.clone()))

    def receive(iterator: Iterator[Any], post_unpack_func: Callable[[Any], None], **rest: Any) -> None:
        for name, (shape, dtype) in iterator:
            sent, tensor = wire.get(timeout=WAIT_SECONDS)
            assert (sent, tuple(shape), dtype) == (name, tuple(tensor.shape), tensor.dtype)
            post_unpack_func([(name, tensor)])

    engine: Any = nccl_engine.NCCLWeightTransferEngine
    finish = engine.finish_weight_update

    def finish_on_cpu(self: Any) -> None:
        finish(self)
        mend_packed_copies(self.model)  # the CPU's packed head, which GPUs do not have

    engine.finish_weight_update = finish_on_cpu
    patches: dict[str, Any] = {
        "open_trainer_endpoint": lambda info: SimpleNamespace(),
        "worker_init_process_group": lambda *info: SimpleNamespace(destroy=lambda: None),
        "packed_nccl_broadcast_producer": send,
        "packed_nccl_broadcast_consumer": receive,
    }
    for name, stand_in in patches.items():
        assert hasattr(nccl_engine, name)
        setattr(nccl_engine, name, stand_in)


def stepped(scene: Scene, one: LearnerWorker, cells: list[list[list[int]]]) -> LearnerWorker:
    plan = scene.plan(cells)
    one.train_step(plan, scene.of(plan, one.rank))
    return one


def one_rank_with_vllm(scene: Scene, rank: int, address: tuple[str, int]) -> Answer:
    """A trained learner sends to a vLLM engine; the probe's log-probs before and after, on both sides."""
    stage_nccl(queue.Queue())
    rollout = RolloutConfig(kv_cache_gib=0.25)
    model = scene.model.model_copy(update={"max_context": 512})
    engine = RolloutWorker(0, model, rollout, WeightsConfig(transport="nccl"))
    one = stepped(scene, worker(scene, 0, LearnerConfig(lr=0.05, freeze=()), address), [[[0, 1, 2, 3]]])
    client = NcclClient([InlineActor("rollout-0", engine)], 1, WAIT_SECONDS)
    one.join_engines(client, *free_address())
    rendered, response = scene.groups[4].prompt, np.arange(5, 11, dtype=np.int32)
    prompt = Prompt(sample_id="probe", rendered=rendered)  # type: ignore[arg-type]
    before = engine.score(prompt, response)
    one.broadcast(1)
    return {
        "before": before,
        "after": engine.score(prompt, response),
        "learner": one.probe(rendered, response, 1.0),  # type: ignore[arg-type]
        "version": engine.engine.policy_version,
    }


def test_a_vllm_engine_computes_with_what_the_learner_broadcast(scene: Scene, tmp_path: Path) -> None:
    (answer,) = run_ranks(scene, 1, one_rank_with_vllm, tmp_path)
    assert answer["version"] == 1
    assert np.abs(answer["before"] - answer["learner"]).mean() > 0.1
    assert np.abs(answer["after"] - answer["learner"]).mean() < 1e-3


class Notebook:
    """A client that writes down what it was asked."""

    def __init__(self) -> None:
        self.version, self.receivers = 0, 2
        self.events: list[Any] = []

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self.events.append(("init", init_info["world_size"]))

    def start_weight_update(self) -> None:
        self.events.append(("start", self.version))

    def update_weights(self, update_info: dict[str, Any]) -> None:
        self.events.append(("update", len(update_info["names"])))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self.events.append(("finish", self.version))


def two_ranks_zero3(scene: Scene, rank: int, address: tuple[str, int]) -> Answer:
    learner.engine.WHOLE_NUMBERS = 0
    wire: Wire = queue.Queue()
    stage_nccl(wire)
    config = LearnerConfig(lr=0.05, freeze=(), ranks=2, zero_stage=3)
    one = stepped(scene, worker(scene, rank, config, address), [[[0, 1]], [[2, 3]]])
    client = Notebook()
    one.join_engines(client, *free_address())  # type: ignore[arg-type]
    one.broadcast(1)
    sent = dict(wire.get() for _ in range(wire.qsize()))
    return {"events": client.events, "sent": sent, "full": full_weights(one)}


def test_every_rank_gathers_and_only_the_first_one_sends(scene: Scene, tmp_path: Path) -> None:
    first, second = run_ranks(scene, 2, two_ranks_zero3, tmp_path)
    full = {PREFIX + name: tensor for name, tensor in first["full"].items()}
    assert first["events"] == [("init", 3), ("start", 1), ("update", len(full)), ("finish", 1)]
    assert list(first["sent"]) == list(full)
    assert all(torch.equal(first["sent"][name], full[name]) for name in full)
    assert second["events"] == [] and second["sent"] == {}


def test_a_broadcast_needs_a_group_and_the_present_version(scene: Scene) -> None:
    one = LearnerWorker.__new__(LearnerWorker)
    one.rank, one._client = 0, None
    one.engine = SimpleNamespace(steps=3)  # type: ignore[assignment]
    with pytest.raises(LearnerFault, match="join_engines was not called"):
        one.broadcast(3)
    with pytest.raises(LearnerFault, match="holds version 3, asked to publish 2"):
        one.broadcast(2)
