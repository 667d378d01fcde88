"""One real cluster of three Ray nodes, from `up` to `down`: doors, jobs, stopping, resuming, nothing left."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.api import ApiError, ClusterApi
from cluster.auth import read_token
from cluster.jobs import STOPPED, Jobs
from cluster.knock import require_entry
from cluster.ports import free_port
from cluster.processes import find_owned
from cluster.runtime import RuntimeFault
from cluster.state import ClusterState, StateFolder
from omniopsd.checkpoint import find_faults
from omniopsd.metrics import read
from omniopsd.run_folder import RunFolder
from tests.cluster_scene import CLUSTER_YAML, WRONG, grpc_codes, http_codes, listeners, run
from tests.model_server import ModelServer, Play
from tests.run_scene import bare, run_yaml

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parent.parent
STEPS = 6
NUMBERS = ("loss", "grad_norm", "divergence", "teacher_gain", "probe_difference")
CANARY = "canary-5f3a9d71c0de"
SECRETS = {"CANARY_API_KEY": CANARY, "OPENAI_API_KEY": CANARY, "VLLM_API_KEY": CANARY}


class Cluster:
    """The cluster of this module, and the ports that it had at some time."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / "cluster.yaml"
        self.file.write_text(CLUSTER_YAML.format(name=f"t{os.getpid()}"))
        self.state_folder = StateFolder(f"t{os.getpid()}")
        self.yaml = run_yaml(folder, run={"steps": STEPS}, runtime={"kind": "ray", "cpus": 3})

    @property
    def state(self) -> ClusterState:
        return self.state_folder.require()

    @property
    def token(self) -> str:
        return read_token(self.state_folder.token_file)

    @property
    def jobs(self) -> Jobs:
        return Jobs(self.state.dashboard, self.token)

    def environment(self) -> dict[str, str]:
        return os.environ | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.state_folder.token_file),
            "RAY_API_SERVER_ADDRESS": self.state.dashboard,
            "RAY_ADDRESS": self.state.ray_address,
        }

    def numbers(self, name: str) -> list[list[float]]:
        rows = read(RunFolder(str(self.folder / "runs"), name).metrics_path)
        return [[row[key] for key in NUMBERS] for row in rows]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    patch = pytest.MonkeyPatch()
    patch.setenv("OMNIOPSD_HOME", str(folder / "home"))
    for name, value in SECRETS.items():
        patch.setenv(name, value)
    patch.chdir(folder)
    made = Cluster(folder)
    assert run("up", "-y", "-f", made.file) == 0
    yield made
    run("down", "-y", "-f", made.file)
    patch.undo()


