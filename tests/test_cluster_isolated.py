"""A cluster in a network of its own: nothing outside reaches it, and the verbs still do."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import isolation
from cluster.cluster_file import load_cluster
from cluster.isolation import enter, open_network, run_inside
from cluster.ports import free_port
from cluster.processes import end_owned, find_owned
from cluster.provider import ProviderError
from cluster.state import ClusterState, StateError, StateFolder
from cluster.yaml_file import ConfigError
from tests.cluster_scene import run

YAML = "name: {name}\nprovider: local\nhead: {{cpus: 2, object_store_gib: 0.1}}\n{more}security: {{isolated: true}}\n"


def refusal() -> str:
    """Why this machine gives no namespace; empty when it does."""
    try:
        done = subprocess.run(
            ["unshare", "--user", "--map-root-user", "--net", "true"],
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError as error:
        return str(error)
    return done.stderr.strip() if done.returncode else ""


needs_namespaces = pytest.mark.skipif(
    bool(refusal()), reason=f"a user and network namespace is missing: {refusal()}"
)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OMNIOPSD_HOME", str(tmp_path / "home"))
    path = tmp_path / "cluster.yaml"
    path.write_text(YAML.format(name=f"i{os.getpid()}", more=""))
    return path


@pytest.fixture
def state(file: Path, tmp_path: Path) -> Iterator[ClusterState]:
    """The record of an isolated cluster, as `up` writes it before it starts anything."""
    config = load_cluster(file)
    (tmp_path / "ray").mkdir()
    made = ClusterState(
        mark=f"mark-{os.getpid()}-{time.monotonic_ns()}",
        config=config.model_dump(mode="json"),
        ray_folder=str(tmp_path / "ray"),
        ray_address="127.0.0.2:1",
    )
    yield StateFolder(config.name).write(made)
    end_owned(made.mark, tmp_path / "ray")


@needs_namespaces
def test_a_port_inside_is_reachable_inside_only(state: ClusterState) -> None:
    holder = open_network(state)
    assert open_network(state) == holder, "one network for all of the cluster"
    port = free_port()
    serve = f"import socket; s = socket.create_server(('0.0.0.0', {port})); print(1, flush=True); s.accept()"
    knock = f"import socket, sys; sys.exit(socket.socket().connect_ex((sys.argv[1], {port})))"
    server = subprocess.Popen(
        [*enter(holder), sys.executable, "-c", serve], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None and server.stdout.readline() == "1\n"
        for host in ("127.0.0.1", "127.0.0.2", socket.gethostbyname(socket.gethostname())):
            with socket.socket() as probe:
                assert probe.connect_ex((host, port)) != 0, f"{host} is reachable from outside"
        inside = subprocess.run([*enter(holder), sys.executable, "-c", knock, "127.0.0.2"], check=False)
        assert inside.returncode == 0
    finally:
        server.kill()
        server.communicate()


@needs_namespaces
def test_a_verb_runs_inside_and_down_takes_the_network_away(
    file: Path, state: ClusterState, capfd: pytest.CaptureFixture[str]
) -> None:
    open_network(state)
    assert run("exec", "-f", file, "--", "cat", "/proc/net/dev") == 0
    lines = capfd.readouterr().out.splitlines()[2:]
    assert [line.split(":")[0].strip() for line in lines] == ["lo"]
    assert run("exec", "-f", file, "--", "sh", "-c", "exit 3") == 3
    assert run("dashboard", "-f", file) == 1
    assert "no dashboard that a browser reaches" in capfd.readouterr().err
    assert run("down", "-y", "-f", file) == 0
    assert not find_owned(state.mark, Path(state.ray_folder))
    with pytest.raises(StateError, match="network is gone"):
        run_inside(state, ["status"])


def test_a_machine_without_namespaces_says_what_is_missing(
    state: ClusterState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuses = tmp_path / "bin"
    refuses.mkdir()
    (refuses / "unshare").write_text("#!/bin/sh\necho 'unshare: Operation not permitted' >&2\nexit 1\n")
    (refuses / "unshare").chmod(0o755)
    monkeypatch.setenv("PATH", f"{refuses}:{os.environ['PATH']}")
    with pytest.raises(
        ProviderError, match=r"gives no namespace \(unshare: Operation not permitted\); allow"
    ):
        open_network(state)
    monkeypatch.setattr(isolation, "PROGRAMS", ("unshare", "no-such-program"))
    with pytest.raises(ProviderError, match="needs the program no-such-program"):
        open_network(state)


@pytest.mark.parametrize(
    ("yaml", "says"),
    [
        ("provider: slurm\nslurm: {}\nsecurity: {isolated: true}\n", "only a local cluster"),
        ("provider: local\nsecurity: {isolated: true, dashboard_host: 0.0.0.0, expose: true,\n"
         "  tls: {certificate: /c, key: /k, authority: /a}}\n", "contradicts a dashboard"),
    ],
)  # fmt: skip
def test_what_cannot_be_isolated_is_refused(yaml: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(f"name: dev\n{yaml}")
    with pytest.raises(ConfigError, match=f"security.isolated: {says}"):
        load_cluster(path)
