"""A scorer on plain transformers: one packed forward, and the head on the response rows only."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from rollout.evidence import require_same_media
from rollout.features import FeatureExtractor, Features
from rollout.forward import Thinker, branches, thinker_hidden
from rollout.greedy import greedy_decode
from rollout.sequence import Pack, pack_groups
from teacher.types import GroupScore, PrivilegedContext, ScoreRequest, Support, TeacherScore
from teacher.weights import head_digest

HEAD_ROWS = 512


class TransformersScorer:
    """Scores with a thinker that its owner may change between calls."""

    def __init__(self, thinker: Thinker, features: FeatureExtractor, *, max_pack_tokens: int) -> None:
        self.thinker, self.features = thinker, features
        self.max_pack_tokens = max_pack_tokens
        self.hold(0)

    def hold(self, version: int, weights: Iterable[tuple[str, Tensor]] = ()) -> None:
        """The thinker's own weights, changed by its owner, are `version` now; its head is hashed once for each."""
        self.version, self._head_digest = version, head_digest(self.thinker.lm_head.weight)

    def answer(self, contexts: Sequence[PrivilegedContext], max_new_tokens: int) -> list[np.ndarray]:
        """As `Scorer.answer`."""
        rendered = [context.rendered for context in contexts]
        return greedy_decode(self.thinker, self.features, rendered, max_new_tokens)

    @torch.inference_mode()
    def score(
        self, requests: Sequence[ScoreRequest], *, support: Support, top_k: int, temperature: float
    ) -> list[GroupScore]:
        """As `Scorer.score`. Raises MediaMismatch when the media differ from the prompt's."""
        scores: list[GroupScore] = []
        for first, last in pairwise(self._cuts(requests)):
            begin = time.perf_counter()
            part = requests[first:last]
            features = [self._features(request) for request in part]
            pack = pack_groups(
                [
                    branches(self.thinker, request.context.rendered, media, request.responses)
                    for request, media in zip(part, features, strict=True)
                ]
            )
            hidden = thinker_hidden(self.thinker, pack, features)
            rows = self._rows(pack, hidden, support, top_k, temperature)
            seconds = (time.perf_counter() - begin) / len(part)
            scores += self._group_scores(part, features, pack, rows, seconds)
        return scores

    def _cuts(self, requests: Sequence[ScoreRequest]) -> list[int]:
        """Boundaries of packs of at most `max_pack_tokens` tokens (or one single larger group)."""
        cuts, size = [0], 0
        for at, request in enumerate(requests):
            tokens = len(request.context.rendered.token_ids) + sum(map(len, request.responses))
            if size and size + tokens > self.max_pack_tokens:
                cuts.append(at)
                size = 0
            size += tokens
        return [*cuts, len(requests)]

    def _features(self, request: ScoreRequest) -> Features:
        context = request.context
        features = self.features.features(context.rendered)
        require_same_media(
            context.rendered.media_use, features.media_use, station="teacher", sample_id=context.sample_id
        )
        return features

    def _rows(
        self, pack: Pack, hidden: Tensor, support: Support, top_k: int, temperature: float
    ) -> dict[str, np.ndarray]:
        targets = torch.from_numpy(pack.targets).to(hidden.device)
        sampled, ids, tops = [], [], []
        for part, wanted in zip(hidden.split(HEAD_ROWS), targets.split(HEAD_ROWS), strict=True):
            real = self.thinker.lm_head(part)[:, : self.features.vocab_size]  # without padding rows
            logprobs = (real.float() / temperature).log_softmax(-1)
            own = logprobs.gather(1, wanted.clamp(max=logprobs.shape[1] - 1)[:, None])[:, 0]
            sampled.append(own.masked_fill_(wanted >= logprobs.shape[1], 0.0))  # as the learner counts them
            if support == "topk":
                best = logprobs.topk(min(top_k, logprobs.shape[1]), dim=1)
                ids.append(best.indices.to(torch.int32))
                tops.append(best.values)
        rows = {"logprobs": torch.cat(sampled).cpu().numpy()}
        if support == "topk":
            rows |= {"topk_ids": torch.cat(ids).cpu().numpy(), "topk_logprobs": torch.cat(tops).cpu().numpy()}
        if support == "full":
            rows["hidden"] = hidden_to_wire(hidden)
        return rows

    def _group_scores(
        self,
        requests: Sequence[ScoreRequest],
        features: Sequence[Features],
        pack: Pack,
        rows: dict[str, np.ndarray],
        seconds: float,
    ) -> list[GroupScore]:
        split = {name: pack.split(values) for name, values in rows.items()}
        groups, at = [], 0
        for request, media in zip(requests, features, strict=True):
            scores = []
            for rollout_id in request.rollout_ids:
                own = {name: values[at] for name, values in split.items()}
                scores.append(
                    TeacherScore(
                        rollout_id=rollout_id,
                        teacher_version=self.version,
                        head_digest=self._head_digest,
                        logprobs=own["logprobs"],
                        topk_ids=own.get("topk_ids"),
                        topk_logprobs=own.get("topk_logprobs"),
                        hidden=own.get("hidden"),
                    )
                )
                at += 1
            groups.append(
                GroupScore(
                    sample_id=request.context.sample_id,
                    scores=tuple(scores),
                    media_use=media.media_use,
                    seconds=seconds,
                )
            )
        return groups


def hidden_to_wire(hidden: Tensor) -> np.ndarray:
    """float32 as it is; bfloat16 as the same bits in uint16 (numpy has no bfloat16)."""
    hidden = hidden.detach().cpu()
    if hidden.dtype == torch.bfloat16:
        return hidden.view(torch.uint16).numpy()
    return hidden.numpy()


def hidden_from_wire(hidden: np.ndarray) -> Tensor:
    """The inverse of `hidden_to_wire`."""
    tensor = torch.from_numpy(np.array(hidden))
    return tensor.view(torch.bfloat16) if hidden.dtype == np.uint16 else tensor
