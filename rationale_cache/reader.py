"""Reading a cache: one consistent snapshot, look-up by key in microseconds, any number of processes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from rationale_cache.errors import CacheDamaged
from rationale_cache.manifest import EMPTY, Manifest, manifest_path, newest
from rationale_cache.rowfile import RowFile
from rationale_cache.schema import from_values
from rationale_cache.segment import row_path
from rationale_cache.types import RationaleRecord


class CacheReader:
    """One snapshot of a cache, held open. Pickles as its path: a copy opens the newest snapshot.

    What a writer commits, compacts or removes later does not touch an open reader; `refresh` moves on.
    Look-ups may run in several threads at once, but not beside `refresh` or `close`.
    """

    def __init__(self, path: str | Path) -> None:
        """Open the newest snapshot. Raises CacheMissing, and CacheDamaged where an index fails its checksum."""
        self.path = Path(path)
        self._manifest, self._files = EMPTY, dict[str, RowFile]()
        self._move_to(newest(self.path))

    @property
    def snapshot(self) -> int:
        """Counts commits from 1; 0 is a cache without any."""
        return self._manifest.snapshot

    @property
    def manifest(self) -> Manifest:
        """What the snapshot is made of."""
        return self._manifest

    def get(self, key: str) -> RationaleRecord | None:
        """The record under a key (with a text or a reason), or None. Raises CacheDamaged naming the file."""
        found = self._find(key)
        return None if found is None else from_values(found[0].read(found[1]))

    def many(self, keys: Iterable[str]) -> dict[str, RationaleRecord]:
        """The records that are there, by key."""
        return {key: record for key in keys if (record := self.get(key)) is not None}

    def of_sample(self, sample_id: str, dataset: str | None = None) -> tuple[RationaleRecord, ...]:
        """All records of a sample, oldest first; of every data set unless one is named."""
        found = [
            from_values(file.read(row)) for file in self._files.values() for row in file.of_sample(sample_id)
        ]
        wanted = (r for r in found if r.sample_id == sample_id and dataset in (None, r.dataset))
        return tuple(sorted(wanted, key=lambda record: (record.made_at, record.key)))

    def records(self) -> Iterator[RationaleRecord]:
        """All records, by segment and there by key."""
        for file in self._files.values():
            yield from (from_values(file.read(row)) for row in range(file.rows))

    def keys(self) -> Iterator[str]:
        """All keys, by segment and there in order."""
        for file in self._files.values():
            yield from (file.key(row).hex() for row in range(file.rows))

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._find(key) is not None

    def __len__(self) -> int:
        return self._manifest.records

    def refresh(self) -> bool:
        """Go to the newest snapshot; whether there was another one. Raises CacheDamaged, and stays where it is."""
        manifest = newest(self.path)
        if manifest == self._manifest:
            return False
        self._move_to(manifest)
        return True

    def close(self) -> None:
        """Let go of the files; look-ups find nothing after this."""
        files, self._files, self._manifest = self._files, {}, EMPTY
        for file in files.values():
            file.close()

    def __enter__(self) -> CacheReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[type[CacheReader], tuple[str]]:
        return CacheReader, (str(self.path.absolute()),)  # the copy may live in another folder

    def _find(self, key: str) -> tuple[RowFile, int] | None:
        wanted = _key_bytes(key)
        for file in self._files.values():
            row = file.find(wanted)
            if row is not None:
                return file, row
        return None

    def _move_to(self, manifest: Manifest) -> None:
        while True:
            try:
                files = self._open(manifest)
                break
            except FileNotFoundError as error:
                latest = newest(self.path)
                if latest == manifest:
                    raise CacheDamaged(
                        f"{error.filename}: the file is gone, and {manifest_path(self.path, manifest.snapshot)} "
                        f"needs it: run `omniopsd rationales verify {self.path}`"
                    ) from error
                manifest = latest
        old, self._files, self._manifest = self._files, files, manifest
        for name in old.keys() - files.keys():
            old[name].close()

    def _open(self, manifest: Manifest) -> dict[str, RowFile]:
        """The row files of a manifest, largest first, those that are open already as they are."""
        files: dict[str, RowFile] = {}
        try:
            for entry in sorted(manifest.segments, key=lambda entry: -entry.rows):
                files[entry.name] = self._files.get(entry.name) or RowFile(
                    row_path(self.path, entry.name),
                    index_bytes=entry.index_bytes,
                    index_sha256=entry.index_sha256,
                    size=entry.row_bytes,
                )
        except BaseException:
            for name in files.keys() - self._files.keys():
                files[name].close()
            raise
        return files


def _key_bytes(key: str) -> bytes:
    if len(key) != 32:
        raise ValueError(f"{key!r} is not a key: a key has 32 hex digits")
    return bytes.fromhex(key)
