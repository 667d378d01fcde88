"""Read the encoder of a Whisper in the CTranslate2 format (faster-whisper's `model.bin`).

The file: uint32 format version, a name, uint32 revision, uint32 count, then the variables, each as name,
uint8 rank, uint32 axes, uint8 type, uint32 bytes, data. A name is uint16 length (with its final zero byte)
and the characters. Little-endian. Source: CTranslate2, `python/ctranslate2/specs/model_spec.py`.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

FORMAT_VERSION = 6
TYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}


class Ct2Error(ValueError):
    """A file that is not a plain CTranslate2 Whisper."""


def load_ct2_encoder(pieces: Sequence[Path]) -> WhisperEncoder:
    """The encoder, float32 and in eval mode, from a `model.bin` or from the pieces it was cut into."""
    variables = read_ct2(b"".join(piece.read_bytes() for piece in pieces))
    encoder = {n.removeprefix("encoder/"): v for n, v in variables.items() if n.startswith("encoder/")}
    if "conv1/weight" not in encoder:
        raise Ct2Error(f"{pieces[0]}: no encoder/conv1/weight inside; a Whisper's model.bin is needed")
    module = WhisperEncoder(_config(encoder))
    module.load_state_dict(_as_transformers(encoder))
    return module.eval()


def read_ct2(content: bytes) -> dict[str, np.ndarray]:
    """All variables by name. Raises Ct2Error on another format version or a type that is not plain."""
    stream = _Stream(content)
    version = stream.number("I")
    if version != FORMAT_VERSION:
        raise Ct2Error(f"CTranslate2 format version is {version}; version {FORMAT_VERSION} is needed")
    stream.name()
    stream.number("I")
    return dict(_variable(stream) for _ in range(stream.number("I")))


class _Stream:
    def __init__(self, content: bytes) -> None:
        self._bytes = io.BytesIO(content)

    def number(self, code: str) -> int:
        value: int = struct.unpack(f"<{code}", self.take(struct.calcsize(code)))[0]
        return value

    def name(self) -> str:
        return self.take(self.number("H")).rstrip(b"\0").decode()

    def take(self, count: int) -> bytes:
        content = self._bytes.read(count)
        if len(content) != count:
            raise Ct2Error(
                f"the CTranslate2 file ends {count - len(content)} bytes early; is a piece missing?"
            )
        return content


def _variable(stream: _Stream) -> tuple[str, np.ndarray]:
    name = stream.name()
    shape = [stream.number("I") for _ in range(stream.number("B"))]
    kind, size = stream.number("B"), stream.number("I")
    if kind not in TYPES:
        raise Ct2Error(f"variable {name} has CTranslate2 type {kind}; convert the model without quantization")
    return name, np.frombuffer(stream.take(size), TYPES[kind]).reshape(shape)


def _config(encoder: dict[str, np.ndarray]) -> WhisperConfig:
    width, mels, _ = encoder["conv1/weight"].shape
    return WhisperConfig(
        d_model=width,
        num_mel_bins=mels,
        encoder_layers=sum(name.endswith("ffn/linear_0/weight") for name in encoder),
        encoder_attention_heads=int(encoder["num_heads"]),
        encoder_ffn_dim=len(encoder["layer_0/ffn/linear_0/bias"]),
        max_source_positions=len(encoder["position_encodings/encodings"]),
    )


def _as_transformers(encoder: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    float32 = {name: torch.from_numpy(value.astype(np.float32)) for name, value in encoder.items()}
    out = {"embed_positions.weight": float32["position_encodings/encodings"]}
    for conv in ("conv1", "conv2"):
        out |= _pair(conv, float32, conv, "weight", "bias")
    out |= _pair("layer_norm", float32, "layer_norm", "gamma", "beta")
    for number in range(sum(name.endswith("ffn/linear_0/weight") for name in encoder)):
        out |= _layer(f"layers.{number}", float32, f"layer_{number}")
    return out


def _layer(to: str, source: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    out = _pair(f"{to}.self_attn_layer_norm", source, f"{name}/self_attention/layer_norm", "gamma", "beta")
    out |= _pair(f"{to}.final_layer_norm", source, f"{name}/ffn/layer_norm", "gamma", "beta")
    out |= _pair(f"{to}.self_attn.out_proj", source, f"{name}/self_attention/linear_1", "weight", "bias")
    out |= _pair(f"{to}.fc1", source, f"{name}/ffn/linear_0", "weight", "bias")
    out |= _pair(f"{to}.fc2", source, f"{name}/ffn/linear_1", "weight", "bias")
    fused = f"{name}/self_attention/linear_0"
    for part, weight, bias in zip(
        "qkv", source[f"{fused}/weight"].chunk(3), source[f"{fused}/bias"].chunk(3), strict=True
    ):
        out[f"{to}.self_attn.{part}_proj.weight"] = weight.contiguous()
        if part != "k":  # Whisper's keys have no bias; the fused one holds zeros there
            out[f"{to}.self_attn.{part}_proj.bias"] = bias.contiguous()
    return out


def _pair(
    to: str, source: dict[str, torch.Tensor], name: str, weight: str, bias: str
) -> dict[str, torch.Tensor]:
    return {f"{to}.weight": source[f"{name}/{weight}"], f"{to}.bias": source[f"{name}/{bias}"]}
