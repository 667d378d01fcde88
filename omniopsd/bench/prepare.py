"""`omniopsd bench prepare`: check a user's copies, decode every clip once, write samples that all commands read.

Everything that is wrong with all sets is told at once. What was decoded without a fault is remembered, so a second
run after a repair looks only at what changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from omniopsd.bench.datasets import BenchSet
from omniopsd.bench.journal import Journal, content_key
from omniopsd.bench.labels import Gold
from omniopsd.bench.lists import normal_labels
from omniopsd.bench.own_words import own_table
from omniopsd.bench.pace import Pace
from omniopsd.bench.prepared import EVIDENCE, GOLD, MANIFEST, SAMPLES, Benchmark, file_sha256, write_manifest
from omniopsd.bench.questions import Question, default_question, read_question
from omniopsd.bench.sources import ClipFiles, Source, read_source
from omniopsd.bench.splits import Split, chosen_sets
from omniopsd.bench.words import read_words
from omniopsd.durable import write_durably
from omniopsd.mer_mini.bench_sets import EVIDENCE as MINI_EVIDENCE
from rollout.config import MediaConfig
from rollout.media import MediaPaths, decode_media
from rollout.messages import parse_messages

MOST_SHOWN = 40
PROBLEMS = "problems.txt"


class PrepareError(ValueError):
    """Copies of the sets that cannot be used as they are; one line for each fault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareOptions:
    """What is asked for. `allow_broken`: clips without usable media are left out and counted as wrong."""

    benchmark: Benchmark
    root: Path
    out: Path
    wheel: str | None = None
    words_version: str = "affectgpt"
    sets: Sequence[str] | None = None
    split: Split = "test"
    question: str | None = None
    allow_broken: bool = False
    workers: int | None = None


def prepare(options: PrepareOptions, console: Console | None = None) -> None:
    """Check, decode and write. Raises PrepareError with every fault of every set."""
    console = console or Console()
    sets = chosen_sets(options.sets, options.split)
    question = read_question(options.question) if options.question else default_question(options.benchmark)
    words = _words(options)
    if not options.root.is_dir():
        raise PrepareError(
            f"--root {options.root}: no such folder; give the one that holds the sets' folders"
        )
    sources = [read_source(one, options.root) for one in sets]
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / MANIFEST).unlink(missing_ok=True)  # unfinished from here on
    broken = _media_faults(options, sources, console)
    fatal = [fault for source in sources for fault in source.faults]
    fatal += (
        []
        if options.allow_broken
        else [fault for clips in broken.values() for f in clips.values() for fault in f]
    )
    _raise(options.out, fatal)
    held = {s.bench_set.name: _write_set(options.out, s, question, broken[s.bench_set.name]) for s in sources}
    write_manifest(
        options.out,
        {
            "benchmark": options.benchmark,
            "split": options.split,
            "root": str(options.root.resolve()),
            "words": words,
            "question": {"user": question.user, "system": question.system, "sha256": _sha256(question)},
            "sets": held,
        },
    )
    _say(console, options, sources, held)


def _words(options: PrepareOptions) -> dict[str, Any]:
    if options.benchmark == "mer-mini" and options.wheel is None:
        return {"folder": None, "version": "own", "sha256": own_table().sha256}
    if options.wheel is None:
        return {"folder": None, "version": options.words_version, "sha256": None}
    table = read_words(options.wheel, options.words_version)
    return {"folder": str(Path(options.wheel).resolve()), "version": table.version, "sha256": table.sha256}


def _raise(out: Path, faults: list[str]) -> None:
    path = out / PROBLEMS
    path.unlink(missing_ok=True)
    if not faults:
        return
    write_durably(path, ("\n".join(faults) + "\n").encode())
    head = f"{len(faults)} fault{'s' if len(faults) > 1 else ''}; nothing was written but {path}, which has them all:"
    raise PrepareError("\n".join([head, *faults[:MOST_SHOWN]]))


# --- media


def _media_faults(
    options: PrepareOptions, sources: Sequence[Source], console: Console
) -> dict[str, dict[str, tuple[str, ...]]]:
    """Faults by set and clip: media that are missing, or that do not decode."""
    found = {source.bench_set.name: dict(source.clip_faults) for source in sources}
    jobs = [
        (source, clip) for source in sources for clip in source.clips if clip.name not in source.clip_faults
        and clip.video is not None and clip.audio is not None
    ]  # fmt: skip
    with (
        Journal(options.out / "checked.jsonl") as journal,
        ThreadPoolExecutor(options.workers or os.cpu_count() or 1) as threads,
    ):
        keys = [_link(options.out / source.bench_set.name / "media", clip) for source, clip in jobs]
        fresh = [(job, key) for job, key in zip(jobs, keys, strict=True) if journal.get(key) is None]
        pace = Pace("clips decoded", len(jobs), before=len(jobs) - len(fresh), console=console)
        checked = [threads.submit(_check_clip, options.out, source, clip) for (source, clip), _ in fresh]
        try:
            for ((source, clip), key), future in zip(fresh, checked, strict=True):
                if fault := future.result():
                    found[source.bench_set.name][clip.name] = (fault,)
                else:
                    journal.add([(key, "decoded", {"clip": f"{source.bench_set.name}/{clip.name}"})])
                pace.add()
        finally:
            threads.shutdown(cancel_futures=True)  # an interrupt does not wait for thousands of clips
    return found


