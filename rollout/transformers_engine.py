"""Rollouts from plain transformers: for machines without vLLM, for debugging, and as the reference.

One prefill of the prompt, then one token a time for all rollouts of a sample, over a key-value cache.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from rollout.config import ModelConfig, RolloutConfig
from rollout.engine import EngineFault, require_unique, rollout_id, rollout_seed, room
from rollout.evidence import require_same_media
from rollout.features import FeatureExtractor, Features, tower_inputs
from rollout.forward import branches, rope_positions, thinker_hidden
from rollout.renderer import END
from rollout.sequence import pack_groups
from rollout.thinker import load_thinker
from rollout.types import Prompt, Rollout, RolloutGroup, SamplingSpec, WeightReceipt, WireTensor
from rollout.weights import TIED_HEAD, IncomingWeights, WeightFault, from_wire, weight_names

STATION = "rollout"


@dataclass(slots=True)
class _Draw:
    """One answer in the making."""

    ids: list[int]
    logprobs: list[float]
    finish: str


class TransformersEngine:
    """A `RolloutEngine` over transformers' thinker."""

    def __init__(self, model: ModelConfig, rollout: RolloutConfig, name: str) -> None:
        """Load the model folder (version 0)."""
        self.name, self._max_context = name, model.max_context
        self._device = torch.device("cuda" if rollout.gpus > 0 else "cpu")
        self._thinker = load_thinker(model.path, model.dtype).to(self._device)
        self._weights = dict(self._thinker.named_parameters(remove_duplicate=False))
        self._extractor = FeatureExtractor(model.path)
        self._end = int(self._extractor.processor.tokenizer.convert_tokens_to_ids(END))
        self._expected = weight_names(model.path)
        self._version: int | None = 0
        self._incoming: IncomingWeights | None = None

    @property
    def policy_version(self) -> int:
        if self._version is None:
            raise EngineFault(f"{self.name}: an update of the weights did not finish; restart the engine")
        return self._version

    def generate(self, prompts: Sequence[Prompt], spec: SamplingSpec, step: int) -> list[RolloutGroup]:
        require_unique(prompts)
        return [self._group(prompt, spec, step) for prompt in prompts]

    def greedy(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[np.ndarray]:
        self.policy_version  # noqa: B018 (raises when there is none)
        return [
            np.array(
                self._decode(prompt, self._features(prompt), max_new_tokens, None, [None])[0].ids, np.int32
            )
            for prompt in prompts
        ]

    @torch.no_grad()
    def score(self, prompt: Prompt, response_ids: np.ndarray) -> np.ndarray:
        self.policy_version  # noqa: B018
        features = self._features(prompt)
        pack = pack_groups([branches(self._thinker, prompt.rendered, features, [response_ids])])
        logits = self._thinker.lm_head(thinker_hidden(self._thinker, pack, [features]))
        logprobs = logits.float().log_softmax(-1).cpu()
        return logprobs.gather(-1, torch.from_numpy(pack.targets)[:, None])[:, 0].numpy()

    def start_update(self, version: int) -> None:
        self._version = None
        self._incoming = IncomingWeights(version, self._expected, self.name)

    @torch.no_grad()
    def load_chunk(self, tensors: Sequence[WireTensor]) -> None:
        incoming = self._require_incoming()
        for wire in tensors:
            incoming.add(wire)
            if wire.name in self._weights:
                self._weights[wire.name].copy_(from_wire(wire))
            elif wire.name != TIED_HEAD:
                raise WeightFault(f"{self.name}: {wire.name} is no weight of this model")

    def finish_update(self, version: int, digest: str) -> WeightReceipt:
        received = self._require_incoming().close(version, digest)
        self._version, self._incoming = version, None
        return WeightReceipt(receiver=self.name, version=version, digest=received)

    def _require_incoming(self) -> IncomingWeights:
        if self._incoming is None:
            raise WeightFault(f"{self.name}: weights came without a start_update")
        return self._incoming

    def _features(self, prompt: Prompt) -> Features:
        features = self._extractor.features(prompt.rendered)
        require_same_media(
            prompt.rendered.media_use, features.media_use, station=STATION, sample_id=prompt.sample_id
        )
        return features

    def _group(self, prompt: Prompt, spec: SamplingSpec, step: int) -> RolloutGroup:
        version, started = self.policy_version, time.monotonic()
        features = self._features(prompt)
        generators: list[torch.Generator | None] = [
            torch.Generator().manual_seed(rollout_seed(spec.seed, step, prompt.sample_id, index))
            for index in range(spec.rollouts)
        ]
        draws = self._decode(prompt, features, spec.max_new_tokens, spec, generators)
        return RolloutGroup(
            sample_id=prompt.sample_id,
            rollouts=tuple(
                Rollout(
                    rollout_id=rollout_id(step, prompt.sample_id, index),
                    sample_id=prompt.sample_id,
                    index=index,
                    response_ids=np.array(draw.ids, np.int32),
                    rollout_logprobs=np.array(draw.logprobs, np.float32),
                    temperature=spec.temperature,
                    policy_version=version,
                    finish="stop" if draw.finish == "stop" else "length",
                )
                for index, draw in enumerate(draws)
            ),
            media_use=features.media_use,
            seconds=time.monotonic() - started,
        )

    @torch.no_grad()
    def _decode(
        self,
        prompt: Prompt,
        features: Features,
        max_new_tokens: int,
        spec: SamplingSpec | None,
        generators: Sequence[torch.Generator | None],
    ) -> list[_Draw]:
        """One answer for each generator; without a `spec` the likeliest token each time."""
        limit = room(prompt, max_new_tokens, self._max_context)
        cache = DynamicCache()
        logits = self._prefill(prompt, features, cache).expand(len(generators), -1)
        cache.batch_repeat_interleave(len(generators))
        start = int(rope_positions(self._thinker, prompt.rendered, features).max()) + 1
        draws = [_Draw([], [], "") for _ in generators]
        for step in range(limit):
            chosen = [self._choose(row, draw, spec, generator) for row, draw, generator in
                      zip(logits.float().cpu(), draws, generators, strict=True)]  # fmt: skip
            if all(draw.finish for draw in draws):
                break
            if step + 1 < limit:
                logits = self._next(torch.tensor(chosen, device=self._device), start + step, cache)
        for draw in draws:
            draw.finish = draw.finish or "length"
        return draws

    def _prefill(self, prompt: Prompt, features: Features, cache: DynamicCache) -> Tensor:
        """Logits [1,V] of the first answer token; fills the cache with the prompt."""
        ids = torch.from_numpy(prompt.rendered.token_ids.astype(np.int64))[None].to(self._device)
        inputs = tower_inputs([features], self._thinker.dtype)
        given = {key: value.to(self._device) for key, value in inputs.items()}
        out = self._thinker(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            use_audio_in_video=prompt.rendered.audio_in_video,
            past_key_values=cache,
            use_cache=True,
            **given,
        )
        return out.logits[:, -1]

    def _next(self, tokens: Tensor, position: int, cache: DynamicCache) -> Tensor:
        """Logits [G,V] after one more token for each answer."""
        positions = torch.full((3, len(tokens), 1), position, device=self._device)
        out = self._thinker.model(
            inputs_embeds=self._thinker.model.embed_tokens(tokens[:, None]),
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        )
        return self._thinker.lm_head(out.last_hidden_state[:, -1])

    def _choose(
        self, logits: Tensor, draw: _Draw, spec: SamplingSpec | None, generator: torch.Generator | None
    ) -> int:
        if draw.finish:
            return self._end
        logprobs = logits.log_softmax(-1) if spec is None else sampled_distribution(logits, spec)
        drawn = (
            logprobs.argmax() if spec is None else torch.multinomial(logprobs.exp(), 1, generator=generator)
        )
        token = int(drawn)
        draw.ids.append(token)
        draw.logprobs.append(float(logprobs[token]))
        draw.finish = "stop" if token == self._end else ""
        return token


def sampled_distribution(logits: Tensor, spec: SamplingSpec) -> Tensor:
    """Log-probs float32 [V] that tokens are drawn from: temperature, then top-k, then top-p."""
    scaled = logits.float() / spec.temperature
    if spec.top_k:
        smallest = scaled.topk(min(spec.top_k, len(scaled))).values[-1]
        scaled = scaled.masked_fill(scaled < smallest, -torch.inf)
    if spec.top_p < 1:
        ordered, index = scaled.softmax(-1).sort(descending=True)
        # a token stays while the mass before it is below top_p, so the likeliest always stays
        dropped = index[ordered.cumsum(-1) - ordered >= spec.top_p]
        scaled = scaled.index_fill(0, dropped, -torch.inf)
    return scaled.log_softmax(-1)
