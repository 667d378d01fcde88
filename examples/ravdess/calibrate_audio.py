"""Set the projection of the audio tower anew from real speech: centred and whitened.

    python examples/ravdess/calibrate_audio.py --model DIR --speech ROWS --out DIR [--clips N]

The tower's rows share most of their energy whatever is said, so a random projection makes all clips look
alike to the language model. Taking out the mean and giving every direction the same spread shows what
differs between clips; which of it matters is left to training.

T   rows of all clips     D   width of the tower     W   width of the language model
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from transformers import WhisperFeatureExtractor

sys.path.insert(0, str(Path(__file__).parents[2]))

from rollout.features import FeatureExtractor
from rollout.thinker import load_thinker, read_weights, save_thinker

TOWER = "audio_tower."
RATE, HOP = 16_000, 160
RIDGE = 0.01  # of the mean variance: directions without any stay small


def main() -> None:
    """Read, calibrate, write; a user's error is one line."""
    args = _arguments()
    try:
        if Path(args.out).exists():
            raise ValueError(f"--out {args.out}: exists already; choose another folder or remove it")
        waves = read_speech(args.speech, args.clips)
        thinker = load_thinker(args.model, "float32")
        torch.manual_seed(args.seed)
        share = calibrate(thinker, waves, FeatureExtractor(args.model).processor.feature_extractor)
        trained = dict(thinker.named_parameters())
        weights = ((n, trained.get(n, w) if n.startswith(TOWER) else w) for n, w in read_weights(args.model))
        save_thinker(weights, args.model, args.out)
    except ValueError as error:
        sys.exit(f"error: {error}")
    print(json.dumps({"clips": len(waves), "energy_in_the_mean": round(share, 3)}))


def read_speech(rows: str | Path, clips: int) -> list[np.ndarray]:
    """The sounds of the first `clips` different clips of a row file, at 16 kHz. Raises ValueError."""
    rows = Path(rows)
    if not rows.is_file():
        raise ValueError(f"--speech {rows}: no such file; write the rows first, with make_data.py")
    names = {json.loads(line)["audios"][0]: None for line in rows.read_text().splitlines()}
    return [soundfile.read(rows.parent / name, dtype="float32")[0] for name in list(names)[:clips]]


@torch.no_grad()
def calibrate(thinker: Any, waves: Sequence[np.ndarray], extractor: WhisperFeatureExtractor) -> float:
    """Set the projection from the clips; gives the share of the rows' energy that is their mean."""
    tower = thinker.audio_tower
    rows = torch.cat([_rows(tower, extractor, wave) for wave in waves]).double()
    mean, embeddings = rows.mean(0), thinker.model.embed_tokens.weight
    variance, axes = torch.linalg.eigh(torch.cov(rows.T))
    white = axes @ torch.diag((variance.clamp(min=0) + RIDGE * variance.mean()).rsqrt()) @ axes.T
    spread = float(embeddings.std(0).mean()) / len(mean) ** 0.5
    weight = torch.randn(tower.proj.weight.shape).double() * spread @ white
    tower.proj.weight.copy_(weight)
    tower.proj.bias.copy_(embeddings.mean(0) - weight.float() @ mean.float())
    return float(mean.square().sum() / rows.square().sum(1).mean())


def _rows(tower: Any, extractor: WhisperFeatureExtractor, wave: np.ndarray) -> torch.Tensor:
    """What the projection gets to see of one clip: [T, D]."""
    frames = len(wave) // HOP
    mel = extractor(wave, sampling_rate=RATE, return_tensors="pt").input_features[0, :, :frames]
    caught: list[torch.Tensor] = []
    handle = tower.ln_post.register_forward_hook(lambda _, __, output: caught.append(output))
    try:
        tower(input_features=mel, feature_lens=torch.tensor([mel.shape[1]]))
    finally:
        handle.remove()
    return caught[0].reshape(-1, caught[0].shape[-1])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="model folder to start from")
    parser.add_argument("--speech", required=True, help="row file whose clips are heard: never the test rows")
    parser.add_argument("--out", required=True, help="model folder to write")
    parser.add_argument("--clips", type=int, default=64, help="clips to hear (default: 64)")
    parser.add_argument("--seed", type=int, default=0, help="decides the random directions")
    return parser.parse_args()


if __name__ == "__main__":
    main()
