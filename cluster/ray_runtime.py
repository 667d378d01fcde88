"""Actors on Ray: the only file with `.remote(`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from cluster.runtime import Actor, NotEnoughResources, Ref, Resources, Runtime, RuntimeFault

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")

REPOSITORY = str(Path(__file__).resolve().parents[1])


class RayRef(Ref[R]):
    """A `Ref` over an object ref; its owner may be any process of the cluster."""

    def __init__(self, object_ref: Any, origin: str) -> None:
        self.object_ref, self.origin = object_ref, origin

    def get(self, timeout: float | None = None) -> R:
        try:
            return ray.get(self.object_ref, timeout=timeout)
        except GetTimeoutError as error:
            raise RuntimeFault(f"{self.origin}: no answer within {timeout:.0f} s") from error
        except RayTaskError as error:
            cause = error.cause if isinstance(error.cause, Exception) else error
            raise cause from error
        except RayActorError as error:
            raise RuntimeFault(f"{self.origin}: the actor died: {error}") from error

    def __reduce__(self) -> Any:
        return RayRef, (self.object_ref, self.origin)


class _Host:
    """The actor process: holds one instance and runs methods on it.

    What the construction raises is kept and raised again by every call: Ray itself would only say that
    the actor died.
    """

    def __init__(self, cls: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.instance: Any = None
        self.error: Exception | None = None
        try:
            self.instance = cls(*args, **kwargs)
        except Exception as error:
            self.error = error

    def run(self, method: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.error is not None:
            raise self.error
        return method(self.instance, *args, **kwargs)


class RayActor(Actor[T]):
    """One Ray actor; never restarted, never retried: the loop keeps identity, not Ray."""

    def __init__(self, name: str, handle: Any) -> None:
        self.name, self.handle = name, handle

    def call(self, method: Callable[Concatenate[T, P], R], /, *args: P.args, **kwargs: P.kwargs) -> Ref[R]:
        origin = f"{self.name}.{getattr(method, '__name__', method)}"
        return RayRef(self.handle.run.remote(method, args, kwargs), origin)


class RayRuntime(Runtime):
    """Ray on this machine (`address="local"`) or on a running cluster."""

    def __init__(self, *, address: str, cpus: int | None, object_store_bytes: int | None) -> None:
        """Connect, or start a private local Ray; never joins a cluster that was not named.

        Inside `ray job submit` the address is the job's own cluster (`RAY_ADDRESS`).
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        local = address == "local"
        path = os.pathsep.join(filter(None, [REPOSITORY, os.environ.get("PYTHONPATH", "")]))
        ray.init(
            address=address,
            num_cpus=cpus if local else None,
            object_store_memory=object_store_bytes if local else None,
            include_dashboard=False if local else None,
            # actors write to Ray's log folder; what fails there is raised here with its own message
            log_to_driver=bool(os.environ.get("OMNIOPSD_DEBUG")),
            logging_level="error",
            runtime_env={"env_vars": {"PYTHONPATH": path}} if local else None,
        )
        self._actors: list[Any] = []

    def start(
        self, name: str, resources: Resources, cls: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Actor[T]:
        host: Any = ray.remote(_Host)
        handle = host.options(
            num_cpus=resources.cpus,
            num_gpus=resources.gpus,
            max_restarts=0,
            max_task_retries=0,
            runtime_env={"env_vars": dict(resources.env)},
        ).remote(cls, args, kwargs)
        self._actors.append(handle)
        return RayActor(name, handle)

    def put(self, value: R) -> Ref[R]:
        return RayRef(ray.put(value), "put")

    def wait(self, refs: Sequence[Ref[Any]], timeout: float) -> int:
        objects = [ref.object_ref for ref in refs if isinstance(ref, RayRef)]
        done, _ = ray.wait(objects, num_returns=1, timeout=timeout, fetch_local=False)
        if not done:
            waiting = ", ".join(sorted({ref.origin for ref in refs if isinstance(ref, RayRef)}))
            raise RuntimeFault(f"{waiting}: no answer within {timeout:.0f} s")
        return objects.index(done[0])

    def require(self, needs: Sequence[Resources]) -> None:
        have = ray.cluster_resources()
        for key, asked in (
            ("CPU", sum(need.cpus for need in needs)),
            ("GPU", sum(need.gpus for need in needs)),
        ):
            if asked > have.get(key, 0.0):
                raise NotEnoughResources(
                    f"the placement asks for {asked:g} {key}s and the cluster has {have.get(key, 0.0):g}: "
                    f"lower the replicas or the {key.lower()}s of a role, or add machines"
                )

    def shutdown(self) -> None:
        for handle in self._actors:
            ray.kill(handle)
        self._actors.clear()
        ray.shutdown()
