"""Provider `local`: one Ray head and any number of further raylets on this machine.

Every node gets a loopback address of its own (127.0.0.2, .3, ...), so that Ray sees several machines and
nothing but its gRPC ports is bound to an outside interface; those ask for the token.
"""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from cluster.cluster_config import ClusterConfig, HeadConfig, WorkerConfig
from cluster.node_env import node_environment
from cluster.ports import free_port
from cluster.processes import end_owned, find_owned
from cluster.provider import ProviderError, Say
from cluster.state import ClusterState, NodeState, StateFolder

START_SECONDS = 180.0


class LocalProvider:
    """Raylets on this machine."""

    def __init__(self, config: ClusterConfig, folder: StateFolder) -> None:
        self.config, self.folder = config, folder

    def prepare(self, state: ClusterState | None) -> ClusterState:
        """Decide addresses and ports for all nodes of the config, and write them down. Starts nothing."""
        state = state or self._first_record()
        known = {node.name: node for node in state.nodes}
        taken = {node.address for node in state.nodes}
        for name, group in self._wanted():
            if name not in known:
                address = next(a for n in range(2, 255) if (a := f"127.0.0.{n}") not in taken)
                taken.add(address)
                known[name] = NodeState(name=name, group=group, address=address, agent_port=free_port())
        nodes = tuple(known[name] for name, _ in self._wanted())
        config = self.config.model_dump(mode="json")
        return self.folder.write(replace(state, nodes=nodes, config=config, ready=False))

    def start(self, state: ClusterState, say: Say) -> None:
        """Start what is not running: the head, then all workers at once. Raises ProviderError."""
        running = self.running(state)
        if running and state.nodes[0].name not in running:
            raise ProviderError(
                f"the head of {self.config.name} died and workers are left: run `omniopsd-cluster down`, then `up`"
            )
        missing = [node for node in state.nodes if node.name not in running]
        say(f"starting {', '.join(node.name for node in missing)}")
        head = [node for node in missing if node.group == "head"]
        for nodes in (head, [node for node in missing if node not in head]):
            started = [(node.name, self._launch(state, node)) for node in nodes]
            for name, process in started:
                _require_started(state, name, _exit_code(process, START_SECONDS))

    def dry_run(self) -> str:
        """The commands that `up` would run; ports and folder are examples."""
        nodes = tuple(
            NodeState(name=name, group=group, address=f"127.0.0.{number}", agent_port=0)
            for number, (name, group) in enumerate(self._wanted(), start=2)
        )
        state = ClusterState(
            mark="", config={}, ray_folder="/tmp/omniopsd-NEW", ray_address="127.0.0.2:PORT",
            dashboard=f"http://{self.config.security.dashboard_host}:PORT",
        )  # fmt: skip
        return "\n".join(shlex.join(start_command(self.config, state, node)) for node in nodes)

    @contextmanager
    def reach(self, state: ClusterState) -> Iterator[str]:
        """The dashboard's address; on this machine no tunnel is needed."""
        yield state.dashboard

    def execute(self, state: ClusterState, command: Sequence[str]) -> int:
        """Run a command beside the head, with the cluster's address and token; its exit code."""
        environment = node_environment(
            os.environ, self.config.security, self.folder.token_file, state.mark, "exec"
        )
        environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", "")])
        environment |= {"RAY_ADDRESS": state.ray_address, "RAY_API_SERVER_ADDRESS": state.dashboard}
        return subprocess.run(list(command), env=environment, check=False).returncode

    def running(self, state: ClusterState) -> set[str]:
        """Names of nodes whose raylet lives."""
        owned = find_owned(state.mark, Path(state.ray_folder))
        return {one.node for one in owned if Path(one.command.split(" ")[0]).name == "raylet"}

    def made(self, state: ClusterState) -> list[str]:
        """What `down` removes, a line each."""
        owned = find_owned(state.mark, Path(state.ray_folder))
        lines = [f"{len(owned)} processes of {len(state.nodes)} nodes on this machine"]
        return [*lines, f"Ray's folder {state.ray_folder}", f"token and record in {self.folder.path}"]

    def remove(self, state: ClusterState, say: Say) -> None:
        """End every process and delete every file that `up` made."""
        count = end_owned(state.mark, Path(state.ray_folder))
        say(f"ended {count} processes")
        if state.ray_folder:
            shutil.rmtree(state.ray_folder, ignore_errors=True)

    def _first_record(self) -> ClusterState:
        # Ray's sockets need a short path: 107 bytes for all of it
        ray_folder = tempfile.mkdtemp(prefix="omniopsd-", dir="/tmp")
        dashboard = free_port()
        return ClusterState(
            mark=secrets.token_hex(8),
            config={},
            ray_folder=ray_folder,
            ray_address=f"127.0.0.2:{free_port()}",
            dashboard=f"http://{self.config.security.dashboard_host}:{dashboard}",
            client_port=free_port(),
        )

    def _wanted(self) -> list[tuple[str, str]]:
        nodes = [("head", "head")]
        for group in self.config.workers:
            nodes += [(f"{group.name}-{number}", group.name) for number in range(1, group.count + 1)]
        return nodes

    def _launch(self, state: ClusterState, node: NodeState) -> subprocess.Popen[bytes]:
        environment = node_environment(
            os.environ, self.config.security, self.folder.token_file, state.mark, node.name
        )
        log = Path(state.ray_folder) / f"start-{node.name}.log"
        with open(log, "ab") as output:
            return subprocess.Popen(
                start_command(self.config, state, node),
                env=environment,
                cwd=state.ray_folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


def _exit_code(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        return None


def _require_started(state: ClusterState, name: str, code: int | None) -> None:
    if code == 0:
        return
    log = Path(state.ray_folder) / f"start-{name}.log"
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    how = "did not end in time" if code is None else f"ended with exit code {code}"
    raise ProviderError(
        f"node {name}: `ray start` {how}: {lines[-1] if lines else 'no output'} (all of it: {log}); "
        "`omniopsd-cluster up` tries again, `down` removes what is there"
    )


def start_command(config: ClusterConfig, state: ClusterState, node: NodeState) -> list[str]:
    """`ray start` for one node, as an argument list. Pure."""
    part = _part(config, node.group)
    command = [
        sys.executable, "-m", "ray.scripts.scripts", "start",
        f"--node-ip-address={node.address}",
        f"--dashboard-agent-listen-port={node.agent_port}",
        "--disable-usage-stats",
        "--include-log-monitor=false",
        f"--num-gpus={part.gpus}",
        # its own: nodes that share one also share sockets and unpacked packages, and overwrite them
        f"--temp-dir={state.ray_folder}/{node.address.rpartition('.')[2]}",
    ]  # fmt: skip
    if part.cpus is not None:
        command.append(f"--num-cpus={part.cpus}")
    if part.object_store_gib is not None:
        command.append(f"--object-store-memory={int(part.object_store_gib * 2**30)}")
    labels = {"omniopsd-node": node.name, **part.labels}
    command.append(f"--labels={','.join(f'{key}={value}' for key, value in labels.items())}")
    if node.group != "head":
        return [*command, f"--address={state.ray_address}"]
    host, _, port = state.dashboard.removeprefix("http://").rpartition(":")
    return [
        *command,
        "--head",
        f"--port={state.ray_address.rpartition(':')[2]}",
        f"--dashboard-host={host}",
        f"--dashboard-port={port}",
        f"--ray-client-server-port={state.client_port}",
    ]


def _part(config: ClusterConfig, group: str) -> HeadConfig | WorkerConfig:
    return next((one for one in config.workers if one.name == group), config.head)
