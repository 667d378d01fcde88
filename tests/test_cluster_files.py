"""Generated files of every provider, and `up` that fails at every command with `down` behind it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

from cluster import verbs
from cluster.cluster_config import ClusterConfig
from cluster.cluster_file import load_cluster
from cluster.init_yaml import template
from cluster.local_provider import LocalProvider
from cluster.processes import find_owned
from cluster.provider import ProviderError
from cluster.providers import make_provider
from cluster.recipe import Command, RecipeProvider
from cluster.recipes import make_recipe
from cluster.ssh_provider import ssh_command
from cluster.state import ClusterState, NodeState, StateFolder
from tests.cluster_scene import run

GOLDEN = Path(__file__).parent / "cluster_golden"
FOLDER = Path("/home/me/.omniopsd/clusters/omniopsd")
CLOUDS = ("aws", "gcp", "azure")
RECIPES = (*CLOUDS, "kuberay", "slurm")


def config(folder: Path, provider: str, change: Callable[[str], str] = lambda text: text) -> ClusterConfig:
    path = folder / "cluster.yaml"
    path.write_text(change(template(provider)))
    return load_cluster(path)


@pytest.mark.parametrize("provider", RECIPES)
def test_generated_files_are_as_they_were(tmp_path: Path, provider: str) -> None:
    """A golden changes only with its reason in the commit: write the new text there by hand."""
    for name, text in make_recipe(config(tmp_path, provider), FOLDER).files.items():
        assert text == (GOLDEN / f"{provider}.{name}").read_text(), f"{provider}.{name}"


@pytest.mark.parametrize("provider", CLOUDS)
def test_rays_own_validator_takes_the_launcher_yaml(tmp_path: Path, provider: str) -> None:
    file = tmp_path / "ray.yaml"
    spot = config(
        tmp_path,
        provider,
        lambda text: text.replace(", spot: false", "").replace("gpus: 8,", "gpus: 8, spot: true,"),
    )
    file.write_text(make_recipe(spot, FOLDER).files["ray-cluster.yaml"])
    code = (
        "import sys, yaml\n"
        "from ray.autoscaler._private.util import prepare_config, validate_config\n"
        "validate_config(prepare_config(yaml.safe_load(open(sys.argv[1]))))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_batch_script_is_sound_bash_without_a_token(tmp_path: Path) -> None:
    script = make_recipe(config(tmp_path, "slurm"), FOLDER).files["cluster.sbatch"]
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    assert script.count("#SBATCH hetjob") == 1 and "RAY_AUTH_TOKEN=" not in script
    assert "--signal=B:TERM@600" in script and "AUTOSCALER_METRIC_PORT=-1" in script


POD = {
    "type": "object",
    "required": ["spec"],
    "properties": {"spec": {"type": "object", "required": ["containers", "volumes"], "properties": {
        "containers": {"minItems": 1, "items": {"type": "object", "required": ["name", "image", "env", "resources"],
            "properties": {
                "env": {"items": {"oneOf": [{"required": ["name", "value"]}, {"required": ["name", "valueFrom"]}]}},
                "resources": {"required": ["limits", "requests"]}}}}}}},
}  # fmt: skip
GROUP = {"type": "object", "required": ["rayStartParams", "template"], "properties": {
    "rayStartParams": {"additionalProperties": {"type": "string"}}, "template": POD}}  # fmt: skip
RAY_CLUSTER = {
    "type": "object",
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "apiVersion": {"const": "ray.io/v1"},
        "spec": {"required": ["headGroupSpec", "workerGroupSpecs"], "properties": {
            "headGroupSpec": GROUP,
            "workerGroupSpecs": {"items": {**GROUP, "required": ["groupName", "replicas", "rayStartParams", "template"]}},
        }},
    },
}  # fmt: skip


def test_kuberay_manifests_have_limits_shared_memory_probes_and_secrets_by_reference(tmp_path: Path) -> None:
    def secret(text: str) -> str:
        return text.replace("secrets: []", "secrets: [{variable: HF_TOKEN, secret: huggingface, key: token}]")

    files = make_recipe(config(tmp_path, "kuberay", secret), FOLDER).files
    manifest: Any = yaml.safe_load(files["ray-cluster.yaml"])
    Draft7Validator(RAY_CLUSTER).validate(manifest)
    worker = manifest["spec"]["workerGroupSpecs"][0]["template"]["spec"]
    container = worker["containers"][0]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 8
    assert worker["volumes"][0]["emptyDir"]["medium"] == "Memory"
    assert "readinessProbe" in container and worker["automountServiceAccountToken"] is False
    references = {
        one["name"]: one["valueFrom"]["secretKeyRef"] for one in container["env"] if "valueFrom" in one
    }
    assert references["HF_TOKEN"] == {"name": "huggingface", "key": "token"}
    assert references["RAY_AUTH_TOKEN"]["name"] == "omniopsd-ray-token"
    job: Any = yaml.safe_load(files["ray-job.yaml"])
    assert job["kind"] == "RayJob" and "--set runtime.address=auto" in job["spec"]["entrypoint"]


def test_s9_ssh_is_an_argument_list_with_strict_host_keys(tmp_path: Path) -> None:
    made = config(tmp_path, "ssh")
    assert made.ssh is not None
    command = ssh_command(made.ssh, "node1", "true")
    assert command[-3:] == ["--", "ubuntu@node1", "true"]
    assert "StrictHostKeyChecking=yes" in command and "BatchMode=yes" in command


class Tool:
    """Runs nothing; fails at one command, and remembers what was there to remove."""

    def __init__(self, fails_at: int) -> None:
        self.fails_at, self.calls = fails_at, 0
        self.ran: list[Command] = []

    def __call__(self, command: Command) -> None:
        self.calls += 1
        self.ran.append(command)
        if self.calls == self.fails_at:
            raise ProviderError(f"staged failure of {command[0]}")


@pytest.mark.parametrize("provider", RECIPES)
def test_down_after_up_failed_at_any_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, provider: str, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OMNIOPSD_HOME", str(tmp_path / "home"))
    made = config(tmp_path, provider)
    folder, file = StateFolder(made.name), tmp_path / "cluster.yaml"
    recipe = make_recipe(made, folder.path)
    for failing in range(1, len(recipe.up) + 1):
        tool = Tool(failing)
        monkeypatch.setattr(verbs, "make_provider", lambda c, f, t=tool: RecipeProvider(c, f, recipe, run=t))
        assert run("up", "-y", "-f", file) == 1
        assert "staged failure" in capsys.readouterr().err
        assert folder.require().ready is False
        tool.ran.clear()
        assert run("down", "-y", "-f", file) == 0
        assert tool.ran == list(recipe.down)
        assert not folder.path.exists()


def test_a_failed_down_keeps_the_record_and_still_runs_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMNIOPSD_HOME", str(tmp_path / "home"))
    made = config(tmp_path, "kuberay")
    folder = StateFolder(made.name)
    tool = Tool(1)
    following = RecipeProvider(made, folder, make_recipe(made, folder.path), run=tool)
    state = following.prepare(None)
    with pytest.raises(ProviderError, match="staged"):
        following.remove(state, print)
    assert tool.calls == 2 and folder.read() == state


@pytest.mark.parametrize("failing", ["head", "gpu-1", "gpu-2"])
def test_local_up_failing_at_any_node_then_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sleeping processes with the cluster's mark stand for Ray's."""
    monkeypatch.setenv("OMNIOPSD_HOME", str(tmp_path / "home"))
    made = config(tmp_path, "local")
    file, folder = tmp_path / "cluster.yaml", StateFolder(made.name)

    def command(_: ClusterConfig, state: ClusterState, node: NodeState) -> list[str]:
        daemon = "import subprocess; subprocess.Popen(['sleep', '600'], start_new_session=True)"
        return [sys.executable, "-c", f"{daemon}; raise SystemExit({int(node.name == failing)})"]

    monkeypatch.setattr("cluster.local_provider.start_command", command)
    assert run("up", "-y", "-f", file) == 1
    assert f"node {failing}: `ray start` ended with exit code 1" in capsys.readouterr().err
    state = folder.require()
    assert find_owned(state.mark, Path(state.ray_folder))
    assert run("down", "-y", "-f", file) == 0
    assert not find_owned(state.mark, Path(state.ray_folder)) and not Path(state.ray_folder).exists()
    assert not folder.path.exists()
    assert isinstance(make_provider(made, folder), LocalProvider)
