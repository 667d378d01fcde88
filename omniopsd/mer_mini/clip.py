"""One clip: the latent, the person and the condition become media, texts and the evidence list."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from omniopsd.mer_mini.emotions import (
    CARRIERS,
    CONDITIONS,
    EMOTIONS,
    EMPTY,
    PART_OF,
    Carrier,
    Condition,
    Evidence,
)
from omniopsd.mer_mini.face import SECONDS as VIDEO_SECONDS
from omniopsd.mer_mini.face import draw_face_clip
from omniopsd.mer_mini.look import Look, Looks, draw_look
from omniopsd.mer_mini.posture import draw_posture
from omniopsd.mer_mini.text import pick, write_rationale, write_subtitle
from omniopsd.mer_mini.voice import SECONDS as AUDIO_SECONDS
from omniopsd.mer_mini.voice import speak

ONSETS = (0.25, 0.5, 0.75)
STARTS = (0.1, 0.2)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipPlan:
    """What a clip shall show. `carrier` is the one telling modality of the condition "single", `said`
    the emotion of the subtitle in the condition "conflict"; each is None elsewhere."""

    index: int
    condition: Condition
    emotion: str
    carrier: Carrier | None
    said: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """One clip. `frames` uint8 [16,112,112,3] at 8 fps, `audio` float32 [16000] at 16 kHz, `image` uint8
    [112,112,3]; `rationale_wrong` names the modality that the rationale tells wrongly, if any."""

    plan: ClipPlan
    look: Look
    evidence: tuple[Evidence, ...]
    frames: np.ndarray
    audio: np.ndarray
    image: np.ndarray
    subtitle: str
    rationale: str
    rationale_wrong: Carrier | None


def plan_clips(clips: int, seed: int, looks: Looks) -> list[ClipPlan]:
    """Balanced plans in a drawn order: conditions in thirds, labels in sixths of each, carriers in turn."""
    rng = np.random.default_rng([seed, 0 if looks == "train" else 5])
    names = list(EMOTIONS)
    order = rng.permutation(clips)
    plans = []
    for index, cell in enumerate(int(c) for c in order):
        condition = CONDITIONS[cell % 3]
        emotion = cell // 3 % 6
        turn = cell // 18
        said = names[(emotion + 1 + turn % 5) % 6] if condition == "conflict" else None
        carrier = CARRIERS[(turn + emotion) % 4] if condition == "single" else None
        plans.append(
            ClipPlan(index=index, condition=condition, emotion=names[emotion], carrier=carrier, said=said)
        )
    return plans


def make_clip(plan: ClipPlan, seed: int, looks: Looks, rationale_noise: float) -> Clip:
    """Draw one clip; the same arguments give the same arrays and texts."""
    rng = np.random.default_rng([seed, 1 if looks == "train" else 2, plan.index])
    look = draw_look(rng, looks)
    evidence = draw_evidence(rng, plan)
    video, audio, image, text = evidence
    # A stream of its own: another `rationale_noise` leaves the media as they are.
    words = np.random.default_rng([seed, 3 if looks == "train" else 4, plan.index])
    rationale, wrong = write_rationale(words, evidence, plan.emotion, rationale_noise)
    return Clip(
        plan=plan,
        look=look,
        evidence=evidence,
        frames=draw_face_clip(rng, look, video.cue, video.start or 0.0),
        audio=speak(rng, look, audio.cue, audio.start or 0.0),
        image=draw_posture(rng, look, image.cue),
        subtitle=write_subtitle(rng, text.cue),
        rationale=rationale,
        rationale_wrong=wrong,
    )


def draw_evidence(rng: np.random.Generator, plan: ClipPlan) -> tuple[Evidence, ...]:
    """What the clip shows, one item for each modality, in the order of `CARRIERS`."""
    cues = {modality: _cue(rng, plan, modality) for modality in CARRIERS}
    onset, start = pick(rng, ONSETS), pick(rng, STARTS)
    if cues["video"] in ("relaxed", EMPTY["face"]):
        onset = 0.0
    return (
        Evidence(modality="video", cue=cues["video"], start=onset, end=VIDEO_SECONDS),
        Evidence(modality="audio", cue=cues["audio"], start=start, end=AUDIO_SECONDS),
        Evidence(modality="image", cue=cues["image"]),
        Evidence(modality="text", cue=cues["text"]),
    )


def _cue(rng: np.random.Generator, plan: ClipPlan, modality: Carrier) -> str:
    part = PART_OF[modality]
    if plan.condition == "single" and modality != plan.carrier:
        return EMPTY[part]
    shown = plan.said if plan.said is not None and modality == "text" else plan.emotion
    return pick(rng, EMOTIONS[shown].cues(part))
