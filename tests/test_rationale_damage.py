"""Damage on the disk: always noticed, never returned as data, and mended as far as it can be proven."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from pathlib import Path

import pytest

from rationale_cache.errors import CacheDamaged, CacheError, CacheLocked
from rationale_cache.manifest import newest
from rationale_cache.reader import CacheReader
from rationale_cache.repair import repair
from rationale_cache.types import RationaleRecord
from rationale_cache.verify import verify
from rationale_cache.writer import CacheWriter
from tests.cache_scene import a_record, a_reply, make_cache

COMMITS = (range(0, 14), range(14, 22), range(22, 27))
TRUTH = {a_record(number).key: a_record(number) for number in range(27)}
MUTATIONS = 1_000


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return make_cache(tmp_path / "c", *COMMITS)


def read_all(path: Path) -> Counter[str]:
    """Look every key up; what came back must be the truth."""
    outcome: Counter[str] = Counter()
    try:
        reader = CacheReader(path)
    except CacheError:
        return Counter(refused=1)
    for key, record in TRUTH.items():
        try:
            found = reader.get(key)
        except CacheDamaged:
            outcome["refused"] += 1
        else:
            assert found == record, "damage was returned as data, or a row as missing"
            outcome["right"] += 1
    reader.close()
    return outcome


def mutate(draw: random.Random, path: Path) -> str:
    """Damage one thing; its description."""
    files = sorted((path / "segments").iterdir()) + [max((path / "snapshots").iterdir())]
    kind = draw.choice(["flip", "flip", "flip", "cut", "swap", "swap both", "gone", "zeros"])
    file = draw.choice(files)
    content = bytearray(file.read_bytes())
    at = draw.randrange(len(content))
    if kind == "flip":
        content[at] ^= 1 << draw.randrange(8)
    if kind == "zeros":
        content[at : at + 64] = bytes(len(content[at : at + 64]))
        if bytes(content) == file.read_bytes():
            content[at] ^= 1
    if kind in ("flip", "zeros"):
        file.write_bytes(content)
    elif kind == "cut":
        file.write_bytes(content[:at])
    elif kind == "gone" and file.suffix != ".json":
        file.unlink()
    else:
        swap(draw, path, both=kind == "swap both")
    return f"{kind} {file.name} at {at}"


def swap(draw: random.Random, path: Path, *, both: bool) -> None:
    """Exchange two segments' files: one kind of them, or both."""
    names = draw.sample([entry.name for entry in newest(path).segments], 2)
    for suffix in ("parquet", "rows") if both else (draw.choice(("parquet", "rows")),):
        one, other = (path / "segments" / f"{name}.{suffix}" for name in names)
        content = one.read_bytes()
        one.write_bytes(other.read_bytes())
        other.write_bytes(content)


@pytest.mark.slow
def test_a_thousand_damages_are_noticed_and_none_is_returned(cache: Path, tmp_path: Path) -> None:
    draw, seen = random.Random(20260504), Counter[str]()
    assert verify(cache).sound and read_all(cache) == {"right": len(TRUTH)}
    sound = {path: path.read_bytes() for path in cache.rglob("*") if path.is_file()}
    for number in range(MUTATIONS):
        what = mutate(draw, cache)
        assert not verify(cache).sound, f"{number}: {what} went unnoticed"
        seen += read_all(cache)
        if number % 25 == 0:
            mended(Path(shutil.copytree(cache, tmp_path / f"mended-{number}")))
        for path, content in sound.items():
            if not path.exists() or path.read_bytes() != content:
                path.write_bytes(content)
    assert seen["refused"] > 200 and seen["right"] > 1_000


def mended(path: Path) -> dict[str, RationaleRecord]:
    """Repair, and see that what is left is sound and true and that the lost ones are counted."""
    done = repair(path)
    assert done.sentences and verify(path).sound
    with CacheReader(path) as reader:
        left = {record.key: record for record in reader.records()}
    assert left.items() <= TRUTH.items() and len(left) == done.records
    assert repair(path).sentences == (), "nothing is left to mend"
    return left


def the_files(path: Path, at: int = 0) -> tuple[Path, Path]:
    name = newest(path).segments[at].name
    return path / "segments" / f"{name}.parquet", path / "segments" / f"{name}.rows"


