"""Replies that survive a kill: an append-only file of lines, each on the disk before its reply is used.

    {"key": "5f0c...", "text": "[happy, sad]", "clip": "MELD/test_dia0_utt0"}

`key` is a hash of everything that decides the reply (`content_key`), so a changed prompt, model or medium is
another question and an unchanged one is never asked twice. A line cut short by a kill is dropped on opening;
damage anywhere else is an error, because a reply that was paid for must not vanish silently.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any


class JournalError(ValueError):
    """A journal that is damaged or in use."""


def content_key(parts: Mapping[str, Any]) -> str:
    """Hash of JSON values, independent of their order: what decides one reply."""
    text = json.dumps(dict(parts), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.blake2b(text.encode("ascii"), digest_size=16).hexdigest()


class Journal:
    """One file, one writer; a context manager.

    >>> with Journal(Path("replies.jsonl")) as journal:     # doctest: +SKIP
    ...     if journal.get(key) is None:
    ...         journal.add([(key, ask(), {"clip": "MELD/test_dia0_utt0"})])
    """

    def __init__(self, path: Path) -> None:
        """Open or make the file. Raises JournalError when another run writes to it, or it is damaged."""
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise JournalError(
                f"{path}: another run is writing here; wait for it, or choose another --out"
            ) from error
        self._rows: dict[str, tuple[str, Mapping[str, Any]]] = {}
        self._read()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, key: str) -> str | None:
        """The reply of a key, or None."""
        row = self._rows.get(key)
        return row[0] if row else None

    def facts(self, key: str) -> Mapping[str, Any]:
        """What was kept beside the reply of a key."""
        return self._rows[key][1]

    def add(self, replies: Iterable[tuple[str, str, Mapping[str, Any]]]) -> None:
        """Keep replies (key, text, facts for the reader); returns when they are on the disk.

        A key that is there keeps its first text: what was scored once is scored again.
        """
        fresh = {key: (text, facts) for key, text, facts in replies if key not in self._rows}
        lines = [json.dumps({"key": key, "text": text, **facts}) for key, (text, facts) in fresh.items()]
        if not lines:
            return
        self._file.write(("\n".join(lines) + "\n").encode())
        self._file.flush()
        os.fsync(self._file.fileno())
        self._rows |= fresh

    def digest(self, keys: Iterable[str]) -> str:
        """Hash of the replies of some keys, in the order of the keys: names what a score was made from."""
        hashed = hashlib.sha256()
        for key in sorted(set(keys)):
            hashed.update(f"{key} {json.dumps(self._rows[key][0])}\n".encode())
        return hashed.hexdigest()

    def _read(self) -> None:
        self._file.seek(0)
        content = self._file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            self._file.truncate(whole)  # a kill came between two writes of one line
        for number, line in enumerate(content[:whole].splitlines(), start=1):
            try:
                row = json.loads(line)
                key, text = row.pop("key"), row.pop("text")
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                self._file.close()
                raise JournalError(
                    f"{self.path}:{number}: not a reply ({error}); restore the file, or delete this line"
                ) from error
            self._rows.setdefault(key, (text, row))
