"""One step after another as the loop makes them, with known durations: when each stage ends. Pure.

    engine 0   [generate 0][generate 2]                           [update]
    engine 1   [generate 1]                                       [update]
    teacher 0             [score 0][score 2]                      [update]
    learner                                 [train step][publish]          [probe]
               |------ rollout -----|------ learner ----|-------- push --------|

Actors do one thing at a time in the order in which they were asked (`cluster/runtime.py`); a score is asked for
when the driver has the answers (`omniopsd/loop.py`). Actors whose threads outnumber the cores share them evenly.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count

EPSILON = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Durations:
    """Seconds of every task when it runs alone, how many of each actor there are, and the order's rules."""

    generate: tuple[float, ...]
    score: tuple[float, ...]
    train: float
    publish: float
    engine_update: float
    teacher_update: float | None
    probe: float
    engines: int
    teachers: int
    passes: int = 1
    lag: int = 0
    driver: float = 0.0
    threads: tuple[float, float, float] = (0.0, 0.0, 0.0)
    cores: float = float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTimes:
    """Seconds of the stages of one step, as `metrics.jsonl` has them."""

    rollout: float
    learner: float
    push: float
    step: float


@dataclass(slots=True, kw_only=True, eq=False)
class Task:
    """Something an actor has to do: seconds left when it has its threads for itself, and when it ended."""

    left: float
    threads: float
    number: int
    end: float | None = None


class Flow:
    """Actors with their queues; time goes on in `wait`. With cores to spare every end is known when asked for."""

    def __init__(self, cores: float) -> None:
        self.cores, self.now, self._count = cores, 0.0, 0
        self._free: dict[str, float] = {}
        self._queues: dict[str, deque[Task]] = {}

    def ask(self, actor: str, seconds: float, threads: float, number: int = 0) -> Task:
        """Queue a task; `number` is the caller's own name for it."""
        task = Task(left=seconds, threads=threads, number=number)
        if math.isinf(self.cores):
            task.end = self._free[actor] = max(self.now, self._free.get(actor, 0.0)) + seconds
        else:
            self._queues.setdefault(actor, deque()).append(task)
        return task

    def in_order(self, tasks: Sequence[Task]) -> Iterator[Task]:
        """The tasks as the driver finds them done, the first asked for first; time stands where it found them."""
        waiting = dict(enumerate(tasks))
        if math.isinf(self.cores):
            yield from self._known(waiting)
            return
        while waiting:
            at = next((at for at, task in waiting.items() if task.end is not None), None)
            if at is None:
                self._advance()
            else:
                yield waiting.pop(at)

    def _known(self, tasks: dict[int, Task]) -> Iterator[Task]:
        """As `in_order`, where every end is known."""
        ends = deque(sorted((task.end or 0.0, at) for at, task in tasks.items()))
        ready: list[int] = []
        for _ in range(len(ends)):
            if not ready:
                self.now = max(self.now, ends[0][0])
            while ends and ends[0][0] <= self.now:
                heappush(ready, ends.popleft()[1])
            yield tasks[heappop(ready)]

    def wait(self, tasks: Sequence[Task]) -> None:
        """Go on until all of them are done."""
        for _ in self.in_order(tasks):
            pass

    def _advance(self) -> None:
        """To the end of the next task of any actor; those that run share the cores evenly."""
        running = {actor: queue[0] for actor, queue in self._queues.items() if queue}
        wanted = sum(task.threads for task in running.values())
        speed = 1.0 if wanted <= self.cores else self.cores / wanted
        passed = min(task.left for task in running.values()) / speed
        self.now += passed
        for actor, task in running.items():
            task.left -= passed * speed
            if task.left <= EPSILON:
                task.end = self.now
                self._queues[actor].popleft()


def run_steps(durations: Durations, steps: int) -> list[StepTimes]:
    """The stages of each of the first `steps` steps."""
    flow, turn = Flow(durations.cores), count()
    times: list[StepTimes] = []
    claimed: deque[list[Task]] = deque()
    for step in range(1, steps + 1):
        begin = flow.now
        flow.now += durations.driver
        while len(claimed) < min(steps, step + durations.lag) - step + 1:
            claimed.append(_claim(flow, durations))
        scores: list[Task] = []
        for done in flow.in_order(claimed.popleft()):
            scores += _scores(flow, durations, done.number, turn)
        collected = flow.now
        flow.wait(scores)
        flow.wait([flow.ask("learner", durations.train, durations.threads[2])])
        trained = flow.now
        _push(flow, durations)
        times.append(
            StepTimes(
                rollout=collected - begin,
                learner=trained - collected,
                push=flow.now - trained,
                step=flow.now - begin,
            )
        )
    return times


def steady(durations: Durations, steps: int | None = None) -> StepTimes:
    """One step in the middle of a run: means over some steps after the queues have filled."""
    settle = durations.lag + 2
    # the last `lag` steps have nothing more to generate ahead
    measured = steps or max(4, 2 * (durations.lag + 1))
    times = run_steps(durations, settle + measured + durations.lag)[settle : settle + measured]
    return StepTimes(
        rollout=sum(t.rollout for t in times) / len(times),
        learner=sum(t.learner for t in times) / len(times),
        push=sum(t.push for t in times) / len(times),
        step=sum(t.step for t in times) / len(times),
    )


def _claim(flow: Flow, durations: Durations) -> list[Task]:
    return [
        flow.ask(f"rollout-{at % durations.engines}", seconds, durations.threads[0], at)
        for at, seconds in enumerate(durations.generate)
    ]


def _scores(flow: Flow, durations: Durations, call: int, turn: Iterator[int]) -> list[Task]:
    """Score calls for the answers of one generate call, each to the next teacher in turn."""
    if not durations.teachers:
        return []
    return [
        flow.ask(f"teacher-{next(turn) % durations.teachers}", durations.score[call], durations.threads[1])
        for _ in range(durations.passes)
    ]


def _push(flow: Flow, durations: Durations) -> None:
    rollout, teacher, learner = durations.threads
    flow.wait([flow.ask("learner", durations.publish, learner)])
    update = durations.teacher_update
    names = range(durations.teachers if update is not None else 0)
    receivers = [flow.ask(f"teacher-{at}", update or 0.0, teacher) for at in names]
    receivers += [
        flow.ask(f"rollout-{at}", durations.engine_update, rollout) for at in range(durations.engines)
    ]
    flow.wait(receivers)
    flow.wait([flow.ask("learner", durations.probe, learner)])
