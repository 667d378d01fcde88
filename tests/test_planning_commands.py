"""`omniopsd plan` from the command line: the demo, bad input, machines that are too small, calibration files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from omniopsd.cli import main
from omniopsd.planning.calibration import save_calibration
from tests.planning_scene import calibration, large_folder
from tests.run_scene import run_yaml


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plan")
    run_yaml(folder)
    return folder


def planned(scene: Path, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(["plan", str(scene / "run.yaml"), "-o", "json", *words]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_run_on_this_machine(scene: Path, capsys: pytest.CaptureFixture[str]):
    found = planned(scene, capsys)
    assert found["fits"] and found["step"] is None
    assert [role["role"] for role in found["memory"]] == ["rollout", "teacher", "learner"]
    assert any("plan calibrate" in note for note in found["notes"]), "no seconds without a measurement"
    assert any("no cost" in note for note in found["notes"])


def test_the_text_shows_every_formula(scene: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["plan", str(scene / "run.yaml")]) == 0
    text = capsys.readouterr().out
    assert "= rows * L * token; rows 2, L " in text and "[exact]" in text and "[rendered]" in text


def test_a_calibration_gives_seconds(scene: Path, capsys: pytest.CaptureFixture[str]):
    save_calibration(scene / "calibration.json", calibration())
    found = planned(scene, capsys, "--calibration", str(scene / "calibration.json"), "--price", "2")
    assert found["step"]["step"] > 0
    assert {task["source"] for stage in found["stages"] for task in stage["tasks"]} <= {"measured", "exact"}
    assert found["totals"][-1]["name"] == "cost of an epoch" and found["totals"][-1]["unit"] == "USD"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            [
                "--gpu",
                "h9000",
                "--set",
                "runtime.kind=ray",
                "--set",
                "rollout.gpus=1",
                "--set",
                "learner.gpus=1",
            ],
            'GPU "h9000" is not known',
        ),
        (["--lag", "1"], "--lag is a what-if; add --simulate"),
        (["--simulate"], "no data sheet says how fast a CPU is here"),
        (["--answer-tokens", "600"], "is above rollout.max_new_tokens"),
        (["--calibration", "nowhere.json"], "nowhere.json: cannot be read"),
        (["--hardware", "nowhere.yaml"], "nowhere.yaml: cannot be read"),
    ],
)
def test_bad_input_is_one_sentence(
    scene: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
):
    assert main(["plan", str(scene / "run.yaml"), *words]) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.strip().splitlines()) == 1


def test_calibrate_needs_a_file_to_write(scene: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["plan", "calibrate", str(scene / "run.yaml")]) == 2
    assert "write --out FILE" in capsys.readouterr().err


def test_a_damaged_calibration_is_refused(scene: Path, capsys: pytest.CaptureFixture[str]):
    file = scene / "damaged.json"
    save_calibration(file, calibration())
    content = json.loads(file.read_text())
    content["rates"]["rollout"]["flops"] = -1
    file.write_text(json.dumps(content))
    assert main(["plan", str(scene / "run.yaml"), "--calibration", str(file)]) == 2
    error = capsys.readouterr().err
    assert "rates.rollout.flops" in error and "omniopsd plan calibrate" in error


def test_packs_that_no_group_fits_exit_2(scene: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["plan", str(scene / "run.yaml"), "--set", "learner.max_pack_tokens=20"]) == 2
    assert "learner.max_pack_tokens: 20 does not hold the longest sample" in capsys.readouterr().err


def cluster_yaml(folder: Path, kind: str, gpus: int = 8) -> Path:
    path = folder / f"{kind}-{gpus}.yaml"
    head = {"cpus": 8, "gpus": gpus, "labels": {"gpu": kind}}
    path.write_text(json.dumps({"name": "one", "provider": "local", "head": head}))
    return path


def test_the_7b_on_a_cluster(tmp_path: Path, scene: Path, capsys: pytest.CaptureFixture[str]):
    """Too large for 8 L40S as written, fine on 8 H200; each shortage is told with what to write instead."""
    model = large_folder(scene / "model", tmp_path / "large")
    words = [
        f"--set={key}"
        for key in (
            f"model.path={model}",
            "model.dtype=bfloat16",
            "rollout.engine=vllm",
            "rollout.gpus=1",
            "rollout.memory_fraction=0.9",
            "teacher.gpus=1",
            "learner.gpus=1",
            "learner.ranks=6",
            "run.samples_per_step=6",
            "learner.zero_stage=2",
            "runtime.kind=ray",
            "weights.probe_tolerance=5e-2",
        )
    ]
    yaml = str(scene / "run.yaml")
    assert main(["plan", yaml, *words, "--cluster", str(cluster_yaml(tmp_path, "l40s"))]) == 2
    captured = capsys.readouterr()
    assert "learner: a rank needs" in captured.err and "write learner." in captured.err
    assert "teacher: an actor needs" in captured.err
    assert (
        main(
            [
                "plan",
                yaml,
                *words,
                "--cluster",
                str(cluster_yaml(tmp_path, "h200")),
                "--price",
                "3",
                "-o",
                "json",
            ]
        )
        == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert found["machines"]["kind"] == "h200" and found["step"]["step"] > 0
    assert found["split"]["gpus"] <= 8
    assert any("assumed efficiencies" in note for note in found["notes"])
    cost = found["totals"][-1]
    assert cost["value"] == pytest.approx(found["totals"][-2]["value"] / 3600 * 8 * 3)
    assert (
        main(
            [
                "plan",
                yaml,
                *words,
                "--cluster",
                str(cluster_yaml(tmp_path, "h200")),
                "--simulate",
                "--gpus",
                "8,64",
                "--lag",
                "0,1",
                "--failures",
                "20000",
            ]
        )
        == 0
    )
    assert len(capsys.readouterr().out.strip().splitlines()) == 5
