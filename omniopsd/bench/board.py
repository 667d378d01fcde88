"""`scores.json` and `scores.md`: the scores of a run, their marks, and the published systems beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from omniopsd.bench.bootstrap import Interval
from omniopsd.bench.confusion import Confusion
from omniopsd.bench.datasets import NINE
from omniopsd.bench.metrics import EwF1, HitRate, Sentiment
from omniopsd.bench.published import ORDER, PUBLISHED, SOURCES
from omniopsd.bench.sanity import ConditionRow, SanityRow
from omniopsd.bench.scoring import Scored, ScoredSet, percent
from omniopsd.mer_mini.emotions import CONDITIONS

GAMED = (
    "Hit rate has no penalty for extra labels: naming happy, sad, angry and worried for every clip would score the "
    "number in the column \u201cfour labels\u201d. Read it with labels per clip and mscore (hits over named clusters)."
)
METRIC_TITLES = {"hit_rate": "hit rate", "waf": "WAF", "ew_f1": "EW-F1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """Everything that a run has to tell. `facts` go into scores.json as they are; `marks` stand beside every score."""

    title: str
    system: str
    inputs: str
    benchmark: str
    scored: Scored
    intervals: Mapping[str, Interval]
    confusions: Mapping[str, Confusion]
    sanity: Sequence[SanityRow]
    conditions: Mapping[str, Sequence[ConditionRow]]
    recalls: Mapping[str, float]
    marks: Sequence[str]
    facts: Mapping[str, Any]

    @property
    def comparable(self) -> bool:
        """Whether published scores may stand beside these: real sets, not miniature ones."""
        return self.benchmark == "mer-unibench" and not self.recalls

    def as_json(self) -> dict[str, Any]:
        """The content of scores.json; percent for scores and intervals."""
        return {
            "benchmark": self.benchmark,
            "system": self.system,
            "mean": None
            if self.scored.mean is None or self.scored.mean != self.scored.mean
            else self.scored.mean,
            "safe_mean": self.scored.safe_mean,
            "mean_interval": self._interval("mean"),
            "marks": list(self.marks),
            **self.facts,
            "sets": [self._set_json(one) for one in self.scored.sets],
            "sanity": {
                row.name: {name: None if s is None else 100 * s.safe for name, s in row.scores.items()}
                for row in self.sanity
            },
        }

    def as_markdown(self) -> str:
        """The same as two tables, with the published systems in the first."""
        lines = [f"# {self.title}", "", *(f"- {mark}" for mark in self.marks), "", *self._scores(), ""]
        if self.comparable:
            lines += [f"Sources: {SOURCES}", ""]
        lines += [*self._habits(), "", GAMED, ""]
        if any(self.conditions.values()):
            head, *rows = self.condition_rows()
            lines += [*table_head(head), *map(row, rows), ""]
        return "\n".join([*lines, *self._sanity(), ""])

    def habit_cells(self, one: ScoredSet) -> dict[str, str]:
        """What stands beside one set's score, spelled out."""
        detail, habits = one.score.detail, one.score.habits
        kept = detail.kept if isinstance(detail, Sentiment) else "/".join(str(w.kept) for w in detail.wheels)
        unknown = None if habits is None else habits.unknown_label_rate
        return {
            "metric": METRIC_TITLES[one.bench_set.metric],
            "clips": str(one.score.clips),
            "kept": str(kept),
            "labels per clip": "\u2013" if habits is None else f"{habits.labels_per_clip:.2f}",
            "empty": "\u2013" if habits is None else f"{habits.empty_rate:.1%}",
            "unknown labels": "\u2013" if unknown is None else f"{unknown:.1%}",
            "second number": _second(detail),
            "four labels": percent(one.gamed.value) if one.gamed else "\u2013",
            "cut": str(one.cut),
            "no media": str(len(one.score.missing)),
            **({"evidence recall": f"{self.recalls[one.score.name]:.1%}"} if self.recalls else {}),
        }

    def score_cells(self) -> dict[str, str]:
        """The run's own row: score by set name, and "mean"."""
        cells = {one.score.name: percent(one.score.value) for one in self.scored.sets}
        mean = self.scored.mean
        return cells | {"mean": percent(None if mean is None else mean / 100)}

    def interval_cells(self) -> dict[str, str]:
        """95 % intervals in print, by set name and "mean"."""
        return {
            name: f"{100 * low:.1f}\u2013{100 * high:.1f}" for name, (low, high) in self.intervals.items()
        }

    def _interval(self, name: str) -> list[float] | None:
        found = self.intervals.get(name)
        return None if found is None else [100 * found[0], 100 * found[1]]

    def _set_json(self, one: ScoredSet) -> dict[str, Any]:
        return {
            **one.score.as_json(),
            "interval": self._interval(one.score.name),
            "cut_replies": one.cut,
            "four_labels_score": None if one.gamed is None else 100 * one.gamed.safe,
            "confusion": asdict(self.confusions[one.score.name]),
            "evidence_recall": self.recalls.get(one.score.name),
            "conditions": {row.who: dict(row.percents) for row in self.conditions[one.score.name]},
        }

    def _scores(self) -> Iterator[str]:
        titles = {one.name: one.title for one in NINE}
        yield from table_head(["System", "Inputs", *(titles[name] for name in ORDER), "Mean", "Source"])
        for name, cells in (
            (f"**{self.system}**", self.score_cells()),
            ("95 % interval", self.interval_cells()),
        ):
            own = [cells.get(key, "\u2013") for key in (*ORDER, "mean")]
            yield row([name, self.inputs, *own, "this run"])
        if self.comparable:
            for one in PUBLISHED:
                scores = [f"{score:.2f}" for score in one.scores] or [""] * len(ORDER)
                yield row([one.system, one.inputs, *scores, f"{one.mean:.2f}", one.source])

    def _habits(self) -> Iterator[str]:
        cells = {one.bench_set.title: self.habit_cells(one) for one in self.scored.sets}
        yield from table_head(["Set", *next(iter(cells.values()))])
        for title, values in cells.items():
            yield row([title, *values.values()])

    def condition_rows(self) -> list[list[str]]:
        """Set, who, and a score for each condition; the first row is the head."""
        rows = [["Set", "Answers of", *CONDITIONS]]
        for name, part in self.conditions.items():
            for one in part:
                rows.append([name, one.who, *(_printed(one.percents.get(c)) for c in CONDITIONS)])
        return rows

    def _sanity(self) -> Iterator[str]:
        names = [one.score.name for one in self.scored.sets]
        yield from table_head(["Without a model", *names])
        for one in self.sanity:
            scores = [one.scores.get(name) for name in names]
            yield row([one.name, *(percent(s.safe) if s else "\u2013" for s in scores)])


def table_head(titles: Sequence[str]) -> list[str]:
    """The two first lines of a Markdown table."""
    return [row(titles), row(["---"] * len(titles))]


def row(cells: Sequence[str]) -> str:
    """One line of a Markdown table; a bar in a cell is escaped."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _printed(value: float | None) -> str:
    return "\u2013" if value is None else f"{value:.2f}"


def _second(detail: HitRate | EwF1 | Sentiment) -> str:
    if isinstance(detail, HitRate):
        return f"mscore {percent(detail.mscore)}"
    if isinstance(detail, EwF1):
        return f"P {percent(detail.precision)}, R {percent(detail.recall)}"
    return f"ACC {percent(detail.acc)}"
