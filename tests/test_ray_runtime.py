"""Ray alone: deadlines, deaths, errors of a start, and the same training numbers as in one process."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.config import RuntimeConfig
from cluster.runtime import NotEnoughResources, Resources, RuntimeFault, start_runtime
from omniopsd.metrics import read
from omniopsd.train import train
from rollout.thinker import ModelFolderError, read_weights, save_thinker
from tests.run_scene import run_config
from tests.test_runtime import Counter

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
