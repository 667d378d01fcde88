"""Benchmark scores during a training run: measured by the same code, and the best checkpoint stays."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from omniopsd.bench.callback import BenchCallbackError
from omniopsd.bench.run import run
from omniopsd.bench.run_options import RunOptions
from omniopsd.bench.run_results import best_step, chosen_on_test, results_lines
from omniopsd.checkpoint import CheckpointState, CheckpointStore
from omniopsd.config_file import ConfigError, load_config
from omniopsd.run_folder import RunFolder
from omniopsd.train import train
from tests.bench_scene import QUIET, mini_root, prepared_mini
from tests.run_scene import run_config, run_yaml

EVERY = {"checkpoint": {"every": 1, "keep": 1}}


def results(run: RunFolder) -> dict[str, Any]:
    return dict(json.loads((run.path / "bench.json").read_text()))


def kept(run: RunFolder) -> list[str]:
    return sorted(path.name for path in run.checkpoints_path.glob("step_*"))


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared `val` and `test` clips."""
    folder = tmp_path_factory.mktemp("clips")
    root = mini_root(folder, 2, 2)
    for split in ("val", "test"):
        prepared_mini(root, folder / split, split=split)
    return folder


@pytest.mark.slow
def test_the_best_checkpoint_stays_through_later_ones_and_a_resume(clips: Path, tmp_path: Path) -> None:
    bench = {"data": str(clips / "val"), "sets": ["MELD", "MOSI"], "samples": 2, "select": True}
    folder = train(run_config(tmp_path, **EVERY, eval={"every": 1, "bench": bench}, run={"steps": 2}))
    found = results(folder)
    assert list(found["steps"]) == ["0", "1", "2"] and found["split"] == "val"
    assert all(set(result["scores"]) == {"MELD", "MOSI"} for result in found["steps"].values())
    best = best_step(found["steps"])
    assert found["best"] == best and kept(folder) == sorted({f"step_{best:06d}", "step_000002"})
    assert any(f"best: step {best}" in line for line in results_lines(folder.path))
    assert f"The checkpoint of step {best} scored best" in folder.report_path.read_text()
    # step 2 was never measured, as after a kill between its checkpoint and its scores; step 3 is new
    steps = {name: result for name, result in found["steps"].items() if name != "2"}
    (folder.path / "bench.json").write_text(json.dumps(found | {"steps": steps}))
    longer = load_config(folder.config_path, ["run.steps=3"])
    again = train(longer, resume=True)
    assert list(results(again)["steps"]) == ["0", "1", "2", "3"]
    assert results(again)["steps"]["2"] == found["steps"]["2"]  # greedy answers of the same weights
    best = results(again)["best"]
    assert kept(again) == sorted({f"step_{best:06d}", "step_000003"})


@pytest.mark.slow
def test_a_checkpoint_chosen_on_test_carries_that_fact(clips: Path, tmp_path: Path) -> None:
    bench = {"data": str(clips / "test"), "sets": ["SIMS"], "select": True}
    with pytest.raises(BenchCallbackError, match="has no honest test score"):
        train(run_config(tmp_path, **EVERY, eval={"every": 1, "bench": bench}))
    assert not (tmp_path / "runs").exists()
    bench["select_on_test"] = True
    folder = train(run_config(tmp_path, **EVERY, eval={"every": 1, "bench": bench}, run={"steps": 2}))
    best = folder.checkpoints_path / f"step_{results(folder)['best']:06d}" / "model"
    assert chosen_on_test(best) and not chosen_on_test(tmp_path / "model")
    assert "chosen by its score on the test clips" in results_lines(folder.path)[-1]
    options = RunOptions(
        benchmark="mer-mini", model=str(best), out=tmp_path / "out", data=clips / "test", llm=None, sets=["SIMS"],
        overrides=["rollout.engine=transformers", "runtime.kind=inline", "rollout.max_new_tokens=4"],
    )  # fmt: skip
    assert "The checkpoint was chosen by its score on the test clips." in run(options, QUIET).marks


@pytest.mark.slow
def test_clips_that_are_trained_on_are_refused(clips: Path, tmp_path: Path) -> None:
    copy = tmp_path / "mine"
    copy.mkdir()
    row = json.loads((clips / "val" / "SIMS" / "samples.jsonl").read_text().splitlines()[0]) | {"id": "other"}
    for file in (*row["videos"], *row["audios"]):
        (copy / "media").mkdir(exist_ok=True)
        (copy / file).hardlink_to(clips / "val" / "SIMS" / file)
    (copy / "samples.jsonl").write_text(json.dumps(row) + "\n")
    bench = {"data": str(clips / "val")}
    data = {"train": str(copy / "samples.jsonl")}
    with pytest.raises(BenchCallbackError, match=r"1 of 12 clips are in data.train too \(first: SIMS/"):
        train(run_config(tmp_path, eval={"bench": bench}, data=data, teacher={"privilege": "label"}))
    with pytest.raises(BenchCallbackError, match="select_on_test: no effect"):
        bench |= {"select": True, "select_on_test": True}
        shutil.rmtree(tmp_path / "runs", ignore_errors=True)
        train(run_config(tmp_path, **EVERY, eval={"every": 1, "bench": bench}))


@pytest.mark.parametrize(
    ("evaluation", "told"),
    [
        ({"bench": {"data": "d", "select": True}}, "nothing to choose from; set eval.every"),
        ({"every": 3, "bench": {"data": "d", "select": True}}, "3 is no multiple of checkpoint.every 2"),
        ({"every": 2, "bench": {"data": "d", "select_on_test": True}}, "no effect without select"),
        ({"every": 2, "bench": {"data": "d", "sampels": 3}}, 'did you mean "samples"'),
        ({"every": 2, "teacher": False, "bench": {"data": "d"}}, "eval.teacher: no effect without data.test"),
    ],
)
def test_silent_misuses_are_refused_at_load(evaluation: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=told):
        load_config(run_yaml(tmp_path, checkpoint={"every": 2}, eval=evaluation))


def test_the_best_step() -> None:
    def scores(**by_step: float) -> dict[str, Any]:
        return {name.removeprefix("s"): {"score": value} for name, value in by_step.items()}

    assert best_step(scores(s0=9.0, s50=3.0, s100=4.0, s150=4.0)) == 100
    assert best_step(scores(s0=9.0)) is None and best_step({}) is None


def test_a_pinned_checkpoint_survives_keep(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    left = []
    for step in range(1, 6):
        state = CheckpointState(
            step=step, policy_version=step, data_cursor={}, rng={}, refresh={}, config_digest="x"
        )
        store.save(state, lambda target: None)
        left.append([int(path.name.removeprefix("step_")) for path in store.paths()])
        if step in (2, 4):  # the best so far, as it was measured after its checkpoint
            store.pinned = frozenset({step})
    assert left == [[1], [2], [2, 3], [2, 4], [4, 5]]
