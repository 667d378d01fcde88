"""Each preset, and each baseline, runs three steps of the real loop in one process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from omniopsd.config_file import PRESETS, load_config
from omniopsd.metrics import read
from omniopsd.run_folder import RunFolder
from omniopsd.train import train
from tests.run_scene import held_out, run_yaml

pytestmark = pytest.mark.slow
SMALL = [
    "rollout.max_new_tokens=6",
    "model.max_context=512",
    "model.dtype=float32",
    "learner.max_pack_tokens=4096",
    "weights.probe_tolerance=1e-3",
]
LR, BASELINES = (
    "learner.lr=1e-3",
    {
        "grpo": {"divergence": "none", "reward": {"baseline": "group", "format": 1.0, "ratio_clip": 0.2}},
        "sft-label": {"divergence": "cross_entropy", "supervised": "label"},
        "sft-rationale": {"divergence": "cross_entropy", "supervised": "rationale"},
        "hybrid": {"divergence": "jsd", "reward": {"alpha": 0.2, "baseline": "raw"}},
    },
)


def from_preset(folder: Path, name: str) -> RunFolder:
    """The scene's data and model under a preset, with nothing of the objective but the preset's."""
    path = run_yaml(folder)
    content = json.loads(path.read_text())
    keep = ("name", "root", "steps", "samples_per_step")
    short = {
        "preset": name,
        "run": {key: content["run"][key] for key in keep},
        "model": {"path": content["model"]["path"]},
        "data": {"train": content["data"]["train"]},
        "rollout": {"engine": "transformers", "samples_per_call": 1},
        "teacher": {"template": content["teacher"]["template"]},
        "learner": {"packing": False, "zero_stage": 0},
        "runtime": {"kind": "inline"},
    }
    path.write_text(yaml.safe_dump(short))
    return train(load_config(path, [*SMALL, LR]))


@pytest.mark.parametrize("name", sorted(file.stem for file in PRESETS.glob("*.yaml")))
def test_a_preset_runs_three_steps(name: str, tmp_path: Path) -> None:
    rows = read(from_preset(tmp_path, name).metrics_path)
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert all(row["loss"] > 0 and row["grad_norm"] > 0 and row["trained_tokens"] > 0 for row in rows)
    assert rows[-1]["staleness_max"] == (2 if name == "async" else 0)
    versions = {"opsd": 0, "async": 0}
    assert rows[-1]["teacher_version"] == versions.get(name, 2)
    if name != "opsd":  # which samples from a cut distribution
        assert max(row["rollout_learner_difference"] for row in rows if row["staleness_max"] == 0) < 1e-4


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_runs_three_steps_with_the_same_evaluation(name: str, tmp_path: Path) -> None:
    path = run_yaml(tmp_path, objective=BASELINES[name], data={"test": held_out(tmp_path)})
    content = json.loads(path.read_text())
    if name != "hybrid":
        del content["teacher"]
        path.write_text(json.dumps(content))
    folder = train(load_config(path))
    rows = read(folder.metrics_path)
    assert [row["policy_version"] for row in rows] == [1, 2, 3]
    results = folder.read_eval()
    assert results["before"]["n"] == results["after"]["n"] == 6
    assert ("teacher" in results) == ("teacher_gain" in rows[0]) == (name == "hybrid")
    if name.startswith("sft"):
        assert rows[-1]["loss"] < rows[0]["loss"] and "rollout_learner_difference" not in rows[0]
        assert rows[0]["accuracy_train"] == rows[0]["format_rate"] == 1.0
    else:
        assert all("reward" in row and "advantage_size" in row for row in rows)
        assert all(row["rollout_learner_difference"] < 1e-4 for row in rows)
