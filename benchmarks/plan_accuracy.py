"""How near `omniopsd plan` comes: one calibration, then other configurations of real runs, predicted and measured.

    python benchmarks/plan_accuracy.py --out benchmarks/results/plan_accuracy.json

Real vLLM, DeepSpeed and Ray on the demo's student, one thread a role, started once; every configuration trains on
samples that no actor has seen. Two clocks: wall seconds of the loop's stages, which other programs on the machine
disturb (its load is written down), and processor seconds of each actor, which they disturb little. Then the
simulation against sleeping actors under the real loop.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

from cluster.runtime import Actor, Runtime, start_runtime
from omniopsd.build import Parts, make_parts
from omniopsd.check import require_sound
from omniopsd.config import RunConfig
from omniopsd.config_file import load_config
from omniopsd.demo import CONFIG, STUDENT
from omniopsd.loop import TrainLoop
from omniopsd.mer_mini.write import write_mer_mini
from omniopsd.planning import probes
from omniopsd.planning.calibrate import Calibrator
from omniopsd.planning.calibration import Calibration
from omniopsd.planning.config import HardwareConfig
from omniopsd.planning.hardware import machines
from omniopsd.planning.model_shape import read_shape
from omniopsd.planning.plan import roles_memory
from omniopsd.planning.simulation import Noise, simulate
from omniopsd.planning.situation import Situation
from omniopsd.planning.sleeping import rehearse
from omniopsd.planning.timeline import Durations, steady
from omniopsd.planning.workload import answers, measure
from omniopsd.prompts import PromptBook, make_book
from rollout.features import FeatureExtractor

CLIPS, STEPS = 256, 3
CALIBRATED = {"run.samples_per_step": 8}
VARIANTS: dict[str, dict[str, int]] = {
    "16 samples": {"run.samples_per_step": 16},
    "answers of at most 16": {"run.samples_per_step": 16, "rollout.max_new_tokens": 16},
    "calls of 2 samples": {"run.samples_per_step": 8, "rollout.samples_per_call": 2},
    "8 answers a sample": {"rollout.rollouts_per_sample": 8, "rollout.samples_per_call": 4},
}


def main() -> None:
    """Measure and write the table."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--out", required=True, metavar="FILE", help="JSON file to write")
    options.add_argument(
        "--steps", type=int, default=STEPS, help=f"steps of each configuration (default {STEPS})"
    )
    options.add_argument("--only-sleeping", action="store_true", help="leave the real runs out")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = write_mer_mini(Path(folder) / "clips", CLIPS, 101, "train")
        found: dict[str, Any] = {"load": {"before": os.getloadavg()[0]}, "cores": os.cpu_count()}
        if not given.only_sleeping:
            found |= real_runs(data, Path(folder), given.steps)
            Path(given.out).write_text(json.dumps(found, indent=1) + "\n")
        found["sleeping"] = sleeping(data, Path(folder))
        found["load"]["after"] = os.getloadavg()[0]
    Path(given.out).write_text(json.dumps(found, indent=1) + "\n")


def configured(data: Path, folder: Path, **keys: Any) -> RunConfig:
    """The demo, which has one thread a role, and some keys."""
    settings = {
        "run.root": folder,
        "model.path": STUDENT,
        "data.train": data,
        "data.test": "null",
        **keys,
    }
    return load_config(CONFIG, [f"{key}={value}" for key, value in settings.items()])


def real_runs(data: Path, folder: Path, steps: int) -> dict[str, Any]:
    """One start of all actors: calibration, then every variant."""
    config = configured(data, folder, **CALIBRATED)
    renderer, samples, _ = require_sound(config)
    runtime = start_runtime(config.runtime)
    try:
        parts = make_parts(config, runtime)
        one = situation(config, make_book(config, samples, renderer), None)
        parts.wait_ready()
        calibrations = {}
        for clock in ("cpu", "wall"):
            book = make_book(config, samples[-120:] if clock == "cpu" else samples[-180:-120], renderer)
            calibrations[clock] = Calibrator(one, runtime, parts, book, clock=clock, repeats=2).run()
        rows, first = [], 0
        held: dict[str, float] = {}
        for name, keys in VARIANTS.items():
            other = configured(data, folder, **{**CALIBRATED, **keys})
            count = steps * other.run.samples_per_step
            chosen = [samples[(first + at) % (len(samples) - 120)] for at in range(count)]
            first += count
            book = make_book(other, chosen, renderer)
            rows.append(variant(name, other, calibrations, runtime, parts, book, held, steps))
            print(json.dumps(rows[-1]), flush=True)
        return {
            "calibration": {clock: one.model_dump(mode="json") for clock, one in calibrations.items()},
            "calibrated_on": CALIBRATED,
            "configurations": rows,
        }
    finally:
        runtime.shutdown()


def situation(config: RunConfig, book: PromptBook, calibration: Calibration | None) -> Situation:
    """What `omniopsd plan` would plan with."""
    workload = measure(
        config, book, FeatureExtractor(config.model.path), answers(config, None, calibration), limit=16
    )
    # like with like: memory at the lengths that are to be expected, not at the limit
    workload = replace(workload, limit=math.ceil(workload.answers.longest))
    return Situation(
        config=config,
        shape=read_shape(config.model.path),
        workload=workload,
        machines=machines(None, HardwareConfig(), None, 0),
        calibration=calibration,
    )


