"""One teacher actor: a model, its rule for following the student, and a scorer over it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from rollout.config import ModelConfig
from rollout.features import FeatureExtractor
from rollout.forward import Thinker
from rollout.thinker import ModelFolderError, load_thinker, read_config
from rollout.types import WeightReceipt, WeightUpdate
from rollout.weights import IncomingWeights, from_wire, weight_names
from teacher.config import TeacherConfig
from teacher.scorer import Scorer
from teacher.shards import Member, meet, undivided
from teacher.transformers_scorer import TransformersScorer
from teacher.types import GroupScore, PrivilegedContext, ScoreRequest, Support
from teacher.weights import TeacherWeights


class TeacherWorker:
    """Scores responses under privileged contexts; never sees a gradient, never samples for training.

    Or one rank of a teacher that is split over several processes: every call must go to all of its ranks.
    """

    def __init__(
        self,
        index: int,
        model: ModelConfig,
        teacher: TeacherConfig,
        top_k: int,
        member: Member | None = None,
    ) -> None:
        """Returns when all ranks have loaded. Raises ModelFolderError."""
        self.name = actor_names(index, teacher)[member.rank if member else 0]
        torch.set_num_threads(max(1, int(teacher.cpus / teacher.ranks)))
        self._names = weight_names(model.path)
        thinker = self._thinker(model, teacher, member)
        self._parameters = dict(thinker.named_parameters()) if thinker is not None else {}
        self.weights = TeacherWeights(self._parameters, teacher, writes=member is None or member.rank == 0)
        self.scorer = make_scorer(self.name, thinker, model, teacher, top_k)

    @staticmethod
    def _thinker(model: ModelConfig, teacher: TeacherConfig, member: Member | None) -> Thinker | None:
        """The weights that follow the student; a frozen vLLM teacher needs none beside its engine's."""
        if teacher.scorer == "vllm" and teacher.weights == "frozen":
            return None
        if member is not None:
            return _sharded(model, teacher, member)
        thinker = load_thinker(model.path, model.dtype).requires_grad_(False)
        return thinker.to("cuda") if teacher.gpus and teacher.scorer == "transformers" else thinker

    def ready(self) -> str:
        """Answers once the model is loaded."""
        return self.name

    def score(
        self, requests: Sequence[ScoreRequest], support: Support, top_k: int, temperature: float
    ) -> list[GroupScore]:
        """As `Scorer.score`, under the weights of now."""
        return self.scorer.score(requests, support=support, top_k=top_k, temperature=temperature)

    def answer(self, contexts: Sequence[PrivilegedContext], max_new_tokens: int) -> list[np.ndarray]:
        """Greedy answers of the privileged teacher, for the before/after table only: int32 [T] each."""
        return self.scorer.answer(contexts, max_new_tokens)

    def update(self, update: WeightUpdate) -> WeightReceipt:
        """Follow the student's version by the teacher's rule.

        Raises WeightFault when the bytes are not the sender's; the teacher must then be started again.
        """
        incoming = IncomingWeights(update.version, self._names, self.name)
        for chunk in update.chunks:
            for wire in chunk.get():
                incoming.add(wire)
                self.weights.follow([(wire.name, from_wire(wire))])
        digest = incoming.close(update.version, update.digest)
        self.weights.version = update.version
        self.scorer.hold(update.version, self._parameters.items())
        return WeightReceipt(receiver=self.name, version=update.version, digest=digest)

    def save(self, folder: str) -> None:
        """Write what a resumed teacher needs beyond the student's first weights."""
        self.weights.save(Path(folder))

    def load(self, folder: str) -> None:
        """Take a checkpoint's teacher back."""
        self.weights.load(Path(folder))
        self.scorer.hold(self.weights.version, self._parameters.items())


def actor_names(index: int, teacher: TeacherConfig) -> tuple[str, ...]:
    """The actors of one teacher, rank by rank."""
    if teacher.ranks == 1:
        return (f"teacher-{index}",)
    return tuple(f"teacher-{index}-rank-{rank}" for rank in range(teacher.ranks))


def _sharded(model: ModelConfig, teacher: TeacherConfig, member: Member) -> Thinker:
    """This rank's part of the thinker, on its device."""
    uneven = undivided(read_config(model.path)["thinker_config"], member.ranks)
    if uneven:
        raise ModelFolderError(
            f"model.path {model.path}: {member.ranks} ranks do not divide {', '.join(uneven)}"
        )
    meet(member, gpu=bool(teacher.gpus), timeout_seconds=teacher.timeout_seconds)
    return load_thinker(model.path, model.dtype, ranks=member.ranks).requires_grad_(False)


def make_scorer(
    name: str, thinker: Thinker | None, model: ModelConfig, teacher: TeacherConfig, top_k: int
) -> Scorer:
    """The scorer that the config names; vLLM is imported only now."""
    if teacher.scorer == "vllm":
        from teacher.vllm_scorer import VllmScorer

        return VllmScorer(name, model, teacher, top_k=top_k)
    assert thinker is not None  # only a vLLM teacher goes without
    return TransformersScorer(thinker, FeatureExtractor(model.path), max_pack_tokens=teacher.max_pack_tokens)
