"""Make the folder of a small student from real pre-trained parts.

python examples/ravdess/make_student.py --out DIR [--parts DIR] [--language FOLDER_OR_GGUF] [--audio FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from student import compose, full_config, make_processor, make_tokenizer
from student_check import audio_difference, media_token_share, position_difference, text_difference
from student_parts import Language, load_language, load_whisper
from transformers.models.whisper.modeling_whisper import WhisperEncoder

TOLERANCE = 1e-3


def main() -> None:
    """Read the parts, compose, check and write; a user's error is one line."""
    args = _arguments()
    try:
        language = load_language(args.language, args.parts)
        whisper = load_whisper(args.audio, args.parts)
        report = make_student(
            language, whisper, args.out, seconds=args.seconds, dtype=args.dtype, seed=args.seed
        )
    except ValueError as error:
        sys.exit(f"error: {error}")
    print(json.dumps(report, indent=1))


def make_student(
    language: Language,
    whisper: WhisperEncoder,
    out: str | Path,
    *,
    seconds: int = 5,
    dtype: str = "bfloat16",
    seed: int = 0,
) -> dict[str, Any]:
    """Write the model folder; returns parameter counts and the differences that were measured.

    `seconds` is the longest clip: longer ones would be cut by the feature extractor. Raises ValueError when
    the composed model does not agree with its parts to 1e-3 in float32.
    """
    out = Path(out)
    tokenizer = make_tokenizer(language.tokenizer)
    config = full_config(language.model.config, whisper.config, tokenizer, seconds)
    thinker = compose(language, whisper, config, seed)
    report = {
        "parameters": sum(p.numel() for p in thinker.parameters()),
        "audio_tower_parameters": sum(p.numel() for p in thinker.audio_tower.parameters()),
        "text_logprob_difference": text_difference(thinker, language.model, tokenizer),
        "media_token_share": media_token_share(thinker, language.model, tokenizer),
        "audio_difference": audio_difference(thinker.audio_tower, whisper),
        "position_difference": position_difference(thinker.audio_tower, whisper),
    }
    for name, value in report.items():
        if name.endswith("_difference") and not value < TOLERANCE:
            raise ValueError(f"{name} is {value:.2e}, above {TOLERANCE}: the parts do not fit together")
    out.mkdir(parents=True, exist_ok=True)
    make_processor(tokenizer, whisper.config.num_mel_bins, seconds).save_pretrained(out)
    (out / "config.json").write_text(json.dumps({**config, "dtype": dtype}, indent=1))
    end = {"eos_token_id": [tokenizer.eos_token_id], "pad_token_id": tokenizer.pad_token_id}
    (out / "generation_config.json").write_text(json.dumps(end, indent=1))
    _save_weights(thinker, out / "model.safetensors", getattr(torch, dtype))
    return report


def _save_weights(thinker: Any, file: Path, dtype: torch.dtype) -> None:
    tied = {"lm_head.weight"} if thinker.config.tie_word_embeddings else set()
    weights = {
        f"thinker.{name}": value.to(dtype).contiguous().clone()
        for name, value in thinker.state_dict().items()
        if name not in tied
    }
    save_file(weights, file, metadata={"format": "pt"})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument(
        "--parts",
        default=os.environ.get("OMNIOPSD_RAVDESS_PARTS", "parts"),
        help="where the data packages were installed (default: $OMNIOPSD_RAVDESS_PARTS or ./parts)",
    )
    parser.add_argument("--language", help="Hugging Face folder or .gguf file of a Llama or Qwen2 model")
    parser.add_argument("--audio", help="folder of a Whisper (Hugging Face or CTranslate2)")
    parser.add_argument("--seconds", type=int, default=5, help="longest clip (default: 5)")
    parser.add_argument(
        "--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="type of the file"
    )
    parser.add_argument("--seed", type=int, default=0, help="decides the weights that are new")
    return parser.parse_args()


if __name__ == "__main__":
    main()
