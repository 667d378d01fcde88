"""A writer killed at any moment, a full disk, a power cut: what was promised is there, half a commit never is."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rationale_cache.errors import CacheFull
from rationale_cache.reader import CacheReader
from rationale_cache.verify import verify
from rationale_cache.writer import CacheWriter
from tests.cache_faults import FIRST, OLD, SECOND, old_cache, use, watched
from tests.cache_scene import a_record, a_reply
from tests.lossy_disk import LossyDisk

ROOT = Path(__file__).resolve().parent.parent


def check(path: Path, promises: list[str], *, old: bool = True) -> None:
    """The invariants, whatever happened: promises are kept, commits are whole, and a writer can go on."""
    if not old:
        CacheWriter(path).close()  # whatever is there of a new cache, it can be opened
    before = verify(path)
    assert before.sound, before.faults
    with CacheReader(path) as reader:
        seen = {number for number in (*OLD, *FIRST, *SECOND, 300) if a_record(number).key in reader}
        assert seen >= (set(OLD) if old else set()), "committed rows were lost"
        for part in (FIRST, (*SECOND, 300)):
            assert seen.isdisjoint(part) or seen >= set(part), "half a commit is visible"
        assert all(reader.get(a_record(number).key) == a_record(number) for number in seen)
    assert "committed first" not in promises or seen >= set(FIRST)
    assert "committed second" not in promises or seen >= set(SECOND)
    with CacheWriter(path) as cache:
        waiting = {reply.key for reply in cache.unsettled()}
        owed = {number for name, part in (("first", FIRST), ("second", SECOND)) for number in part
                if f"logged {name}" in promises}  # fmt: skip
        bought_twice = {
            n for n in (*owed, *([300] if old else [])) if n not in seen and a_record(n).key not in waiting
        }
        assert not bought_twice, "a reply that was paid for is gone"
        assert not waiting & {a_record(number).key for number in seen}, "a settled reply is asked for again"
        cache.put_all(a_record(number) for number in (*FIRST, *SECOND, 300))
    assert verify(path).sound
    assert len(CacheReader(path)) == len(OLD) * old + len(FIRST) + len(SECOND) + 1
    assert not list(path.rglob("*.tmp"))


def promises_of(path: Path) -> list[str]:
    file = path.parent / f"{path.name}.promises"
    return file.read_text().splitlines() if file.exists() else []


@pytest.mark.slow
def test_killed_before_and_in_the_middle_of_every_call(tmp_path: Path) -> None:
    names = run_faults(tmp_path)
    assert len(names) > 120, "fewer calls than two commits and a compaction make"
    for name in names:
        check(tmp_path / name, promises_of(tmp_path / name), old=name.startswith("old"))
    told = {tuple(promises_of(tmp_path / name)) for name in names}
    assert len(told) == 5, "a kill fell between any two promises"


@pytest.mark.slow
def test_a_full_disk_at_every_call(tmp_path: Path) -> None:
    template = old_cache(tmp_path / "old")
    real_pwrite, failed = os.pwrite, 0
    for point in range(1, 1_000):
        path, promises = tmp_path / f"{point:03d}", list[str]()
        shutil.copytree(template, path)

        def before(count: int, name: str, arguments: tuple[Any, ...], point: int = point) -> None:
            if count >= point and name in ("open", "pwrite", "mkdir", "replace", "fsync"):
                if name == "pwrite" and count == point:  # a part of it still fits
                    real_pwrite(arguments[0], arguments[1][: len(arguments[1]) // 2], arguments[2])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        try:
            with watched(before):
                use(path, promises.append)
        except CacheFull as error:
            assert re.search(r"No space left on device.*stays readable: free space", str(error))
            failed += 1
        check(path, promises)
        if "closed" in promises:
            break
    assert failed > 40


def test_after_a_full_disk_the_same_writer_goes_on(tmp_path: Path) -> None:
    path = old_cache(tmp_path / "c")
    full = True

    def before(count: int, name: str, arguments: tuple[Any, ...]) -> None:
        if full and name == "pwrite":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with CacheWriter(path) as cache, watched(before):
        cache.put_all(a_record(number) for number in FIRST)
        for _ in range(2):
            with pytest.raises(CacheFull):
                cache.commit()
            with pytest.raises(CacheFull):
                cache.log_reply(a_reply(200))
        assert cache.pending == len(FIRST) and len(CacheReader(path)) == len(OLD)
        full = False
        cache.log_reply(a_reply(201))
        cache.commit()
    with CacheWriter(path) as cache:
        assert cache.unsettled() == (a_reply(300), a_reply(201))
    assert len(CacheReader(path)) == len(OLD) + len(FIRST) and verify(path).sound


@pytest.mark.slow
def test_a_power_cut_after_every_call(tmp_path: Path) -> None:
    """Whatever was not flushed is lost: all of it, or the content of files whose names are there already."""
    template = old_cache(tmp_path / "old")
    points, point = 0, 0
    while True:
        point += 1
        path, promises = tmp_path / "live" / f"{point:03d}", list[str]()
        shutil.copytree(template, path)
        disk = LossyDisk(path.parent, stop_after=point)
        ended = disk.run(lambda path=path, promises=promises: use(path, promises.append))  # type: ignore[misc]
        for names_kept in (False, True):
            target = tmp_path / "after" / f"{point:03d}-{names_kept}"
            disk.leave(target, names_kept=names_kept)
            check(target / path.name, promises)
            points += 1
        shutil.rmtree(tmp_path / "live")
        if ended:
            break
    assert points > 100


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize(
    ("effect", "syscalls"),
    [
        ("signal=KILL", "pwrite64 fsync rename unlink ftruncate"),
        ("error=ENOSPC", "pwrite64 fsync rename"),
        ("error=EIO", "fsync"),
    ],
)
def test_every_system_call_is_the_last_or_fails(tmp_path: Path, effect: str, syscalls: str) -> None:
    names = run_faults(tmp_path, effect, *syscalls.split())
    assert len(names) > 15
    for name in names:
        check(tmp_path / name, promises_of(tmp_path / name))
    assert len({tuple(promises_of(tmp_path / name)) for name in names}) >= 5, (
        "the effect fell between any two"
    )


def run_faults(folder: Path, *arguments: str) -> list[str]:
    """Enumerate faults in a process of its own, which forks before any thread runs; the names of the caches."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.cache_faults", str(folder), *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    names: list[str] = json.loads(done.stdout)
    return names
