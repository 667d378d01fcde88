"""The YAML of Ray's cluster launcher for aws, gcp and azure. Pure."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import yaml

from cluster.cluster_config import CloudConfig, ClusterConfig, HeadConfig, WorkerConfig
from cluster.node_env import ray_environment

TOKEN_ON_NODE = "~/.omniopsd-token/auth_token"
GCS_PORT, DASHBOARD_PORT = 6379, 8265


def launcher_yaml(config: ClusterConfig, token_file: Path) -> str:
    """The whole file; the token goes to the nodes as a file and is not in it."""
    cloud = config.cloud
    assert cloud is not None  # the grammar asks for it
    groups: dict[str, Any] = {"head": _node_type(config, cloud, config.head, 0, 0)}
    for group in config.workers:
        groups[group.name] = _node_type(config, cloud, group, group.count, group.most or group.count)
    content = {
        "cluster_name": config.name,
        "max_workers": sum(group.most or group.count for group in config.workers),
        "idle_timeout_minutes": cloud.idle_minutes,
        "provider": _provider(config, cloud),
        "auth": {"ssh_user": cloud.user, **({"ssh_private_key": cloud.key} if cloud.key else {})},
        "available_node_types": groups,
        "head_node_type": "head",
        "file_mounts": {TOKEN_ON_NODE: str(token_file)},
        "initialization_commands": [],
        "setup_commands": [
            "chmod 700 ~/.omniopsd-token && chmod 600 ~/.omniopsd-token/auth_token",
            *cloud.setup,
        ],
        "head_start_ray_commands": [_start(config, head=True)],
        "worker_start_ray_commands": [_start(config, head=False)],
    }
    return yaml.safe_dump(content, sort_keys=False, width=1000)


def _provider(config: ClusterConfig, cloud: CloudConfig) -> dict[str, Any]:
    if config.provider == "aws":
        zone = {"availability_zone": cloud.zone} if cloud.zone else {}
        return {"type": "aws", "region": cloud.region, **zone, "cache_stopped_nodes": False}
    if config.provider == "gcp":
        return {
            "type": "gcp", "region": cloud.region, "availability_zone": cloud.zone, "project_id": cloud.project,
            "cache_stopped_nodes": False,
        }  # fmt: skip
    return {
        "type": "azure", "location": cloud.region, "resource_group": cloud.project, "cache_stopped_nodes": False,
    }  # fmt: skip


def _node_type(
    config: ClusterConfig, cloud: CloudConfig, part: HeadConfig | WorkerConfig, least: int, most: int
) -> dict[str, Any]:
    resources = {"GPU": part.gpus, **({"CPU": part.cpus} if part.cpus else {})}
    found: dict[str, Any] = {"node_config": _machine(config.provider, cloud, part), "resources": resources}
    if part.labels:
        found["labels"] = dict(part.labels)
    if isinstance(part, WorkerConfig):
        found |= {"min_workers": least, "max_workers": most}
    return found


def _machine(provider: str, cloud: CloudConfig, part: HeadConfig | WorkerConfig) -> dict[str, Any]:
    spot = isinstance(part, WorkerConfig) and part.spot
    if provider == "aws":
        disk: dict[str, Any] = {
            "DeviceName": "/dev/sda1",
            "Ebs": {"VolumeSize": cloud.disk_gib, "VolumeType": "gp3", "Encrypted": True},
        }
        return {
            "InstanceType": part.machine,
            "ImageId": cloud.image,
            "BlockDeviceMappings": [disk],
            "MetadataOptions": {"HttpTokens": "required"},
            **({"InstanceMarketOptions": {"MarketType": "spot"}} if spot else {}),
        }
    if provider == "gcp":
        disk = {"boot": True, "autoDelete": True, "type": "PERSISTENT",
                "initializeParams": {"diskSizeGb": cloud.disk_gib, "sourceImage": cloud.image}}  # fmt: skip
        scheduling = [{"preemptible": True}] if spot else [{"onHostMaintenance": "TERMINATE"}]
        return {"machineType": part.machine, "disks": [disk], "scheduling": scheduling}
    publisher, offer, sku, version = cloud.image.split(":")
    return {
        "azure_arm_parameters": {
            "vmSize": part.machine,
            "imagePublisher": publisher,
            "imageOffer": offer,
            "imageSku": sku,
            "imageVersion": version,
            "osDiskSize": cloud.disk_gib,
            **({"priority": "Spot"} if spot else {}),
        }
    }


def _start(config: ClusterConfig, *, head: bool) -> str:
    """One shell line: the launcher runs it over ssh. Every value is quoted or a constant."""
    variables = ray_environment(config.security)
    exports = " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())
    python = shlex.quote(config.job.python or "python3")
    start = f"{python} -m ray.scripts.scripts start --disable-usage-stats --include-log-monitor=false"
    stop = f"{python} -m ray.scripts.scripts stop"
    store = config.head.object_store_gib if head else None
    if store:
        start += f" --object-store-memory={int(store * 2**30)}"
    if head:
        start += (
            f" --head --port={GCS_PORT} --dashboard-host={config.security.dashboard_host}"
            f" --dashboard-port={DASHBOARD_PORT} --autoscaling-config=~/ray_bootstrap_config.yaml"
        )
    else:
        start += f" --address=$RAY_HEAD_IP:{GCS_PORT}"
    return f"export {exports} RAY_AUTH_TOKEN_PATH={TOKEN_ON_NODE}; {stop}; ulimit -c 0; {start}"
