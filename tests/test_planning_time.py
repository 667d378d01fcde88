"""Time: FLOPs by hand, the timeline against closed forms and the simulation, fits, balance, failures."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omniopsd.planning import activations as work
from omniopsd.planning.balance import recommended
from omniopsd.planning.bounds import task_bound
from omniopsd.planning.config import HardwareConfig
from omniopsd.planning.estimate import Known, estimate
from omniopsd.planning.fitting import fit_fixed
from omniopsd.planning.hardware import GPUS, HardwareError, find_gpu
from omniopsd.planning.model_shape import TextShape
from omniopsd.planning.plan import make_plan
from omniopsd.planning.push import rounds
from omniopsd.planning.simulation import Failures, Noise, simulate, with_failures
from omniopsd.planning.timeline import Durations, StepTimes, run_steps, steady
from omniopsd.planning.what_if import WhatIfError, scale, what_if
from tests.planning_scene import large_situation

TEXT = TextShape(layers=2, width=8, heads=2, key_heads=1, head_width=4, inner=16, vocabulary=32)


def durations(**changes: Any) -> Durations:
    values: dict[str, Any] = {
        "generate": (2.0, 2.0),
        "score": (1.0, 1.0),
        "train": 3.0,
        "publish": 0.2,
        "engine_update": 0.3,
        "teacher_update": 0.4,
        "probe": 0.1,
        "engines": 1,
        "teachers": 1,
    }
    return Durations(**(values | changes))


def test_flops_by_hand():
    # q and o 8x8, k and v 8x4, gate, up and down 8x16
    assert work.text_layer_numbers(TEXT) == 64 * 2 + 32 * 2 + 128 * 3
    # one token of a row of 10: two layers of 2 x 576, and 4 x 10 x 8 of attention in each
    assert work.text_flops(TEXT, 1, 10) == 2 * (2 * 576 + 320)
    assert work.head_flops(TEXT, 3) == 2 * 3 * 8 * 32
    assert work.kv_bytes(TEXT, 2) == 2 * 2 * 1 * 4 * 2


def test_an_estimate_is_as_certain_as_its_least_certain_input():
    found = estimate(
        "x",
        "seconds",
        "max(a, b) / c",
        a=1,
        b=Known(value=4, source="measured"),
        c=Known(value=2, source="assumption"),
    )
    assert (found.value, found.source) == (2.0, "assumption")


# --- the timeline -----------------------------------------------------------------------------------------------


def test_one_engine_one_teacher():
    """Both calls one after the other; the second score ends 1 s after them; then training and the push."""
    times = run_steps(durations(), 2)
    assert times[0] == times[1]
    assert times[0].rollout == pytest.approx(4.0)
    assert times[0].learner == pytest.approx(1.0 + 3.0)
    assert times[0].push == pytest.approx(0.2 + 0.4 + 0.1)
    assert times[0].step == pytest.approx(8.7)


def test_a_slow_teacher_is_waited_for():
    times = run_steps(durations(score=(5.0, 5.0)), 1)[0]
    assert times.rollout == pytest.approx(4.0)
    assert times.learner == pytest.approx((2 + 5 + 5 - 4) + 3)


def test_two_engines_halve_the_rollout_and_two_teachers_the_wait():
    times = run_steps(durations(engines=2, teachers=2), 1)[0]
    assert (times.rollout, times.learner) == (pytest.approx(2.0), pytest.approx(1.0 + 3.0))


def test_a_lag_of_one_hides_generation_behind_training():
    """Generate of the next step runs while this one trains; what is left shows in the push, behind which it queues."""
    times = steady(durations(lag=1))
    assert times.rollout == pytest.approx(0.0)
    # scores of both calls, training, publishing and the probe; 4 s of generation end within the first 5
    assert times.step == pytest.approx(2.0 + 3.0 + 0.2 + 0.4 + 0.1)


def test_a_push_waits_behind_queued_generation():
    """Generation of 20 s is longer than all else: the engines take the push when it is done."""
    times = steady(durations(generate=(10.0, 10.0), lag=1))
    assert times.step == pytest.approx(20.0 + 0.3 + 0.1)


def test_shared_cores_slow_what_overlaps():
    """Two actors of two threads on two cores: the 1 s of scoring lengthens the second call by 1 s."""
    alone = run_steps(durations(), 1)[0]
    shared = run_steps(durations(threads=(2.0, 2.0, 2.0), cores=2.0), 1)[0]
    assert shared.rollout == pytest.approx(alone.rollout + 1.0)
    assert shared.push == pytest.approx(
        0.2 + 0.7 + 0.1
    )  # the updates of engine and teacher, half as fast each
    enough = run_steps(durations(threads=(2.0, 2.0, 2.0), cores=4.0), 1)[0]
    assert enough.step == pytest.approx(alone.step)


seconds = st.floats(min_value=0.01, max_value=10.0)


@settings(max_examples=60)
@given(
    calls=st.lists(st.tuples(seconds, seconds), min_size=1, max_size=6),
    engines=st.integers(1, 4),
    teachers=st.integers(0, 3),
    lag=st.integers(0, 3),
    rest=st.tuples(seconds, seconds, seconds, seconds),
)
def test_the_simulation_without_noise_is_the_timeline(
    calls: list[tuple[float, float]], engines: int, teachers: int, lag: int, rest: tuple[float, ...]
):
    one = durations(
        generate=tuple(a for a, _ in calls),
        score=tuple(b for _, b in calls) if teachers else (),
        engines=engines,
        teachers=teachers,
        teacher_update=rest[2] if teachers else None,
        lag=lag,
        train=rest[0],
        publish=rest[1],
        engine_update=rest[3],
    )
    simulated, planned = simulate(one, Noise(), steps=8).times, steady(one, 8)
    for name in ("rollout", "learner", "push", "step"):
        assert getattr(simulated, name) == pytest.approx(getattr(planned, name), rel=1e-6, abs=1e-6)


def test_stragglers_only_slow_a_run_down():
    plain = simulate(durations(engines=2, teachers=2), Noise()).times.step
    slow = simulate(durations(engines=2, teachers=2), Noise(stragglers=0.5, seed=3)).times.step
    assert plain < slow < 4 * plain


def test_failures_cost_what_first_order_theory_says():
    """Young 1974: a share save/interval + (interval/2 + restart)/MTBF, while all three are short against the MTBF."""
    one = simulate(durations(), Noise())
    failures = Failures(mtbf_hours=1000, restart_seconds=300, save_seconds=20, every=100)
    found = with_failures(one, failures, gpus=64, steps=60_000)
    interval, mtbf = 100 * one.times.step + 20, 1000 * 3600 / 64
    expected = 20 / interval + (interval / 2 + 300) / mtbf
    assert found.failures > 5
    assert found.lost == pytest.approx(expected, rel=0.2)


# --- fits, rates, balance ---------------------------------------------------------------------------------------


def test_a_fit_finds_the_seconds_that_made_the_observations():
    counts = [{"call": 1.0, "step": s, "token": t} for s, t in ((4, 16), (4, 128), (26, 800), (26, 100))]
    took = [0.2 + 0.01 * one["step"] + 0.002 * one["token"] for one in counts]
    assert fit_fixed(("call", "step", "token"), counts, took) == pytest.approx(
        {"call": 0.2, "step": 0.01, "token": 0.002}
    )


def test_a_fit_gives_no_negative_seconds():
    counts = [{"call": 1.0, "token": float(t)} for t in (10, 20, 30)]
    found = fit_fixed(("call", "token"), counts, [1.0, 0.9, 0.8])
    assert min(found.values()) >= 0 and found["token"] == 0


def test_known_gpus_and_an_unknown_one():
    assert GPUS["h100"].memory_gb == 80 and GPUS["a100-40"].memory_gb == 40
    with pytest.raises(
        HardwareError, match=r'GPU "h10" is not known; known are a10, .*; did you mean "h100"\?'
    ):
        find_gpu("h10", HardwareConfig())


def test_rounds_of_a_push_double():
    assert [rounds(nodes) for nodes in (0, 1, 2, 3, 4, 511)] == [0, 1, 2, 2, 3, 9]


def test_faster_memory_speeds_decoding_up_and_nothing_else():
    old, new = large_situation("h100"), large_situation("h200")
    assert old.tasks is not None and new.tasks is not None
    size = old.calls[0]
    assert new.tasks.generate[size].value < old.tasks.generate[size].value
    assert new.tasks.train.inputs["work"] == old.tasks.train.inputs["work"]
    assert task_bound(old.tasks.train) == "compute"


def test_decoding_is_never_faster_than_its_bytes():
    one = large_situation()
    assert one.tasks is not None
    task = one.tasks.generate[one.calls[0]]
    steps = one.workload.answers.longest
    weights = 2 * (one.shape.by_part()["text"] + one.shape.by_part()["head"])
    assert task.inputs["read"] > steps * weights
    assert task.value >= steps * weights / (3350e9 * 0.6)


def test_the_recommended_split_is_not_slower_than_the_given_one():
    one = large_situation()
    plan = make_plan(one)
    assert plan.split is not None and plan.times is not None
    assert plan.split.times.step <= plan.times.step + 1e-9
    assert plan.split.gpus <= 8
    assert recommended(one, 0) is None


def test_scale_keeps_proportions_and_says_when_it_cannot():
    one = large_situation()
    larger = scale(one, 64, True)
    assert (larger.config.rollout.replicas, larger.config.teacher.replicas, larger.config.learner.ranks) == (
        16,
        8,
        40,
    )
    assert larger.config.run.samples_per_step == 256
    with pytest.raises(WhatIfError, match="needs 3 GPUs; ask for more"):
        scale(one, 2, True)


def test_what_if_from_8_to_4096_gpus():
    cases = what_if(
        large_situation(), gpus=(8, 512, 4096), lags=(0,), scale_batch=True, noise=Noise(), failures=None
    )
    assert [case.gpus for case in cases] == [8, 512, 4096]
    assert all(math.isfinite(case.rate) and case.rate > 0 for case in cases)
    assert cases[0].rate / 8 >= cases[2].rate / 4096, "nothing becomes more efficient by being larger"


def test_steady_is_the_mean_of_equal_steps():
    assert steady(durations()) == StepTimes(
        rollout=pytest.approx(4.0),
        learner=pytest.approx(4.0),
        push=pytest.approx(0.7),
        step=pytest.approx(8.7),
    )
    assert steady(replace(durations(), driver=1.0)).rollout == pytest.approx(5.0)
