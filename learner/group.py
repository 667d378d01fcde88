"""All learner ranks as one: every call goes to all of them, and their answers become one.

    rank 0   address ---+
    rank 0..R-1         +--> setup(host, port) --> train_step(plan) ... publish(version) ...

A call to the ranks has one deadline, and the first rank that fails ends it: the others may by then
be waiting in a collective for the failed one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cluster.runtime import LAST_WORD_SECONDS, Actor, InlineRuntime, Ref, Resources, Runtime, RuntimeFault
from learner.config import LearnerConfig, ObjectiveConfig
from learner.engine import LearnerFault
from learner.group_input import GroupInput
from learner.types import StepPlan, StepReport
from learner.worker import LearnerWorker, PeerFault
from rollout.config import ModelConfig, WeightsConfig
from rollout.pool import NcclClient
from rollout.types import MediaUse, Rendered, WeightUpdate, WireTensor
from teacher.config import TeacherConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """One step over all ranks. `means` by name (see `learner.statistics`), divided once.

    `loss` is the step's loss; `tokens` and `sequences` the trained ones; `student_logprobs`,
    `teacher_logprobs`, `divergence` float32 [T] and `teacher_versions` by rollout id; `media_use` by
    sample id; `seconds` of the slowest rank.
    """

    version: int
    loss: float
    grad_norm: float
    means: dict[str, float]
    tokens: int
    sequences: int
    media_use: dict[str, tuple[MediaUse, ...]]
    student_logprobs: dict[str, Any]
    divergence: dict[str, Any]
    teacher_logprobs: dict[str, Any]
    teacher_versions: dict[str, int]
    teacher_seconds: float
    seconds: float
    peak_bytes: int


class LearnerGroup:
    """Starts the ranks, brings them together, and speaks to them as one."""

    def __init__(
        self,
        runtime: Runtime,
        model: ModelConfig,
        learner: LearnerConfig,
        objective: ObjectiveConfig,
        teacher: TeacherConfig,
        weights: WeightsConfig,
    ) -> None:
        """Queues the start of every rank; call `wait_ready` before the first step."""
        if isinstance(runtime, InlineRuntime) and learner.ranks > 1:
            raise LearnerFault(
                f"learner.ranks is {learner.ranks} and runtime.kind inline has one process: "
                "write learner.ranks: 1, or runtime.kind: ray"
            )
        self.runtime, self.learner, self.weights = runtime, learner, weights
        self.version = 0
        self.actors: list[Actor[LearnerWorker]] = [
            runtime.start(
                f"learner-{rank}", resources(learner), LearnerWorker, rank, model, learner, objective, teacher
            )
            for rank in range(learner.ranks)
        ]

    def wait_ready(self) -> None:
        """Bring the ranks together. Raises what a rank's start raised."""
        host, port = self.actors[0].call(LearnerWorker.address).get(self.learner.timeout_seconds)
        if self.learner.ranks == 1:
            host = "127.0.0.1"
        self._all(lambda actor: actor.call(LearnerWorker.setup, host, port))

    def devices(self, ranks_per_engine: int) -> list[str]:
        """For each rollout engine that shares GPUs, those of its ranks in order ("0,1").

        Raises LearnerFault unless every rank has one GPU of its own within its engine's.
        """
        own = self._all(lambda actor: actor.call(LearnerWorker.devices))
        shared = [own[at : at + ranks_per_engine] for at in range(0, len(own), ranks_per_engine)]
        for gpus in shared:
            if len(set(gpus)) < ranks_per_engine or not all(gpu and "," not in gpu for gpu in gpus):
                raise LearnerFault(f"the ranks see the GPUs {own}; to share them each needs one of its own")
        return [",".join(gpus) for gpus in shared]

    def release_memory(self) -> None:
        """Every rank gives cached GPU memory back."""
        self._all(lambda actor: actor.call(LearnerWorker.release_memory))

    def step(self, plan: StepPlan, groups: Mapping[int, GroupInput]) -> StepResult:
        """Train one step: each rank gets the groups of its own cells. Raises what a rank raised."""
        own = [{at: groups[at] for cell in cells for at in cell} for cells in plan.cells]
        refs = [
            actor.call(LearnerWorker.train_step, plan, mine)
            for actor, mine in zip(self.actors, own, strict=True)
        ]
        result = merge(self._gather(refs), plan)
        self.version = result.version
        return result

    def publish(self, *, follow: bool = True) -> WeightUpdate:
        """The present weights as an update whose chunks are refs to rank 0's answers.

        `follow`: whether the teachers receive this push too, so that the head here keeps step.
        """
        version, size = self.version, self.weights.chunk_bytes
        count = self._all(lambda actor: actor.call(LearnerWorker.publish_begin, version, size))[0]
        chunks: list[Ref[list[WireTensor]]] = []
        helpers: list[Ref[Any]] = []
        for index in range(count):
            first, *others = [a.call(LearnerWorker.publish_chunk, index, follow) for a in self.actors]
            chunks.append(first)
            helpers += others
        digest = self._gather([self.actors[0].call(LearnerWorker.publish_digest), *helpers])[0]
        return WeightUpdate(version=version, chunks=tuple(chunks), digest=digest)

    def join_engines(self, client: NcclClient) -> None:
        """Meet the rollout engines in one NCCL group (`weights.transport: nccl`)."""
        host, port = self.actors[0].call(LearnerWorker.address).get(self.learner.timeout_seconds)
        self._all(lambda actor: actor.call(LearnerWorker.join_engines, client, host, port))

    def broadcast(self) -> int:
        """Send the present weights to the engines over NCCL; gives their version."""
        self._all(lambda actor: actor.call(LearnerWorker.broadcast, self.version))
        return self.version

    def probe(self, prompt: Rendered, response_ids: np.ndarray, temperature: float) -> np.ndarray:
        """Log-probs float32 [T] of a response under the present weights."""
        return self._all(lambda actor: actor.call(LearnerWorker.probe, prompt, response_ids, temperature))[0]

    def save(self, folder: str) -> None:
        """Write every rank's state into one folder that all ranks can reach."""
        self._all(lambda actor: actor.call(LearnerWorker.save, folder))

    def load(self, folder: str) -> int:
        """Take up a saved state; gives its version."""
        self.version = self._all(lambda actor: actor.call(LearnerWorker.load, folder))[0]
        return self.version

    def save_model(self, folder: str) -> None:
        """Write the present weights as a model folder, adapters merged."""
        self._all(lambda actor: actor.call(LearnerWorker.save_model, folder))

    def _all(self, call: Callable[[Actor[LearnerWorker]], Ref[Any]]) -> list[Any]:
        return self._gather([call(actor) for actor in self.actors])

    def _gather(self, refs: list[Ref[Any]]) -> list[Any]:
        """Answers in order. The first failure ends the wait, but a rank that says why goes before one that
        only noticed."""
        waiting = dict(enumerate(refs))
        answers: dict[int, Any] = {}
        while waiting:
            keys = list(waiting)
            key = keys[self.runtime.wait([waiting[k] for k in keys], self.learner.timeout_seconds)]
            ref = waiting.pop(key)
            try:
                answers[key] = ref.get()
            except (PeerFault, RuntimeFault) as noticed:
                raise self._cause(list(waiting.values()), noticed) from noticed
        return [answers[key] for key in range(len(refs))]

    def _cause(self, others: list[Ref[Any]], noticed: Exception) -> Exception:
        for ref in others:
            try:
                ref.get(LAST_WORD_SECONDS)
            except (PeerFault, RuntimeFault):
                continue
            except Exception as cause:
                return cause
        return noticed


