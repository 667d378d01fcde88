from __future__ import annotations

import json
import struct
import threading
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

import rollout.media
from rollout.config import MediaConfig
from rollout.decode import read_audio, read_video
from rollout.media import (
    MediaCache,
    MediaError,
    MediaPaths,
    decode_media,
    frame_times,
    resolve_path,
    sample_fps,
)
from rollout.messages import parse_messages
from rollout.types import Media

STEP = 8


def write_video(
    path: Path,
    seconds: float = 2.0,
    fps: int = 10,
    *,
    sound: float | None = None,
    size: tuple[int, int] = (64, 48),
    delay: float = 0.0,
    **options: str,
) -> Path:
    """Grey frames, frame i of brightness i*STEP; `sound` seconds of a 440 Hz tone at 44.1 kHz stereo."""
    with av.open(str(path), "w", options=options) as out:
        video = out.add_stream("mpeg4", rate=fps)
        video.width, video.height = size
        video.pix_fmt, video.bit_rate = "yuv420p", 4_000_000
        audio = out.add_stream("aac", rate=44100, layout="stereo") if sound else None
        for i in range(round(seconds * fps)):
            grey = np.full((size[1], size[0], 3), i * STEP % 256, np.uint8)
            out.mux(video.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        out.mux(video.encode())
        if audio is not None and sound is not None:
            tone = tone_of(sound, 44100)
            for start in range(0, len(tone), 1024):
                block = np.stack([tone[start : start + 1024]] * 2)
                frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="stereo")
                frame.sample_rate, frame.pts = 44100, start + round(delay * 44100)
                out.mux(audio.encode(frame))
            out.mux(audio.encode())
    return path


