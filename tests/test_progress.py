"""The terminal's view, and the clock of the stages."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from omniopsd.progress import STEPS, StageTimer, TrainProgress


class FakeClock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_stages_add_up_overlap_and_start_again():
    clock = FakeClock()
    timer = StageTimer(clock)
    with timer.stage("step"):
        for seconds in (1.0, 2.0):
            with timer.stage("rollout"):
                clock.now += seconds
        clock.now += 4
    timer.add("rollout", 0.5)
    assert timer.take() == {"rollout": 3.5, "step": 7.0}
    assert timer.take() == {}


def test_a_stage_that_raises_is_counted():
    clock = FakeClock()
    timer = StageTimer(clock)
    with pytest.raises(RuntimeError), timer.stage("push"):
        clock.now += 3
        raise RuntimeError
    assert timer.take() == {"push": 3.0}


def test_plain_lines_where_there_is_no_terminal():
    out, clock = io.StringIO(), FakeClock()
    with TrainProgress(4, console=Console(file=out, width=120), clock=clock) as progress:
        progress.stage("evaluating")
        progress.stage(STEPS)
        clock.now += 90
        progress.step(1, {"loss": 0.25, "teacher_gain": 0.5, "accuracy_train": 0.75})
        progress.note("saved [step 1]")
        progress.step(2, {"loss": 0.125})
    lines = out.getvalue().splitlines()
    assert lines.pop(0) == "evaluating"
    assert lines[0] == "step 1/4  loss 0.2500  gain +0.500  accuracy 75.0%  90.0 s/step  0:04:30 left"
    assert lines[1] == "saved [step 1]"
    assert lines[2].startswith("step 2/4  loss 0.1250  63.0 s/step")
    assert "\x1b" not in out.getvalue()


def test_a_bar_on_a_terminal():
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120)
    with TrainProgress(4, done=1, console=console, clock=FakeClock()) as progress:
        progress.stage("rollout")
        progress.step(2, {"loss": 0.25})
    assert "rollout" in out.getvalue() and "2/4" in out.getvalue() and "loss 0.2500" in out.getvalue()
