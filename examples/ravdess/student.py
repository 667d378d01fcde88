"""Compose a Qwen2.5-Omni thinker from a language model and a Whisper encoder.

The language model keeps its function exactly: a Llama block is a Qwen2 block whose query, key and value
biases are zero, and on text the three axes of the rope carry equal positions, so the split into sections
does not matter. The audio tower is the Whisper encoder with three known differences, which are those of
Qwen2.5-Omni: attention only inside windows of `2 * n_window` mel frames (positions start anew in each),
no padding to 30 seconds, and pairs of frames averaged before the last layer norm. New and untrained are
the projection of the tower, the vision tower, and the embeddings of the media tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from student_parts import Language
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5OmniProcessor,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    WhisperFeatureExtractor,
)
from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import Qwen2_5OmniThinkerConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

MEDIA_TOKENS = {
    "image_token": "<|IMAGE|>",
    "audio_token": "<|AUDIO|>",
    "video_token": "<|VIDEO|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
}
FRAME_PIXELS = 56 * 56
MEL_FRAMES_PER_SECOND = 100
VISION = {
    "depth": 2,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_heads": 2,
    "fullatt_block_indexes": [1],
}
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tokenizer(source: Any) -> PreTrainedTokenizerFast:
    """The language model's tokenizer with ChatML and media tokens; old ids stay, new ones follow the last.

    The pad token is `<|endoftext|>`: with the end token as padding, its embedding would never be trained.
    """
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=source.backend_tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
        extra_special_tokens=MEDIA_TOKENS,
        chat_template=CHAT_TEMPLATE,
    )
    return tokenizer


def make_processor(tokenizer: PreTrainedTokenizerFast, mels: int, seconds: int) -> Qwen2_5OmniProcessor:
    """The processor: log-mel features of at most `seconds`, and small frames for the small vision tower."""
    size = {"shortest_edge": FRAME_PIXELS, "longest_edge": FRAME_PIXELS}
    return Qwen2_5OmniProcessor(
        image_processor=Qwen2VLImageProcessor(size=size),
        video_processor=Qwen2VLVideoProcessor(size=size),
        feature_extractor=WhisperFeatureExtractor(feature_size=mels, chunk_length=seconds),
        tokenizer=tokenizer,
        chat_template=CHAT_TEMPLATE,
    )


def mrope_sections(head_dim: int) -> list[int]:
    """How the `head_dim / 2` rope frequencies are shared by time, height and width: 1/4, 3/8, 3/8."""
    half = head_dim // 2
    return [half - 2 * (3 * half // 8), 3 * half // 8, 3 * half // 8]


def full_config(
    language: Any, audio: Any, tokenizer: PreTrainedTokenizerFast, seconds: int
) -> dict[str, Any]:
    """`config.json` of the whole model, from the configs of the two parts, as vLLM wants it."""
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in MEDIA_TOKENS.items()}
    thinker = {
        "model_type": "qwen2_5_omni_thinker",
        "architectures": ["Qwen2_5OmniThinkerForConditionalGeneration"],
        "tie_word_embeddings": language.tie_word_embeddings,
        "text_config": _text_config(language, tokenizer),
        "vision_config": {**VISION, "out_hidden_size": language.hidden_size, "patch_size": 14},
        "audio_config": _audio_config(audio, language.hidden_size, seconds),
        "audio_token_index": ids["audio_token"],
        "image_token_index": ids["image_token"],
        "video_token_index": ids["video_token"],
        "audio_start_token_id": ids["audio_bos_token"],
        "audio_end_token_id": ids["audio_eos_token"],
        "vision_start_token_id": ids["vision_bos_token"],
        "vision_end_token_id": ids["vision_eos_token"],
    }
    return {
        "architectures": ["Qwen2_5OmniModel"],
        "model_type": "qwen2_5_omni",
        "enable_audio_output": False,
        "tie_word_embeddings": language.tie_word_embeddings,
        "thinker_config": thinker,
    }


def compose(
    language: Language, whisper: WhisperEncoder, config: dict[str, Any], seed: int
) -> Qwen2_5OmniThinkerForConditionalGeneration:
    """The thinker in float32 with the parts' weights; what is new is drawn from `seed`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        thinker = Qwen2_5OmniThinkerForConditionalGeneration(
            Qwen2_5OmniThinkerConfig(**config["thinker_config"])
        ).float()
    _copy_language(thinker, language.model)
    _copy_audio(thinker, whisper)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        _start_projection(thinker)
    return thinker.eval()


def _text_config(language: Any, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    names = (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "max_position_embeddings",
        "rms_norm_eps",
        "hidden_act",
        "tie_word_embeddings",
    )
    return {
        **{name: getattr(language, name) for name in names},
        "vocab_size": max(language.vocab_size, len(tokenizer)),
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": language.rope_parameters["rope_theta"],
            "mrope_section": mrope_sections(language.hidden_size // language.num_attention_heads),
        },
    }


def _audio_config(audio: Any, width: int, seconds: int) -> dict[str, Any]:
    names = (
        "num_mel_bins",
        "encoder_layers",
        "encoder_attention_heads",
        "encoder_ffn_dim",
        "d_model",
        "max_source_positions",
        "activation_function",
        "scale_embedding",
    )
    window = seconds * MEL_FRAMES_PER_SECOND // 2  # a window is 2 * n_window frames: the longest clip in one
    return {**{name: getattr(audio, name) for name in names}, "n_window": window, "output_dim": width}


@torch.no_grad()
def _copy_language(thinker: Qwen2_5OmniThinkerForConditionalGeneration, model: Any) -> None:
    known = thinker.model.state_dict()
    for name, value in model.model.state_dict().items():
        if name == "embed_tokens.weight":
            value = _with_new_rows(value, len(known[name]))
        known.pop(name).copy_(value)
    for name, value in known.items():
        if not name.endswith(("q_proj.bias", "k_proj.bias", "v_proj.bias")):
            raise ValueError(f"--language: it has no {name}; use a llama or qwen2 model")
        value.zero_()
    if not thinker.config.tie_word_embeddings:
        head = thinker.lm_head.weight
        head.copy_(_with_new_rows(model.lm_head.weight, len(head)))


def _with_new_rows(rows: torch.Tensor, count: int) -> torch.Tensor:
    """Rows [V, D] followed by their mean, `count` in all: a mean row is an unlikely token, not a wild one."""
    return torch.cat([rows, rows.mean(0, keepdim=True).expand(count - len(rows), -1)])


@torch.no_grad()
def _copy_audio(thinker: Qwen2_5OmniThinkerForConditionalGeneration, whisper: WhisperEncoder) -> None:
    tower = thinker.audio_tower.state_dict()
    for name, value in whisper.state_dict().items():
        if name != "embed_positions.weight":  # sinusoids, which the tower computes itself
            tower[name.replace("layer_norm.", "ln_post.") if name.startswith("layer_norm.") else name].copy_(
                value
            )


@torch.no_grad()
def _start_projection(thinker: Qwen2_5OmniThinkerForConditionalGeneration) -> None:
    """Scale the untrained projection so that audio rows have the mean and spread of text embeddings."""
    tower, embeddings = thinker.audio_tower, thinker.model.embed_tokens.weight
    energy = (tower.ln_post.weight.square() + tower.ln_post.bias.square()).sum()
    tower.proj.weight.normal_(std=float(embeddings.std(0).mean() / energy.sqrt()))
    tower.proj.bias.copy_(embeddings.mean(0))
