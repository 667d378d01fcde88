"""A disk that loses what was not flushed, as a power cut may: the folder as it would be found afterwards.

The calls go to the real disk; beside it a model keeps, for each file and folder, what the last fsync made
durable. After `stop_after` calls the program is stopped, and `leave` writes the durable state elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.cache_faults import watched


class PowerCut(BaseException):
    """Not an Exception, so that no handler of the program can take it for an error."""


class LossyDisk:
    """The durable state below one folder. A file is known by its inode, a folder by its path."""

    def __init__(self, root: Path, *, stop_after: int) -> None:
        self._root, self._stop_after = root, stop_after
        self._content: dict[int, bytes] = {}
        self._names: dict[Path, dict[str, int | None]] = {}
        for folder, _, files in os.walk(root):
            self._names[Path(folder)] = _listing(Path(folder))
            for name in files:
                path = Path(folder, name)
                self._content[path.stat().st_ino] = path.read_bytes()
        self._keep_open: list[int] = []

    def run(self, program: Callable[[], None]) -> bool:
        """Run until the cut; whether the program came to its end before."""
        try:
            with watched(self._before, self._after):
                program()
        except PowerCut:
            return False
        finally:
            for descriptor in self._keep_open:
                os.close(descriptor)
        return True

    def leave(self, target: Path, *, names_kept: bool) -> None:
        """Write what a power cut leaves; with `names_kept` all names were flushed by chance, contents were not."""
        target.mkdir(parents=True)
        names = {folder: _listing(folder) for folder in self._folders()} if names_kept else self._names
        self._write(self._root, target, names)

    def _write(self, folder: Path, target: Path, names: dict[Path, dict[str, int | None]]) -> None:
        for name, inode in names.get(folder, {}).items():
            if inode is None:
                (target / name).mkdir()
                self._write(folder / name, target / name, names)
            else:
                (target / name).write_bytes(self._content.get(inode, b""))

    def _before(self, count: int, name: str, arguments: tuple[Any, ...]) -> None:
        if count > self._stop_after:
            raise PowerCut
        if name == "unlink" and Path(arguments[0]).exists():  # keep the inode's number from being used again
            self._keep_open.append(os.open(arguments[0], os.O_RDONLY))

    def _after(self, count: int, name: str, arguments: tuple[Any, ...]) -> None:
        """An fsync makes durable what it names."""
        if name != "fsync":
            return
        path = Path(os.readlink(f"/proc/self/fd/{arguments[0]}"))
        if path.is_dir():
            self._names[path] = _listing(path)
        else:
            self._content[os.fstat(arguments[0]).st_ino] = path.read_bytes()

    def _folders(self) -> list[Path]:
        return [Path(folder) for folder, _, _ in os.walk(self._root)]


def _listing(folder: Path) -> dict[str, int | None]:
    return {entry.name: None if entry.is_dir() else entry.inode() for entry in os.scandir(folder)}
