"""The journal of paid replies: nothing that was acknowledged is lost, whenever the process is killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from omniopsd.bench.journal import Journal, JournalError, content_key

ROOT = Path(__file__).resolve().parent.parent
WRITER = """
import sys
from pathlib import Path
from omniopsd.bench.journal import Journal
with Journal(Path(sys.argv[1])) as journal:
    for number in range(len(journal), 100_000):
        journal.add([(f"key-{number}", "reply " * (number % 50), {"number": number})])
        print(number, flush=True)
"""


def test_a_reply_is_there_after_reopening(tmp_path: Path) -> None:
    with Journal(tmp_path / "j.jsonl") as journal:
        journal.add([("a", "[happy]", {"clip": "x"}), ("b", "line\nbreak \u4f60", {})])
        journal.add([("a", "another reply to the same question", {})])
        digest = journal.digest(["a", "b"])
    with Journal(tmp_path / "j.jsonl") as journal:
        assert (journal.get("a"), journal.get("b"), journal.get("c")) == (
            "[happy]",
            "line\nbreak \u4f60",
            None,
        )
        assert journal.facts("a") == {"clip": "x"}
        assert journal.digest(["b", "a"]) == digest != journal.digest(["a"])
        assert len(journal) == 2


def test_a_torn_last_line_is_dropped_and_written_again(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    with Journal(path) as journal:
        journal.add([("a", "one", {})])
    whole = path.read_bytes()
    for cut in range(1, len(whole)):
        path.write_bytes(whole + whole[:cut].replace(b'"a"', b'"b"'))
        with Journal(path) as journal:
            assert len(journal) == 1
            journal.add([("b", "two", {})])
        with Journal(path) as journal:
            assert (journal.get("a"), journal.get("b")) == ("one", "two")


def test_damage_elsewhere_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    path.write_bytes(b'{"key": "a", "text": "one"}\n{"key": "b", "te\n{"key": "c", "text": "three"}\n')
    with pytest.raises(JournalError, match=r"j\.jsonl:2: not a reply"):
        Journal(path)


def test_two_runs_do_not_write_to_one_journal(tmp_path: Path) -> None:
    with Journal(tmp_path / "j.jsonl"), pytest.raises(JournalError, match="another run is writing here"):
        Journal(tmp_path / "j.jsonl")


def test_keys_tell_contents_apart() -> None:
    assert content_key({"a": 1, "b": "x"}) == content_key({"b": "x", "a": 1})
    assert content_key({"a": 1}) != content_key({"a": 2}) != content_key({"b": 2})


def test_a_killed_writer_has_lost_nothing_that_it_acknowledged(tmp_path: Path) -> None:
    path, rng, acknowledged = tmp_path / "j.jsonl", random.Random(5), -1
    for _ in range(4):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        first = writer.stdout.readline()
        assert int(first) == acknowledged + 1  # it goes on behind the last one, and repeats none
        time.sleep(rng.uniform(0.0, 0.05))
        os.kill(writer.pid, signal.SIGKILL)
        lines = [first, *writer.stdout.readlines()]
        writer.wait()
        with Journal(path) as journal:
            acknowledged = len(journal) - 1
            assert int([line for line in lines if line.endswith("\n")][-1]) <= acknowledged
            assert all(journal.facts(f"key-{number}") == {"number": number} for number in range(len(journal)))
