"""The rationale store at a million records: opening, look-ups, readers beside a writer, memory.

    python -m benchmarks.rationale_store --out rationale_store.json [--rows 1000000] [--folder DIR]

The folder (about 6 GB at a million rows, removed at the end) gets a cache of random words, of the lengths of real
rationales. Each measurement is a process of its own. `store` is `CacheReader.get`; the plain alternatives
give the same record from the same rows: `sqlite` (a table with the key as primary key and the row as JSON) and
`parquet` (a pyarrow data set filtered by key). Only the ratios inside one run mean something. Latency is wall
time and CPU time of each call in microseconds. On a busy machine the wall time of the slowest calls is the
scheduler's; `store_real_time` is the store once more in a process that cannot be interrupted (needs root). Memory
is from /proc/self/smaps_rollup (Linux): `anonymous` is the process's own, the rest of `rss` are pages of the
mapped index and of libraries, which all readers share.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from rationale_cache.keys import digest, key_of, make_request
from rationale_cache.manifest import SegmentEntry, newest
from rationale_cache.reader import CacheReader
from rationale_cache.rowfile import MADE_AT
from rationale_cache.schema import from_row, from_values, to_table
from rationale_cache.segment import MOST_ROWS, parquet_path
from rationale_cache.types import Cue, RationaleRecord, Usage, Verdict
from rationale_cache.verify import open_rows, verify
from rationale_cache.wal import RawReply
from rationale_cache.writer import CacheWriter, write_snapshot

ROOT = Path(__file__).resolve().parents[1]
WORDS = [
    f"{a}{b}{c}" for a in ("so", "mi", "ta", "ve", "lo") for b in ("ra", "ne", "ki", "pu") for c in "stnmrl"
]
NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
REQUEST = make_request(
    media=[],
    messages="",
    prompt="Describe what you see and hear.",
    model="frontier-1",
    sampling={"temperature": 0.7, "max_tokens": 400},
    mode="blind",
)
SMALL = 200
"""Rows of one commit of the writer beside the readers."""
PAUSE = 0.002


def main() -> None:
    """Build, measure every arm, write one JSON; or, with --arm, be one arm."""
    args = parse()
    if args.arm:
        arm: Callable[..., dict[str, Any]] = globals()[f"measure_{args.arm}"]
        print(json.dumps(arm(Path(args.folder), args.rows)))
        return
    folder = Path(tempfile.mkdtemp(prefix="rationale-store-", dir=args.folder))
    result: dict[str, Any] = {"rows": args.rows}
    try:
        keep(result, "build", build(folder, args.rows), args.out)
        for name in ("open", "store", "store_real_time", "sqlite", "parquet"):
            keep(result, name, child(name, folder, args.rows), args.out)
        keep(result, "ratios", ratios(result), args.out)
        for name in ("readers", "verify"):
            keep(result, name, child(name, folder, args.rows), args.out)
    finally:
        shutil.rmtree(folder)


def keep(result: dict[str, Any], name: str, found: dict[str, Any], out: str | None) -> None:
    """Print what was found, and write all so far: a run that is stopped leaves what it has."""
    result[name] = found
    print(name, json.dumps(found), flush=True)
    if out:
        Path(out).write_text(json.dumps(result, indent=2) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", help="file for the raw numbers")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", help="where to make the cache (default: the system's temporary folder)")
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    return parser.parse_args()


def a_key(number: int) -> str:
    """The key of record `number`, without drawing its text."""
    return key_of(replace(REQUEST, media=(digest(f"clip {number}"),), messages=digest(f"question {number}")))


def a_record(number: int) -> RationaleRecord:
    """Record `number`: a text of 60 to 260 words and two cues."""
    draw = random.Random(number)
    text = " ".join(draw.choices(WORDS, k=draw.randint(60, 260)))
    request = replace(REQUEST, media=(digest(f"clip {number}"),), messages=digest(f"question {number}"))
    return RationaleRecord(
        key=key_of(request),
        sample_id=f"clip-{number:07d}",
        dataset=f"set-{number % 5}",
        request=request,
        text=text,
        cues=tuple(Cue(modality="video", text=text[:40], start=float(at), end=at + 0.5) for at in range(2)),
        model_answered="frontier-1-2026-05",
        usage=Usage(prompt_tokens=2000 + number % 500, completion_tokens=len(text) // 4),
        cost=0.01,
        latency=2.5,
        finish_reason="stop",
        reply_hash=digest(text),
        made_at=NOON + timedelta(seconds=number),
        verdicts=tuple(
            Verdict(filter=name, passed=True) for name in ("length", "refusal", "language", "agreement")
        ),
    )


def build(folder: Path, rows: int) -> dict[str, Any]:
    """The cache (full segments, then small commits as a running `make` leaves them) and the SQLite table."""
    small = min(rows // 10, 40 * SMALL)
    with CacheWriter(folder / "cache") as cache:
        cache.put_all(a_record(number) for number in range(min(rows, SMALL)))
        cache.commit()
    began = time.perf_counter()
    for start, size in spans(SMALL, rows - small, MOST_ROWS):
        old = newest(folder / "cache")
        write_snapshot(folder / "cache", old.snapshot + 1, old.segments, many_rows(start, size))
    bulk = time.perf_counter() - began
    with CacheWriter(folder / "cache") as cache:
        for start, size in spans(rows - small, rows, SMALL):
            cache.put_all(a_record(number) for number in range(start, start + size))
            cache.commit()
    manifest = newest(folder / "cache")
    sqlite_table(folder, manifest.segments)
    return {
        "bulk_seconds": bulk,
        "segments": len(manifest.segments),
        "parquet_bytes": sum(entry.parquet_bytes for entry in manifest.segments),
        "row_file_bytes": sum(entry.row_bytes for entry in manifest.segments),
        "index_bytes": sum(entry.index_bytes for entry in manifest.segments),
        "sqlite_bytes": (folder / "rows.db").stat().st_size,
    }


def many_rows(start: int, size: int) -> pa.Table:
    """The records of a range as one table. What `a_record` draws anew for each is taken from 500 of them here."""
    some = to_table([a_record(number) for number in range(500)])
    table = some.take(pa.array(np.arange(size) % 500))
    numbers = range(start, start + size)
    columns = {
        "key": [a_key(number) for number in numbers],
        "sample_id": [f"clip-{number:07d}" for number in numbers],
        "media": [[digest(f"clip {number}")] for number in numbers],
        "messages": [digest(f"question {number}") for number in numbers],
    }
    for name, values in columns.items():
        at = table.schema.get_field_index(name)
        table = table.set_column(at, table.schema.field(at), pa.array(values, table.schema.field(at).type))
    return table


def sqlite_table(folder: Path, entries: Sequence[SegmentEntry]) -> None:
    """The same rows, as the same JSON."""
    table = sqlite3.connect(folder / "rows.db")
    table.execute("pragma synchronous = off")
    table.execute("create table rows (key blob primary key, row text) without rowid")
    for entry in entries:
        file = open_rows(folder / "cache", entry)
        rows = (
            (file.key(row), json.dumps(file.read(row), default=datetime.isoformat))
            for row in range(file.rows)
        )
        with table:
            table.executemany("insert into rows values (?, ?)", rows)
        file.close()
    table.close()


def spans(start: int, end: int, size: int) -> list[tuple[int, int]]:
    return [(at, min(size, end - at)) for at in range(start, end, size)]


def measure_open(folder: Path, rows: int) -> dict[str, Any]:
    """Five openings in one process, the index verified each time."""
    before, seconds = memory(), []
    for _ in range(5):
        began = time.perf_counter()
        reader = CacheReader(folder / "cache")
        seconds.append(time.perf_counter() - began)
        assert len(reader) == rows
        last = memory()
        reader.close()
    return {"seconds": seconds, "memory_before": before, "memory_open": last}


def measure_store(folder: Path, rows: int) -> dict[str, Any]:
    """Look-ups of random keys, first and again, and of keys that are not there; memory along the way."""
    keys = some_keys(rows, 20_000)
    with CacheReader(folder / "cache") as reader:
        marks = [memory()]
        first = latencies(reader.get, keys)
        marks.append(memory())
        again = latencies(reader.get, keys)
        for _ in range(4):
            latencies(reader.get, keys)
        marks.append(memory())
        missing = latencies(reader.get, [digest(f"nothing {at}") for at in range(20_000)], there=False)
    return {"first": first, "again": again, "missing": missing, "memory": marks} | again


def measure_store_real_time(folder: Path, rows: int) -> dict[str, Any]:
    """`measure_store` in a process that nobody interrupts (SCHED_FIFO): what a look-up takes on an idle core."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except PermissionError:
        return {"skipped": "real-time scheduling needs root or CAP_SYS_NICE"}
    return measure_store(folder, rows)


