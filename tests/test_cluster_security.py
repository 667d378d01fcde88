"""Token, environment and record of a cluster, without one."""

from __future__ import annotations

import os
import stat
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.api import ApiError, ClusterApi
from cluster.auth import AuthError, make_token, read_token
from cluster.cluster_config import SecurityConfig
from cluster.jobs import RunRequest, entrypoint
from cluster.node_env import node_environment
from cluster.state import ClusterState, NodeState, StateError, StateFolder, config_changes
from cluster.verbs import refused_changes


@pytest.fixture(params=[0o000, 0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_s5_the_token_is_for_its_owner_whatever_the_umask(umask: None, tmp_path: Path) -> None:
    path = make_token(tmp_path / "clusters" / "dev")
    assert mode(path) == 0o600 and mode(path.parent) == 0o700
    assert len(read_token(path)) == 64
    assert make_token(path.parent) == path  # and it stays the same one


def test_s5_a_token_that_others_could_read_is_refused(tmp_path: Path) -> None:
    path = make_token(tmp_path / "dev")
    path.chmod(0o644)
    with pytest.raises(AuthError, match="mode 0644 lets others read it; run `chmod 600"):
        read_token(path)
    path.chmod(0o600)
    path.parent.chmod(0o755)
    with pytest.raises(AuthError, match="chmod 700"):
        make_token(path.parent)
    path.parent.chmod(0o700)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AuthError, match="is a link"):
        read_token(path)


def test_s1_s3_s6_a_node_starts_with_tokens_on_metrics_off_and_no_secret() -> None:
    shell = {
        "PATH": "/bin", "HOME": "/root", "HF_HOME": "/hf", "TOKENIZERS_PARALLELISM": "false",
        "OPENAI_API_KEY": "sk", "HF_TOKEN": "hf", "AWS_SECRET_ACCESS_KEY": "a", "VLLM_API_KEY": "v",
        "RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": "t", "EDITOR": "vi", "LD_PRELOAD": "/tmp/x.so",
    }  # fmt: skip
    made = node_environment(shell, SecurityConfig(), Path("/t"), "mark", "head")
    assert {name for name in made if name in shell} == {
        "PATH", "HOME", "HF_HOME", "TOKENIZERS_PARALLELISM", "RAY_AUTH_MODE",
    }  # fmt: skip
    assert made["RAY_AUTH_MODE"] == "token" and made["RAY_AUTH_TOKEN_PATH"] == "/t"
    assert made["DASHBOARD_METRIC_PORT"] == made["AUTOSCALER_METRIC_PORT"] == "-1"
    assert made["RAY_enable_metrics_collection"] == "false"
    named = node_environment(shell, SecurityConfig(pass_env=("HF_TOKEN",)), Path("/t"), "mark", "head")
    assert named["HF_TOKEN"] == "hf" and "OPENAI_API_KEY" not in named


def test_s7_what_holds_a_token_does_not_show_it() -> None:
    assert "secret" not in repr(ClusterApi("http://127.0.0.1:1", "secret"))
    with pytest.raises(ApiError) as error:
        ClusterApi("http://127.0.0.1:1", "secret").version()
    assert "secret" not in "".join(traceback.format_exception(error.value, chain=True)).replace(
        __file__, ""
    ).replace('ClusterApi("http://127.0.0.1:1", "secret")', "")


def test_s9_the_job_command_is_quoted_part_by_part() -> None:
    request = RunRequest(
        run_yaml=Path("run.yaml"), settings=("run.name=x; touch /tmp/pwn",), resume=True,
        workdir="/data/a b", python="python3", stop_seconds=60,
    )  # fmt: skip
    command = entrypoint(request)
    assert "'run.name=x; touch /tmp/pwn'" in command and "--workdir '/data/a b'" in command
    assert command.endswith("--set runtime.address=auto --resume")


def test_the_record_comes_back_whole_and_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNIOPSD_HOME", str(tmp_path))
    folder = StateFolder("dev")
    assert folder.read() is None
    node = NodeState(name="head", group="head", address="127.0.0.2", agent_port=1)
    state = ClusterState(mark="m", config={"name": "dev", "provider": "local"}, nodes=(node,))
    folder.write(state)
    assert folder.read() == state and mode(folder.path / "state.json") == 0o600
    (folder.path / "state.json").write_text("{")
    with pytest.raises(StateError, match="cannot be read"):
        folder.read()


def test_a_running_cluster_grows_and_changes_nothing_else() -> None:
    group = {"name": "gpu", "count": 1, "gpus": 2}
    old = {"name": "dev", "workers": [group], "job": {"stop_seconds": 60}, "head": {"cpus": 2}}

    def refused(**changes: object) -> list[str]:
        return refused_changes(config_changes(old, {**old, **changes}))

    assert refused(workers=[{**group, "count": 3}], job={"stop_seconds": 90}) == []
    assert refused(workers=[group, {"name": "more", "count": 1, "gpus": 1}]) == []
    assert refused(workers=[{**group, "count": 0}]) == ["workers.gpu.count"]
    assert refused(workers=[{**group, "gpus": 4}]) == ["workers.gpu.gpus"]
    assert refused(workers=[]) and refused(head={"cpus": 4}) == ["head.cpus"]
