"""Engines on the learner's GPUs: the order of sleeping, pushing and waking, and what is refused out of order.

No GPU is needed: vLLM itself is the boundary, and a stand-in for it notes every call.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from cluster.runtime import InlineRuntime
from learner.engine import LearnerFault
from learner.group import LearnerGroup
from omniopsd import build
from omniopsd.metrics import read
from omniopsd.mini_omni import write_mini_omni
from omniopsd.train import train
from rollout import worker
from rollout.config import ModelConfig, RolloutConfig, WeightsConfig
from rollout.engine import EngineFault
from rollout.pool import RolloutPool, resources
from rollout.sleep_cycle import SleepCycle, SleepUnsupported
from rollout.thinker import read_weights
from rollout.transformers_engine import TransformersEngine
from rollout.types import WeightReceipt, WireTensor
from rollout.weights import WeightDigest, WeightFault, chunk_tensors
from tests.run_scene import run_config
from tests.test_rollout_pool import SPEC, FakeEngine, prompt, refs, update

Events = list[tuple[Any, ...]]


class Sleeper(FakeEngine):
    """The pool's fake engine, with the real order of sleep in front of it."""

    def __init__(self, name: str, events: Events) -> None:
        super().__init__(name, events, "")
        self.cycle = SleepCycle(name)

    def generate(self, *arguments: Any) -> Any:
        self.cycle.require_awake()
        return super().generate(*arguments)

    def start_update(self, version: int) -> None:
        self.cycle.require_weight_memory()
        super().start_update(version)

    def finish_update(self, version: int, digest: str) -> WeightReceipt:
        self.events.append((self.name, "finish"))
        return super().finish_update(version, digest)

    def sleep(self) -> None:
        self.cycle.sleep()
        self.events.append((self.name, "sleep"))

    def wake_weights(self) -> None:
        self.cycle.wake_weights()
        self.events.append((self.name, "wake weights"))

    def wake_cache(self) -> None:
        self.cycle.wake_cache(self.policy_version)
        self.events.append((self.name, "wake cache"))


@pytest.fixture
def events() -> Events:
    return []


@pytest.fixture
def pool(events: Events, monkeypatch: pytest.MonkeyPatch) -> RolloutPool:
    asked: list[bool] = []
    monkeypatch.setattr(
        worker, "make_engine", lambda name, *rest: asked.append(rest[-1]) or Sleeper(name, events)
    )
    rollout = RolloutConfig(replicas=2)
    made = RolloutPool(
        InlineRuntime(), ModelConfig(path="none"), rollout, WeightsConfig(), devices=["0,1", "2,3"]
    )
    assert asked == [True, True]
    return made


def test_a_step_sleeps_pushes_and_wakes_in_order(pool: RolloutPool, events: Events) -> None:
    for version in (1, 2):
        events.clear()
        pool.submit(refs(2), SPEC, step=version)
        pool.sleep()
        pool.push(update(version))
        for name in ("rollout-0", "rollout-1"):
            assert [what for who, what, *_ in events if who == name] == [
                "generate", "sleep", "wake weights", "start", "load", "load", "finish", "wake cache",
            ]  # fmt: skip
        # memory for key-values comes when all engines hold the version
        kinds = [what for _, what, *_ in events]
        assert kinds.index("wake cache") > len(kinds) - 1 - kinds[::-1].index("finish")


def test_a_push_to_engines_that_are_awake_wakes_nobody(pool: RolloutPool, events: Events) -> None:
    pool.push(update())  # a resumed run
    assert not [event for event in events if "wake" in event[1]]


def test_nothing_is_sampled_asleep_and_nothing_sleeps_twice(pool: RolloutPool, events: Events) -> None:
    pool.sleep()
    with pytest.raises(EngineFault, match="rollout-0 is asleep: nothing is sampled"):
        pool.submit(refs(2), SPEC, step=1)
    with pytest.raises(EngineFault, match="rollout-0 is asleep, and only from awake"):
        pool.sleep()
    assert not [event for event in events if event[1] == "generate"]