def tone_of(seconds: float, rate: int, hertz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def decode(root: Path, content: str, audio_in_video: bool = False, **more: Any) -> tuple[Media, ...]:
    messages = parse_messages([{"role": "user", "content": content + "?"}], where="d.jsonl:3")
    limits = {key: more.pop(key) for key in list(more) if key in MediaConfig.model_fields}
    cache = more.pop("cache", None)
    lists = {key: tuple(value) for key, value in more.items()}
    paths = MediaPaths(**lists, root=str(root))
    return decode_media(messages, paths, audio_in_video, MediaConfig(**limits), "d.jsonl:3", cache)


def fails(root: Path, content: str, *found: str, audio_in_video: bool = False, **more: Any) -> None:
    with pytest.raises(MediaError) as error:
        decode(root, content, audio_in_video, **more)
    message = str(error.value)
    assert message.startswith("d.jsonl:3: ") and "\n" not in message
    for part in found:
        assert part in message


def listed(kind: str, path: str) -> dict[str, Any]:
    return {f"{kind}s": [path]}


# frames


def test_frames_are_those_on_screen_at_even_times(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", seconds=3.0, fps=10)
    (media,) = decode(tmp_path, "<video>", videos=["a.mp4"])
    assert media.fps == 2.0 and media.data.shape == (6, 48, 64, 3)
    brightness = media.data.mean(axis=(1, 2, 3))
    assert np.abs(brightness - np.array([0, 5, 10, 15, 20, 25]) * STEP).max() < 3


def test_frames_repeat_when_the_file_is_slower_than_the_rate(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", seconds=3.0, fps=1)
    (media,) = decode(tmp_path, "<video>", videos=["a.mp4"])
    brightness = media.data.mean(axis=(1, 2, 3))
    assert np.abs(brightness - np.array([0, 0, 1, 1, 2, 2]) * STEP).max() < 3


def test_all_videos_share_the_rate_that_the_longest_needs(tmp_path: Path) -> None:
    write_video(tmp_path / "long.mp4", seconds=6.0)
    write_video(tmp_path / "short.mp4", seconds=1.5)
    first, second = decode(tmp_path, "<video><video>", videos=["long.mp4", "short.mp4"], max_frames=4)
    assert first.fps == second.fps == pytest.approx(4 / 6, rel=0.02) and first.fps <= 4 / 6
    assert [len(first.data), len(second.data)] == [4, 1]


@pytest.mark.parametrize("cap", [1, 2, 3, 7, 16])
@pytest.mark.parametrize("seconds", [0.04, 0.5, 1.4, 7.99, 8.0, 8.01, 61.0, 599.9])
@pytest.mark.parametrize("fps", [0.3, 1.4286, 2.0, 29.97])
def test_rates_are_exact_in_float32_and_hold_the_cap(cap: int, seconds: float, fps: float) -> None:
    rate = sample_fps([seconds, seconds / 3], MediaConfig(fps=fps, max_frames=cap))
    assert rate <= fps + 1e-9
    grid = 2 / rate
    assert grid - 2 / min(fps, cap / seconds) < 3 / 256
    assert float(np.float32(grid)) == grid  # every engine computes the same positions
    times = frame_times(seconds, rate)
    assert 1 <= len(times) <= cap and times[0] == 0 and times[-1] < seconds


def test_a_video_of_one_frame_gives_one(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", seconds=0.1, fps=10)
    (media,) = decode(tmp_path, "<video>", videos=["a.mp4"])
    assert media.data.shape == (1, 48, 64, 3) and media.fps == 2.0


def test_a_turned_video_comes_upright(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as out:
        video = out.add_stream("mpeg4", rate=10)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        picture = np.zeros((48, 64, 3), np.uint8)
        picture[:, :32] = 255
        out.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(video.encode())
    raw = bytearray(path.read_bytes())
    at = raw.index(b"tkhd") + 44  # the display matrix of the track
    raw[at : at + 36] = struct.pack(
        ">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30
    )  # 90 degrees clockwise
    path.write_bytes(raw)
    (media,) = decode(tmp_path, "<video>", videos=["a.mp4"])
    assert media.data.shape == (1, 64, 48, 3)
    assert media.data[0, :28].mean() > 240 and media.data[0, 36:].mean() < 15


def test_matroska_without_stated_durations(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mkv", seconds=2.0)
    (media,) = decode(tmp_path, "<video>", videos=["a.mkv"])
    assert len(media.data) == 4


# audio and images


@pytest.mark.parametrize(
    ("name", "rate", "tolerance"),
    [("a.wav", 16000, 1e-4), ("a.wav", 48000, 1e-2), ("a.flac", 44100, 1e-2), ("a.ogg", 22050, 0.05)],
)
def test_audio_becomes_16k_mono(tmp_path: Path, name: str, rate: int, tolerance: float) -> None:
    tone = tone_of(1.0, rate)
    soundfile.write(tmp_path / name, np.stack([tone * 1.5, tone * 0.5], axis=1), rate)
    (media,) = decode(tmp_path, "<audio>", audios=[name])
    assert media.kind == "audio" and media.fps == 0 and abs(len(media.data) - 16000) <= 1
    want = tone_of(1.0, 16000)
    inner = slice(800, 15000)
    assert np.abs(media.data[inner] - want[inner]).max() < tolerance


def test_m4a_is_read_whatever_its_name(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", seconds=1.0, sound=1.0).rename(tmp_path / "a.wav")
    (media,) = decode(tmp_path, "<audio>", audios=["a.wav"])
    assert abs(len(media.data) - 16000) < 1600


def test_audio_in_video_follows_its_video(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", seconds=2.0, sound=2.0)
    write_video(tmp_path / "b.mp4", seconds=1.0, sound=1.0)
    media = decode(tmp_path, "<video>x<video>", True, videos=["a.mp4", "b.mp4"])
    assert [m.kind for m in media] == ["video", "audio", "video", "audio"]
    assert [round(len(media[i].data) / 16000, 1) for i in (1, 3)] == [2.0, 1.0]
    assert np.abs(media[1].data).max() == pytest.approx(0.5, abs=0.05)


def test_a_track_that_begins_late_gets_silence_in_front(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mkv", seconds=2.0, sound=1.0, delay=0.5)
    media = decode(tmp_path, "<video>", True, videos=["a.mkv"])
    loud = np.abs(media[1].data) > 0.1
    assert loud.argmax() / 16000 == pytest.approx(0.5, abs=0.05)


def test_images_come_upright_as_rgb(tmp_path: Path) -> None:
    picture = Image.fromarray(np.arange(20 * 30 * 3, dtype=np.uint32).astype(np.uint8).reshape(20, 30, 3))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "a.png", exif=exif)
    picture.convert("L").save(tmp_path / "b.png")
    turned, grey = decode(tmp_path, "<image><image>", images=["a.png", "b.png"])
    assert turned.data.shape == (30, 20, 3) and grey.data.shape == (20, 30, 3)
    assert np.array_equal(turned.data, np.rot90(np.asarray(picture), -1))


def test_media_come_in_prompt_order(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", seconds=1.0)
    soundfile.write(tmp_path / "a.wav", tone_of(0.5, 16000), 16000)
    Image.new("RGB", (8, 8)).save(tmp_path / "i.png")
    more: dict[str, Any] = {"videos": ["v.mp4"], "audios": ["a.wav"], "images": ["i.png", "i.png"]}
    media = decode(tmp_path, "<image><audio><video><image>", **more)
    assert [m.kind for m in media] == ["image", "audio", "video", "image"]


# refusals


@pytest.mark.parametrize("kind", ["video", "audio", "image"])
@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/etc/hostname", "is absolute"),
        ("../x.mp4", "leads out"),
        ("sub/../../x.mp4", "leads out"),
        ("link.mp4", "leads out"),
        ("http://host/x.mp4", "is an address"),
        ("file:///x.mp4", "is an address"),
        ("none.mp4", "does not exist"),
        (".", "is a folder"),
        (" ", "is not a path"),
        ("a\0b", "is not a path"),
    ],
)
def test_paths_stay_in_the_folder(tmp_path: Path, kind: str, path: str, found: str) -> None:
    root = tmp_path / "data"
    root.mkdir()
    (root / "link.mp4").symlink_to(tmp_path / "x.mp4")
    (tmp_path / "x.mp4").write_bytes(b"x")
    fails(root, f"<{kind}>", f"{kind} {path!r}", found, **listed(kind, path))


@pytest.mark.parametrize("kind", ["video", "audio", "image"])
@pytest.mark.parametrize(
    "content", [b"", b"hello\n" * 400, b"\x89PNG\r\n\x1a\n" + b"\0" * 30, b"#EXTM3U\n/etc/x.ts\n"]
)
def test_files_that_are_no_media(tmp_path: Path, kind: str, content: bytes) -> None:
    (tmp_path / "a.bin").write_bytes(content)
    fails(tmp_path, f"<{kind}>", f"{kind} 'a.bin'", **listed(kind, "a.bin"))


def test_a_picture_named_mp4(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.mp4")
    fails(tmp_path, "<video>", "is not a video file", videos=["a.mp4"])
    fails(tmp_path, "<audio>", "is not an audio file", audios=["a.mp4"])


def test_a_sound_named_mp4_has_no_video(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone_of(1, 16000), 16000)
    (tmp_path / "a.wav").rename(tmp_path / "a.mp4")
    fails(tmp_path, "<video>", "has no video in it", videos=["a.mp4"])


@pytest.mark.parametrize("movflags", ["", "faststart"])
def test_a_truncated_video(tmp_path: Path, movflags: str) -> None:
    options: dict[str, Any] = {"movflags": movflags} if movflags else {}
    path = write_video(tmp_path / "a.mp4", seconds=6.0, sound=6.0, **options)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 6 // 10])
    fails(tmp_path, "<video>", "truncated" if movflags else "cut off", videos=["a.mp4"])


def test_a_video_that_lacks_only_its_end(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", seconds=6.0, movflags="faststart")
    path.write_bytes(path.read_bytes()[:-10])
    fails(tmp_path, "<video>", "a packet is incomplete", videos=["a.mp4"])


def test_a_truncated_matroska(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", seconds=6.0)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    fails(tmp_path, "<video>", "truncated", videos=["a.mkv"])


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_a_truncated_sound(tmp_path: Path, name: str) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 32000)
    soundfile.write(tmp_path / name, noise, 16000)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    fails(tmp_path, "<audio>", "truncated", audios=[name])


def test_a_streamed_wav_of_unknown_size_is_read(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone_of(1, 16000), 16000)
    raw = bytearray((tmp_path / "a.wav").read_bytes())
    at = raw.index(b"data") + 4
    raw[at : at + 4] = struct.pack("<I", 0xFFFFFFFF)
    (tmp_path / "a.wav").write_bytes(raw)
    (media,) = decode(tmp_path, "<audio>", audios=["a.wav"])
    assert len(media.data) == 16000


def test_a_truncated_picture(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    for name in ("a.png", "a.jpg"):
        Image.fromarray(noise).save(tmp_path / name)
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        fails(tmp_path, "<image>", "truncated", images=[name])


def test_a_sixteen_bit_picture(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 40000, np.uint16)).save(tmp_path / "a.png")
    fails(tmp_path, "<image>", "8 bits a channel", images=["a.png"])


@pytest.mark.parametrize(
    ("samples", "found"),
    [
        (np.array([0.0, np.nan] * 8000), "not a number at 0.000 s"),
        (np.array([0.0] * 8000 + [np.inf]), "not a number at 0.500 s"),
        (np.array([0.0, 20000.0] * 8000), "up to 20000"),
        (np.zeros(0), "0 audio samples"),
    ],
)
def test_sound_that_cannot_be_used(tmp_path: Path, samples: np.ndarray, found: str) -> None:
    soundfile.write(tmp_path / "a.wav", samples, 16000, subtype="FLOAT")
    fails(tmp_path, "<audio>", found, audios=["a.wav"])


def test_audio_in_video_needs_a_track(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", seconds=1.0)
    fails(tmp_path, "<video>", "no audio track", audio_in_video=True, videos=["a.mp4"])
    fails(tmp_path, "<audio>", "has no sound in it", audios=["a.mp4"])


def test_limits_are_judged_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path / "a.mp4", seconds=4.0, sound=4.0)
    soundfile.write(tmp_path / "a.wav", tone_of(4, 16000), 16000)
    Image.new("RGB", (100, 50)).save(tmp_path / "a.png")

    def never(*_: object, **__: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(rollout.media, "read_video", never)
    monkeypatch.setattr(soundfile.SoundFile, "read", never)
    monkeypatch.setattr(Image.Image, "convert", never)
    fails(tmp_path, "<video>", "4.0 s long", "max_seconds (3)", videos=["a.mp4"], max_seconds=3)
    fails(tmp_path, "<video>", "64x48 = 3072 pixels", videos=["a.mp4"], max_pixels=3000)
    fails(tmp_path, "<audio>", "4.0 s long", audios=["a.wav"], max_seconds=3)
    fails(tmp_path, "<image>", "100x50", images=["a.png"], max_pixels=3000)


def test_counts_must_match(tmp_path: Path) -> None:
    fails(tmp_path, "<video>", "1 <video> and videos lists 0")
    fails(tmp_path, "x", "0 <image> and images lists 1", images=["a.png"])
    more: dict[str, Any] = {"videos": ["a.mp4"], "audios": ["a.wav"]}
    fails(tmp_path, "<video><audio>", "does not go with <audio>", audio_in_video=True, **more)


def test_a_nested_path_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    want = (tmp_path / "clips" / "a.mp4").resolve()
    assert resolve_path(str(tmp_path), "clips/../clips/a.mp4", "x") == want


# the cache


def test_the_cache_answers_until_the_file_changes(tmp_path: Path) -> None:
    cache = MediaCache(10_000_000)
    write_video(tmp_path / "a.mp4", seconds=2.0)
    (first,) = decode(tmp_path, "<video>", videos=["a.mp4"], cache=cache)
    (second,) = decode(tmp_path, "<video>", videos=["a.mp4"], cache=cache)
    assert first is second and cache.bytes == first.data.nbytes
    assert not first.data.flags.writeable
    (slower,) = decode(tmp_path, "<video>", videos=["a.mp4"], cache=cache, fps=1.0)
    assert len(slower.data) == 2
    write_video(tmp_path / "a.mp4", seconds=1.0)
    (changed,) = decode(tmp_path, "<video>", videos=["a.mp4"], cache=cache)
    assert len(changed.data) == 2 and changed.fps == 2.0


def test_the_cache_drops_the_least_recently_used(tmp_path: Path) -> None:
    made: list[str] = []

    def get(name: str) -> None:
        def make() -> Media:
            made.append(name)
            return Media.of("audio", np.zeros(100, np.float32))

        cache.get(tmp_path / name, "audio", 0.0, make)

    cache = MediaCache(800)
    for name in "abc":
        (tmp_path / name).write_bytes(b"x")
    for name in "abacab":
        get(name)
    assert made == ["a", "b", "c", "b"] and cache.bytes == 800


def test_a_medium_larger_than_the_cache_is_not_kept(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone_of(1, 16000), 16000)
    cache = MediaCache(1000)
    decode(tmp_path, "<audio>", audios=["a.wav"], cache=cache)
    assert cache.bytes == 0


def test_the_cache_serves_threads(tmp_path: Path) -> None:
    cache = MediaCache(100_000)
    for i in range(8):
        soundfile.write(tmp_path / f"{i}.wav", tone_of(0.5, 16000, 100 + i), 16000)
    want = {i: decode(tmp_path, "<audio>", audios=[f"{i}.wav"])[0].digest for i in range(8)}
    wrong: list[int] = []

    def work(offset: int) -> None:
        for k in range(40):
            i = (k * 3 + offset) % 8
            if decode(tmp_path, "<audio>", audios=[f"{i}.wav"], cache=cache)[0].digest != want[i]:
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and cache.bytes <= 100_000


def test_readers_are_deterministic(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", seconds=2.0, sound=2.0)
    one, two = (decode(tmp_path, "<video>", True, videos=["a.mp4"]) for _ in range(2))
    assert [m.digest for m in one] == [m.digest for m in two]
    assert json.dumps([m.digest for m in one]) and len({m.digest for m in one}) == 2


def test_direct_readers(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", seconds=1.0)
    assert read_video(tmp_path / "a.mp4", (0.0, 5.0), max_pixels=10_000, label="x").shape[0] == 2
    with pytest.raises(MediaError, match="64x48"):
        read_video(tmp_path / "a.mp4", (0.0,), max_pixels=100, label="x")
    with pytest.raises(MediaError, match="does not exist"):
        read_audio(tmp_path / "b.wav", max_seconds=1, label="x")
