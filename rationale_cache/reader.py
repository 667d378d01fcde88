"""Reading a cache: one consistent snapshot, look-up by key in microseconds, any number of processes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from rationale_cache.types import RationaleRecord


class CacheReader:
    """One snapshot of a cache, held open. Pickles as its path: a copy opens the newest snapshot.

    What a writer commits, compacts or removes later does not touch an open reader; `refresh` moves on.
    Not safe to share between threads while `refresh` or `close` runs; look-ups are.
    """

    def __init__(self, path: str | Path) -> None:
        """Open the newest snapshot. Raises CacheMissing, CacheDamaged (an index or manifest fails its checksum)."""
        raise NotImplementedError

    path: Path
    snapshot: int
    """Counts commits from 1; 0 is a cache without any."""

    def get(self, key: str) -> RationaleRecord | None:
        """The record under a key (with a text or a reason), or None. Raises CacheDamaged naming the segment."""
        raise NotImplementedError

    def many(self, keys: Iterable[str]) -> dict[str, RationaleRecord]:
        """The records that are there, by key."""
        raise NotImplementedError

    def of_sample(self, sample_id: str, dataset: str | None = None) -> tuple[RationaleRecord, ...]:
        """All records of a sample, oldest first."""
        raise NotImplementedError

    def records(self) -> Iterator[RationaleRecord]:
        """All records, by segment and there by key."""
        raise NotImplementedError

    def keys(self) -> Iterator[str]:
        """All keys, by segment and there in order."""
        raise NotImplementedError

    def __contains__(self, key: object) -> bool:
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    def refresh(self) -> bool:
        """Go to the newest snapshot; whether there was a newer one."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of the files."""
        raise NotImplementedError

    def __enter__(self) -> CacheReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
