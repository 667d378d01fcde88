"""Filters: each a pure function from a draft and what was asked to a verdict, which the record keeps.

Refusals and absent media are found by words, in English; their lists are short and meant for whole phrases, so
that evidence such as "she refuses to answer" passes. A text in another language is judged by the other filters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

from rationale_cache.config import FiltersConfig, Kind
from rationale_cache.redaction import label_pattern
from rationale_cache.types import Cue, Mode, Verdict

LEAST_WORDS, LEAST_DISTINCT = 12, 0.25
SURE = 0.9
SPAN_SLACK = 1.0

REFUSAL = re.compile(
    r"\b(?:(?:i(?:'m| am)? (?:sorry|afraid|unable)\b)|(?:as an ai\b)|(?:i (?:can(?:no|')t|can not|won't|will not|"
    r"am not able to|do not have the ability to) (?:assist|help|provide|comply|identify|analy[sz]e|determine|process|"
    r"view|see|hear|watch|listen|access|answer|fulfil))|(?:no (?:audio|video|image|media|recording)s? "
    r"(?:was|were|is|are|has been|have been) (?:attached|provided|included|supplied)))",
    re.IGNORECASE,
)
WORDS_OF: dict[str, re.Pattern[str]] = {
    "audio": re.compile(
        r"\b(?:tone of (?:his |her |their |the )?voice|(?:his|her|their|the|a|speaking) voice|vocal(?:ly)?|intonation|"
        r"prosod(?:y|ic)|pitch|speech rate|in the audio|sounds? (?:calm|angry|sad|happy|tense))\b",
        re.IGNORECASE,
    ),
    "picture": re.compile(
        r"\b(?:facial(?: expressions?)?|(?:his|her|their|the) (?:face|eyes?|brows?|eyebrows?|mouth|lips|gaze|posture)|"
        r"eye contact|body language|in the (?:video|image|picture|frames?)|on screen)\b",
        re.IGNORECASE,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A reply that could be read: not yet judged. `answer` is the model's own, None in a plain text."""

    text: str
    cues: tuple[Cue, ...] = ()
    answer: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a row was asked, as far as filters need it. `kinds`: media that were sent; `seconds`: the longest."""

    labels: tuple[str, ...]
    kinds: frozenset[Kind]
    seconds: float
    mode: Mode


Filter = Callable[[Draft, Asked, FiltersConfig], Verdict]


def verdicts(draft: Draft, asked: Asked, config: FiltersConfig) -> Iterator[Verdict]:
    """All verdicts on one draft, in a fixed order."""
    for judge in FILTERS:
        yield judge(draft, asked, config)


def refusal(draft: Draft, asked: Asked, config: FiltersConfig) -> Verdict:
    """Whether the model declines instead of observing."""
    found = REFUSAL.search(draft.text)
    return _verdict("refusal", not found, f"says {found[0]!r}" if found else "")


def length(draft: Draft, asked: Asked, config: FiltersConfig) -> Verdict:
    """Whether the length is within `min_chars` and `max_chars`."""
    size = len(draft.text)
    if size > config.max_chars:
        return _verdict("over_long", False, f"{size} characters, at most {config.max_chars}")
    return (
        _verdict("over_long", True)
        if size >= config.min_chars
        else _verdict("too_short", False, f"{size} characters, at least {config.min_chars}")
    )


def degenerate(draft: Draft, asked: Asked, config: FiltersConfig) -> Verdict:
    """Whether it is language at all: letters, and not one phrase over and over."""
    letters = sum(one.isalpha() for one in draft.text)
    words = draft.text.lower().split()
    distinct = len(set(words)) / max(1, len(words))
    if letters < len(draft.text) / 2:
        return _verdict("degenerate", False, f"{letters} letters in {len(draft.text)} characters")
    looped = len(words) >= LEAST_WORDS and distinct < LEAST_DISTINCT
    return _verdict("degenerate", not looped, f"{distinct:.0%} distinct words" if looped else "")


def language(draft: Draft, asked: Asked, config: FiltersConfig) -> Verdict:
    """Whether the text is in the configured language; a text that could be several passes."""
    if config.language is None:
        return _verdict("language", True, "not judged")
    found, sure = _identify(draft.text)
    wrong = found != config.language and sure >= SURE
    return _verdict("language", not wrong, f"{found} ({sure:.2f}), not {config.language}" if wrong else found)


def absent_media(draft: Draft, asked: Asked, config: FiltersConfig) -> Verdict:
    """Whether it tells of media that were not sent: an invention."""
    if not config.absent_media:
        return _verdict("absent_media", True, "not judged")
    sent = {*asked.kinds, "text"}
    invented = [cue for cue in draft.cues if cue.modality not in sent]
    if invented:
        return _verdict("absent_media", False, f"a cue of {invented[0].modality}, which was not sent")
    pictures = bool({"video", "image"} & asked.kinds)
    for kind, there in (("audio", "audio" in asked.kinds), ("picture", pictures)):
        found = None if there else WORDS_OF[kind].search(draft.text)
        if found:
            return _verdict("absent_media", False, f"says {found[0]!r}, and no {kind} was sent")
    return _verdict("absent_media", True)


def spans(draft: Draft, asked: Asked, config: FiltersConfig) -> Verdict:
    """Whether the cues' times lie within the recording."""
    limit = asked.seconds + SPAN_SLACK
    beyond = [cue for cue in draft.cues if max(cue.start or 0.0, cue.end or 0.0) > limit]
    detail = f"a cue at {beyond[0].end or beyond[0].start} s of {asked.seconds:.1f} s" if beyond else ""
    return _verdict("spans", not beyond, detail)


def agreement(draft: Draft, asked: Asked, config: FiltersConfig) -> Verdict:
    """Whether the model's own answer is one of the labels."""
    if not config.agreement or not asked.labels or draft.answer is None:
        return _verdict("contradicting", True, "not judged")
    answers = {normal(part) for part in (draft.answer, *re.split(r"[,;/]", draft.answer))}
    agreed = bool(answers & {normal(label) for label in asked.labels})
    said = f"answered {draft.answer[:60]!r}, the label is {', '.join(asked.labels)!r}"
    return _verdict("contradicting", agreed, said)


def label_mention(draft: Draft, asked: Asked, config: FiltersConfig) -> Verdict:
    """How often the text names a label: never a reason to refuse it, since `redact` can take it out."""
    count = len(label_pattern(asked.labels).findall(draft.text)) if asked.labels else 0
    done = "redacted" if config.redact_labels else "named"
    return _verdict("label_mention", True, f"{done} {count} times" if count else "")


FILTERS: tuple[Filter, ...] = (
    refusal,
    length,
    degenerate,
    language,
    absent_media,
    spans,
    agreement,
    label_mention,
)


def normal(text: str) -> str:
    """An answer to compare: lower case, without outer marks, articles and a second blank."""
    words = re.sub(r"[\s_-]+", " ", text.lower()).strip(" .!\"'`*:()[]")
    return re.sub(r"^(?:the|a|an) ", "", words)


def _verdict(name: str, passed: bool, detail: str = "") -> Verdict:
    return Verdict(filter=name, passed=passed, detail=detail)


@cache
def _identifier() -> Callable[[str], tuple[str, float]]:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    classify: Callable[[str], tuple[str, float]] = LanguageIdentifier.from_model_file(
        MODEL_FILE, norm_probs=True
    ).classify
    return classify


def _identify(text: str) -> tuple[str, float]:
    code, probability = _identifier()(text)
    return str(code), float(probability)
