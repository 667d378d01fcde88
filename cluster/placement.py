"""Which actors share a machine: one placement group for each role, one bundle for each actor. Pure.

    learner   PACK     [rank 0] [rank 1] ...      as few nodes as possible: collectives in every step
    rollout   SPREAD   [engine 0: 2 GPUs] ...     one bundle holds a whole tensor-parallel engine
    teacher   SPREAD   [teacher 0] ...            or [its ranks 0, 1 ...]: one bundle holds them all

Ray never splits a bundle, so a tensor-parallel group never straddles nodes. With `teacher-learner` bundle n
holds rank n and teacher n, and one GPU serves both. With `rollout-learner` bundle n holds engine n and as many
ranks as it has GPUs; the ranks reserve them, and the engine is told which they are.

An engine that may straddle nodes has a group of its own, with a bundle for each GPU:

    rollout-0 PACK     [engine 0's own process, GPU] [GPU] ...

Its process reserves no GPU: vLLM's Ray executor starts a worker in every bundle and reserves the GPU for that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from cluster.runtime import NotEnoughResources, Resources

Strategy = Literal["PACK", "SPREAD"]
NONE, TEACHER_LEARNER, ROLLOUT_LEARNER = "none", "teacher-learner", "rollout-learner"


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """The actors of one role; all reserve the same. Each `ranks` of them in a row share a node."""

    name: str
    actors: tuple[str, ...]
    resources: Resources
    straddles: bool = False
    """Whether one actor's GPUs may lie on several nodes; it then starts workers of its own on them."""
    ranks: int = 1
    """Actors that are one tensor-parallel whole, and share a bundle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """What one node must have together, and the actors that take it, with their own shares."""

    cpus: float
    gpus: float
    shares: Mapping[str, Resources]

    def asked(self) -> dict[str, float]:
        """As Ray writes it."""
        return {key: value for key, value in (("CPU", self.cpus), ("GPU", self.gpus)) if value}


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One placement group."""

    name: str
    strategy: Strategy
    bundles: tuple[Bundle, ...]


def placement(roles: Sequence[Role], colocate: str = NONE) -> list[Group]:
    """The groups of a run, learner first: it is the one that must find its GPUs close together.

    Raises ValueError when those to be placed together are not as many, or do not share GPUs.
    """
    by_name = {role.name: role for role in roles if role.actors}
    pairs: list[Group] = []
    if colocate == TEACHER_LEARNER:
        pairs = [_paired(by_name.pop("learner"), by_name.pop("teacher"))]
    if colocate == ROLLOUT_LEARNER:
        pairs = [_with_engines(by_name.pop("learner"), by_name.pop("rollout"))]
    order = ("learner", "rollout", "teacher")
    rest = sorted(
        by_name.values(), key=lambda role: order.index(role.name) if role.name in order else len(order)
    )
    return [*pairs, *(group for role in rest for group in _groups(role))]


def require_fit(groups: Sequence[Group], nodes: Sequence[Mapping[str, float]]) -> None:
    """Raises NotEnoughResources when the cluster is too small, or no single node can hold a bundle. Pure.

    `nodes` have CPUs and GPUs by Ray's names. Passing is no promise: bundles may still not pack.
    """
    bundles = [(group, bundle) for group in groups for bundle in group.bundles]
    for key in ("CPU", "GPU"):
        asked = sum(bundle.asked().get(key, 0.0) for _, bundle in bundles)
        have = sum(node.get(key, 0.0) for node in nodes)
        if asked > have + 1e-6:
            raise NotEnoughResources(
                f"the placement asks for {asked:g} {key}s and the cluster has {have:g}: "
                f"lower the replicas or the {key.lower()}s of a role, or add machines"
            )
    for group, bundle in bundles:
        if not any(_holds(node, bundle) for node in nodes):
            raise NotEnoughResources(f"{' and '.join(bundle.shares)}: {_too_large(group, bundle, nodes)}")


