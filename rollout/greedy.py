"""Greedy answers from a transformers thinker, many prompts at once: for evaluations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from rollout.features import FeatureExtractor, tower_inputs
from rollout.forward import Thinker
from rollout.renderer import END
from rollout.types import Rendered

BATCH = 32


@torch.inference_mode()
def greedy_decode(
    thinker: Thinker, extractor: FeatureExtractor, prompts: Sequence[Rendered], max_new_tokens: int
) -> list[np.ndarray]:
    """The likeliest answer to each prompt, token by token: int32 [T], the end token included."""
    tokenizer = extractor.processor.tokenizer
    end = int(tokenizer.convert_tokens_to_ids(END))
    answers: dict[int, np.ndarray] = {}
    for together in (False, True):  # transformers takes one `use_audio_in_video` for a batch
        places = [at for at, prompt in enumerate(prompts) if prompt.audio_in_video is together]
        for start in range(0, len(places), BATCH):
            part = places[start : start + BATCH]
            rows = _generate(thinker, extractor, [prompts[at] for at in part], max_new_tokens, end)
            answers |= dict(zip(part, rows, strict=True))
    return [answers[at] for at in range(len(prompts))]


def _generate(
    thinker: Thinker, extractor: FeatureExtractor, prompts: Sequence[Rendered], max_new_tokens: int, end: int
) -> list[np.ndarray]:
    features = [extractor.features(prompt) for prompt in prompts]
    width = max(len(prompt.token_ids) for prompt in prompts)
    ids = torch.full((len(prompts), width), end)
    mask = torch.zeros(len(prompts), width, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt.token_ids) :] = torch.from_numpy(np.asarray(prompt.token_ids, np.int64))
        mask[row, width - len(prompt.token_ids) :] = 1
    device = thinker.device
    given = {key: value.to(device) for key, value in tower_inputs(features, thinker.dtype).items()}
    thinker.rope_deltas = None  # left from an earlier batch
    out = thinker.generate(
        input_ids=ids.to(device),
        attention_mask=mask.to(device),
        use_audio_in_video=prompts[0].audio_in_video,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=end,
        pad_token_id=end,
        use_cache=True,
        **given,
    )
    return [_until(row[width:].cpu().numpy(), end) for row in out]


def _until(ids: np.ndarray, end: int) -> np.ndarray:
    """Up to and with the first end token."""
    stops = np.flatnonzero(ids == end)
    return ids[: stops[0] + 1 if len(stops) else len(ids)].astype(np.int32)
