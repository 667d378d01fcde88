"""Segments: immutable Parquet files of records sorted by key, each with its row file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rationale_cache.disk import write_file
from rationale_cache.errors import CacheDamaged
from rationale_cache.keys import key_of
from rationale_cache.manifest import SEGMENTS, SegmentEntry
from rationale_cache.rowfile import row_file
from rationale_cache.schema import check_table, from_row
from rationale_cache.types import RationaleRecord

MOST_ROWS = 65_536
"""A full segment; one commit holds about this many rows in memory."""
ROW_GROUP = 8_192


def parquet_path(cache: Path, name: str) -> Path:
    """Where a segment's Parquet file is."""
    return cache / SEGMENTS / f"{name}.parquet"


def row_path(cache: Path, name: str) -> Path:
    """Where a segment's row file is."""
    return cache / SEGMENTS / f"{name}.rows"


def write_segments(cache: Path, snapshot: int, table: pa.Table) -> tuple[SegmentEntry, ...]:
    """Write a table of any order as full segments and a rest, flushed. Raises CacheFull."""
    ordered = table.sort_by("key").combine_chunks()
    starts = range(0, ordered.num_rows, MOST_ROWS)
    return tuple(write_segment(cache, snapshot, ordered.slice(start, MOST_ROWS)) for start in starts)


def write_segment(cache: Path, snapshot: int, table: pa.Table) -> SegmentEntry:
    """Write one sorted table. The name has a part of its hash: other content is never under the same name."""
    parquet = _parquet_bytes(table)
    sha256 = hashlib.sha256(parquet).hexdigest()
    rows, index_bytes = row_file(table)
    entry = SegmentEntry(
        name=f"{snapshot:08d}-{sha256[:12]}",
        rows=table.num_rows,
        parquet_bytes=len(parquet),
        parquet_sha256=sha256,
        row_bytes=len(rows),
        row_sha256=hashlib.sha256(rows).hexdigest(),
        index_bytes=index_bytes,
        index_sha256=hashlib.sha256(memoryview(rows)[:index_bytes]).hexdigest(),
    )
    write_file(parquet_path(cache, entry.name), parquet)
    write_file(row_path(cache, entry.name), rows)
    return entry


def read_segment(cache: Path, entry: SegmentEntry) -> pa.Table:
    """The whole table of a segment, file and page checksums verified. Raises CacheDamaged."""
    path = parquet_path(cache, entry.name)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CacheDamaged(
            f"{path}: cannot be read ({error.strerror}): run `omniopsd rationales verify {cache}`"
        ) from error
    if hashlib.sha256(content).hexdigest() != entry.parquet_sha256:
        raise CacheDamaged(
            f"{path}: the file does not have the checksum in the manifest: run `omniopsd rationales verify {cache}`"
        )
    return parse_segment(path, content)


def parse_segment(path: Path, content: bytes) -> pa.Table:
    """The table in a Parquet file of this schema, page checksums verified. Raises CacheDamaged."""
    try:
        table = pq.read_table(pa.BufferReader(content), page_checksum_verification=True, use_threads=False)
        check_table(table)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise CacheDamaged(f"{path}: not a sound segment ({error})") from error
    return table


def sound_records(path: Path, table: pa.Table) -> Iterator[RationaleRecord]:
    """The records of a table, each key computed anew from its request. Raises CacheDamaged."""
    for batch in table.to_batches(max_chunksize=ROW_GROUP):
        for row in batch.to_pylist():
            try:
                record = from_row(row)
            except (ValueError, KeyError, TypeError) as error:
                raise CacheDamaged(f"{path}: key {row.get('key')}: {error}") from error
            if record.key != key_of(record.request):
                raise CacheDamaged(f"{path}: key {record.key} is not the hash of its request")
            yield record


def _parquet_bytes(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True, row_group_size=ROW_GROUP)
    return sink.getvalue().to_pybytes()
