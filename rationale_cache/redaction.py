"""Labels taken out of a text, as words and with the endings of their word family. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

from rationale_cache.types import Cue

REDACTED = "[...]"


def redact(text: str, labels: Sequence[str]) -> str:
    """The text with `[...]` for every label, whatever its case, also with an ending (`sad`, `sadness`, `sadly`).

    >>> redact("He is sad, not saddled; sadness shows.", ["sad"])
    'He is [...], not saddled; [...] shows.'
    """
    return label_pattern(labels).sub(REDACTED, text) if labels else text


def redact_cues(cues: Sequence[Cue], labels: Sequence[str]) -> tuple[Cue, ...]:
    """The same for the texts of cues."""
    return tuple(
        Cue(modality=cue.modality, text=redact(cue.text, labels), start=cue.start, end=cue.end)
        for cue in cues
    )


def label_pattern(labels: Sequence[str]) -> re.Pattern[str]:
    """Matches each label as a word or phrase, with the endings of its word family."""
    return _pattern(tuple(labels))


@cache
def _pattern(labels: tuple[str, ...]) -> re.Pattern[str]:
    stems = sorted({_stem(label.strip()) for label in labels if label.strip()}, key=len, reverse=True)
    return re.compile(r"(?<!\w)(?:" + "|".join(stems) + r")(?!\w)", re.IGNORECASE)


def _stem(label: str) -> str:
    """A pattern for one label: happy also finds happier, happily, happiness; surprise finds surprised."""
    words = r"[\s_-]+".join(re.escape(word) for word in re.split(r"[\s_-]+", label))
    endings = r"(?:s|es|ed|d|ly|ness|ing|er|est|ful|ment)?"
    if label.lower().endswith("y"):
        return rf"{words[:-1]}(?:y|i(?:ly|ness|er|est|es|ed))"
    if label.lower().endswith("e"):
        return rf"{words[:-1]}(?:e{endings}|ing)"
    return words + endings
