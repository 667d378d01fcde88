"""Media as an OpenAI-compatible API takes them: JPEG data URLs and WAV, with the times of frames. Pure.

F frames, H and W pixels, N audio samples at 16 kHz
"""

from __future__ import annotations

import base64
import io
import math
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from rationale_cache.config import Kind

SAMPLE_RATE = 16_000
QUALITY = 85
# Estimates of what media cost, for rate limits and budgets; each reply then tells the truth.
PIXELS_PER_TOKEN, TOKENS_PER_IMAGE, TOKENS_PER_SECOND = 750, 85, 25
CHARS_PER_TOKEN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Medium:
    """One decoded medium. `data`: video uint8 [F,H,W,3], image uint8 [H,W,3], audio float32 [N].

    `fps` is the rate of the video's frames, 0 for the others.
    """

    kind: Kind
    data: np.ndarray
    fps: float = 0.0

    @property
    def seconds(self) -> float:
        """How long it lasts; a video as long as its frames stand."""
        return {
            "video": len(self.data) / self.fps if self.fps else 0.0,
            "audio": len(self.data) / SAMPLE_RATE,
        }.get(self.kind, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """One request: messages as sent, estimated prompt tokens, length of the longest medium in seconds."""

    messages: list[dict[str, Any]]
    tokens: int
    seconds: float


def make_payload(text: str, media: Sequence[Medium], *, max_frames: int, max_side: int) -> Payload:
    """The one user message: every medium in order, then `text`."""
    parts: list[dict[str, Any]] = []
    tokens = math.ceil(len(text) / CHARS_PER_TOKEN)
    for number, medium in enumerate(media, start=1):
        parts.append(_text(f"{medium.kind} {number}:"))
        if medium.kind == "audio":
            parts.append({"type": "input_audio", "input_audio": {"data": _wav(medium.data), "format": "wav"}})
            tokens += math.ceil(medium.seconds * TOKENS_PER_SECOND)
            continue
        for time, frame in _frames(medium, max_frames):
            picture = _scaled(frame, max_side)
            parts += [_text(f"{time:.1f} s")] if medium.kind == "video" else []
            parts.append({"type": "image_url", "image_url": {"url": _jpeg(picture)}})
            tokens += TOKENS_PER_IMAGE + math.ceil(picture.width * picture.height / PIXELS_PER_TOKEN)
    longest = max((medium.seconds for medium in media), default=0.0)
    message = {"role": "user", "content": [*parts, _text(text)]}
    return Payload(messages=[message], tokens=tokens, seconds=longest)


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _frames(medium: Medium, most: int) -> list[tuple[float, np.ndarray]]:
    """At most `most` frames with their times, spread evenly, the first and the last among them."""
    if medium.kind == "image":
        return [(0.0, medium.data)]
    chosen = np.unique(np.linspace(0, len(medium.data) - 1, min(most, len(medium.data))).round().astype(int))
    return [(int(at) / medium.fps, medium.data[at]) for at in chosen]


def _scaled(frame: np.ndarray, side: int) -> Image.Image:
    picture = Image.fromarray(frame)
    longest = max(picture.size)
    if longest <= side:
        return picture
    width, height = (max(1, round(length * side / longest)) for length in picture.size)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def _jpeg(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _wav(samples: np.ndarray) -> str:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return base64.b64encode(buffer.getvalue()).decode()
