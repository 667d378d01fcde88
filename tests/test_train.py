"""A whole run in one process: what it leaves behind, and that a killed one goes on with the same numbers."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omniopsd.check import CheckError
from omniopsd.export import export_run
from omniopsd.loop import TrainLoop
from omniopsd.metrics import read
from omniopsd.rollout_log import read_rollouts
from omniopsd.run_folder import RunFolder
from omniopsd.train import train
from rollout.thinker import load_thinker, read_weights
from tests.run_scene import held_out, run_config, run_yaml

pytestmark = pytest.mark.slow
STEPS = 3
NUMBERS = ("loss", "grad_norm", "divergence", "teacher_gain", "accuracy_train", "probe_difference")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunFolder]:
    folder = tmp_path_factory.mktemp("whole")
    yield train(run_config(folder, checkpoint={"every": 1, "keep": 9}, data={"test": held_out(folder)}))


def fingerprint(run: RunFolder, step: int) -> dict[str, str]:
    """Hash of every weight in a checkpoint's model, and of the teacher's average or copy."""
    found = {
        name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest()
        for name, tensor in read_weights(run.checkpoints_path / f"step_{step:06d}" / "model")
    }
    (teacher,) = (run.checkpoints_path / f"step_{step:06d}" / "teacher").glob("*.safetensors")
    return found | {"teacher": hashlib.sha256(teacher.read_bytes()).hexdigest()}


def numbers(run: RunFolder) -> list[list[float]]:
    return [[row[name] for name in NUMBERS] for row in read(run.metrics_path)]


def test_it_leaves_metrics_rollouts_checkpoints_table_and_report(whole: RunFolder) -> None:
    rows = read(whole.metrics_path)
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert [row["policy_version"] for row in rows] == [1, 2, 3]
    assert [row["teacher_version"] for row in rows] == [0, 1, 2]
    assert all(row["rollout_learner_difference"] < 1e-5 and row["probe_difference"] < 1e-5 for row in rows)
    logged = read_rollouts(whole.rollout_path(2))
    assert {rollout.policy_version for rollout in logged} == {1}
    assert all(np.isfinite(rollout.teacher_logprobs).all() for rollout in logged)
    assert {rollout.evidence_id for rollout in logged} == {rollout.sample_id for rollout in logged}
    results = whole.read_eval()
    assert [results[name]["n"] for name in ("before", "teacher", "after")] == [6, 6, 6]
    assert "<html" in whole.report_path.read_text()


def test_training_changed_every_part_that_is_not_frozen(whole: RunFolder) -> None:
    first, last = fingerprint(whole, 1), fingerprint(whole, 3)
    same = {name for name in first if first[name] == last[name]}
    # this embedding is in the architecture and in no forward pass of it
    assert {name for name in same if name.endswith("weight")} == {"audio_tower.audio_bos_eos_token.weight"}


def run_until(path: Path, killed_after: int | None = None, *, resume: bool = False) -> None:
    """Train in a process of its own, which may be killed as soon as the checkpoint of a step is written."""
    code = (
        "import os, signal\n"
        "from omniopsd import train as t\n"
        "from omniopsd.config_file import load_config\n"
        "save = t.Run._save\n"
        "def then_die(self, step, *rest, **named):\n"
        "    save(self, step, *rest, **named)\n"
        f"    if step == {killed_after}: os.kill(os.getpid(), signal.SIGKILL)\n"
        "t.Run._save = then_die\n"
        f"t.train(load_config({str(path)!r}), resume={resume})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": os.getcwd()}, check=False
    )
    assert done.returncode == (0 if killed_after is None else -signal.SIGKILL)


@pytest.mark.parametrize("killed_after", range(1, STEPS))
def test_a_run_killed_between_two_steps_goes_on_bit_for_bit(
    whole: RunFolder, killed_after: int, tmp_path: Path
) -> None:
    run_until(run_yaml(tmp_path, checkpoint={"every": 1, "keep": 9}), killed_after)
    resumed = train(run_config(tmp_path, checkpoint={"every": 1, "keep": 9}), resume=True)
    assert numbers(resumed) == numbers(whole)
    assert fingerprint(resumed, STEPS) == fingerprint(whole, STEPS)


def test_so_does_a_killed_run_under_vllm(tmp_path: Path) -> None:
    sections: dict[str, dict[str, Any]] = {
        "run": {"steps": 2},
        "rollout": {"engine": "vllm", "kv_cache_gib": 0.25, "samples_per_call": 2, "max_new_tokens": 12},
        "checkpoint": {"every": 1, "keep": 9},
    }
    paths = {name: run_yaml(tmp_path / name, **sections) for name in ("whole", "killed")}
    run_until(paths["whole"])
    run_until(paths["killed"], killed_after=1)
    run_until(paths["killed"], resume=True)
    whole, resumed = (RunFolder(str(tmp_path / name / "runs"), "small") for name in paths)
    assert numbers(resumed) == numbers(whole)
    assert fingerprint(resumed, 2) == fingerprint(whole, 2)
    answers = [
        [r.response_ids.tolist() for r in read_rollouts(one.rollout_path(2))] for one in (whole, resumed)
    ]
    assert answers[0] == answers[1] and answers[0]


def test_training_on_the_test_samples_is_refused(tmp_path: Path) -> None:
    config = run_config(tmp_path)
    cheating = config.data.model_copy(update={"test": config.data.train})
    with pytest.raises(CheckError, match="6 of 6 samples are in data.train too"):
        train(config.model_copy(update={"data": cheating}))
    assert not (tmp_path / "runs").exists()


def test_a_finished_run_is_not_trained_again(
    whole: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run_config(tmp_path, run={"steps": 1})
    train(config)
    monkeypatch.setattr(TrainLoop, "step", lambda *_: pytest.fail("stepped again"))
    train(config, resume=True)


def test_an_export_is_the_newest_student_and_nothing_else(whole: RunFolder, tmp_path: Path) -> None:
    export_run(str(whole.path), str(tmp_path / "out"))
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert names == {
        "model.safetensors",
        "config.json",
        "generation_config.json",
        "processor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    }
    load_thinker(tmp_path / "out", "float32")
    exported = dict(read_weights(tmp_path / "out"))
    kept = dict(read_weights(whole.checkpoints_path / "step_000003" / "model"))
    assert all((exported[name] == kept[name]).all() for name in kept)
