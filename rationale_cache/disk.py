"""Writes that survive a kill or a power cut: the old content or the new, never a part of either.

Everything that the cache does to the disk goes through here, one `os` call at a time, so that a test can
stop before each of them.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rationale_cache.errors import CacheError, CacheFull

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
TEMPORARY = ".tmp"


def write_file(path: Path, content: bytes | memoryview) -> None:
    """Make or replace a file: a temporary sibling, fsync, rename, fsync of the folder. Raises CacheFull."""
    temporary = path.with_name(f".{path.name}{TEMPORARY}")
    with told(path):
        try:
            _write_new(temporary, content)
            os.replace(temporary, path)
        except OSError:
            remove(temporary)
            raise
        sync_folder(path.parent)


def append(descriptor: int, path: Path, content: bytes, end: int) -> None:
    """Add to a log whose sound part ends at `end`, flushed; after an error the log ends there again."""
    with told(path):
        try:
            _write_all(descriptor, content, end)
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, end)
            raise


def cut(descriptor: int, path: Path, end: int) -> None:
    """Shorten an open file, flushed. Raises CacheFull: some file systems need space for that, too."""
    with told(path):
        os.ftruncate(descriptor, end)
        os.fsync(descriptor)


def make_folder(path: Path) -> None:
    """Make a folder and its parents, flushed into the parent that was there."""
    if path.is_dir():
        return
    make_folder(path.parent)
    with told(path):
        try:
            os.mkdir(path, 0o700)  # rationales speak of people's faces and voices
        except FileExistsError:
            if not path.is_dir():
                raise CacheError(f"{path} is a file; a cache is a folder: choose another path") from None
        sync_folder(path.parent)


def move(source: Path, target: Path) -> None:
    """Rename within one file system, flushed; nothing happens when the source is not there."""
    if not source.exists():
        return
    os.replace(source, target)
    sync_folder(target.parent)
    sync_folder(source.parent)


def remove(path: Path) -> None:
    """Remove a file that nothing refers to any more; need not be durable."""
    with suppress(FileNotFoundError):
        os.unlink(path)


def sync_folder(path: Path) -> None:
    """Flush a folder: a new or renamed file is only there for good after this."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Turn a full or forbidden disk into an error that says what to do; other errors pass."""
    try:
        yield
    except OSError as error:
        found = f"{path}: {os.strerror(error.errno or 0)}"
        if error.errno in FORBIDDEN:
            raise CacheError(f"{found}; choose a folder that you may write to") from error
        if error.errno not in FULL:
            raise
        raise CacheFull(
            f"{found}; what was committed before stays readable: free space (or raise the quota) and run the "
            "same command again"
        ) from error


def _write_new(path: Path, content: bytes | memoryview) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        _write_all(descriptor, content, 0)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, content: bytes | memoryview, at: int) -> None:
    left = memoryview(content)
    while left:
        written = os.pwrite(descriptor, left, at)
        left, at = left[written:], at + written
