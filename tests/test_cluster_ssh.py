"""Provider ssh against real sshd processes on loopback: two hosts, own keys, own ports."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.ports import free_port
from cluster.processes import find_owned
from cluster.state import StateFolder
from tests.cluster_scene import run

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
    assert SSHD is not None
    monkeypatch.setenv("OMNIOPSD_HOME", str(tmp_path / "home"))
    tmp_path.chmod(0o700)
    for name in ("key", "host"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)], check=True
        )
    shutil.copy(tmp_path / "key.pub", tmp_path / "authorized")
    port, host_key = free_port(), (tmp_path / "host.pub").read_text()
    (tmp_path / "known").write_text("".join(f"[{host}]:{port} {host_key}" for host in HOSTS))
    options = {
        "Port": port, "HostKey": tmp_path / "host", "AuthorizedKeysFile": tmp_path / "authorized", "PidFile": "none",
        "UsePAM": "no", "StrictModes": "no", "PasswordAuthentication": "no", "PermitRootLogin": "yes",
    }  # fmt: skip
    settings = [part for key, value in options.items() for part in ("-o", f"{key}={value}")]
    listen = [part for host in HOSTS for part in ("-o", f"ListenAddress={host}")]
    server = subprocess.Popen(
        [SSHD, "-D", "-e", "-f", "/dev/null", *settings, *listen], stderr=(tmp_path / "sshd.log").open("wb")
    )
    ray, dashboard = free_port(), 40000 + os.getpid() % 20000
    (tmp_path / "cluster.yaml").write_text(
        YAML.format(pid=os.getpid(), user=getpass.getuser(), folder=tmp_path, port=port, ray=ray,
                    dashboard=dashboard, hosts=HOSTS, python=sys.executable)
    )  # fmt: skip
    time.sleep(1)
    assert server.poll() is None, (tmp_path / "sshd.log").read_text()
    yield tmp_path
    server.terminate()
    server.wait()


def test_up_status_exec_and_down_over_ssh(scene: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = scene / "cluster.yaml"
    try:
        assert run("up", "-y", "-f", file) == 0, capfd.readouterr()
        state = StateFolder(f"s{os.getpid()}").require()
        assert run("status", "-f", file) == 0
        shown = capfd.readouterr().out
        assert "gpu-1" in shown and HOSTS[1] in shown and "2/2 nodes, 2/2 GPUs" in shown
        assert run("exec", "-f", file, "--", "ray", "status") == 0
        assert "0.0/2.0 GPU" in capfd.readouterr().out
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