def test_status_shows_three_nodes_and_up_again_does_nothing(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("status", "-o", "json", "-f", cluster.file) == 0
    status = json.loads(capsys.readouterr().out)
    assert [(node["name"], node["alive"], node["gpus"]) for node in status["nodes"]] == [
        ("head", True, 0),
        ("gpu-1", True, 2),
        ("gpu-2", True, 2),
    ]
    assert status["nodes"][1]["labels"] == {"gpu": "pretended"}
    before = {one.pid for one in find_owned(cluster.state.mark, Path(cluster.state.ray_folder))}
    assert run("up", "-f", cluster.file) == 0  # no question: there is nothing to do
    assert "up already" in capsys.readouterr().out
    assert before <= {one.pid for one in find_owned(cluster.state.mark, Path(cluster.state.ray_folder))}


def test_strangers_are_refused_at_every_door(cluster: Cluster) -> None:
    doors = listeners(cluster.state)
    assert len(doors) >= 15
    for door in doors:
        for header, http, rpc in (({}, 401, None), ({"Authorization": f"Bearer {WRONG}"}, 403, WRONG)):
            codes = http_codes(door.target, header)
            metadata = [("authorization", f"Bearer {rpc}")] if rpc else None
            refused = grpc_codes(door.target, metadata) if not codes else []
            # an outer door speaks gRPC only; an inner one either
            assert door.inside or not codes, f"{door} answers HTTP on every interface"
            if codes:
                assert set(codes) <= {http, 404} and http in codes, f"{door}: {codes}"
            else:
                assert set(refused) == {"UNAUTHENTICATED"}, f"{door}: {refused}"


def test_a_wrong_token_is_explained_at_once(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = time.monotonic()
    with pytest.raises(ApiError, match="refused the token"):
        ClusterApi(cluster.state.dashboard, WRONG).version()
    assert time.monotonic() - begin < 2
    for token, says in ((WRONG, "is not the one"), (None, "is missing")):
        begin = time.monotonic()
        monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/nowhere")
        if token:
            monkeypatch.setenv("RAY_AUTH_TOKEN", token)
        with pytest.raises(RuntimeFault, match=f"refuses us, the token {says}"):
            require_entry(cluster.state.ray_address)
        assert time.monotonic() - begin < 2
    monkeypatch.setenv("RAY_AUTH_TOKEN", cluster.token)
    require_entry(cluster.state.ray_address)
    with pytest.raises(RuntimeFault, match="no Ray head answers there"):
        require_entry(f"127.0.0.1:{free_port()}")
    request = {"entrypoint": "touch stolen"}
    code = subprocess.run(
        ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-X", "POST", "-H", "Content-Type: application/json",
         "-d", json.dumps(request), f"{cluster.state.dashboard}/api/jobs/"],
        capture_output=True, text=True, check=False,
    ).stdout if shutil.which("curl") else "401"  # fmt: skip
    assert code == "401" and not cluster.jobs.list()


PLACES = """
import json, sys, time
from dataclasses import replace
from cluster import ray_runtime
from cluster.versions import VersionMismatch
from cluster.config import RuntimeConfig
from cluster.placement import Role, placement
from cluster.runtime import NotEnoughResources, Resources, fetch, start_runtime
import os

class Where:
    def __init__(self, start): pass
    def node(self):
        import ray
        return [ray.get_runtime_context().get_node_id(), os.environ.get("CUDA_VISIBLE_DEVICES", "")]

runtime = start_runtime(RuntimeConfig(kind="ray", address=sys.argv[1]))
runtime.require_same({})
real, begin = ray_runtime.own_versions, time.monotonic()
ray_runtime.own_versions = lambda files: replace(real(files), packages={**real(files).packages, "torch": "0.1"})
try:
    runtime.require_same({})
except VersionMismatch as error:
    print(json.dumps([str(error), time.monotonic() - begin]))
late = runtime.start("late", Resources(cpus=0.1), Where, 0)  # and so does an actor that starts later
try:
    late.call(Where.node).get(60.0)
except VersionMismatch as error:
    print(error)
ray_runtime.own_versions = real
runtime.require_same({})
roles = [
    Role(name="rollout", actors=("rollout-0",), resources=Resources(cpus=0.5, gpus=2)),
    Role(name="learner", actors=("learner-0", "learner-1"), resources=Resources(cpus=0.1, gpus=1)),
    Role(name="teacher", actors=("teacher-0", "teacher-1"), resources=Resources(cpus=0.1, gpus=0.25)),
]
runtime.reserve(placement(roles, "teacher-learner"))
actors = [runtime.start(a, role.resources, Where, 0) for role in roles for a in role.actors]
print(json.dumps(fetch([a.call(Where.node) for a in actors], 120.0)))
try:
    runtime.reserve(placement([Role(name="rollout", actors=("big",), resources=Resources(gpus=4))]))
except NotEnoughResources as error:
    print(error)
runtime.shutdown()
"""


def test_other_versions_are_refused_and_roles_get_their_places(cluster: Cluster) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PLACES, cluster.state.ray_address],
        env=cluster.environment() | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    said, seconds = json.loads(lines[0])
    assert "node 127.0.0." in said and "torch is 2." in said and "there and 0.1 here" in said
    assert seconds < 5
    assert lines[1].startswith("late and the driver would not compute the same: torch is 2.")
    (engine, devices), *pairs = json.loads(lines[-2])
    assert devices == "0,1"  # a whole tensor-parallel engine on one node
    nodes = [node for node, _ in pairs]
    assert len({*nodes}) == 1 and engine not in nodes  # both ranks and their teachers are packed on the other
    gpus = [gpu for _, gpu in pairs]
    assert gpus[0] == gpus[2] and gpus[1] == gpus[3] and gpus[0] != gpus[1]
    assert "big: 1 CPUs and 4 GPUs are needed on one node" in lines[-1]