def variant(
    name: str,
    config: RunConfig,
    calibrations: dict[str, Calibration],
    runtime: Runtime,
    parts: Parts,
    book: PromptBook,
    held: dict[str, float],
    steps: int,
) -> dict[str, Any]:
    """Predict one configuration under both clocks, then run it.

    A process keeps what a larger configuration before took, so the peaks expected so far are `held`.
    """
    planned = {clock: situation(config, book, one) for clock, one in calibrations.items()}
    parts.rollout.rollout = config.rollout
    actors = everyone(parts)
    for actor in actors.values():
        actor.call(probes.forget_peak).get()
    loop = TrainLoop(
        config,
        runtime=runtime,
        book=book,
        rollout=parts.rollout,
        teacher=parts.teacher,
        learner=parts.learner,
    )
    loop.version = parts.learner.version
    wall: list[dict[str, float]] = []
    used: list[dict[str, float]] = []
    lengths: list[float] = []
    for step in range(loop.version + 1, loop.version + steps + 1):
        before = spent(actors)
        outcome = loop.step(step, step)
        after = spent(actors)
        used.append({role: after[role] - before[role] for role in actors})
        wall.append(outcome.seconds)
        lengths += [len(r.response_ids) for group in outcome.groups for r in group.rollouts]
    cpu, clocked = planned["cpu"].durations, planned["wall"].durations
    assert cpu is not None and clocked is not None
    peaks = {role: actor.call(probes.peak_bytes).get() for role, actor in actors.items()}
    for role in roles_memory(planned["cpu"]):
        held[role.role] = max(held.get(role.role, 0.0), role.peak.value)
    return {
        "name": name,
        "steps": steps,
        "load": os.getloadavg()[0],
        "answers": {"mean": sum(lengths) / len(lengths), "predicted": planned["cpu"].workload.answers.mean},
        "cpu_seconds": compared(
            role_seconds(cpu), {role: median(one[role] for one in used) for role in actors}
        ),
        "wall_seconds": compared(
            asdict(steady(clocked)),
            {stage: median(one[stage] for one in wall) for stage in ("rollout", "learner", "push", "step")},
        ),
        "peak_bytes": compared(held, peaks),
    }


def everyone(parts: Parts) -> dict[str, Actor[Any]]:
    """The one actor of each role."""
    assert parts.teacher is not None  # the demo has one
    return {
        "rollout": parts.rollout.actors[0],
        "teacher": parts.teacher.actors[0],
        "learner": parts.learner.actors[0],
    }


def spent(actors: dict[str, Actor[Any]]) -> dict[str, float]:
    """Processor seconds of each actor so far."""
    return {role: actor.call(probes.used_seconds).get() for role, actor in actors.items()}


def role_seconds(durations: Durations) -> dict[str, float]:
    """What each role has to do in one step."""
    return {
        "rollout": sum(durations.generate) + durations.engine_update,
        "teacher": sum(durations.score) + (durations.teacher_update or 0.0),
        "learner": durations.train + durations.publish + durations.probe,
    }


def compared(predicted: dict[str, float], real: dict[str, float]) -> dict[str, dict[str, float]]:
    """Both, and the relative error of the prediction."""
    return {
        name: {"predicted": predicted[name], "real": value, "error": predicted[name] / value - 1.0}
        for name, value in real.items()
    }


def sleeping(data: Path, folder: Path) -> list[dict[str, Any]]:
    """The timeline, the simulation and sleeping actors under the real loop, for some shapes of run."""
    shapes: Sequence[dict[str, int]] = (
        {"rollout.replicas": 1, "teacher.replicas": 1, "learner.ranks": 1, "rollout.max_policy_lag": 0},
        {"rollout.replicas": 3, "teacher.replicas": 2, "learner.ranks": 2, "rollout.max_policy_lag": 0},
        {"rollout.replicas": 2, "teacher.replicas": 1, "learner.ranks": 1, "rollout.max_policy_lag": 1},
    )
    rows = []
    for shape in shapes:
        keys = {"run.samples_per_step": 12, "rollout.samples_per_call": 4, "runtime.cpus": 8, **shape}
        if shape["rollout.max_policy_lag"]:
            keys["objective.importance"] = "capped"  # type: ignore[assignment]
        config = configured(data, folder, **keys)
        rows.append({"shape": shape} | slept(config, steps=5))
        print(json.dumps(rows[-1]), flush=True)
    return rows


def slept(config: RunConfig, steps: int) -> dict[str, Any]:
    """One shape with made-up durations, long against what the loop itself costs."""
    one = Situation(
        config=config,
        shape=read_shape(config.model.path),
        workload=None,  # type: ignore[arg-type]
        machines=machines(None, HardwareConfig(), None, 0),
    )
    durations = Durations(
        generate=tuple(0.5 * size for size in one.calls),
        score=tuple(0.3 * size for size in one.calls),
        train=1.5,
        publish=0.4,
        engine_update=0.5,
        teacher_update=0.6,
        probe=0.1,
        engines=config.rollout.replicas,
        teachers=config.teacher.replicas,
        lag=config.rollout.max_policy_lag,
    )
    runtime = start_runtime(config.runtime)
    try:
        real = rehearse(config, runtime, durations, one.calls, steps + durations.lag)
    finally:
        runtime.shutdown()
    inner = real[1:steps]  # the first step finds nothing ahead, the last ones have nothing to look ahead to
    times = simulate(durations, Noise()).times
    return {
        "timeline": asdict(steady(durations)),
        "simulation": compared(
            asdict(times),
            {name: median(one[name] for one in inner) for name in ("rollout", "learner", "push", "step")},
        ),
    }


if __name__ == "__main__":
    main()
