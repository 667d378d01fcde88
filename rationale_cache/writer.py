"""Writing a cache: one process at a time, raw replies ahead, then rows in atomic commits."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa

from rationale_cache import manifest as manifests
from rationale_cache import segment as segments
from rationale_cache.disk import TEMPORARY, make_folder, remove, told
from rationale_cache.errors import CacheError, KeyConflict
from rationale_cache.keys import key_of
from rationale_cache.lock import WriterLock
from rationale_cache.manifest import Manifest, SegmentEntry
from rationale_cache.reader import CacheReader
from rationale_cache.schema import to_table
from rationale_cache.types import RationaleRecord, RecordError
from rationale_cache.wal import RawReply, ReplyLog

LOCK = "LOCK"
MERGE_AT = 8
"""Segments of about one size that the next commit makes into one: there are never more than a few dozen."""


class CacheWriter:
    """The single writer of a cache; makes the folder when there is none. Thread-safe.

        with CacheWriter(path) as cache:            # CacheLocked names the process that writes
            for reply in cache.unsettled(): ...     # paid for before a crash, never parsed into a row
            cache.log_reply(reply)                  # on the disk when this returns
            cache.put(record)                       # seen by this writer at once
            cache.commit()                          # seen by every reader, or by none

    Leaving the block without an error commits; with an error, what was put is dropped and its raw
    replies stay in the log, for the next writer's `unsettled`.
    """

    def __init__(self, path: str | Path) -> None:
        """Take the lock and read the log. Raises CacheLocked, CacheDamaged, CacheFull."""
        self.path = Path(path)
        self._guard, self._committing = threading.RLock(), threading.RLock()  # taken in the other order
        self._pending: dict[str, RationaleRecord] = {}
        with contextlib.ExitStack() as undo:
            self._lock = take_lock(self.path)
            undo.callback(self._lock.release)
            make_empty(self.path)
            self._reader = CacheReader(self.path)
            undo.callback(self._reader.close)
            remove_strays(self.path, self._reader.manifest)
            self._log = ReplyLog(self.path)
            self._log.settle({reply.key for reply in self._log.unsettled() if reply.key in self._reader})
            undo.pop_all()

    @property
    def notices(self) -> tuple[str, ...]:
        """What opening had to mend, in sentences for people."""
        return tuple(self._log.notices)

    @property
    def snapshot(self) -> int:
        """The number of the newest commit; 0 before the first."""
        return self._reader.snapshot

    def log_reply(self, *replies: RawReply) -> None:
        """Append raw replies, flushed to the disk when this returns. Raises CacheFull (nothing is half written)."""
        self._log.append(*replies)

    def unsettled(self) -> tuple[RawReply, ...]:
        """Logged replies whose key has no record yet, in the order of arrival."""
        with self._guard:
            return tuple(reply for reply in self._log.unsettled() if reply.key not in self)

    def put(self, record: RationaleRecord) -> bool:
        """Add a record to the next commit; False when its key has this content already.

        Raises RecordError when the key is not that of the request, KeyConflict when the key has other content.
        """
        return self.put_all([record]) == 1

    def put_all(self, records: Iterable[RationaleRecord]) -> int:
        """`put` for many, all or none of them; how many were new."""
        given = list(records)
        for record in given:
            _check_key(record)
        to_table(given)  # what the schema cannot hold is refused here, not at the commit of others
        with self._guard:
            new: dict[str, RationaleRecord] = {}
            for record in given:
                known = new.get(record.key) or self.get(record.key)
                if known is None:
                    new[record.key] = record
                elif _content(known) != _content(record):
                    raise _conflict(known, record)
            self._pending.update(new)
            return len(new)

    def get(self, key: str) -> RationaleRecord | None:
        """The record under a key, committed or just put."""
        with self._guard:
            return self._pending.get(key) or self._reader.get(key)

    def __contains__(self, key: object) -> bool:
        with self._guard:
            return key in self._pending or key in self._reader

    def __len__(self) -> int:
        with self._guard:
            return len(self._pending) + len(self._reader)

    @property
    def pending(self) -> int:
        """Records put and not yet committed."""
        return len(self._pending)

    def commit(self) -> int:
        """Make what was put durable and visible, all or nothing; the number of the snapshot.

        Raises CacheFull: the old snapshot stays, what was put stays pending, and `commit` may be called again.
        """
        with self._committing:
            if self._pending:
                self._replace(to_merge(self._reader.manifest.segments, len(self._pending)))
            return self.snapshot

    def compact(self) -> int:
        """Commit, and merge the segments into as few as there need be; the number of the snapshot."""
        with self._committing:
            parts = [entry for entry in self._reader.manifest.segments if entry.rows < segments.MOST_ROWS]
            if self._pending or len(parts) > 1:
                self._replace(parts)
            return self.snapshot

    def close(self) -> None:
        """Let go of the lock; what was put and not committed is dropped, its raw replies are not."""
        with self._committing, self._guard:
            self._pending.clear()
            self._log.close()
            self._reader.close()
            self._lock.release()

    def __enter__(self) -> CacheWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self.commit()
        finally:
            self.close()

    def _replace(self, parts: Sequence[SegmentEntry]) -> None:
        """One new snapshot in which the pending rows and `parts` are new segments. Others may put meanwhile."""
        self._lock.check()
        with self._guard:
            given = list(self._pending.values())
        tables = [to_table(given), *(segments.read_segment(self.path, entry) for entry in parts)]
        kept = [entry for entry in self._reader.manifest.segments if entry not in parts]
        try:
            write_snapshot(self.path, self.snapshot + 1, kept, pa.concat_tables(tables))
        finally:  # an error after the rename leaves a snapshot that counts
            with self._guard:
                self._reader.refresh()
                done = [record.key for record in given if record.key in self._reader]
                for key in done:
                    del self._pending[key]
        self._log.settle(done)
        remove_strays(self.path, self._reader.manifest)


def take_lock(cache: Path) -> WriterLock:
    """The writer's lock of a cache, whose folder is made when there is none. Raises CacheLocked."""
    make_folder(cache)
    with told(cache / LOCK):
        return WriterLock(cache / LOCK)


