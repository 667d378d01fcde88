"""Both runtimes keep the same rules, and give the same numbers."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import numpy as np
import pytest

from cluster.config import RuntimeConfig
from cluster.runtime import NotEnoughResources, Ref, Resources, Runtime, fetch, start_runtime
from rollout.types import RecordError


class Counter:
    """A component with state of its own."""

    def __init__(self, start: int) -> None:
        self.total = start
        self.kept: list[np.ndarray] = []

    def add(self, number: int) -> int:
        self.total += number
        return self.total

    def keep(self, array: np.ndarray) -> bool:
        self.kept.append(array)
        return array.flags.writeable

    def opened(self, refs: list[Ref[int]]) -> int:
        return sum(fetch(refs, 10.0))

    def fail(self) -> None:
        raise RecordError("of its own type")

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def die(self) -> None:
        os._exit(1)


class Rank:
    """One of several that make every call together."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def number(self, add: int) -> int:
        return self.rank + add

    def fail(self, *, on: tuple[int, ...], wait: float = 0.0) -> int:
        if self.rank in on:
            raise RecordError(f"on {self.rank}")
        time.sleep(wait)
        return self.rank

    def die(self, *, on: int) -> None:
        if self.rank == on:
            os._exit(1)
        raise ConnectionError("lost a peer")


@pytest.fixture(scope="module", params=["inline", pytest.param("ray", marks=pytest.mark.slow)])
def runtime(request: pytest.FixtureRequest) -> Iterator[Runtime]:
    made = start_runtime(RuntimeConfig(kind=request.param, cpus=8))
    yield made
    made.shutdown()


def test_calls_of_one_actor_run_in_order(runtime: Runtime) -> None:
    actor = runtime.start("counter", Resources(), Counter, 10)
    assert fetch([actor.call(Counter.add, number) for number in (1, 2, 3)], 60.0) == [11, 13, 16]


def test_arguments_are_copies_and_arrays_arrive_read_only(runtime: Runtime) -> None:
    actor = runtime.start("keeper", Resources(), Counter, 0)
    array = np.zeros(100_000)
    assert actor.call(Counter.keep, array).get(60.0) is False
    array[0] = 1.0  # the sender's own is still writeable


def test_refs_travel_inside_lists(runtime: Runtime) -> None:
    one, two = (runtime.start(name, Resources(), Counter, 0) for name in ("one", "two"))
    assert two.call(Counter.opened, [one.call(Counter.add, 5), runtime.put(7)]).get(60.0) == 12


def test_a_failure_keeps_its_type(runtime: Runtime) -> None:
    actor = runtime.start("failing", Resources(), Counter, 0)
    with pytest.raises(RecordError, match="of its own type"):
        actor.call(Counter.fail).get(60.0)


def test_more_than_the_machine_has_is_refused(runtime: Runtime) -> None:
    with pytest.raises(NotEnoughResources, match="GPU"):
        runtime.require([Resources(cpus=1, gpus=1)])
