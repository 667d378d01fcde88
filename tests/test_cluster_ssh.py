"""Provider ssh against real sshd processes: two hosts on loopback, and two machines with networks of their own."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest

from cluster.ports import free_port
from cluster.processes import find_owned
from cluster.state import StateFolder
from omniopsd.cli import main
from omniopsd.metrics import read
from omniopsd.run_folder import RunFolder
from tests.cluster_scene import run
from tests.run_scene import run_yaml

SSHD = shutil.which("sshd") or next(
    (p for p in ("/usr/sbin/sshd", os.environ.get("SSHD", "")) if os.path.exists(p)), None
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(SSHD is None, reason="no sshd on this machine (Debian: openssh-server), or SSHD=PATH"),
]
HOSTS = ("127.0.0.21", "127.0.0.22")
YAML = """\
name: s{pid}
provider: ssh
ssh:
  {{user: {user}, key: {folder}/key, port: {port}, known_hosts: {folder}/known, ray_port: {ray},
    dashboard_port: {dashboard}}}
head: {{host: {hosts[0]}, cpus: 2, object_store_gib: 0.1}}
workers:
  - {{name: gpu, hosts: [{hosts[1]}], cpus: 2, gpus: 2, object_store_gib: 0.1}}
security: {{network: private, insecure_network: true}}
job: {{python: {python}, workdir: {folder}}}
"""


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with keys, a running sshd that takes them, and a cluster YAML."""
    monkeypatch.setenv("OMNIOPSD_HOME", str(tmp_path / "home"))
    port = _write(tmp_path, HOSTS)
    with _sshd(tmp_path, port, HOSTS):
        yield tmp_path