def measure_sqlite(folder: Path, rows: int) -> dict[str, Any]:
    """The same keys through SQLite, with the same decoding."""
    table = sqlite3.connect(f"file:{folder / 'rows.db'}?mode=ro", uri=True)

    def get(key: str) -> RationaleRecord:
        (text,) = table.execute("select row from rows where key = ?", (bytes.fromhex(key),)).fetchone()
        values = json.loads(text)
        values[MADE_AT] = datetime.fromisoformat(values[MADE_AT])
        return from_values(values)

    keys = some_keys(rows, 20_000)
    latencies(get, keys)
    return latencies(get, keys)


def measure_parquet(folder: Path, rows: int) -> dict[str, Any]:
    """A few keys through a filter on the segments' Parquet files."""
    cache = folder / "cache"
    data = ds.dataset([str(parquet_path(cache, entry.name)) for entry in newest(cache).segments])

    def get(key: str) -> RationaleRecord:
        (row,) = data.to_table(filter=ds.field("key") == key).to_pylist()
        return from_row(row)

    return latencies(get, some_keys(rows, 20))


def measure_readers(folder: Path, rows: int) -> dict[str, Any]:
    """Eight readers, each with a short pause between look-ups, while a writer commits and merges."""
    stop = multiprocessing.Event()
    results: Any = multiprocessing.Queue()
    readers = [
        multiprocessing.Process(target=read_on, args=(folder / "cache", rows, seed, stop, results))
        for seed in range(8)
    ]
    for reader in readers:
        reader.start()
    time.sleep(2.0)
    commits, began = [], time.perf_counter()
    with CacheWriter(folder / "cache") as cache:
        for start, size in spans(rows, rows + 60 * SMALL, SMALL):
            records = [a_record(number) for number in range(start, start + size)]
            at = time.perf_counter()
            cache.log_reply(*(a_reply(record) for record in records))
            cache.put_all(records)
            cache.commit()
            commits.append(time.perf_counter() - at)
        at = time.perf_counter()
        cache.compact()
        compact = time.perf_counter() - at
    seconds = time.perf_counter() - began
    stop.set()
    found = [results.get(timeout=60) for _ in readers]
    for reader in readers:
        reader.join()
    return {
        "writer_seconds": seconds,
        "commit_seconds": summary(commits),
        "compact_seconds": compact,
        "readers": found,
    }


