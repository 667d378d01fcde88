"""mini-omni: a scaled-down Qwen2.5-Omni thinker with its own small tokenizer, made from a seed.

The architecture and the processor are the real ones of transformers and vLLM; only the numbers are
small. `tiny` is for tests (random weights, under a million parameters), `mini` is the demo's student.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    Qwen2_5OmniProcessor,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    WhisperFeatureExtractor,
)
from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import Qwen2_5OmniThinkerConfig

from rollout.thinker import save_thinker

Size = Literal["tiny", "mini"]

NAMED_TOKENS = {
    "image_token": "<|IMAGE|>",
    "audio_token": "<|AUDIO|>",
    "video_token": "<|VIDEO|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
}
CHAT_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
FRAME_PIXELS = 56 * 56
AUDIO_SECONDS = 4

# width, layers, heads, feed-forward of the language model; width, layers, heads of the two towers
SHAPES: dict[Size, tuple[tuple[int, int, int, int], tuple[int, int, int]]] = {
    "tiny": ((64, 2, 2, 128), (32, 2, 2)),
    "mini": ((128, 4, 4, 384), (96, 2, 3)),
}


def write_mini_omni(
    out: str | Path, *, seed: int = 0, size: Size = "mini", corpus: Iterable[str] = (), vocabulary: int = 1024
) -> None:
    """Write a model folder with random weights (float32), its processor and a tokenizer.

    The tokenizer is a byte-level BPE of at most `vocabulary` entries learned from `corpus`; with an
    empty corpus it has single bytes only.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    processor = _processor(_tokenizer(list(corpus), vocabulary))
    processor.save_pretrained(out)
    config = _config(size, processor.tokenizer)
    (out / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        thinker = Qwen2_5OmniThinkerForConditionalGeneration(
            Qwen2_5OmniThinkerConfig(**config["thinker_config"])
        )
    weights = ((n, p) for n, p in thinker.state_dict().items() if n != "lm_head.weight")
    staging = out / "config-only"
    staging.mkdir()
    save_thinker(weights, staging, out)
    shutil.rmtree(staging)
    _write_generation_config(out, processor.tokenizer)


def _tokenizer(corpus: list[str], vocabulary: int) -> Qwen2Tokenizer:
    specials = [*CHAT_TOKENS, *NAMED_TOKENS.values()]
    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizers.NFC()
    learner.decoder = decoders.ByteLevel()
    learner.pre_tokenizer = Qwen2Tokenizer().backend_tokenizer.pre_tokenizer
    learner.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=vocabulary - len(specials),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    state = json.loads(learner.to_str())["model"]
    merges = [tuple(merge) for merge in state["merges"]]
    tokenizer = Qwen2Tokenizer(
        vocab=state["vocab"], merges=merges, pad_token="<|endoftext|>", eos_token="<|im_end|>", **NAMED_TOKENS
    )
    tokenizer.add_special_tokens({"extra_special_tokens": specials}, replace_extra_special_tokens=False)
    return tokenizer


def _processor(tokenizer: Qwen2Tokenizer) -> Qwen2_5OmniProcessor:
    size = {"shortest_edge": FRAME_PIXELS, "longest_edge": FRAME_PIXELS}
    return Qwen2_5OmniProcessor(
        image_processor=Qwen2VLImageProcessor(size=size),
        video_processor=Qwen2VLVideoProcessor(size=size, cap_pixels_per_frame=False),
        feature_extractor=WhisperFeatureExtractor(feature_size=80, chunk_length=AUDIO_SECONDS),
        tokenizer=tokenizer,
        chat_template=CHAT_TEMPLATE,
    )


def _config(size: Size, tokenizer: Qwen2Tokenizer) -> dict[str, Any]:
    (width, layers, heads, inner), (tower, depth, tower_heads) = SHAPES[size]
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in NAMED_TOKENS.items()}
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    head = width // heads
    text = {
        "vocab_size": -(-len(tokenizer) // 64) * 64,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": max(1, heads // 2),
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
        "eos_token_id": end,
        "pad_token_id": tokenizer.pad_token_id,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [head // 2 - 2 * (3 * head // 16), 3 * head // 16, 3 * head // 16],
        },
    }
    vision = {
        "depth": depth,
        "hidden_size": tower,
        "intermediate_size": 2 * tower,
        "num_heads": tower_heads,
        "out_hidden_size": width,
        "patch_size": 14,
        "fullatt_block_indexes": [depth - 1],
    }
    audio = {
        "num_mel_bins": 80,
        "encoder_layers": depth,
        "encoder_attention_heads": tower_heads,
        "encoder_ffn_dim": 2 * tower,
        "d_model": tower,
        "max_source_positions": 1500,
        "n_window": 100,
        "output_dim": width,
    }
    return {
        "architectures": ["Qwen2_5OmniModel"],
        "model_type": "qwen2_5_omni",
        "enable_audio_output": False,
        "tie_word_embeddings": True,
        "thinker_config": {
            "model_type": "qwen2_5_omni_thinker",
            "architectures": ["Qwen2_5OmniThinkerForConditionalGeneration"],
            "tie_word_embeddings": True,
            "text_config": text,
            "vision_config": vision,
            "audio_config": audio,
            "audio_token_index": ids["audio_token"],
            "image_token_index": ids["image_token"],
            "video_token_index": ids["video_token"],
            "audio_start_token_id": ids["audio_bos_token"],
            "audio_end_token_id": ids["audio_eos_token"],
            "vision_start_token_id": ids["vision_bos_token"],
            "vision_end_token_id": ids["vision_eos_token"],
        },
    }


def _write_generation_config(out: Path, tokenizer: Qwen2Tokenizer) -> None:
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    content = {"eos_token_id": [end], "pad_token_id": tokenizer.pad_token_id}
    (out / "generation_config.json").write_text(json.dumps(content, indent=1))


CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
