"""Checkpoints: killed anywhere, damaged anywhere, there is a good one to load and never a bad one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from omniopsd.checkpoint import Checkpoint, CheckpointError, CheckpointState, CheckpointStore, find_faults

FIT = "digest-a"
STAGES = (
    "folder made", "files written", "state written", "files flushed", "manifest written", "manifest flushed",
    "renamed", "folder flushed", "verified", "step_000010 set aside", "step_000010 removed",
)  # fmt: skip


class Killed(Exception):
    """Stands for the end of the process."""


def a_state(step: int) -> CheckpointState:
    return CheckpointState(
        step=step,
        policy_version=step,
        data_cursor={"epoch": 0, "next": step * 2},
        rng={"driver": [1, 2**100]},
        refresh={},
        config_digest=FIT,
    )


def writer(step: int):
    def write(folder: Path) -> None:
        for name in ("model/model.safetensors", "optimizer/rank_0.pt", "teacher/ema.safetensors"):
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(f"{name} of step {step} ".encode() * 50)

    return write


def save(folder: Path, step: int, *, keep: int = 2, boundary=lambda name: None) -> Path:
    return CheckpointStore(folder, keep=keep, boundary=boundary).save(a_state(step), writer(step))


def load(folder: Path, notes: list[str] | None = None) -> Checkpoint | None:
    note = notes.append if notes is not None else print
    return CheckpointStore(folder, keep=2, note=note).load_latest(FIT)


def assert_good(found: Checkpoint | None) -> int:
    assert found is not None and find_faults(found.path) == []
    step = found.state.step
    assert found.state == a_state(step)
    assert (
        (found.path / "teacher/ema.safetensors")
        .read_bytes()
        .startswith(f"teacher/ema.safetensors of step {step} ".encode())
    )
    return step


def kill_at(stage: str):
    def boundary(name: str) -> None:
        if name == stage:
            raise Killed(stage)

    return boundary


def test_what_is_saved_comes_back(tmp_path):
    path = save(tmp_path, 10)
    assert path == tmp_path / "step_000010"
    assert assert_good(load(tmp_path)) == 10
    assert sorted(entry.name for entry in path.iterdir()) == [
        "manifest.json", "model", "optimizer", "state.json", "teacher"
    ]  # fmt: skip


def test_the_newest_stay(tmp_path):
    for step in (10, 20, 30, 40):
        save(tmp_path, step, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_000030", "step_000040"]


def test_nothing_saved_is_none(tmp_path):
    assert load(tmp_path / "checkpoints") is None


def test_the_stages_are_those_that_the_kills_below_cover(tmp_path):
    save(tmp_path, 10)
    save(tmp_path, 20)
    seen: list[str] = []
    save(tmp_path, 30, boundary=seen.append)
    assert tuple(seen) == STAGES


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("keep", [1, 2])
def test_a_stop_at_any_stage_leaves_a_good_checkpoint(tmp_path, stage, keep):
    save(tmp_path, 10, keep=keep)
    if keep == 2:
        save(tmp_path, 20, keep=keep)
    with pytest.raises(Killed):
        save(tmp_path, 30, keep=keep, boundary=kill_at(stage))
    notes: list[str] = []
    step = assert_good(load(tmp_path, notes))
    assert notes == []
    assert step == (30 if STAGES.index(stage) >= STAGES.index("renamed") else 10 * keep)
    save(tmp_path, 40, keep=keep)
    assert assert_good(load(tmp_path)) == 40
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("stage", STAGES)
def test_what_was_not_flushed_is_not_trusted(tmp_path, monkeypatch, stage):
    """A power cut: every file of the new checkpoint that was not flushed by then is empty."""
    flushed: set[int] = set()
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (flushed.add(os.fstat(fd).st_ino), real(fd))[1])
    save(tmp_path, 10)
    save(tmp_path, 20)
    with pytest.raises(Killed):
        save(tmp_path, 30, boundary=kill_at(stage))
    for path in (
        path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_ino not in flushed
    ):
        path.write_bytes(b"")
    notes: list[str] = []
    assert assert_good(load(tmp_path, notes)) in (20, 30)
    assert notes == []


KILLED_SAVE = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], sys.argv[2]]
from test_checkpoint import save
def boundary(name):
    if name == sys.argv[4]:
        os.kill(os.getpid(), signal.SIGKILL)
save(Path(sys.argv[3]), 30, boundary=boundary)
"""


@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_process_leaves_a_good_checkpoint(tmp_path, stage):
    save(tmp_path, 10)
    save(tmp_path, 20)
    here = Path(__file__).parent
    command = [sys.executable, "-c", KILLED_SAVE, str(here.parent), str(here), str(tmp_path), stage]
    assert subprocess.run(command, timeout=60, check=False).returncode == -signal.SIGKILL
    notes: list[str] = []
    assert assert_good(load(tmp_path, notes)) == (
        30 if STAGES.index(stage) >= STAGES.index("renamed") else 20
    )
    assert notes == []


