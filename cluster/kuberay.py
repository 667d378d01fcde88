"""RayCluster and RayJob manifests for the KubeRay operator. Pure."""

from __future__ import annotations

from typing import Any

import yaml

from cluster.cluster_config import ClusterConfig, HeadConfig, KubernetesConfig, WorkerConfig
from cluster.node_env import ray_environment

RAY_VERSION = "2.60.0"
GCS_PORT, DASHBOARD_PORT = 6379, 8265
PROBE = {"initialDelaySeconds": 10, "periodSeconds": 5, "timeoutSeconds": 5, "failureThreshold": 12}


def ray_cluster(config: ClusterConfig) -> str:
    """The RayCluster; the token comes from a Secret by reference."""
    kubernetes = _section(config)
    head = {
        "rayStartParams": _parameters(config.head) | {"dashboard-host": config.security.dashboard_host},
        "template": _pod(config, kubernetes, config.head, head=True),
    }
    groups = [
        {
            "groupName": group.name,
            "replicas": group.count,
            "minReplicas": group.count,
            "maxReplicas": max(group.most or group.count, 1),
            "rayStartParams": _parameters(group),
            "template": _pod(config, kubernetes, group, head=False),
        }
        for group in config.workers
    ]
    scaled = any(group.most and group.most > group.count for group in config.workers)
    return _dump(
        {
            "apiVersion": "ray.io/v1",
            "kind": "RayCluster",
            "metadata": {"name": config.name, "namespace": kubernetes.namespace},
            "spec": {
                "rayVersion": RAY_VERSION,
                "enableInTreeAutoscaling": scaled,
                "headGroupSpec": head,
                "workerGroupSpecs": groups,
            },
        }
    )


def ray_job(config: ClusterConfig) -> str:
    """A RayJob that trains `run.yaml` of the shared folder on that cluster."""
    kubernetes = _section(config)
    workdir = config.job.workdir or "/workdir"
    python = config.job.python or "python3"
    train = f"{python} -m omniopsd train {workdir}/run.yaml --workdir {workdir} --set runtime.address=auto"
    environment = {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(config.job.stop_seconds)}}
    return _dump(
        {
            "apiVersion": "ray.io/v1",
            "kind": "RayJob",
            "metadata": {"name": f"{config.name}-train", "namespace": kubernetes.namespace},
            "spec": {
                "entrypoint": train,
                "runtimeEnvYAML": yaml.safe_dump(environment),
                "clusterSelector": {"ray.io/cluster": config.name},
                "backoffLimit": 0,
            },
        }
    )


def secret_name(config: ClusterConfig) -> str:
    """Name of the Secret that holds the token."""
    return f"{config.name}-ray-token"


def _pod(
    config: ClusterConfig, kubernetes: KubernetesConfig, part: HeadConfig | WorkerConfig, *, head: bool
) -> dict[str, Any]:
    volumes: list[dict[str, Any]] = [
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": _gib(kubernetes.shared_memory_gib)}}
    ]
    mounts = [{"name": "shm", "mountPath": "/dev/shm"}]
    if kubernetes.volume_claim:
        claim = {"claimName": kubernetes.volume_claim}
        volumes.append({"name": "workdir", "persistentVolumeClaim": claim})
        mounts.append({"name": "workdir", "mountPath": config.job.workdir or "/workdir"})
    container: dict[str, Any] = {
        "name": "ray-head" if head else "ray-worker",
        "image": kubernetes.image,
        "env": _environment(config, kubernetes),
        "resources": _resources(kubernetes, part),
        "volumeMounts": mounts,
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        # on a worker the operator sets RAY_ADDRESS, so both ask the head
        "readinessProbe": {"exec": {"command": ["ray", "health-check"]}, **PROBE},
        "lifecycle": {"preStop": {"exec": {"command": ["ray", "stop"]}}},
    }
    if head:
        ports = (("gcs", GCS_PORT), ("dashboard", DASHBOARD_PORT))
        container["ports"] = [{"name": name, "containerPort": port} for name, port in ports]
    spec: dict[str, Any] = {
        "containers": [container],
        "volumes": volumes,
        "terminationGracePeriodSeconds": config.job.stop_seconds,
        "automountServiceAccountToken": head,
    }
    if kubernetes.service_account:
        spec["serviceAccountName"] = kubernetes.service_account
    labels = {"omniopsd-cluster": config.name}
    return {"metadata": {"labels": labels}, "spec": spec}


def _environment(config: ClusterConfig, kubernetes: KubernetesConfig) -> list[dict[str, Any]]:
    plain = [{"name": name, "value": value} for name, value in ray_environment(config.security).items()]
    token = {"name": "RAY_AUTH_TOKEN", "valueFrom": _from(secret_name(config), "auth_token")}
    named = [{"name": one.variable, "valueFrom": _from(one.secret, one.key)} for one in kubernetes.secrets]
    return [*plain, token, *named]


def _from(secret: str, key: str) -> dict[str, Any]:
    return {"secretKeyRef": {"name": secret, "key": key}}


def _resources(kubernetes: KubernetesConfig, part: HeadConfig | WorkerConfig) -> dict[str, Any]:
    amounts: dict[str, Any] = {"cpu": part.cpus, "memory": _gib(part.memory_gib or 1)}
    gpus = {kubernetes.gpu_resource: part.gpus} if part.gpus else {}
    return {"requests": amounts | gpus, "limits": {"memory": amounts["memory"]} | gpus}


def _parameters(part: HeadConfig | WorkerConfig) -> dict[str, str]:
    found = {"num-gpus": str(part.gpus)}
    if part.cpus:
        found["num-cpus"] = str(part.cpus)
    if part.object_store_gib:
        found["object-store-memory"] = str(int(part.object_store_gib * 2**30))
    if part.labels:
        found["labels"] = ",".join(f"{key}={value}" for key, value in part.labels.items())
    return found


def _gib(number: float) -> str:
    return f"{int(number * 1024)}Mi"


def _section(config: ClusterConfig) -> KubernetesConfig:
    assert config.kubernetes is not None  # the grammar asks for it
    return config.kubernetes


def _dump(content: dict[str, Any]) -> str:
    return yaml.safe_dump(content, sort_keys=False, width=1000)
