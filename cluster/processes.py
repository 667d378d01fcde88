"""Processes of a cluster on this machine: everything that `up` started, and nothing else.

A process belongs to a cluster when its environment has the cluster's mark, when its output goes to the
cluster's own folder, or when its parent belongs to it. The mark alone is not enough: Ray's workers and agents
rename themselves, which overwrites what /proc shows of their environment.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from cluster.node_env import MARK, NODE


@dataclass(frozen=True, slots=True, kw_only=True)
class Owned:
    """One process of a cluster; `node` is the Ray node that it came from, where that can be told."""

    pid: int
    node: str
    command: str


@dataclass(slots=True, kw_only=True)
class _Seen:
    pid: int
    parent: int
    command: str
    own: bool
    node: str


def find_owned(mark: str, folder: Path) -> list[Owned]:
    """Every living process of the cluster `mark` whose Ray folder is `folder`, except this one."""
    seen = {one.pid: one for pid in _pids() if (one := _look(pid, mark, str(folder)))}
    for one in seen.values():
        line = [one]
        while not line[-1].own and line[-1].parent in seen:
            line.append(seen[line[-1].parent])
        if line[-1].own:
            for child in line:
                child.own, child.node = True, child.node or line[-1].node
    return [
        Owned(pid=one.pid, node=one.node, command=one.command)
        for one in seen.values()
        if one.own and one.pid != os.getpid()
    ]


def end_owned(
    mark: str,
    folder: Path,
    *,
    nodes: Collection[str] | None = None,
    patience: float = 5.0,
    limit: float = 30.0,
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """End all processes of a cluster, or of some of its nodes: asked first, killed after `patience` seconds.

    Gives how many there were. Raises TimeoutError when some still live after `limit` seconds.
    """
    begin = clock()
    seen: set[int] = set()
    while left := [one for one in find_owned(mark, folder) if nodes is None or one.node in nodes]:
        waited = clock() - begin
        if waited > limit:
            raise TimeoutError(f"processes {[one.pid for one in left]} do not end")
        for one in left:
            if waited > patience:
                _send(one.pid, signal.SIGKILL)
            elif one.pid not in seen:
                _send(one.pid, signal.SIGTERM)
            seen.add(one.pid)
        time.sleep(0.1)
    return len(seen)


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def _look(pid: int, mark: str, folder: str) -> _Seen | None:
    """What /proc says of a process of this user; None when it ended or is somebody else's."""
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return None
    if state == "Z":
        return None
    own = f"{MARK}={mark}".encode() in environment or any(
        _output(pid, n).startswith(f"{folder}/") for n in (1, 2)
    )
    node = next((v.split(b"=", 1)[1].decode() for v in environment if v.startswith(f"{NODE}=".encode())), "")
    return _Seen(pid=pid, parent=int(parent), command=command.strip(), own=own, node=node if own else "")


def _output(pid: int, descriptor: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/fd/{descriptor}")
    except OSError:
        return ""


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
