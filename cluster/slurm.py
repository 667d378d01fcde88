"""The batch script that makes a Ray cluster of one SLURM allocation. Pure."""

from __future__ import annotations

import shlex
from pathlib import Path

from cluster.cluster_config import ClusterConfig, HeadConfig, SlurmConfig, WorkerConfig
from cluster.node_env import ray_environment

GCS_PORT, DASHBOARD_PORT = 6379, 8265


def batch_script(config: ClusterConfig, token_file: Path) -> str:
    """One heterogeneous job: component 0 is the head, then one component a group.

    The token is read from its file on the shared home; it is neither in the script nor in the environment
    that SLURM records.
    """
    slurm = config.slurm
    assert slurm is not None  # the grammar asks for it
    parts: list[tuple[str, int, HeadConfig | WorkerConfig]] = [("head", 1, config.head)]
    parts += [(group.name, group.count, group) for group in config.workers if group.count]
    lines = ["#!/bin/bash"]
    for at, (_, count, part) in enumerate(parts):
        lines += ["#SBATCH hetjob"] if at else []
        lines += [f"#SBATCH {option}" for option in _options(config, slurm, count, part)]
    lines += ["set -euo pipefail", "ulimit -c 0", *slurm.setup, ""]
    exports = ray_environment(config.security) | {"RAY_AUTH_TOKEN_PATH": str(token_file)}
    lines += [f"export {name}={shlex.quote(value)}" for name, value in exports.items()]
    lines += ["", "head=$(scontrol show hostnames \"$SLURM_JOB_NODELIST_HET_GROUP_0\" | head -n 1)" if len(parts) > 1
              else "head=$(scontrol show hostnames \"$SLURM_JOB_NODELIST\" | head -n 1)"]  # fmt: skip
    lines += [f'echo "$head" > {shlex.quote(str(token_file.parent / "head"))}', "trap 'kill 0' EXIT", ""]
    for at, (name, _, part) in enumerate(parts):
        lines += _step(config, at, name, part, several=len(parts) > 1)
    return "\n".join([*lines, "wait", ""])


def _options(
    config: ClusterConfig, slurm: SlurmConfig, count: int, part: HeadConfig | WorkerConfig
) -> list[str]:
    options = [f"--job-name=omniopsd-{config.name}", f"--nodes={count}", "--ntasks-per-node=1", "--exclusive"]
    options += [f"--time={slurm.time}", f"--signal=B:TERM@{config.job.stop_seconds}"]
    options += [f"--cpus-per-task={part.cpus}"] if part.cpus else []
    options += [f"--gpus-per-node={part.gpus}"] if part.gpus else []
    options += [f"--mem={int(part.memory_gib * 1024)}M"] if part.memory_gib else []
    options += [f"--partition={slurm.partition}"] if slurm.partition else []
    return options + ([f"--account={slurm.account}"] if slurm.account else [])


def _step(
    config: ClusterConfig, at: int, name: str, part: HeadConfig | WorkerConfig, *, several: bool
) -> list[str]:
    python = shlex.quote(config.job.python or "python3")
    start = f"{python} -m ray.scripts.scripts start --block --disable-usage-stats --include-log-monitor=false"
    start += f" --num-gpus={part.gpus}" + (f" --num-cpus={part.cpus}" if part.cpus else "")
    if part.labels:
        start += f" --labels={','.join(f'{key}={value}' for key, value in part.labels.items())}"
    if name == "head":
        start += (
            f' --head --node-ip-address="$head" --port={GCS_PORT} --dashboard-port={DASHBOARD_PORT}'
            f" --dashboard-host={config.security.dashboard_host}"
        )
    else:
        start += f' --address="$head:{GCS_PORT}"'
    group = f"--het-group={at} " if several else ""
    wait = ["sleep 15"] if name == "head" else []
    return [f"# {name}", f"srun {group}{start} &", *wait]
