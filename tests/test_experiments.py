"""The harness: every YAML is a set of sound runs, a tiny arm of each really runs, and the page is what its script writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.experiments import evidence
from benchmarks.experiments.__main__ import missing_runs, result_path, run_all
from benchmarks.experiments.answers import answer_confidence
from benchmarks.experiments.arm import ArmRunner, first_alarms
from benchmarks.experiments.charts import intervals
from benchmarks.experiments.measures import calibration_error, macro_f1
from benchmarks.experiments.spec import Claim, Experiment, ExperimentError, TrainData, read_experiment
from benchmarks.experiments.summary import Estimate, estimate, line, paired
from omniopsd.mer_mini.shift import HINT, mixed_rationales, one_missing, only_media, redacted
from omniopsd.telemetry_config import AlarmsConfig

YAMLS = sorted(Path(evidence.__file__).parent.glob("*.yaml"))


def tiny(experiment: Experiment, arms: dict[str, Any]) -> Experiment:
    """Two steps of two clips and a test of six items."""
    run = json.loads(json.dumps(experiment.common))
    run["run"] |= {"steps": 2, "samples_per_step": 2}
    run["learner"]["warmup_steps"] = 0
    run["weights"]["probe_every"] = 1
    run["rollout"] |= {"rollouts_per_sample": 2, "max_new_tokens": 4}
    changed = {"common": run, "arms": arms, "data": TrainData(clips=18), "test_clips": 6, "gap": False}
    return experiment.model_copy(update=changed | {"tests": ("in-domain",)})


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("experiments")


def test_there_are_all_experiments():
    assert [path.name[0] for path in YAMLS] == list("1234567")


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.stem)
def test_each_arm_is_a_config_that_loads(path: Path, clips: Path):
    experiment = read_experiment(path)
    small = experiment.model_copy(update={"data": TrainData(clips=18)})
    for name, arm in small.arms.items():
        data = arm.data and arm.data.model_copy(update={"clips": 18})
        small.arms[name] = arm.model_copy(update={"data": data})
    for arm in small.arms:
        ArmRunner(small, clips).config(arm, 0)
    for claim in experiment.claims:
        for side in (claim.better, claim.worse):
            owner, _, name = side.partition("@")[0].rpartition("/")
            other = next(e for e in map(read_experiment, YAMLS) if e.name == (owner or experiment.name))
            assert name in other.arms


@pytest.mark.slow
@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.stem)
def test_a_tiny_arm_of_each_runs_and_is_not_run_again(path: Path, clips: Path, tmp_path: Path):
    experiment = read_experiment(path)
    name, arm = list(experiment.arms.items())[-1]
    if arm.data:
        arm = arm.model_copy(update={"data": arm.data.model_copy(update={"clips": 18})})
    arm = arm.model_copy(update={"set": {k: v for k, v in arm.set.items() if not k.startswith("run.")}})
    small = tiny(experiment, {name: arm.model_copy(update={"evidence": True})})
    assert run_all([small], tmp_path, clips, 1, None) == 0
    run = json.loads(result_path(tmp_path, small, name, 0).read_text())
    assert (
        len(run["tests"]["in-domain"]["answers"])
        == 6
        == len(run["tests_with_evidence"]["in-domain"]["labels"])
    )
    assert len(run["curves"]["loss"]) == 2
    assert missing_runs([small], tmp_path, 1, None) == []


def test_seeds_come_first_and_done_runs_are_left_out(tmp_path: Path):
    table, controls = (read_experiment(path) for path in YAMLS[:2])
    todo = missing_runs([table, controls], tmp_path, 2, ["base", "grpo"])
    assert [(e.name, arm, seed) for e, arm, seed in todo] == [
        ("table", "base", 0), ("table", "grpo", 0), ("controls", "base", 0),
        ("table", "base", 1), ("table", "grpo", 1), ("controls", "base", 1),
    ]  # fmt: skip
    done = result_path(tmp_path, table, "grpo", 0)
    done.parent.mkdir(parents=True)
    done.write_text("{}")
    assert len(missing_runs([table, controls], tmp_path, 2, ["base", "grpo"])) == 5
    with pytest.raises(ExperimentError, match="--arms gpro: write some of"):
        missing_runs([table], tmp_path, 2, ["gpro"])


def test_a_reference_must_be_an_arm():
    with pytest.raises(ValueError, match="reference is 'b'; write one of a"):
        Experiment(name="x", question="?", reference="b", common={}, arms={"a": {}})


def test_estimates_and_pairs_by_hand():
    one = estimate([0.1, 0.2, 0.3])
    assert one.mean == pytest.approx(0.2) and one.half == pytest.approx(4.303 * 0.1 / 3**0.5)
    pair = paired({0: 0.5, 1: 0.6, 2: 0.9}, {0: 0.4, 1: 0.5})
    assert pair is not None and pair.mean == pytest.approx(0.1) and pair.seeds == 2
    assert paired({0: 1.0}, {1: 1.0}) is None
    assert Estimate(mean=0.1, half=0.05, seeds=3).verdict() == "higher"
    assert Estimate(mean=-0.1, half=0.05, seeds=3).verdict() == "lower"
    assert Estimate(mean=0.1, half=0.2, seeds=3).verdict() == "not told apart"
    assert line([(0, 1), (1, 3), (2, 5)]) == pytest.approx((2, 1, 1))


@pytest.mark.parametrize(
    ("mean", "gain", "judged"),
    [
        (0.1, True, "held"),
        (-0.1, True, "refuted"),
        (0.01, True, "open"),
        (0.1, False, "refuted"),
        (-0.1, False, "held"),
        (0.01, False, "held"),
    ],
)
def test_a_claim_of_no_gain_is_refuted_by_a_gain(mean: float, gain: bool, judged: str) -> None:
    claim = Claim(says="it", better="a", worse="b", gain=gain)
    assert evidence._judged(claim, Estimate(mean=mean, half=0.05, seeds=3)) == judged
    assert evidence._judged(claim, Estimate(mean=mean, half=None, seeds=1)) == "one seed"


def test_measures_by_hand():
    assert macro_f1(["a", "a", "b"], ["a", "b", None]) == pytest.approx((2 / 3 + 0) / 2)
    assert calibration_error([0.95, 0.95, 0.05, 0.05], [True, False, False, False]) == pytest.approx(
        (abs(1.9 - 1) + abs(0.1 - 0)) / 4
    )
    pieces, logprobs = ["<think>", "x", "<ans", "wer>", "hap", "py"], [-9.0, -9.0, -9.0, -9.0, -0.5, -0.25]
    assert answer_confidence(pieces, logprobs) == pytest.approx(2.718281828**-0.75)
    assert answer_confidence(["no", "tag"], [-1.0, -1.0]) == 0.0


def test_first_alarms_name_the_step():
    good = {"format_rate": 1.0}
    history = [{"step": n, **(good if n < 8 else {"format_rate": 0.2})} for n in range(1, 12)]
    assert first_alarms(history, AlarmsConfig()) == {"format": 9}


def test_rows_are_changed_as_asked():
    row = {
        "messages": [{"role": "user", "content": "<video><audio><image>\nSubtitle: x"}],
        "videos": ["v"], "audios": ["a"], "images": ["i"], "rationale": "it is joy. the lips curve up",
    }  # fmt: skip
    bare = only_media(row, ["audio"])
    assert bare["messages"][0]["content"] == "<audio>\nSubtitle: x" and bare["videos"] == [] == bare["images"]
    assert [[r["videos"], r["audios"], r["images"]] for r in one_missing([row] * 3)] == [
        [[], ["a"], ["i"]], [["v"], [], ["i"]], [["v"], ["a"], []],
    ]  # fmt: skip
    assert redacted([row])[0]["rationale"] == "it is something. the lips curve up" and HINT.search(
        row["rationale"]
    )
    rows = [row | {"rationale": str(n)} for n in range(10)]
    mixed = mixed_rationales(rows, 0.4, 1)
    assert sum(new["rationale"] == old["rationale"] for new, old in zip(mixed, rows, strict=True)) == 4
    assert sorted(new["rationale"] for new in mixed) == sorted(r["rationale"] for r in rows)


def test_a_figure_shows_each_arm_and_interval():
    bars = [("one & two", [("in-domain", Estimate(mean=0.5, half=0.1, seeds=3))])]
    figure = intervals("title", bars)
    assert "one &amp; two" in figure and 'x1="298.0"' in figure and 'x2="382.0"' in figure


def test_the_page_and_its_figures_are_current():
    page, figures = evidence.build()
    again = "run `python -m benchmarks.experiments.evidence`"
    assert evidence.PAGE.read_text() == page, again
    assert {name: (evidence.FIGURES / name).read_text() for name in figures} == figures, again
    assert "MER-UniBench result" in page


def collapses() -> list[Path]:
    return sorted((evidence.RESULTS / "collapse").glob("live.*.json"))


@pytest.mark.parametrize("path", collapses(), ids=lambda path: path.stem)
def test_the_alarms_catch_the_collapse_of_a_live_teacher_by_step_20(path: Path):
    curves = json.loads(path.read_text())["curves"]
    names = ("format_rate", "response_length_p95", "divergence")
    history = [
        {"step": step} | dict(zip(names, values, strict=True))
        for step, values in enumerate(zip(*(curves[name] for name in names), strict=True), start=1)
    ]
    assert min(first_alarms(history, AlarmsConfig()).values()) <= 20


def test_there_is_a_real_collapse_to_catch():
    assert collapses()
