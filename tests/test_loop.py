"""The loop's order of events and its refusals, with staged parts where a fault is needed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from learner import microbatch
from learner.engine import LearnerFault
from learner.group import LearnerGroup
from omniopsd.config_file import load_config
from omniopsd.loop import StaleRollout
from omniopsd.metrics import read
from omniopsd.train import train
from rollout.pool import RolloutPool
from rollout.transformers_engine import TransformersEngine
from rollout.types import RecordError
from rollout.weights import WeightFault
from teacher.context import EvidenceError
from teacher.pool import TeacherPool
from teacher.worker import TeacherWorker
from tests.run_scene import run_config, run_yaml

pytestmark = pytest.mark.slow


def test_one_step_is_sample_score_train_push_probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []

    def watch(cls: type, name: str, label: str) -> None:
        real = getattr(cls, name)

        def watched(self, *args, **kwargs):  # type: ignore[no-untyped-def]
            events.append(label)
            return real(self, *args, **kwargs)

        monkeypatch.setattr(cls, name, watched)

    watch(RolloutPool, "submit", "sample")
    watch(TeacherPool, "score", "score")
    watch(LearnerGroup, "step", "train")
    watch(LearnerGroup, "publish", "publish")
    watch(TeacherPool, "push", "push to teachers")
    watch(RolloutPool, "push", "push to engines")
    watch(RolloutPool, "require_probe", "probe")
    train(run_config(tmp_path, run={"steps": 2}))
    step = ["sample", "score", "score", "train", "publish", "push to teachers", "push to engines", "probe"]
    assert events == step * 2  # two calls of one sample each are scored one by one


def test_a_lag_of_one_hands_out_the_next_step_early(tmp_path: Path) -> None:
    config = run_config(
        tmp_path, rollout={"max_policy_lag": 1}, objective={"importance": "capped"}, run={"steps": 4}
    )
    assert [row["staleness_max"] for row in read(train(config).metrics_path)] == [0, 1, 1, 1]


def test_a_rollout_of_an_older_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = TransformersEngine._group

    def old(self, *args):  # type: ignore[no-untyped-def]
        group = real(self, *args)
        aged = tuple(dataclasses.replace(r, policy_version=r.policy_version - 1) for r in group.rollouts)
        return dataclasses.replace(group, rollouts=aged)

    monkeypatch.setattr(TransformersEngine, "_group", old)
    with pytest.raises(StaleRollout, match="sampled from version -1, the student is at 0"):
        train(run_config(tmp_path))


def test_a_push_that_one_engine_does_not_confirm_fails_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = TransformersEngine.finish_update
    monkeypatch.setattr(
        TransformersEngine,
        "finish_update",
        lambda self, version, digest: dataclasses.replace(real(self, version, digest), version=version - 1),
    )
    with pytest.raises(WeightFault, match=r"rollout-0 \(version 0"):
        train(run_config(tmp_path))


def test_teacher_scores_that_are_not_finite_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = TeacherWorker.__init__

    def broken(self, *args):  # type: ignore[no-untyped-def]
        real(self, *args)
        self.scorer.thinker.model.norm.weight[0] = np.nan

    monkeypatch.setattr(TeacherWorker, "__init__", broken)
    with pytest.raises(RecordError, match="teacher logprobs has a value that is not finite"):
        train(run_config(tmp_path))


def test_gradients_that_are_not_finite_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(microbatch, "token_weights", lambda *args: np.full(sum(args[1]), np.nan, np.float32))
    with pytest.raises(LearnerFault, match="step 1: the loss is not finite"):
        train(run_config(tmp_path))


def test_a_missing_rationale_is_an_error_or_a_counted_skip(tmp_path: Path) -> None:
    path = run_yaml(tmp_path)
    data = tmp_path / "clips" / "samples.jsonl"
    lines = data.read_text().splitlines()
    row = json.loads(lines[0])
    del row["rationale"]
    (tmp_path / "clips" / "some.jsonl").write_text("\n".join([json.dumps(row), *lines[1:]]) + "\n")
    config = load_config(path, [f"data.train={tmp_path / 'clips' / 'some.jsonl'}"])
    with pytest.raises(EvidenceError, match="1 of 6 samples have no rationale"):
        train(config)
    skipping = load_config(
        path, [f"data.train={tmp_path / 'clips' / 'some.jsonl'}", "teacher.missing=skip", "run.steps=1"]
    )
    train(skipping)
