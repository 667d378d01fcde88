"""From scores to what is told: the board with its marks, and the files of a run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from omniopsd.bench.board import Board
from omniopsd.bench.bootstrap import intervals
from omniopsd.bench.confusion import clip_results, confusion
from omniopsd.bench.page import bench_page
from omniopsd.bench.predictions import write_predictions
from omniopsd.bench.run_options import OFFICIAL_MODEL, OFFICIAL_SAMPLING, RunOptions
from omniopsd.bench.run_results import SELECTED_ON_TEST, chosen_on_test
from omniopsd.bench.sanity import by_condition, evidence_recall, sanity_rows
from omniopsd.bench.scoring import Scored
from omniopsd.bench.splits import Split
from omniopsd.bench.words import WordTable
from omniopsd.durable import write_durably

TITLES = {"mer-unibench": "MER-UniBench", "mer-mini": "mer-mini"}


def make_board(
    options: RunOptions, split: Split, scored: Scored, table: WordTable | None, facts: dict[str, Any]
) -> Board:
    """Scores with intervals, classes, sanity rows and marks."""
    system = _system(options.model)
    return Board(
        title=f"{TITLES[options.benchmark]}: {system}",
        system=system,
        inputs=_inputs(scored),
        benchmark=options.benchmark,
        scored=scored,
        intervals=intervals(scored, table, options.seed),
        confusions={one.score.name: confusion(one, table) for one in scored.sets},
        sanity=sanity_rows([one.prepared for one in scored.sets], table),
        conditions={one.score.name: by_condition(one, table) for one in scored.sets},
        recalls={one.score.name: found for one in scored.sets if (found := evidence_recall(one)) is not None},
        marks=list(marks(options, split, scored, facts)),
        facts=facts,
    )


def marks(options: RunOptions, split: Split, scored: Scored, facts: Mapping[str, Any]) -> Iterator[str]:
    """Everything that makes a score another one than the official benchmark's, one sentence each."""
    if options.benchmark == "mer-mini":
        yield "mer-mini measures plumbing and the use of evidence: these are not MER-UniBench scores."
    if chosen_on_test(Path(facts["model"]["loaded"])):
        yield SELECTED_ON_TEST
    if split == "val":
        yield "Validation clips, not the test sets."
    if options.samples is not None:
        yield f"A subset: the first {options.samples} clips of each set."
    if gone := sum(len(one.score.missing) for one in scored.sets):
        yield f"{gone} clips have no usable media and count as wrong."
    other = [
        f"{one.bench_set.title} has {one.score.clips} clips of {one.score.official_clips}"
        for one in scored.sets
        if one.score.clips != one.score.official_clips
    ]
    if other and options.benchmark == "mer-unibench" and split == "test" and options.samples is None:
        yield f"Not the official clips: {', '.join(other)}."
    if options.benchmark == "mer-unibench" and any(one.prepared.evidence for one in scored.sets):
        yield "These are miniature sets, prepared as if they were the real ones: not MER-UniBench scores."
    yield from _extraction_marks(options, facts["extraction"])
    if any(one.score.value != one.score.value for one in scored.sets):
        safe = "" if scored.safe_mean is None else f"; the mean of nine is then {scored.safe_mean:.2f}"
        yield f"NaN stands where the official code gives NaN; scores.json has 0 in its place as safe value{safe}."
    if scored.mean is None:
        yield "Not all nine sets, so there is no mean."


def write_board(out: Path, board: Board, table: WordTable | None) -> None:
    """All files of a run; scores.json last."""
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


def say_board(console: Console, out: Path, board: Board) -> None:
    """The scores, their marks and the files on the terminal."""
    bounds = board.interval_cells()
    for name, score in board.score_cells().items():
        interval = f"  (95 % {bounds[name]})" if name in bounds else ""
        console.print(f"{name:<12} {score:>6}{interval}", highlight=False, markup=False)
    for mark in board.marks:
        console.print(f"note: {mark}", highlight=False, markup=False, soft_wrap=True)
    files = [str(out / name) for name in ("scores.json", "scores.md", "report.html")]
    console.print("\n".join(files), highlight=False, soft_wrap=True)


def _extraction_marks(options: RunOptions, facts: Mapping[str, Any]) -> Iterator[str]:
    if options.llm is None:
        yield "Labels and polarities were extracted by fixed rules, not by a language model (--no-llm)."
        return
    if facts["prompts"] != "official":
        whose = "the project's own wording" if facts["prompts"] == "own" else "a file's wording"
        yield f"The extraction prompts are in {whose}, not the official one."
    if OFFICIAL_MODEL.lower() not in options.llm.name.lower():
        yield f"The extraction model is {options.llm.name}, officially {OFFICIAL_MODEL}."
    if options.llm.sampling != OFFICIAL_SAMPLING:
        yield "The extraction model samples with other settings than officially."
    if options.passed == "answer":
        yield "Step A read what stands inside <answer>; officially it reads the whole reply."


def _system(model: str) -> str:
    parts = Path(model).resolve().parts
    return parts[-1] if parts[-1] not in ("model", "student") or len(parts) < 2 else "/".join(parts[-2:])


def _inputs(scored: Scored) -> str:
    """What the question shows, in the notation of the papers: A+V+T."""
    paths = [sample.inputs.paths for one in scored.sets for sample in one.prepared.samples[:1]]
    letters = [
        letter
        for letter, there in (("A", any(p.audios for p in paths)), ("V", any(p.videos for p in paths)))
        if there
    ]
    return "+".join([*letters, "T"])
