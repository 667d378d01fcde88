"""Settings of roles and machines that do not go together, found before anything starts. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from cluster.placement import ROLLOUT_LEARNER, TEACHER_LEARNER
from learner.config import LearnerConfig
from omniopsd.config import RunConfig
from omniopsd.objective_checks import Finding
from rollout.config import RolloutConfig
from teacher.config import TeacherConfig


def machine_conflicts(config: RunConfig) -> Iterator[Finding]:
    """What roles ask of machines and of each other, and cannot have."""
    rollout, runtime = config.rollout, config.runtime
    if rollout.engine == "vllm":
        yield from tensor_parallel_conflicts("rollout", rollout)
    if rollout.engine == "transformers" and rollout.gpus > 1:
        yield "rollout.gpus", f"{rollout.gpus:g}: the transformers engine runs on one GPU; write 1"
    if rollout.straddle_nodes:
        yield from _straddling(config)
    if runtime.kind == "inline":
        yield from _inline(config)
        return
    if runtime.colocate == TEACHER_LEARNER:
        yield from _teacher_learner(config)
    if runtime.colocate == ROLLOUT_LEARNER:
        yield from _rollout_learner(config)
    if not re.fullmatch(r"local|auto|[^\s:/]+:\d+", runtime.address):
        yield "runtime.address", f'found "{runtime.address}"; write local, auto, or host:port'
    asked = sum(role.cpus * count for role, count in _roles(config)) + config.data.media.decoders
    if runtime.address == "local" and runtime.cpus is not None and asked > runtime.cpus:
        yield (
            "runtime.cpus",
            f"{runtime.cpus} CPUs, and the roles ask for {asked:g}; raise it, or lower the cpus of a role",
        )


def tensor_parallel_conflicts(role: str, of: RolloutConfig | TeacherConfig) -> Iterator[Finding]:
    """A vLLM engine has a GPU for each of its tensor-parallel ranks; on the CPU it has one rank."""
    ranks = of.tensor_parallel_size
    if of.gpus > 0 and of.gpus != ranks:
        yield (
            f"{role}.gpus",
            f"{of.gpus:g}, but {role}.tensor_parallel_size is {ranks}; write the same number",
        )
    if of.gpus == 0 and ranks > 1:
        yield f"{role}.tensor_parallel_size", f"{ranks} needs as many GPUs; set {role}.gpus: {ranks}"


def _teacher_learner(config: RunConfig) -> Iterator[Finding]:
    teacher, learner = config.teacher, config.learner
    if not config.objective.has_teacher or teacher.colocated:
        yield (
            "runtime.colocate",
            "teacher-learner needs a pool of teachers, and this run has none; leave it out",
        )
        return
    if teacher.ranks > 1:
        yield (
            "runtime.colocate",
            "teacher-learner pairs each rank with a whole teacher, but teacher.tensor_parallel_size is "
            f"{teacher.ranks}; leave one of the two out",
        )
        return
    if teacher.replicas != learner.ranks:
        yield (
            "runtime.colocate",
            f"teacher-learner pairs each teacher with a rank, but teacher.replicas is {teacher.replicas} and "
            f"learner.ranks is {learner.ranks}; write the same number",
        )
    if learner.gpus == 0 or not 0 < teacher.gpus < 1:
        yield (
            "runtime.colocate",
            f"teacher-learner shares GPUs, but learner.gpus is {learner.gpus} and teacher.gpus is {teacher.gpus:g}; "
            "write learner.gpus: 1 and a share like teacher.gpus: 0.3",
        )


def _straddling(config: RunConfig) -> Iterator[Finding]:
    if config.rollout.engine != "vllm" or config.rollout.tensor_parallel_size == 1:
        yield (
            "rollout.straddle_nodes",
            "only a vLLM engine with tensor_parallel_size above 1 has GPUs to spread over nodes; leave it out",
        )
    if config.runtime.kind == "inline":
        yield "rollout.straddle_nodes", "runtime.kind: inline is one process; leave it out"
    if config.runtime.colocate == ROLLOUT_LEARNER:
        yield (
            "rollout.straddle_nodes",
            "with runtime.colocate: rollout-learner an engine and its ranks lie on one node; leave one of them out",
        )


def _rollout_learner(config: RunConfig) -> Iterator[Finding]:
    """Engines that sleep on the GPUs of ranks."""
    rollout, learner = config.rollout, config.learner
    if rollout.engine != "vllm":
        yield (
            "runtime.colocate",
            f"rollout-learner needs vLLM's sleep mode, and rollout.engine is {rollout.engine}",
        )
        return
    if rollout.gpus == 0 or learner.gpus == 0:
        yield (
            "runtime.colocate",
            f"rollout-learner shares GPUs, but rollout.gpus is {rollout.gpus:g} and learner.gpus is {learner.gpus}; "
            "set both, or leave it out: on the CPU vLLM has no sleep mode",
        )
        return
    engines = rollout.replicas * rollout.tensor_parallel_size
    if engines != learner.ranks:
        yield (
            "runtime.colocate",
            f"rollout-learner puts engines on the GPUs of the ranks, but rollout.replicas {rollout.replicas} x "
            f"tensor_parallel_size {rollout.tensor_parallel_size} is {engines} and learner.ranks is {learner.ranks}; "
            "make them equal",
        )
    if rollout.max_policy_lag > 0:
        yield (
            "rollout.max_policy_lag",
            f"{rollout.max_policy_lag} generates while the learner trains, and with runtime.colocate: rollout-learner "
            "the engines sleep then; write 0",
        )
    if config.weights.transport == "nccl":
        yield (
            "weights.transport",
            "nccl does not take two members on one GPU, as runtime.colocate: rollout-learner has them; "
            "write object_store",
        )
    if config.objective.divergence == "cross_entropy":
        yield (
            "runtime.colocate",
            "objective.divergence: cross_entropy samples nothing, so no engine has to share GPUs; leave it out",
        )


def _inline(config: RunConfig) -> Iterator[Finding]:
    """One process has one DeepSpeed group and one set of environment variables."""
    for key, count in (
        ("rollout.replicas", config.rollout.replicas),
        ("teacher.replicas", config.teacher.replicas),
        ("learner.ranks", config.learner.ranks),
    ):
        if count > 1:
            yield key, f"{count}, but runtime.kind: inline is one process; write 1, or kind: ray"
    for name in ("rollout", "teacher", "learner"):
        if getattr(config, name).gpus > 0:
            yield f"{name}.gpus", "runtime.kind: inline runs on the CPU; write 0, or kind: ray"


def _roles(config: RunConfig) -> Iterator[tuple[RolloutConfig | TeacherConfig | LearnerConfig, int]]:
    yield config.rollout, config.rollout.replicas
    yield config.learner, config.learner.ranks
    if config.objective.has_teacher and not config.teacher.colocated:
        yield config.teacher, config.teacher.replicas
