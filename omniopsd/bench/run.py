"""`omniopsd bench run`: answers, extraction, scores and the three reports, into one folder.

    OUT/answers.jsonl            every reply of the model under test, kept as it came
        extraction.jsonl         every reply of the extraction model
        predictions/             the label lists and polarities in the official npz form
        scores.json, scores.md, report.html

A run that was killed goes on where it was: what a journal holds is not asked again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from cluster.runtime import start_runtime
from omniopsd.bench.answers import Asked, answer_all, asked, model_sha256
from omniopsd.bench.board import Board
from omniopsd.bench.bootstrap import intervals
from omniopsd.bench.confusion import clip_results, confusion
from omniopsd.bench.endpoint_asker import EndpointAsker
from omniopsd.bench.extract import Asker, EngineAsker, Extraction, LanguageModelSteps, Pass, literal_steps
from omniopsd.bench.journal import Journal
from omniopsd.bench.page import bench_page
from omniopsd.bench.predictions import write_predictions
from omniopsd.bench.prepared import SAMPLES, Prepared, PreparedSet, read_prepared
from omniopsd.bench.sanity import by_condition, evidence_recall, sanity_rows
from omniopsd.bench.scoring import Scored, score_all
from omniopsd.bench.templates import Templates, own_templates, read_templates
from omniopsd.bench.words import WordTable
from omniopsd.config import RunConfig
from omniopsd.durable import write_durably
from omniopsd.model_source import eval_config
from omniopsd.run_folder import provenance_now
from rationale_cache.config import EndpointConfig
from rollout.pool import resources
from rollout.vllm_text import TextSampling

OFFICIAL_SAMPLING = TextSampling(temperature=0.7, top_p=0.8, repetition_penalty=1.05, max_new_tokens=512)
OFFICIAL_MODEL = "Qwen2.5-7B-Instruct"
TEXT_CONTEXT = 4096


class BenchError(ValueError):
    """A benchmark run that cannot be made as asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Llm:
    """The extraction model: a folder for a local engine, or an endpoint."""

    folder: str | None = None
    endpoint: EndpointConfig | None = None
    sampling: TextSampling = OFFICIAL_SAMPLING


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What is asked for; `llm` None is extraction by fixed rules."""

    benchmark: Literal["mer-unibench", "mer-mini"]
    model: str
    out: Path
    data: Path
    llm: Llm | None
    wheel: str | None = None
    words_version: str | None = None
    sets: Sequence[str] | None = None
    samples: int | None = None
    prompts: str | None = None
    passed: Pass = "whole"
    overrides: Sequence[str] = ()
    chunk: int = 32
    seed: int = 0


def run(options: RunOptions, console: Console | None = None) -> Board:
    """Ask, extract, score, write. Raises a ValueError that tells what to do."""
    console = console or Console()
    prepared = read_prepared(options.data, options.benchmark, options.sets)
    sets = tuple(one.first(options.samples) for one in prepared.sets)
    table = _table(options, prepared)
    templates = read_templates(options.prompts) if options.prompts else own_templates()
    first = prepared.folder / prepared.sets[0].bench_set.name / SAMPLES
    config = eval_config(options.model, str(first), options.overrides)
    options.out.mkdir(parents=True, exist_ok=True)
    with (
        Journal(options.out / "answers.jsonl") as answers,
        Journal(options.out / "extraction.jsonl") as replies,
    ):
        digest = model_sha256(config.model.path)
        todo = asked(sets, config, digest)
        texts = answer_all(todo, config, answers, options.chunk, console)
        extraction = _extract(options, config, templates, texts, sets, replies, console)
        cut = {
            s.sample_id: bool(answers.facts(k)["cut"]) for s, k in zip(todo.samples, todo.keys, strict=True)
        }
        facts = _facts(
            options, prepared, config, digest, templates, table, todo, answers, replies, extraction
        )
    began = time.perf_counter()
    scored = score_all(sets, texts, extraction, table, cut)
    facts["scoring_seconds"] = round(time.perf_counter() - began, 3)
    board = make_board(options, prepared, scored, table, facts)
    _write(options.out, board, table)
    _say(console, options.out, board)
    return board


def _table(options: RunOptions, prepared: Prepared) -> WordTable | None:
    table = prepared.table(options.wheel, options.words_version)
    worded = [one.bench_set.title for one in prepared.sets if one.bench_set.metric != "waf"]
    if table is None and worded:
        raise BenchError(
            f"{', '.join(worded)} are scored on the official word table; give the folder emotion_wheel with --wheel"
        )
    return table


# --- extraction


def _extract(
    options: RunOptions, config: RunConfig, templates: Templates, texts: Mapping[str, str],
    sets: Sequence[PreparedSet], journal: Journal, console: Console,
) -> Extraction:  # fmt: skip
    sentiment = {one.bench_set.name for one in sets if one.bench_set.metric == "waf"}

    def with_polarity(id_: str) -> bool:
        return id_.partition("/")[0] in sentiment

    llm = options.llm
    if llm is None:
        return literal_steps(texts, with_polarity)

    def steps(asker: Asker) -> Extraction:
        made = LanguageModelSteps(
            asker=asker, templates=templates, passed=options.passed, journal=journal, console=console
        )
        return made(texts, with_polarity)

    if llm.endpoint is not None:
        return steps(EndpointAsker(llm.endpoint, llm.sampling))
    assert llm.folder is not None
    return _by_engine(llm.folder, llm.sampling, config, steps)


def _by_engine(
    folder: str, sampling: TextSampling, config: RunConfig, steps: Callable[[Asker], Extraction]
) -> Extraction:
    """The engine's processes start only when a reply is missing, and end before this returns."""
    runtime = start_runtime(config.runtime)
    try:
        return steps(
            EngineAsker(
                runtime,
                folder,
                model_sha256(folder),
                config.rollout,
                resources(config.rollout),
                sampling,
                _text_context(folder),
            )  # fmt: skip
        )
    finally:
        runtime.shutdown()