def flip(file: Path, at: int) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("which", [0, 1], ids=["parquet", "rows"])
def test_one_damaged_file_loses_nothing(cache: Path, which: int) -> None:
    file = the_files(cache)[which]
    flip(file, file.stat().st_size // 2)
    (fault,) = verify(cache).faults
    assert str(file) in fault and "checksum" in fault
    assert mended(cache) == TRUTH
    assert (cache / "quarantine" / file.name).exists() and not file.exists()


def test_a_segment_damaged_twice_is_set_aside_and_its_keys_are_asked_for_again(cache: Path) -> None:
    for file in the_files(cache):
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(CacheDamaged, match="omniopsd rationales verify .* sets it aside"):
        CacheReader(cache)
    with pytest.raises(CacheDamaged):
        CacheWriter(cache)
    done = repair(cache)
    rows = len(COMMITS[0])
    assert (done.lost, done.records) == (rows, len(TRUTH) - rows)
    (sentence,) = done.sentences
    assert f"of {rows} records 0 were saved, {rows} are lost and will be asked for again" in sentence
    with CacheWriter(cache) as writer:
        missing = [number for number in range(27) if a_record(number).key not in writer]
        assert missing == list(COMMITS[0])
        writer.put_all(a_record(number) for number in missing)
    assert mended_or_sound(cache) == TRUTH


def mended_or_sound(path: Path) -> dict[str, RationaleRecord]:
    assert verify(path).sound
    with CacheReader(path) as reader:
        return {record.key: record for record in reader.records()}


def test_single_rows_prove_themselves(cache: Path) -> None:
    parquet, rows = the_files(cache)
    parquet.unlink()
    flip(rows, rows.stat().st_size - 20)  # in the last row
    left = mended(cache)
    assert len(left) == len(TRUTH) - 1
    with CacheReader(cache) as reader:
        assert [key for key in TRUTH if key not in reader] == [key for key in TRUTH if key not in left]


def test_a_damaged_manifest_costs_nothing(cache: Path) -> None:
    newest_path = max((cache / "snapshots").iterdir())
    flip(newest_path, 200)
    with pytest.raises(CacheDamaged, match="the manifest is damaged.*omniopsd rationales verify"):
        CacheReader(cache)
    assert mended(cache) == TRUTH
    assert newest(cache).snapshot == 4, "no number is used twice"


def test_a_cache_without_manifests_is_made_again_from_its_segments(cache: Path) -> None:
    for file in (cache / "snapshots").iterdir():
        file.unlink()
    assert not verify(cache).sound
    assert mended(cache) == TRUTH


def test_damage_in_the_log_is_kept_aside_and_a_torn_tail_is_cut(cache: Path) -> None:
    with CacheWriter(cache) as writer:
        writer.log_reply(a_reply(100), a_reply(101), a_reply(102), a_reply(103))
    log = cache / "replies.log"
    flip(log, log.stat().st_size // 3)
    with log.open("ab") as file:
        file.write(b"RPLY\x00\x01torn")
    (fault,) = verify(cache).faults
    assert "replies.log: bytes" in fault
    with CacheWriter(cache) as writer:
        assert {reply.key for reply in writer.unsettled()} == {a_record(n).key for n in (100, 102, 103)}
        torn, damaged = writer.notices
        assert "set aside" in damaged and "asked for again" in damaged and "cut 10 bytes" in torn
    assert verify(cache).sound and len(list((cache / "quarantine").iterdir())) == 1
    with CacheWriter(cache) as writer:
        assert writer.notices == ()


def test_a_commit_that_would_merge_damage_refuses_and_keeps_the_replies(cache: Path) -> None:
    parquet, _ = the_files(cache)
    flip(parquet, 300)
    with CacheWriter(cache) as writer:
        writer.log_reply(a_reply(100))
        writer.put(a_record(100))
        with pytest.raises(CacheDamaged, match="omniopsd rationales verify"):
            writer.compact()
        assert writer.pending == 1
        writer.commit()
    assert repair(cache).lost == 0 and len(CacheReader(cache)) == 28


def test_a_repair_waits_for_nobody(cache: Path) -> None:
    with CacheWriter(cache), pytest.raises(CacheLocked):
        repair(cache)
