"""Each alarm is provoked once by numbers, and once for real: a run whose alarm says stop ends with a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from omniopsd.alarms import Watch, alarms
from omniopsd.checkpoint import CheckpointStore
from omniopsd.cli import USER_ERROR, main
from omniopsd.config_file import ConfigError
from omniopsd.metrics import read
from omniopsd.run_folder import RunFolder, step_of
from omniopsd.telemetry_config import AlarmsConfig
from tests.run_scene import run_config, run_yaml

CONFIG = AlarmsConfig()
GOOD = {"format_rate": 0.98, "response_length_p95": 30.0, "leak_rate": 0.0, "divergence": 0.08}


def rows(*last: dict[str, Any], good: int = 10) -> list[dict[str, Any]]:
    """Good steps, then others: each a good one with some values changed."""
    return [{"step": n, **GOOD, **change} for n, change in enumerate([*[{}] * good, *last], start=1)]


def names(history: list[dict[str, Any]], config: AlarmsConfig = CONFIG) -> list[str]:
    return [alarm.name for alarm in alarms(history, config)]


def test_a_good_run_raises_none():
    assert names(rows()) == [] and names([]) == []


@pytest.mark.parametrize(
    ("name", "provoked", "spared"),
    [
        ("format", [{"format_rate": 0.6}] * 2, [{"format_rate": 0.1}, {"format_rate": 0.9}]),
        ("length", [{"response_length_p95": 48.0}] * 2, [{"response_length_p95": 44.0}] * 2),
        ("leak", [{"leak_rate": 0.1}] * 3, [{"leak_rate": 0.1}]),
        ("spike", [{"divergence": 0.4}], [{"divergence": 0.3}]),
        (
            "gain",
            [{"reference_gain": {"with_evidence": -0.2}}, {}, {"reference_gain": {"with_evidence": 0.0}}, {}],
            [{"reference_gain": {"with_evidence": -0.2}}, {"reference_gain": {"with_evidence": 0.1}}],
        ),
    ],
)
def test_each_alarm_is_provoked_by_its_fault_and_not_by_less(name, provoked, spared):
    assert names(rows(*provoked)) == [name]
    assert names(rows(*spared)) == []
    off = AlarmsConfig(**{name: {"action": "off"}})
    assert names(rows(*provoked), off) == []


def test_a_slow_rise_of_the_divergence_is_no_spike():
    assert names([{"step": n, "divergence": 0.01 * n} for n in range(1, 60)]) == []


def test_a_watch_says_an_alarm_once_and_again_after_it_has_ended():
    said: list[str] = []
    watch = Watch(CONFIG, rows())
    for step, rate in enumerate([0.5, 0.5, 0.5, 0.9, 0.5, 0.5], start=11):
        assert watch.see({"step": step, **GOOD, "format_rate": rate}, said.append) is None
    assert [text.split(":")[0] for text in said] == ["alarm at step 12", "alarm at step 16"]
    assert "format_rate is 0.50 and was 0.98" in said[0]


def test_a_resumed_watch_judges_as_the_first_one():
    history = rows({"format_rate": 0.5})
    stop = AlarmsConfig(format={"action": "stop"})
    assert "format_rate" in str(Watch(stop, history).see({"step": 12, **GOOD, "format_rate": 0.5}, print))


@pytest.mark.slow
def test_a_stop_leaves_a_checkpoint_and_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    # every answer of random weights has a letter e somewhere in 24 tokens
    path = run_yaml(
        tmp_path,
        run={"steps": 4},
        rollout={"max_new_tokens": 24},
        telemetry={"leak_phrases": ["e"]},
        alarms={"leak": {"action": "stop", "above": 0.01}},
        checkpoint={"every": 100},
    )
    assert main(["train", str(path)]) == USER_ERROR
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("omniopsd: error: stopped after step 3 with a checkpoint of it: leak_rate was")
    folder = RunFolder(tmp_path / "runs", "small")
    newest = CheckpointStore(folder.checkpoints_path, keep=1).newest_whole()
    assert newest is not None and step_of(newest) == 3
    assert [row["step"] for row in read(folder.metrics_path)] == [1, 2, 3]
    more = ["--resume", "--set", "alarms.leak.action=warn"]
    assert main(["train", str(path), *more]) == 0
    assert read(folder.metrics_path)[-1]["step"] == 4


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"alarms": {"gain": {"action": "stop"}}, "telemetry": {"reference_every": 50}},
            "stop needs reference_gain",
        ),
        ({"alarms": {"leak": {"action": "stop"}}, "telemetry": {"leak_phrases": []}}, "never stops the run"),
        ({"telemetry": {"leak_phrases": [" "]}}, "an empty phrase is in every answer"),
        ({"alarms": {"spike": {"action": "off", "factor": 2.0}}}, "no effect with action: off"),
    ],
)
def test_an_alarm_that_could_never_say_a_thing_is_refused(tmp_path: Path, sections, message):
    with pytest.raises(ConfigError, match=message):
        run_config(tmp_path, **sections)
