"""Every checksum and every key of a cache, computed anew. Changes nothing and needs no lock."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from rationale_cache import manifest as manifests
from rationale_cache import wal
from rationale_cache.errors import CacheDamaged
from rationale_cache.manifest import Manifest, SegmentEntry
from rationale_cache.rowfile import RowFile
from rationale_cache.segment import parquet_path, read_segment, row_path, sound_records

Progress = Callable[[SegmentEntry], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentCheck:
    """What was found of one segment; None where a file is sound."""

    entry: SegmentEntry
    parquet_fault: str | None
    row_fault: str | None

    @property
    def faults(self) -> tuple[str, ...]:
        """The sentences, none for a sound segment."""
        return tuple(fault for fault in (self.parquet_fault, self.row_fault) if fault is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheCheck:
    """What was found of a cache: one sentence for each fault; `replies` are raw ones without a record."""

    snapshot: int
    records: int
    segments: tuple[SegmentCheck, ...]
    faults: tuple[str, ...]
    replies: int

    @property
    def sound(self) -> bool:
        """Whether every checksum and every key held."""
        return not self.faults


def verify(cache: Path, progress: Progress | None = None) -> CacheCheck:
    """Check the newest snapshot and the log. Raises CacheMissing; damage is a result, not an error."""
    try:
        manifest = manifests.newest(cache)
    except CacheDamaged as error:
        return CacheCheck(snapshot=0, records=0, segments=(), faults=(str(error),), replies=0)
    checks = check_segments(cache, manifest, progress)
    faults = [fault for check in checks for fault in check.faults]
    if faults and manifests.newest(cache) != manifest:  # a writer has moved on and removed what we read
        return verify(cache, progress)
    replies, log_faults = _check_log(cache)
    return CacheCheck(
        snapshot=manifest.snapshot,
        records=manifest.records,
        segments=checks,
        faults=(*faults, *log_faults),
        replies=replies,
    )


def check_segments(
    cache: Path, manifest: Manifest, progress: Progress | None = None
) -> tuple[SegmentCheck, ...]:
    """Check each segment's two files: file, page, index and row checksums, and every key."""
    checks, seen = [], set[str]()
    for entry in manifest.segments:
        table, parquet_fault = _check_parquet(cache, entry, seen)
        row_fault = _check_rows(cache, entry, table)
        checks.append(SegmentCheck(entry=entry, parquet_fault=parquet_fault, row_fault=row_fault))
        if progress is not None:
            progress(entry)
    return tuple(checks)


def open_rows(cache: Path, entry: SegmentEntry) -> RowFile:
    """A segment's row file, its index verified. Raises CacheDamaged, also when it is not there."""
    try:
        return RowFile(
            row_path(cache, entry.name),
            index_bytes=entry.index_bytes,
            index_sha256=entry.index_sha256,
            size=entry.row_bytes,
        )
    except OSError as error:
        path = row_path(cache, entry.name)
        raise CacheDamaged(f"{path}: cannot be read ({error.strerror})") from error


def _check_parquet(cache: Path, entry: SegmentEntry, seen: set[str]) -> tuple[pa.Table | None, str | None]:
    """The table when it is sound, or what is wrong; adds its keys to `seen`."""
    path = parquet_path(cache, entry.name)
    try:
        table = read_segment(cache, entry)
        keys = {record.key for record in sound_records(path, table)}
    except CacheDamaged as error:
        return None, str(error)
    if not len(keys) == table.num_rows == entry.rows:
        return None, f"{path}: {table.num_rows} rows with {len(keys)} keys, the manifest says {entry.rows}"
    if double := keys & seen:  # a look-up would find only one of the rows
        return None, f"{path}: {len(double)} keys are in another segment too, such as {min(double)}"
    seen |= keys
    return table, None


def _check_rows(cache: Path, entry: SegmentEntry, table: pa.Table | None) -> str | None:
    path = row_path(cache, entry.name)
    try:
        rows = open_rows(cache, entry)
    except CacheDamaged as error:
        return str(error)
    try:
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != entry.row_sha256:
                return f"{path}: the file does not have the checksum in the manifest"
        if (
            table is not None
            and [rows.key(row).hex() for row in range(rows.rows)] != table["key"].to_pylist()
        ):
            return f"{path}: its keys are not those of its segment"
    finally:
        rows.close()
    return None


def _check_log(cache: Path) -> tuple[int, list[str]]:
    path = cache / wal.NAME
    if not path.exists():
        return 0, []
    replies, _, broken = wal.scan(path.read_bytes())
    return len(replies), [f"{path}: bytes {start} to {end} are damaged" for start, end in broken]
