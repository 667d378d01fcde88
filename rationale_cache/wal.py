"""The write-ahead log of raw replies: on the disk before anybody parses them, so nothing is paid twice.

    replies.log    8 bytes "OPSDWAL1", then one entry for each reply:
                   4 bytes "RPLY", uint32 length, 16 bytes BLAKE2b-128 of the JSON, the JSON (UTF-8)

A kill in the middle of an append leaves a torn tail, which is cut at the next start; that reply was never
acknowledged. A sound entry after a broken one means damage, not a kill: the broken bytes are kept aside.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from rationale_cache.disk import append, cut, make_folder, write_file
from rationale_cache.errors import CacheFull
from rationale_cache.keys import KEY_BYTES

NAME, QUARANTINE = "replies.log", "quarantine"
MAGIC, ENTRY = b"OPSDWAL1", struct.Struct(f"<4sI{KEY_BYTES}s")
MARK = b"RPLY"
MOST_WASTE = 16 * 1024**2
"""Bytes of settled replies that may stay in the log before it is written anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RawReply:
    """One paid reply as it came. `body` is the reply's JSON text; `detail` is JSON text for its maker.

    `attempt` counts the requests for this key from 1; `latency` in seconds; `received_at` UTC.
    """

    key: str
    sample_id: str
    attempt: int
    body: str
    latency: float
    received_at: datetime
    detail: str = "{}"


class ReplyLog:
    """The log, open for its one writer. Thread-safe."""

    def __init__(self, cache: Path) -> None:
        """Open and check the log; `notices` says in sentences what was cut or set aside. Raises CacheFull."""
        self.path, self.notices = cache / NAME, list[str]()
        self._guard = threading.Lock()
        self._descriptor, self._end = -1, 0
        self._replies: dict[str, list[RawReply]] = {}
        if not self.path.exists():
            write_file(self.path, MAGIC)
        self._open()

    def append(self, *replies: RawReply) -> None:
        """Add replies, flushed when this returns. Raises CacheFull; the log then ends where it did before."""
        content = b"".join(packed(reply) for reply in replies)
        with self._guard:
            append(self._descriptor, self.path, content, self._end)
            self._end += len(content)
            self._add(replies)

    def unsettled(self) -> tuple[RawReply, ...]:
        """Replies that were not settled, in the order of their keys' first arrival."""
        with self._guard:
            return tuple(reply for replies in self._replies.values() for reply in replies)

    def settle(self, keys: Iterable[str]) -> None:
        """Forget the replies of keys whose record is committed. A full disk only postpones the clearing."""
        with self._guard:
            for key in keys:
                self._replies.pop(key, None)
            if not self._replies:
                if self._end > len(MAGIC):
                    with suppress(CacheFull):
                        cut(self._descriptor, self.path, len(MAGIC))
                    self._end = os.fstat(self._descriptor).st_size
                return
            kept = b"".join(packed(reply) for replies in self._replies.values() for reply in replies)
            if self._end - len(kept) > MOST_WASTE:
                self._rewrite(kept)

    def close(self) -> None:
        """Close the file."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _open(self) -> None:
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        content = self.path.read_bytes()
        replies, self._end, broken = scan(content)
        self._add(replies)
        if torn := len(content) - self._end:
            cut(self._descriptor, self.path, self._end)
            self.notices.append(f"{self.path}: cut {torn} bytes of a reply that was being written at a crash")
        if broken or not content.startswith(MAGIC):
            self._set_aside(content, broken)

    def _set_aside(self, content: bytes, broken: list[tuple[int, int]]) -> None:
        """Keep damaged bytes for people to look at; the log goes on without them."""
        folder = self.path.parent / QUARANTINE
        make_folder(folder)
        for start, end in broken:
            name = f"replies-{hashlib.sha256(content[start:end]).hexdigest()[:12]}.bin"
            write_file(folder / name, content[start:end])
            self.notices.append(
                f"{self.path}: bytes {start} to {end} are damaged; they are set aside as {folder / name}, "
                "and what they answered is asked for again"
            )
        self._rewrite(b"".join(packed(reply) for replies in self._replies.values() for reply in replies))

    def _add(self, replies: Iterable[RawReply]) -> None:
        for reply in replies:
            self._replies.setdefault(reply.key, []).append(reply)

    def _rewrite(self, kept: bytes) -> None:
        try:
            write_file(self.path, MAGIC + kept)
        except CacheFull:
            return
        os.close(self._descriptor)
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        self._end = len(MAGIC) + len(kept)


def packed(reply: RawReply) -> bytes:
    """One entry of the log."""
    values = {**asdict(reply), "received_at": reply.received_at.isoformat()}
    text = json.dumps(values).encode()
    return ENTRY.pack(MARK, len(text), _checksum(text)) + text


def scan(content: bytes) -> tuple[list[RawReply], int, list[tuple[int, int]]]:
    """The sound replies of a log, where its sound part ends, and the damaged ranges before that end. Pure."""
    replies, broken = list[RawReply](), list[tuple[int, int]]()
    at = len(MAGIC) if content.startswith(MAGIC) else 0
    while (found := _next(content, at)) is not None:
        start, end, reply = found
        if start > at:
            broken.append((at, start))
        replies.append(reply)
        at = end
    return replies, at, broken


def _next(content: bytes, at: int) -> tuple[int, int, RawReply] | None:
    """The first sound entry from `at` on: where it starts and ends, and the reply."""
    while (at := content.find(MARK, at)) >= 0:
        body = at + ENTRY.size
        if body <= len(content):
            _, length, checksum = ENTRY.unpack_from(content, at)
            text = content[body : body + length]
            if len(text) == length and _checksum(text) == checksum:
                values = json.loads(text)
                values["received_at"] = datetime.fromisoformat(values["received_at"])
                return at, body + length, RawReply(**values)
        at += 1
    return None


def _checksum(text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=KEY_BYTES).digest()
