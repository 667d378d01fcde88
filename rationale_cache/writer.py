"""Writing a cache: one process at a time, raw replies ahead, then rows in atomic commits."""

from __future__ import annotations

from pathlib import Path

from rationale_cache.types import RationaleRecord
from rationale_cache.wal import RawReply


class CacheWriter:
    """The single writer of a cache; makes the folder when there is none. Thread-safe.

        with CacheWriter(path) as cache:            # CacheLocked names the process that writes
            for reply in cache.unsettled(): ...     # paid for before a crash, never parsed into a row
            cache.log_reply(reply)                  # on the disk when this returns
            cache.put(record)                       # seen by this writer at once
            cache.commit()                          # seen by every reader, or by none

    Leaving the block without an error commits; with an error, what was put is dropped and its raw
    replies stay in the log, for the next writer's `unsettled`.
    """

    def __init__(self, path: str | Path) -> None:
        """Take the lock and read the log. Raises CacheLocked, CacheDamaged, CacheFull."""
        raise NotImplementedError

    def log_reply(self, *replies: RawReply) -> None:
        """Append raw replies, flushed to the disk when this returns. Raises CacheFull (nothing is half written)."""
        raise NotImplementedError

    def unsettled(self) -> tuple[RawReply, ...]:
        """Logged replies whose key has no record yet, in the order of arrival."""
        raise NotImplementedError

    def put(self, record: RationaleRecord) -> bool:
        """Add a record to the next commit; False when its key has this content already.

        Raises RecordError when the key is not that of the request, KeyConflict when the key has other content.
        """
        raise NotImplementedError

    def get(self, key: str) -> RationaleRecord | None:
        """The record under a key, committed or just put."""
        raise NotImplementedError

    def __contains__(self, key: object) -> bool:
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    @property
    def pending(self) -> int:
        """Records put and not yet committed."""
        raise NotImplementedError

    def commit(self) -> int:
        """Make what was put durable and visible, all or nothing; the number of the snapshot.

        Raises CacheFull: the old snapshot stays, what was put stays pending, and `commit` may be called again.
        """
        raise NotImplementedError

    def compact(self) -> int:
        """Merge the segments into as few as there need be; the number of the snapshot."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of the lock; what was put and not committed is dropped, its raw replies are not."""
        raise NotImplementedError

    def __enter__(self) -> CacheWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self.commit()
        finally:
            self.close()
