"""The rollout pool and its worker over a fake engine that notes every event; and the NCCL contract."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from cluster.runtime import InlineRef, InlineRuntime
from rollout import worker
from rollout.config import ModelConfig, RolloutConfig, WeightsConfig
from rollout.engine import EngineFault, require_unique, rollout_id, rollout_seed, room
from rollout.pool import NcclClient, RolloutPool, resources
from rollout.types import (
    Prompt,
    RecordError,
    Rendered,
    Rollout,
    RolloutGroup,
    SamplingSpec,
    WeightReceipt,
    WeightUpdate,
    WireTensor,
)
from rollout.weights import IncomingWeights, WeightDigest, WeightFault, to_wire

SPEC = SamplingSpec(rollouts=2, max_new_tokens=5, temperature=1.0, top_p=1.0, top_k=0, seed=1)
NAMES = frozenset({"a", "b"})


class FakeEngine:
    """Answers at once, notes what it was asked, and misbehaves when told to."""

    def __init__(self, name: str, events: list[tuple[Any, ...]], fault: str) -> None:
        self.name, self.events, self.fault = name, events, fault
        self.policy_version = 0
        self.incoming: IncomingWeights | None = None

    def generate(self, prompts: Sequence[Prompt], spec: SamplingSpec, step: int) -> list[RolloutGroup]:
        self.events.append((self.name, "generate", step, *[prompt.sample_id for prompt in prompts]))
        return [self.group(prompt.sample_id, spec, step) for prompt in prompts]

    def group(self, sample_id: str, spec: SamplingSpec, step: int) -> RolloutGroup:
        rollouts = tuple(
            Rollout(
                rollout_id=rollout_id(step, sample_id, index),
                sample_id=sample_id,
                index=index,
                response_ids=np.array([index], np.int32),
                rollout_logprobs=np.zeros(1, np.float32),
                temperature=spec.temperature,
                policy_version=self.policy_version,
                finish="length",
            )
            for index in range(spec.rollouts)
        )
        return RolloutGroup(sample_id=sample_id, rollouts=rollouts, media_use=(), seconds=0.0)

    def greedy(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[np.ndarray]:
        self.events.append((self.name, "greedy", *[prompt.sample_id for prompt in prompts]))
        return [np.array([int(prompt.sample_id[1:])], np.int32) for prompt in prompts]

    def score(self, prompt: Prompt, response_ids: np.ndarray) -> np.ndarray:
        return np.full(len(response_ids), -1.5 if self.fault == f"stale {self.name}" else -1.0, np.float32)

    def start_update(self, version: int) -> None:
        self.events.append((self.name, "start", version))
        self.incoming = IncomingWeights(version, NAMES, self.name)

    def load_chunk(self, tensors: Sequence[WireTensor]) -> None:
        assert self.incoming is not None
        self.events.append((self.name, "load", *[wire.name for wire in tensors]))
        for wire in tensors:
            self.incoming.add(wire)

    def finish_update(self, version: int, digest: str) -> WeightReceipt:
        assert self.incoming is not None
        received = self.incoming.close(version, digest)
        self.policy_version = version
        held = version - 1 if self.fault == f"old {self.name}" else version
        return WeightReceipt(receiver=self.name, version=held, digest=received)

    def join_transfer(self, init_info: dict[str, Any]) -> None:
        self.events.append((self.name, "join", init_info["rank_offset"], init_info["world_size"]))

    def begin_transfer(self, version: int) -> None:
        self.events.append((self.name, "begin", version))

    def receive_transfer(self, update_info: dict[str, Any]) -> None:
        self.events.append((self.name, "receive", *update_info["names"]))

    def end_transfer(self, version: int) -> WeightReceipt:
        self.events.append((self.name, "end", version))
        return WeightReceipt(receiver=self.name, version=version, digest="")


class ChunksOnly:
    """An engine without the collective way in."""


@pytest.fixture
def events() -> list[tuple[Any, ...]]:
    return []


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, events: list[tuple[Any, ...]]):
    def start(replicas: int = 2, per_call: int = 8, fault: str = "") -> RolloutPool:
        monkeypatch.setattr(worker, "make_engine", lambda name, *rest: FakeEngine(name, events, fault))
        rollout = RolloutConfig(replicas=replicas, samples_per_call=per_call)
        return RolloutPool(InlineRuntime(), ModelConfig(path="none"), rollout, WeightsConfig())

    return start


def prompt(name: str, tokens: int = 3) -> Prompt:
    ids = np.arange(tokens, dtype=np.int32)
    rendered = Rendered(token_ids=ids, collapsed_ids=ids, media=(), media_use=(), audio_in_video=False)
    return Prompt(sample_id=name, rendered=rendered)


def refs(count: int) -> dict[str, InlineRef[Prompt]]:
    return {f"s{i}": InlineRef(prompt(f"s{i}")) for i in range(count)}


def update(version: int = 1) -> WeightUpdate:
    wires = [to_wire("a", torch.ones(2)), to_wire("b", torch.zeros(3))]
    digest = WeightDigest()
    for wire in wires:
        digest.add(wire)
    chunks = tuple(InlineRef([wire]) for wire in wires)
    return WeightUpdate(version=version, chunks=chunks, digest=digest.hexdigest())


def asked(events: list[tuple[Any, ...]], kind: str) -> list[tuple[Any, ...]]:
    return [(name, *rest) for name, what, *rest in events if what == kind]


def test_prompts_go_round_in_calls_of_a_fixed_size(start, events):
    calls = start(per_call=2).submit(refs(7), SPEC, step=3)
    assert asked(events, "generate") == [
        ("rollout-0", 3, "s0", "s1"),
        ("rollout-1", 3, "s2", "s3"),
        ("rollout-0", 3, "s4", "s5"),
        ("rollout-1", 3, "s6"),
    ]
    for call in calls:
        groups = call.ref.get()
        assert tuple(group.sample_id for group in groups) == call.sample_ids
        assert groups[0].rollouts[1].rollout_id == f"3/{call.sample_ids[0]}/1"


def test_no_engine_stands_idle_behind_a_large_call(start, events):
    start(replicas=3, per_call=8).submit(refs(8), SPEC, step=1)
    assert [len(one) - 2 for one in asked(events, "generate")] == [3, 3, 2]
    assert start().submit({}, SPEC, step=2) == []


def test_greedy_answers_keep_the_order(start):
    assert [int(answer[0]) for answer in start(replicas=3).greedy(refs(8), 4)] == list(range(8))
    assert start(replicas=3).greedy({}, 4) == []


def test_only_prompts_come_in(start):
    with pytest.raises(RecordError, match="only student prompts"):
        start().submit({"s0": InlineRef(prompt("s0").rendered)}, SPEC, step=1)


def test_a_push_reaches_every_engine_chunk_by_chunk(start, events):
    start().push(update())
    for name in ("rollout-0", "rollout-1"):
        own = [rest for who, *rest in events if who == name]
        assert own == [["start", 1], ["load", "a"], ["load", "b"]]


@pytest.mark.parametrize(
    ("fault", "change", "words"),
    [
        ("old rollout-1", {}, "rollout-1 .version 0"),
        ("", {"digest": "f00"}, "rollout-0: version 1: the weights that came have digest"),
        ("", {"chunks": ()}, "rollout-0: version 1: 2 tensors missing"),
    ],
)
def test_a_push_that_one_engine_does_not_hold_names_it(start, fault, change, words):
    good = update()
    fields = {"version": 1, "chunks": good.chunks, "digest": good.digest} | change
    with pytest.raises(WeightFault, match=words):
        start(fault=fault).push(WeightUpdate(**fields))


def test_the_probe_names_the_stale_engine(start):
    expected = np.full(4, -1.0002, np.float32)
    response = np.arange(4, dtype=np.int32)
    assert start().require_probe(prompt("s0"), response, expected, 1) == pytest.approx(2e-4, rel=1e-2)
    with pytest.raises(WeightFault, match="rollout-1: after the push of version 1"):
        start(fault="stale rollout-1").require_probe(prompt("s0"), response, expected, 1)
    with pytest.raises(WeightFault, match="rollout-0"):
        start().require_probe(prompt("s0"), response, np.full(4, np.nan, np.float32), 1)


def test_an_actor_gets_its_threads_and_cards():
    need = resources(RolloutConfig(cpus=2.0, gpus=1.0))
    assert (need.cpus, need.gpus, need.env["OMP_NUM_THREADS"]) == (2.0, 1.0, "2")
    assert need.env["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"


def test_a_seed_belongs_to_one_rollout():
    seeds = {
        rollout_seed(seed, step, name, index)
        for seed in (0, 1)
        for step in (1, 11)
        for name in ("a", "b", "1|a")
        for index in range(4)
    }
    assert len(seeds) == 48 and all(0 <= seed < 2**31 for seed in seeds)
    assert rollout_seed(7, 3, "clip", 2) == rollout_seed(7, 3, "clip", 2)


def test_a_prompt_must_leave_room():
    assert room(prompt("s", 6), 5, 8) == 2
    assert room(prompt("s", 2), 5, 8) == 5
    with pytest.raises(EngineFault, match="sample s: the prompt has 8 tokens, model.max_context is 8"):
        room(prompt("s", 8), 5, 8)


def test_a_sample_comes_once_in_a_call():
    with pytest.raises(EngineFault, match="'s'.* more than once"):
        require_unique([prompt("s"), prompt("t"), prompt("s")])


def test_an_engine_without_collectives_says_so(monkeypatch):
    monkeypatch.setattr(worker, "make_engine", lambda *given: ChunksOnly())
    one = worker.RolloutWorker(0, ModelConfig(path="none"), RolloutConfig(), WeightsConfig())
    with pytest.raises(WeightFault, match="rollout-0: this engine takes weights as chunks only"):
        one.begin_transfer(1)


@pytest.mark.slow
def test_vllms_nccl_trainer_drives_all_engines_in_order(start, events, monkeypatch):
    """vLLM's own trainer over our client; the group and the broadcast are stand-ins: no GPU here."""
    nccl = pytest.importorskip("vllm.distributed.weight_transfer.nccl_engine")
    from vllm.distributed.weight_transfer import ModuleSource

    from rollout.vllm_weights import nccl_trainer

    monkeypatch.setattr(nccl, "open_trainer_endpoint", lambda info: object())
    monkeypatch.setattr(
        nccl,
        "packed_nccl_broadcast_producer",
        lambda iterator, **rest: events.extend(("trainer", "sent", name) for name, _ in iterator),
    )
    client = NcclClient(start(replicas=2).actors, gpus_per_engine=4, timeout_seconds=5)
    source = ModuleSource(torch.nn.Linear(2, 2))
    trainer = nccl_trainer(source, client, rank=0, address="127.0.0.1", port=1, receivers=8)
    assert asked(events, "join") == [("rollout-0", 1, 9), ("rollout-1", 5, 9)]
    events.clear()
    client.version = 6
    trainer.send_weights()
    for name in ("rollout-0", "rollout-1"):
        own = [rest for who, *rest in events if who == name]
        assert own == [["begin", 6], ["receive", "weight", "bias"], ["end", 6]]
    assert asked(events, "sent") == [("trainer", "weight"), ("trainer", "bias")]
    events.clear()
    other = nccl_trainer(source, client, rank=1, address="127.0.0.1", port=1, receivers=8)
    other.send_weights()
    assert events == []
