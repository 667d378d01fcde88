"""Config to parts: pools and learner."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from cluster.placement import ROLLOUT_LEARNER, Group, Role, placement
from cluster.runtime import Resources, Runtime
from learner.group import LearnerGroup
from learner.group import resources as learner_resources
from omniopsd.config import RunConfig
from rollout.config import Transport
from rollout.decoders import DecoderPool
from rollout.decoders import resources as decoder_resources
from rollout.pool import RolloutPool
from rollout.pool import resources as rollout_resources
from teacher.config import TeacherConfig
from teacher.pool import ScoreSpec, TeacherPool, actor_names
from teacher.pool import resources as teacher_resources


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The running parts of one training; `teacher` as `has_pool` says."""

    rollout: RolloutPool
    teacher: TeacherPool | None
    learner: LearnerGroup
    decoders: DecoderPool | None
    transport: Transport

    def wait_ready(self) -> None:
        """Raises what the start of any part raised."""
        self.rollout.wait_ready()
        if self.teacher is not None:
            self.teacher.wait_ready()
        self.learner.wait_ready()
        if self.transport == "nccl":
            self.learner.join_engines(self.rollout.nccl_client())


def make_parts(config: RunConfig, runtime: Runtime) -> Parts:
    """Start every actor. Raises VersionMismatch or NotEnoughResources before the first one is started."""
    runtime.require_same(identity_files(config.model.path))
    runtime.reserve(placement(roles(config), config.runtime.colocate))
    spec = ScoreSpec(
        support=config.objective.transport,
        top_k=config.objective.top_k,
        temperature=config.objective.temperature,
    )
    shares = config.runtime.colocate == ROLLOUT_LEARNER
    learner = _learner(config, runtime) if shares else None
    devices = learner.devices(config.rollout.tensor_parallel_size) if learner else ()
    return Parts(
        rollout=RolloutPool(runtime, config.model, config.rollout, config.weights, devices=devices),
        teacher=TeacherPool(runtime, config.model, config.teacher, spec) if has_pool(config) else None,
        learner=learner or _learner(config, runtime),
        decoders=DecoderPool(runtime, config.data.media) if config.data.media.decoders else None,
        transport=config.weights.transport,
    )


def _learner(config: RunConfig, runtime: Runtime) -> LearnerGroup:
    return LearnerGroup(
        runtime, config.model, config.learner, config.objective, config.teacher, config.weights
    )


def has_pool(config: RunConfig) -> bool:
    """Whether teachers of their own score; not where the objective has none, or the learner scores for itself."""
    return config.objective.has_teacher and not config.teacher.colocated


def roles(config: RunConfig) -> list[Role]:
    """The actors of a run and what each reserves."""
    return [
        _role(
            "rollout",
            config.rollout.replicas,
            rollout_resources(config.rollout),
            straddles=config.rollout.straddle_nodes,
        ),
        teacher_role(config.teacher, config.teacher.replicas * has_pool(config)),
        _role("learner", config.learner.ranks, learner_resources(config.learner)),
        _role("decoder", config.data.media.decoders, decoder_resources()),
    ]


def groups_of(config: RunConfig, names: Collection[str]) -> list[Group]:
    """The placement of some roles by name, none sharing GPUs: for programs that start no learner."""
    return placement([role for role in roles(config) if role.name in names])


def identity_files(model: str) -> dict[str, str]:
    """The model's files that decide token ids and prompts: every node must have the same."""
    names = {
        "tokenizer": "tokenizer.json",
        "chat template": "chat_template.jinja",
        "model config": "config.json",
    }
    return {what: str(Path(model) / name) for what, name in names.items()}


def _role(name: str, count: int, resources: Resources, *, straddles: bool = False) -> Role:
    actors = tuple(f"{name}-{index}" for index in range(count))
    return Role(name=name, actors=actors, resources=resources, straddles=straddles)


def teacher_role(teacher: TeacherConfig, count: int) -> Role:
    """All actors of `count` teachers; the ranks of one lie together."""
    actors = tuple(name for index in range(count) for name in actor_names(index, teacher))
    return Role(name="teacher", actors=actors, resources=teacher_resources(teacher), ranks=teacher.ranks)
