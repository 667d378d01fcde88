"""The cold start trains on given responses, reads rationales, and refuses what it cannot use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from omniopsd.coldstart import ColdStartError, coldstart
from omniopsd.config import RunConfig
from omniopsd.mini_coldstart import make_config, write_rows
from omniopsd.samples import read_samples
from omniopsd.supervised import SupervisedError
from rollout.thinker import load_thinker
from tests.run_scene import run_config

pytestmark = pytest.mark.slow


def supervised(folder: Path, responses: bool = True) -> RunConfig:
    config = run_config(folder, objective={"divergence": "cross_entropy"}, learner={"lr": 5e-3})
    rows = [json.loads(line) for line in Path(config.data.train).read_text().splitlines()]
    for number, row in enumerate(rows):
        if responses:
            row["response"] = "<think>face: smile</think><answer>happy</answer>"
        if number % 2:
            del row["rationale"]
    path = folder / "clips" / "coldstart.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = config.data.model_copy(update={"train": str(path)})
    return config.model_copy(update={"data": data, "run": config.run.model_copy(update={"steps": 12})})


def test_the_loss_falls_and_a_model_folder_is_written(tmp_path: Path) -> None:
    losses = coldstart(supervised(tmp_path), tmp_path / "out")
    assert losses[-1] < 0.7 * losses[0]
    load_thinker(tmp_path / "out", "float32")


def test_rows_without_a_response_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SupervisedError, match=r"coldstart.jsonl:1: no response \(6 such rows\)"):
        coldstart(supervised(tmp_path, responses=False), tmp_path / "out")
    with pytest.raises(ColdStartError, match="needs cross_entropy"):
        coldstart(run_config(tmp_path), tmp_path / "out")


def test_the_demos_student_learns_from_train_looks_only(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "clips", seed=0)
    samples = read_samples(make_config(tmp_path, seed=0, steps=1).data.train)
    assert len(samples) == len(rows)
    assert {Path(path).name.split("-")[2] for sample in samples for path in sample.inputs.paths.videos} == {
        "train"
    }
    seen = {sample.inputs.paths.videos for sample in samples if sample.rationale is None}
    assert len(seen) == 16, "perception must stay weak"
