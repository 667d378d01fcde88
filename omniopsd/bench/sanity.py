"""What answers that need no model would score on the same clips: the frame in which a score is to be read.

Oracle, empty, constant words and the four-label shotgun work on every prepared set. mer-mini also tells what each
modality of a clip shows, so readers of one modality can be scored: each should reach its own share of the clips in
which one modality alone carries the cue, and the text reader should fail where the subtitle contradicts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from omniopsd.bench.datasets import BenchSet
from omniopsd.bench.labels import Gold
from omniopsd.bench.literal import literal_polarity
from omniopsd.bench.prepared import PreparedSet
from omniopsd.bench.score import SetScore, score_set
from omniopsd.bench.scoring import FOUR_LABELS, ScoredSet
from omniopsd.bench.words import WordTable
from omniopsd.mer_mini.emotions import CONDITIONS, EMOTIONS

READERS = {"text": "reads the text only", "audio": "hears the audio only", "video": "sees the video only"}
Answer = Callable[[str, Gold], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class SanityRow:
    """One way to answer; scores by set name, None where it has no answer."""

    name: str
    scores: Mapping[str, SetScore | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionRow:
    """Who answered one set, and the score (percent) in the clips of each condition."""

    who: str
    percents: Mapping[str, float]


def sanity_rows(sets: Sequence[PreparedSet], table: WordTable | None) -> list[SanityRow]:
    """Every row over every set; sets without a word table are left out unless they are sentiment sets."""
    scorable = [one for one in sets if table is not None or one.bench_set.metric == "waf"]
    answers: dict[str, Callable[[PreparedSet], Answer | None]] = {
        "oracle: the gold labels": lambda one: _oracle,
        "empty": lambda one: lambda clip, gold: "[]",
        "always happy": lambda one: lambda clip, gold: "[happy]",
        "always angry": lambda one: lambda clip, gold: "[angry]",
        "shotgun: happy, sad, angry, worried": lambda one: lambda clip, gold: f"[{FOUR_LABELS}]",
    }
    for modality, text in READERS.items():
        answers[text] = lambda one, modality=modality: _reader(one, modality)  # type: ignore[misc]
    return [
        SanityRow(name=name, scores={one.bench_set.name: _scored(one, make(one), table) for one in scorable})
        for name, make in answers.items()
    ]


def by_condition(scored: ScoredSet, table: WordTable | None) -> list[ConditionRow]:
    """A run's answers and mer-mini's readers in the clips of each condition; nothing for other benchmarks."""
    parts = {name: part for name in CONDITIONS if (part := _only(scored.prepared, name)).gold}
    if not parts:
        return []
    rows = [
        ConditionRow(
            who="this run",
            percents={name: 100 * _own(scored, part, table).safe for name, part in parts.items()},
        )
    ]
    for modality, who in READERS.items():
        found = {name: _scored(part, _reader(part, modality), table) for name, part in parts.items()}
        rows.append(
            ConditionRow(who=who, percents={name: 100 * score.safe for name, score in found.items() if score})
        )
    return rows


def evidence_recall(scored: ScoredSet) -> float | None:
    """Share of mer-mini's planted cues that the replies name; None for other benchmarks."""
    cues = [
        cue in scored.replies[name]
        for name, row in scored.prepared.evidence.items()
        if name in scored.replies
        for cue in row["cues"]
    ]
    return sum(cues) / len(cues) if cues else None


def _own(scored: ScoredSet, part: PreparedSet, table: WordTable | None) -> SetScore:
    labels = {name: text for name, text in scored.labels.items() if name in part.gold}
    polarity = {name: word for name, word in scored.polarity.items() if name in part.gold}
    sentiment = polarity if part.bench_set.metric == "waf" else None
    return score_set(part.bench_set, part.gold, labels, table=table, sentiment=sentiment, allow_missing=True)


def _only(one: PreparedSet, condition: str) -> PreparedSet:
    names = {name for name, row in one.evidence.items() if row["condition"] == condition}
    return replace(one, gold={name: gold for name, gold in one.gold.items() if name in names})


def _oracle(clip: str, gold: Gold) -> str:
    if isinstance(gold, str):
        return f"[{gold}]"
    return "[happy]" if gold > 0 else "[sad]"


def _reader(one: PreparedSet, modality: str) -> Answer | None:
    """Answers the emotion that one modality shows, in the words of the set; nothing where it shows none."""
    if any(name not in one.evidence for name in one.gold) or not one.gold:
        return None

    def answer(clip: str, gold: Gold) -> str:
        shown = one.evidence[clip]["shown"].get(modality)
        if shown is None:
            return "[]"
        return f"[{shown if one.bench_set.metric != 'waf' else _valence_word(shown)}]"

    return answer


def _valence_word(shown: str) -> str:
    valence = EMOTIONS[shown].valence
    return "happy" if valence > 0 else "sad" if valence < 0 else "neutral"


def _scored(one: PreparedSet, answer: Answer | None, table: WordTable | None) -> SetScore | None:
    if answer is None:
        return None
    labels = {clip: answer(clip, gold) for clip, gold in one.gold.items()}
    return _score(one.bench_set, one.gold, labels, table)


def _score(
    bench_set: BenchSet, gold: Mapping[str, Gold], labels: Mapping[str, str], table: WordTable | None
) -> SetScore:
    if bench_set.metric != "waf":
        return score_set(bench_set, gold, labels, table=table)
    polarity = {clip: literal_polarity(text) for clip, text in labels.items()}
    return score_set(bench_set, gold, labels, table=table, sentiment=polarity)
