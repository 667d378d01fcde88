"""Media of a logged rollout as HTML with everything inside: frames, waveform, a player for small files."""

from __future__ import annotations

import base64
import io
import mimetypes
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

import av
import av.error
import numpy as np
from PIL import Image

FRAMES = 4
STILL_HEIGHT = 132
PLAYER_BYTES = 400_000
WAVE_RATE = 8000
WAVE_COLUMNS = 240


class MediaShelf:
    """Turns media files into HTML; players stop when `budget` bytes of them are in the page."""

    def __init__(self, budget: int = 8_000_000) -> None:
        self._left = budget

    def html(self, videos: Sequence[str], audios: Sequence[str], images: Sequence[str]) -> str:
        """All media of one sample; a missing or unreadable file is a caption that says so."""
        parts = [self._figure(path, self._video) for path in videos]
        parts += [self._figure(path, self._audio) for path in audios]
        parts += [self._figure(path, _image) for path in images]
        return f'<div class="media">{"".join(parts)}</div>' if parts else ""

    def _figure(self, name: str, make: Callable[[Path], str]) -> str:
        path = Path(name)
        caption = escape(path.name)
        if not path.is_file():
            return f'<figure class="medium lost"><figcaption>{caption}: not found</figcaption></figure>'
        try:
            body = make(path)
        except (OSError, ValueError, av.error.FFmpegError):
            return (
                f'<figure class="medium lost"><figcaption>{caption}: cannot be decoded</figcaption></figure>'
            )
        return f'<figure class="medium">{body}<figcaption>{caption}</figcaption></figure>'

    def _video(self, path: Path) -> str:
        stills = [_still_source(image) for image in video_stills(path)]
        shown = "".join(f'<img alt="" src="{source}">' for source in stills)
        wave = waveform(path)
        sound = _wave(wave) if wave is not None else ""
        player = self._player(path, "video", f' poster="{stills[0]}"')
        folded = f"<details><summary>Play</summary>{player}</details>" if player else ""
        return f'<div class="stills">{shown}</div>{sound}{folded}'

    def _audio(self, path: Path) -> str:
        wave = waveform(path)
        if wave is None:
            raise ValueError(f"{path} has no sound")
        return _wave(wave) + self._player(path, "audio")

    def _player(self, path: Path, tag: str, extra: str = "") -> str:
        size = path.stat().st_size
        kind = mimetypes.guess_type(path.name)[0] or ""
        if size > min(PLAYER_BYTES, self._left) or not kind.startswith(f"{tag}/"):
            return ""
        self._left -= size
        return f'<{tag} controls preload="none"{extra} src="{_data(path.read_bytes(), kind)}"></{tag}>'


def video_stills(path: Path, count: int = FRAMES) -> list[Image.Image]:
    """`count` frames, evenly over the length; fewer when the video has fewer."""
    with av.open(str(path)) as container:
        if not container.streams.video:
            raise ValueError(f"{path} has no picture")
        container.streams.video[0].thread_type = "AUTO"
        length = container.duration or 0  # microseconds
        stills: dict[int, Image.Image] = {}
        for index in range(count):
            container.seek(int(length * (index + 0.5) / count))
            frame = _frame_at(container, length * (index + 0.5) / count / 1e6)
            if frame is not None:
                stills.setdefault(frame.pts or 0, frame.to_image())
    if not stills:
        raise ValueError(f"{path} has no frame")
    return list(stills.values())


def waveform(path: Path) -> np.ndarray | None:
    """Lowest and highest value of each column, float32 [2, columns]; None when the file has no sound."""
    with av.open(str(path)) as container:
        if not container.streams.audio:
            return None
        resampler = av.AudioResampler(format="fltp", layout="mono", rate=WAVE_RATE)
        pieces = [
            piece.to_ndarray()[0]
            for frame in container.decode(audio=0)
            for piece in resampler.resample(frame)
        ]
    sound = np.concatenate(pieces) if pieces else np.zeros(0, np.float32)
    if len(sound) == 0:
        return None
    columns = np.array_split(sound, min(WAVE_COLUMNS, len(sound)))
    return np.array([[c.min() for c in columns], [c.max() for c in columns]], np.float32)


def _frame_at(container: av.container.InputContainer, seconds: float) -> av.VideoFrame | None:
    last = None
    for frame in container.decode(video=0):
        last = frame
        if frame.time is None or frame.time >= seconds:
            break
    return last


def _image(path: Path) -> str:
    with Image.open(path) as image:
        source = _still_source(image.convert("RGB"))
    return f'<div class="stills"><img alt="" src="{source}"></div>'


def _still_source(image: Image.Image) -> str:
    width = max(1, round(image.width * STILL_HEIGHT / image.height))
    small = image.resize((width, STILL_HEIGHT)) if image.height > STILL_HEIGHT else image
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=82)
    return _data(buffer.getvalue(), "image/jpeg")


def _wave(wave: np.ndarray) -> str:
    columns = wave.shape[1]
    scale = 19 / max(float(np.abs(wave).max()), 1e-6)
    up = [f"{x},{20 - scale * high:.1f}" for x, high in enumerate(wave[1])]
    down = [f"{x},{20 - scale * low:.1f}" for x, low in enumerate(wave[0])]
    outline = " ".join([*up, *reversed(down)])
    return (
        f'<svg class="wave" viewBox="0 0 {columns} 40" preserveAspectRatio="none" role="img" '
        f'aria-label="waveform"><polygon class="band c1" points="{outline}"/></svg>'
    )


def _data(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
