"""metrics.jsonl: no step twice, no line lost, no NaN."""

from __future__ import annotations

import math

import numpy as np
import pytest

from omniopsd.metrics import MetricsError, MetricsLog, read


def steps(path) -> list[int]:
    return [row["step"] for row in read(path)]


def test_append_writes_a_line_that_is_there_at_once(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.append(
        1, {"loss": np.float32(0.5), "divergence_by_position": np.ones(8), "seconds": {"rollout": 2.0}}
    )
    assert read(tmp_path / "metrics.jsonl") == [
        {"step": 1, "loss": 0.5, "divergence_by_position": [1.0] * 8, "seconds": {"rollout": 2.0}}
    ]


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"loss": math.nan}, "loss is nan"),
        ({"seconds": {"push": math.inf}}, "seconds.push is inf"),
        ({"divergence_by_position": [0.0, -math.inf]}, r"divergence_by_position\[1\] is -inf"),
        ({"note": "text"}, "note is 'text'"),
        ({"probe_difference": None}, "probe_difference is None"),
    ],
)
def test_what_is_not_a_finite_number_is_an_error_and_leaves_no_line(tmp_path, values, name):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    with pytest.raises(MetricsError, match=name):
        log.append(1, values)
    assert read(log.path) == [] and log.last_step is None


def test_steps_only_rise(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.append(2, {"loss": 1.0})
    for step in (1, 2):
        with pytest.raises(MetricsError, match=f"step {step} after step 2"):
            log.append(step, {"loss": 1.0})
    assert steps(log.path) == [2]


def test_no_step_appears_twice_after_a_resume(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        for step in range(1, 8):
            log.append(step, {"loss": 1.0})
    resumed = MetricsLog(path)
    assert resumed.last_step == 7
    resumed.truncate_after(4)
    for step in range(5, 9):
        resumed.append(step, {"loss": 2.0})
    assert steps(path) == list(range(1, 9))
    assert [row["loss"] for row in read(path)] == [1.0] * 4 + [2.0] * 4


def test_a_line_cut_off_by_a_kill_is_dropped_at_every_byte(tmp_path):
    path = tmp_path / "metrics.jsonl"
    MetricsLog(path).append(1, {"loss": 1.0})
    first = path.read_bytes()
    second = b'{"step": 2, "loss": 2.5}\n'
    for cut in range(len(second)):
        path.write_bytes(first + second[:cut])
        assert steps(path) == [1]
        MetricsLog(path).append(2, {"loss": 3.0})
        assert steps(path) == [1, 2] and read(path)[1]["loss"] == 3.0


@pytest.mark.parametrize("line", [b"nonsense", b"[1]", b'{"loss": 1}', b'{"step": 1}'])
def test_another_line_that_is_wrong_is_named(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 3}\n')
    with pytest.raises(MetricsError, match="metrics.jsonl:2"):
        read(path)


def test_nothing_to_read(tmp_path):
    log = MetricsLog(tmp_path / "none.jsonl")
    log.truncate_after(3)
    assert read(log.path) == [] and log.last_step is None


def test_tensorboard_gets_the_same_numbers_and_hides_the_abandoned_steps(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path / "tensorboard"
    with MetricsLog(tmp_path / "metrics.jsonl", folder) as log:
        for step in (1, 2, 3):
            log.append(step, {"loss": float(step), "seconds": {"rollout": 2.0}, "by_position": [0.5, 0.25]})
        log.truncate_after(1)
        log.append(2, {"loss": 20.0})
    events = EventAccumulator(str(folder))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 1.0), (2, 20.0)]
    assert events.Scalars("seconds/rollout")[0].value == 2.0
    assert events.Scalars("by_position/1")[0].value == 0.25
