"""Tables and sentences of `omniopsd-cluster`: the plan, what differs, the nodes, the jobs. Pure."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from cluster.api import NodeStatus
from cluster.cluster_config import ClusterConfig, HeadConfig, WorkerConfig


def plan_table(config: ClusterConfig) -> Table:
    """One row for each kind of node."""
    table = Table(title=f"{config.name}: {config.provider}", title_justify="left")
    for name in ("nodes", "count", "CPUs", "GPUs", "machine", "labels"):
        table.add_column(name, justify="right" if name in ("count", "CPUs", "GPUs") else "left")
    parts: list[tuple[str, str, HeadConfig | WorkerConfig]] = [("head", "1", config.head)]
    for group in config.workers:
        most = f" to {group.most}" if group.most and group.most > group.count else ""
        parts.append((group.name, f"{group.count}{most}", group))
    for name, count, part in parts:
        table.add_row(
            name,
            count,
            "all" if part.cpus is None else str(part.cpus),
            str(part.gpus),
            _machine(part),
            _labels(part.labels),
        )
    return table


def change_table(changes: Mapping[str, tuple[Any, Any]]) -> Table:
    """What the YAML says now and what the cluster was made from."""
    table = Table(title="the YAML differs from the cluster", title_justify="left")
    for name in ("key", "cluster", "YAML"):
        table.add_column(name)
    for key, (old, new) in changes.items():
        table.add_row(key, "" if old is None else str(old), "" if new is None else str(new))
    return table


def node_table(nodes: Sequence[NodeStatus]) -> Table:
    """One row for each node that lives or died."""
    table = Table()
    for name in ("node", "address", "state", "CPUs", "GPUs", "labels"):
        table.add_column(name, justify="right" if name in ("CPUs", "GPUs") else "left")
    for node in nodes:
        state = "alive" if node.alive else "dead"
        table.add_row(
            node.name, node.address, state, f"{node.cpus:g}", f"{node.gpus:g}", _labels(node.labels)
        )
    return table


def job_table(jobs: Sequence[Mapping[str, Any]]) -> Table:
    """One row for each submitted job, oldest first."""
    table = Table()
    for name in ("job", "state", "exit", "started", "for"):
        table.add_column(name)
    for job in jobs:
        code = "" if job["exit_code"] is None else str(job["exit_code"])
        started = time.strftime("%F %T", time.localtime(job["started"])) if job["started"] else ""
        seconds = (job["ended"] or time.time()) - job["started"]
        table.add_row(job["id"], job["status"].lower(), code, started, duration(seconds))
    return table


def progress(config: ClusterConfig, nodes: Sequence[NodeStatus], seconds: float) -> str:
    """`2/4 nodes, 16/32 GPUs, 40 s`."""
    alive = [node for node in nodes if node.alive]
    gpus = sum(node.gpus for node in alive)
    return f"{len(alive)}/{config.node_count} nodes, {gpus:g}/{config.gpu_count} GPUs, {duration(seconds)}"


def duration(seconds: float) -> str:
    """`40 s`, `3 min`, `2 h 5 min`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = int(seconds // 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def _machine(part: HeadConfig | WorkerConfig) -> str:
    if isinstance(part, WorkerConfig):
        spot = " (spot)" if part.spot else ""
        return (part.machine or ", ".join(part.hosts)) + spot
    return part.machine or part.host or ""


def _labels(labels: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in labels.items())
