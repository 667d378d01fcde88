"""Checkpoints that are whole or not there: written aside, hashed, flushed, renamed, verified.

    checkpoints/.step_000100.tmp/     being written by the learner ranks and the teacher
        model/                        Hugging Face layout
        optimizer/                    one file for each rank
        teacher/                      float32 weights of the moving average
        state.json                    CheckpointState
        manifest.json                 size and sha256 of every other file
    checkpoints/step_000100/          the same folder, renamed when all of it is on the disk

A kill at any point leaves the older checkpoints untouched: names with a leading dot are never read,
and a folder is renamed to one before it is deleted.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from omniopsd.durable import sync_path, sync_tree

FORMAT = 1
MANIFEST = "manifest.json"
STATE = "state.json"
HASH_THREADS = 4  # hashlib releases the lock: four streams keep up with one fast disk


class CheckpointError(ValueError):
    """A checkpoint that cannot be written, or none that can be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointState:
    """What the driver needs to go on after `step`; JSON values only.

    `config_digest` is `omniopsd.run_folder.config_digest` of the run that saves.
    """

    step: int
    policy_version: int
    data_cursor: Mapping[str, Any]
    rng: Mapping[str, Any]
    refresh: Mapping[str, Any]
    config_digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A verified checkpoint on the disk."""

    path: Path
    state: CheckpointState


class CheckpointStore:
    """The checkpoints of one run; the newest `keep` stay.

    `note` is told, in one sentence, when a damaged checkpoint is passed over. `boundary` is called with
    a name after each stage of a save; tests kill the process there.
    """

    def __init__(
        self,
        folder: Path,
        *,
        keep: int,
        note: Callable[[str], None] = print,
        boundary: Callable[[str], None] = lambda name: None,
    ) -> None:
        self.folder = folder
        self.keep = keep
        self.pinned: frozenset[int] = frozenset()
        """Steps that stay beside the newest `keep`."""
        self._note = note
        self._boundary = boundary

    def save(self, state: CheckpointState, write: Callable[[Path], None]) -> Path:
        """Let `write(folder)` put its files into a new folder, then make that the newest checkpoint.

        Returns its path. `write` returns when all ranks have closed their files. Older checkpoints
        go only after this one was read back. Saving a step again is fine when the state is the same.
        Raises CheckpointError when the files cannot be read back, or when the step exists with another state.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._sweep()
        final = self.folder / f"step_{state.step:06d}"
        if self._already_saved(final, state):
            return final
        aside = self._write_aside(final, state, write)
        if final.exists():  # damaged, as `_already_saved` found
            self._remove(final)
        os.rename(aside, final)
        self._boundary("renamed")
        sync_path(self.folder)
        self._boundary("folder flushed")
        if faults := find_faults(final):
            raise CheckpointError(f"{final}: written but not read back: {faults[0]}; check the disk")
        self._boundary("verified")
        self._prune(state.step)
        return final

    def load_latest(self, config_digest: str) -> Checkpoint | None:
        """The newest checkpoint that is whole; None when there is none at all.

        A damaged one is passed over, and `note` says so. Raises CheckpointError when all are damaged, or
        when the newest whole one was saved under settings that decide other than these.
        """
        damaged: list[str] = []
        for path in reversed(self.paths()):
            faults = find_faults(path)
            if not faults:
                return _fitting(path, config_digest)
            damaged.append(f"{path.name}: {faults[0]}")
            self._note(f"{path} is damaged ({faults[0]}); trying the one before it")
        if damaged:
            raise CheckpointError(
                f"{self.folder}: no checkpoint is whole ({'; '.join(damaged)}); restore one from a copy, "
                "or start again under another run.name"
            )
        return None

    def paths(self) -> list[Path]:
        """Folders of finished checkpoints, oldest first; not verified."""
        found = [path for path in self.folder.glob("step_*") if path.name.removeprefix("step_").isdigit()]
        return sorted(found, key=_step)

    def newest_whole(self) -> Path | None:
        """The newest checkpoint whose every file is as its manifest says; older ones are not read."""
        return next((path for path in reversed(self.paths()) if not find_faults(path)), None)

    def _write_aside(self, final: Path, state: CheckpointState, write: Callable[[Path], None]) -> Path:
        aside = self.folder / f".{final.name}.tmp"
        aside.mkdir()
        self._boundary("folder made")
        write(aside)
        self._boundary("files written")
        (aside / STATE).write_bytes(_encode(asdict(state)))
        self._boundary("state written")
        sync_tree(aside)
        self._boundary("files flushed")
        (aside / MANIFEST).write_bytes(_encode(_manifest(aside)))
        self._boundary("manifest written")
        sync_path(aside / MANIFEST)
        sync_path(aside)
        self._boundary("manifest flushed")
        return aside

    def _already_saved(self, final: Path, state: CheckpointState) -> bool:
        if not final.exists() or find_faults(final):
            return False
        if _read_state(final) == json.loads(_encode(asdict(state))):
            return True
        raise CheckpointError(
            f"{final}: step {state.step} is already saved, with another state; resume from it"
        )

    def _prune(self, step: int) -> None:
        older = [path for path in self.paths() if _step(path) <= step and _step(path) not in self.pinned]
        for path in older[: max(0, len(older) - self.keep)]:
            self._remove(path)

    def _remove(self, path: Path) -> None:
        # Renamed first: half a deletion must not look like a damaged checkpoint.
        doomed = self.folder / f".{path.name}.old"
        os.rename(path, doomed)
        self._boundary(f"{path.name} set aside")
        shutil.rmtree(doomed)
        self._boundary(f"{path.name} removed")

    def _sweep(self) -> None:
        for path in (*self.folder.glob(".step_*.tmp"), *self.folder.glob(".step_*.old")):
            shutil.rmtree(path)


