"""Setting damage aside: what is sound stays, what can be proven is saved, the rest is asked for again.

A segment is on the disk twice, as Parquet and as a row file. When one of the two is damaged the rows come from
the other; when both are, single rows of the row file still prove themselves by their own checksums.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rationale_cache import manifest as manifests
from rationale_cache.disk import make_folder, move
from rationale_cache.errors import CacheDamaged
from rationale_cache.keys import key_of
from rationale_cache.manifest import EMPTY, Manifest
from rationale_cache.schema import from_values, to_table
from rationale_cache.segment import parquet_path, parse_segment, read_segment, row_path, sound_records
from rationale_cache.types import RationaleRecord
from rationale_cache.verify import Progress, SegmentCheck, check_segments, open_rows
from rationale_cache.wal import QUARANTINE, ReplyLog
from rationale_cache.writer import take_lock, write_snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """What was done, in sentences, none for a sound cache; `lost` records will be asked for again."""

    snapshot: int
    records: int
    lost: int
    sentences: tuple[str, ...]


def repair(cache: Path, progress: Progress | None = None) -> Repair:
    """Verify a cache and mend it. Raises CacheLocked, CacheFull, CacheMissing."""
    manifests.snapshots(cache)  # a path without a cache does not become one
    lock = take_lock(cache)
    try:
        return _repair(cache, progress)
    finally:
        lock.release()


def _repair(cache: Path, progress: Progress | None) -> Repair:
    base, unreadable = _newest_readable(cache)
    checks = check_segments(cache, base, progress)
    bad = [check for check in checks if check.faults]
    log = ReplyLog(cache)  # mends itself
    log.close()
    lost, sentences = 0, list(log.notices)
    current = base
    if bad or unreadable or _headless(cache, base):
        kept = [check.entry for check in checks if not check.faults]
        saved = [_saved(cache, check) for check in bad]
        found = _adopted(cache, base) if unreadable or base is EMPTY else []
        records = _once([*(row for rows in saved for row in rows), *found], cache, checks)
        number = max([base.snapshot, *manifests.snapshots(cache)]) + 1
        current = write_snapshot(cache, number, kept, to_table(records))
        if _headless(cache, base) and not unreadable:
            sentences.append(f"{cache}: no manifest was left; {len(records)} records came back from segments")
        sentences += [_manifest_sentence(path, base, len(records)) for path in unreadable]
        sentences += [_sentence(cache, c, len(rows)) for c, rows in zip(bad, saved, strict=True)]
        lost = sum(check.entry.rows - len(rows) for check, rows in zip(bad, saved, strict=True))
        _set_aside(cache, [*unreadable, *_files(cache, bad)])
    return Repair(snapshot=current.snapshot, records=current.records, lost=lost, sentences=tuple(sentences))


def _newest_readable(cache: Path) -> tuple[Manifest, list[Path]]:
    unreadable: list[Path] = []
    for number in reversed(manifests.snapshots(cache)):
        try:
            return manifests.read_manifest(cache, number), unreadable
        except CacheDamaged:
            unreadable.append(manifests.manifest_path(cache, number))
    return EMPTY, unreadable


def _headless(cache: Path, base: Manifest) -> bool:
    """Whether there are segments and no manifest at all."""
    return base is EMPTY and any((cache / manifests.SEGMENTS).glob("*.parquet"))


def _saved(cache: Path, check: SegmentCheck) -> list[RationaleRecord]:
    """The records of a damaged segment that prove themselves."""
    if check.parquet_fault is None:
        path = parquet_path(cache, check.entry.name)
        return list(sound_records(path, read_segment(cache, check.entry)))
    return list(_proven_rows(cache, check))


def _proven_rows(cache: Path, check: SegmentCheck) -> Iterator[RationaleRecord]:
    try:
        rows = open_rows(cache, check.entry)
    except CacheDamaged:
        return
    for row in range(rows.rows):
        try:
            record = from_values(rows.read(row))
        except (ValueError, KeyError, TypeError):
            continue
        if record.key == key_of(record.request):
            yield record
    rows.close()


def _adopted(cache: Path, base: Manifest) -> list[RationaleRecord]:
    """The records of sound Parquet files that no readable manifest names."""
    known = {parquet_path(cache, entry.name) for entry in base.segments}
    found: list[RationaleRecord] = []
    for path in sorted(set((cache / manifests.SEGMENTS).glob("*.parquet")) - known):
        with suppress(CacheDamaged):
            found += list(sound_records(path, parse_segment(path, path.read_bytes())))
    return found


def _once(
    records: list[RationaleRecord], cache: Path, checks: tuple[SegmentCheck, ...]
) -> list[RationaleRecord]:
    """Each key once, without those of the segments that stay."""
    there = set[str]()
    for check in checks:
        if not check.faults:
            rows = open_rows(cache, check.entry)
            there.update(rows.key(row).hex() for row in range(rows.rows))
            rows.close()
    return list({record.key: record for record in records if record.key not in there}.values())


def _files(cache: Path, bad: list[SegmentCheck]) -> list[Path]:
    return [path(cache, check.entry.name) for check in bad for path in (parquet_path, row_path)]


def _set_aside(cache: Path, paths: list[Path]) -> None:
    make_folder(cache / QUARANTINE)
    for path in paths:
        move(path, cache / QUARANTINE / path.name)


def _sentence(cache: Path, check: SegmentCheck, saved: int) -> str:
    fate = "all of them were saved"
    if saved < check.entry.rows:
        fate = f"{saved} were saved, {check.entry.rows - saved} are lost and will be asked for again"
    return (
        f"{'; '.join(_short(fault) for fault in check.faults)}; set aside in {cache / QUARANTINE}: "
        f"of {check.entry.rows} records {fate}"
    )


def _manifest_sentence(path: Path, base: Manifest, records: int) -> str:
    return (
        f"{path} is damaged and set aside; snapshot {base.snapshot} is the newest sound one, "
        f"and {records} records came back from segments"
    )


def _short(fault: str) -> str:
    return fault.split(": run `")[0].split("; nothing of it")[0]
