"""A real local cluster for tests, and strangers who knock at every door of it."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc

from cluster import cli
from cluster.processes import find_owned
from cluster.state import ClusterState

CLUSTER_YAML = """\
name: {name}
provider: local
head: {{cpus: 3, gpus: 0, object_store_gib: 0.2}}
workers:
  - {{name: gpu, count: 2, cpus: 1, gpus: 2, object_store_gib: 0.1, labels: {{gpu: pretended}}}}
job: {{stop_seconds: 300}}
"""
# one method of each of Ray's services; a server without it says UNIMPLEMENTED whoever asks
METHODS = (
    "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "/ray.rpc.NodeManagerService/GetNodeStats",
    "/ray.rpc.object_manager.ObjectManagerService/Pull",
    "/ray.rpc.ObjectManagerService/Pull",
    "/ray.rpc.ReporterService/GetTraceback",
    "/ray.rpc.CoreWorkerService/GetCoreWorkerStats",
    "/ray.rpc.RayletDriver/ClusterInfo",
)
HTTP_PATHS = ("/api/jobs/", "/api/version", "/nodes?view=summary", "/api/v0/actors", "/logs/")
WRONG = "0" * 64


def run(*arguments: str | Path) -> int:
    """One `omniopsd-cluster` call in this process; the exit code."""
    return cli.main([str(argument) for argument in arguments])


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """One listening TCP socket of the cluster."""

    host: str
    port: int
    pid: int
    command: str

    @property
    def inside(self) -> bool:
        return self.host.startswith("127.")

    @property
    def target(self) -> str:
        return f"{self.host if self.inside else '127.0.0.1'}:{self.port}"


def listeners(state: ClusterState) -> list[Listener]:
    """Every listening socket of the cluster's processes, from /proc."""
    owned = {one.pid: one.command for one in find_owned(state.mark, Path(state.ray_folder))}
    sockets = {inode: pid for pid in owned for inode in _sockets(pid)}
    found = []
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in sockets:
                host, port = fields[1].split(":")
                pid = sockets[fields[9]]
                found.append(Listener(host=_address(host), port=int(port, 16), pid=pid, command=owned[pid]))
    return found


def http_codes(target: str, headers: dict[str, str]) -> list[int]:
    """The status of each path; empty when nobody speaks HTTP there."""
    codes = []
    for path in HTTP_PATHS:
        try:
            request = urllib.request.Request(f"http://{target}{path}", headers=headers)
            codes.append(urllib.request.urlopen(request, timeout=10).status)
        except urllib.error.HTTPError as error:
            codes.append(error.code)
        except Exception:
            return []
    return codes


def grpc_codes(
    target: str,
    metadata: Sequence[tuple[str, str]] | None,
    certificates: Sequence[bytes] | None = None,
) -> list[str]:
    """The status of each method that the server has; with the authority's certificate, own key and own one, over TLS."""
    codes = []
    if certificates is None:
        opened = grpc.insecure_channel(target)
    else:
        opened = grpc.secure_channel(target, grpc.ssl_channel_credentials(*certificates))
    with opened as channel:
        for method in METHODS:
            call = channel.unary_unary(method, request_serializer=bytes, response_deserializer=bytes)
            try:
                call(b"", timeout=10, metadata=metadata)
                codes.append("OK")
            except grpc.RpcError as error:
                codes.append(error.code().name)
    return [code for code in codes if code != "UNIMPLEMENTED"]


def _sockets(pid: int) -> Iterator[str]:
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            target = os.readlink(f"/proc/{pid}/fd/{name}")
            if target.startswith("socket:["):
                yield target[8:-1]
    except OSError:
        return


def _address(text: str) -> str:
    """/proc's hexadecimal, little-endian address; `any` for all interfaces."""
    if set(text) == {"0"}:
        return "any"
    return ".".join(str(byte) for byte in reversed(bytes.fromhex(text[-8:])))
