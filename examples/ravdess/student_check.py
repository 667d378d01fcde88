"""Does the composed student still do what its parts did?"""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast
from transformers.models.whisper.modeling_whisper import WhisperEncoder

SENTENCE = (
    "<|im_start|>user\nHow does she sound?<|im_end|>\n"
    "<|im_start|>assistant\nHer voice is high and quick, so she is happy.<|im_end|>\n"
)
CLIP_FRAMES = 190


@torch.no_grad()
def text_difference(thinker: Any, language: Any, tokenizer: PreTrainedTokenizerFast) -> float:
    """Largest absolute difference of text-only log-probs, both over the language model's own vocabulary."""
    ids = torch.tensor([tokenizer(SENTENCE).input_ids])
    theirs = language(input_ids=ids).logits.float().log_softmax(-1)
    ours = _logits(thinker, ids)[..., : theirs.shape[-1]].log_softmax(-1)
    return float((ours - theirs).abs().max())


@torch.no_grad()
def media_token_share(thinker: Any, language: Any, tokenizer: PreTrainedTokenizerFast) -> float:
    """Largest probability that the new tokens together take from the old ones at any place of a text."""
    ids = torch.tensor([tokenizer(SENTENCE).input_ids])
    new = _logits(thinker, ids).softmax(-1)[..., language.config.vocab_size :]
    return float(new.sum(-1).max())


@torch.no_grad()
def audio_difference(tower: Any, whisper: WhisperEncoder) -> float:
    """Largest difference of the last layer's rows [T, D], relative to their spread, on one short clip.

    Both see the same frames in one window and no padding, which is how the tower runs, and the tower's
    float32 positions; the remaining differences (averaged pairs, then layer norm) come after the rows that
    are compared.
    """
    mel = torch.randn(whisper.config.num_mel_bins, CLIP_FRAMES, generator=torch.Generator().manual_seed(0))
    ours = _last_rows(tower, input_features=mel, feature_lens=torch.tensor([CLIP_FRAMES]))
    positions = tower.positional_embedding.positional_embedding[: CLIP_FRAMES // 2]
    theirs = _last_rows(_shortened(whisper, positions), input_features=mel[None])[0]
    return float((ours - theirs).abs().max() / theirs.std())


def position_difference(tower: Any, whisper: WhisperEncoder) -> float:
    """Largest difference of the positions [T, D]: the tower computes sinusoids, Whisper stores them."""
    return float(
        (tower.positional_embedding.positional_embedding - whisper.embed_positions.weight).abs().max()
    )


def _logits(thinker: Any, ids: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = thinker(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    return logits.float()


def _last_rows(module: Any, **inputs: torch.Tensor) -> torch.Tensor:
    caught: list[Any] = []
    handle = module.layers[-1].register_forward_hook(lambda _, __, output: caught.append(output))
    try:
        module(**inputs)
    finally:
        handle.remove()
    return caught[0][0] if isinstance(caught[0], tuple) else caught[0]


def _shortened(whisper: WhisperEncoder, positions: torch.Tensor) -> WhisperEncoder:
    """The same encoder for clips of another length; Whisper's own accepts 30 seconds only."""
    config = copy.deepcopy(whisper.config)
    config.max_source_positions = len(positions)
    short = WhisperEncoder(config)
    short.load_state_dict({**whisper.state_dict(), "embed_positions.weight": positions})
    return short.eval()
