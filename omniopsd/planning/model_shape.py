"""The numbers of a model folder: sizes of its three parts and exact parameter counts.

Counts come from transformers' own thinker built on the meta device, which holds shapes and no weights; where
the folder has weights, their headers must say the same.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from learner.config import LearnerConfig

HEAD, EMBEDDING, UNTRAINED = "lm_head.weight", "model.embed_tokens.weight", "audio_tower.audio_bos_eos_token"
PREFIX = "thinker."
PART_OF = {"model": "text", "lm_head": "head", "visual": "vision", "audio_tower": "audio"}
TOWERS = ("vision", "audio")


class ShapeError(ValueError):
    """A model folder whose weights are not those of its config."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextShape:
    """The language model: layers, width, attention heads, their keys' heads, a head's width, feed-forward, head rows."""

    layers: int
    width: int
    heads: int
    key_heads: int
    head_width: int
    inner: int
    vocabulary: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TowerShape:
    """A tower; `input_numbers` of one patch, or of one mel frame; `merge` inputs become one token."""

    layers: int
    width: int
    heads: int
    inner: int
    input_numbers: int
    merge: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """`tensors`: numbers of every weight by thinker name, a tied head left out (it is the embedding)."""

    text: TextShape
    vision: TowerShape
    audio: TowerShape
    tied: bool
    tensors: Mapping[str, tuple[int, ...]]

    @property
    def parameters(self) -> int:
        """All weights."""
        return sum(self.by_part().values())

    @property
    def largest(self) -> int:
        """Numbers of the largest single weight."""
        return max(map(math.prod, self.tensors.values()))

    @property
    def layer(self) -> int:
        """Numbers of the largest group of weights that one layer of the language model needs together."""
        sums: Counter[str] = Counter()
        for name, shape in self.tensors.items():
            if name.startswith("model.layers."):
                sums[".".join(name.split(".")[:3])] += math.prod(shape)
        return max(sums.values())

    def by_part(self) -> dict[str, int]:
        """Weights of the text layers, the embedding, the head (0 when tied) and the towers."""
        parts = Counter({name: 0 for name in ("text", "embedding", "head", *TOWERS)})
        for name, shape in self.tensors.items():
            part = "embedding" if name == EMBEDDING else PART_OF[name.split(".")[0]]
            parts[part] += math.prod(shape)
        return dict(parts)

    def adapters(self, learner: LearnerConfig) -> int:
        """Weights of the low-rank adapters: rank x (in + out) of every layer that gets one."""
        if learner.lora is None:
            return 0
        shapes = [
            shape
            for name, shape in self.tensors.items()
            if name.startswith("model.layers.")
            and name.split(".")[-2] in learner.lora.targets
            and len(shape) == 2
        ]
        return sum(learner.lora.rank * sum(shape) for shape in shapes)

    def trained(self, learner: LearnerConfig) -> int:
        """Weights that get a gradient."""
        if learner.lora is not None:
            return self.adapters(learner)
        frozen = sum(self.by_part()[tower] for tower in learner.freeze)
        token = sum(math.prod(s) for n, s in self.tensors.items() if n.startswith(UNTRAINED))
        return self.parameters - frozen - (0 if "audio" in learner.freeze else token)


def read_shape(path: str | Path) -> ModelShape:
    """The shape of a folder's thinker. Raises ModelFolderError, or ShapeError when its weights are others."""
    from rollout.thinker import read_config

    settings = read_config(path)["thinker_config"]
    shape = shape_of(settings)
    _check_headers(Path(path), shape)
    return shape


def shape_of(settings: dict[str, Any]) -> ModelShape:
    """The shape that a `thinker_config` describes; needs transformers, loads nothing."""
    import torch
    from transformers import Qwen2_5OmniThinkerForConditionalGeneration
    from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import Qwen2_5OmniThinkerConfig

    config = Qwen2_5OmniThinkerConfig(**json.loads(json.dumps(settings)))
    with torch.device("meta"):
        thinker = Qwen2_5OmniThinkerForConditionalGeneration(config)
    text, vision, audio = config.text_config, config.vision_config, config.audio_config
    tied = bool(config.tie_word_embeddings)
    tensors = {name: tuple(p.shape) for name, p in thinker.named_parameters() if not (tied and name == HEAD)}
    return ModelShape(
        text=TextShape(
            layers=text.num_hidden_layers,
            width=text.hidden_size,
            heads=text.num_attention_heads,
            key_heads=text.num_key_value_heads,
            head_width=text.hidden_size // text.num_attention_heads,
            inner=text.intermediate_size,
            vocabulary=text.vocab_size,
        ),
        vision=TowerShape(
            layers=vision.depth,
            width=vision.hidden_size,
            heads=vision.num_heads,
            inner=vision.intermediate_size,
            input_numbers=vision.in_channels * vision.temporal_patch_size * vision.patch_size**2,
            merge=vision.spatial_merge_size**2,
        ),
        audio=TowerShape(
            layers=audio.encoder_layers,
            width=audio.d_model,
            heads=audio.encoder_attention_heads,
            inner=audio.encoder_ffn_dim,
            input_numbers=audio.num_mel_bins,
            merge=4,
        ),
        tied=tied,
        tensors=tensors,
    )


def _check_headers(path: Path, shape: ModelShape) -> None:
    """The headers of the folder's weights against the config; a folder without weights passes."""
    found: dict[str, tuple[int, ...]] = {}
    for file in sorted(path.glob("*.safetensors")):
        with safe_open(file, framework="numpy") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (not a dict)
                if name.startswith(PREFIX):
                    found[name.removeprefix(PREFIX)] = tuple(tensors.get_slice(name).get_shape())
    if shape.tied:
        found.pop(HEAD, None)
    if not found:
        return
    wrong = sorted(n for n in {*found, *shape.tensors} if found.get(n) != shape.tensors.get(n))
    if wrong:
        first = wrong[0]
        raise ShapeError(
            f"model.path {path}: {len(wrong)} weights do not fit config.json (first: {first}, in the files "
            f"{found.get(first)}, by the config {shape.tensors.get(first)}); restore the folder"
        )
