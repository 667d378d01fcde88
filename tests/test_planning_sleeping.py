"""Timeline and simulation against the real loop, pools and Ray, with actors that sleep; a whole calibration."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest

from cluster.runtime import start_runtime
from omniopsd.check import require_sound
from omniopsd.planning.calibrate import CalibrationError, calibrate, measurable
from omniopsd.planning.config import HardwareConfig
from omniopsd.planning.hardware import machines
from omniopsd.planning.model_shape import read_shape
from omniopsd.planning.simulation import Noise, simulate
from omniopsd.planning.situation import Situation
from omniopsd.planning.sleeping import rehearse
from omniopsd.planning.timeline import Durations, steady
from omniopsd.planning.workload import answers, measure
from omniopsd.prompts import make_book
from rollout.features import FeatureExtractor
from tests.planning_scene import large_config
from tests.run_scene import run_config


@pytest.mark.slow
def test_sleeping_actors_take_the_time_of_the_simulation(tmp_path: Path):
    config = run_config(
        tmp_path,
        run={"samples_per_step": 6},
        rollout={"replicas": 2, "samples_per_call": 2},
        learner={"ranks": 2},
        runtime={"kind": "ray", "cpus": 8},
    )
    durations = Durations(
        generate=(1.0, 1.0, 1.0),
        score=(0.8, 0.8, 0.8),
        train=1.0,
        publish=0.3,
        engine_update=0.4,
        teacher_update=0.5,
        probe=0.1,
        engines=2,
        teachers=1,
    )
    runtime = start_runtime(config.runtime)
    try:
        real = rehearse(config, runtime, durations, (2, 2, 2), 4)
    finally:
        runtime.shutdown()
    for times in (steady(durations), simulate(durations, Noise()).times):
        # the loop and Ray add their own milliseconds; a loaded machine adds more, and never takes any away
        assert times.step * 0.99 <= min(one["step"] for one in real) <= times.step * 1.25
        assert median(one["rollout"] for one in real) >= times.rollout * 0.99


@pytest.mark.slow
def test_a_calibration_of_the_tiny_model(tmp_path: Path):
    config = run_config(tmp_path, runtime={"kind": "inline"})
    renderer, samples, _ = require_sound(config)
    book = make_book(config, samples, renderer)
    one = Situation(
        config=config,
        shape=read_shape(config.model.path),
        workload=measure(config, book, FeatureExtractor(config.model.path), answers(config, None, None), 4),
        machines=machines(None, HardwareConfig(), None, 0),
    )
    found = calibrate(one, book, clock="wall", repeats=1)
    assert set(found.rates) == {"rollout", "teacher", "learner"}
    assert all(sum(rates.seconds.values()) > 0 for rates in found.rates.values())
    assert found.rates["learner"].base_bytes > 1e8 and 0 < found.answers.mean <= 6
    planned = replace(one, calibration=found)
    assert planned.durations is not None and steady(planned.durations).step > 0


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"objective": {"reward": {}}}, "objective.reward is not measured"),
        ({"objective": {"divergence": "cross_entropy"}}, "there is nothing to measure"),
        ({"weights": {"transport": "nccl"}}, "weights.transport: nccl is not measured"),
    ],
)
def test_what_a_calibration_cannot_measure(sections: dict[str, dict[str, object]], said: str):
    with pytest.raises(CalibrationError, match=said):
        measurable(large_config(**sections))