def merge(reports: list[StepReport], plan: StepPlan) -> StepResult:
    """Sums and counts of all ranks, divided once. Raises LearnerFault when ranks or counts disagree."""
    versions = {report.version for report in reports}
    if len(versions) > 1:
        raise LearnerFault(f"step {plan.step}: the ranks are at versions {sorted(versions)}")
    tokens, sequences = sum(r.tokens for r in reports), sum(r.sequences for r in reports)
    if (tokens, sequences) != (plan.tokens, plan.sequences):
        raise LearnerFault(
            f"step {plan.step}: {tokens} tokens in {sequences} sequences were trained, "
            f"the plan divided by {plan.tokens} in {plan.sequences}"
        )
    return StepResult(
        version=versions.pop(),
        loss=sum(report.loss for report in reports),
        grad_norm=reports[0].grad_norm,
        means=_means(reports, tokens),
        tokens=tokens,
        sequences=sequences,
        media_use=_joined([report.media_use for report in reports]),
        student_logprobs=_joined([report.student_logprobs for report in reports]),
        divergence=_joined([report.divergence for report in reports]),
        teacher_logprobs=_joined([report.teacher_logprobs for report in reports]),
        teacher_versions=_joined([report.teacher_versions for report in reports]),
        teacher_seconds=sum(report.teacher_seconds for report in reports),
        seconds=max(report.seconds for report in reports),
        peak_bytes=max(report.peak_bytes for report in reports),
    )


def _means(reports: list[StepReport], tokens: int) -> dict[str, float]:
    """Token means; counts of sequences stay counts, and each position bin is divided by its own tokens."""
    sums: defaultdict[str, float] = defaultdict(float)
    for report in reports:
        for name, value in report.sums.items():
            sums[name] += value
    means = {}
    for name, value in sums.items():
        if name.startswith("divergence_bin_"):
            count = sums[name.replace("divergence", "tokens")]
            if count:
                means[name] = value / count
        elif name in ("truncated", "aborted"):
            means[name] = value
        elif not name.startswith("tokens_bin_"):
            means[name] = value / max(tokens, 1)
    return means


def _joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    return {key: value for part in parts for key, value in part.items()}


def resources(learner: LearnerConfig) -> Resources:
    """What one rank reserves."""
    return Resources(
        cpus=learner.cpus,
        gpus=learner.gpus,
        env={
            "OMP_NUM_THREADS": str(max(1, int(learner.cpus))),
            "DS_ACCELERATOR": "cuda" if learner.gpus else "cpu",
        },
    )
