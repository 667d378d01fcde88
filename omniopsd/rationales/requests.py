"""From samples to requests: keys without decoding, payloads when they are needed.

A medium counts by the hash of its file's bytes and the settings by which it is decoded and sent, so that a key costs
one read of the file (and none, when the file has been read before in this process).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from omniopsd.samples import Sample
from rationale_cache.config import Kind, RationaleCacheConfig
from rationale_cache.job import Job
from rationale_cache.keys import IMPORTED, imported_request, key_of, make_request
from rationale_cache.payload import Medium, Payload, make_payload
from rationale_cache.prompt import fill, sampling, template_of
from rationale_cache.types import Request
from rollout.config import MediaConfig
from rollout.media import MediaError, decode_media, resolve_path
from rollout.messages import MediaPart, TextPart

CHUNK = 2**20
READERS = 8


class RequestBook:
    """The requests of a run's samples."""

    def __init__(self, config: RationaleCacheConfig, media: MediaConfig) -> None:
        self.config, self._media = config, media
        self._digests: dict[tuple[str, int, int], str] = {}

    def request(self, sample: Sample) -> Request:
        """What this sample asks for. Raises MediaError for a medium that cannot be read."""
        config = self.config
        if config.model.startswith(IMPORTED):
            source = config.model.removeprefix(IMPORTED)
            return imported_request(source, sample.dataset, sample.sample_id, config.mode, sample.labels)
        kinds = self.kinds(sample)
        text = self._text(sample)
        return make_request(
            media=self._files(sample),
            messages=[{"role": "user", "content": [*({"type": kind} for kind in kinds), text]}],
            prompt=template_of(config),
            model=config.model,
            sampling=sampling(config) | self._how_sent(kinds),
            mode=config.mode,
            label=sample.labels,
        )

    def key(self, sample: Sample) -> str:
        """The key of this sample's rationale."""
        return key_of(self.request(sample))

    def job(self, sample: Sample) -> Job:
        """What there is to make for this sample."""
        request = self.request(sample)
        return Job(
            key=key_of(request),
            request=request,
            sample_id=sample.sample_id,
            dataset=sample.dataset,
            labels=sample.labels,
            kinds=frozenset(self.kinds(sample)),
            payload=partial(self.payload, sample),
        )

    def keys(self, samples: Sequence[Sample]) -> dict[str, str]:
        """The key of each sample, by sample id; files are read by several threads."""
        with ThreadPoolExecutor(READERS) as pool:
            keys = pool.map(self.key, samples)
            return {sample.sample_id: key for sample, key in zip(samples, keys, strict=True)}

    def jobs(self, samples: Sequence[Sample]) -> list[Job]:
        """What there is to make for each sample; files are read by several threads."""
        with ThreadPoolExecutor(READERS) as pool:
            return list(pool.map(self.job, samples))

    def payload(self, sample: Sample) -> Payload:
        """The request's messages, media decoded and encoded. Raises MediaError."""
        inputs = sample.inputs
        decoded = decode_media(
            inputs.messages, inputs.paths, inputs.audio_in_video, self._media, where=sample.where
        )
        sent = [
            Medium(kind=medium.kind, data=medium.data, fps=medium.fps)
            for medium in decoded
            if medium.kind in self.config.send
        ]
        return make_payload(
            self._text(sample), sent, max_frames=self.config.max_frames, max_side=self.config.max_side
        )

    def kinds(self, sample: Sample) -> tuple[Kind, ...]:
        """The kinds of the media that are sent, in order; a video's own track counts as audio."""
        return tuple(kind for kind in _kinds(sample) if kind in self.config.send)

    def _text(self, sample: Sample) -> str:
        label = sample.labels if self.config.mode == "label_conditioned" else ()
        return fill(template_of(self.config), task=task_text(sample), media=self.kinds(sample), label=label)

    def _files(self, sample: Sample) -> tuple[str, ...]:
        """Content hashes of the files behind the media, in the order of the prompt."""
        paths = sample.inputs.paths
        queues = {kind: iter(paths.of(kind)) for kind in ("video", "audio", "image")}
        found = []
        for part in _media_parts(sample):
            text = next(queues[part.kind])
            track = part.kind == "video" and sample.inputs.audio_in_video and "audio" in self.config.send
            if part.kind in self.config.send or track:
                found.append(self._digest(paths.root, text, f"{sample.where}: {part.kind} {text!r}"))
        return tuple(found)

    def _how_sent(self, kinds: Sequence[str]) -> dict[str, Any]:
        """The settings that change what is sent of these media."""
        config, media = self.config, self._media
        values: dict[str, Any] = {}
        if "video" in kinds:
            values |= {"fps": media.fps, "frames": media.max_frames, "sent_frames": config.max_frames}
        if "video" in kinds or "image" in kinds:
            values["side"] = config.max_side
        return {"media": values} if values else {}

    def _digest(self, root: str, text: str, label: str) -> str:
        path = resolve_path(root, text, label)
        try:
            stat = path.stat()
            key = (str(path), stat.st_mtime_ns, stat.st_size)
            if key not in self._digests:
                self._digests[key] = file_digest(path)
        except OSError as error:
            raise MediaError(f"{label} cannot be read ({error})") from error
        return self._digests[key]


def file_digest(path: Path) -> str:
    """BLAKE2b-128 of a file's bytes, hex."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def task_text(sample: Sample) -> str:
    """The sample's messages as text, each medium named in its place: `[video 1] What does he feel?`."""
    counts: dict[str, int] = {}
    turns = []
    for message in sample.inputs.messages:
        pieces = []
        for part in message.parts:
            if isinstance(part, TextPart):
                pieces.append(part.text)
                continue
            counts[part.kind] = counts.get(part.kind, 0) + 1
            pieces.append(f"[{part.kind} {counts[part.kind]}] ")
        turns.append((message.role, "".join(pieces).strip()))
    if len(turns) == 1:
        return turns[0][1]
    return "\n".join(f"{role}: {text}" for role, text in turns)


def _media_parts(sample: Sample) -> list[MediaPart]:
    return [
        part for message in sample.inputs.messages for part in message.parts if isinstance(part, MediaPart)
    ]


def _kinds(sample: Sample) -> list[Kind]:
    kinds: list[Kind] = []
    for part in _media_parts(sample):
        kinds.append(part.kind)
        if part.kind == "video" and sample.inputs.audio_in_video:
            kinds.append("audio")
    return kinds
