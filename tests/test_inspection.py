"""The extra scores: what is exact at the first step, and PALR by hand."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from omniopsd.inspection import Inspection, InspectionError, answer_driven_share
from omniopsd.metrics import read
from omniopsd.train import train
from tests.run_scene import run_config

EVERY = {"samples": 2, "reference_every": 1, "plain_every": 1, "answer_driven_every": 1}


def test_at_the_first_step_teacher_and_student_differ_by_the_evidence_alone(tmp_path: Path) -> None:
    config = run_config(tmp_path, telemetry=EVERY, teacher={"weights": "frozen"})
    first, second, third = read(train(config).metrics_path)
    assert abs(first["teacher_student_drift"]) < 1e-5
    assert abs(first["reference_gain"]["without_evidence"]) < 1e-5
    assert abs(first["reference_gain"]["with_evidence"]) > 1e-5
    assert 0 < first["answer_driven_share"] < 1
    # a frozen teacher stays behind as the student learns
    assert abs(third["teacher_student_drift"]) > 1e-5
    assert 0 <= second["topk_overlap"] <= 1 and second["teacher_entropy"] > 0
    assert first["by_modality"].keys() == {"video+audio+image+text"}
    parts = first["by_dataset"].values()
    assert sum(part["rollouts"] for part in parts) == 4
    whole = sum(part["divergence"] * part["tokens"] for part in parts) / sum(p["tokens"] for p in parts)
    assert whole == pytest.approx(first["divergence"], rel=1e-5)


def test_measurements_change_nothing_of_the_training(tmp_path: Path) -> None:
    plain = run_config(tmp_path, telemetry={"reference_every": None}, run={"name": "plain"})
    losses = [row["loss"] for row in read(train(plain).metrics_path)]
    measured = run_config(tmp_path, telemetry=EVERY, run={"name": "measured"})
    assert [row["loss"] for row in read(train(measured).metrics_path)] == losses


def test_wrong_evidence_needs_samples_to_take_it_from(tmp_path: Path) -> None:
    config = run_config(tmp_path, telemetry={"answer_driven_every": 1})
    data = Path(config.data.train)
    data.write_text(data.read_text().splitlines()[0] + "\n")
    with pytest.raises(InspectionError, match="other labels, and there are none"):
        train(config.model_copy(update={"run": config.run.model_copy(update={"samples_per_step": 1})}))


def test_the_share_is_palr_over_reasoning_tokens() -> None:
    def scores(*values: float) -> dict[str, np.ndarray]:
        return {"r": np.array(values, np.float32)}

    result = SimpleNamespace(
        teacher_logprobs=scores(-1.0, -2.0, -9.0), student_logprobs=scores(-2.0, -4.0, -1.0)
    )
    looked = Inspection(wrong_evidence=scores(-1.5, -1.0, 0.0), wrong_media=scores(-1.0, -3.0, -99.0))
    # s = 1, 2; cA = 0.5, 0 (wrong evidence liked the second token more); cI = 0, 1; the third is the answer
    assert answer_driven_share(looked, result, {"r": 2}) == pytest.approx(0.5 / (0.5 + 2.0))
    assert answer_driven_share(Inspection(), result, {"r": 2}) is None
