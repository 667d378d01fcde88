"""The media of one sample: from paths in its data file to arrays in the order of the prompt.

Frames. One sample has one frame rate: the rate of `MediaConfig.fps`, lowered until its longest video
needs no more than `max_frames`, so that one `second_per_grid` holds for all its videos. A frame is
taken at every i/fps seconds that lies within the video, at least one. An odd number stays odd: the
processor repeats the last frame to fill a pair (temporal patch 2), so F frames give ceil(F/2) grids.

The rate is rounded down to one whose `second_per_grid` = 2/fps is a multiple of 1/256 s, which
float32 holds exactly (so too its products up to 2,600 s). transformers and vLLM both compute the
integer position floor(i * second_per_grid * 25), one in float32, one in float64: at 1.4 s, say, they
would differ by one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from rollout.byte_cache import ByteCache
from rollout.config import MediaConfig
from rollout.decode import MediaError, VideoInfo, probe_video, read_audio, read_image, read_track, read_video
from rollout.messages import Message, media_kinds
from rollout.types import Media, Modality

GRID_FRAMES = 2
GRID_TICKS = 256

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaPaths:
    """The files of one sample by kind, as the row states them: relative to `root`, in prompt order.

    `root` is the folder of the data file; no path may leave it.
    """

    videos: tuple[str, ...] = ()
    audios: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    root: str = "."

    def of(self, kind: Modality) -> tuple[str, ...]:
        """The paths of one kind."""
        return {"video": self.videos, "audio": self.audios, "image": self.images}[kind]


class MediaCache(ByteCache):
    """Decoded media kept between epochs. A key has the files' times and sizes: a changed file is decoded again."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(limit_bytes, _array_bytes)

    def get(self, path: Path, kind: str, fps: float, make: Callable[[], T]) -> T:
        """The value kept for this file, or that of `make`, which is then kept if it fits."""
        stat = path.stat()
        return self.get_by((str(path), stat.st_mtime_ns, stat.st_size, kind, fps), make)


def _array_bytes(value: object) -> int:
    media = value if isinstance(value, tuple) else (value,)
    return sum(one.data.nbytes for one in media if isinstance(one, Media))


def decode_media(
    messages: Sequence[Message],
    paths: MediaPaths,
    audio_in_video: bool,
    config: MediaConfig,
    where: str,
    cache: MediaCache | None = None,
) -> tuple[Media, ...]:
    """The media of one sample in the order of the prompt; with `audio_in_video` each video is
    followed by its own audio track (kind "audio").

    `where` names the row in errors. Raises MediaError; limits are judged before anything is decoded.
    """
    reader = _Reader(config, cache or MediaCache(0), where)
    files = _in_prompt_order(messages, paths, audio_in_video, where)
    infos = {path: reader.probe(path, text) for kind, path, text in files if kind == "video"}
    fps = sample_fps([info.seconds for info in infos.values()], config) if infos else 0.0
    media: list[Media] = []
    for kind, path, text in files:
        if kind == "video":
            media.append(reader.video(path, text, infos[path], fps))
            if audio_in_video:
                media.append(reader.track(path, text, infos[path]))
        else:
            media.append(reader.audio(path, text) if kind == "audio" else reader.image(path, text))
    return tuple(media)


def media_key(messages: Sequence[Message], paths: MediaPaths, audio_in_video: bool) -> Hashable:
    """Names one sample's media: kinds and files in the order of the prompt, each file's time and size.

    None stands for a file that is not there, or must not be looked at: decoding says which.
    """
    stats: list[tuple[int, int] | None] = []
    for kind in ("video", "audio", "image"):
        for text in paths.of(kind):
            try:
                stat = resolve_path(paths.root, text, text).stat()
                stats.append((stat.st_mtime_ns, stat.st_size))
            except (MediaError, OSError):
                stats.append(None)
    return media_kinds(messages), paths, audio_in_video, tuple(stats)


def sample_fps(seconds: Sequence[float], config: MediaConfig) -> float:
    """The one frame rate of a sample whose videos last `seconds`."""
    grid = GRID_FRAMES / min(config.fps, config.max_frames / max(*seconds, 1e-3))
    ticks = math.ceil(grid * GRID_TICKS - 1e-9)
    # the processors divide 2 by fps again; take a rate that gives the exact fraction back
    while GRID_FRAMES / (GRID_FRAMES * GRID_TICKS / ticks) != ticks / GRID_TICKS:
        ticks += 1
    return GRID_FRAMES * GRID_TICKS / ticks


