"""Actors on Ray: the only file with `.remote(`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError, RuntimeEnvSetupError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from cluster.addresses import NODE_ADDRESS
from cluster.knock import require_entry
from cluster.output_guard import guard_output, secret_variables, without_secrets
from cluster.placement import Group, require_fit, slots
from cluster.runtime import (
    LAST_WORD_SECONDS,
    Actor,
    NotEnoughResources,
    Ref,
    Resources,
    Runtime,
    RuntimeFault,
)
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
            os.environ[NODE_ADDRESS] = ray.util.get_node_ip_address()
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

    def run_rank(
        self,
        answers: bool,
        method: Callable[..., Any],
        given: tuple[tuple[Any, ...], dict[str, Any]],
    ) -> Any:
        """As one rank of several: out of step with the others after a failure, and silent unless it `answers`."""
        try:
            value = self.run(method, *given)
        except Exception as error:
            self.error = error
            raise
        return value if answers else None


class RayActor(Actor[T]):
    """One Ray actor; never restarted, never retried: the loop keeps identity, not Ray."""

    def __init__(self, name: str, handle: Any) -> None:
        self.name, self.handle = name, handle

    def call(self, method: Callable[Concatenate[T, P], R], /, *args: P.args, **kwargs: P.kwargs) -> Ref[R]:
        origin = f"{self.name}.{getattr(method, '__name__', method)}"
        return RayRef(self.handle.run.remote(method, args, kwargs), origin)


class RanksRef(Ref[R]):
    """One call of several ranks: the first one's value, when all of them are done."""

    def __init__(self, refs: Sequence[RayRef[Any]]) -> None:
        self.refs = tuple(refs)

    def get(self, timeout: float | None = None) -> R:
        end = None if timeout is None else time.monotonic() + timeout
        waiting, answers = list(self.refs), {}
        while waiting:
            ref = _first_done(waiting, None if end is None else max(0.0, end - time.monotonic()))
            if ref is None:
                raise RuntimeFault(f"{_origins(waiting)}: no answer within {timeout:.0f} s")
            waiting.remove(ref)
            try:
                answers[ref.origin] = ref.get()
            except Exception as error:
                raise self._cause({ref: error}, waiting) from error
        value: R = answers[self.refs[0].origin]
        return value

    def _cause(self, failed: dict[RayRef[Any], Exception], waiting: list[RayRef[Any]]) -> Exception:
        """What to raise for the failures of some ranks, after a last word of those that are still `waiting`."""
        end = time.monotonic() + LAST_WORD_SECONDS
        while waiting and (ref := _first_done(waiting, max(0.0, end - time.monotonic()))):
            waiting.remove(ref)
            try:
                ref.get()
            except Exception as error:
                failed[ref] = error
        if len(failed) == len(self.refs) and len({type(error) for error in failed.values()}) == 1:
            return failed[self.refs[0]]
        # a death before what others say who only noticed it
        told = sorted(failed.items(), key=lambda item: not isinstance(item[1], RuntimeFault))
        said = [
            str(error)
            if isinstance(error, RuntimeFault)
            else f"{ref.origin}: {type(error).__name__}: {error}"
            for ref, error in told
        ]
        return RuntimeFault("; ".join(said + ([f"{_origins(waiting)}: no answer since"] if waiting else [])))

    def __reduce__(self) -> Any:
        return RanksRef, (self.refs,)


def _first_done(refs: Sequence[RayRef[Any]], timeout: float | None) -> RayRef[Any] | None:
    done, _ = ray.wait([ref.object_ref for ref in refs], num_returns=1, timeout=timeout, fetch_local=False)
    return next((ref for ref in refs if ref.object_ref in done), None)


def _origins(refs: Sequence[RayRef[Any]]) -> str:
    return ", ".join(sorted({ref.origin for ref in refs}))


class RayRanks(Actor[T]):
    """The ranks of one component; their arguments are stored once for all of them."""

    def __init__(self, name: str, ranks: Sequence[RayActor[T]]) -> None:
        self.name, self.ranks = name, tuple(ranks)

    def call(self, method: Callable[Concatenate[T, P], R], /, *args: P.args, **kwargs: P.kwargs) -> Ref[R]:
        given, what = ray.put((args, kwargs)), getattr(method, "__name__", method)
        return RanksRef(
            [
                RayRef(rank.handle.run_rank.remote(index == 0, method, given), f"{rank.name}.{what}")
                for index, rank in enumerate(self.ranks)
            ]
        )


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

    def together(self, name: str, actors: Sequence[Actor[T]]) -> Actor[T]:
        return RayRanks(name, [actor for actor in actors if isinstance(actor, RayActor)])

    def put(self, value: R) -> Ref[R]:
        return RayRef(ray.put(value), "put")

    def wait(self, refs: Sequence[Ref[Any]], timeout: float) -> int:
        own = [ref for ref in refs if isinstance(ref, RayRef)]
        assert len(own) == len(refs), "a call of several ranks is opened, not waited for"
        done = _first_done(own, timeout)
        if done is None:
            raise RuntimeFault(f"{_origins(own)}: no answer within {timeout:.0f} s")
        return own.index(done)

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
