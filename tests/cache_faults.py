"""Faults below the rationale cache: every `os` call that changes the disk can be the last, or fail.

    python -m tests.cache_faults FOLDER                      kills a writer before each call, one cache for each
    python -m tests.cache_faults FOLDER signal=KILL fsync    the same below Python, by strace

`Calls` counts the calls that `rationale_cache.disk` and its neighbours make; it knows nothing of the cache.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

from rationale_cache import writer
from rationale_cache.errors import CacheError
from rationale_cache.writer import CacheWriter
from tests.cache_scene import a_record, a_reply, make_cache

CHANGING = ("open", "pwrite", "fsync", "replace", "unlink", "ftruncate", "mkdir")
OLD, FIRST, SECOND = range(0, 6), range(100, 105), range(200, 204)
Before = Callable[[int, str, tuple[Any, ...]], None]
few_segments = mock.patch.object(writer, "MERGE_AT", 3)


@contextmanager
def watched(before: Before, after: Before | None = None) -> Iterator[None]:
    """Call `before(n, name, arguments)` ahead of the n-th call (from 1) that changes the disk, `after` behind it."""
    real = {name: getattr(os, name) for name in CHANGING}
    count = 0

    def wrapper(name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal count
            if name == "open" and not arguments[1] & os.O_CREAT:
                return real[name](*arguments, **named)
            count += 1
            before(count, name, arguments)
            result = real[name](*arguments, **named)
            if after is not None:
                after(count, name, arguments)
            return result

        return call

    for name in CHANGING:
        setattr(os, name, wrapper(name))
    try:
        yield
    finally:
        for name, function in real.items():
            setattr(os, name, function)


@few_segments
def old_cache(path: Path) -> Path:
    """Two segments, which the next commit merges, and a reply without a record."""
    make_cache(path, *[range(at, at + 3) for at in range(OLD.start, OLD.stop, 3)])
    with CacheWriter(path) as cache:
        cache.log_reply(a_reply(300))
    return path


@few_segments
def use(path: Path, done: Callable[[str], None]) -> None:
    """A writer's whole life; `done` hears of each promise once it is given."""
    with closing(CacheWriter(path)) as cache:
        cache.log_reply(*[a_reply(number) for number in FIRST])
        done("logged first")
        cache.put_all(a_record(number) for number in FIRST)
        cache.commit()
        done("committed first")
        cache.log_reply(*[a_reply(number) for number in SECOND])
        done("logged second")
        cache.put_all(a_record(number) for number in SECOND)
        cache.put(a_record(300))
        cache.commit()
        done("committed second")
        cache.compact()
    done("closed")


def killed_at(path: Path, point: int, *, torn: bool) -> int:
    """Fork a writer that dies before call `point`, or in the middle of it if it writes; its exit status."""
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1]
    real_pwrite = os.pwrite

    def before(count: int, name: str, arguments: tuple[Any, ...]) -> None:
        if count == point:
            if torn:
                real_pwrite(arguments[0], arguments[1][: len(arguments[1]) // 2], arguments[2])
            os.kill(os.getpid(), signal.SIGKILL)

    promises = (path.parent / f"{path.name}.promises").open("a", buffering=1)
    with watched(before):
        use(path, lambda text: print(text, file=promises))
    os._exit(0)


def in_fork(work: Callable[[], object]) -> None:
    """Do something in a forked process: pyarrow's threads must not run in the one that forks again."""
    if (pid := os.fork()) == 0:
        work()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0


def calls_of(path: Path) -> list[str]:
    """The calls of a writer that nobody disturbs."""
    told = path.parent / "calls.json"

    def work() -> None:
        names: list[str] = []
        with watched(lambda count, name, arguments: names.append(name)):
            use(path, lambda promise: None)
        told.write_text(json.dumps(names))

    in_fork(work)
    calls: list[str] = json.loads(told.read_text())
    return calls


def enumerate_kills(folder: Path) -> list[str]:
    """One cache for each call, killed before it, and one for each write, killed in the middle; their names.

    Twice: on a cache that is there, and (names with "new") on one that is only made.
    """
    template = folder / "old"
    in_fork(lambda: old_cache(template))
    names = []
    for start in ("old", "new"):
        calls = calls_of(a_copy(template, folder / f"undisturbed-{start}", start))
        for torn in (False, True):
            for point, call in enumerate(calls, start=1):
                if torn and call != "pwrite":
                    continue
                path = a_copy(template, folder / f"{start}-{'torn' if torn else 'before'}-{point:03d}", start)
                assert os.WIFSIGNALED(killed_at(path, point, torn=torn)), f"call {point} was not made again"
                names.append(path.name)
    return names


def a_copy(template: Path, path: Path, start: str) -> Path:
    return Path(shutil.copytree(template, path)) if start == "old" else path


def enumerate_system_calls(folder: Path, effect: str, syscalls: list[str]) -> list[str]:
    """One cache for each of these system calls in a writer's life, with strace's effect on it; their names."""
    template = folder / "old"
    in_fork(lambda: old_cache(template))
    log = folder / "calls.txt"
    traced(
        Path(shutil.copytree(template, folder / "undisturbed")),
        ["-o", str(log), "-e", "trace=" + ",".join(syscalls)],
    )
    calls = re.findall(r"^(?:\d+ +)?(\w+)\(", log.read_text(), flags=re.MULTILINE)
    names = []
    for syscall in syscalls:
        for point in range(1, calls.count(syscall) + 1):
            path = Path(shutil.copytree(template, folder / f"{syscall}-{point:03d}"))
            rule = ["-e", f"trace={syscall}", "-e", f"inject={syscall}:{effect}:when={point}"]
            traced(path, ["-o", "/dev/null", *rule])
            names.append(path.name)
    return names


def traced(path: Path, options: list[str]) -> None:
    """A forked writer with strace attached; returns when it has ended, however it did."""
    hold, go = os.pipe()
    if (pid := os.fork()) == 0:
        os.read(hold, 1)
        promises = (path.parent / f"{path.name}.promises").open("a", buffering=1)
        with suppress(OSError, CacheError):
            use(path, lambda text: print(text, file=promises))
        os._exit(0)
    with subprocess.Popen(
        ["strace", "-f", "-qq", *options, "-p", str(pid)], stderr=subprocess.PIPE
    ) as strace:
        while "TracerPid:\t0" in Path(f"/proc/{pid}/status").read_text():
            if strace.poll() is not None:
                os.kill(pid, signal.SIGKILL)
                raise SystemExit(f"strace cannot attach: {strace.communicate()[1]!r}")
        os.write(go, b"x")
        os.waitpid(pid, 0)
    os.close(hold)
    os.close(go)


if __name__ == "__main__":
    target, *more = sys.argv[1:]
    print(
        json.dumps(
            enumerate_system_calls(Path(target), *more[:1], more[1:])
            if more
            else enumerate_kills(Path(target))
        )
    )
