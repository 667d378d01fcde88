"""What does not fit, in one sentence each: where, how much, what instead. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cluster.placement import ROLLOUT_LEARNER, TEACHER_LEARNER, placement, require_fit
from cluster.runtime import NotEnoughResources
from learner.plan import PlanError
from omniopsd.build import has_pool, roles
from omniopsd.config import RunConfig
from omniopsd.planning.activations import kv_bytes
from omniopsd.planning.estimate import Estimate
from omniopsd.planning.hardware import GIB, Machines
from omniopsd.planning.host import STORE_SHARE
from omniopsd.planning.memory import BYTES, VLLM_RESERVE, RoleMemory, learner_memory
from omniopsd.planning.situation import Situation

PLENTY_OF_CPUS = 1e9
RESTING = ("weights", "masters", "moments", "teacher head", "context")
"""What a learner rank holds while it does nothing."""


def problems(
    one: Situation,
    memory: Sequence[RoleMemory],
    driver: Sequence[Estimate],
    store: Sequence[Estimate],
) -> Iterator[str]:
    """Everything that keeps this run from these machines."""
    yield from _placement(one)
    yield from _gpus(one, memory)
    yield from _hosts(one, memory, driver, store)


def _placement(one: Situation) -> Iterator[str]:
    nodes = [
        {"CPU": PLENTY_OF_CPUS if node.cpus is None else float(node.cpus), "GPU": float(node.gpus)}
        for node in one.machines.nodes
        for _ in range(node.count)
    ]
    try:
        require_fit(placement(roles(one.config), one.config.runtime.colocate), nodes)
    except NotEnoughResources as error:
        yield str(error)


def _gpus(one: Situation, memory: Sequence[RoleMemory]) -> Iterator[str]:
    gpu = one.machines.gpu
    if gpu is None:
        return
    have = gpu.memory_gb * 1e9
    shared = one.config.runtime.colocate == TEACHER_LEARNER
    both = [role for role in memory if role.gpu and role.role in ("teacher", "learner")]
    if shared and len(both) == 2 and sum(role.peak.value for role in both) > have:
        yield (
            f"learner and teacher share a {one.machines.kind} of {_gb(have)} and need "
            f"{' + '.join(_gb(role.peak.value) for role in both)}; write runtime.colocate: none, or {_instead(one, have)}"
        )
    if one.config.runtime.colocate == ROLLOUT_LEARNER:
        yield from _engine_beside_rank(one, memory, have)
    for role in memory:
        if not role.gpu:
            continue
        if role.role == "learner" and role.peak.value > have:
            yield (
                f"learner: a rank needs {_gb(role.peak.value)} and a {one.machines.kind} has {_gb(have)}; "
                f"{_instead(one, have)}"
            )
        elif role.role != "learner" and _uses_vllm(one.config, role.role):
            yield from _vllm(one, role, have)
        elif role.role != "learner" and role.peak.value > have:
            yield (
                f"{role.role}: an actor needs {_gb(role.peak.value)} and a {one.machines.kind} has {_gb(have)}; lower "
                f"{'teacher.max_pack_tokens' if role.role == 'teacher' else 'rollout.samples_per_call'}, or take a "
                "larger GPU"
            )


def _engine_beside_rank(one: Situation, memory: Sequence[RoleMemory], have: float) -> Iterator[str]:
    """While an engine is awake the rank on its GPU rests, and keeps its states."""
    learner = next(role for role in memory if role.role == "learner")
    resting = sum(part.value for part in learner.parts if part.name in RESTING)
    share = one.config.rollout.memory_fraction * have
    if resting + share > have:
        yield (
            f"engine and learner rank share a {one.machines.kind} of {_gb(have)}: the resting rank keeps {_gb(resting)} "
            f"and rollout.memory_fraction {one.config.rollout.memory_fraction:g} is {_gb(share)}; write "
            f"rollout.memory_fraction: {max(0.05, 1 - resting / have - 0.02):.2f}, or more learner.ranks at zero_stage 3"
        )


def _vllm(one: Situation, role: RoleMemory, have: float) -> Iterator[str]:
    section = one.config.rollout if role.role == "rollout" else one.config.teacher
    share = section.memory_fraction * have
    if role.peak.value <= share:
        return
    split = section.tensor_parallel_size
    if role.peak.value <= 0.95 * have:
        instead = f"write {role.role}.memory_fraction: {min(0.95, role.peak.value / have + 0.05):.2f}"
    else:
        instead = f"write {role.role}.tensor_parallel_size: {2 * split} and {role.role}.gpus: {2 * split}"
    yield (
        f"{role.role}: an engine needs {_gb(role.peak.value)} on each GPU (weights and one sequence of "
        f"model.max_context), and {role.role}.memory_fraction {section.memory_fraction:g} of a {one.machines.kind} is "
        f"{_gb(share)}; {instead}"
    )


def cache_tokens(one: Situation) -> float | None:
    """Tokens whose keys and values one rollout engine can hold; None where nobody limits them."""
    rollout, gpu, width = one.config.rollout, one.machines.gpu, BYTES[one.config.model.dtype]
    if rollout.engine != "vllm":
        return None
    each = kv_bytes(one.shape.text, width)
    if not rollout.gpus or gpu is None:
        return rollout.kv_cache_gib * GIB / each
    split = rollout.tensor_parallel_size
    rest = rollout.memory_fraction * gpu.memory_gb * 1e9 - one.shape.parameters * width / split - VLLM_RESERVE
    return max(0.0, rest) * min(split, one.shape.text.key_heads) / each


def _hosts(
    one: Situation, memory: Sequence[RoleMemory], driver: Sequence[Estimate], store: Sequence[Estimate]
) -> Iterator[str]:
    first = one.machines.nodes[0]
    needed = sum(part.value for part in store)
    size = store_size(one.machines, one.config)
    if size is not None and needed > size:
        key = (
            "runtime.object_store_bytes" if one.config.runtime.address == "local" else "head.object_store_gib"
        )
        yield (
            f"object store of {first.name}: the objects of one step are {_gb(needed)} and it holds {_gb(size)}; raise "
            f"{key}, or lower run.samples_per_step or data.media.max_frames"
        )
    counts = {
        "rollout": one.config.rollout.replicas,
        "teacher": one.config.teacher.replicas * one.config.teacher.ranks * has_pool(one.config),
        "learner": one.config.learner.ranks,
    }
    used = sum(part.value for part in driver) + needed
    for role in memory:
        beside = sum(part.value for part in role.host)
        own = beside if role.gpu else role.peak.value + beside
        used += counts[role.role] * own
    have = [node.memory for node in one.machines.nodes for _ in range(node.count)]
    known = [value for value in have if value is not None]
    if len(known) == len(have) and used > sum(known):
        yield (
            f"memory of the nodes: driver, actors and objects need {_gb(used)} and {len(known)} nodes have "
            f"{_gb(sum(known))}; lower the replicas, data.media.cache_bytes or rollout.kv_cache_gib, or add machines"
        )


def store_size(machines: Machines, config: RunConfig) -> float | None:
    """Ray's object store on the driver's node, as far as anybody has said."""
    first = machines.nodes[0]
    if config.runtime.address == "local" and config.runtime.object_store_bytes:
        return float(config.runtime.object_store_bytes)
    if first.object_store is not None:
        return first.object_store
    return None if first.memory is None else STORE_SHARE * first.memory


def _instead(one: Situation, have: float) -> str:
    """The first single change under which a learner rank fits."""
    learner = one.config.learner
    longest = one.workload.longest("prompt") + one.config.rollout.rollouts_per_sample * one.workload.limit
    changes = [
        ("learner.gradient_checkpointing", True),
        ("learner.max_pack_tokens", longest),
        ("learner.zero_stage", 3),
        *(("learner.ranks", count) for count in (2 * learner.ranks, 4 * learner.ranks, 8 * learner.ranks)),
    ]
    update: dict[str, object] = {}
    for key, value in changes:
        name = key.partition(".")[2]
        update[name] = value
        other = one.with_config(one.config.model_copy(update={"learner": learner.model_copy(update=update)}))
        try:
            need = learner_memory(other.config, other.shape, other.workload, other.worst, other.calibration)
        except PlanError:
            del update[name]
            continue
        if need.peak.value <= have:
            text = ", ".join(f"learner.{n}: {str(v).lower()}" for n, v in update.items())
            return f"write {text} (then {_gb(need.peak.value)})"
    return "take a larger GPU, or train adapters (learner.lora)"


def _uses_vllm(config: RunConfig, role: str) -> bool:
    return (config.rollout.engine if role == "rollout" else config.teacher.scorer) == "vllm"


def _gb(size: float) -> str:
    return f"{size / 1e9:.3g} GB"
