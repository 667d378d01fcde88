"""`security.isolated`: a cluster on this machine in a network of its own, which nothing outside reaches.

Ray binds its gRPC ports to all interfaces whatever address it is given. In a user and network namespace there is
one interface, the loopback, and it is not the machine's. A small process holds the namespace; verbs that speak to
the cluster run themselves again inside. Files are those of the machine; there is no way out either.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from cluster.node_env import MARK, NODE
from cluster.processes import find_owned
from cluster.provider import ProviderError
from cluster.state import ClusterState, StateError

HOLDER, INSIDE = "network", "OMNIOPSD_INSIDE"
PROGRAMS = ("unshare", "nsenter")
ROOT = Path(__file__).resolve().parents[1]
# brings the loopback up (SIOCSIFFLAGS: IFF_UP, IFF_RUNNING), says so, and stays
HOLD = """
import fcntl, signal, socket, struct
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
    fcntl.ioctl(probe, 0x8914, struct.pack("16sh14x", b"lo", 0x1 | 0x40))
print("up", flush=True)
while True:
    signal.pause()
"""


def is_inside(state: ClusterState, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process runs in the cluster's own network."""
    return environment.get(INSIDE) == state.mark


def open_network(state: ClusterState) -> int:
    """The process that holds the cluster's network, started when there is none. Raises ProviderError."""
    if (running := _holder(state)) is not None:
        return running
    for program in PROGRAMS:
        if shutil.which(program) is None:
            raise ProviderError(
                f"security.isolated needs the program {program} (package util-linux); install it, or leave it out"
            )
    process = subprocess.Popen(
        ["unshare", "--user", "--map-root-user", "--net", "--", sys.executable, "-c", HOLD],
        env={"PATH": os.environ.get("PATH", ""), MARK: state.mark, NODE: HOLDER},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None and process.stderr is not None
    if process.stdout.readline() != "up\n":
        said = process.communicate()[1].strip().splitlines()
        raise ProviderError(
            f"security.isolated: this machine gives no namespace ({said[-1] if said else 'no reason given'}); allow user "
            "namespaces (kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns), or leave it out"
        )
    process.stdout.close()
    process.stderr.close()
    return process.pid


def run_inside(state: ClusterState, arguments: Sequence[str]) -> int:
    """This command with `arguments` again, inside the cluster's network; its exit code. Raises StateError."""
    holder = _holder(state)
    if holder is None:
        raise StateError("the cluster's network is gone, and the cluster with it; run `omniopsd-cluster up`")
    process = subprocess.Popen(
        [*enter(holder), sys.executable, "-m", "cluster.cli", *arguments],
        env={**os.environ, INSIDE: state.mark, "PYTHONPATH": _python_path()},
    )
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one inside
    try:
        return process.wait()
    finally:
        signal.signal(signal.SIGINT, before)


def enter(holder: int) -> list[str]:
    """The beginning of a command that runs in the holder's network. Pure."""
    return ["nsenter", f"--target={holder}", "--user", "--net", "--preserve-credentials", "--"]


def _holder(state: ClusterState) -> int | None:
    owned = find_owned(state.mark, Path(state.ray_folder))
    return next((one.pid for one in owned if one.node == HOLDER), None)


def _python_path() -> str:
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
