"""The store: what is put comes back, a key keeps its content, one writes, many read whole snapshots."""

from __future__ import annotations

import errno
import hashlib
import os
import pickle
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rationale_cache.errors import CacheDamaged, CacheError, CacheLocked, CacheMissing, KeyConflict
from rationale_cache.keys import canonical, key_of
from rationale_cache.manifest import SegmentEntry, newest
from rationale_cache.reader import CacheReader
from rationale_cache.rowfile import RowFile, row_file
from rationale_cache.schema import from_row, from_values, to_table
from rationale_cache.segment import MOST_ROWS, parquet_path
from rationale_cache.types import MODALITIES, Cue, RationaleRecord, RecordError, Request, Usage, Verdict
from rationale_cache.verify import verify
from rationale_cache.writer import MERGE_AT, CacheWriter, to_merge, write_snapshot
from tests.cache_scene import a_record, a_reply, make_cache

ROOT = Path(__file__).resolve().parent.parent
texts = st.text(st.characters(exclude_categories=("Cs",)))
filled = texts.filter(lambda text: bool(text.strip()))
counts = st.integers(0, 2**40)
amounts = st.floats(0, 1e12)


@st.composite
def records(draw: st.DrawFn) -> RationaleRecord:
    label = draw(st.none() | st.lists(texts).map(tuple))
    request = Request(
        media=tuple(draw(st.lists(texts, max_size=3))),
        messages=draw(texts),
        prompt_hash=draw(texts),
        model=draw(texts.filter(bool)),
        sampling=canonical(draw(st.dictionaries(texts, amounts, max_size=2))),
        mode="blind" if label is None else "label_conditioned",
        label=label,
    )
    text = draw(st.none() | filled)
    spans = draw(st.lists(st.lists(amounts, min_size=2, max_size=2).map(sorted), max_size=2))
    return RationaleRecord(
        key=key_of(request),
        sample_id=draw(texts),
        dataset=draw(texts),
        request=request,
        text=text,
        reason=None if text is not None else draw(filled),
        cues=tuple(
            Cue(modality=draw(st.sampled_from(MODALITIES)), text=draw(filled), start=a, end=b)
            for a, b in spans
        ),
        model_answered=draw(texts),
        usage=Usage(prompt_tokens=draw(counts), reasoning_tokens=draw(counts)),
        cost=draw(st.none() | amounts),
        latency=draw(amounts),
        attempts=draw(counts),
        made_at=draw(st.datetimes(datetime(1970, 1, 2), datetime(2200, 1, 1), timezones=st.just(UTC))),
        verdicts=tuple(draw(st.lists(st.builds(Verdict, filter=texts, passed=st.booleans()), max_size=2))),
    )


@given(st.lists(records(), min_size=1, max_size=5, unique_by=lambda record: record.key))
@settings(max_examples=60, deadline=None)
def test_any_record_comes_back_from_both_files(tmp_path_factory: pytest.TempPathFactory, given: list) -> None:
    ordered = sorted(given, key=lambda record: record.key)
    table = to_table(ordered)
    assert [from_row(row) for row in table.to_pylist()] == ordered
    content, index_bytes = row_file(table)
    path = tmp_path_factory.mktemp("rows") / "rows"
    path.write_bytes(content)
    rows = RowFile(
        path, index_bytes=index_bytes, index_sha256=_sha256(content[:index_bytes]), size=len(content)
    )
    for record in ordered:
        row = rows.find(bytes.fromhex(record.key))
        assert row is not None and from_values(rows.read(row)) == record
    assert rows.find(bytes(16)) is None
    rows.close()


def test_what_is_put_is_seen_by_the_writer_at_once_and_by_readers_after_the_commit(tmp_path: Path) -> None:
    with CacheWriter(tmp_path / "c") as cache:
        assert cache.put(a_record(1)) and cache.pending == 1 and a_record(1).key in cache
        reader = CacheReader(tmp_path / "c")
        assert len(reader) == 0 and reader.get(a_record(1).key) is None
        assert cache.commit() == 1
        assert reader.get(a_record(1).key) is None and reader.refresh() and not reader.refresh()
        assert reader.get(a_record(1).key) == a_record(1) == cache.get(a_record(1).key)
        assert cache.commit() == 1, "nothing to commit makes no snapshot"
    assert reader.snapshot == 1 and len(reader) == 1


def test_many_commits_stay_few_files_and_every_row_is_found(tmp_path: Path) -> None:
    path = make_cache(tmp_path / "c", *[range(start, start + 10) for start in range(0, 400, 10)])
    with CacheReader(path) as reader:
        assert len(reader.manifest.segments) < MERGE_AT and len(reader) == 400
        for number in range(400):
            assert reader.get(a_record(number).key) == a_record(number)
        assert reader.get(a_record(400).key) is None and a_record(400).key not in reader
        assert sorted(reader.keys()) == sorted(a_record(number).key for number in range(400))
        assert {record.sample_id for record in reader.records()} == {f"clip-{n:04d}" for n in range(400)}
        assert len(list((path / "segments").iterdir())) <= 4 * MERGE_AT
    assert verify(path).sound


