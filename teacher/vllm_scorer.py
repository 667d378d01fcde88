"""A scorer on a vLLM engine of the teacher's own: sampled log-probs and top-k, never hidden rows.

vLLM ships log-probs of every prompt row as Python objects, so a large `top_k` is slow (16 prompts of 400
tokens: 0.2 s at 0, 3.6 s at 20, 10.6 s at 100 on 2 CPU cores).
Its distributions are over all rows of the head, those beyond the tokenizer's entries included.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import numpy as np
from torch import Tensor

from rollout.config import ModelConfig, RolloutConfig
from rollout.types import Prompt
from rollout.vllm_engine import ScoredRows, VllmEngine
from rollout.weights import WeightDigest, chunk_tensors
from teacher.config import TeacherConfig
from teacher.types import GroupScore, PrivilegedContext, ScoreRequest, Support, TeacherScore

CHUNK_BYTES = 268_435_456


class VllmScorer:
    """Scores with an engine whose weights follow those of the worker's own copy of the model, if it has one."""

    def __init__(self, name: str, model: ModelConfig, teacher: TeacherConfig, *, top_k: int) -> None:
        engine = RolloutConfig(
            gpus=teacher.gpus,
            tensor_parallel_size=teacher.tensor_parallel_size,
            memory_fraction=teacher.memory_fraction,
            kv_cache_gib=teacher.kv_cache_gib,
        )
        self.engine = VllmEngine(model, engine, name, station="teacher", max_logprobs=top_k)

    def hold(self, version: int, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Load `weights` (all of them, thinker names) as `version`. Raises WeightFault."""
        self.engine.start_update(version)
        digest = WeightDigest()
        for chunk in chunk_tensors(weights, CHUNK_BYTES):
            for wire in chunk:
                digest.add(wire)
            self.engine.load_chunk(chunk)
        self.engine.finish_update(version, digest.hexdigest())

    def score(
        self, requests: Sequence[ScoreRequest], *, support: Support, top_k: int, temperature: float
    ) -> list[GroupScore]:
        """As `Scorer.score`, for support "sampled" or "topk" at temperature 1; raises ValueError for others."""
        if support == "full" or temperature != 1.0:
            raise ValueError(f"a vLLM teacher was asked for support {support} at temperature {temperature:g}")
        return [self._group(request, top_k if support == "topk" else 0) for request in requests]

    def answer(self, contexts: Sequence[PrivilegedContext], max_new_tokens: int) -> list[np.ndarray]:
        """Greedy answers, int32 [T] each."""
        return self.engine.greedy([_prompt(context) for context in contexts], max_new_tokens)

    def _group(self, request: ScoreRequest, top_k: int) -> GroupScore:
        begin = time.perf_counter()
        rows, media_use = self.engine.score_rows(_prompt(request.context), request.responses, top_k)
        named = zip(request.rollout_ids, rows, strict=True)
        return GroupScore(
            sample_id=request.context.sample_id,
            scores=tuple(self._score(rollout_id, own, top_k) for rollout_id, own in named),
            media_use=media_use,
            seconds=time.perf_counter() - begin,
        )

    def _score(self, rollout_id: str, rows: ScoredRows, top_k: int) -> TeacherScore:
        return TeacherScore(
            rollout_id=rollout_id,
            teacher_version=self.engine.policy_version,
            head_digest="",  # no hidden rows leave this scorer
            logprobs=rows.logprobs,
            topk_ids=rows.topk_ids if top_k else None,
            topk_logprobs=rows.topk_logprobs if top_k else None,
            hidden=None,
        )


def _prompt(context: PrivilegedContext) -> Prompt:
    """In this process alone: what the engine calls a prompt is the teacher's context here."""
    return Prompt(sample_id=context.sample_id, rendered=context.rendered)
