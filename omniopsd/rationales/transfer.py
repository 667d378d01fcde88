"""Import and export: whole records as this program writes them, or plain rows of an id and a rationale."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from omniopsd.durable import sync_path
from omniopsd.samples import KEYS, file_rows, raise_faults
from rationale_cache.errors import CacheError
from rationale_cache.keys import imported_request, key_of
from rationale_cache.schema import SCHEMA, from_row, to_row, to_table
from rationale_cache.types import Cue, Mode, RationaleRecord
from rationale_cache.writer import CacheWriter

BATCH = 16_384
PLAIN_KEYS = {*KEYS, "sample_id", "text", "reason", "cues", "model"}


@dataclass(slots=True, kw_only=True)
class Imported:
    """Counts of one import; `empty` rows had neither a text nor a reason."""

    new: int = 0
    known: int = 0
    empty: int = 0


def import_file(cache: Path, file: Path, *, source: str, mode: Mode | None) -> Imported:
    """Add the rows of a JSONL or Parquet file. A file with faults adds nothing.

    Raises SampleError (faults with their lines), KeyConflict (other content than before), CacheLocked.
    """
    now, counts, faults = datetime.now(UTC), Imported(), list[str]()
    records: list[RationaleRecord] = []
    for where, row in file_rows(file, faults):
        try:
            record = _record(row, source, mode, now)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            faults.append(f"{where}: {_said(error)}")
            continue
        counts.empty += record is None
        records += [] if record is None else [record]
    if not records and not faults:
        faults.append(
            f"{file}: no row has a rationale; expected rows such as {{'id': ..., 'rationale': ...}}"
        )
    raise_faults(file, faults)
    with CacheWriter(cache) as writer:
        for start in range(0, len(records), BATCH):
            counts.new += writer.put_all(records[start : start + BATCH])
    counts.known = len(records) - counts.new
    return counts


def export_file(records: Iterable[RationaleRecord], file: Path, *, plain: bool) -> int:
    """Write records as JSONL or Parquet; the file is there whole or not at all; how many rows.

    `plain` rows have an id, a data set and a rationale, and only samples with a text. Raises CacheError when the
    file exists, or when a sample has two texts and so no plain row.
    """
    if file.suffix not in (".jsonl", ".parquet"):
        raise CacheError(f"{file}: the ending {file.suffix!r} is not known; write .jsonl or .parquet")
    if file.exists():
        raise CacheError(f"{file} exists; choose another name or remove it")
    rows = _plain_rows(records) if plain else (to_row(record) for record in records)
    temporary = file.with_name(f".{file.name}.tmp")
    try:
        write = _write_jsonl if file.suffix == ".jsonl" else _write_parquet
        count = write(temporary, rows, PLAIN_SCHEMA if plain else SCHEMA)
        sync_path(temporary)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
    return count


PLAIN_SCHEMA = pa.schema([("id", pa.string()), ("dataset", pa.string()), ("rationale", pa.string())])


def _record(row: Mapping[str, Any], source: str, mode: Mode | None, now: datetime) -> RationaleRecord | None:
    if "key" in row and "made_at" in row:
        made_at = row["made_at"]
        time = datetime.fromisoformat(made_at) if isinstance(made_at, str) else made_at
        record = from_row({**row, "made_at": time})
        to_table([record])
        return record
    return _foreign(row, source, mode, now)


def _foreign(row: Mapping[str, Any], source: str, mode: Mode | None, now: datetime) -> RationaleRecord | None:
    if unknown := sorted(set(row) - PLAIN_KEYS):
        raise ValueError(
            f"unknown key {unknown[0]!r}; a plain row has id, rationale, and maybe dataset, cues, model"
        )
    text, reason = row.get("rationale") or row.get("text"), row.get("reason")
    if not text and not reason:
        return None
    if mode is None:
        raise ValueError("did the author see the label? give --mode blind or --mode label_conditioned")
    sample_id, dataset = row.get("id") or row.get("sample_id"), row.get("dataset") or ""
    if not isinstance(sample_id, str) or not isinstance(dataset, str):
        raise ValueError(f"id {sample_id!r} of data set {dataset!r}: both are texts")
    if mode == "label_conditioned" and not row.get("labels"):
        raise ValueError("written in sight of the label, and the row has no labels; add them")
    request = imported_request(source, dataset, sample_id, mode, row.get("labels") or ())
    record = RationaleRecord(
        key=key_of(request),
        sample_id=sample_id,
        dataset=dataset,
        request=request,
        text=text or None,
        reason=None if text else reason,
        cues=tuple(Cue(**cue) for cue in row.get("cues") or ()),
        model_answered=row.get("model") or "",
        finish_reason="imported",
        made_at=now,
    )
    to_table([record])  # a value of another type is a fault of this row
    return record


def _said(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"the column {error} is missing"
    return str(error)


def _plain_rows(records: Iterable[RationaleRecord]) -> Iterator[dict[str, Any]]:
    seen: dict[tuple[str, str], str] = {}
    for record in records:
        if record.text is None:
            continue
        name = (record.dataset, record.sample_id)
        if name in seen:
            raise CacheError(
                f"sample {record.sample_id!r} of data set {record.dataset!r} has two texts, keys {seen[name]} and "
                f"{record.key}: narrow the export with --model or --mode"
            )
        seen[name] = record.key
        yield {"id": record.sample_id, "dataset": record.dataset, "rationale": record.text}


def _write_jsonl(path: Path, rows: Iterable[dict[str, Any]], schema: pa.Schema) -> int:
    lines = (json.dumps(row, ensure_ascii=False, default=datetime.isoformat) + "\n" for row in rows)
    with path.open("w", encoding="utf-8") as file:
        return sum(1 for line in lines if file.write(line))


def _write_parquet(path: Path, rows: Iterable[dict[str, Any]], schema: pa.Schema) -> int:
    rows, count = iter(rows), 0
    with pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True) as file:
        while batch := list(islice(rows, BATCH)):
            file.write_table(pa.Table.from_pylist(batch, schema=schema))
            count += len(batch)
    return count
