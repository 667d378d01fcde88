"""Files to arrays: video frames, audio samples and pictures, with every limit checked first.

`label` starts each error: it names the row of the data file and the path. The content decides what
a file is, never its name: a picture called `clip.mp4` is refused, an m4a called `clip.wav` is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import soundfile
import soxr
from av.container import InputContainer
from PIL import Image, ImageOps, UnidentifiedImageError

SAMPLE_RATE = 16000
LOUDEST = 2.0
"""Float files may overshoot 1 a little and are clipped; beyond this the scale is wrong."""

# Playlist and picture demuxers stay out: a playlist could make ffmpeg open other files or addresses.
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,flv,asf,ogg,m4v,"
    "wav,mp3,flac,aac,amr,caf,aiff,w64,ac3,eac3"
)
EIGHT_BIT = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}


class MediaError(ValueError):
    """A medium that is missing, refused or cannot be decoded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoInfo:
    """What the packets say, before any frame is decoded: length in seconds, and if it has sound."""

    seconds: float
    has_audio: bool


def probe_video(path: Path, *, max_seconds: float, max_pixels: int, label: str) -> VideoInfo:
    """Length of a video from its packets; nothing is decoded. Raises MediaError."""
    with _opened(path, label, "video") as container:
        if not container.streams.video:
            raise MediaError(f"{label} has no video in it; give a file with a video track")
        stream = container.streams.video[0]
        _check_pixels(stream.codec_context.width, stream.codec_context.height, max_pixels, label)
        stated = container.duration / av.time_base if container.duration else 0.0
        _check_seconds(stated, max_seconds, label)
        seconds = _packet_seconds(container, stream.index, stated, max_seconds, label)
        return VideoInfo(seconds=seconds, has_audio=bool(container.streams.audio))


def read_video(path: Path, times: Sequence[float], *, max_pixels: int, label: str) -> np.ndarray:
    """The frames on screen at `times` (seconds from the first frame, rising): uint8 [F,H,W,3]."""
    pictures: list[np.ndarray] = []
    with _opened(path, label, "video") as container:
        shown: av.VideoFrame | None = None
        start = 0.0
        for frame in container.decode(container.streams.video[0]):
            _check_pixels(frame.width, frame.height, max_pixels, label)
            if shown is None:
                start = frame.time or 0.0
            while shown is not None and len(pictures) < len(times):
                if (frame.time or 0.0) - start <= times[len(pictures)] + 1e-6:
                    break
                pictures.append(_rgb(shown, pictures))
            if len(pictures) == len(times):
                break
            shown = frame
        if shown is None:
            raise MediaError(f"{label} has 0 frames; give a video with at least one")
        while len(pictures) < len(times):
            pictures.append(_rgb(shown, pictures))
    return np.stack(pictures)


def read_track(path: Path, *, max_seconds: float, label: str) -> np.ndarray:
    """The first audio track of a container: float32 [N], 16 kHz mono. Raises MediaError.

    It starts with the video's first frame: a track that begins later gets silence in front, one
    that begins earlier is cut.
    """
    blocks: list[np.ndarray] = []
    with _opened(path, label, "audio") as container:
        if not container.streams.audio:
            raise MediaError(f"{label} has no audio track; set audio_in_video to false for this row")
        stream = container.streams.audio[0]
        stated = container.duration / av.time_base if container.duration else 0.0
        _check_seconds(stated, max_seconds, label)
        resampler = av.AudioResampler(format="fltp")
        delay, rate, samples = 0.0, 0, 0
        for frame in container.decode(stream):
            if not blocks:
                delay, rate = _delay(container, frame), frame.sample_rate
            for piece in resampler.resample(frame):
                blocks.append(piece.to_ndarray().T)
                samples += piece.samples
            _check_seconds(samples / rate, max_seconds, label)
    if not blocks:
        raise MediaError(f"{label} has an empty audio track; give one with sound")
    if any(block.shape[1] != blocks[0].shape[1] for block in blocks):
        raise MediaError(f"{label} changes its number of audio channels midway; encode it anew")
    return _shift(_mono_16k(np.concatenate(blocks), rate, label), delay)


