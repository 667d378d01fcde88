"""The row file beside each segment: the same rows, laid out for look-up by key in microseconds.

It is a pure function of the segment's table and can be made again from it. Little-endian:

    header     64 bytes: magic, version, fan bits b, rows n, where the index ends, where the file ends
    fan        (2^b + 1) uint32: the first key of each value of the leading b bits
    keys       n x 16 bytes, in ascending order
    offsets    (n + 1) uint64: where each row lies in the file
    samples    n uint64, ascending: BLAKE2b-64 of the sample ids
    of_sample  n uint32: the row that each of them belongs to
    rows       16 bytes BLAKE2b-128 of key and JSON, then the row as a JSON array (UTF-8), see `schema.to_values`

Everything before the rows is the index: it is mapped into memory and its SHA-256 stands in the manifest,
so it is checked when the file is opened. Each row is read with one `pread` and checked by itself.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import struct
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rationale_cache.errors import CacheDamaged
from rationale_cache.keys import KEY_BYTES
from rationale_cache.schema import NAMES, to_values

MAGIC, VERSION = b"OPSDROWS", 1
HEADER = struct.Struct("<8sIIQQQ24x")
KEYS_PER_FAN = 8
MADE_AT = NAMES.index("made_at")
PAIR32, PAIR64 = struct.Struct("<II"), struct.Struct("<QQ")


def row_file(table: pa.Table) -> tuple[bytes, int]:
    """The content of the row file of a table sorted by key, and where its index ends."""
    keys = b"".join(bytes.fromhex(key) for key in table["key"].to_pylist())
    rows = [_packed(row) for row in _json_rows(table)]
    count = len(rows)
    bits = max(1, (count // KEYS_PER_FAN).bit_length())
    leading = np.frombuffer(keys, dtype=">u4")[:: KEY_BYTES // 4] >> np.uint32(32 - bits)
    fan = np.searchsorted(leading, np.arange(2**bits + 1)).astype("<u4")
    samples = np.array([sample_hash(text) for text in table["sample_id"].to_pylist()], "<u8")
    order = np.argsort(samples, kind="stable").astype("<u4")
    index_end = HEADER.size + 4 * len(fan) + (KEY_BYTES + 8 + 8 + 4) * count + 8
    offsets = index_end + np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype("<u8")
    header = HEADER.pack(MAGIC, VERSION, bits, count, index_end, int(offsets[-1]))
    index = [header, fan.tobytes(), keys, offsets.tobytes(), samples[order].tobytes(), order.tobytes()]
    return b"".join([*index, *rows]), index_end


def sample_hash(sample_id: str) -> int:
    """64 bits of a sample id, as the index has it."""
    content = sample_id.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


class RowFile:
    """One row file, open. Every look-up checks what it returns."""

    def __init__(self, path: Path, *, index_bytes: int, index_sha256: str, size: int) -> None:
        """Map the index and verify it against the manifest's figures. Raises CacheDamaged, FileNotFoundError."""
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._map: mmap.mmap | None = None
        try:
            self._open(index_bytes, index_sha256, size)
        except BaseException:
            self.close()
            raise

    def _open(self, index_bytes: int, index_sha256: str, size: int) -> None:
        found = os.fstat(self._descriptor).st_size
        if found != size:
            raise self._damaged(f"has {found} bytes, the manifest says {size}")
        self._map = mmap.mmap(self._descriptor, index_bytes, prot=mmap.PROT_READ)
        if hashlib.sha256(self._map).hexdigest() != index_sha256:
            raise self._damaged("the index does not have the checksum in the manifest")
        magic, version, bits, self.rows, end, _ = HEADER.unpack_from(self._map, 0)
        if (magic, version, end) != (MAGIC, VERSION, index_bytes):
            raise self._damaged(f"is not a row file of version {VERSION}")
        self._shift = 32 - bits
        self._keys = HEADER.size + 4 * (2**bits + 1)
        self._offsets = self._keys + KEY_BYTES * self.rows
        self._samples = self._offsets + 8 * (self.rows + 1)

    def find(self, key: bytes) -> int | None:
        """The row of a key of 16 bytes."""
        assert self._map is not None
        leading = int.from_bytes(key[:4], "big") >> self._shift
        first, last = PAIR32.unpack_from(self._map, HEADER.size + 4 * leading)
        start = self._keys + KEY_BYTES * first
        bucket = self._map[start : self._keys + KEY_BYTES * last]
        at = bucket.find(key)
        while at % KEY_BYTES and at >= 0:  # across two keys
            at = bucket.find(key, at + 1)
        return None if at < 0 else first + at // KEY_BYTES

    def of_sample(self, sample_id: str) -> list[int]:
        """The rows whose sample id has the same 64 bits; the caller compares the id itself."""
        assert self._map is not None
        hashes = np.frombuffer(self._map, "<u8", self.rows, self._samples)
        rows = np.frombuffer(self._map, "<u4", self.rows, self._samples + 8 * self.rows)
        wanted = np.uint64(sample_hash(sample_id))
        first, last = np.searchsorted(hashes, wanted, "left"), np.searchsorted(hashes, wanted, "right")
        return [int(row) for row in rows[first:last]]

    def key(self, row: int) -> bytes:
        """The 16 bytes of a row's key."""
        assert self._map is not None
        start = self._keys + KEY_BYTES * row
        return self._map[start : start + KEY_BYTES]

    def read(self, row: int) -> list[Any]:
        """The values of a row (`schema.from_values`). Raises CacheDamaged when its checksum does not hold."""
        assert self._map is not None
        start, end = PAIR64.unpack_from(self._map, self._offsets + 8 * row)
        content = os.pread(self._descriptor, end - start, start)
        text = content[KEY_BYTES:]
        if len(content) != end - start or content[:KEY_BYTES] != _checksum(self.key(row), text):
            raise self._damaged(f"row {row} does not have its checksum")
        values: list[Any] = json.loads(text)
        values[MADE_AT] = datetime.fromisoformat(values[MADE_AT])
        return values

    def close(self) -> None:
        """Unmap and close; more than once does nothing."""
        mapped, self._map = self._map, None
        descriptor, self._descriptor = self._descriptor, -1
        if mapped is not None:
            mapped.close()
        if descriptor >= 0:
            os.close(descriptor)

    def _damaged(self, what: str) -> CacheDamaged:
        return CacheDamaged(
            f"{self.path}: {what}; nothing of it was used: run `omniopsd rationales verify "
            f"{self.path.parent.parent}`, which sets it aside so that its keys are asked for again"
        )


def _json_rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    for batch in table.to_batches(max_chunksize=8192):  # Python objects of one batch at a time
        yield from batch.to_pylist()


def _packed(row: dict[str, Any]) -> bytes:
    values = to_values(row)
    values[MADE_AT] = row["made_at"].isoformat()
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode()
    return _checksum(bytes.fromhex(row["key"]), text) + text


def _checksum(key: bytes, text: bytes) -> bytes:
    return hashlib.blake2b(key + text, digest_size=KEY_BYTES).digest()
