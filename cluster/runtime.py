"""Where actors run: in this process (`inline`) or on Ray (`ray`); the loop cannot tell which.

The one place that knows Ray. A component is a plain class; `start` makes an actor of it, and
`actor.call(Class.method, ...)` runs one method there and gives a `Ref` to the answer. Passing the
method itself, not its name, lets the type checker see the arguments and the answer.

Rules that both runtimes keep:
- arguments and answers are copied by pickling (arrays arrive read-only), so no two actors share state;
- a `Ref` can be passed on, nested in lists and records too, and opened by its receiver with `fetch`;
- the calls of one actor run one at a time, in the order they were made;
- a wait has a deadline, and a failure is raised with its own type where the answer is opened.
"""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar

import cloudpickle

from cluster.config import RuntimeConfig

if TYPE_CHECKING:
    from cluster.placement import Group

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")

# how long the ranks that wait in a collective are asked why, after the first failure
LAST_WORD_SECONDS = 10.0


class RuntimeFault(RuntimeError):
    """An actor died, or did not answer in time."""


class NotEnoughResources(ValueError):
    """The machines have fewer CPUs or GPUs than the placement asks for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What one actor reserves, and the environment variables its process starts with."""

    cpus: float = 1.0
    gpus: float = 0.0
    env: Mapping[str, str] = field(default_factory=dict)


class Ref(ABC, Generic[R]):
    """A handle to a value that may still be on its way; picklable, opened with `get` or `fetch`."""

    @abstractmethod
    def get(self, timeout: float | None = None) -> R:
        """The value. Raises what the call raised, or `RuntimeFault` after `timeout` seconds."""


class Actor(ABC, Generic[T]):
    """One running component."""

    name: str

    @abstractmethod
    def call(self, method: Callable[Concatenate[T, P], R], /, *args: P.args, **kwargs: P.kwargs) -> Ref[R]:
        """Queue one method call; returns at once under Ray, after the call when inline."""


class Runtime(ABC):
    """Starts actors, keeps shared values, and takes all of them down again."""

    @abstractmethod
    def start(
        self, name: str, resources: Resources, cls: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Actor[T]:
        """Start one actor. Construction errors surface at its first call."""

    @abstractmethod
    def together(self, name: str, actors: Sequence[Actor[T]]) -> Actor[T]:
        """The ranks of one component as one actor: every call goes to all of them, and the first one answers.

        A call is done when all are. One that fails on every rank raises what it raised there. One that fails
        on some raises a `RuntimeFault` that names them, and soon: the others may be waiting for them. A rank
        that has failed once refuses every later call.
        """

    @abstractmethod
    def put(self, value: R) -> Ref[R]:
        """Store a value once, so that several calls can share it."""

    @abstractmethod
    def wait(self, refs: Sequence[Ref[Any]], timeout: float) -> int:
        """The index of one finished ref. Raises `RuntimeFault` after `timeout` seconds."""

    @abstractmethod
    def require(self, needs: Sequence[Resources]) -> None:
        """Raises `NotEnoughResources` when all `needs` together do not fit on the machines."""

    def reserve(self, groups: Sequence[Group]) -> None:
        """Hold the machines of a whole run; actors started later under a name in `groups` go to their place.

        Raises NotEnoughResources when they do not fit.
        """
        self.require(
            [share for group in groups for bundle in group.bundles for share in bundle.shares.values()]
        )

    @abstractmethod
    def require_same(self, files: Mapping[str, str]) -> None:
        """Raises VersionMismatch when a node has other code, packages or `files` (by name) than this process."""

    @abstractmethod
    def shutdown(self) -> None:
        """End every actor that this runtime started."""


def start_runtime(config: RuntimeConfig) -> Runtime:
    """The runtime that a config names."""
    if config.kind == "inline":
        return InlineRuntime()
    from cluster.ray_runtime import RayRuntime

    return RayRuntime(address=config.address, cpus=config.cpus, object_store_bytes=config.object_store_bytes)


def fetch(refs: Sequence[Ref[R]], timeout: float | None = None) -> list[R]:
    """Open refs in order; one deadline of `timeout` seconds for all of them."""
    end = None if timeout is None else time.monotonic() + timeout
    return [ref.get(None if end is None else max(0.0, end - time.monotonic())) for ref in refs]


# --- inline ------------------------------------------------------------------------------------


def _copy(value: Any) -> Any:
    """Pickle and unpickle as Ray does: buffers out of band, arrays read-only on arrival."""
    buffers: list[Any] = []
    data = cloudpickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    return cloudpickle.loads(data, buffers=[bytes(buffer.raw()) for buffer in buffers])


class InlineRef(Ref[R]):
    """A value that is already here, pickled or the error that took its place."""

    def __init__(self, value: Any = None, error: BaseException | None = None) -> None:
        self._value, self._error = value, error

    def get(self, timeout: float | None = None) -> R:
        if self._error is not None:
            raise self._error
        return self._value


class InlineActor(Actor[T]):
    """Calls at once, in this process, so that a debugger can step into them."""

    def __init__(self, name: str, instance: T) -> None:
        self.name, self._instance = name, instance

    def call(self, method: Callable[Concatenate[T, P], R], /, *args: P.args, **kwargs: P.kwargs) -> Ref[R]:
        args, kwargs = _copy((args, kwargs))
        return InlineRef(_copy(method(self._instance, *args, **kwargs)))


class InlineRuntime(Runtime):
    """Everything in this process; errors rise where they happen."""

    def start(
        self, name: str, resources: Resources, cls: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Actor[T]:
        for key, value in resources.env.items():
            os.environ[key] = value
        args, kwargs = _copy((args, kwargs))
        return InlineActor(name, cls(*args, **kwargs))

    def together(self, name: str, actors: Sequence[Actor[T]]) -> Actor[T]:
        raise NotEnoughResources(
            f"{name}: its {len(actors)} ranks need a process each, and runtime.kind inline is one; write kind: ray"
        )

    def put(self, value: R) -> Ref[R]:
        return InlineRef(_copy(value))

    def wait(self, refs: Sequence[Ref[Any]], timeout: float) -> int:
        return 0

    def require(self, needs: Sequence[Resources]) -> None:
        if sum(need.gpus for need in needs) > 0:
            raise NotEnoughResources(
                "runtime.kind is inline and a role asks for GPUs: inline shares one process; "
                "use runtime.kind: ray, or set the gpus of every role to 0"
            )

    def require_same(self, files: Mapping[str, str]) -> None:
        pass  # one process

    def shutdown(self) -> None:
        pass