def read_audio(path: Path, *, max_seconds: float, label: str) -> np.ndarray:
    """An audio file (wav, flac, ogg, mp3, m4a, ...): float32 [N], 16 kHz mono. Raises MediaError."""
    _check_file(path, label)
    _check_riff(path, label)
    with path.open("rb") as file:
        try:
            sound = soundfile.SoundFile(file)
        except soundfile.LibsndfileError:
            sound = None
        if sound is not None:
            _check_seconds(sound.frames / sound.samplerate, max_seconds, label)
            return _mono_16k(_read_sound(sound, label), sound.samplerate, label)
    return _read_other_audio(path, max_seconds, label)


def read_image(path: Path, *, max_pixels: int, label: str) -> np.ndarray:
    """A picture, turned upright by its own orientation tag: uint8 [H,W,3]. Raises MediaError."""
    _check_file(path, label)
    try:
        with Image.open(path) as image:
            _check_pixels(image.width, image.height, max_pixels, label)
            if image.mode not in EIGHT_BIT:
                raise MediaError(f"{label} has the pixel type {image.mode}; save it with 8 bits a channel")
            return np.array(ImageOps.exif_transpose(image).convert("RGB"), dtype=np.uint8)
    except Image.DecompressionBombError as error:
        raise MediaError(f"{label} is too large to decode: {error}; make it smaller") from error
    except UnidentifiedImageError as error:
        raise MediaError(
            f"{label} is not a picture that can be read; give a PNG, JPEG or WebP file"
        ) from error
    except (OSError, SyntaxError) as error:
        raise MediaError(f"{label} is truncated or damaged ({error}); copy the file again") from error


def _check_file(path: Path, label: str) -> None:
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise MediaError(f"{label} {found}; write the path of a file, relative to the data file")
    if path.stat().st_size == 0:
        raise MediaError(f"{label} is empty (0 bytes); copy the file again")


def _check_pixels(width: int, height: int, max_pixels: int, label: str) -> None:
    if width * height > max_pixels:
        raise MediaError(
            f"{label} is {width}x{height} = {width * height} pixels; make it smaller or raise "
            f"data.media.max_pixels ({max_pixels})"
        )


def _check_seconds(seconds: float, max_seconds: float, label: str) -> None:
    if seconds > max_seconds:
        raise MediaError(
            f"{label} is {seconds:.1f} s long; cut it or raise data.media.max_seconds ({max_seconds:g})"
        )


@contextmanager
def _opened(path: Path, label: str, kind: str) -> Iterator[InputContainer]:
    _check_file(path, label)
    try:
        container = av.open(str(path), options={"protocol_whitelist": "file", "format_whitelist": CONTAINERS})
    except (av.FFmpegError, OSError) as error:
        raise MediaError(
            f"{label} is not a {kind} file that can be read, or is cut off; give an mp4, mkv, webm or avi file"
            if kind == "video"
            else f"{label} is not an audio file that can be read; give a wav, flac, ogg, mp3 or m4a file"
        ) from error
    with container:
        try:
            yield container
        except av.FFmpegError as error:
            raise MediaError(f"{label} is damaged ({error.strerror}); encode it anew") from error


def _packet_seconds(
    container: InputContainer, video: int, stated: float, max_seconds: float, label: str
) -> float:
    starts: list[float] = []
    end = last = 0.0
    for packet in container.demux():
        if packet.is_corrupt:
            raise MediaError(f"{label} is truncated: a packet is incomplete; copy the file again")
        if packet.size == 0 or packet.pts is None or packet.time_base is None:
            continue
        begin = float(packet.pts * packet.time_base)
        stop = begin + float((packet.duration or 0) * packet.time_base)
        last = max(last, stop)
        if packet.stream_index == video:
            starts.append(begin)
            end = max(end, stop)
            _check_seconds(stop - min(starts[0], begin), max_seconds, label)
    if not starts:
        raise MediaError(f"{label} has 0 frames; give a video with at least one")
    if last < 0.95 * stated - 0.5:
        raise MediaError(
            f"{label} is truncated: it ends after {last:.1f} s of {stated:.1f} s; copy the file again"
        )
    return end - min(starts)


