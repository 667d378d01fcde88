"""The records of the student's side: what is asked, and what was sampled.

    P   prompt tokens, media placeholders expanded     F, H, W   frames, height, width
    T   response tokens, the end token included        N         audio samples at 16 kHz
    G   rollouts of one sample                         L         P + T

A worked example: a sample with a 4-frame 56x56 video and one second of audio renders to P = 48
token ids, of which 8 are `<|VIDEO|>` and 25 `<|AUDIO|>`. An engine samples G = 4 responses; the
first has T = 17 ids, 17 log-probabilities, `finish="stop"`, and was drawn from policy version 3.

Nothing here has a field that could carry a rationale or a reference answer: a leak of privileged
text to the student is not representable.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np

from cluster.runtime import Ref

Modality = Literal["video", "audio", "image"]
Finish = Literal["stop", "length", "abort"]


class RecordError(ValueError):
    """A record whose fields do not fit each other."""


def media_digest(kind: Modality, data: np.ndarray, fps: float = 0.0) -> str:
    """Content hash of one medium (hex, 16 bytes): kind, dtype, shape, frame rate and every byte."""
    head = f"{kind}|{data.dtype.str}|{data.shape}|{fps:.6f}|".encode()
    return hashlib.blake2b(head + np.ascontiguousarray(data).tobytes(), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Media:
    """One decoded medium, in the form every station works from.

    `data`: video uint8 [F,H,W,3], image uint8 [H,W,3], audio float32 [N] (16 kHz, mono, -1..1).
    `fps`: frames per second of the sampled video, 0 for the others.
    """

    kind: Modality
    data: np.ndarray
    fps: float = 0.0
    digest: str

    @classmethod
    def of(cls, kind: Modality, data: np.ndarray, fps: float = 0.0) -> Media:
        """Make a record with its digest. Raises RecordError on a wrong dtype or rank."""
        return cls(kind=kind, data=data, fps=fps, digest=media_digest(kind, data, fps))

    def __post_init__(self) -> None:
        rank, dtype = {"video": (4, "uint8"), "image": (3, "uint8"), "audio": (1, "float32")}[self.kind]
        if self.data.ndim != rank or self.data.dtype != dtype:
            raise RecordError(
                f"{self.kind} data is {self.data.dtype} with {self.data.ndim} axes, expected {dtype} with {rank}"
            )
        if (self.fps > 0) != (self.kind == "video"):
            raise RecordError(
                f"{self.kind} has fps {self.fps}: a video has a rate above 0, the others have 0"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaUse:
    """What one station really fed to its model for one medium: `tokens` placeholder rows."""

    kind: Modality
    digest: str
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """Messages and media as token ids.

    `token_ids` int32 [P] with placeholders expanded; `collapsed_ids` int32 [<=P] with one
    placeholder token for each medium (what vLLM takes); `media` in the order of the prompt;
    `media_use` the expected use, one for each medium. With `audio_in_video` each video is followed
    in `media` by its own audio track, and the two share one interleaved span.
    """

    token_ids: np.ndarray
    collapsed_ids: np.ndarray
    media: tuple[Media, ...]
    media_use: tuple[MediaUse, ...]
    audio_in_video: bool

    def __post_init__(self) -> None:
        if len(self.media) != len(self.media_use):
            raise RecordError(f"{len(self.media)} media and {len(self.media_use)} media uses")
        if len(self.token_ids) < 1:
            raise RecordError("a prompt of 0 tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """The student's prompt for one sample: nothing privileged."""

    sample_id: str
    rendered: Rendered


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingSpec:
    """How to sample: `seed` is mixed with step, sample and index, so a rerun draws the same."""

    rollouts: int
    max_new_tokens: int
    temperature: float
    top_p: float
    top_k: int
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One sampled response.

    `response_ids` int32 [T]; `rollout_logprobs` float32 [T], natural log, of the distribution that
    was really sampled (after temperature). `finish` is "stop" when the end token is the last id.
    """

    rollout_id: str
    sample_id: str
    index: int
    response_ids: np.ndarray
    rollout_logprobs: np.ndarray
    temperature: float
    policy_version: int
    finish: Finish

    def __post_init__(self) -> None:
        if len(self.response_ids) != len(self.rollout_logprobs):
            raise RecordError(
                f"{self.rollout_id}: {len(self.response_ids)} ids and {len(self.rollout_logprobs)} log-probs"
            )
        if len(self.response_ids) == 0:
            raise RecordError(f"{self.rollout_id}: an empty response")
        if not np.isfinite(self.rollout_logprobs).all():
            raise RecordError(f"{self.rollout_id}: a rollout log-prob is not finite")


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutGroup:
    """The G rollouts of one sample, which travel together from the engine to one learner rank."""

    sample_id: str
    rollouts: tuple[Rollout, ...]
    media_use: tuple[MediaUse, ...]
    seconds: float

    def __post_init__(self) -> None:
        if not self.rollouts or any(r.sample_id != self.sample_id for r in self.rollouts):
            raise RecordError(f"{self.sample_id}: a group needs rollouts, all of its own sample")


@dataclass(frozen=True, slots=True, kw_only=True)
class WireTensor:
    """One weight on the wire: `data` uint8 [bytes], `dtype` as torch spells it ("float32")."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightUpdate:
    """All weights of one policy version, in chunks: refs to lists of WireTensor (`cluster.runtime.Ref`).

    Names are those of the transformers thinker ("model.layers.0...", "visual...", "audio_tower...").
    `digest` covers every name, dtype, shape and byte, in order (see `rollout.weights`).
    """

    version: int
    chunks: tuple[Ref[list[WireTensor]], ...]
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightReceipt:
    """A receiver's word that it now holds a version, with the digest of what it received."""

    receiver: str
    version: int
    digest: str
