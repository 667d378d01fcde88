"""The texts: question, subtitle, the teacher's rationale, and the form of the answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from omniopsd.mer_mini.emotions import (
    CARRIERS,
    EMOTIONS,
    PART_OF,
    PARTS,
    Carrier,
    Evidence,
    Part,
    all_cues,
    emotion_of_cue,
)
from omniopsd.mer_mini.phrases import CONCLUDING, FAMILIES, LISTING, PARAPHRASES, SUBJECTS, SUBTITLES

T = TypeVar("T")
SYSTEM = "You read emotions. Note the cues, then answer."
QUESTION = "Which emotion: happy, sad, angry, worried, surprise or neutral?"
CONCLUDING_SHARE = 0.7
ANSWER = re.compile(r"\s*<think>[^<>]*</think><answer>([a-z]+)</answer>\s*")
WORD = re.compile(r"[a-z]+|[0-9.]*[0-9]", re.IGNORECASE)


def user_text(subtitle: str, *, audio_in_video: bool) -> str:
    """The user's turn, with a placeholder for each medium."""
    media = "<video><image>" if audio_in_video else "<video><audio><image>"
    return f"{media}\nSubtitle: {subtitle}\n{QUESTION}"


def write_subtitle(rng: np.random.Generator, cue: str) -> str:
    """One spoken line that carries the words cue."""
    return pick(rng, SUBTITLES[cue]).format(who=pick(rng, SUBJECTS))


def gold_response(evidence: Sequence[Evidence], emotion: str) -> str:
    """The answer that the student shall learn: cues in the order of the parts, then the label."""
    cues = {item.modality: item.cue for item in evidence}
    think = "; ".join(f"{PART_OF[modality]}: {cues[modality]}" for modality in CARRIERS)
    return f"<think>{think}</think><answer>{emotion}</answer>"


def parse_answer(text: str) -> str | None:
    """The answer's word when the whole text has the form of `gold_response`, else None.

    Judges the form only: a word that is no label is returned as it stands.
    """
    match = ANSWER.fullmatch(text)
    return match.group(1) if match else None


def write_rationale(
    rng: np.random.Generator, evidence: Sequence[Evidence], emotion: str, noise: float
) -> tuple[str, Carrier | None]:
    """Free text about the evidence, and the modality whose cue it tells wrongly (share `noise` of all).

    Most rationales hint at the emotion by a synonym; the others only describe. The wrong cue belongs
    to another emotion than the true one; a hint stays as it is.
    """
    wrong = pick(rng, CARRIERS) if rng.random() < noise else None
    fields = {}
    for item in evidence:
        part = PART_OF[item.modality]
        cue = pick(rng, _misleading(part, item.cue)) if item.modality == wrong else item.cue
        fields[part] = pick(rng, PARAPHRASES[part][cue])
    spans = {
        item.modality: (f"{item.start:g}", f"{item.end:g}") for item in evidence if item.start is not None
    }
    (f0, f1), (v0, v1) = spans["video"], spans["audio"]
    templates = CONCLUDING if rng.random() < CONCLUDING_SHARE else LISTING
    text = pick(rng, templates).format(
        **fields, family=pick(rng, FAMILIES[emotion]), f0=f0, f1=f1, v0=v0, v1=v1
    )
    return text, wrong


def words_of(text: str) -> list[str]:
    """Lower-case words and numbers of a text, placeholders and tags left out."""
    return [word.lower() for word in WORD.findall(re.sub(r"<[^<>]*>|\{[^{}]*\}", " ", text))]


def vocabulary() -> frozenset[str]:
    """Every word that any text of any clip can contain, numbers left out."""
    texts = [SYSTEM, "Subtitle", QUESTION, *PARTS, *EMOTIONS, *CONCLUDING, *LISTING, *SUBJECTS]
    texts += [line for lines in SUBTITLES.values() for line in lines]
    texts += [line for family in FAMILIES.values() for line in family]
    for part in PARTS:
        texts += [*all_cues(part), *(line for lines in PARAPHRASES[part].values() for line in lines)]
    return frozenset(word for text in texts for word in words_of(text) if word[0].isalpha())


def pick(rng: np.random.Generator, choices: Sequence[T]) -> T:
    """One of `choices`, all alike."""
    return choices[int(rng.integers(len(choices)))]


def _misleading(part: Part, cue: str) -> list[str]:
    """The cues of one part that show another emotion than `cue` does."""
    shown = {other: emotion_of_cue(part, other) for other in all_cues(part)}
    return [other for other, emotion in shown.items() if emotion not in (None, shown[cue])]
