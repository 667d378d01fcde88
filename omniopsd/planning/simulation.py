"""The same loop as discrete events (SimPy), with what no formula has: slow actors, failures, noise.

    training   claim -> generate -> score -> train -> push      processes of one SimPy environment
    failures   one actor's death ends the step: back to the newest checkpoint after `restart_seconds`

Without noise a step is that of `timeline.run_steps`, which shares no code with this.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from statistics import mean, quantiles
from typing import Any

import simpy

from omniopsd.planning.timeline import Durations, StepTimes

HOUR = 3600.0
Process = Generator[simpy.Event, Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """`stragglers`: sigma of each actor's slow-down exp(|N(0, sigma)|), drawn once; `jitter`: sigma of each task's.

    A task's own factor is lognormal with mean 1.
    """

    stragglers: float = 0.0
    jitter: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Failures:
    """One GPU fails every `mtbf_hours`; a checkpoint every `every` steps takes `save_seconds`."""

    mtbf_hours: float
    restart_seconds: float
    save_seconds: float
    every: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulated:
    """Means over the simulated steps, the 95th percentile of a step, and the share of time that failures took."""

    times: StepTimes
    slowest: float
    lost: float = 0.0
    failures: int = 0


class Actor:
    """One actor: does its tasks one by one in the order in which they were asked for."""

    def __init__(self, env: simpy.Environment, slow: float, jitter: float, draw: random.Random) -> None:
        self._env, self._queue = env, simpy.Resource(env, capacity=1)
        self._slow, self._jitter, self._draw = slow, jitter, draw

    def ask(self, seconds: float, name: int = 0) -> simpy.Process:
        """Queue a task: an event whose value is `name`."""
        factor = math.exp(self._draw.gauss(-(self._jitter**2) / 2, self._jitter)) if self._jitter else 1.0
        return self._env.process(self._work(seconds * self._slow * factor, name, self._queue.request()))

    def _work(self, seconds: float, name: int, turn: Any) -> Process:
        yield turn
        yield self._env.timeout(seconds)
        self._queue.release(turn)
        return name


class World:
    """The actors of one run and its driver."""

    def __init__(self, durations: Durations, noise: Noise, ranks: int = 1) -> None:
        self.durations, self.env, self.times = durations, simpy.Environment(), list[StepTimes]()
        draw = random.Random(noise.seed)

        def made(number: int, of: int = 1) -> list[Actor]:
            # a group of ranks is as fast as its slowest
            slow = [
                max(math.exp(abs(draw.gauss(0.0, noise.stragglers))) for _ in range(of))
                for _ in range(number)
            ]
            factors = slow if noise.stragglers else [1.0] * number
            return [Actor(self.env, factor, noise.jitter, draw) for factor in factors]

        self.engines, self.teachers = made(durations.engines), made(durations.teachers)
        self.learner = made(1, ranks)[0]

    def run(self, steps: int) -> list[StepTimes]:
        """The first `steps` steps."""
        self.env.run(self.env.process(self._driver(steps)))
        return self.times

    def _driver(self, steps: int) -> Process:
        durations, env, turn = self.durations, self.env, count()
        claimed: deque[list[simpy.Process]] = deque()
        for step in range(1, steps + 1):
            begin = env.now
            yield env.timeout(durations.driver)
            while len(claimed) < min(steps, step + durations.lag) - step + 1:
                claimed.append(
                    [
                        self.engines[at % durations.engines].ask(seconds, at)
                        for at, seconds in enumerate(durations.generate)
                    ]
                )
            scores: list[simpy.Process] = []
            yield env.process(self._collect(claimed.popleft(), scores, turn))
            collected = env.now
            yield simpy.AllOf(env, scores)
            yield self.learner.ask(durations.train)
            trained = env.now
            yield env.process(self._push())
            self.times.append(
                StepTimes(
                    rollout=collected - begin,
                    learner=trained - collected,
                    push=env.now - trained,
                    step=env.now - begin,
                )
            )

    def _collect(
        self, pending: list[simpy.Process], scores: list[simpy.Process], turn: Iterator[int]
    ) -> Process:
        """Ask for scores as the driver finds calls done, the first asked for first."""
        ready: list[int] = []
        wake = [self.env.event()]

        def ended(event: Any) -> None:
            heappush(ready, event.value)
            if not wake[0].triggered:
                wake[0].succeed()

        for call in pending:
            if call.callbacks is None:  # has ended before the driver looked
                heappush(ready, call.value)
            else:
                call.callbacks.append(ended)
        for _ in pending:
            if not ready:
                wake[0] = self.env.event()
                yield wake[0]
                yield self.env.timeout(0)  # whatever else ends at this very time
            number = heappop(ready)
            for _ in range(self.durations.passes if self.teachers else 0):
                teacher = self.teachers[next(turn) % len(self.teachers)]
                scores.append(teacher.ask(self.durations.score[number]))

    def _push(self) -> Process:
        durations = self.durations
        yield self.learner.ask(durations.publish)
        update = durations.teacher_update
        receivers = [teacher.ask(update) for teacher in self.teachers] if update is not None else []
        receivers += [engine.ask(durations.engine_update) for engine in self.engines]
        yield simpy.AllOf(self.env, receivers)
        yield self.learner.ask(durations.probe)


def simulate(durations: Durations, noise: Noise, steps: int = 24, ranks: int = 1) -> Simulated:
    """Some steps in the middle of a run."""
    settle = durations.lag + 2
    times = World(durations, noise, ranks).run(settle + steps + durations.lag)[settle : settle + steps]
    whole = [one.step for one in times]
    return Simulated(
        times=StepTimes(
            rollout=mean(one.rollout for one in times),
            learner=mean(one.learner for one in times),
            push=mean(one.push for one in times),
            step=mean(whole),
        ),
        slowest=quantiles(whole, n=20)[-1] if len(whole) > 1 else whole[0],
    )


def with_failures(
    one: Simulated, failures: Failures, gpus: int, steps: int = 4000, seed: int = 0
) -> Simulated:
    """The same under failures: what they cost of a long run's time (checkpoints, lost steps and restarts)."""
    env, draw, state = simpy.Environment(), random.Random(seed), {"step": 0, "saved": 0, "failures": 0}
    step_seconds = one.times.step

    def training() -> Process:
        while state["step"] < steps:
            try:
                yield env.timeout(step_seconds)
                state["step"] += 1
                if state["step"] % failures.every == 0:
                    yield env.timeout(failures.save_seconds)
                    state["saved"] = state["step"]
            except simpy.Interrupt:
                state["failures"] += 1
                state["step"] = state["saved"]
                yield from _restart(env, failures.restart_seconds)

    def breaking(run: simpy.Process) -> Process:
        while run.is_alive:
            yield env.timeout(draw.expovariate(gpus / (failures.mtbf_hours * HOUR)))
            if run.is_alive:
                run.interrupt()

    run = env.process(training())
    env.process(breaking(run))
    limit = env.timeout(1000 * steps * step_seconds)
    env.run(simpy.AnyOf(env, [run, limit]))
    useful = state["step"] * step_seconds
    return Simulated(
        times=one.times,
        slowest=one.slowest,
        lost=max(0.0, 1.0 - useful / env.now),
        failures=state["failures"],
    )


def _restart(env: simpy.Environment, seconds: float) -> Process:
    """Until a start goes through whole: a failure during it begins it anew."""
    while True:
        try:
            yield env.timeout(seconds)
            return
        except simpy.Interrupt:
            continue
