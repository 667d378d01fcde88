"""Actors on CPUs that decode media ahead of the rollout, so that the driver only renders.

The driver asks for the next step's samples while the engines sample this one's; arrays come back through Ray's
object store. The code that decodes, its checks and its errors are those of `rollout.media`.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from itertools import count

from cluster.runtime import Ref, Resources, Runtime
from rollout.config import MediaConfig
from rollout.decode import MediaError
from rollout.media import MediaPaths, decode_media, media_key
from rollout.messages import Message
from rollout.types import Media

DECODE_SECONDS = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeJob:
    """The media of one sample, as `decode_media` takes them."""

    messages: tuple[Message, ...]
    paths: MediaPaths
    audio_in_video: bool
    where: str

    @property
    def key(self) -> Hashable:
        """The same for the same files with the same time and size."""
        return media_key(self.messages, self.paths, self.audio_in_video)


class DecodeWorker:
    """One decoding actor."""

    def __init__(self, config: MediaConfig) -> None:
        self._config = config

    def decode(self, job: DecodeJob) -> tuple[Media, ...] | MediaError:
        """The media in prompt order; a file's fault comes back as a value, to be raised when the sample's turn has come."""
        try:
            return decode_media(job.messages, job.paths, job.audio_in_video, self._config, where=job.where)
        except MediaError as error:
            return error


class DecoderPool:
    """Hands jobs to the actors in turn and keeps those that are under way."""

    def __init__(self, runtime: Runtime, config: MediaConfig) -> None:
        self.actors = [
            runtime.start(f"decoder-{index}", resources(), DecodeWorker, config)
            for index in range(config.decoders)
        ]
        self._turn = count()
        self._waiting: dict[Hashable, Ref[tuple[Media, ...] | MediaError]] = {}

    def ahead(self, jobs: Sequence[DecodeJob]) -> None:
        """Start what is not under way."""
        for job in jobs:
            if job.key not in self._waiting:
                self._waiting[job.key] = self._start(job)

    def media(self, job: DecodeJob) -> tuple[Media, ...]:
        """The media of one job, started now if they were not. Raises what `decode_media` raises."""
        ref = self._waiting.pop(job.key, None) or self._start(job)
        found = ref.get(DECODE_SECONDS)
        if isinstance(found, MediaError):
            raise found
        return tuple(_own(medium) for medium in found)

    def _start(self, job: DecodeJob) -> Ref[tuple[Media, ...] | MediaError]:
        actor = self.actors[next(self._turn) % len(self.actors)]
        return actor.call(DecodeWorker.decode, job)


def resources() -> Resources:
    """What one decoder reserves."""
    return Resources(cpus=1.0, env={"OMP_NUM_THREADS": "1"})


def _own(medium: Media) -> Media:
    # what is kept between epochs must not hold on to Ray's shared memory
    data = medium.data.copy()
    data.setflags(write=False)
    return replace(medium, data=data)
