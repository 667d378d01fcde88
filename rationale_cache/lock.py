"""One writer at a time. The kernel holds the lock, so it goes when its owner dies, however it dies."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import weakref
from datetime import UTC, datetime
from pathlib import Path

from rationale_cache.errors import CacheLocked


class WriterLock:
    """`flock` on a file that also says who holds it: host, pid and since when.

    A forked child lets go of its copy at once: it could otherwise outlive the owner and keep the lock.
    """

    def __init__(self, path: Path) -> None:
        """Take the lock, or raise CacheLocked naming its owner. Never waits."""
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = _owner(self._descriptor)
            self.release()
            if not isinstance(error, BlockingIOError):
                raise
            raise CacheLocked(
                f"{path.parent} is being written by {owner}: wait for it or stop it; reading needs no lock"
            ) from None
        now = datetime.now(UTC).isoformat(timespec="seconds")
        text = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": now})
        try:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, text.encode(), 0)
        except OSError:  # a full disk: the lock holds all the same, only its owner has no name
            pass
        _held.add(self)

    def check(self) -> None:
        """Raises CacheLocked when this process does not hold the lock: it was released, or the owner forked."""
        if self._descriptor < 0:
            raise CacheLocked("this writer was closed, or its process forked: open the cache anew")

    def release(self) -> None:
        """Let go; more than once does nothing."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


_held: weakref.WeakSet[WriterLock] = weakref.WeakSet()


def _release_all() -> None:
    for lock in list(_held):
        lock.release()


os.register_at_fork(after_in_child=_release_all)


def _owner(descriptor: int) -> str:
    try:
        found = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {found['pid']} on {found['host']} since {found['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