def test_a_sample_is_found_by_its_name(tmp_path: Path) -> None:
    path = make_cache(tmp_path / "c", range(20), range(20, 25))
    with CacheReader(path) as reader:
        assert reader.of_sample("clip-0003") == (a_record(3),)
        assert reader.of_sample("clip-0003", "odd") == (a_record(3),)
        assert reader.of_sample("clip-0003", "even") == () == reader.of_sample("nobody")


def test_the_segments_are_plain_parquet(tmp_path: Path) -> None:
    path = make_cache(tmp_path / "c", range(5))
    (entry,) = newest(path).segments
    table = pq.read_table(parquet_path(path, entry.name))
    assert table["sample_id"].to_pylist() and table.num_rows == 5


def test_a_key_never_changes_its_content(tmp_path: Path) -> None:
    with CacheWriter(tmp_path / "c") as cache:
        cache.put(a_record(1))
        for _ in range(2):  # pending, then committed
            assert not cache.put(replace(a_record(1), latency=9.0)), "the same content once more"
            with pytest.raises(KeyConflict, match="clip-0001.*never changes"):
                cache.put(a_record(1, text="Something else."))
            with pytest.raises(KeyConflict):
                cache.put_all([a_record(2), a_record(1, reason="refusal")])
            cache.commit()
        assert cache.get(a_record(1).key) == a_record(1) and a_record(2).key not in cache


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"key": "0" * 32}, "not the hash of its request"),
        ({"text": "broken \ud800"}, "does not fit the schema"),
        ({"attempts": 2**70}, "does not fit the schema"),
        ({"latency": "fast"}, "does not fit the schema"),
    ],
)
def test_what_cannot_be_kept_is_refused_when_it_is_put(tmp_path: Path, changes: dict, message: str) -> None:
    with CacheWriter(tmp_path / "c") as cache:
        with pytest.raises(RecordError, match=message):
            cache.put(replace(a_record(1), **changes))
        assert cache.pending == 0


def test_a_second_writer_is_told_who_writes(tmp_path: Path) -> None:
    with CacheWriter(tmp_path / "c") as cache:
        with pytest.raises(CacheLocked, match=f"by process {os.getpid()} on .* since 20"):
            CacheWriter(tmp_path / "c")
        cache.put(a_record(1))
    CacheWriter(tmp_path / "c").close()


