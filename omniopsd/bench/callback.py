"""Benchmark scores while a run trains, and the checkpoint that scored best on validation clips.

The clips are a subset of a folder that `omniopsd bench prepare` wrote; answers, extraction by fixed rules and scores
come from the code of `omniopsd bench run`. The results stand in the run folder (`omniopsd/bench/run_results.py`).

Choosing on the test clips is refused unless `eval.bench.select_on_test` says so, and every score of such a
checkpoint then carries that fact.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.runtime import Runtime
from omniopsd.bench.answers import answer_book, greedy_answers
from omniopsd.bench.extract import literal_steps
from omniopsd.bench.prepared import read_prepared
from omniopsd.bench.run_results import RESULTS, best_step, read_results
from omniopsd.bench.scoring import Scored, score_all
from omniopsd.config import BenchEvalConfig, RunConfig
from omniopsd.durable import write_durably
from omniopsd.samples import Sample
from rollout.pool import RolloutPool
from rollout.renderer import Renderer

CHUNK = 32


class BenchCallbackError(ValueError):
    """Clips that a run cannot be measured on, or must not be chosen on."""


class BenchCallback:
    """Measures the rollout engines' present policy, and remembers the best step."""

    def __init__(
        self,
        config: RunConfig,
        bench: BenchEvalConfig,
        folder: Path,
        renderer: Renderer,
        train: Sequence[Sample],
    ) -> None:
        """Reads the clips. Raises BenchCallbackError, PreparedError and WordsError."""
        prepared = read_prepared(bench.data, None, bench.sets)
        self.split, self.selects, self._path = prepared.split, bench.select, folder / RESULTS
        _check_selection(bench, prepared.split)
        self.sets = tuple(one.first(bench.samples) for one in prepared.sets)
        self.table = prepared.table(bench.wheel)
        if self.table is None and any(one.bench_set.metric != "waf" for one in self.sets):
            raise BenchCallbackError(
                "eval.bench.wheel: needed to score these sets; name the folder emotion_wheel"
            )
        samples = [sample for one in self.sets for sample in one.samples]
        _check_unseen(samples, train)
        self._samples, self._limit = samples, config.rollout.max_new_tokens
        self._book = answer_book(config, samples, renderer)

    def measure(self, step: int, runtime: Runtime, pool: RolloutPool) -> dict[str, Any]:
        """Answer, score and keep the result under `step` (0: before training)."""
        texts: dict[str, str] = {}
        cut: dict[str, bool] = {}
        for part in greedy_answers(pool, runtime, self._book, self._samples, self._limit, CHUNK):
            texts |= {id_: text for id_, text, _ in part}
            cut |= {id_: ended for id_, _, ended in part}
        extraction = literal_steps(texts, self._sentiment)
        result = _summary(score_all(self.sets, texts, extraction, self.table, cut))
        self._write({**self.steps(), str(step): result})
        return result

    def steps(self) -> dict[str, Any]:
        """Results by step."""
        return dict(read_results(self._path.parent).get("steps", {}))

    def discard_after(self, step: int) -> None:
        """Forget the results of later steps, which a resumed run makes again."""
        self._write({name: result for name, result in self.steps().items() if int(name) <= step})

    def start_anew(self) -> None:
        """Forget what an attempt that never finished a step left behind."""
        self._path.unlink(missing_ok=True)

    def pinned(self) -> frozenset[int]:
        """The step whose checkpoint has to stay."""
        best = best_step(self.steps()) if self.selects else None
        return frozenset() if best is None else frozenset({best})

    def _sentiment(self, id_: str) -> bool:
        return id_.partition("/")[0] in {
            one.bench_set.name for one in self.sets if one.bench_set.metric == "waf"
        }

    def _write(self, steps: dict[str, Any]) -> None:
        content = {
            "split": self.split,
            "selects": self.selects,
            "sets": {one.bench_set.name: len(one.gold) for one in self.sets},
            "extraction": "fixed rules",
            "steps": dict(sorted(steps.items(), key=lambda pair: int(pair[0]))),
            "best": best_step(steps) if self.selects else None,
        }
        write_durably(self._path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


def _summary(scored: Scored) -> dict[str, Any]:
    """`score`: the unweighted mean of the primary scores (percent, a NaN counted as 0)."""
    scores = {one.score.name: 100 * one.score.safe for one in scored.sets}
    return {
        "score": sum(scores.values()) / len(scores),
        "scores": scores,
        "cut_replies": sum(one.cut for one in scored.sets),
    }


def _check_selection(bench: BenchEvalConfig, split: str) -> None:
    if bench.select and split == "test" and not bench.select_on_test:
        raise BenchCallbackError(
            f"eval.bench.select: {bench.data} holds test clips, and a checkpoint chosen on them has no honest test "
            "score; prepare validation clips with `bench prepare --split val`, or write select_on_test: true, which "
            "then stands beside the score"
        )
    if bench.select_on_test and split != "test":
        raise BenchCallbackError(
            f"eval.bench.select_on_test: no effect, {bench.data} holds validation clips; leave it out"
        )


def _check_unseen(samples: Sequence[Sample], train: Sequence[Sample]) -> None:
    """Raises BenchCallbackError when a clip is trained on: by its id, or by a file that both have (a hard link)."""
    seen = {mark for sample in train for mark in _marks(sample)}
    shared = [sample for sample in samples if any(mark in seen for mark in _marks(sample))]
    if shared:
        raise BenchCallbackError(
            f"eval.bench.data: {len(shared)} of {len(samples)} clips are in data.train too (first: "
            f"{shared[0].sample_id}); take them out of one of the two"
        )


def _marks(sample: Sample) -> list[object]:
    paths = sample.inputs.paths
    files = [Path(paths.root) / text for text in (*paths.videos, *paths.audios)]
    return [sample.sample_id, *((f.stat().st_dev, f.stat().st_ino) for f in files if f.is_file())]