def _link(folder: Path, clip: ClipFiles) -> str:
    """Put the clip's files into the prepared folder; a key of their contents."""
    folder.mkdir(parents=True, exist_ok=True)
    facts = []
    for path in (clip.video, clip.audio):
        assert path is not None
        source, target = path.resolve(), folder / path.name
        stat = source.stat()
        if not target.exists() or not _same(source, target):
            target.unlink(missing_ok=True)
            try:
                os.link(source, target)
            except OSError:  # another file system
                shutil.copy2(source, target)
        facts.append([path.name, stat.st_size, stat.st_mtime_ns])
    return content_key({"files": facts})


def _same(source: Path, target: Path) -> bool:
    a, b = source.stat(), target.stat()
    return (a.st_size, a.st_mtime_ns) == (b.st_size, b.st_mtime_ns)


def _check_clip(out: Path, source: Source, clip: ClipFiles) -> str | None:
    """Decode both media as a run will; the fault in a sentence, or None."""
    name = source.bench_set.name
    messages = parse_messages([{"role": "user", "content": "<video><audio>"}], where=clip.name)
    paths = MediaPaths(videos=(_media(clip, "video"),), audios=(_media(clip, "audio"),), root=str(out / name))
    try:
        decode_media(messages, paths, False, MediaConfig(), where=f"{name}: clip {clip.name}")
    except ValueError as error:
        return str(error)
    return None


def _media(clip: ClipFiles, kind: str) -> str:
    path = clip.video if kind == "video" else clip.audio
    assert path is not None
    return f"media/{path.name}"


# --- writing


def _write_set(
    out: Path, source: Source, question: Question, broken: dict[str, tuple[str, ...]]
) -> dict[str, Any]:
    name, folder = source.bench_set.name, out / source.bench_set.name
    rows = [
        sample_row(source.bench_set, clip, source.subtitles[clip.name], source.gold[clip.name], question)
        for clip in source.clips
        if clip.name not in broken
    ]
    if not rows:
        raise PrepareError(f"{name}: no clip has usable media; leave the set out with --sets")
    write_durably(folder / SAMPLES, "".join(json.dumps(row) + "\n" for row in rows).encode())
    write_durably(folder / GOLD, (json.dumps(dict(source.gold), indent=0) + "\n").encode())
    evidence = source.folder / MINI_EVIDENCE
    if evidence.is_file():
        shutil.copyfile(evidence, folder / EVIDENCE)
    return {
        "clips": len(source.gold),
        "official_clips": source.bench_set.clips,
        "broken": sorted(broken),
        "sha256": {file: file_sha256(folder / file) for file in (SAMPLES, GOLD)},
    }


def sample_row(
    bench_set: BenchSet, clip: ClipFiles, subtitle: str, gold: Gold, question: Question
) -> dict[str, Any]:
    """One clip in the project's sample form; `labels` are the gold ones, a sentiment's by its sign."""
    kinds = question.kinds
    return {
        "id": f"{bench_set.name}/{clip.name}",
        "messages": question.messages(subtitle),
        "videos": [_media(clip, "video")] if "video" in kinds else [],
        "audios": [_media(clip, "audio")] if "audio" in kinds else [],
        "labels": list(_labels(gold)),
        "dataset": bench_set.name,
    }


def _labels(gold: Gold) -> Iterator[str]:
    if isinstance(gold, str):
        yield from normal_labels(gold)
    else:
        yield "positive" if gold > 0 else "negative" if gold < 0 else "neutral"


def _sha256(question: Question) -> str:
    return hashlib.sha256(f"{question.system}\0{question.user}".encode()).hexdigest()


def _say(
    console: Console, options: PrepareOptions, sources: Sequence[Source], held: dict[str, dict[str, Any]]
) -> None:
    for source in sources:
        facts = held[source.bench_set.name]
        said = f"{source.bench_set.name}: {facts['clips']} clips"
        if (
            options.benchmark == "mer-unibench"
            and options.split == "test"
            and facts["clips"] != source.bench_set.clips
        ):
            said += f"; the official set has {source.bench_set.clips}, so this is not the official set"
        if facts["broken"]:
            said += f"; {len(facts['broken'])} without usable media, counted as wrong: {', '.join(facts['broken'])}"
        console.print(said, highlight=False, markup=False, soft_wrap=True)
    console.print(f"{options.out}: ready for `omniopsd bench run {options.benchmark}`", highlight=False)