def test_stopped_in_mid_step_and_resumed_it_has_the_numbers_of_a_whole_run(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    local = subprocess.run(
        [sys.executable, "-m", "omniopsd", "train", str(cluster.yaml), "--set", "run.name=local"],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert local.returncode == 0, local.stderr
    whole = cluster.numbers("local")
    assert len(whole) == STEPS

    assert run("submit", cluster.yaml, "--set", "run.name=cut", "-f", cluster.file) == 0
    name = cluster.jobs.find(None)["id"]
    metrics = RunFolder(str(cluster.folder / "runs"), "cut").metrics_path
    _until(lambda: metrics.exists() and metrics.read_text(), cluster, name)
    assert run("stop-job", "-f", cluster.file) == 0
    assert cluster.jobs.exit_code(name) == STOPPED
    assert "which has a checkpoint; go on with --resume" in capsys.readouterr().out
    step = len(cluster.numbers("cut"))
    assert 1 <= step < STEPS, "it was too late to stop it"
    checkpoint = cluster.folder / "runs" / "cut" / "checkpoints" / f"step_{step:06d}"
    assert checkpoint.is_dir() and not find_faults(checkpoint)
    assert run("logs", "--follow", "-f", cluster.file) == STOPPED

    assert (
        run("submit", cluster.yaml, "--set", "run.name=cut", "--resume", "--follow", "-f", cluster.file) == 0
    )
    assert cluster.numbers("cut") == whole
    assert run("logs", "--role", "learner", "-f", cluster.file) == 0
    assert "[learner-0#" in capsys.readouterr().out


def test_ray_job_submit_from_a_checkout_has_the_same_numbers(cluster: Cluster) -> None:
    copy = cluster.folder / "checkout"
    _checkout(copy)
    shutil.copy(cluster.yaml, copy / "run.yaml")
    ray = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--working-dir", "."]
    train = [sys.executable, "-m", "omniopsd", "train", "run.yaml", "--set", "runtime.address=auto"]
    done = subprocess.run(
        [*ray, "--", *train, "--set", "run.name=raw"],
        cwd=copy, env=cluster.environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert cluster.numbers("raw") == cluster.numbers("local")
    refused = subprocess.run(
        [*ray, "--", *train, "--set", "run.root=runs"],
        cwd=copy, env=cluster.environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert refused.returncode != 0 and "which Ray deletes with all checkpoints" in refused.stdout


def test_an_endpoint_that_echoes_the_key_fails_the_job_without_showing_it(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    key = cluster.folder / "key"
    key.touch(mode=0o600)
    key.write_text(CANARY)
    echo = Play(status=401, body=json.dumps({"error": {"message": f"no such key: {CANARY}"}}))
    with ModelServer(lambda number, body: echo) as server:
        settings = {
            "run.name": "echo",
            "rationale_cache.path": cluster.folder / "runs" / "cache",
            "rationale_cache.model": "observer-1",
            "rationale_cache.base_url": server.url,
            "rationale_cache.api_key_file": key,
            "rationale_cache.on_miss": "make",
            "data.train": bare(cluster.folder / "clips" / "samples.jsonl"),
        }
        given = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
        assert run("submit", cluster.yaml, *given, "--follow", "-f", cluster.file) == 2
        assert server.seen[0].headers["authorization"] == f"Bearer {CANARY}"
    shown = "".join(capsys.readouterr())
    assert "401" in shown and "no such key: ***" in shown and CANARY not in shown


def test_the_canary_is_nowhere(cluster: Cluster) -> None:
    state = cluster.state
    needle, hits = CANARY.encode(), []
    for folder in (Path(state.ray_folder), cluster.state_folder.path, cluster.folder / "runs"):
        files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
        assert files
        hits += [str(path) for path in files if needle in path.read_bytes()]
    for one in find_owned(state.mark, Path(state.ray_folder)):
        for name in ("environ", "cmdline"):
            try:
                content = Path(f"/proc/{one.pid}/{name}").read_bytes()
            except OSError:
                continue
            hits += [f"{one.pid} {name}"] if needle in content else []
    listed = repr(cluster.jobs._client.list_jobs()) + cluster.jobs.log(cluster.jobs.find(None)["id"])
    assert not hits and CANARY not in listed and cluster.token not in listed


def test_down_leaves_no_process_and_no_port(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    state = cluster.state
    doors = listeners(state)
    bystander = subprocess.Popen(["sleep", "600"])
    try:
        assert run("down", "-y", "-f", cluster.file) == 0
        assert bystander.poll() is None
    finally:
        bystander.send_signal(signal.SIGKILL)
        bystander.wait()
    assert "processes of 3 nodes" in capsys.readouterr().out
    assert not find_owned(state.mark, Path(state.ray_folder))
    assert not Path(state.ray_folder).exists() and not cluster.state_folder.path.exists()
    for door in doors:
        host, port = door.target.split(":")
        with socket.socket() as probe:
            assert probe.connect_ex((host, int(port))) != 0, f"{door} still listens"
    assert run("down", "-y", "-f", cluster.file) == 0
    assert "nothing to remove" in capsys.readouterr().out


def _until(done: Any, cluster: Cluster, job: str, seconds: float = 300.0) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, cluster.jobs.log(job)
        time.sleep(0.02)
        if int(time.monotonic() * 50) % 100 == 0:
            assert cluster.jobs.find(job)["status"] in ("PENDING", "RUNNING"), cluster.jobs.log(job)


def _checkout(target: Path) -> None:
    """What git has of this repository, with things beside it that must not be sent."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.split(
        b"\0"
    )
    for name in filter(None, names):
        path = target / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / os.fsdecode(name), path)
