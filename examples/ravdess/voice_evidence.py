"""What can be measured in a voice: pitch, melody, loudness, pace; and the words for it. Pure numpy.

N   audio samples at 16 kHz     F   frames of 40 ms, one every 10 ms
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RATE = 16_000
FRAME, HOP = 640, 160
LOWEST_HZ, HIGHEST_HZ = 70.0, 600.0
PERIODIC = 0.5  # least normalized autocorrelation of a voiced frame
ACTIVE_DB = 35.0  # frames further below the loudest one are silence
SYLLABLES = 7  # both sentences of RAVDESS have seven


class EvidenceError(ValueError):
    """A clip in which no voice can be measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Voice:
    """One clip: median pitch in Hz, pitch range (10th to 90th percentile) in semitones, level in dB of full
    scale over active frames, and syllables per second between the first and the last active frame."""

    pitch: float
    melody: float
    loudness: float
    pace: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Cue:
    """One measure beside the speaker's own median, in a word from low to high: a "soft" "voice"."""

    name: str
    word: str


def measure(audio: np.ndarray) -> Voice:
    """Measure a clip, float [N] at 16 kHz. Raises EvidenceError on silence or when nothing is voiced."""
    if len(audio) < FRAME or not np.abs(audio).max() > 0:
        raise EvidenceError(f"{len(audio)} samples without sound; give a clip of speech at {RATE} Hz")
    frames = np.lib.stride_tricks.sliding_window_view(audio.astype(np.float64), FRAME)[::HOP]
    power = (frames**2).mean(1)
    active = power > power.max() * 10 ** (-ACTIVE_DB / 10)
    pitch = track_pitch(frames[active])
    if not len(pitch):
        raise EvidenceError("no frame is voiced; give a clip of speech")
    low, high = np.percentile(pitch, [10, 90])
    span = np.flatnonzero(active)
    seconds = (span[-1] - span[0]) * HOP / RATE + FRAME / RATE
    return Voice(
        pitch=float(np.median(pitch)),
        melody=float(12 * np.log2(high / low)),
        loudness=float(10 * np.log10(power[active].mean())),
        pace=SYLLABLES / float(seconds),
    )


def track_pitch(frames: np.ndarray) -> np.ndarray:
    """Pitch in Hz of the voiced among the frames [F, 640], by normalized autocorrelation.

    Of all lags whose correlation is within 10 % of the best the shortest peak is taken: the others are
    its multiples (Boersma 1993 divides by the window's own autocorrelation in the same way).
    """
    window = np.hanning(FRAME)
    both = np.fft.rfft(np.vstack([(frames - frames.mean(1, keepdims=True)) * window, window]), 2 * FRAME)
    lags = np.fft.irfft(np.abs(both) ** 2)[:, : FRAME // 2]
    norm = lags[:, :1].copy()
    norm[norm <= 0] = 1.0
    correlation = (lags / norm)[:-1] / (lags[-1] / lags[-1, 0])
    first, last = int(RATE / HIGHEST_HZ), min(int(RATE / LOWEST_HZ), FRAME // 2 - 2)
    area = correlation[:, first - 1 : last + 2]
    peak = (area[:, 1:-1] >= area[:, :-2]) & (area[:, 1:-1] >= area[:, 2:])
    height = np.where(peak, area[:, 1:-1], -1.0)
    best = height.max(1)
    lag = first + np.argmax(height >= 0.9 * best[:, None], axis=1)
    return RATE / lag[best > PERIODIC]


def typical(voices: Sequence[Voice]) -> Voice:
    """The median voice of one speaker."""
    names = ("pitch", "melody", "loudness", "pace")
    return Voice(**{name: float(np.median([getattr(voice, name) for voice in voices])) for name in names})


def cues(voice: Voice, usual: Voice) -> tuple[Cue, ...]:
    """The four measures of a clip in words, beside the same speaker's `usual` voice."""
    pitch = 12 * np.log2(voice.pitch / usual.pitch)
    melody = voice.melody - usual.melody
    louder = voice.loudness - usual.loudness
    pace = voice.pace / usual.pace
    five = (-3.0, -1.0, 1.0, 3.0), ("very low", "low", "usual", "high", "very high")
    level = (-8.0, -3.0, 3.0, 8.0), ("very soft", "soft", "usual", "loud", "very loud")
    return (
        Cue(name="pitch", word=_word(pitch, *five)),
        Cue(name="melody", word=_word(melody, (-2.0, 2.0), ("flat", "usual", "wide"))),
        Cue(name="voice", word=_word(louder, *level)),
        Cue(name="pace", word=_word(pace, (0.9, 1.1), ("slow", "usual", "quick"))),
    )


def trim(audio: np.ndarray) -> np.ndarray:
    """Cut silence at both ends, 50 ms kept; float [N] to float [<=N]."""
    step = HOP
    power = np.array([np.mean(audio[i : i + step] ** 2) for i in range(0, len(audio), step)])
    active = np.flatnonzero(power > power.max() * 10 ** (-ACTIVE_DB / 10))
    if not len(active):
        return audio
    return audio[max(0, (active[0] - 5) * step) : (active[-1] + 6) * step]


def _word(value: float, edges: Sequence[float], words: Sequence[str]) -> str:
    return words[int(np.searchsorted(edges, value))]
