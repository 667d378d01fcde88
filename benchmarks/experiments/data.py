"""The clips of an experiment: training rows of each seed, and the tests that all seeds and arms share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.experiments.spec import Experiment, Test, TrainData
from omniopsd.mer_mini.emotions import Condition
from omniopsd.mer_mini.shift import (
    Row,
    mixed_rationales,
    named,
    of_conditions,
    one_missing,
    only_media,
    read_rows,
    redacted,
    write_noisy,
    write_rows,
)
from omniopsd.mer_mini.write import write_mer_mini

TRAIN_SEED, TEST_SEED = 3_000, 9_000
PLAIN: tuple[Condition, ...] = ("redundant", "single")


def write_train(root: Path, data: TrainData, seed: int, name: str) -> Path:
    """The training file of one arm and seed; media are shared by all arms of a seed."""
    noise = f"{data.rationale_noise:g}"
    folder = root / f"train-{data.clips}-{noise}-{seed}"
    samples = write_mer_mini(
        folder, data.clips, TRAIN_SEED + seed, "train", rationale_noise=data.rationale_noise
    )
    rows = of_conditions(read_rows(samples), data.conditions)
    if data.rationale_own < 1:
        rows = mixed_rationales(rows, data.rationale_own, seed)
    if data.redact:
        rows = redacted(rows)
    return write_rows(folder / f"{name}.jsonl", [only_media(row, data.media) for row in rows])


def write_tests(root: Path, experiment: Experiment, media: Sequence[str]) -> dict[Test, Path]:
    """The test files by name; the shifted ones differ from "in-domain" in one thing each."""
    files: dict[Test, Path] = {}
    for test in experiment.tests:
        folder, rows = _test_rows(root, test, experiment.test_clips)
        rows = [only_media(row, media) for row in rows]
        name = "-".join(["test", test, str(experiment.test_clips), *media])
        files[test] = write_rows(folder / f"{name}.jsonl", named(rows, test))
    return files


def _test_rows(root: Path, test: Test, items: int) -> tuple[Path, list[Row]]:
    if test == "looks":
        folder = root / f"test-looks-{items}"
        samples = write_mer_mini(folder, -(-items * 3 // 2), TEST_SEED + 1, "test")
        return folder, of_conditions(read_rows(samples), PLAIN)[:items]
    folder, clips = root / f"test-{items}", items * 3
    rows = read_rows(write_mer_mini(folder, clips, TEST_SEED, "train"))
    if test == "conflict":
        return folder, of_conditions(rows, ("conflict",))[:items]
    if test == "missing":
        return folder, one_missing(of_conditions(rows, ("redundant",))[:items])
    plain = of_conditions(rows, PLAIN)[:items]
    if test == "in-domain":
        return folder, plain
    return _noisy(root / f"test-noise-{items}", clips, {row["id"] for row in plain})


def _noisy(folder: Path, clips: int, wanted: set[str]) -> tuple[Path, list[Row]]:
    file = folder / "noisy.jsonl"
    if not file.exists():
        rows = write_noisy(folder, clips, TEST_SEED, "train", wanted)
        write_rows(file, rows)
    return folder, read_rows(file)
