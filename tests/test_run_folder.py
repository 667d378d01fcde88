"""The run folder: refusing to mix two runs, and naming what differs."""

from __future__ import annotations

import json

import pytest
import yaml

from omniopsd.config import RunConfig
from omniopsd.run_folder import RunFolder, RunFolderError, config_digest, may_change


def a_config(**changes: object) -> RunConfig:
    sections: dict[str, dict[str, object]] = {
        "run": {"name": "demo", "steps": 10},
        "model": {"path": "models/tiny"},
        "data": {"train": "train.jsonl"},
    }
    for key, value in changes.items():
        section, name = key.split("__")
        sections.setdefault(section, {})[name] = value
    return RunConfig.model_validate(sections)


def a_run(tmp_path, **changes) -> RunFolder:
    folder = RunFolder(tmp_path, "demo")
    folder.create(a_config(**changes))
    folder.metrics_path.write_text('{"step": 1}\n')
    return folder


def test_create_writes_the_resolved_config_and_where_it_came_from(tmp_path):
    folder = RunFolder(tmp_path, "demo")
    folder.create(a_config())
    saved = yaml.safe_load((tmp_path / "demo/config.yaml").read_text())
    assert RunConfig.model_validate(saved) == a_config()
    assert saved["teacher"]["ema"] == 0.999  # a default, resolved
    (start,) = json.loads((tmp_path / "demo/provenance.json").read_text())["starts"]
    assert start["packages"]["numpy"] and start["python"] and "commit" in start
    assert folder.rollout_path(12) == tmp_path / "demo/rollouts/step_000012.parquet"


def test_create_refuses_a_folder_with_a_run(tmp_path):
    folder = a_run(tmp_path)
    with pytest.raises(RunFolderError, match="already holds a run of 1 steps.*--resume"):
        folder.create(a_config())
    folder.create(a_config(), resume=True)


def test_create_refuses_a_folder_with_a_checkpoint_and_no_metrics(tmp_path):
    folder = a_run(tmp_path)
    folder.metrics_path.unlink()
    (folder.checkpoints_path / "step_000001").mkdir()
    with pytest.raises(RunFolderError, match="already holds"):
        folder.create(a_config())


def test_create_clears_an_attempt_that_finished_no_step(tmp_path):
    folder = RunFolder(tmp_path, "demo")
    folder.create(a_config())
    folder.write_eval({"before": {"n": 1}})
    folder.rollout_path(1).write_bytes(b"half")
    (folder.path / "notes.txt").write_text("the user's own file")
    folder.create(a_config(learner__lr=1e-5))
    assert folder.read_eval() == {} and not folder.rollout_path(1).exists()
    assert folder.saved_config()["learner"]["lr"] == 1e-5
    assert (folder.path / "notes.txt").exists()


def test_resume_names_each_differing_key_with_both_values(tmp_path):
    folder = a_run(tmp_path)
    with pytest.raises(RunFolderError) as caught:
        folder.resume(a_config(learner__lr=2e-6, teacher__privilege="label", run__steps=20))
    text = str(caught.value)
    assert "learner.lr was 1e-06, is 2e-06" in text
    assert 'teacher.privilege was "rationale", is "label"' in text
    assert "run.steps" not in text
    assert folder.saved_config()["run"]["steps"] == 10  # nothing saved


def test_resume_names_a_whole_section_that_came_or_went(tmp_path):
    folder = a_run(tmp_path)
    with pytest.raises(RunFolderError, match=r"lora was null, is .not set.*lora.rank was .not set., is 8"):
        folder.resume(a_config(learner__lora={"rank": 8}))


def test_resume_allows_what_decides_nothing_that_is_learned(tmp_path):
    folder = a_run(tmp_path)
    changed = a_config(
        run__steps=20, run__log_rollouts=1, checkpoint__every=5, checkpoint__keep=9, eval__samples=3,
        runtime__kind="inline", rollout__timeout_seconds=5, learner__timeout_seconds=5,
    )  # fmt: skip
    folder.resume(changed)
    assert folder.saved_config()["run"]["steps"] == 20
    starts = folder.provenance()["starts"]
    assert len(starts) == 2 and starts[1]["changed"]["run.steps"] == [10, 20]
    assert config_digest(changed) == config_digest(a_config())


@pytest.mark.parametrize(
    "key", ["run.seed", "run.name", "checkpoint.other", "rollout.temperature", "evaluation.n"]
)
def test_other_keys_may_not_change(key):
    assert not may_change(key)


def test_the_digest_tells_settings_apart():
    assert config_digest(a_config(learner__lr=1e-5)) != config_digest(a_config())


def test_resume_without_a_run(tmp_path):
    with pytest.raises(RunFolderError, match="no run to resume"):
        RunFolder(tmp_path, "demo").resume(a_config())


@pytest.mark.parametrize("name", ["", "..", "a/b", "/etc", "a\\b"])
def test_a_name_stays_below_the_root(tmp_path, name):
    with pytest.raises(RunFolderError, match="plain folder name"):
        RunFolder(tmp_path, name)


def test_discard_after_removes_what_a_resume_makes_again(tmp_path):
    folder = a_run(tmp_path)
    for step in (4, 5, 6):
        folder.rollout_path(step).touch()
    folder.write_eval({"before": {"n": 2}, "after": {"n": 2}, "steps": {"4": {"n": 2}, "6": {"n": 2}}})
    folder.discard_after(4)
    assert [path.name for path in folder.rollouts_path.iterdir()] == ["step_000004.parquet"]
    assert folder.read_eval() == {"before": {"n": 2}, "after": None, "steps": {"4": {"n": 2}}}


def test_a_damaged_file_is_one_sentence(tmp_path):
    folder = a_run(tmp_path)
    folder.eval_path.write_text("{")
    with pytest.raises(RunFolderError, match="eval.json: cannot be read as JSON"):
        folder.read_eval()
    folder.config_path.write_text("a: [")
    with pytest.raises(RunFolderError, match="config.yaml: cannot be read"):
        folder.saved_config()
