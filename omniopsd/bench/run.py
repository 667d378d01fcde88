"""`omniopsd bench run`: answers, extraction, scores and the three reports, into one folder.

    OUT/answers.jsonl            every reply of the model under test, kept as it came
        extraction.jsonl         every reply of the extraction model
        predictions/             the label lists and polarities in the official npz form
        scores.json, scores.md, report.html

A run that was killed goes on where it was: what a journal holds is not asked again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console

from omniopsd.bench.answers import Asked, answer_all, asked, model_sha256
from omniopsd.bench.board import Board
from omniopsd.bench.endpoint_asker import EndpointAsker
from omniopsd.bench.engine_asker import EngineAsker
from omniopsd.bench.extract import Asker, Extraction, LanguageModelSteps, literal_steps
from omniopsd.bench.journal import Journal
from omniopsd.bench.outcome import make_board, say_board, write_board
from omniopsd.bench.prepared import SAMPLES, Prepared, PreparedSet, read_prepared
from omniopsd.bench.run_options import RunOptions
from omniopsd.bench.scoring import score_all
from omniopsd.bench.templates import Templates, own_templates, read_templates
from omniopsd.bench.words import WordTable
from omniopsd.config import RunConfig
from omniopsd.model_source import eval_config
from omniopsd.run_folder import provenance_now


class BenchError(ValueError):
    """A benchmark run that cannot be made as asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """All that a run reads before it asks anything."""

    prepared: Prepared
    sets: tuple[PreparedSet, ...]
    table: WordTable | None
    templates: Templates
    config: RunConfig
    model_sha256: str


def run(options: RunOptions, console: Console | None = None) -> Board:
    """Ask, extract, score, write. Raises a ValueError that tells what to do."""
    console = console or Console()
    inputs = _inputs(options)
    options.out.mkdir(parents=True, exist_ok=True)
    with (
        Journal(options.out / "answers.jsonl") as answers,
        Journal(options.out / "extraction.jsonl") as replies,
    ):
        todo = asked(inputs.sets, inputs.config, inputs.model_sha256)
        texts = answer_all(todo, inputs.config, answers, options.chunk, console)
        extraction = _extract(options, inputs, texts, replies, console)
        facts = _facts(options, inputs)
        facts["answers"]["sha256"] = answers.digest(todo.keys)
        facts["extraction"]["sha256"] = replies.digest(extraction.keys)
        cut = _cut(todo, answers)
    began = time.perf_counter()
    scored = score_all(inputs.sets, texts, extraction, inputs.table, cut)
    facts["scoring_seconds"] = round(time.perf_counter() - began, 3)
    board = make_board(options, inputs.prepared.split, scored, inputs.table, facts)
    write_board(options.out, board, inputs.table)
    say_board(console, options.out, board)
    return board


def _inputs(options: RunOptions) -> Inputs:
    """Everything that can be wrong is found here, before a model is loaded or a call is paid."""
    prepared = read_prepared(options.data, options.benchmark, options.sets)
    table = prepared.table(options.wheel, options.words_version)
    worded = [one.bench_set.title for one in prepared.sets if one.bench_set.metric != "waf"]
    if table is None and worded:
        raise BenchError(
            f"{', '.join(worded)}: scored on the official word table; give its folder emotion_wheel with --wheel"
        )
    first = prepared.folder / prepared.sets[0].bench_set.name / SAMPLES
    config = eval_config(options.model, str(first), options.overrides)
    return Inputs(
        prepared=prepared,
        sets=tuple(one.first(options.samples) for one in prepared.sets),
        table=table,
        templates=read_templates(options.prompts) if options.prompts else own_templates(),
        config=config,
        model_sha256=model_sha256(config.model.path),
    )


def _extract(
    options: RunOptions, inputs: Inputs, texts: Mapping[str, str], journal: Journal, console: Console
) -> Extraction:
    sentiment = {one.bench_set.name for one in inputs.sets if one.bench_set.metric == "waf"}

    def with_polarity(id_: str) -> bool:
        return id_.partition("/")[0] in sentiment

    def steps(asker: Asker) -> Extraction:
        made = LanguageModelSteps(
            asker=asker, templates=inputs.templates, passed=options.passed, journal=journal, console=console
        )
        return made(texts, with_polarity)

    llm = options.llm
    if llm is None:
        return literal_steps(texts, with_polarity)
    if llm.endpoint is not None:
        return steps(EndpointAsker(llm.endpoint, llm.sampling))
    with EngineAsker(inputs.config, llm.name, llm.sampling) as asker:
        return steps(asker)


def _cut(todo: Asked, answers: Journal) -> dict[str, bool]:
    pairs = zip(todo.samples, todo.keys, strict=True)
    return {sample.sample_id: bool(answers.facts(key)["cut"]) for sample, key in pairs}


def _facts(options: RunOptions, inputs: Inputs) -> dict[str, Any]:
    """What the scores were made from, for scores.json."""
    config, llm, table = inputs.config, options.llm, inputs.table
    return {
        "model": {
            "path": options.model,
            "loaded": config.model.path,
            "sha256": inputs.model_sha256,
            "dtype": config.model.dtype,
        },
        "data": {
            "folder": str(options.data),
            "split": inputs.prepared.split,
            "question_sha256": inputs.prepared.question_sha256,
            "samples": options.samples,
            "media": config.data.media.model_dump(mode="json", exclude={"cache_bytes", "decoders"}),
        },
        "answers": {
            "engine": config.rollout.engine,
            "decoding": "greedy",
            "max_new_tokens": config.rollout.max_new_tokens,
        },
        "extraction": {
            "kind": "fixed rules" if llm is None else "endpoint" if llm.endpoint else "local engine",
            "model": None if llm is None else llm.name,
            "base_url": llm.endpoint.base_url if llm and llm.endpoint else None,
            "sampling": None if llm is None else asdict(llm.sampling),
            "prompts": None if llm is None else inputs.templates.source,
            "prompts_sha256": None if llm is None else inputs.templates.sha256,
            "step_a_reads": "answer" if llm is None else options.passed,
        },
        "words": None if table is None else {"version": table.version, "sha256": table.sha256},
        "made": provenance_now(),
    }
