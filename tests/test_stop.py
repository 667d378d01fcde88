"""SIGTERM: the running step is finished and kept, then the run ends with 143."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from omniopsd import train as module
from omniopsd.checkpoint import find_faults
from omniopsd.cli import main
from omniopsd.config import RunConfig
from omniopsd.loop import TrainLoop
from omniopsd.metrics import read
from omniopsd.stop import STOPPED, Stopped, StopRequest
from omniopsd.train import train
from omniopsd.workdir import WorkdirError, enter_workdir
from tests.run_scene import run_config, run_yaml


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_outside_of_a_step_it_ends_at_once() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped, match="outside of a step"), StopRequest():
        terminate()
    assert signal.getsignal(signal.SIGTERM) is before


def test_inside_a_step_the_first_waits_and_the_second_does_not() -> None:
    with StopRequest() as stop:
        with stop.finish_first():
            terminate()
            assert stop.asked
        with pytest.raises(Stopped), stop.finish_first():
            terminate()


def stopping_in(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = TrainLoop.step

    def then(self: TrainLoop, number: int, last: int) -> object:
        if number == step:
            terminate()
        return whole(self, number, last)

    monkeypatch.setattr(TrainLoop, "step", then)


@pytest.mark.slow
def test_a_stopped_run_goes_on_with_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = [row["loss"] for row in read(train(run_config(tmp_path / "whole")).metrics_path)]
    path = run_yaml(tmp_path / "cut")
    with monkeypatch.context() as patch:
        stopping_in(2, patch)
        assert main(["train", str(path)]) == STOPPED
    assert "omniopsd: stopped after step 2, which has a checkpoint" in capsys.readouterr().err
    folder = tmp_path / "cut" / "runs" / "small"
    assert not find_faults(folder / "checkpoints" / "step_000002")
    assert main(["train", str(path), "--resume"]) == 0
    assert [row["loss"] for row in read(folder / "metrics.jsonl")] == whole


@pytest.mark.slow
def test_a_signal_during_the_start_leaves_no_half_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dying(config: RunConfig, runtime: object) -> None:
        terminate()

    monkeypatch.setattr(module, "make_parts", dying)
    assert main(["train", str(run_yaml(tmp_path))]) == STOPPED


def test_rays_unpacked_package_is_no_place_for_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = run_config(tmp_path)
    relative = config.model_copy(update={"run": config.run.model_copy(update={"root": "runs"})})
    package = tmp_path / "working_dir_files" / "_ray_pkg_1"
    package.mkdir(parents=True)
    monkeypatch.chdir(package)
    with pytest.raises(WorkdirError, match="which Ray deletes with all checkpoints"):
        enter_workdir(None, relative)
    enter_workdir(None, config)  # absolute
    enter_workdir(str(tmp_path), relative)
    assert Path.cwd() == tmp_path
    with pytest.raises(WorkdirError, match="no such folder on this machine"):
        enter_workdir("/nowhere", relative)
