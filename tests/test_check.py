"""`omniopsd check` on a small model and drawn clips: what it prints, and what it finds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from omniopsd.check import CheckError, check
from omniopsd.config import RunConfig
from omniopsd.mer_mini.write import write_mer_mini
from omniopsd.mini_omni import write_mini_omni
from omniopsd.token_budget import TokenBudget

CLIPS = 4


@pytest.fixture(scope="module")
def material(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("check")
    write_mer_mini(folder / "train", CLIPS, 0, "train")
    write_mer_mini(folder / "test", CLIPS, 0, "test")
    write_mini_omni(folder / "model", size="tiny")
    return folder


def a_config(material: Path, **sections: dict[str, object]) -> RunConfig:
    base: dict[str, dict[str, object]] = {
        "run": {"name": "x", "steps": 10, "samples_per_step": 2},
        "model": {"path": str(material / "model"), "max_context": 2048},
        "data": {
            "train": str(material / "train/samples.jsonl"), "test": str(material / "test/samples.jsonl")
        },
        "rollout": {"max_new_tokens": 64, "engine": "transformers"},
    }  # fmt: skip
    for name, values in sections.items():
        base[name] = {**base.get(name, {}), **values}
    return RunConfig.model_validate(base)


def problems(config: RunConfig) -> str:
    with pytest.raises(CheckError) as error:
        check(config, limit=2)
    return str(error.value)


def with_rows(material: Path, name: str, change) -> str:
    """A copy of the training rows beside the originals, changed by `change(rows)`."""
    rows = [json.loads(line) for line in (material / "train/samples.jsonl").read_text().splitlines()]
    path = material / "train" / name
    path.write_text("".join(json.dumps(row) + "\n" for row in change(rows)))
    return str(path)


def test_a_good_run_prints_config_and_budget(material, capsys):
    check(a_config(material), limit=2)
    out = capsys.readouterr().out
    assert "samples_per_step: 2" in out and "no problem found" in out
    assert f"data.train: {CLIPS} samples; media of 2 of them decoded" in out
    assert "video 8, audio 25, image 4" in out


def test_every_place_is_looked_at(material):
    bad_model = material / "bad-model"
    shutil.copytree(material / "model", bad_model, dirs_exist_ok=True)
    settings = json.loads((bad_model / "config.json").read_text())
    (bad_model / "config.json").write_text(json.dumps({**settings, "architectures": ["Other"]}))
    text = problems(
        a_config(
            material,
            model={"path": str(bad_model), "max_context": 10_000_000},
            data={"train": "no.jsonl", "test": "no.parquet"},
            rollout={"engine": "vllm"},
            learner={"lora": {"targets": ["q_proj", "qproj"]}},
            objective={"support": "topk", "top_k": 100_000},
        )
    )
    for says in (
        "model.max_context: 10000000 is above",
        "objective.top_k: 100000",
        "architectures is ['Other']",
        "learner.lora.targets: the language model has no layer qproj",
        "no.jsonl: no such file",
        "no.parquet: no such file",
    ):
        assert says in text
    assert "no layer q_proj" not in text


def test_a_missing_model_does_not_hide_the_data(material):
    text = problems(a_config(material, model={"path": "nowhere"}, data={"train": "no.jsonl"}))
    assert "nowhere: no config.json found" in text and "no.jsonl: no such file" in text


def test_ranks_that_do_not_divide_the_model_are_refused(material):
    found = problems(a_config(material, teacher={"tensor_parallel_size": 2}))  # one key-value head
    assert found.startswith(
        "teacher.tensor_parallel_size: 2 does not divide the model's num_key_value_heads 1;"
    )


def test_missing_evidence_fails_or_is_counted(material, capsys):
    path = with_rows(material, "bare.jsonl", lambda rows: [{**rows[0], "rationale": None}, *rows[1:]])
    assert "1 of 4 samples have no rationale" in problems(a_config(material, data={"train": path}))
    check(a_config(material, data={"train": path}, teacher={"missing": "skip"}), limit=2)
    assert "4 samples, 1 skipped for missing evidence" in capsys.readouterr().out


def test_test_samples_are_new_and_have_labels(material):
    path = with_rows(material, "leak.jsonl", lambda rows: [{**rows[0], "id": "new", "labels": []}])
    text = problems(a_config(material, data={"test": path}))
    assert "data.test: 1 of 1 samples are in data.train too" in text
    assert "data.test: 1 of 1 samples have no labels" in text


def test_too_few_samples_and_too_little_room(material):
    text = problems(
        a_config(
            material,
            run={"samples_per_step": 9},
            model={"max_context": 100},
            learner={"max_pack_tokens": 300},
        )
    )
    assert "run.samples_per_step is 9 and data.train has 4 samples" in text
    assert "leaves 36 beside rollout.max_new_tokens" in text


def test_the_budget_counts_one_prefix_for_all_answers(material):
    config = a_config(material, learner={"max_pack_tokens": 300})
    budget = TokenBudget(
        prompts=({"text": 10, "audio": 20}, {"text": 50}), contexts=({"text": 60}, {"text": 80, "video": 20})
    )
    lines = list(budget.lines(config, trained=True))
    assert _numbers(lines[1]) == ["40", "50"] and _numbers(lines[2]) == ["80", "100"]
    assert _numbers(lines[4]) == [str(2 * (40 + 4 * 64))] and _numbers(lines[5]) == [str(2 * (80 + 4 * 64))]
    assert _numbers(lines[6])[0] == "164" and "8% of model.max_context" in lines[6]
    (problem,) = budget.problems(config)
    assert "write at least 306" in problem
    assert not list(TokenBudget(prompts=(), contexts=()).problems(config))


def _numbers(line: str) -> Sequence[str]:
    return [word for word in line[18:].split("   ")[:-1] for word in word.split() if word.isdecimal()]