def test_the_lock_of_a_killed_writer_is_free_even_when_its_child_lives(tmp_path: Path) -> None:
    code = (
        "import os, sys, time; from rationale_cache.writer import CacheWriter\n"
        "cache = CacheWriter(sys.argv[1])\n"
        "if os.fork() == 0: print(os.getpid(), flush=True); time.sleep(60)\n"
        "else: os.kill(os.getpid(), 9)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "c")], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as done:
        assert done.stdout is not None
        child = int(done.stdout.readline())
        try:
            assert done.wait(timeout=60) == -9
            CacheWriter(tmp_path / "c").close()
            os.kill(child, 0)  # it does live
        finally:
            os.kill(child, 9)


def test_a_forked_writer_is_refused(tmp_path: Path) -> None:
    cache = CacheWriter(tmp_path / "c")
    cache.put(a_record(1))
    cache._lock.release()
    with pytest.raises(CacheLocked, match="open the cache anew"):
        cache.commit()


def test_replies_wait_for_their_record(tmp_path: Path) -> None:
    path = tmp_path / "c"
    with pytest.raises(ZeroDivisionError), CacheWriter(path) as cache:
        cache.log_reply(a_reply(1), a_reply(2))
        cache.log_reply(a_reply(1, attempt=2))
        cache.put(a_record(2))
        assert cache.unsettled() == (a_reply(1), a_reply(1, attempt=2))
        raise ZeroDivisionError  # nothing was committed
    with CacheWriter(path) as cache:
        assert cache.unsettled() == (a_reply(1), a_reply(1, attempt=2), a_reply(2))
        cache.put(a_record(1))
        cache.commit()
        assert cache.unsettled() == (a_reply(2),)
        cache.log_reply(a_reply(3))
    with CacheWriter(path) as cache:
        assert cache.unsettled() == (a_reply(2), a_reply(3)) and cache.notices == ()
        cache.put_all([a_record(2), a_record(3)])
    assert (path / "replies.log").stat().st_size == 8


def test_the_log_of_a_long_run_does_not_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rationale_cache.wal.MOST_WASTE", 2_000)
    with CacheWriter(tmp_path / "c") as cache:
        cache.log_reply(a_reply(500))
        for number in range(60):
            cache.log_reply(a_reply(number))
            cache.put(a_record(number))
            cache.commit()
            assert (tmp_path / "c" / "replies.log").stat().st_size < 3_000
        assert cache.unsettled() == (a_reply(500),)
    with CacheWriter(tmp_path / "c") as cache:
        assert cache.unsettled() == (a_reply(500),)


def test_threads_may_write_together(tmp_path: Path) -> None:
    def work(cache: CacheWriter, numbers: range) -> None:
        for number in numbers:
            cache.log_reply(a_reply(number))
            cache.put(a_record(number))
            if number % 7 == 0:
                cache.commit()

    with CacheWriter(tmp_path / "c") as cache:
        threads = [
            threading.Thread(target=work, args=(cache, range(at, at + 25))) for at in range(0, 100, 25)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    with CacheReader(tmp_path / "c") as reader:
        assert reader.many(a_record(n).key for n in range(101)) == {
            a_record(n).key: a_record(n) for n in range(100)
        }


def test_a_long_commit_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writing, go = threading.Event(), threading.Event()

    def slow(*arguments: Any) -> Any:
        writing.set()
        assert go.wait(timeout=60)
        return write_snapshot(*arguments)

    monkeypatch.setattr("rationale_cache.writer.write_snapshot", slow)
    with CacheWriter(tmp_path / "c") as cache:
        cache.put(a_record(1))
        thread = threading.Thread(target=cache.commit)
        thread.start()
        assert writing.wait(timeout=60)
        cache.put(a_record(2))
        cache.log_reply(a_reply(2))
        assert cache.get(a_record(1).key) == a_record(1) and cache.pending == 2
        go.set()
        thread.join()
        assert cache.pending == 1 and cache.snapshot == 1
    assert len(CacheReader(tmp_path / "c")) == 2


def test_an_open_reader_outlives_commits_and_compactions(tmp_path: Path) -> None:
    path = make_cache(tmp_path / "c", *[range(at, at + 3) for at in range(0, 12, 3)])
    reader = CacheReader(path)
    with CacheWriter(path) as cache:
        for number in range(12, 18):
            cache.put(a_record(number))
            cache.compact()
        assert len(newest(path).segments) == 1
    assert [reader.get(a_record(number).key) for number in range(12)] == [a_record(n) for n in range(12)]
    assert reader.get(a_record(12).key) is None and len(reader) == 12
    assert verify(path).sound


def test_a_reader_pickles_as_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_cache(tmp_path / "c", range(4))
    monkeypatch.chdir(tmp_path)
    pickled = pickle.dumps(CacheReader("c"))
    make_cache(path, range(4, 6))
    monkeypatch.chdir("/")
    with pickle.loads(pickled) as copy:  # as in an actor on another node of a shared disk
        assert len(copy) == 6 and len(pickled) < 200 + len(str(path))


def test_a_folder_that_may_not_be_written_is_said(tmp_path: Path) -> None:
    def refuse(*arguments: Any) -> int:
        raise PermissionError(errno.EACCES, "no")

    path = make_cache(tmp_path / "c", range(1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rationale_cache.lock.os.open", refuse)
        with pytest.raises(
            CacheError, match="LOCK: Permission denied; choose a folder that you may write to"
        ):
            CacheWriter(path)


def test_only_this_snapshot_and_the_one_before_keep_files(tmp_path: Path) -> None:
    path = make_cache(tmp_path / "c", range(3), range(3, 6), range(6, 9))
    (path / "segments" / ".x.parquet.tmp").write_bytes(b"left by a crash")
    with CacheWriter(path) as cache:
        cache.compact()
        kept = sorted(file.name for file in (path / "snapshots").iterdir())
        assert kept == ["00000003.json", "00000004.json"]
        assert len(list((path / "segments").iterdir())) == 2 * (3 + 1)
        cache.put(a_record(9))
        cache.commit()
    assert len(list((path / "segments").iterdir())) == 2 * 2


def test_a_path_without_a_cache_is_said(tmp_path: Path) -> None:
    with pytest.raises(CacheMissing, match="no rationale cache here"):
        CacheReader(tmp_path / "nothing")
    with pytest.raises(ValueError, match="32 hex digits"):
        CacheReader(make_cache(tmp_path / "c", range(1))).get("abc")


def test_merging_keeps_segments_few_and_rewrites_a_row_once_for_each_power() -> None:
    entries: list[SegmentEntry] = []
    rewritten = 0
    for number in range(6_000):
        taken = to_merge(entries, 16)
        rewritten += sum(entry.rows for entry in taken)
        rows = 16 + sum(entry.rows for entry in taken)
        entries = [entry for entry in entries if entry not in taken]
        entries += [_entry(f"{number}-{at}", min(MOST_ROWS, rows - at)) for at in range(0, rows, MOST_ROWS)]
        assert len(entries) <= MERGE_AT * 5
    assert sum(entry.rows for entry in entries) == 96_000 and rewritten < 96_000 * 5


def test_segments_without_a_manifest_are_not_an_empty_cache(tmp_path: Path) -> None:
    path = make_cache(tmp_path / "c", range(3))
    for file in (path / "snapshots").iterdir():
        file.unlink()
    for opened in (CacheReader, CacheWriter):
        with pytest.raises(CacheDamaged, match="segments without any manifest"):
            opened(path)


def _entry(name: str, rows: int) -> SegmentEntry:
    return SegmentEntry(
        name=name, rows=rows, parquet_bytes=0, parquet_sha256="", row_bytes=0, row_sha256="",
        index_bytes=0, index_sha256="",
    )  # fmt: skip


def _sha256(content: bytes) -> str:

    return hashlib.sha256(content).hexdigest()
