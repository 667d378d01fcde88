"""The audio: one second of wordless speech whose melody, loudness and rhythm carry the cue."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from omniopsd.mer_mini.emotions import EMOTIONS, emotion_of_cue
from omniopsd.mer_mini.look import Look

RATE = 16_000
SECONDS = 1.0
HARMONICS = 14


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """How a cue bends the voice, beside the loudness and pitch that come from arousal.

    `syllables` in the second; `slope` and `hop` in octaves (over the whole, and alternating from
    syllable to syllable); `pause` share of each syllable that is silent; `fade` loss of loudness
    over the whole 0..1; `tremble` depth 0..1 at 9 Hz; `rough` 0..1 of distortion and jitter; `leap`
    octaves that the second half lies above the first, after a stop.
    """

    syllables: int
    slope: float = 0.0
    hop: float = 0.0
    pause: float = 0.25
    fade: float = 0.0
    tremble: float = 0.0
    rough: float = 0.0
    leap: float = 0.0


STYLES: dict[str, Style] = {
    "bouncy": Style(syllables=6, hop=0.7, pause=0.15),
    "fading": Style(syllables=2, slope=-0.8, fade=0.8, pause=0.3),
    "harsh": Style(syllables=5, slope=-0.2, pause=0.35, rough=1.0),
    "shaky": Style(syllables=2, slope=0.2, pause=0.1, tremble=1.0),
    "jump": Style(syllables=2, slope=0.3, pause=0.4, leap=1.2),
    "level": Style(syllables=4, pause=0.25),
}


def speak(rng: np.random.Generator, look: Look, cue: str, start: float) -> np.ndarray:
    """Sound of one clip: float32 [16000], on the int16 grid, silent before `start` (seconds).

    The cue "noise" is a hiss in which no voice can be heard.
    """
    total = round(RATE * SECONDS)
    first = round(RATE * start)
    sound = np.zeros(total)
    sound[first:] = _hiss(rng, total - first) if cue == "noise" else _voice(rng, look, cue, total - first)
    sound += 0.002 * rng.standard_normal(total)
    return (np.round(np.clip(sound, -0.99, 0.99) * 32767) / 32768).astype(np.float32)


def _voice(rng: np.random.Generator, look: Look, cue: str, samples: int) -> np.ndarray:
    style, emotion = STYLES[cue], EMOTIONS[emotion_of_cue("voice", cue) or "neutral"]
    position = np.linspace(0.0, 1.0, samples, endpoint=False)
    pitch = look.base_pitch * 2 ** (0.6 * (emotion.arousal - 0.35) + _melody(rng, style, position))
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    # Pleasant voices are brighter: valence takes from the fall of the harmonics.
    fall = look.tilt - 0.25 * emotion.valence
    sound = sum(
        _weight(pitch.mean() * k, look.formant) * k**-fall * np.sin(k * phase)
        for k in range(1, HARMONICS + 1)
    )
    sound = sound / np.abs(sound).max() * _envelope(style, position)
    if style.rough:
        sound = np.tanh(4 * style.rough * sound) * (1 + 0.5 * style.rough * rng.standard_normal(samples))
    loudness = (0.08 + 0.5 * emotion.arousal) * rng.uniform(0.85, 1.15)
    return loudness * sound / max(1.0, float(np.abs(sound).max()))


def _melody(rng: np.random.Generator, style: Style, position: np.ndarray) -> np.ndarray:
    """Octaves above the voice's own level, at each position 0..1."""
    syllable = np.minimum((position * style.syllables).astype(int), style.syllables - 1)
    drift = rng.normal(0.0, 0.04, style.syllables)[syllable]
    octaves = style.slope * (position - 0.5) + style.hop * ((syllable % 2) - 0.5) + drift
    octaves = octaves + style.leap * ((position >= 0.5) - 0.5)
    return octaves + 0.15 * style.tremble * np.sin(2 * np.pi * 9 * position)


def _envelope(style: Style, position: np.ndarray) -> np.ndarray:
    """Loudness 0..1 of the syllables."""
    within = (position * style.syllables) % 1.0 / (1.0 - style.pause)
    hump = np.where(
        within < 1.0, np.sin(np.pi * np.minimum(within, 1.0)) ** (0.3 if style.rough else 0.7), 0.0
    )
    tremble = 1.0 - 0.7 * style.tremble * (0.5 + 0.5 * np.sin(2 * np.pi * 9 * position))
    return hump * tremble * (1.0 - style.fade * position)


def _weight(frequency: float, formant: float) -> float:
    """Gain of one harmonic: a bump at the formant over a floor."""
    return 0.35 + float(np.exp(-(((frequency - formant) / 350.0) ** 2)))


def _hiss(rng: np.random.Generator, samples: int) -> np.ndarray:
    return 0.06 * rng.standard_normal(samples)
