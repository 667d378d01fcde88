"""The recipe of each provider that drives a tool. Pure."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from cluster.auth import TOKEN_FILE
from cluster.cluster_config import ClusterConfig
from cluster.kuberay import ray_cluster, ray_job, secret_name
from cluster.launcher import launcher_yaml
from cluster.provider import ProviderError
from cluster.recipe import Recipe
from cluster.slurm import batch_script

RAY = (sys.executable, "-m", "ray.scripts.scripts")


def make_recipe(config: ClusterConfig, folder: Path) -> Recipe:
    """Files and commands of a config's provider; files lie in `folder`, beside the token."""
    if config.provider in ("aws", "gcp", "azure"):
        return _launcher(config, folder)
    if config.provider == "kuberay":
        return _kuberay(config, folder)
    if config.provider == "slurm":
        return _slurm(config, folder)
    raise ProviderError(f"provider {config.provider} has no recipe")


def _launcher(config: ClusterConfig, folder: Path) -> Recipe:
    file = str(folder / "ray-cluster.yaml")
    return Recipe(
        files={"ray-cluster.yaml": launcher_yaml(config, folder / TOKEN_FILE)},
        up=((*RAY, "up", "-y", "--no-config-cache", file),),
        down=((*RAY, "down", "-y", file),),
        tunnel=(*RAY, "dashboard", file, "--port", "{port}", "--remote-port", "8265", "--no-config-cache"),
        execute=(*RAY, "exec", "--no-config-cache", file, "--"),
        quote_execute=True,
    )


def _kuberay(config: ClusterConfig, folder: Path) -> Recipe:
    assert config.kubernetes is not None  # the grammar asks for it
    kubectl = ("kubectl", "--namespace", config.kubernetes.namespace)
    secret, file = secret_name(config), str(folder / "ray-cluster.yaml")
    forget = (*kubectl, "delete", "secret", secret, "--ignore-not-found")
    return Recipe(
        files={"ray-cluster.yaml": ray_cluster(config), "ray-job.yaml": ray_job(config)},
        up=(
            forget,
            (
                *kubectl,
                "create",
                "secret",
                "generic",
                secret,
                f"--from-file=auth_token={folder / TOKEN_FILE}",
            ),
            (*kubectl, "apply", "-f", file),
        ),
        down=((*kubectl, "delete", "-f", file, "--ignore-not-found", "--wait"), forget),
        tunnel=(*kubectl, "port-forward", f"service/{config.name}-head-svc", "{port}:8265"),
        execute=(*kubectl, "exec", f"service/{config.name}-head-svc", "--"),
        quote_execute=False,
    )


def _slurm(config: ClusterConfig, folder: Path) -> Recipe:
    name, script = f"omniopsd-{config.name}", str(folder / "cluster.sbatch")
    submit = ("sbatch", f"--output={folder / 'slurm-%j.log'}", script)
    # the head's name is known when the job runs: the script writes it, a shell here reads it
    head = f'"$(cat {shlex.quote(str(folder / "head"))})"'
    return Recipe(
        files={"cluster.sbatch": batch_script(config, folder / TOKEN_FILE)},
        # a second `up` must not queue a second cluster
        up=(
            ("bash", "-c", f"squeue --me --noheader --name={name} | grep -q . || exec {shlex.join(submit)}"),
        ),
        down=(("scancel", f"--name={name}"),),
        tunnel=(
            "bash",
            "-c",
            f"exec ssh -N -o ExitOnForwardFailure=yes -L {{port}}:127.0.0.1:8265 -- {head}",
        ),
        execute=("bash", "-c", f'exec ssh -- {head} "$0"'),
        quote_execute=True,
    )
