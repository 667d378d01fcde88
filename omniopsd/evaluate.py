"""The before/after table: greedy answers without privilege, and those of the privileged teacher."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from cluster.runtime import Runtime, start_runtime
from omniopsd.answers import judge
from omniopsd.config import RunConfig
from omniopsd.prompts import PromptBook, make_book
from omniopsd.report_table import wilson
from omniopsd.samples import Sample, read_samples
from rollout.pool import RolloutPool
from rollout.renderer import Renderer
from teacher.pool import TeacherPool

PROMPTS_PER_ROUND = 64
Results = dict[str, Any]


class EvalError(ValueError):
    """Samples or a source that cannot be evaluated."""


class Evaluation:
    """One set of held-out samples, and who has answered them."""

    def __init__(self, book: PromptBook, samples: Sequence[Sample], max_new_tokens: int) -> None:
        """Raises EvalError when a sample has no labels: it could only be counted wrong."""
        bare = [sample.where for sample in samples if not sample.labels]
        if bare:
            raise EvalError(f"{bare[0]}: no labels ({len(bare)} such samples); an evaluation needs them")
        self.book, self.samples, self.max_new_tokens = book, samples, max_new_tokens

    def student(
        self, runtime: Runtime, pool: RolloutPool, tick: Callable[[int], None] = lambda n: None
    ) -> Results:
        """Answers of the rollout engines' present policy, from the student's prompt alone."""

        def answer(part: Sequence[Sample]) -> list[np.ndarray]:
            refs = {sample.sample_id: runtime.put(self.book.prompt(sample)) for sample in part}
            return pool.greedy(refs, self.max_new_tokens)

        return self._tally(answer, tick, self.samples)

    def teacher(self, pool: TeacherPool, tick: Callable[[int], None] = lambda n: None) -> Results:
        """Answers of the teacher, with its evidence: the gap that there is to close.

        Samples for which a cache has no rationale are not asked; `n` in the results says how many were.
        """

        def answer(part: Sequence[Sample]) -> list[np.ndarray]:
            return pool.answer([self.book.context(sample) for sample in part], self.max_new_tokens)

        return self._tally(answer, tick, self.book.samples)

    def _tally(
        self,
        answer: Callable[[Sequence[Sample]], list[np.ndarray]],
        tick: Callable[[int], None],
        samples: Sequence[Sample],
    ) -> Results:
        texts: list[str] = []
        for at in range(0, len(samples), PROMPTS_PER_ROUND):
            part = samples[at : at + PROMPTS_PER_ROUND]
            ids = answer(part)
            if len(ids) != len(part):
                raise EvalError(f"{len(part)} samples were asked and {len(ids)} answers came")
            texts += [self.book.renderer.decode(one) for one in ids]
            tick(len(texts))
        return tally(samples, texts)


def tally(samples: Sequence[Sample], texts: Sequence[str]) -> Results:
    """Counts over all samples and by dataset; `answers` keeps the texts."""
    total: Results = {"n": 0, "correct": 0, "format_valid": 0, "by_dataset": {}, "answers": []}
    for sample, text in zip(samples, texts, strict=True):
        verdict = judge(text, sample.labels)
        part = total["by_dataset"].setdefault(
            sample.dataset or "all", {"n": 0, "correct": 0, "format_valid": 0}
        )
        for counts in (total, part):
            counts["n"] += 1
            counts["correct"] += verdict.correct
            counts["format_valid"] += verdict.format_valid
        total["answers"].append(
            {"id": sample.sample_id, "text": text, "labels": list(sample.labels), "correct": verdict.correct}
        )
    return total


def held_out_evaluation(config: RunConfig, samples: Sequence[Sample], renderer: Renderer) -> Evaluation:
    """The first `eval.samples` held-out samples, with the teacher's evidence if it is to answer them."""
    asked = samples[: config.eval.samples]
    # a model may have refused to write the rationale of a held-out sample; the student answers it all the same
    changes: dict[str, str] = {"missing": "skip" if config.rationale_cache else "fail"}
    if not config.eval.teacher:
        changes["privilege"] = "none"
    book = make_book(config, asked, renderer, config.teacher.model_copy(update=changes))
    return Evaluation(book, asked, config.rollout.max_new_tokens)


def results_table(results: Results, title: str) -> Table:
    """The table that a run ends with: who, accuracy with its 95 % interval, format, by dataset."""
    rows = [("student before", results.get("before")), ("privileged teacher", results.get("teacher"))]
    rows += [(f"student at step {step}", part) for step, part in results.get("steps", {}).items()]
    rows += [("student after", results.get("after"))]
    known = [(name, part) for name, part in rows if part]
    datasets = sorted({key for _, part in known for key in part["by_dataset"]})
    held_out = known[0][1]["n"] if known else 0
    known = [(name if part["n"] == held_out else f"{name} ({part['n']} items)", part) for name, part in known]
    table = Table(
        title=f"{title}: accuracy on {held_out} held-out items",
        title_justify="left",
        box=None,
        padding=(0, 2, 0, 0),
    )
    for name in ("", "all", "95 %", "format", *(_short(key, datasets) for key in datasets)):
        table.add_column(name, justify="left" if not name else "right", no_wrap=True)
    for name, part in known:
        low, high = wilson(part["correct"], part["n"])
        split = [_rate(part["by_dataset"].get(key)) for key in datasets]
        form = f"{part['format_valid'] / part['n']:.2f}"
        table.add_row(name, f"{part['correct'] / part['n']:.3f}", f"{low:.2f}-{high:.2f}", form, *split)
    return table


def run_eval(source: str, data: str, *, overrides: Sequence[str] = (), out: str | None = None) -> None:
    """`omniopsd eval`: a run's newest checkpoint or a model folder, greedy, no privilege."""
    from omniopsd.build import groups_of
    from omniopsd.model_source import eval_config

    config = eval_config(source, data, overrides)
    runtime = start_runtime(config.runtime)
    console = Console()
    try:
        runtime.reserve(groups_of(config, ("rollout",)))
        pool = RolloutPool(runtime, config.model, config.rollout, config.weights)
        pool.wait_ready()
        evaluation = held_out_evaluation(config, read_samples(data), Renderer(config.model.path))
        asked = len(evaluation.samples)
        results = evaluation.student(
            runtime, pool, lambda done: console.print(f"{done}/{asked} answered", highlight=False)
        )
    finally:
        runtime.shutdown()
    console.print(results_table({"after": results}, f"{source} on {data}"))
    if out is not None:
        Path(out).write_text(json.dumps({"source": source, "data": data, "after": results}, indent=1))


def _short(dataset: str, datasets: Sequence[str]) -> str:
    """Without the folder that all of them share."""
    shared = {name.partition("/")[0] for name in datasets if "/" in name}
    return dataset.partition("/")[2] if len(shared) == 1 and "/" in dataset else dataset


def _rate(part: Results | None) -> str:
    return f"{part['correct'] / part['n']:.3f}" if part else ""