def _text_context(folder: str) -> int:
    try:
        content = json.loads((Path(folder) / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise BenchError(f"{folder}: no model folder ({error}); give the folder of a chat model") from error
    return min(TEXT_CONTEXT, int(content.get("max_position_embeddings", TEXT_CONTEXT)))


# --- what is told


def _facts(
    options: RunOptions, prepared: Prepared, config: RunConfig, digest: str, templates: Templates,
    table: WordTable | None, todo: Asked, answers: Journal, replies: Journal, extraction: Extraction,
) -> dict[str, Any]:  # fmt: skip
    llm = options.llm
    return {
        "model": {
            "path": options.model,
            "loaded": config.model.path,
            "sha256": digest,
            "dtype": config.model.dtype,
        },
        "data": {
            "folder": str(options.data),
            "split": prepared.split,
            "question_sha256": prepared.question_sha256,
            "samples": options.samples,
            "media": config.data.media.model_dump(mode="json", exclude={"cache_bytes"}),
        },
        "answers": {
            "engine": config.rollout.engine,
            "decoding": "greedy",
            "max_new_tokens": config.rollout.max_new_tokens,
            "sha256": answers.digest(todo.keys),
        },
        "extraction": {
            "kind": "fixed rules" if llm is None else "endpoint" if llm.endpoint else "local engine",
            "model": None if llm is None else llm.endpoint.model if llm.endpoint else llm.folder,
            "base_url": llm.endpoint.base_url if llm and llm.endpoint else None,
            "sampling": None if llm is None else asdict(llm.sampling),
            "prompts": None if llm is None else templates.source,
            "prompts_sha256": None if llm is None else templates.sha256,
            "step_a_reads": "answer" if llm is None else options.passed,
            "sha256": replies.digest(extraction.keys),
        },
        "words": None if table is None else {"version": table.version, "sha256": table.sha256},
        "made": provenance_now(),
    }


def make_board(
    options: RunOptions, prepared: Prepared, scored: Scored, table: WordTable | None, facts: dict[str, Any]
) -> Board:
    """Scores with intervals, classes, sanity rows and marks."""
    recalls = {one.score.name: found for one in scored.sets if (found := evidence_recall(one)) is not None}
    if recalls:
        facts["evidence_recall"] = recalls
    title = "MER-UniBench" if options.benchmark == "mer-unibench" else "mer-mini"
    system = _system(options.model)
    kinds = {
        kind
        for one in prepared.sets
        for kind in ("videos", "audios")
        if one.samples[0].inputs.paths.of(kind[:-1])
    }  # type: ignore[arg-type]
    letters = [letter for kind, letter in (("audios", "A"), ("videos", "V")) if kind in kinds]
    return Board(
        title=f"{title}: {system}",
        system=system,
        inputs="+".join([*letters, "T"]),
        benchmark=options.benchmark,
        scored=scored,
        intervals=intervals(scored, table, options.seed),
        confusions={one.score.name: confusion(one, table) for one in scored.sets},
        sanity=sanity_rows([one.prepared for one in scored.sets], table),
        conditions={one.score.name: list(by_condition(one, table)) for one in scored.sets},
        marks=list(marks(options, prepared, scored, facts)),
        facts=facts,
    )


def marks(options: RunOptions, prepared: Prepared, scored: Scored, facts: Mapping[str, Any]) -> list[str]:
    """Everything that makes a score another one than the official benchmark's, one sentence each."""
    found = []
    if options.benchmark == "mer-mini":
        found.append("mer-mini measures plumbing and the use of evidence: these are not MER-UniBench scores.")
    if prepared.split == "val":
        found.append("Validation clips, not the test sets.")
    if options.samples is not None:
        found.append(f"A subset: the first {options.samples} clips of each set.")
    gone = sum(len(one.score.missing) for one in scored.sets)
    if gone:
        found.append(f"{gone} clips have no usable media and count as wrong.")
    if options.benchmark == "mer-unibench" and prepared.split == "test" and options.samples is None:
        for one in scored.sets:
            if one.score.clips != one.score.official_clips:
                found.append(
                    f"{one.bench_set.title} has {one.score.clips} clips here and {one.score.official_clips} officially."
                )
    found += _extraction_marks(options, facts["extraction"])
    if any(one.score.value != one.score.value for one in scored.sets):
        found.append("NaN stands where the official code gives NaN; scores.json has a safe value beside it.")
    if scored.mean is None:
        found.append("Not all nine sets, so there is no mean.")
    return found


def _extraction_marks(options: RunOptions, facts: Mapping[str, Any]) -> list[str]:
    if options.llm is None:
        return ["Labels and polarities were extracted by fixed rules, not by a language model (--no-llm)."]
    found = []
    if facts["prompts"] != "official":
        whose = "the project's own wording" if facts["prompts"] == "own" else "a file's wording"
        found.append(f"The extraction prompts are in {whose}, not the official one.")
    if OFFICIAL_MODEL.lower() not in str(facts["model"]).lower():
        found.append(f"The extraction model is {facts['model']}, officially {OFFICIAL_MODEL}.")
    if options.llm.sampling != OFFICIAL_SAMPLING:
        found.append("The extraction model samples with other settings than officially.")
    if options.passed == "answer":
        found.append("Step A read what stands inside <answer>; officially it reads the whole reply.")
    return found


def _system(model: str) -> str:
    parts = Path(model).resolve().parts
    return parts[-1] if parts[-1] not in ("model", "student") or len(parts) < 2 else "/".join(parts[-2:])


def _write(out: Path, board: Board, table: WordTable | None) -> None:
    predictions = out / "predictions"
    predictions.mkdir(exist_ok=True)
    for one in board.scored.sets:
        write_predictions(predictions / f"{one.score.name}-openset.npz", one.labels)
        if one.polarity:
            write_predictions(predictions / f"{one.score.name}-openset-sentiment.npz", one.polarity)
    worst = {one.score.name: clip_results(one, table) for one in board.scored.sets}
    content = json.dumps(board.as_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_durably(out / "scores.md", board.as_markdown().encode())
    write_durably(out / "report.html", bench_page(board, worst).encode())
    write_durably(out / "scores.json", content.encode())


def _say(console: Console, out: Path, board: Board) -> None:
    cells, bounds = board.score_cells(), board.interval_cells()
    for name, score in cells.items():
        interval = f"  (95 % {bounds[name]})" if name in bounds else ""
        console.print(f"{name:<12} {score:>6}{interval}", highlight=False, markup=False)
    for mark in board.marks:
        console.print(f"note: {mark}", highlight=False, markup=False, soft_wrap=True)
    console.print(
        f"{out / 'scores.json'}\n{out / 'scores.md'}\n{out / 'report.html'}", highlight=False, soft_wrap=True
    )
