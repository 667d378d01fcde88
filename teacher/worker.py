"""One teacher actor: a model, its rule for following the student, and a scorer over it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from rollout.config import ModelConfig
from rollout.features import FeatureExtractor
from rollout.greedy import greedy_decode
from rollout.thinker import load_thinker
from rollout.types import WeightReceipt, WeightUpdate
from rollout.weights import IncomingWeights, from_wire, weight_names
from teacher.config import TeacherConfig
from teacher.transformers_scorer import TransformersScorer
from teacher.types import GroupScore, PrivilegedContext, ScoreRequest, Support
from teacher.weights import TeacherWeights


class TeacherWorker:
    """Scores responses under privileged contexts; never sees a gradient, never samples for training."""

    def __init__(self, index: int, model: ModelConfig, teacher: TeacherConfig) -> None:
        self.name = f"teacher-{index}"
        torch.set_num_threads(max(1, int(teacher.cpus)))
        self.thinker = load_thinker(model.path, model.dtype).requires_grad_(False)
        if teacher.gpus:
            self.thinker.to("cuda")
        self.features = FeatureExtractor(model.path)
        self._names = weight_names(model.path)
        self.weights = TeacherWeights(self.thinker, teacher)
        self.scorer = TransformersScorer(self.thinker, self.features, max_pack_tokens=teacher.max_pack_tokens)

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
        return greedy_decode(
            self.thinker, self.features, [context.rendered for context in contexts], max_new_tokens
        )

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
        self.scorer.hold(update.version)
        return WeightReceipt(receiver=self.name, version=update.version, digest=digest)

    def save(self, folder: str) -> None:
        """Write what a resumed teacher needs beyond the student's first weights."""
        self.weights.save(Path(folder))

    def load(self, folder: str) -> None:
        """Take a checkpoint's teacher back."""
        self.weights.load(Path(folder))
        self.scorer.hold(self.weights.version)