def find_faults(path: Path) -> list[str]:
    """What is wrong with a checkpoint folder, one phrase for each fault; empty when it is whole.

    Reads every byte of every file.
    """
    try:
        raw = (path / MANIFEST).read_bytes()
        manifest = json.loads(raw)
        # One spelling only: a flipped byte anywhere in the manifest shows.
        if raw != _encode(manifest) or manifest["digest"] != _digest(manifest["files"]):
            return [f"{MANIFEST} was changed"]
        entries = {entry["path"]: entry for entry in manifest["files"]}
    except FileNotFoundError:
        return [f"no {MANIFEST}"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [f"{MANIFEST} cannot be read ({error})"]
    if manifest.get("format") != FORMAT:
        return [f"{MANIFEST} has format {manifest.get('format')!r}, this program reads {FORMAT}"]
    with ThreadPoolExecutor(HASH_THREADS) as threads:
        found = threads.map(lambda entry: _file_fault(path, entry), entries.values())
        return [fault for fault in found if fault]


def _file_fault(folder: Path, entry: dict[str, Any]) -> str | None:
    path = folder / entry["path"]
    try:
        size = path.stat().st_size
        if size != entry["bytes"]:
            return f"{entry['path']} has {size} bytes, should have {entry['bytes']}"
        if _sha256(path) != entry["sha256"]:
            return f"{entry['path']} has other content than was written"
    except OSError as error:
        return f"{entry['path']} cannot be read ({error.strerror})"
    return None


def _manifest(folder: Path) -> dict[str, Any]:
    paths = sorted(path for path in folder.rglob("*") if not path.is_dir() or path.is_symlink())
    if linked := [path.name for path in paths if path.is_symlink()]:
        raise CheckpointError(
            f"{folder}: {linked[0]} is a symbolic link; a checkpoint holds files of its own"
        )
    with ThreadPoolExecutor(HASH_THREADS) as threads:
        digests = list(threads.map(_sha256, paths))
    files = [
        {"path": path.relative_to(folder).as_posix(), "bytes": path.stat().st_size, "sha256": digest}
        for path, digest in zip(paths, digests, strict=True)
    ]
    return {"format": FORMAT, "files": files, "digest": _digest(files)}


def _fitting(path: Path, config_digest: str) -> Checkpoint:
    content = _read_state(path)
    expected = {field.name for field in fields(CheckpointState)}
    if set(content) != expected:
        raise CheckpointError(
            f"{path / STATE}: has the keys {sorted(content)}, expected {sorted(expected)}; "
            "resume with the version of the program that wrote it"
        )
    state = CheckpointState(**content)
    if state.config_digest != config_digest:
        raise CheckpointError(
            f"{path}: saved under settings with digest {state.config_digest}, this run has {config_digest}; "
            "resume with the config.yaml of that run, or choose another run.name"
        )
    return Checkpoint(path=path, state=state)


def _read_state(path: Path) -> dict[str, Any]:
    try:
        content = json.loads((path / STATE).read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path / STATE}: cannot be read ({error}); delete this checkpoint") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path / STATE}: holds a {type(content).__name__}, expected an object")
    return content


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step_"))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(files: Any) -> str:
    return hashlib.sha256(_encode(files)).hexdigest()


def _encode(content: Any) -> bytes:
    return (json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()
