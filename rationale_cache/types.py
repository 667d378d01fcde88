"""The records of the rationale cache.

A rationale is evidence about one sample, written beforehand by a stronger model and read by the
teacher only. `RationaleRecord` is what the cache keeps of it, for ever; `Rationale` is the part that
the teacher reads.

A worked example: one clip is sent to a model in the mode "blind". `Request` says what was asked (hashes
of the media, the messages and the prompt, the model, the sampling parameters); the record's key is the
hash of that request. The reply gives a text and two cues, one of them "video, 1.2 to 2.0 s: brows drawn
together". A clip for which no usable reply came has a record too: no text, and a reason.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

Mode = Literal["blind", "label_conditioned"]
Modality = Literal["video", "audio", "image", "text"]
MODES: tuple[Mode, ...] = ("blind", "label_conditioned")
MODALITIES: tuple[Modality, ...] = ("video", "audio", "image", "text")
NO_OFFSET, INFINITY = timedelta(0), float("inf")


class RecordError(ValueError):
    """A record of the cache whose parts contradict each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rationale:
    """One text of evidence as the teacher reads it; `key` (32 hex digits) always names this very text."""

    key: str
    text: str

    @classmethod
    def of(cls, text: str) -> Rationale:
        """A rationale from the data file, keyed by its content. Raises ValueError for an empty text."""
        if not text.strip():
            raise ValueError("a rationale without any text: leave the field out, or give a text")
        return cls(key=hashlib.blake2b(text.encode(), digest_size=16).hexdigest(), text=text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Everything that can change the text; the record's key is its hash (`keys.key_of`).

    `media` are content hashes in the order of the messages; `messages` and `prompt_hash` are
    `keys.digest` of the messages as sent and of the prompt template; `model` is the one that was asked
    for; `sampling` is canonical JSON (`keys.canonical`) of the sampling parameters. `label` belongs to the
    mode "label_conditioned" alone: elsewhere the model does not see it.
    """

    media: tuple[str, ...]
    messages: str
    prompt_hash: str
    model: str
    sampling: str
    mode: Mode
    label: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise RecordError(f"mode {self.mode!r}: write one of {', '.join(MODES)}")
        if (self.label is not None) != (self.mode == "label_conditioned"):
            raise RecordError(f"mode {self.mode!r} with label {self.label!r}: only label_conditioned has one")
        if not self.model:
            raise RecordError("a request without a model: name the one that is asked")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cue:
    """One observation; `start` and `end` in seconds from the medium's start, None where none was given."""

    modality: Modality
    text: str
    start: float | None = None
    end: float | None = None

    def __post_init__(self) -> None:
        if self.modality not in MODALITIES:
            raise RecordError(f"cue of modality {self.modality!r}: write one of {', '.join(MODALITIES)}")
        if not self.text.strip():
            raise RecordError(f"a {self.modality} cue without any text: leave it out")
        start, end = self.start, self.end
        given = (start is None or 0 <= start < INFINITY) and (end is None or 0 <= end < INFINITY)
        if not given or (start is not None and end is not None and start > end):
            raise RecordError(f"cue from {start} to {end} s: seconds from 0, the end not first")


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens billed, summed over all attempts; `reasoning_tokens` are part of the completion's."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    cached_tokens: int = 0

    @property
    def total(self) -> int:
        """Tokens in and out."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What one filter said of the text; `detail` is for people."""

    filter: str
    passed: bool
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RationaleRecord:
    """One rationale with its provenance, or the reason why there is none: exactly one of `text`, `reason`.

    `model_answered` is what the reply says of itself and may differ from `request.model`. `usage`, `cost`
    (US dollars; None where the price is not known) and `latency` (seconds) cover all `attempts`.
    `finish_reason` is the last reply's, `reply_hash` its `keys.digest` (empty where there was no reply).
    `made_at` is UTC.
    """

    key: str
    sample_id: str
    dataset: str
    request: Request
    text: str | None
    reason: str | None = None
    cues: tuple[Cue, ...] = ()
    model_answered: str = ""
    usage: Usage = Usage()
    cost: float | None = None
    latency: float = 0.0
    finish_reason: str = ""
    attempts: int = 1
    reply_hash: str = ""
    made_at: datetime
    verdicts: tuple[Verdict, ...] = ()

    def __post_init__(self) -> None:
        if (self.text is None) == (self.reason is None):
            raise RecordError(f"{self.sample_id}: give either a text or the reason why there is none")
        if not (self.text or self.reason or "").strip():
            raise RecordError(f"{self.sample_id}: the {'text' if self.reason is None else 'reason'} is empty")
        if self.made_at.utcoffset() != NO_OFFSET:
            raise RecordError(f"{self.sample_id}: made_at {self.made_at!r} is not UTC")

    def rationale(self) -> Rationale | None:
        """What the teacher reads; None when there is no rationale."""
        return None if self.text is None else Rationale(key=self.key, text=self.text)
