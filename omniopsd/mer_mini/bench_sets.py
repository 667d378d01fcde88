"""`omniopsd data mer-mini-bench`: nine miniature sets in the folder layout of MER-UniBench.

The loader, the scorer and the report read them exactly as they read the real sets. Scores on them tell whether the
plumbing works and evidence is used; they are not MER-UniBench scores.
"""

from __future__ import annotations

import csv
import json
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from omniopsd.bench.datasets import NINE, BenchSet
from omniopsd.mer_mini.bench_plan import CARRIERS, MiniClip, plan_set
from omniopsd.mer_mini.clip import Clip, make_clip
from omniopsd.mer_mini.emotions import PART_OF, emotion_of_cue
from omniopsd.mer_mini.mux import write_mp4
from omniopsd.mer_mini.voice import RATE
from omniopsd.mer_mini.write import MerMiniError

EVIDENCE = "mini-evidence.jsonl"
MARK = "mini.json"
VERSION = 1
SPLITS = ("MELD", "MOSI", "MOSEI", "SIMS", "SIMSv2")
"""Sets whose official label file has a `val_corpus`; IEMOCAP's validation clips are those of session 4."""


def write_mini_bench(out: str | Path, clips: int, val_clips: int, seed: int, *, faces: bool = False) -> Path:
    """Write the nine sets below `out`: `clips` scored clips each, `val_clips` more where there is a validation part.

    The same arguments give the same labels and arrays. Raises MerMiniError when `out` holds anything else.
    """
    folder = Path(out)
    arguments = {"clips": clips, "val_clips": val_clips, "seed": seed, "faces": faces}
    mark = {"generator": "mer-mini-bench", "version": VERSION, "arguments": arguments}
    if _is_done(folder, mark):
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    _write_mark(folder, mark, done=False)
    for bench_set in NINE:
        _write_set(folder / bench_set.layout.folder, bench_set, arguments)
    _write_mark(folder, mark, done=True)
    return folder


def _write_set(folder: Path, bench_set: BenchSet, arguments: dict[str, Any]) -> None:
    seed, faces = arguments["seed"], arguments["faces"]
    parts = {"test": plan_set(bench_set, arguments["clips"], seed, "test")}
    if bench_set.name in (*SPLITS, "IEMOCAP"):
        parts["val"] = plan_set(bench_set, arguments["val_clips"], seed, "val")
    folder.mkdir(parents=True, exist_ok=True)
    evidence, subtitles = [], []
    for planned in (one for part in parts.values() for one in part):
        clip = make_clip(planned.plan, seed, "test", 0.0)
        _write_clip(folder, bench_set, planned.name, clip, faces=faces)
        evidence.append(_evidence_row(planned, clip))
        subtitles.append((planned.name, clip.subtitle))
    (folder / EVIDENCE).write_text("".join(json.dumps(row) + "\n" for row in evidence))
    _write_subtitles(folder, bench_set, subtitles)
    _write_labels(folder, bench_set, parts)


def _write_clip(folder: Path, bench_set: BenchSet, name: str, clip: Clip, *, faces: bool) -> None:
    layout = bench_set.layout
    video, audio = folder / layout.video, folder / layout.audio
    for made in (video, audio):
        made.mkdir(exist_ok=True)
    write_mp4(video / f"{name}{layout.video_suffixes[-1]}", clip.frames, clip.audio)
    with wave.open(str(audio / f"{name}.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((clip.audio * 32768).astype("<i2").tobytes())
    if faces:
        (folder / layout.face).mkdir(exist_ok=True)
        np.save(folder / layout.face / f"{name}.npy", clip.frames)


def _evidence_row(planned: MiniClip, clip: Clip) -> dict[str, Any]:
    """What each modality shows by itself, and the cues planted: for readers and audits, never part of a sample."""
    cues = {item.modality: item.cue for item in clip.evidence}
    shown = {carrier: emotion_of_cue(PART_OF[carrier], cues[carrier]) for carrier in CARRIERS}
    return {
        "name": planned.name,
        "condition": planned.plan.condition,
        "carrier": planned.plan.carrier,
        "emotion": planned.plan.emotion,
        "shown": shown,
        "cues": [cues[carrier] for carrier in CARRIERS if shown[carrier] is not None],
    }


def _write_subtitles(folder: Path, bench_set: BenchSet, rows: Sequence[tuple[str, str]]) -> None:
    column = bench_set.layout.subtitle_column
    columns = ["name", "sentence"] if column == "sentence" else ["name", "chinese", "english"]
    with (folder / bench_set.layout.subtitles).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows({"name": name, column: text} for name, text in rows)


def _write_labels(folder: Path, bench_set: BenchSet, parts: dict[str, list[MiniClip]]) -> None:
    path = folder / bench_set.layout.labels
    if bench_set.split is None:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["name", "openset"])
            writer.writerows((one.name, one.emo) for one in parts["test"])
        return
    corpora = {part: {one.name: _entry(bench_set, one) for one in clips} for part, clips in parts.items()}
    if bench_set.name in SPLITS:
        named = {"train_corpus": {}, "val_corpus": corpora["val"], bench_set.split: corpora["test"]}
    elif bench_set.name == "IEMOCAP":
        named = {bench_set.split: {**corpora["val"], **corpora["test"]}}
    else:
        named = {"train_corpus": {}, bench_set.split: corpora["test"]}
    arrays: dict[str, Any] = {name: np.array(corpus, dtype=object) for name, corpus in named.items()}
    np.savez_compressed(path, **arrays)


def _entry(bench_set: BenchSet, clip: MiniClip) -> dict[str, str | int | float]:
    if bench_set.metric == "waf":
        return {"emo": 0, "val": clip.val}
    return {"emo": bench_set.classes.index(clip.emo) if bench_set.integer_labels else clip.emo, "val": -10}


def _is_done(folder: Path, mark: dict[str, Any]) -> bool:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        found = json.loads((folder / MARK).read_text())
    except (OSError, ValueError):
        found = {}
    if {key: found.get(key) for key in mark} != mark:
        was = json.dumps(found.get("arguments")) if found else "no miniature sets"
        raise MerMiniError(
            f"{folder}: not empty, and holds {was}, not {json.dumps(mark['arguments'])}; "
            "choose another --out folder or delete this one"
        )
    return bool(found.get("done"))


def _write_mark(folder: Path, mark: dict[str, Any], *, done: bool) -> None:
    draft = folder / (MARK + ".part")
    draft.write_text(json.dumps({**mark, "done": done}, indent=2) + "\n")
    draft.replace(folder / MARK)
