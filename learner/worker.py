"""One learner rank: opens its own groups, checks that they fit each other, trains, publishes.

A step has a part that may fail on one rank alone (opening, checking, packing) and a part in which
all ranks meet in collectives. Between the two the ranks agree: if one cannot go on, none does, and
nobody waits for the timeout of a collective.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import socket
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cluster.addresses import node_address
from learner.config import LearnerConfig, ObjectiveConfig
from learner.engine import DeepSpeedEngine, LearnerFault, join_ranks
from learner.group_input import GroupInput
from learner.head import TeacherHead
from learner.microbatch import NO_MEDIA, MicroBatch, assemble, empty_micro_batch, probe_micro_batch
from learner.policy import PolicyModule
from learner.publish import Publication, chunk_cuts
from learner.statistics import StepSums
from learner.types import StepPlan, StepReport, TrainGroup
from rollout.config import ModelConfig
from rollout.evidence import require_same_media
from rollout.features import FeatureExtractor, Features
from rollout.pool import NcclClient
from rollout.thinker import load_thinker, save_thinker
from rollout.types import MediaUse, Rendered, WireTensor
from teacher.config import TeacherConfig
from teacher.types import GroupScore

META_FILE = "learner.json"
EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"


Prepared = tuple[list[MicroBatch], dict[str, tuple[MediaUse, ...]], list[GroupScore]]


class PeerFault(LearnerFault):
    """This rank was ready, another one was not; that one says why."""


class ForeignRecord(ValueError):
    """Records of one group that do not belong together, or to this learner."""


class LearnerWorker:
    """One rank of the learner. `setup` must be called on all ranks together before anything else."""

    def __init__(
        self,
        rank: int,
        model: ModelConfig,
        learner: LearnerConfig,
        objective: ObjectiveConfig,
        teacher: TeacherConfig,
    ) -> None:
        self.rank, self.model, self.learner, self.objective = rank, model, learner, objective
        torch.set_num_threads(max(1, int(learner.cpus)))
        thinker = load_thinker(model.path, model.dtype)
        self.tied = bool(thinker.config.tie_word_embeddings)
        # a colocated teacher's head is the learner's own: an empty one here refuses every score of another's
        self.colocated = teacher.colocated and objective.has_teacher
        first = thinker.lm_head.weight[:0] if self.colocated else thinker.lm_head.weight
        self.head = TeacherHead(first, teacher)
        self.thinker = thinker
        self.features = FeatureExtractor(model.path)
        self._publication: Publication | None = None
        self._client: NcclClient | None = None
        self._trainer: Any = None  # vLLM's, from join_engines on

    def address(self) -> tuple[str, int]:
        """This machine's address and a free port on it, for rank 0 to be found by the others."""
        with socket.socket() as listener:
            listener.bind(("", 0))
            return node_address(), int(listener.getsockname()[1])

    def devices(self) -> str:
        """The GPUs that Ray gave this rank, as CUDA_VISIBLE_DEVICES has them."""
        return os.environ.get("CUDA_VISIBLE_DEVICES", "")

    def release_memory(self) -> None:
        """Give cached GPU memory back: an engine on the same GPU is about to wake."""
        gc.collect()
        torch.cuda.empty_cache()  # does nothing where CUDA was not used

    def setup(self, host: str, port: int) -> int:
        """Join the other ranks and split the model over them; gives the version (0)."""
        gpu = bool(self.learner.gpus)
        join_ranks(
            rank=self.rank,
            ranks=self.learner.ranks,
            host=host,
            port=port,
            gpu=gpu,
            timeout_seconds=self.learner.timeout_seconds,
        )
        self.policy = PolicyModule(self.thinker, self.learner, self.features.vocab_size)
        self.engine = DeepSpeedEngine(self.policy, self.learner, dtype=self.model.dtype)
        self.head.to(self.engine.device)
        return self.version

    @property
    def version(self) -> int:
        """The policy version: optimizer steps since the first weights."""
        return self.engine.steps

    def train_step(self, plan: StepPlan, groups: Mapping[int, GroupInput]) -> StepReport:
        """Train this rank's cells of `plan`; `groups` holds the groups named there.

        Raises LearnerFault when a loss or gradient is not finite on any rank, PeerFault when another
        rank's records do not fit, and that rank's own error there; the weights are then unchanged.
        """
        begin = time.perf_counter()
        micros, uses, scored = self._prepare_together(plan, groups)
        sums, total = StepSums(), 0.0
        for number, micro in enumerate(micros):
            loss, outcome = self.engine.forward(micro, last=number == len(micros) - 1)
            self.engine.backward(loss)
            total += float(loss.detach())
            if outcome is not None:
                sums.add(micro, outcome)
        norm = self.engine.step(plan.step)
        return StepReport(
            rank=self.rank,
            version=self.version,
            loss=total,
            grad_norm=norm,
            sums=dict(sums.sums),
            tokens=sums.tokens,
            sequences=sums.sequences,
            media_use=uses,
            student_logprobs=dict(sums.student_logprobs),
            divergence=dict(sums.divergence),
            teacher_logprobs=dict(sums.teacher_logprobs),
            teacher_versions=self._teacher_versions(micros, scored),
            teacher_seconds=sum(score.seconds for score in scored),
            seconds=time.perf_counter() - begin,
            peak_bytes=_peak_bytes(bool(self.learner.gpus)),
        )

    def probe(self, prompt: Rendered, response_ids: np.ndarray, temperature: float) -> np.ndarray:
        """Log-probs float32 [T] of a response under the weights of now; call on all ranks."""
        features = self.features.features(prompt)
        micro = probe_micro_batch(self.thinker, prompt, features, response_ids, temperature)
        return np.asarray(self.engine.evaluate(micro).student_logprobs.cpu().numpy())

    def publish_begin(self, version: int, chunk_bytes: int) -> int:
        """Start to send `version`, which must be the present one; gives the number of chunks."""
        self._require_version(version)
        item = torch.empty(0, dtype=getattr(torch, self.model.dtype)).element_size()
        self._publication = Publication(version, chunk_cuts(self.policy.sources, item, chunk_bytes))
        return len(self._publication.cuts)

    def publish_chunk(self, index: int, follow: bool) -> list[WireTensor]:
        """Chunk `index`, on rank 0; the others help to gather it and give an empty list.

        With `follow` the teacher's head takes in the push, as the teachers will.
        """
        publication = self._open_publication()
        start, stop = publication.span(index)
        chunk: list[WireTensor] = []
        for name, tensor in self.engine.weights(self.policy.sources[start:stop]):
            if follow and name == (EMBEDDING if self.tied else HEAD):
                self.head.follow(tensor)
            if self.rank == 0:
                chunk += publication.pack([(name, tensor)])
        return chunk

    def publish_digest(self) -> str:
        """Hash of all chunks that rank 0 sent (see `rollout.weights`)."""
        return self._open_publication().digest()

    def join_engines(self, client: NcclClient, host: str, port: int) -> None:
        """Meet the engines in one NCCL group, at rank 0's free host:port; call on all ranks together."""
        from rollout.vllm_weights import StreamSource, nccl_trainer

        sources = self.policy.sources
        shapes = [(source.name, source.shape) for source in sources]
        stream = StreamSource(shapes, self.model.dtype, lambda: self.engine.weights(sources))
        self._client = client
        self._trainer = nccl_trainer(
            stream, client, rank=self.rank, address=host, port=port, receivers=client.receivers
        )

    def broadcast(self, version: int) -> None:
        """Send `version`, the present one, to the engines over NCCL; call on all ranks together.

        Raises WeightFault naming an engine that does not hold it then. Teachers take no part: they
        receive chunks.
        """
        self._require_version(version)
        if self._client is None:
            raise LearnerFault(f"rank {self.rank}: join_engines was not called")
        self._client.version = version
        self._trainer.send_weights()

    def save(self, folder: str) -> None:
        """Write this rank's state; rank 0 adds the version and the teacher's head."""
        self.engine.save_state(folder)
        if self.rank == 0:
            self.head.save(Path(folder))
            meta = {"version": self.version, "ranks": self.learner.ranks}
            (Path(folder) / META_FILE).write_text(json.dumps(meta))

    def load(self, folder: str) -> int:
        """Take up a saved state and give its version; call on all ranks together."""
        self.engine.load_state(folder)
        self.head.load(Path(folder))
        return self.version

    def save_model(self, folder: str) -> None:
        """Write the model folder (rank 0), adapters merged; call on all ranks together."""
        weights = self.engine.weights(self.policy.sources)
        if self.rank == 0:
            save_thinker(weights, self.model.path, folder)
        else:
            for _ in weights:
                pass

    def _teacher_versions(self, micros: Sequence[MicroBatch], scored: Sequence[GroupScore]) -> dict[str, int]:
        if self.colocated:  # frozen: the first weights
            return {rollout.rollout_id: 0 for micro in micros for rollout in micro.rollouts}
        return {s.rollout_id: s.teacher_version for score in scored for s in score.scores}

    def _prepare_together(self, plan: StepPlan, groups: Mapping[int, GroupInput]) -> Prepared:
        prepared, error = None, None
        try:
            prepared = self._prepare(plan, groups)
        except Exception as raised:  # told to the other ranks, then raised again
            error = raised
        together = self.engine.agree(error is None)
        if error is not None:
            raise error
        if not together or prepared is None:
            raise PeerFault(f"step {plan.step}: another rank could not prepare its groups")
        self._require_denominators(plan, prepared[0])
        return prepared

    def _require_denominators(self, plan: StepPlan, micros: Sequence[MicroBatch]) -> None:
        """Raises LearnerFault, on all ranks, when the plan divides by other counts than there are."""
        pairs = [(micro.trained(), micro.trainable()) for micro in micros]
        own = [sum(pair[which][at] for pair in pairs) for which in (0, 1) for at in (0, 1)]
        found = self.engine.total(own)
        planned = [plan.tokens, plan.sequences, plan.policy_tokens, plan.policy_sequences]
        checked = (0, 2) if self.objective.reward is None else (0, 2, 4)
        for start, stop in pairwise(checked):
            if found[start:stop] != planned[start:stop]:
                tokens, sequences = found[start:stop]
                raise LearnerFault(
                    f"step {plan.step}: {tokens} tokens in {sequences} responses are to be trained, "
                    f"the plan divides by {planned[start]} in {planned[start + 1]}"
                )

    def _prepare(self, plan: StepPlan, groups: Mapping[int, GroupInput]) -> Prepared:
        uses: dict[str, tuple[MediaUse, ...]] = {}
        micros: list[MicroBatch] = []
        scored: list[GroupScore] = []
        for cell in plan.cells[self.rank]:
            opened = [groups[at].open(self.learner.timeout_seconds) for at in cell]
            features = [self._checked(group) for group in opened]
            passes = [self._teacher_features(group, own) for group, own in zip(opened, features, strict=True)]
            uses |= {g.rollouts.sample_id: f.media_use for g, f in zip(opened, features, strict=True)}
            scored += [group.score for group in opened if group.score is not None]
            micros.append(self._micro_batch(plan, opened, features, passes))
        return micros, uses, scored

    @property
    def _teacher_passes(self) -> int:
        """Forward passes of a colocated teacher in every micro-batch, an empty one too."""
        return (1 + (self.objective.contrast is not None)) if self.colocated else 0

    def _micro_batch(
        self,
        plan: StepPlan,
        groups: list[TrainGroup],
        features: list[Features],
        passes: list[tuple[Features, ...]],
    ) -> MicroBatch:
        if not groups:
            return empty_micro_batch(self.objective, self._teacher_passes)
        return assemble(
            self.thinker,
            groups,
            features,
            passes,
            plan=plan,
            objective=self.objective,
            head=self.head.weight,
            packed=self.learner.packing,
        )

    def _checked(self, group: TrainGroup) -> Features:
        """The tower inputs of a group whose records belong together; raises by what does not fit."""
        sample_id, score = group.rollouts.sample_id, group.score
        expected = group.prompt.media_use
        for rollout in group.rollouts.rollouts:
            if rollout.policy_version > self.version:
                raise ForeignRecord(
                    f"{rollout.rollout_id}: sampled by version {rollout.policy_version}, "
                    f"the learner is at {self.version}"
                )
        require_same_media(expected, group.rollouts.media_use, station="rollout", sample_id=sample_id)
        contrast = self.objective.contrast
        if self.objective.has_teacher and not self.colocated:
            self._check_score(score, sample_id, expected, self.objective.divergence)
        if contrast is not None and not self.colocated:
            seen = () if contrast.kind == "reference_only" else expected
            self._check_score(group.contrast, sample_id, seen, f"objective.contrast {contrast.kind}")
        features = self.features.features(group.prompt)
        require_same_media(expected, features.media_use, station="learner", sample_id=sample_id)
        return features

    def _teacher_features(self, group: TrainGroup, own: Features) -> tuple[Features, ...]:
        """Tower inputs of a colocated teacher's contexts: the group's own media, or none."""
        sample_id, contrast = group.rollouts.sample_id, self.objective.contrast
        if len(group.contexts) != self._teacher_passes:
            raise ForeignRecord(
                f"sample {sample_id}: {len(group.contexts)} contexts came for a teacher that makes "
                f"{self._teacher_passes} passes"
            )
        found = []
        for number, context in enumerate(group.contexts):
            bare = number == 1 and contrast is not None and contrast.kind == "reference_only"
            features = NO_MEDIA if bare else own
            require_same_media(features.media_use, context.media_use, station="teacher", sample_id=sample_id)
            found.append(features)
        return tuple(found)

    def _check_score(
        self, score: GroupScore | None, sample_id: str, expected: tuple[MediaUse, ...], what: str
    ) -> None:
        if score is None:
            raise ForeignRecord(f"sample {sample_id}: no score, and {what} needs a teacher")
        if score.sample_id != sample_id:
            raise ForeignRecord(f"rollouts of sample {sample_id} came with the score of {score.sample_id}")
        require_same_media(expected, score.media_use, station="teacher", sample_id=sample_id)
        self.head.require_same(score.scores)

    def _require_version(self, version: int) -> None:
        if version != self.version:
            raise LearnerFault(f"rank {self.rank} holds version {self.version}, asked to publish {version}")

    def _open_publication(self) -> Publication:
        if self._publication is None:
            raise LearnerFault(f"rank {self.rank}: publish_begin was not called")
        return self._publication


def _peak_bytes(gpu: bool) -> int:
    if gpu:
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
