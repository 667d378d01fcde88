"""What the nine miniature sets hold: clips, labels and words, planned without drawing anything.

Each set mirrors one of MER-UniBench: its label space, its share of neutral clips, its label file. The clips are
those of mer-mini (`test` looks); a set tells only which latent emotion a label is drawn with. Disgust has no cue
of its own and is drawn as anger: like in the real sets, not everything that is labelled can be seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from omniopsd.bench.datasets import NINE, BenchSet
from omniopsd.mer_mini.clip import ClipPlan
from omniopsd.mer_mini.emotions import CONDITIONS, EMOTIONS, Carrier

CARRIERS: tuple[Carrier, ...] = ("video", "audio", "text")
"""The posture picture of mer-mini has no place in the official layout."""
DRAWN_AS = {
    "anger": "angry",
    "disgust": "angry",
    "joy": "happy",
    "sadness": "sad",
    "fear": "worried",
}
SHARES: dict[str, Mapping[str, float]] = {
    "MELD": {
        "neutral": 0.48,
        "joy": 0.15,
        "anger": 0.13,
        "surprise": 0.11,
        "sadness": 0.08,
        "disgust": 0.025,
    },
    "MER2023": {"neutral": 0.2},
    "MER2024": {"neutral": 0.2},
    "IEMOCAP": {"neutral": 0.31, "happy": 0.36, "sad": 0.2},
}
"""Shares of some classes; the others of a set share the rest. MELD's and IEMOCAP's are near the real ones."""
WORDS: dict[str, tuple[str, ...]] = {
    "happy": ("happy", "joyful", "joy"),
    "sad": ("sad", "sorrowful", "unhappy", "depressed", "gloomy", "lonely", "miserable"),
    "angry": ("angry", "mad", "furious", "annoyed", "irritated", "enraged", "resentful", "hostile"),
    "worried": ("worried", "anxious", "nervous", "scared", "frightened", "uneasy", "concerned"),
    "surprise": ("surprise",),
    "neutral": ("neutral",),
}
"""Label words of the open set. Those of the first four lie in one cluster on every official wheel."""
TRAPS = ("frustrated", "fear", "disgust", "sarcasm")
"""Words that wheels treat in odd ways; some lists have one on top."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MiniClip:
    """One planned clip: its official name, its label (`emo`), its value (`val`) and what is drawn."""

    name: str
    emo: str
    val: float
    plan: ClipPlan


def plan_set(bench_set: BenchSet, clips: int, seed: int, part: str) -> list[MiniClip]:
    """The clips of one set's `part` ("test" or "val"); the same arguments give the same plan."""
    place = [one.name for one in NINE].index(bench_set.name)
    rng = np.random.default_rng([seed, 20, place, 0 if part == "test" else 1])
    planned = []
    for index, emotion in enumerate(_emotions(rng, bench_set, clips)):
        latent = DRAWN_AS.get(emotion, emotion)
        number = place * 100_000 + (0 if part == "test" else 50_000) + index
        planned.append(
            MiniClip(
                name=_name(bench_set, part, index),
                emo=_words(rng, latent) if bench_set.metric == "ew_f1" else emotion,
                val=_value(rng, latent, bench_set),
                plan=_plan(rng, number, index, latent),
            )
        )
    return planned


def _emotions(rng: np.random.Generator, bench_set: BenchSet, clips: int) -> list[str]:
    """A label for each clip, in shares as even as the number of clips allows, in a drawn order."""
    classes = bench_set.classes or tuple(EMOTIONS)
    known = {"neutral": 0.1} if bench_set.metric != "hit_rate" else SHARES[bench_set.name]
    rest = (1 - sum(known.values())) / max(1, len(classes) - len(known))
    shares = np.array([known.get(name, rest) for name in classes])
    ends = np.round(np.cumsum(shares) / shares.sum() * clips).astype(int)
    labels = np.repeat(np.arange(len(classes)), np.diff(ends, prepend=0))
    return [classes[int(at)] for at in rng.permutation(labels)]


def _plan(rng: np.random.Generator, number: int, index: int, latent: str) -> ClipPlan:
    condition = CONDITIONS[index % 3]
    others = [name for name in EMOTIONS if name != latent]
    return ClipPlan(
        index=number,
        condition=condition,
        emotion=latent,
        carrier=CARRIERS[index // 3 % 3] if condition == "single" else None,
        said=others[int(rng.integers(len(others)))] if condition == "conflict" else None,
    )


def _value(rng: np.random.Generator, latent: str, bench_set: BenchSet) -> float:
    """The sentiment value: exactly 0 for neutral clips, a step of a tenth of the range elsewhere."""
    valence = EMOTIONS[latent].valence
    if bench_set.label_range is None or valence == 0:
        return 0.0
    step = round(10 * abs(valence) * float(rng.uniform(0.6, 1.0)))
    return float(np.sign(valence)) * max(1, step) * bench_set.label_range[1] / 10


def _words(rng: np.random.Generator, latent: str) -> str:
    """One to four label words as the official CSV has them: `happy,joyful`."""
    family = WORDS[latent]
    count = min(len(family), int(rng.integers(1, 4)))
    words = [family[int(at)] for at in sorted(rng.permutation(len(family))[:count])]
    if rng.random() < 0.25:
        words.append(TRAPS[int(rng.integers(len(TRAPS)))])
    return ",".join(words)


def _name(bench_set: BenchSet, part: str, index: int) -> str:
    """A clip's name in the manner of the set; a session's digit is the fifth letter in IEMOCAP."""
    session = 5 if part == "test" else 4
    number = index if part == "test" else index + 10_000
    return {
        "MER2023": f"sample_{number:08d}",
        "MER2024": f"sample_{number:08d}",
        "MELD": f"{part}_dia{number // 4}_utt{number % 4}",
        "IEMOCAP": f"Ses{session:02d}F_impro{number // 100:02d}_F{number % 100:03d}",
        "OVMERDPlus": f"samplenew_{number:08d}",
    }.get(bench_set.name, f"video_{number // 10:04d}_{number % 10:04d}")
