"""Actors on Ray: the only file with `.remote(`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError, RuntimeEnvSetupError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from cluster.knock import require_entry
from cluster.output_guard import guard_output, secret_variables, without_secrets
from cluster.placement import Group, require_fit, slots
from cluster.runtime import Actor, NotEnoughResources, Ref, Resources, Runtime, RuntimeFault
from cluster.versions import VersionMismatch, Versions, own_versions, require_same

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")

NODE_SECONDS, PLACE_SECONDS = 60.0, 60.0
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver:
    """What an actor takes over from the driver, or must have in common with it."""

    folder: str
    files: Mapping[str, str]
    versions: Versions | None
    secrets: tuple[str, ...] = field(default_factory=secret_variables)
    """Variables whose values the actor hides; names only."""


def _join(driver: Driver, where: str) -> None:
    """Work where the driver works, with what it works with. Raises RuntimeFault or VersionMismatch."""
    try:
        os.chdir(driver.folder)
    except OSError as error:
        raise RuntimeFault(
            f"{where}: the driver works in {driver.folder}, which its node does not have ({error.strerror}); "
            "share the folder, or submit with another --workdir"
        ) from error
    if driver.versions is not None:
        require_same(driver.versions, own_versions(driver.files), where)


def _node_versions(driver: Driver) -> Versions:
    os.chdir(driver.folder)
    return own_versions(driver.files)


class _Host:
    """The actor process: holds one instance and runs methods on it.

    What the construction raises is kept and raised again by every call: Ray itself would only say that
    the actor died.
    """

    def __init__(
        self,
        name: str,
        driver: Driver,
        cls: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        guard_output(driver.secrets)
        self.instance: Any = None
        self.error: BaseException | None = None
        try:
            _join(driver, name)
            self.instance = cls(*args, **kwargs)
        except Exception as error:
            self.error = without_secrets(error)

    def run(self, method: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.error is not None:
            raise self.error
        try:
            return method(self.instance, *args, **kwargs)
        except Exception as error:
            # Ray writes it to its logs and records, and so may whoever asked
            if (clean := without_secrets(error)) is not error:
                raise clean from None
            raise


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
        if ":" in address:
            require_entry(address)
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
        self._driver = Driver(folder=os.getcwd(), files={}, versions=None)
        self._groups: list[Any] = []
        self._slots: dict[str, tuple[int, int, Resources]] = {}

    def require_same(self, files: Mapping[str, str]) -> None:
        self._driver = Driver(folder=os.getcwd(), files=files, versions=own_versions(files))
        task: Any = ray.remote(_node_versions)
        nodes = [node for node in ray.nodes() if node["Alive"]]
        asked = [
            task.options(
                num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ).remote(self._driver)
            for node in nodes
        ]
        for node, ref in zip(nodes, asked, strict=True):
            where = f"node {node['NodeName']}"
            try:
                there = ray.get(ref, timeout=NODE_SECONDS)
            except (RayTaskError, RuntimeEnvSetupError) as error:
                raise VersionMismatch(f"{where} cannot run this program: {_last_line(error)}") from error
            except GetTimeoutError as error:
                raise RuntimeFault(f"{where}: no answer within {NODE_SECONDS:.0f} s") from error
            require_same(self._own_versions(), there, where)

    def _own_versions(self) -> Versions:
        assert self._driver.versions is not None
        return self._driver.versions

    def reserve(self, groups: Sequence[Group]) -> None:
        require_fit(groups, [node["Resources"] for node in ray.nodes() if node["Alive"]])
        for group in groups:
            made = placement_group([one.asked() for one in group.bundles], strategy=group.strategy)
            self._groups.append(made)
            if not made.wait(PLACE_SECONDS):
                raise NotEnoughResources(
                    f"{group.name}: its {len(group.bundles)} bundles found no place within {PLACE_SECONDS:.0f} s; "
                    "is another run on this cluster? (omniopsd-cluster status)"
                )
        self._slots = {actor: (at, index, share) for actor, at, index, share in slots(groups)}

    def start(
        self, name: str, resources: Resources, cls: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Actor[T]:
        host: Any = ray.remote(_Host)
        handle = host.options(
            # unique, so that `omniopsd-cluster logs --role` finds it and a successor may have the same role
            name=f"{name}#{len(self._actors)}",
            **self._place(name, resources),
            max_restarts=0,
            max_task_retries=0,
            runtime_env={"env_vars": dict(resources.env)},
        ).remote(name, self._driver, cls, args, kwargs)
        self._actors.append(handle)
        return RayActor(name, handle)

    def _place(self, name: str, resources: Resources) -> dict[str, Any]:
        if name not in self._slots:
            return {"num_cpus": resources.cpus, "num_gpus": resources.gpus}
        at, index, share = self._slots[name]
        strategy = PlacementGroupSchedulingStrategy(self._groups[at], placement_group_bundle_index=index)
        return {"num_cpus": share.cpus, "num_gpus": share.gpus, "scheduling_strategy": strategy}

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
        for group in self._groups:
            remove_placement_group(group)
        self._groups.clear()
        ray.shutdown()


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