def make_empty(cache: Path) -> None:
    """Make what a cache without any commit has; does nothing to one that is there."""
    for name in (manifests.SEGMENTS, manifests.FOLDER):
        make_folder(cache / name)
    if manifests.newest(cache) is manifests.EMPTY:
        manifests.write_manifest(cache, 0, ())


def write_snapshot(cache: Path, snapshot: int, kept: Sequence[SegmentEntry], table: pa.Table) -> Manifest:
    """Write a table's rows as segments and a manifest with them and `kept`. Raises CacheFull."""
    new: tuple[SegmentEntry, ...] = ()
    if table.num_rows:
        new = segments.write_segments(cache, snapshot, table)
    return manifests.write_manifest(cache, snapshot, (*kept, *new))


def to_merge(entries: Sequence[SegmentEntry], rows: int) -> list[SegmentEntry]:
    """The segments that a commit of so many new rows takes in. Pure.

    Sizes are compared by their power of MERGE_AT. Each row is so rewritten once for each power, and the
    number of segments grows with the logarithm of the rows.
    """
    open_ones = sorted((entry for entry in entries if entry.rows < segments.MOST_ROWS), key=lambda e: e.rows)
    taken: list[SegmentEntry] = []
    while True:
        total = rows + sum(entry.rows for entry in taken)
        near = [entry for entry in open_ones if _power(entry.rows) <= _power(total)]
        if len(near) - len(taken) < MERGE_AT - 1:
            return taken
        taken = near


def remove_strays(cache: Path, current: Manifest) -> None:
    """Remove what neither this snapshot nor the one before it needs, and what a crash left behind."""
    before = [number for number in manifests.snapshots(cache) if number < current.snapshot][-1:]
    needed = {manifests.manifest_path(cache, number) for number in (*before, current.snapshot)}
    for manifest in (current, *_readable(cache, before)):
        for entry in manifest.segments:
            needed |= {segments.parquet_path(cache, entry.name), segments.row_path(cache, entry.name)}
    for folder in (cache, cache / manifests.FOLDER, cache / manifests.SEGMENTS):
        for path in folder.iterdir():
            if path.name.endswith(TEMPORARY) or (folder != cache and path not in needed):
                remove(path)


def _readable(cache: Path, numbers: Iterable[int]) -> Iterable[Manifest]:
    for number in numbers:
        with contextlib.suppress(CacheError, FileNotFoundError):
            yield manifests.read_manifest(cache, number)


def _power(rows: int) -> int:
    power = 0
    while rows >= MERGE_AT:
        rows, power = rows // MERGE_AT, power + 1
    return power


def _check_key(record: RationaleRecord) -> None:
    expected = key_of(record.request)
    if record.key != expected:
        raise RecordError(f"{record.sample_id}: key {record.key} is not the hash of its request, {expected}")


def _content(record: RationaleRecord) -> tuple[object, ...]:
    """What may not change under a key."""
    return record.text, record.reason, record.cues


def _conflict(known: RationaleRecord, record: RationaleRecord) -> KeyConflict:
    return KeyConflict(
        f"key {record.key} (sample {record.sample_id!r}) has a record of {known.made_at.isoformat()} with other "
        "content; a key never changes its content: ask with another prompt, model or parameter"
    )