def slots(groups: Sequence[Group]) -> Iterator[tuple[str, int, int, Resources]]:
    """(actor, index of its group, index of its bundle, its share)."""
    for at, group in enumerate(groups):
        for index, bundle in enumerate(group.bundles):
            for actor, share in bundle.shares.items():
                yield actor, at, index, share


def _groups(role: Role) -> list[Group]:
    own, size = role.resources, role.ranks
    if role.straddles:
        return [_straddling(actor, own) for actor in role.actors]
    bundles = tuple(
        Bundle(
            cpus=own.cpus * size,
            gpus=own.gpus * size,
            shares=dict.fromkeys(role.actors[at : at + size], own),
        )
        for at in range(0, len(role.actors), size)
    )
    return [Group(name=role.name, strategy="PACK" if role.name == "learner" else "SPREAD", bundles=bundles)]


def _straddling(actor: str, own: Resources) -> Group:
    first = Bundle(cpus=own.cpus, gpus=1, shares={actor: replace(own, gpus=0.0)})
    others = [Bundle(cpus=0, gpus=1, shares={}) for _ in range(int(own.gpus) - 1)]
    return Group(name=actor, strategy="PACK", bundles=(first, *others))


def _paired(learner: Role, teacher: Role) -> Group:
    ranks, teachers = learner.resources, teacher.resources
    if len(learner.actors) != len(teacher.actors):
        raise ValueError(
            f"{len(teacher.actors)} teachers cannot share the GPUs of {len(learner.actors)} learner ranks; "
            "write as many of one as of the other"
        )
    if not 0 < teachers.gpus < ranks.gpus:
        raise ValueError(
            f"a teacher with {teachers.gpus:g} GPUs cannot share the {ranks.gpus:g} of a rank; "
            "write a share between 0 and 1"
        )
    rest = replace(ranks, gpus=ranks.gpus - teachers.gpus)
    bundles = tuple(
        Bundle(cpus=ranks.cpus + teachers.cpus, gpus=ranks.gpus, shares={rank: rest, one: teachers})
        for rank, one in zip(learner.actors, teacher.actors, strict=True)
    )
    return Group(name="learner+teacher", strategy="PACK", bundles=bundles)


def _with_engines(learner: Role, rollout: Role) -> Group:
    """One bundle for each engine and its ranks. The engine takes no GPU from Ray: two cannot reserve the same."""
    each = int(rollout.resources.gpus)
    if each < 1 or learner.resources.gpus != 1 or len(rollout.actors) * each != len(learner.actors):
        raise ValueError(
            f"{len(rollout.actors)} engines of {rollout.resources.gpus:g} GPUs cannot share those of "
            f"{len(learner.actors)} learner ranks with {learner.resources.gpus:g} each; "
            "write as many GPUs of engines as ranks, and learner.gpus: 1"
        )
    own = replace(rollout.resources, gpus=0.0)
    bundles = []
    for at, engine in enumerate(rollout.actors):
        ranks = learner.actors[at * each : (at + 1) * each]
        cpus = own.cpus + each * learner.resources.cpus
        shares = dict.fromkeys(ranks, learner.resources) | {engine: own}
        bundles.append(Bundle(cpus=cpus, gpus=each, shares=shares))
    return Group(name="learner+rollout", strategy="PACK", bundles=tuple(bundles))


def _holds(node: Mapping[str, float], bundle: Bundle) -> bool:
    return all(node.get(key, 0.0) + 1e-6 >= value for key, value in bundle.asked().items())


def _too_large(group: Group, bundle: Bundle, nodes: Sequence[Mapping[str, float]]) -> str:
    largest = {key: max((node.get(key, 0.0) for node in nodes), default=0.0) for key in ("CPU", "GPU")}
    asked = " and ".join(f"{value:g} {key}s" for key, value in bundle.asked().items())
    return (
        f"{asked} are needed on one node, and no node has them together (the largest has {largest['CPU']:g} CPUs, "
        f"{largest['GPU']:g} GPUs); an actor does not straddle nodes: lower what one of {group.name} takes"
    )
