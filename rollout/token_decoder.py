"""Token by token over a key-value cache: several prompts at once, several answers to each.

    P   prompts     G   answers to each     R = P x G   rows     L   longest prompt     V   vocabulary

Prompts stand at the right edge of [P,L]; what pads them on the left is masked, so a row's answer does
not depend on its neighbours. The towers and the prompt run once for all answers to it. A row that has
ended goes on with the end token until the last one has ended too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from rollout.features import Features, tower_inputs
from rollout.forward import Thinker, rope_positions
from rollout.types import Rendered, SamplingSpec


@dataclass(slots=True)
class Draw:
    """One answer in the making: ids, their log-probs as sampled, and why it ended ("" while it goes on)."""

    ids: list[int]
    logprobs: list[float]
    finish: str


class TokenDecoder:
    """Decodes with a thinker whose weights its owner may change between calls."""

    def __init__(self, thinker: Thinker, end: int) -> None:
        self._thinker, self._end = thinker, end

    def sample(
        self,
        prompts: Sequence[Rendered],
        features: Sequence[Features],
        limits: Sequence[int],
        spec: SamplingSpec,
        generators: Sequence[torch.Generator],
    ) -> list[Draw]:
        """R answers in the order of the prompts; row n is drawn by `generators[n]` alone."""
        return self._decode(prompts, features, limits, spec, generators)

    def greedy(
        self, prompts: Sequence[Rendered], features: Sequence[Features], limits: Sequence[int]
    ) -> list[Draw]:
        """The likeliest answer to each prompt."""
        return self._decode(prompts, features, limits, None, [None] * len(prompts))

    @torch.no_grad()
    def _decode(
        self,
        prompts: Sequence[Rendered],
        features: Sequence[Features],
        limits: Sequence[int],
        spec: SamplingSpec | None,
        generators: Sequence[torch.Generator | None],
    ) -> list[Draw]:
        copies = len(generators) // len(prompts)
        cache, mask = DynamicCache(), self._mask(prompts)
        logits = self._prefill(prompts, features, mask, cache).repeat_interleave(copies, 0)
        cache.batch_repeat_interleave(copies)
        mask = mask.repeat_interleave(copies, 0)
        first = self._first_positions(prompts, features).repeat_interleave(copies)
        draws = [(Draw([], [], ""), limit) for limit in limits for _ in range(copies)]
        for step in range(max(limits)):
            tokens = self._choose(logits, draws, spec, generators)
            if all(draw.finish for draw, _ in draws):
                break
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
            logits = self._next(tokens, first + step, mask, cache)
        return [draw for draw, _ in draws]

    def _mask(self, prompts: Sequence[Rendered]) -> Tensor:
        """int64 [P,L], 0 where a row is padded."""
        width = max(len(prompt.token_ids) for prompt in prompts)
        mask = torch.zeros(len(prompts), width, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            mask[row, width - len(prompt.token_ids) :] = 1
        return mask.to(self._thinker.device)

    def _prefill(
        self, prompts: Sequence[Rendered], features: Sequence[Features], mask: Tensor, cache: DynamicCache
    ) -> Tensor:
        """Logits [P,V] of the first answer tokens; fills the cache with the prompts."""
        ids = torch.full(tuple(mask.shape), self._end)
        for row, prompt in enumerate(prompts):
            ids[row, ids.shape[1] - len(prompt.token_ids) :] = torch.from_numpy(
                np.asarray(prompt.token_ids, np.int64)
            )
        inputs = tower_inputs(list(features), self._thinker.dtype)
        self._thinker.rope_deltas = None  # left from an earlier batch
        out = self._thinker(
            input_ids=ids.to(mask.device),
            attention_mask=mask,
            use_audio_in_video=prompts[0].audio_in_video,
            past_key_values=cache,
            use_cache=True,
            **{key: value.to(mask.device) for key, value in inputs.items()},
        )
        logits: Tensor = out.logits[:, -1]
        return logits

    def _first_positions(self, prompts: Sequence[Rendered], features: Sequence[Features]) -> Tensor:
        """int64 [P]: where each answer begins on the rotary axes."""
        return torch.tensor(
            [
                int(rope_positions(self._thinker, prompt, own).max()) + 1
                for prompt, own in zip(prompts, features, strict=True)
            ],
            device=self._thinker.device,
        )

    def _next(self, tokens: Tensor, positions: Tensor, mask: Tensor, cache: DynamicCache) -> Tensor:
        """Logits [R,V] after one more token for each row."""
        out = self._thinker.model(
            inputs_embeds=self._thinker.model.embed_tokens(tokens[:, None]),
            attention_mask=None if bool(mask.all()) else mask,
            position_ids=positions.expand(3, -1)[..., None],
            past_key_values=cache,
            use_cache=True,
        )
        return self._thinker.lm_head(out.last_hidden_state[:, -1])

    def _choose(
        self,
        logits: Tensor,
        draws: Sequence[tuple[Draw, int]],
        spec: SamplingSpec | None,
        generators: Sequence[torch.Generator | None],
    ) -> Tensor:
        """One token [R] for each row, noted in its draw; the end token for a row that has ended."""
        logprobs = logits.float().cpu()
        logprobs = logprobs.log_softmax(-1) if spec is None else sampled_distribution(logprobs, spec)
        tokens = torch.full((len(draws),), self._end)
        for row, (draw, limit) in enumerate(draws):
            if draw.finish:
                continue
            generator = generators[row]
            token = (
                int(logprobs[row].argmax())
                if generator is None
                else int(torch.multinomial(logprobs[row].exp(), 1, generator=generator))
            )
            tokens[row] = token
            draw.ids.append(token)
            draw.logprobs.append(float(logprobs[row, token]))
            draw.finish = "stop" if token == self._end else "length" if len(draw.ids) == limit else ""
        return tokens.to(logits.device)


def sampled_distribution(logits: Tensor, spec: SamplingSpec) -> Tensor:
    """Log-probs float32 [R,V] that tokens are drawn from: temperature, then top-k, then top-p."""
    scaled = logits.float() / spec.temperature
    if spec.top_k:
        smallest = scaled.topk(min(spec.top_k, scaled.shape[-1]), dim=-1).values[..., -1:]
        scaled = scaled.masked_fill(scaled < smallest, -torch.inf)
    if spec.top_p < 1:
        ordered, index = scaled.softmax(-1).sort(dim=-1, descending=True)
        # a token stays while the mass before it is below top_p, so the likeliest always stays
        dropped = (ordered.cumsum(-1) - ordered >= spec.top_p).gather(-1, index.argsort(-1))
        scaled = scaled.masked_fill(dropped, -torch.inf)
    return scaled.log_softmax(-1)
