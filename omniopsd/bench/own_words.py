"""A small word table of the project's own, for mer-mini and the tests. Scores on it are not MER-UniBench scores.

It has the shape of the official folder and its traps: neutral is nowhere, two wheels have no place for disgust and
one none for surprise, a frustrated clip is sad on some wheels and angry on others, and two sectors share a word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

from omniopsd.bench.wheel_files import Wheel, WordSources
from omniopsd.bench.words import WordTable, compile_words

Sector = Mapping[str, Sequence[str]]

GLAD: Sector = {"cheer": ("happy", "joyful"), "ease": ("calm", "content"), "drive": ("excited", "proud")}
LOW: Sector = {"sorrow": ("sad", "gloomy"), "distance": ("lonely", "hurt"), "gloom": ("hopeless", "tired")}
HOT: Sector = {"rage": ("angry", "furious"), "strain": ("annoyed", "bitter")}
TENSE: Sector = {"fright": ("scared", "terrified"), "worry": ("worried", "nervous")}
STARTLE: Sector = {"wonder": ("surprised", "amazed"), "puzzle": ("confused",)}
DISTASTE: Sector = {"revulsion": ("disgusted", "appalled")}

WHEELS: tuple[Wheel, ...] = (
    {
        "glad": GLAD,
        "low": {**LOW, "upset": ("frustrated",)},
        "hot": HOT,
        "tense": TENSE,
        "startle": STARTLE,
        "distaste": DISTASTE,
    },
    {
        "bright": GLAD,
        "down": {**LOW, "upset": ("frustrated", "annoyed")},
        "heated": HOT,
        "afraid": TENSE,
        "struck": STARTLE,
        "averse": DISTASTE,
    },
    {
        "warm": {**GLAD, "wonder": ("surprised", "amazed")},
        "dim": LOW,
        "fierce": {**HOT, "strain": ("annoyed", "bitter", "frustrated")},
        "shaky": TENSE,
    },
    {
        "light": GLAD,
        "heavy": {**LOW, "upset": ("frustrated",)},
        "burning": HOT,
        "cold": {**TENSE, "puzzle": ("confused", "surprised")},
        "sour": DISTASTE,
    },
    {
        "up": {"cheer": ("happy", "joyful"), "ease": ("calm", "content")},
        "power": {"drive": ("proud",)},
        "sunk": LOW,
        "sharp": {**HOT, "strain": ("annoyed", "frustrated")},
        "alarmed": TENSE,
    },
)

# Words that stand for a wheel word; every wheel word also stands for itself.
SYNONYMS: dict[str, tuple[str, ...]] = {
    "happy": ("glad", "joy", "delighted", "pleased"),
    "sad": ("sorrowful", "unhappy", "depressed", "miserable", "disappointed"),
    "angry": ("mad", "irate"),
    "furious": ("enraged",),
    "annoyed": ("irritated", "resentful", "hostile", "dissatisfied"),
    "scared": ("frightened", "fearful"),
    "worried": ("anxious", "uneasy", "concerned", "tense"),
    "surprised": ("astonished", "shocked"),
    "calm": ("relaxed", "peaceful"),
    "confused": ("puzzled",),
    "disgusted": ("repulsed",),
}

# Other forms of a word; every word is also a form of itself.
FORMS: dict[str, tuple[str, ...]] = {
    "happy": ("happiness", "happily"),
    "joy": ("joys", "joyous"),
    "sad": ("sadness", "sadly"),
    "lonely": ("loneliness",),
    "angry": ("anger", "angrily"),
    "annoyed": ("annoyance", "annoying"),
    "frustrated": ("frustration",),
    "scared": ("scare",),
    "fearful": ("fear", "fears"),
    "worried": ("worry", "worries"),
    "nervous": ("nervousness",),
    "surprised": ("surprise", "surprising"),
    "disgusted": ("disgust", "disgusting"),
    "calm": ("calmness",),
    "excited": ("excitement",),
}


def own_sources() -> WordSources:
    """What the table is compiled from, in the form of a wheel folder."""
    bare = WordSources(wheels=WHEELS, synonyms={}, forms={})
    on_wheels = set().union(*(bare.wheel_words(number) for number in range(1, len(WHEELS) + 1)))
    targets: dict[str, set[str]] = {word: {word} for word in on_wheels}
    for word, others in SYNONYMS.items():
        for other in others:
            targets.setdefault(other, set()).add(word)
    synonyms = {name: tuple(sorted(words)) for name, words in targets.items()}
    return WordSources(
        wheels=WHEELS, synonyms=synonyms, forms={name: FORMS.get(name, ()) for name in synonyms}
    )


@cache
def own_table() -> WordTable:
    """The table, version "own"."""
    return compile_words(own_sources(), "own")
