"""Ray alone: deadlines, deaths, errors of a start, and the same training numbers as in one process."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import ray_runtime
from cluster.config import RuntimeConfig
from cluster.runtime import Actor, NotEnoughResources, Resources, Runtime, RuntimeFault, start_runtime
from omniopsd.metrics import read
from omniopsd.train import train
from rollout.thinker import ModelFolderError, read_weights, save_thinker
from rollout.types import RecordError
from tests.run_scene import run_config
from tests.test_runtime import Counter, Rank

pytestmark = pytest.mark.slow


def test_a_wait_ends_and_a_death_is_named() -> None:
    runtime = start_runtime(RuntimeConfig(kind="ray", cpus=4))
    try:
        actor = runtime.start("sleeper", Resources(), Counter, 0)
        actor.call(Counter.add, 1).get(60.0)
        slow = actor.call(Counter.sleep, 30.0)
        with pytest.raises(RuntimeFault, match="sleeper.sleep: no answer within"):
            slow.get(0.2)
        with pytest.raises(RuntimeFault, match="sleeper.sleep: no answer within"):
            runtime.wait([slow], 0.2)
        mortal = runtime.start("mortal", Resources(), Counter, 0)
        with pytest.raises(RuntimeFault, match="mortal.die"):
            mortal.call(Counter.die).get(60.0)
        with pytest.raises(NotEnoughResources, match="asks for 99 CPUs and the cluster has 4"):
            runtime.require([Resources(cpus=99)])
    finally:
        runtime.shutdown()


def test_ray_and_inline_train_the_same(tmp_path: Path) -> None:
    numbers = []
    for kind in ("inline", "ray"):
        folder = tmp_path / kind
        folder.mkdir()
        run = train(
            run_config(
                folder, run={"steps": 2}, runtime={"kind": kind} | ({"cpus": 4} if kind == "ray" else {})
            )
        )
        numbers.append([(row["loss"], row["grad_norm"], row["divergence"]) for row in read(run.metrics_path)])
    assert numbers[0] == numbers[1]


def test_what_a_start_raises_arrives_with_its_own_type(tmp_path: Path) -> None:
    config = run_config(tmp_path, runtime={"kind": "ray", "cpus": 4})
    weights = [(name, tensor) for name, tensor in read_weights(tmp_path / "model") if "q_proj" not in name]
    save_thinker(weights, tmp_path / "model", tmp_path / "model")
    with pytest.raises(ModelFolderError, match=r"do not fit its config.json: missing \['"):
        train(config)


@pytest.fixture(scope="module")
def ray() -> Iterator[Runtime]:
    runtime = start_runtime(RuntimeConfig(kind="ray", cpus=4))
    yield runtime
    runtime.shutdown()


def ranks(runtime: Runtime) -> Actor[Rank]:
    started = [runtime.start(f"rank-{rank}", Resources(cpus=0.5), Rank, rank) for rank in range(2)]
    together = runtime.together("ranks", started)
    assert together.call(Rank.number, 5).get(120.0) == 5
    return together


def test_ranks_answer_as_one_and_what_all_of_them_raise_is_the_calls_own_error(ray: Runtime) -> None:
    actor = ranks(ray)
    ref = pickle.loads(pickle.dumps(actor.call(Rank.number, 6)))
    assert ref.get(120.0) == 6
    with pytest.raises(RuntimeFault, match=r"rank-0\.fail, rank-1\.fail: no answer within"):
        actor.call(Rank.fail, on=(), wait=3.0).get(0.5)
    with pytest.raises(RecordError, match="on 0"):
        actor.call(Rank.fail, on=(0, 1)).get(120.0)
    with pytest.raises(RecordError, match="on 0"):
        actor.call(Rank.number, 5).get(120.0)  # both are out of step with who knows what


def test_what_one_rank_raises_is_soon_said_with_its_name(
    ray: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_runtime, "LAST_WORD_SECONDS", 0.5)
    late = ranks(ray).call(Rank.fail, on=(1,), wait=60.0)
    with pytest.raises(
        RuntimeFault, match=r"^rank-1\.fail: RecordError: on 1; rank-0\.fail: no answer since$"
    ):
        late.get(50.0)


def test_a_dead_rank_is_said_before_what_the_others_noticed(ray: Runtime) -> None:
    told = r"(?s)^rank-1\.die: the actor died: .*; rank-0\.die: ConnectionError: lost"
    with pytest.raises(RuntimeFault, match=told):
        ranks(ray).call(Rank.die, on=1).get(120.0)
