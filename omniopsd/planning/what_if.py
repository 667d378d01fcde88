"""What-ifs over the simulated loop: GPU counts, policy lags, slow actors, failures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from cluster.placement import ROLLOUT_LEARNER, TEACHER_LEARNER
from omniopsd.build import has_pool, roles
from omniopsd.config import RunConfig
from omniopsd.planning.balance import split_config
from omniopsd.planning.hardware import Machines
from omniopsd.planning.plan import NO_RATES
from omniopsd.planning.simulation import Failures, Noise, Simulated, simulate, with_failures
from omniopsd.planning.situation import Situation


class WhatIfError(ValueError):
    """A question that this run cannot be asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One scale and lag, and what came of it."""

    gpus: int
    engines: int
    teachers: int
    ranks: int
    samples: int
    lag: int
    result: Simulated

    @property
    def rate(self) -> float:
        """Samples per second, failures counted."""
        return self.samples / self.result.times.step * (1.0 - self.result.lost)


def what_if(
    one: Situation,
    *,
    gpus: Sequence[int],
    lags: Sequence[int],
    scale_batch: bool,
    noise: Noise,
    failures: Failures | None,
) -> list[Case]:
    """Simulate every count of GPUs under every lag; without counts the run as it is. Raises WhatIfError."""
    if one.durations is None:
        raise WhatIfError(f"--simulate: {NO_RATES}")
    base = gpus_of(one.config)
    if gpus and not base:
        raise WhatIfError("--gpus: no role of this run has a GPU; set rollout.gpus and learner.gpus first")
    cases = []
    for count in gpus or (base,):
        scaled = scale(one, count, scale_batch) if gpus else one
        for lag in lags:
            cases.append(_case(_with_lag(scaled, lag), count, noise, failures))
    return cases


def gpus_of(config: RunConfig) -> int:
    """GPUs that the actors of a config take, shared ones once."""
    own = {role.name: role.resources.gpus * len(role.actors) for role in roles(config)}
    if config.runtime.colocate == TEACHER_LEARNER and has_pool(config):
        own["teacher"] = 0.0
    if config.runtime.colocate == ROLLOUT_LEARNER:
        own["rollout"] = 0.0
    return round(sum(own.values()))


def scale(one: Situation, gpus: int, scale_batch: bool) -> Situation:
    """The run on another number of GPUs in the same proportions, at least one actor a role.

    Raises WhatIfError when the actors of one of each role need more.
    """
    config, base = one.config, gpus_of(one.config)
    factor = gpus / base
    counts = [max(1, int(count * factor)) for count in _counts(config)]
    other = split_config(config, *counts)
    if gpus_of(other) > gpus:
        raise WhatIfError(f"--gpus {gpus}: one actor of each role needs {gpus_of(other)} GPUs; ask for more")
    if scale_batch:
        samples = max(1, round(config.run.samples_per_step * factor))
        other = other.model_copy(update={"run": config.run.model_copy(update={"samples_per_step": samples})})
    return replace(one, config=other, machines=_machines(one.machines, gpus))


def table(cases: Sequence[Case]) -> Iterator[str]:
    """The cases as text; efficiency is samples per second and GPU against the first line."""
    yield (
        f"{'GPUs':>6}{'engines':>9}{'teachers':>10}{'ranks':>7}{'samples':>9}{'lag':>5}{'step s':>10}{'p95 s':>9}"
        f"{'rollout':>9}{'learner':>9}{'push':>8}{'samples/s':>11}{'lost':>7}{'efficiency':>12}"
    )
    first = cases[0].rate / max(1, cases[0].gpus)
    for case in cases:
        times, efficiency = case.result.times, case.rate / max(1, case.gpus) / first
        yield (
            f"{case.gpus:>6}{case.engines:>9}{case.teachers:>10}{case.ranks:>7}{case.samples:>9}{case.lag:>5}"
            f"{times.step:>10.3g}{case.result.slowest:>9.3g}{times.rollout:>9.3g}{times.learner:>9.3g}"
            f"{times.push:>8.3g}{case.rate:>11.4g}{case.result.lost:>7.1%}{efficiency:>12.0%}"
        )


def as_rows(cases: Sequence[Case]) -> list[dict[str, Any]]:
    """The cases for programs."""
    return [asdict(case) | {"samples_per_second": case.rate} for case in cases]


def _case(one: Situation, gpus: int, noise: Noise, failures: Failures | None) -> Case:
    assert one.durations is not None  # the caller has looked
    steps = 24 if len(one.calls) < 100 else 6
    found = simulate(one.durations, noise, steps, one.config.learner.ranks)
    if failures is not None:
        found = with_failures(found, failures, max(1, gpus), seed=noise.seed)
    engines, teachers, ranks = _counts(one.config)
    return Case(
        gpus=gpus,
        engines=engines,
        teachers=teachers if has_pool(one.config) else 0,
        ranks=ranks,
        samples=one.config.run.samples_per_step,
        lag=one.config.rollout.max_policy_lag,
        result=found,
    )


def _counts(config: RunConfig) -> tuple[int, int, int]:
    return config.rollout.replicas, config.teacher.replicas, config.learner.ranks


def _with_lag(one: Situation, lag: int) -> Situation:
    rollout = one.config.rollout.model_copy(update={"max_policy_lag": lag})
    return one.with_config(one.config.model_copy(update={"rollout": rollout}))


def _machines(machines: Machines, gpus: int) -> Machines:
    """As many nodes of the same kind as the GPUs need."""
    node = max(machines.nodes, key=lambda one: one.gpus)
    each = max(1, min(node.gpus, 8))
    return replace(machines, nodes=(replace(node, count=-(-gpus // each), gpus=each),))