def damages(path: Path) -> list[bytes | None]:
    """The file with single bits flipped all over it, cut, grown, emptied; None: deleted."""
    content = path.read_bytes()
    flips = []
    for place in range(0, len(content), max(1, len(content) // 25)):
        flipped = bytearray(content)
        flipped[place] ^= 1 << (place % 8)
        flips.append(bytes(flipped))
    return [*flips, content[:-1], content[: len(content) // 2], content + b"x", b"", None]


def test_any_damage_to_any_file_is_found_and_the_one_before_is_loaded(tmp_path):
    save(tmp_path, 10)
    newest = save(tmp_path, 20)
    tried = 0
    for path in sorted(path for path in newest.rglob("*") if path.is_file()):
        whole = path.read_bytes()
        for damaged in damages(path):
            path.unlink() if damaged is None else path.write_bytes(damaged)
            notes: list[str] = []
            assert assert_good(load(tmp_path, notes)) == 10, (path.name, damaged)
            assert len(notes) == 1 and "step_000020 is damaged" in notes[0]
            path.write_bytes(whole)
            tried += 1
    assert tried > 100
    assert assert_good(load(tmp_path)) == 20


def test_every_byte_of_the_manifest_counts(tmp_path):
    manifest = save(tmp_path, 10) / "manifest.json"
    whole = manifest.read_bytes()
    for place in range(len(whole)):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << (place % 8)
        manifest.write_bytes(bytes(flipped))
        assert find_faults(manifest.parent), place
    manifest.write_bytes(whole)


def test_when_all_are_damaged_the_run_does_not_start_again_from_nothing(tmp_path):
    for step in (10, 20):
        (save(tmp_path, step) / "model/model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="no checkpoint is whole.*step_000020.*step_000010"):
        load(tmp_path, [])


def test_a_damaged_step_is_saved_again(tmp_path):
    save(tmp_path, 10)
    (save(tmp_path, 20) / "state.json").write_bytes(b"{}")
    save(tmp_path, 20)
    assert assert_good(load(tmp_path, notes := [])) == 20 and notes == []


def test_saving_twice_keeps_the_first_and_another_state_is_refused(tmp_path):
    path = save(tmp_path, 10)
    inode = path.stat().st_ino
    assert save(tmp_path, 10).stat().st_ino == inode
    other = CheckpointState(step=10, policy_version=99, data_cursor={}, rng={}, refresh={}, config_digest=FIT)
    with pytest.raises(CheckpointError, match="step 10 is already saved, with another state"):
        CheckpointStore(tmp_path, keep=2).save(other, writer(10))


def test_half_a_deletion_leaves_no_damaged_checkpoint(tmp_path, monkeypatch):
    save(tmp_path, 10)
    save(tmp_path, 20)

    def half(folder: Path) -> None:
        (folder / "state.json").unlink()
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", half)
        with pytest.raises(Killed):
            save(tmp_path, 30)
    assert [path.name for path in tmp_path.glob("step_*") if find_faults(path)] == []
    save(tmp_path, 40)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_000030", "step_000040"]


def test_other_settings_are_refused_in_one_sentence(tmp_path):
    save(tmp_path, 10)
    with pytest.raises(
        CheckpointError, match="digest digest-a, this run has digest-b; resume with the config.yaml"
    ):
        CheckpointStore(tmp_path, keep=2).load_latest("digest-b")


def test_a_writer_that_fails_leaves_the_older_one(tmp_path):
    save(tmp_path, 10)

    def write(folder: Path) -> None:
        (folder / "half").write_bytes(b"x")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        CheckpointStore(tmp_path, keep=1).save(a_state(20), write)
    assert assert_good(load(tmp_path)) == 10


def test_a_rank_that_still_writes_is_caught_and_nothing_is_pruned(tmp_path):
    save(tmp_path, 10)

    def late(name: str) -> None:
        if name == "folder flushed":
            with (tmp_path / "step_000020/optimizer/rank_0.pt").open("ab") as file:
                file.write(b"late")

    with pytest.raises(CheckpointError, match="optimizer/rank_0.pt has .* bytes"):
        save(tmp_path, 20, keep=1, boundary=late)
    assert assert_good(load(tmp_path, [])) == 10


def test_a_link_is_not_a_file_of_the_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="symbolic link"):
        CheckpointStore(tmp_path, keep=1).save(
            a_state(1), lambda folder: (folder / "a").symlink_to("/etc/hosts")
        )