def frame_times(seconds: float, fps: float) -> tuple[float, ...]:
    """Where frames are taken: every i/fps within a video of `seconds`, at least one."""
    return tuple(i / fps for i in range(max(1, math.ceil(seconds * fps - 1e-6))))


def resolve_path(root: str, text: str, label: str) -> Path:
    """The file meant by `text` inside the folder `root`. Raises MediaError when it leads outside."""
    if "://" in text:
        raise MediaError(f"{label} is an address; download the file and write a relative path")
    if Path(text).is_absolute():
        raise MediaError(f"{label} is absolute; write a path relative to the data file's folder")
    if not text.strip() or "\0" in text:
        raise MediaError(f"{label} is not a path; write one relative to the data file's folder")
    folder = Path(root).resolve()
    path = (folder / text).resolve()
    if not path.is_relative_to(folder):
        raise MediaError(f"{label} leads out of the data file's folder; move the file into it")
    return path


def _in_prompt_order(
    messages: Sequence[Message], paths: MediaPaths, audio_in_video: bool, where: str
) -> list[tuple[Modality, Path, str]]:
    kinds = media_kinds(messages)
    for kind in ("video", "audio", "image"):
        found, given = kinds.count(kind), len(paths.of(kind))
        if found != given:
            raise MediaError(
                f"{where}: the messages have {found} <{kind}> and {kind}s lists {given}; make them equal"
            )
    if audio_in_video and "audio" in kinds:
        raise MediaError(f"{where}: audio_in_video does not go with <audio>; leave one of them out")
    queues = {kind: iter(paths.of(kind)) for kind in set(kinds)}
    files: list[tuple[Modality, Path, str]] = []
    for kind in kinds:
        text = next(queues[kind])
        files.append((kind, resolve_path(paths.root, text, _label(where, kind, text)), text))
    return files


def _label(where: str, kind: str, text: str) -> str:
    return f"{where}: {kind} {text!r}"


class _Reader:
    """Decodes the files of one sample through the cache."""

    def __init__(self, config: MediaConfig, cache: MediaCache, where: str) -> None:
        self._config = config
        self._cache = cache
        self._where = where

    def probe(self, path: Path, text: str) -> VideoInfo:
        limits, label = self._config, _label(self._where, "video", text)

        def make() -> VideoInfo:
            return probe_video(
                path, max_seconds=limits.max_seconds, max_pixels=limits.max_pixels, label=label
            )

        return self._get(path, "probe", 0.0, make)

    def video(self, path: Path, text: str, info: VideoInfo, fps: float) -> Media:
        label = _label(self._where, "video", text)
        times = frame_times(info.seconds, fps)

        def make() -> Media:
            frames = read_video(path, times, max_pixels=self._config.max_pixels, label=label)
            return _frozen("video", frames, fps)

        return self._get(path, "video", fps, make)

    def track(self, path: Path, text: str, info: VideoInfo) -> Media:
        label = _label(self._where, "video", text)
        seconds = self._config.max_seconds
        return self._get(
            path, "track", 0.0, lambda: _frozen("audio", read_track(path, max_seconds=seconds, label=label))
        )

    def audio(self, path: Path, text: str) -> Media:
        label = _label(self._where, "audio", text)
        seconds = self._config.max_seconds
        return self._get(
            path, "audio", 0.0, lambda: _frozen("audio", read_audio(path, max_seconds=seconds, label=label))
        )

    def image(self, path: Path, text: str) -> Media:
        label = _label(self._where, "image", text)
        pixels = self._config.max_pixels
        return self._get(
            path, "image", 0.0, lambda: _frozen("image", read_image(path, max_pixels=pixels, label=label))
        )

    def _get(self, path: Path, kind: str, fps: float, make: Callable[[], T]) -> T:
        # a missing file has no time and size: let the decoder say so
        return self._cache.get(path, kind, fps, make) if path.is_file() else make()


def _frozen(kind: Modality, data: np.ndarray, fps: float = 0.0) -> Media:
    # the cache hands the same array to every epoch: nobody may write into it
    data.setflags(write=False)
    return Media.of(kind, data, fps)
