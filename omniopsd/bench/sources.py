"""A user's copy of one set: its files found and its rows read, every fault named, nothing decoded yet."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from omniopsd.bench.datasets import BenchSet
from omniopsd.bench.labels import Gold, read_labels

FOLDER_ALIASES = {
    "mer2023-dataset-process": ("mer2023-process",),
    "mer2024-dataset-process": ("mer2024-process",),
}
FILE_ALIASES = {"transcription_merge.csv": ("transcription-merge.csv",)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipFiles:
    """Where one clip's media lie; None: not there (a fault says so)."""

    name: str
    video: Path | None
    audio: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One set as it lies on the disk. `clip_faults` by clip: media that are not there."""

    bench_set: BenchSet
    folder: Path
    gold: Mapping[str, Gold]
    subtitles: Mapping[str, str]
    clips: tuple[ClipFiles, ...]
    faults: tuple[str, ...]
    clip_faults: Mapping[str, tuple[str, ...]]


def read_source(bench_set: BenchSet, root: Path) -> Source:
    """Look at the copy of one set below `root`; what is wrong stands in the faults, nothing is raised."""
    folder = _first(root, (bench_set.layout.folder, *FOLDER_ALIASES.get(bench_set.layout.folder, ())))
    faults: list[str] = []
    clip_faults: dict[str, tuple[str, ...]] = {}
    gold: Mapping[str, Gold] = {}
    subtitles: Mapping[str, str] = {}
    clips: tuple[ClipFiles, ...] = ()
    if not folder.is_dir():
        faults.append(f"{bench_set.name}: no folder {folder}; put the set there, or leave it out with --sets")
    else:
        gold = _gold(bench_set, folder, faults)
        subtitles = _subtitles(bench_set, folder, gold, faults)
        clips = _clips(bench_set, folder, gold, faults, clip_faults)
    return Source(
        bench_set=bench_set, folder=folder, gold=gold, subtitles=subtitles, clips=clips,
        faults=tuple(faults), clip_faults=clip_faults,
    )  # fmt: skip


def _first(root: Path, names: tuple[str, ...]) -> Path:
    """The first that exists; the official name when none does."""
    return next((root / name for name in names if (root / name).exists()), root / names[0])


def _gold(bench_set: BenchSet, folder: Path, faults: list[str]) -> Mapping[str, Gold]:
    path = folder / bench_set.layout.labels
    if not path.is_file():
        faults.append(f"{bench_set.name}: no label file {path}; copy it from the official release")
        return {}
    try:
        return read_labels(bench_set, path)
    except ValueError as error:
        faults += [f"{bench_set.name}: {line.strip()}" for line in str(error).splitlines()]
        return {}


def _subtitles(
    bench_set: BenchSet, folder: Path, gold: Mapping[str, Gold], faults: list[str]
) -> Mapping[str, str]:
    name = bench_set.layout.subtitles
    path = _first(folder, (name, *FILE_ALIASES.get(name, ())))
    if not path.is_file():
        faults.append(f"{bench_set.name}: no subtitle file {path}; copy it from the official release")
        return {}
    try:
        texts = _rows(path, bench_set.layout.subtitle_column, faults, bench_set.name)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        faults.append(f"{bench_set.name}: {path} cannot be read ({error}); save it as a CSV in UTF-8")
        return {}
    if texts is None:
        return {}
    absent = [clip for clip in gold if clip not in texts]
    faults += [f"{bench_set.name}: {path}: no row for clip {clip}" for clip in absent]
    return texts


def _rows(path: Path, column: str, faults: list[str], set_name: str) -> dict[str, str] | None:
    """Clip name -> subtitle; an empty cell is an empty text, as the official loader has it."""
    texts: dict[str, str] = {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        columns = [name.strip() for name in reader.fieldnames or []]
        if missing := [name for name in ("name", column) if name not in columns]:
            faults.append(f"{set_name}: {path} has the columns {columns}, not {', '.join(missing)}")
            return None
        reader.fieldnames = columns
        for row in reader:
            clip = (row["name"] or "").strip()
            if clip in texts:
                faults.append(f"{set_name}: {path}:{reader.line_num}: clip {clip} has a row already")
            texts[clip] = " ".join((row[column] or "").split())
    return texts


def _clips(
    bench_set: BenchSet,
    folder: Path,
    gold: Mapping[str, Gold],
    faults: list[str],
    clip_faults: dict[str, tuple[str, ...]],
) -> tuple[ClipFiles, ...]:
    layout = bench_set.layout
    places = {layout.video: layout.video_suffixes, layout.audio: (".wav",)}
    there: dict[str, set[str]] = {}
    for place in places:
        if not (folder / place).is_dir():
            faults.append(f"{bench_set.name}: no folder {folder / place}; copy it from the official release")
        else:
            there[place] = {path.name for path in (folder / place).iterdir()}
    clips = []
    for name in gold:
        found: dict[str, Path | None] = {}
        missing = []
        for place, suffixes in places.items():
            files = [f"{name}{suffix}" for suffix in suffixes]
            held = next((file for file in files if file in there.get(place, ())), None)
            found[place] = folder / place / held if held else None
            if held is None and place in there:
                missing.append(
                    f"{bench_set.name}: clip {name}: no file {folder / place}/{' or '.join(files)}"
                )
        if missing:
            clip_faults[name] = tuple(missing)
        clips.append(ClipFiles(name=name, video=found[layout.video], audio=found[layout.audio]))
    return tuple(clips)