def read_on(path: Path, rows: int, seed: int, stop: Any, results: Any) -> None:
    """Look up until told to stop, and go to the newest snapshot now and then; every record must be right."""
    wall, cpu, snapshots = list[float](), list[float](), set[int]()
    keys, draw = some_keys(rows, 2_000, seed), random.Random(seed)
    with CacheReader(path) as reader:
        marks = [memory()]
        while not stop.is_set():
            number = draw.randrange(len(keys))
            began, ran = time.perf_counter(), time.thread_time()
            record = reader.get(keys[number])
            cpu.append(time.thread_time() - ran)
            wall.append(time.perf_counter() - began)
            assert record is not None and record.key == keys[number]
            if len(wall) % 50 == 0:
                reader.refresh()
                snapshots.add(reader.snapshot)
            if len(wall) == 500:
                marks.append(memory())
            time.sleep(PAUSE)
        marks.append(memory())
    results.put(
        {
            "wall": micro(wall),
            "cpu": micro(cpu),
            "look_ups": len(wall),
            "snapshots": len(snapshots),
            "memory": marks,
        }
    )


def measure_verify(folder: Path, rows: int) -> dict[str, Any]:
    """Every checksum and every key."""
    began = time.perf_counter()
    found = verify(folder / "cache")
    return {"sound": found.sound, "records": found.records, "seconds": time.perf_counter() - began}


def a_reply(record: RationaleRecord) -> RawReply:
    return RawReply(key=record.key, sample_id=record.sample_id, attempt=1, body=json.dumps({"text": record.text}),
                    latency=1.0, received_at=NOON)  # fmt: skip


def some_keys(rows: int, count: int, seed: int = 0) -> list[str]:
    return [a_key(number) for number in random.Random(seed).choices(range(rows), k=count)]


def latencies(
    get: Callable[[str], RationaleRecord | None], keys: Sequence[str], there: bool = True
) -> dict[str, Any]:
    """Microseconds of each call, wall and CPU."""
    wall, cpu = [], []
    for key in keys:
        began, ran = time.perf_counter(), time.thread_time()
        record = get(key)
        cpu.append(time.thread_time() - ran)
        wall.append(time.perf_counter() - began)
        assert (record.key == key) if record is not None else not there
    return {**micro(wall), "cpu": micro(cpu)}


def micro(seconds: Sequence[float]) -> dict[str, float]:
    return {name: round(value * 1e6, 2) for name, value in summary(seconds).items()}


def summary(values: Sequence[float]) -> dict[str, float]:
    points = {"p50": 50, "p99": 99, "p99.9": 99.9, "max": 100}
    return {name: float(np.percentile(values, point)) for name, point in points.items()}


def memory() -> dict[str, int]:
    """Bytes of this process."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    found = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}
    return {"rss": found["Rss"], "pss": found["Pss"], "anonymous": found["Anonymous"]}


def ratios(result: dict[str, Any]) -> dict[str, float]:
    """The plain alternatives over the store, in CPU time, which a busy machine disturbs least, and wall time."""
    found = {}
    for arm in ("sqlite", "parquet"):
        for point in ("p50", "p99"):
            found[f"{arm}_over_store_{point}"] = round(result[arm][point] / result["store"][point], 2)
            cpu = result[arm]["cpu"][point] / result["store"]["cpu"][point]
            found[f"{arm}_over_store_cpu_{point}"] = round(cpu, 2)
    return found


def child(arm: str, folder: Path, rows: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.rationale_store", "--arm", arm, "--folder", str(folder)]
    done = subprocess.run(
        [*command, "--rows", str(rows)], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    main()
