"""What the teacher's weights are under each rule, and when they change."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from omniopsd.check import CheckError
from omniopsd.metrics import read
from omniopsd.train import train
from teacher.config import TeacherConfig
from teacher.refresh import TeacherRefresh
from teacher.weights import TeacherWeights
from tests.run_scene import run_config
from tests.test_train import fingerprint, numbers, run_until

RULES = {"frozen": 1.0, "live": 5.0, "hard": 5.0, "gated": 5.0, "ema": 1.4, "trust_region": 2.0}


def model(value: float) -> torch.nn.Linear:
    layer = torch.nn.Linear(2, 2, bias=False)
    layer.weight = torch.nn.Parameter(torch.full((2, 2), value), requires_grad=False)
    return layer


def named(layer: torch.nn.Linear) -> dict[str, torch.Tensor]:
    return dict(layer.named_parameters())


@pytest.mark.parametrize(("rule", "wanted"), RULES.items())
def test_what_one_push_makes_of_the_weights(rule: str, wanted: float) -> None:
    teacher = model(1.0)
    config = TeacherConfig(weights=rule, ema=0.9, trust=0.25)  # type: ignore[arg-type]
    TeacherWeights(named(teacher), config).follow([("weight", torch.full((2, 2), 5.0))])
    assert teacher.weight == pytest.approx(torch.full((2, 2), wanted))


def test_trust_is_measured_from_the_first_weights_not_from_the_last() -> None:
    teacher = model(1.0)
    weights = TeacherWeights(named(teacher), TeacherConfig(weights="trust_region", trust=0.5))
    for _ in range(9):
        weights.follow([("weight", torch.full((2, 2), 5.0))])
    assert teacher.weight == pytest.approx(torch.full((2, 2), 3.0))


@pytest.mark.parametrize("rule", ["ema", "hard", "gated"])
def test_a_checkpoint_brings_weights_and_version_back(rule: str, tmp_path: Path) -> None:
    config = TeacherConfig(weights=rule, ema=0.9)  # type: ignore[arg-type]
    first, second = model(1.0), model(1.0)
    one, other = TeacherWeights(named(first), config), TeacherWeights(named(second), config)
    one.follow([("weight", torch.full((2, 2), 5.0))])
    one.version = 7
    one.save(tmp_path)
    other.load(tmp_path)
    assert other.version == 7 and torch.equal(first.weight, second.weight)
    for weights in (one, other):
        weights.follow([("weight", torch.full((2, 2), 6.0))])
    assert torch.equal(first.weight, second.weight)


@pytest.mark.parametrize(
    ("rule", "wanted"),
    [
        ("frozen", []),
        ("hard", [3, 6]),
        *((rule, [1, 2, 3, 4, 5, 6]) for rule in ("live", "ema", "trust_region")),
    ],
)
def test_when_a_push_concerns_the_teachers(rule: str, wanted: list[int]) -> None:
    refresh = TeacherRefresh(TeacherConfig(weights=rule, copy_every=3))  # type: ignore[arg-type]
    assert [step for step in range(1, 7) if refresh.due(step)] == wanted


WINDOWS = {
    "better and not longer": ([0.2, 0.4, 0.6], [10, 10, 10], [4, 6]),
    "no better": ([0.4, 0.4, 0.3], [10, 10, 10], []),
    "better but longer": ([0.2, 0.4, 0.6], [10, 14, 14], []),
    "better than the last copy, not than a window since": ([0.2, 0.6, 0.5], [10, 10, 10], [4]),
    "worse, then better than the baseline": ([0.4, 0.1, 0.5], [10, 10, 10], [6]),
}


def gated() -> TeacherRefresh:
    return TeacherRefresh(TeacherConfig(weights="gated", copy_every=2, gate_length_tail=1.25))


@pytest.mark.parametrize("name", WINDOWS)
@pytest.mark.parametrize("resumed_after", range(6))
def test_the_gate(name: str, resumed_after: int) -> None:
    rewards, lengths, wanted = WINDOWS[name]
    refresh, copied = gated(), []
    for step in range(1, 7):
        refresh.observe([rewards[(step - 1) // 2]] * 4, [lengths[(step - 1) // 2]] * 4)
        if refresh.due(step):
            copied.append(step)
        if step == resumed_after:
            state, refresh = refresh.state(), gated()
            refresh.load(state)
    assert copied == wanted


@pytest.mark.slow
def test_a_hard_copy_is_scored_under_its_own_version_and_survives_a_kill(tmp_path: Path) -> None:
    sections = {
        "run": {"steps": 4},
        "teacher": {"weights": "hard", "copy_every": 2},
        "checkpoint": {"every": 1, "keep": 9},
    }
    whole = train(run_config(tmp_path / "whole", **sections))
    assert [row["teacher_version"] for row in read(whole.metrics_path)] == [0, 0, 2, 2]
    run_config(tmp_path / "killed", **sections)
    run_until(tmp_path / "killed" / "run.yaml", killed_after=3)
    resumed = train(run_config(tmp_path / "killed", **sections), resume=True)
    assert numbers(resumed) == numbers(whole)
    assert fingerprint(resumed, 4) == fingerprint(whole, 4)


@pytest.mark.slow
def test_a_gate_needs_labels_to_judge_by(tmp_path: Path) -> None:
    config = run_config(tmp_path, run={"steps": 4}, teacher={"weights": "gated", "copy_every": 2})
    train(config)
    file = Path(config.data.train)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[3]["labels"] = []
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(CheckError, match="data.train: 1 of 6 samples have no labels .*gated cannot judge"):
        train(config.model_copy(update={"run": config.run.model_copy(update={"name": "bare"})}))