def test_the_order_of_one_engine() -> None:
    cycle = SleepCycle("engine")
    with pytest.raises(EngineFault, match="is awake, and only from asleep"):
        cycle.wake_weights()
    cycle.require_weight_memory()
    cycle.sleep()
    with pytest.raises(WeightFault, match="is asleep: wake its weights before a push"):
        cycle.require_weight_memory()
    with pytest.raises(EngineFault, match="only from loading it can become awake"):
        cycle.wake_cache(1)
    cycle.wake_weights()
    cycle.require_weight_memory()
    with pytest.raises(EngineFault, match="is waking and has no key-value cache yet"):
        cycle.require_awake()
    with pytest.raises(EngineFault, match="no weights were pushed since it slept"):
        cycle.wake_cache(None)
    cycle.wake_cache(1)
    cycle.require_awake()


def test_an_engine_that_cannot_sleep_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "make_engine", lambda name, *rest: FakeEngine(name, [], ""))
    one = worker.RolloutWorker(0, ModelConfig(path="none"), RolloutConfig(), WeightsConfig())
    with pytest.raises(EngineFault, match="rollout-0: this engine cannot sleep"):
        one.sleep()


def test_the_transformers_engine_is_refused() -> None:
    config = RolloutConfig(engine="transformers")
    with pytest.raises(SleepUnsupported, match="rollout-0: the transformers engine cannot sleep"):
        worker.make_engine("rollout-0", ModelConfig(path="none"), config, WeightsConfig(), True)


def test_an_engine_sees_the_gpus_of_its_ranks() -> None:
    assert resources(RolloutConfig(), "2,3").env["CUDA_VISIBLE_DEVICES"] == "2,3"
    assert "CUDA_VISIBLE_DEVICES" not in resources(RolloutConfig()).env


@pytest.mark.parametrize(
    ("seen", "devices"),
    [(["3", "1", "0", "2"], ["3,1", "0,2"]), (["0", "0", "1", "2"], None), (["0,1", "2", "3", "4"], None),
     (["", "0", "1", "2"], None)],
)  # fmt: skip
def test_the_gpus_of_ranks(seen: list[str], devices: list[str] | None) -> None:
    group = object.__new__(LearnerGroup)
    group._all = lambda call: seen  # type: ignore[method-assign]
    if devices is not None:
        assert group.devices(2) == devices
        return
    with pytest.raises(LearnerFault, match="each needs one of its own"):
        group.devices(2)


# --- vLLM's side -------------------------------------------------------------------------------------


class FakeLlm:
    """vLLM's `LLM` as far as weights and sleep go; warns of nothing and notes all."""

    events: Events = []  # noqa: RUF012
    fully_awake = True

    def __init__(self, **arguments: Any) -> None:
        self.events.append(("start", arguments["enable_sleep_mode"]))
        self.llm_engine = SimpleNamespace(
            reset_encoder_cache=lambda: self.events.append(("reset encoder",)),
            has_unfinished_requests=lambda: False,
        )

    def get_tokenizer(self) -> Any:
        return SimpleNamespace(convert_tokens_to_ids=lambda token: 1)

    def sleep(self, level: int) -> None:
        self.events.append(("sleep", level))

    def wake_up(self, tags: list[str]) -> bool:
        self.events.append(("wake", *tags))
        return self.fully_awake and tags == ["kv_cache"]

    def __getattr__(self, name: str) -> Callable[..., None]:
        def note(*_: Any) -> None:
            self.events.append((name,))

        return note


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_mini_omni(tmp_path / "model", size="tiny", corpus=["I am fine."])
    return tmp_path / "model"


def chunks(folder: Path) -> tuple[list[list[WireTensor]], str]:
    made, digest = list(chunk_tensors(read_weights(folder), 10**6)), WeightDigest()
    for chunk in made:
        for wire in chunk:
            digest.add(wire)
    return made, digest.hexdigest()


