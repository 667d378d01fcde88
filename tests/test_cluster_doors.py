"""A real Ray cluster in a network of its own, with certificates: closed to all outside, encrypted inside, and it trains."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster.processes import find_owned
from cluster.state import ClusterState, StateFolder
from omniopsd.metrics import read
from omniopsd.run_folder import RunFolder
from tests.cluster_scene import WRONG, run
from tests.run_scene import run_yaml
from tests.test_cluster_isolated import needs_namespaces

pytestmark = [pytest.mark.slow, needs_namespaces]
ROOT = Path(__file__).resolve().parent.parent
YAML = """\
name: d{pid}
provider: local
head: {{cpus: 3, object_store_gib: 0.2}}
workers:
  - {{name: gpu, cpus: 1, gpus: 1, object_store_gib: 0.1}}
security:
  isolated: true
  tls: {{certificate: {folder}/node.crt, key: {folder}/node.key, authority: {folder}/authority.crt}}
"""
# every gRPC door of the cluster: the answers to plain callers, to encrypted ones without and with the token
KNOCK = """
import json, sys
from pathlib import Path
import grpc
from cluster.auth import read_token
from cluster.state import StateFolder
from tests.cluster_scene import grpc_codes, http_codes, listeners

name, folder, wrong = sys.argv[1:]
files = [Path(folder, one).read_bytes() for one in ("authority.crt", "node.key", "node.crt")]
token = read_token(StateFolder(name).token_file)
found = []
for door in listeners(StateFolder(name).require()):
    # a wrong HTTP client is refused; what answers gRPC is asked in four ways
    http = http_codes(door.target, {"Authorization": f"Bearer {wrong}"})
    ways = {"plain": (None, token), "stranger": (files, None), "wrong": (files, wrong), "member": (files, token)}
    found.append({"door": f"{door.target} {door.command[:60]}", "http": http} | {
        way: grpc_codes(door.target, [("authorization", f"Bearer {key}")] if key else None, certificates)
        for way, (certificates, key) in ways.items() if not http
    })
print(json.dumps(found))
"""


@dataclass(frozen=True, slots=True)
class Closed:
    """A cluster that is up, and the folder with its files and certificates."""

    folder: Path

    @property
    def file(self) -> Path:
        return self.folder / "cluster.yaml"

    @property
    def state(self) -> ClusterState:
        return StateFolder(f"d{os.getpid()}").require()


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Closed]:
    folder = tmp_path_factory.mktemp("doors")
    made = Closed(folder)
    certificates(folder)
    made.file.write_text(YAML.format(pid=os.getpid(), folder=folder))
    patch = pytest.MonkeyPatch()
    patch.setenv("OMNIOPSD_HOME", str(folder / "home"))
    patch.setenv("PYTHONPATH", str(ROOT))
    patch.chdir(folder)
    assert run("up", "-y", "-f", made.file) == 0
    yield made
    run("down", "-y", "-f", made.file)
    patch.undo()


def certificates(folder: Path) -> None:
    """An authority, and a certificate that it signed for the cluster's addresses."""
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1,IP:127.0.0.2,IP:127.0.0.3,DNS:localhost\n")
    for command in (
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout authority.key -out authority.crt",
        "req -newkey rsa:2048 -nodes -subj /CN=node -keyout node.key -out node.csr",
        "x509 -req -days 2 -in node.csr -CA authority.crt -CAkey authority.key -CAcreateserial -extfile names -out node.crt",
    ):
        subprocess.run(["openssl", *command.split()], cwd=folder, check=True, capture_output=True)


def test_nothing_of_it_is_reachable_from_outside(closed: Closed) -> None:
    owned = find_owned(closed.state.mark, Path(closed.state.ray_folder))
    ours = os.readlink("/proc/self/ns/net")
    assert len(owned) > 5 and all(os.readlink(f"/proc/{one.pid}/ns/net") != ours for one in owned)
    for address in (closed.state.ray_address, closed.state.dashboard.removeprefix("http://")):
        host, _, port = address.rpartition(":")
        with socket.socket() as probe:
            assert probe.connect_ex((host, int(port))) != 0, f"{address} is reachable"


def test_every_door_speaks_tls_and_asks_for_the_token(
    closed: Closed, capfd: pytest.CaptureFixture[str]
) -> None:
    knock = ("env", f"OMNIOPSD_HOME={closed.folder}/home", sys.executable, "-c", KNOCK)
    assert run("exec", "-f", closed.file, "--", *knock, f"d{os.getpid()}", closed.folder, WRONG) == 0
    doors = json.loads(capfd.readouterr().out.splitlines()[-1])
    spoken = [door for door in doors if not door["http"]]
    assert len(spoken) >= 6
    for door in doors:
        if door["http"]:
            assert set(door["http"]) <= {403, 404}, door
            continue
        assert set(door["plain"]) == {"UNAVAILABLE"}, door  # no TLS, no answer
        for way in ("stranger", "wrong"):
            assert set(door[way]) == {"UNAUTHENTICATED"}, door
    assert any("OK" in door["member"] for door in spoken)


def test_a_run_trains_in_it(closed: Closed, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("status", "-o", "json", "-f", closed.file) == 0
    status = json.loads(capfd.readouterr().out)
    assert [(node["name"], node["alive"]) for node in status["nodes"]] == [("head", True), ("gpu-1", True)]
    yaml = run_yaml(closed.folder, run={"steps": 2}, runtime={"kind": "ray", "cpus": 3})
    assert run("submit", yaml, "--follow", "-f", closed.file) == 0, capfd.readouterr()
    rows = read(RunFolder(str(closed.folder / "runs"), "small").metrics_path)
    assert [row["step"] for row in rows] == [1, 2]


def test_down_takes_the_network_away(closed: Closed) -> None:
    state = closed.state
    assert run("down", "-y", "-f", closed.file) == 0
    assert not find_owned(state.mark, Path(state.ray_folder)) and not Path(state.ray_folder).exists()