@pytest.fixture
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The same, with a network namespace for each host; they meet at a bridge of this machine."""
    if reason := _no_networks():
        pytest.skip(f"networks of one's own are missing ({reason}); they need root and iproute2")
    monkeypatch.setenv("OMNIOPSD_HOME", str(tmp_path / "home"))
    name, net = f"o{os.getpid()}", f"10.213.{os.getpid() % 250}"
    hosts = (f"{net}.2", f"{net}.3")
    port = _write(tmp_path, hosts)
    with ExitStack() as stack:
        _ip(f"link add {name} type bridge")
        stack.callback(_ip, f"link del {name}")
        _ip(f"addr add {net}.1/24 dev {name}")
        _ip(f"link set {name} up")
        for number, host in enumerate(hosts):
            one = f"{name}-{number}"
            _ip(f"netns add {one}")
            stack.callback(_ip, f"netns del {one}")
            _ip(f"link add {one} type veth peer name eth0 netns {one}")
            _ip(f"link set {one} master {name} up")
            for line in (f"addr add {host}/24 dev eth0", "link set eth0 up", "link set lo up"):
                _ip(f"-n {one} {line}")
            stack.enter_context(_sshd(tmp_path, port, [host], f"ip netns exec {one}".split()))
        yield tmp_path


def _write(folder: Path, hosts: Sequence[str]) -> int:
    """Keys of the test, of the hosts, and the cluster YAML; gives the port for sshd."""
    folder.chmod(0o700)
    for name in ("key", "host"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    shutil.copy(folder / "key.pub", folder / "authorized")
    port, host_key = free_port(), (folder / "host.pub").read_text()
    (folder / "known").write_text("".join(f"[{host}]:{port} {host_key}" for host in hosts))
    ray, dashboard = free_port(), 40000 + os.getpid() % 20000
    (folder / "cluster.yaml").write_text(
        YAML.format(pid=os.getpid(), user=getpass.getuser(), folder=folder, port=port, ray=ray,
                    dashboard=dashboard, hosts=hosts, python=sys.executable)
    )  # fmt: skip
    return port


@contextmanager
def _sshd(folder: Path, port: int, hosts: Sequence[str], inside: Sequence[str] = ()) -> Iterator[None]:
    """A server on these addresses, while the block runs; `inside` is the command that enters its network."""
    assert SSHD is not None
    options = {
        "Port": port, "HostKey": folder / "host", "AuthorizedKeysFile": folder / "authorized", "PidFile": "none",
        "UsePAM": "no", "StrictModes": "no", "PasswordAuthentication": "no", "PermitRootLogin": "yes",
    }  # fmt: skip
    settings = [part for key, value in options.items() for part in ("-o", f"{key}={value}")]
    listen = [part for host in hosts for part in ("-o", f"ListenAddress={host}")]
    Path("/run/sshd").mkdir(exist_ok=True)  # where it locks itself in
    with (folder / "sshd.log").open("ab") as log:
        server = subprocess.Popen(
            [*inside, SSHD, "-D", "-e", "-f", "/dev/null", *settings, *listen], stderr=log
        )
    time.sleep(1)
    assert server.poll() is None, (folder / "sshd.log").read_text()
    try:
        yield
    finally:
        server.terminate()
        server.wait()


def _no_networks() -> str:
    """Why this machine gives no namespaces with cables and a bridge; empty when it does."""
    name = f"p{os.getpid()}"
    try:
        _ip(f"netns add {name}")
    except (OSError, subprocess.CalledProcessError) as error:
        return str(error)
    try:
        _ip(f"link add {name} type veth peer name eth0 netns {name}")
        _ip(f"link add {name}b type bridge")
        _ip(f"link del {name}b")
    except subprocess.CalledProcessError as error:
        return str(error)
    finally:
        _ip(f"netns del {name}")  # and its end of the cable, so all of it
    return ""


def _ip(arguments: str) -> None:
    subprocess.run(["ip", *arguments.split()], check=True)


def test_up_status_exec_and_down_over_ssh(scene: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = scene / "cluster.yaml"
    try:
        assert run("up", "-y", "-f", file) == 0, capfd.readouterr()
        state = StateFolder(f"s{os.getpid()}").require()
        assert run("status", "-f", file) == 0
        shown = capfd.readouterr().out
        assert "gpu-1" in shown and HOSTS[1] in shown and "2/2 nodes, 2/2 GPUs" in shown
        gpus = "import ray; ray.init(); print('GPUs', ray.cluster_resources()['GPU'])"
        assert run("exec", "-f", file, "--", sys.executable, "-c", gpus) == 0
        assert "GPUs 2.0" in capfd.readouterr().out
        for one in find_owned(state.mark, Path(state.ray_folder)):
            token = StateFolder(f"s{os.getpid()}").token_file.read_text().encode()
            assert token not in Path(f"/proc/{one.pid}/cmdline").read_bytes()
    finally:
        assert run("down", "-y", "-f", file) == 0
    assert not find_owned(state.mark, Path(state.ray_folder))
    assert not list(Path(state.ray_folder).glob("*"))


def test_an_unknown_host_key_is_refused(scene: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (scene / "known").write_text("")
    assert run("up", "-y", "-f", scene / "cluster.yaml") == 1
    assert "Host key verification failed" in capfd.readouterr().err
    assert (
        run("down", "-y", "-f", scene / "cluster.yaml") == 1
    )  # it cannot know what is there: the record stays
    assert StateFolder(f"s{os.getpid()}").read() is not None


def test_ranks_on_two_machines_train_together(
    machines: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = machines / "cluster.yaml"
    monkeypatch.chdir(machines)
    yaml = run_yaml(
        machines,
        run={"steps": 2},
        runtime={"kind": "ray", "cpus": 4},
        rollout={"cpus": 0.5},
        teacher={"cpus": 0.5},
        learner={"ranks": 2, "cpus": 1.5},  # two do not fit into one node
    )
    try:
        assert run("up", "-y", "-f", file) == 0, capfd.readouterr()
        assert run("submit", yaml, "--follow", "-f", file) == 0, capfd.readouterr()
    finally:
        assert run("down", "-y", "-f", file) == 0
    alone = json.loads(yaml.read_text())
    alone["run"]["name"], alone["learner"], alone["runtime"] = (
        "alone",
        {**alone["learner"], "ranks": 1},
        {"kind": "inline"},
    )
    (machines / "alone.yaml").write_text(json.dumps(alone))
    assert main(["train", str(machines / "alone.yaml")]) == 0
    together, single = (
        [
            [row[key] for key in ("loss", "grad_norm")]
            for row in read(RunFolder(str(machines / "runs"), name).metrics_path)
        ]
        for name in ("small", "alone")
    )
    assert len(together) == 2
    assert np.array(together) == pytest.approx(np.array(single), rel=1e-3)
