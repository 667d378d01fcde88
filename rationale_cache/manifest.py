"""The manifest of a snapshot: which segments there are, and every checksum. One JSON file for each commit.

    snapshots/00000012.json   {"format": ..., "version": 1, "snapshot": 12, "segments": [...], "sha256": ...}

The newest number is the cache. The one before it stays until the next commit, with its files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rationale_cache.disk import write_file
from rationale_cache.errors import CacheDamaged, CacheError, CacheMissing
from rationale_cache.keys import text_json
from rationale_cache.types import RecordError

FORMAT, VERSION = "omniopsd-rationale-cache", 1
FOLDER, SEGMENTS = "snapshots", "segments"


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentEntry:
    """One segment as the manifest has it; sizes in bytes. The index is the row file's first part."""

    name: str
    rows: int
    parquet_bytes: int
    parquet_sha256: str
    row_bytes: int
    row_sha256: str
    index_bytes: int
    index_sha256: str

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if type(value).__name__ != field.type or (isinstance(value, int) and value < 0):
                raise RecordError(f"segment {self.name!r}: {field.name} is {value!r}")
        if Path(self.name).name != self.name or self.name.startswith("."):
            raise RecordError(f"segment {self.name!r}: not a plain file name")


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One snapshot. `snapshot` counts commits from 1; 0 is a cache without any."""

    snapshot: int
    made_at: str
    segments: tuple[SegmentEntry, ...]

    @property
    def records(self) -> int:
        """Rows of all segments."""
        return sum(segment.rows for segment in self.segments)


EMPTY = Manifest(snapshot=0, made_at="", segments=())


def manifest_path(cache: Path, snapshot: int) -> Path:
    """Where the manifest of a snapshot is."""
    return cache / FOLDER / f"{snapshot:08d}.json"


def snapshots(cache: Path) -> list[int]:
    """The numbers of the manifests that are there, ascending. Raises CacheMissing."""
    try:
        names = [path.name for path in (cache / FOLDER).iterdir()]
    except OSError as error:
        raise CacheMissing(f"{cache}: no rationale cache here ({error.strerror}); check the path") from error
    return sorted(int(name[:-5]) for name in names if name.endswith(".json") and name[:-5].isdecimal())


def newest(cache: Path) -> Manifest:
    """The current manifest. Raises CacheMissing, CacheDamaged."""
    while True:
        numbers = snapshots(cache)
        if not numbers and any((cache / SEGMENTS).glob("*.parquet")):
            raise CacheDamaged(
                f"{cache}: segments without any manifest: run `omniopsd rationales verify {cache}`"
            )
        if not numbers:
            return EMPTY
        try:
            return read_manifest(cache, numbers[-1])
        except FileNotFoundError:  # two commits went by between the list and the file
            continue


def read_manifest(cache: Path, snapshot: int) -> Manifest:
    """One manifest, verified. Raises CacheDamaged, CacheError (a newer format), FileNotFoundError."""
    path = manifest_path(cache, snapshot)
    try:
        content = json.loads(path.read_bytes())
        checksum = content.pop("sha256")
        if checksum != _checksum(content) or content["snapshot"] != snapshot:
            raise ValueError("its checksum does not hold")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CacheDamaged(
            f"{path}: the manifest is damaged ({error}): run `omniopsd rationales verify {cache}`"
        ) from error
    return _parsed(path, content)


def write_manifest(cache: Path, snapshot: int, segments: Sequence[SegmentEntry]) -> Manifest:
    """Make a new snapshot current, atomically. Raises CacheFull."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    manifest = Manifest(snapshot=snapshot, made_at=now, segments=tuple(segments))
    content: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "snapshot": snapshot,
        "made_at": now,
        "records": manifest.records,
        "segments": [asdict(segment) for segment in segments],
    }
    content["sha256"] = _checksum(content)
    write_file(manifest_path(cache, snapshot), (json.dumps(content, indent=1) + "\n").encode())
    return manifest


def _parsed(path: Path, content: dict[str, Any]) -> Manifest:
    if (content.get("format"), content.get("version")) != (FORMAT, VERSION):
        raise CacheError(
            f"{path}: format {content.get('format')!r} version {content.get('version')!r}; "
            f"this program reads {FORMAT!r} version {VERSION}: use the program that wrote it"
        )
    segments = tuple(SegmentEntry(**entry) for entry in content["segments"])
    return Manifest(snapshot=content["snapshot"], made_at=content["made_at"], segments=segments)


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(text_json(content).encode()).hexdigest()
