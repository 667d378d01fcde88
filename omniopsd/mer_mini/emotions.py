"""The latent of a clip: six emotions, and the closed vocabulary of cues that show them.

A clip has four parts, one for each modality: a face (video), a voice (audio), a posture (still
image) and the words of a subtitle (text). A part shows a cue of some emotion, or its empty cue,
which says nothing about any emotion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Condition = Literal["redundant", "single", "conflict"]
Part = Literal["face", "voice", "posture", "words"]
Carrier = Literal["video", "audio", "image", "text"]

CONDITIONS: tuple[Condition, ...] = ("redundant", "single", "conflict")
PARTS: tuple[Part, ...] = ("face", "voice", "posture", "words")
CARRIERS: tuple[Carrier, ...] = ("video", "audio", "image", "text")
PART_OF: dict[Carrier, Part] = dict(zip(CARRIERS, PARTS, strict=True))
EMPTY: dict[Part, str] = {"face": "hidden", "voice": "noise", "posture": "blocked", "words": "plain"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Emotion:
    """One emotion: `valence` -1..1, `arousal` 0..1, and the cues that show it, by part."""

    name: str
    valence: float
    arousal: float
    face: tuple[str, ...]
    voice: str
    posture: str
    words: str

    def cues(self, part: Part) -> tuple[str, ...]:
        """The cues of one part, any of which may be drawn."""
        if part == "face":
            return self.face
        return ({"voice": self.voice, "posture": self.posture, "words": self.words}[part],)


EMOTIONS: dict[str, Emotion] = {
    emotion.name: emotion
    for emotion in (
        Emotion(
            name="happy",
            valence=0.9,
            arousal=0.7,
            face=("smile", "laugh"),
            voice="bouncy",
            posture="arms up",
            words="praise",
        ),
        Emotion(
            name="sad",
            valence=-0.8,
            arousal=0.15,
            face=("tears", "droop"),
            voice="fading",
            posture="slumped",
            words="loss",
        ),
        Emotion(
            name="angry",
            valence=-0.7,
            arousal=1.0,
            face=("glare", "teeth"),
            voice="harsh",
            posture="fists",
            words="blame",
        ),
        Emotion(
            name="worried",
            valence=-0.5,
            arousal=0.5,
            face=("knit brows", "sweat"),
            voice="shaky",
            posture="hand at mouth",
            words="doubt",
        ),
        Emotion(
            name="surprise",
            valence=0.3,
            arousal=0.85,
            face=("gasp", "wide eyes"),
            voice="jump",
            posture="hands on head",
            words="shock",
        ),
        Emotion(
            name="neutral",
            valence=0.0,
            arousal=0.35,
            face=("relaxed",),
            voice="level",
            posture="arms down",
            words="calm",
        ),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One cue that a clip shows: `start` and `end` in seconds; None where a modality has no time."""

    modality: Carrier
    cue: str
    start: float | None = None
    end: float | None = None


def all_cues(part: Part) -> tuple[str, ...]:
    """Every cue of one part, the empty one last."""
    return (*(cue for emotion in EMOTIONS.values() for cue in emotion.cues(part)), EMPTY[part])


def emotion_of_cue(part: Part, cue: str) -> str | None:
    """The emotion that a cue shows; None for the empty cue."""
    return next((name for name, emotion in EMOTIONS.items() if cue in emotion.cues(part)), None)


def emotion_of_evidence(evidence: Sequence[Evidence]) -> str | None:
    """What a perfect reader answers: the seen and heard cues decide, words only where those are empty."""
    by_modality = {item.modality: item.cue for item in evidence}
    shown = [emotion_of_cue(PART_OF[modality], by_modality[modality]) for modality in CARRIERS]
    return next((name for name in shown if name is not None), None)
