"""The pool of teacher actors."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np

from cluster.runtime import Actor, Ref, Resources, Runtime, fetch
from rollout.config import ModelConfig
from rollout.pool import VLLM_ENVIRONMENT
from rollout.types import WeightReceipt, WeightUpdate
from rollout.weights import require_receipts
from teacher.config import TeacherConfig
from teacher.shards import Member
from teacher.types import GroupScore, PrivilegedContext, ScoreRequest, Support
from teacher.worker import TeacherWorker, actor_names


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreSpec:
    """What the objective needs from a score."""

    support: Support
    top_k: int
    temperature: float


class TeacherPool:
    """Sends each request to one teacher; all teachers hold the same version."""

    def __init__(self, runtime: Runtime, model: ModelConfig, teacher: TeacherConfig, spec: ScoreSpec) -> None:
        self.config, self.spec = teacher, spec
        self.actors = [
            _start(runtime, index, model, teacher, spec.top_k) for index in range(teacher.replicas)
        ]
        self._turn = count()

    def wait_ready(self) -> None:
        """Raises what a teacher's start raised."""
        fetch([a.call(TeacherWorker.ready) for a in self.actors], self.config.timeout_seconds)

    def score(self, requests: Sequence[ScoreRequest]) -> Ref[list[GroupScore]]:
        """Queue one scoring call on the next teacher in turn; the answer stays remote until opened."""
        actor = self.actors[next(self._turn) % len(self.actors)]
        spec = self.spec
        return actor.call(TeacherWorker.score, requests, spec.support, spec.top_k, spec.temperature)

    def score_sampled(self, requests: Sequence[ScoreRequest]) -> Ref[list[GroupScore]]:
        """As `score`, for the log-probs of the given tokens alone: what a measurement needs."""
        actor = self.actors[next(self._turn) % len(self.actors)]
        return actor.call(TeacherWorker.score, requests, "sampled", self.spec.top_k, self.spec.temperature)

    def answer(self, contexts: Sequence[PrivilegedContext], max_new_tokens: int) -> list[np.ndarray]:
        """Greedy answers of the privileged teacher, in the order of the contexts."""
        share = -(-len(contexts) // len(self.actors))
        parts = [contexts[at : at + share] for at in range(0, len(contexts), share)]
        refs = [
            actor.call(TeacherWorker.answer, part, max_new_tokens)
            for actor, part in zip(self.actors, parts, strict=False)  # fewer parts than actors is fine
        ]
        return [answer for part in fetch(refs, self.config.timeout_seconds) for answer in part]

    def push(self, update: WeightUpdate) -> list[Ref[WeightReceipt]]:
        """Start the push to every teacher."""
        return [actor.call(TeacherWorker.update, update) for actor in self.actors]

    def confirm(self, receipts: list[Ref[WeightReceipt]], update: WeightUpdate, timeout: float) -> None:
        """Raises WeightFault naming the teacher that does not hold the version."""
        require_receipts(fetch(receipts, timeout), update)

    def save(self, folder: str) -> None:
        """Write the first teacher's state; all of them hold the same."""
        self.actors[0].call(TeacherWorker.save, folder).get(self.config.timeout_seconds)

    def resume(self, folder: str, update: WeightUpdate, timeout: float) -> None:
        """Go on from a checkpoint: an average or a copy from its folder, other rules from a push of the student's."""
        if self.config.weights in ("live", "trust_region"):
            self.confirm(self.push(update), update, timeout)
        elif self.config.weights != "frozen":
            fetch([a.call(TeacherWorker.load, folder) for a in self.actors], timeout)


def resources(teacher: TeacherConfig) -> Resources:
    """What one actor of a teacher reserves."""
    cpus, gpus = teacher.cpus / teacher.ranks, teacher.gpus / teacher.ranks
    env = {"OMP_NUM_THREADS": str(max(1, int(cpus)))}
    if teacher.scorer == "vllm":
        env |= VLLM_ENVIRONMENT
    elif teacher.ranks > 1 and not gpus:
        env["CUDA_VISIBLE_DEVICES"] = ""  # the library would take a GPU that it sees
    return Resources(cpus=cpus, gpus=gpus, env=env)


def _start(
    runtime: Runtime, index: int, model: ModelConfig, teacher: TeacherConfig, top_k: int
) -> Actor[TeacherWorker]:
    names = actor_names(index, teacher)
    if len(names) == 1:
        return runtime.start(names[0], resources(teacher), TeacherWorker, index, model, teacher, top_k)
    meeting = uuid.uuid4().hex
    members = [Member(rank=rank, ranks=len(names), meeting=meeting) for rank in range(len(names))]
    return runtime.together(
        f"teacher-{index}",
        [
            runtime.start(name, resources(teacher), TeacherWorker, index, model, teacher, top_k, member)
            for name, member in zip(names, members, strict=True)
        ],
    )