@pytest.mark.slow
def test_vllm_is_told_in_the_right_order(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rollout import vllm_engine

    monkeypatch.setattr(vllm_engine, "LLM", FakeLlm)
    monkeypatch.setattr(vllm_engine, "PromptLayout", lambda *_: None)
    monkeypatch.setattr(vllm_engine, "_require_sleep_mode", lambda name: None)
    monkeypatch.setattr(FakeLlm, "events", [])
    engine = vllm_engine.VllmEngine(ModelConfig(path=str(folder)), RolloutConfig(), "rollout-0", sleeps=True)
    made, digest = chunks(folder)
    for call in (engine.wake_weights, engine.wake_cache):
        with pytest.raises(EngineFault):
            call()
    engine.sleep()
    with pytest.raises(EngineFault, match="rollout-0 is asleep"):
        engine.generate([], SPEC, 1)
    with pytest.raises(EngineFault, match="rollout-0 is asleep"):
        engine.score(prompt("s0"), np.zeros(1, np.int32))
    with pytest.raises(WeightFault, match="wake its weights"):
        engine.start_update(1)
    engine.wake_weights()
    engine.start_update(1)
    with pytest.raises(EngineFault, match="no weights were pushed"):
        engine.wake_cache()
    for chunk in made:
        engine.load_chunk(chunk)
    engine.finish_update(1, digest)
    with pytest.raises(EngineFault, match="no key-value cache yet"):
        engine.greedy([], 4)
    engine.wake_cache()
    assert engine.policy_version == 1 and engine.generate([], SPEC, 1) == []
    assert FakeLlm.events == [
        ("start", True), ("sleep", 2), ("wake", "weights"), ("start_weight_update",),
        *[("update_weights",)] * len(made), ("finish_weight_update",), ("reset_prefix_cache",),
        ("reset_mm_cache",), ("reset encoder",), ("wake", "kv_cache"),
    ]  # fmt: skip
    monkeypatch.setattr(FakeLlm, "fully_awake", False)
    engine.sleep()
    engine.wake_weights()
    engine.start_update(2)
    for chunk in made:
        engine.load_chunk(chunk)
    engine.finish_update(2, digest)
    with pytest.raises(EngineFault, match="vLLM is still asleep in part"):
        engine.wake_cache()


@pytest.mark.slow
def test_vllm_on_this_cpu_is_refused_before_it_loads(folder: Path) -> None:
    config = RolloutConfig()
    with pytest.raises(SleepUnsupported, match="needs vLLM's sleep mode, which platform cpu does not have"):
        worker.make_engine("rollout-0", ModelConfig(path=str(folder)), config, WeightsConfig(), True)


# --- the loop ----------------------------------------------------------------------------------------


class Forgetful(TransformersEngine):
    """Loses its weights in its sleep, as vLLM does at level 2."""

    events: list[str] = []  # noqa: RUF012

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.cycle = SleepCycle(self.name)

    @property
    def policy_version(self) -> int:
        self.cycle.require_awake()
        return super().policy_version

    def generate(self, *arguments: Any) -> Any:
        self.events.append("generate")
        return super().generate(*arguments)

    def sleep(self) -> None:
        self.cycle.sleep()
        self._version = None
        with torch.no_grad():
            for weight in self._weights.values():
                weight.fill_(torch.nan)
        self.events.append("sleep")

    def start_update(self, version: int) -> None:
        self.cycle.require_weight_memory()
        self.events.append("push")
        super().start_update(version)

    def wake_weights(self) -> None:
        self.cycle.wake_weights()
        self.events.append("wake weights")

    def wake_cache(self) -> None:
        self.cycle.wake_cache(self._version)
        self.events.append("wake cache")


@pytest.mark.slow
def test_a_run_that_sleeps_has_the_numbers_of_one_that_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = read(train(run_config(tmp_path / "plain")).metrics_path)
    config = run_config(tmp_path / "sleeps")
    shared = config.runtime.model_copy(update={"colocate": "rollout-learner"})  # past the check for GPUs
    real_step, real_release = LearnerGroup.step, LearnerGroup.release_memory

    def step(self: LearnerGroup, *arguments: Any) -> Any:
        Forgetful.events.append("train")
        return real_step(self, *arguments)

    def release(self: LearnerGroup) -> None:
        Forgetful.events.append("release")
        real_release(self)

    def engine(name: str, model: ModelConfig, rollout: RolloutConfig, *_: Any) -> Forgetful:
        return Forgetful(model, rollout, name)

    monkeypatch.setattr(worker, "make_engine", engine)
    monkeypatch.setattr(build, "placement", lambda roles, colocate: [])
    monkeypatch.setattr(LearnerGroup, "devices", lambda self, each: ["0"])
    monkeypatch.setattr(LearnerGroup, "step", step)
    monkeypatch.setattr(LearnerGroup, "release_memory", release)
    monkeypatch.setattr(Forgetful, "events", [])
    rows = read(train(config.model_copy(update={"runtime": shared})).metrics_path)
    once = ["generate", "generate", "sleep", "train", "release", "wake weights", "push", "wake cache"]
    assert Forgetful.events == once * 3
    for name in ("loss", "grad_norm", "divergence", "probe_difference"):
        assert [row[name] for row in rows] == [row[name] for row in plain]
