"""Provider `ssh`: Ray nodes on machines that are there already.

Not through Ray's cluster launcher: its on-premise mode turns host-key checks off, knows no port, and begins
with `ray stop`, which ends any other Ray of that user. Here host keys are strict, nothing variable is on a
command line, and `down` ends the processes that carry this cluster's mark.
"""

from __future__ import annotations

import ipaddress
import json
import secrets
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from cluster.auth import read_token
from cluster.cluster_config import ClusterConfig, HeadConfig, SshConfig, WorkerConfig
from cluster.ports import free_port
from cluster.provider import ProviderError, Say
from cluster.recipe import expanded
from cluster.state import ClusterState, NodeState, StateFolder
from cluster.tunnel import open_tunnel

CALL_SECONDS = 300.0


class SshProvider:
    """One Ray node on each host."""

    def __init__(self, config: ClusterConfig, folder: StateFolder) -> None:
        assert config.ssh is not None  # the grammar asks for it
        self.config, self.folder, self.ssh = config, folder, config.ssh

    def prepare(self, state: ClusterState | None) -> ClusterState:
        """Write down which host becomes which node."""
        mark = state.mark if state else secrets.token_hex(4)
        hosts = [("head", "head", self.config.head.host or "")]
        for group in self.config.workers:
            hosts += [(f"{group.name}-{n}", group.name, host) for n, host in enumerate(group.hosts, start=1)]
        nodes = tuple(
            NodeState(name=name, group=group, address=host, agent_port=0) for name, group, host in hosts
        )
        state = state or ClusterState(mark=mark, config={})
        state = replace(
            state,
            config=self.config.model_dump(mode="json"),
            ray_folder=f"/tmp/omniopsd-{mark}",
            ray_address=f"{self.config.head.host}:{self.ssh.ray_port}",
            dashboard=f"http://{self.config.head.host}:{self.ssh.dashboard_port}",
            nodes=nodes,
            ready=False,
        )
        return self.folder.write(state)

    def start(self, state: ClusterState, say: Say) -> None:
        """Start what is not running: the head, then all workers at once. Raises ProviderError."""
        with ThreadPoolExecutor(32) as threads:
            running = list(
                threads.map(lambda node: int(self._call(state, node, "look").strip() or 0), state.nodes)
            )
            missing = [node for node, count in zip(state.nodes, running, strict=True) if count == 0]
            for nodes in (
                [n for n in missing if n.group == "head"],
                [n for n in missing if n.group != "head"],
            ):
                if nodes:
                    say(f"starting {', '.join(f'{node.name} on {node.address}' for node in nodes)}")
                list(threads.map(lambda node: self._start(state, node), nodes))

    def dry_run(self) -> str:
        """The commands that `up` would run; what they read from standard input is not shown."""
        state = ClusterState(
            mark="NEW", config={}, ray_address=f"{self.config.head.host}:{self.ssh.ray_port}"
        )
        hosts = [
            self.config.head.host or "",
            *(host for group in self.config.workers for host in group.hosts),
        ]
        lines = [shlex.join(ssh_command(self.ssh, host, self._remote())) for host in hosts]
        start = ray_arguments(
            self.config, state, NodeState(name="head", group="head", address=hosts[0], agent_port=0)
        )
        return "\n".join([*lines, f"# on the head: ray start {shlex.join(start)}"])

    def made(self, state: ClusterState) -> list[str]:
        """What `down` removes, a line each."""
        lines = [
            f"Ray node {node.name} on {node.address}, its processes and its folder" for node in state.nodes
        ]
        return [*lines, f"token and record in {self.folder.path}"]

    def remove(self, state: ClusterState, say: Say) -> None:
        """End the cluster's processes on every host; a host that does not answer is named at the end."""
        failed = []
        for node in reversed(state.nodes):  # the head last
            try:
                say(f"{node.name}: ended {self._call(state, node, 'stop').strip()} processes")
            except ProviderError as error:
                failed.append(str(error))
        if failed:
            raise ProviderError(
                "\n".join([*failed, "the rest is removed; run `down` again when these hosts answer"])
            )

    @contextmanager
    def reach(self, state: ClusterState) -> Iterator[str]:
        """A tunnel to the dashboard on a port of this machine."""
        port = free_port()
        forward = f"127.0.0.1:{port}:127.0.0.1:{self.ssh.dashboard_port}"
        options = ("-N", "-o", "ExitOnForwardFailure=yes", "-L", forward)
        command = ssh_command(self.ssh, state.nodes[0].address, None, options)
        with open_tunnel(command, port, read_token(self.folder.token_file)) as address:
            yield address

    def execute(self, state: ClusterState, command: Sequence[str]) -> int:
        """Run a command on the head; its exit code."""
        node = state.nodes[0]
        request = self._request(state, node, "execute", command=list(command), address=state.ray_address)
        full = ssh_command(self.ssh, node.address, self._remote())
        return subprocess.run(full, input=json.dumps(request).encode(), check=False).returncode

    def _start(self, state: ClusterState, node: NodeState) -> None:
        arguments = ray_arguments(self.config, state, node)
        self._call(state, node, "start", arguments=arguments, token=read_token(self.folder.token_file))

    def _call(self, state: ClusterState, node: NodeState, action: str, **more: Any) -> str:
        command = ssh_command(self.ssh, node.address, self._remote())
        request = json.dumps(self._request(state, node, action, **more))
        try:
            done = subprocess.run(
                command, input=request, capture_output=True, text=True, timeout=CALL_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            raise ProviderError(
                f"{node.address}: no answer to {action} within {CALL_SECONDS:.0f} s"
            ) from None
        if done.returncode:
            lines = done.stderr.strip().splitlines()
            raise ProviderError(
                f"{node.name} on {node.address}: {action} ended with exit code {done.returncode}: "
                f"{lines[-1] if lines else 'no output'}"
            )
        return done.stdout

    def _request(self, state: ClusterState, node: NodeState, action: str, **more: Any) -> dict[str, Any]:
        folder = f"{state.ray_folder}/{state.nodes.index(node)}"
        security = self.config.security.model_dump(mode="json")
        return {
            "action": action,
            "mark": state.mark,
            "node": node.name,
            "folder": folder,
            "security": security,
            **more,
        }

    def _remote(self) -> str:
        """The constant command; setup lines are the user's own shell."""
        python = shlex.quote(self.config.job.python or "python3")
        return " && ".join([*self.ssh.setup, f"{python} -m cluster.ssh_node"])


def ssh_command(ssh: SshConfig, host: str, remote: str | None, options: Sequence[str] = ()) -> list[str]:
    """ssh as an argument list: no prompt, strict host keys, the host behind `--`. Pure."""
    strict = {
        "BatchMode": "yes",
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": expanded(ssh.known_hosts),
        "IdentitiesOnly": "yes",
        "ConnectTimeout": "15",
        "ServerAliveInterval": "15",
    }
    command = ["ssh", "-p", str(ssh.port), "-i", expanded(ssh.key), *options]
    for key, value in strict.items():
        command += ["-o", f"{key}={value}"]
    return [*command, "--", f"{ssh.user}@{host}", *([remote] if remote else [])]


def ray_arguments(config: ClusterConfig, state: ClusterState, node: NodeState) -> list[str]:
    """The arguments of `ray start` on one host. Pure."""
    ssh = config.ssh
    assert ssh is not None
    part: HeadConfig | WorkerConfig = next((g for g in config.workers if g.name == node.group), config.head)
    number = state.nodes.index(node) if node in state.nodes else 0
    labels = {"omniopsd-node": node.name, **part.labels}
    found = ["--disable-usage-stats", "--include-log-monitor=false", f"--num-gpus={part.gpus}"]
    found.append(f"--labels={','.join(f'{key}={value}' for key, value in labels.items())}")
    found.append(f"--temp-dir={Path(state.ray_folder or '/tmp/omniopsd-NEW') / str(number)}")
    found.append(f"--dashboard-agent-listen-port={ssh.dashboard_port + 1 + number}")
    if _is_address(node.address):
        found.append(f"--node-ip-address={node.address}")
    if part.cpus is not None:
        found.append(f"--num-cpus={part.cpus}")
    if part.object_store_gib is not None:
        found.append(f"--object-store-memory={int(part.object_store_gib * 2**30)}")
    if node.group != "head":
        return [*found, f"--address={state.ray_address}"]
    host = config.security.dashboard_host
    return [
        *found,
        "--head",
        f"--port={ssh.ray_port}",
        f"--dashboard-host={host}",
        f"--dashboard-port={ssh.dashboard_port}",
    ]


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