def _rgb(frame: av.VideoFrame, earlier: list[np.ndarray]) -> np.ndarray:
    # a stream may change its size midway: every picture takes the size of the first
    turns = frame.rotation // 90 % 4
    picture = np.rot90(frame.to_ndarray(format="rgb24"), turns)
    if earlier and picture.shape != earlier[0].shape:
        height, width, _ = earlier[0].shape
        picture = np.asarray(Image.fromarray(np.ascontiguousarray(picture)).resize((width, height)))
    return np.ascontiguousarray(picture)


def _delay(container: InputContainer, first: av.AudioFrame) -> float:
    if not container.streams.video:
        return 0.0
    video = container.streams.video[0]
    start = float((video.start_time or 0) * (video.time_base or 0))
    return (first.time or 0.0) - start


def _shift(samples: np.ndarray, delay: float) -> np.ndarray:
    offset = round(delay * SAMPLE_RATE)
    if offset >= 0:
        return np.concatenate([np.zeros(offset, np.float32), samples])
    return samples[-offset:] if -offset < len(samples) else samples


def _check_riff(path: Path, label: str) -> None:
    # libsndfile quietly shortens a cut-off wav to what is there, so the chunk sizes are read here;
    # 0 and 0xFFFFFFFF mean "unknown" (written by programs that stream)
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
            return
        size = path.stat().st_size
        while len(chunk := file.read(8)) == 8:
            length = int.from_bytes(chunk[4:], "little")
            if chunk[:4] == b"data":
                if length not in (0, 0xFFFFFFFF) and file.tell() + length > size:
                    raise MediaError(
                        f"{label} is truncated: {size - file.tell()} of {length} bytes of sound; "
                        "copy the file again"
                    )
                return
            file.seek(length + length % 2, 1)


def _read_sound(sound: soundfile.SoundFile, label: str) -> np.ndarray:
    try:
        data = sound.read(dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise MediaError(f"{label} is truncated or damaged ({error}); copy the file again") from error
    if len(data) < sound.frames:
        raise MediaError(f"{label} is truncated: {len(data)} of {sound.frames} samples; copy the file again")
    return np.asarray(data)


def _read_other_audio(path: Path, max_seconds: float, label: str) -> np.ndarray:
    with _opened(path, label, "audio") as container:
        if not container.streams.audio:
            raise MediaError(f"{label} has no sound in it; give a wav, flac, ogg, mp3 or m4a file")
    return read_track(path, max_seconds=max_seconds, label=label)


def _mono_16k(data: np.ndarray, rate: int, label: str) -> np.ndarray:
    if len(data) == 0:
        raise MediaError(f"{label} is empty: 0 audio samples; give a file with sound")
    if not np.isfinite(data).all():
        bad = int((~np.isfinite(data)).any(axis=1).argmax())
        raise MediaError(f"{label} has a sample that is not a number at {bad / rate:.3f} s; encode it anew")
    peak = float(np.abs(data).max())
    if peak > LOUDEST:
        raise MediaError(f"{label} has samples up to {peak:g}; scale it to -1..1")
    mono = data.mean(axis=1, dtype=np.float32)
    out = soxr.resample(mono, rate, SAMPLE_RATE) if rate != SAMPLE_RATE else mono
    if len(out) == 0:
        raise MediaError(f"{label} is empty: {len(mono)} samples at {rate} Hz; give a file with sound")
    return np.clip(out, -1.0, 1.0).astype(np.float32)
