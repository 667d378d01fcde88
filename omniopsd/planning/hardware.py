"""GPUs as their data sheets describe them, and which of them a run would get."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.cluster_config import ClusterConfig, HeadConfig, WorkerConfig
from cluster.yaml_file import read_document
from cluster.yaml_schema import validate
from omniopsd.planning.config import GpuConfig, HardwareConfig

GIB = 2**30


class HardwareError(ValueError):
    """A GPU that nobody knows, or machines that contradict each other."""


def _gpu(
    memory: float, bandwidth: float, half: float, single: float, nvlink: float, pcie: float
) -> GpuConfig:
    return GpuConfig(
        memory_gb=memory,
        bandwidth_gbs=bandwidth,
        bfloat16_tflops=half,
        float32_tflops=single,
        nvlink_gbs=nvlink,
        pcie_gbs=pcie,
    )


# NVIDIA's data sheets: GB, GB/s, dense TFLOP/s in bfloat16 and float32, GB/s one way over NVLink and PCIe. A GB is
# taken as 10^9 bytes although most boards show a little more.
GPUS = {
    "a10": _gpu(24, 600, 125, 31.2, 0, 32),
    "a100-40": _gpu(40, 1555, 312, 19.5, 300, 32),
    "a100-80": _gpu(80, 2039, 312, 19.5, 300, 32),
    "l4": _gpu(24, 300, 121, 30.3, 0, 32),
    "l40s": _gpu(48, 864, 362, 91.6, 0, 32),
    "h20": _gpu(96, 4000, 148, 44, 450, 64),
    "h100": _gpu(80, 3350, 989, 67, 450, 64),
    "h100-pcie": _gpu(80, 2000, 756, 51, 300, 64),
    "h200": _gpu(141, 4800, 989, 67, 450, 64),
    "b200": _gpu(180, 7700, 2250, 75, 900, 64),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """Equal nodes of a cluster: what Ray may give out on one, and its memory in bytes where it is known."""

    name: str
    count: int
    cpus: int | None
    gpus: int
    gpu: str | None
    memory: float | None
    object_store: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Machines:
    """The nodes a run would get, the head first, and the one kind of GPU among them (None: no GPU)."""

    nodes: tuple[Node, ...]
    kind: str | None
    gpu: GpuConfig | None
    hardware: HardwareConfig

    @property
    def gpus(self) -> int:
        """GPUs of all nodes."""
        return sum(node.count * node.gpus for node in self.nodes)

    @property
    def several(self) -> bool:
        """Whether traffic leaves a node."""
        return sum(node.count for node in self.nodes) > 1


def load_hardware(path: str | Path | None) -> HardwareConfig:
    """The hardware file, or all defaults. Raises ConfigError with one line for each problem."""
    return HardwareConfig() if path is None else validate(read_document(path), HardwareConfig)


def find_gpu(kind: str, hardware: HardwareConfig) -> GpuConfig:
    """A kind by name. Raises HardwareError that lists the known ones."""
    table = {**GPUS, **{name.lower(): gpu for name, gpu in hardware.gpus.items()}}
    if kind.lower() in table:
        return table[kind.lower()]
    close = difflib.get_close_matches(kind.lower(), table, 1)
    hint = f'; did you mean "{close[0]}"?' if close else ""
    raise HardwareError(
        f'GPU "{kind}" is not known; known are {", ".join(sorted(table))}; describe others under gpus in the '
        f"--hardware file{hint}"
    )


def machines(
    cluster: ClusterConfig | None, hardware: HardwareConfig, kind: str | None, gpus_needed: float
) -> Machines:
    """The nodes of a cluster YAML, or one node that is as large as it must be. Raises HardwareError.

    A label `gpu: KIND` on a group says what its GPUs are; `kind` (the option) is for groups without one.
    """
    default = kind or hardware.gpu
    nodes = _nodes(cluster, hardware, default) if cluster else _one_node(hardware, default, gpus_needed)
    kinds = sorted({node.gpu for node in nodes if node.gpu and node.gpus})
    if len(kinds) > 1:
        raise HardwareError(
            f"the cluster has GPUs of several kinds ({', '.join(kinds)}); plan one kind at a time"
        )
    nameless = [node.name for node in nodes if node.gpus and node.gpu is None]
    if (nameless or gpus_needed) and not kinds:
        where = f"nodes {', '.join(nameless)}" if nameless else "the run"
        raise HardwareError(
            f"{where} has GPUs of a kind that is not stated; write labels: {{gpu: h100}} in the cluster YAML, "
            "or give --gpu KIND"
        )
    found = kinds[0] if kinds else None
    gpu = find_gpu(found, hardware) if found else None
    return Machines(nodes=tuple(nodes), kind=found, gpu=gpu, hardware=hardware)


def _nodes(cluster: ClusterConfig, hardware: HardwareConfig, default: str | None) -> list[Node]:
    parts: list[tuple[str, int, HeadConfig | WorkerConfig]] = [("head", 1, cluster.head)]
    parts += [(group.name, group.count, group) for group in cluster.workers]
    return [
        Node(
            name=name,
            count=count,
            cpus=part.cpus,
            gpus=part.gpus,
            gpu=(part.labels.get("gpu") or default) if part.gpus else None,
            memory=_bytes(part.memory_gib or hardware.node_memory_gib),
            object_store=_bytes(part.object_store_gib),
        )
        for name, count, part in parts
    ]


def _one_node(hardware: HardwareConfig, default: str | None, gpus: float) -> Sequence[Node]:
    return [
        Node(
            name="this machine" if not gpus else "one node",
            count=1,
            cpus=None,
            gpus=int(gpus),
            gpu=default if gpus else None,
            memory=_bytes(hardware.node_memory_gib) or (None if gpus else own_memory()),
            object_store=None,
        )
    ]


def own_memory() -> float | None:
    """Memory of this machine in bytes, None where /proc does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemTotal")), None)


def _bytes(gib: float | None) -> float | None:
    return None if gib is None else gib * GIB
