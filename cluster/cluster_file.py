"""From `cluster.yaml` to a checked `ClusterConfig`, or all that is wrong with it at once."""

from __future__ import annotations

import ipaddress
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from cluster.cluster_config import ClusterConfig, HeadConfig, WorkerConfig
from cluster.yaml_file import ConfigError, read_document
from cluster.yaml_schema import Finding, findings_error, validate

SECTIONS = {
    "local": None, "ssh": "ssh", "aws": "cloud", "gcp": "cloud", "azure": "cloud",
    "kuberay": "kubernetes", "slurm": "slurm",
}  # fmt: skip
CLOUDS = ("aws", "gcp", "azure")
FAULTS = "OMNIOPSD_FAULTS"


def load_cluster(path: str | Path) -> ClusterConfig:
    """Read and check one cluster YAML. Raises ConfigError with one line for each problem."""
    document = read_document(path)
    config = validate(document, ClusterConfig)
    findings = list(conflicts(config))
    if findings:
        raise findings_error(document, findings)
    if os.environ.get(FAULTS):
        raise ConfigError(f"{FAULTS} is set: staged faults are for tests of one process; unset it")
    return config


def conflicts(config: ClusterConfig) -> Iterator[Finding]:
    """What contradicts itself, or would be open to strangers. Pure."""
    yield from _sections(config)
    yield from _groups(config)
    yield from _network(config)
    yield from _keys(config)


def several_machines(config: ClusterConfig) -> bool:
    """Whether traffic of the cluster leaves one machine."""
    return config.provider != "local" and any(group.count or group.most for group in config.workers)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _sections(config: ClusterConfig) -> Iterator[Finding]:
    needed = SECTIONS[config.provider]
    for section in sorted({name for name in SECTIONS.values() if name}):
        given = getattr(config, section) is not None
        if given and section != needed:
            yield section, f"has no effect with provider: {config.provider}; leave it out"
        if not given and section == needed:
            yield "provider", f"{config.provider} needs the section {section}; write it"


def _groups(config: ClusterConfig) -> Iterator[Finding]:
    names = Counter(group.name for group in config.workers)
    for at, group in enumerate(config.workers):
        key = f"workers.{at}"
        if names[group.name] > 1 or group.name == "head":
            yield (
                f"{key}.name",
                f'"{group.name}" is taken; every group has a name of its own, and head is the head',
            )
        if group.most is not None and group.most < group.count:
            yield f"{key}.most", f"{group.most} is below count, which is {group.count}; raise it"
        if group.most is not None and config.provider not in (*CLOUDS, "kuberay"):
            yield f"{key}.most", f"provider {config.provider} has no autoscaler; leave it out"
        if config.provider == "ssh" and len(group.hosts) != group.count:
            yield (
                f"{key}.hosts",
                f"{len(group.hosts)} hosts, and count is {group.count}; write the same number",
            )
    if config.provider == "ssh" and config.head.host is None:
        yield "head.host", "ssh needs the head's machine; write host: NAME"
    hosts = Counter([host for group in config.workers for host in group.hosts] + [config.head.host])
    for host, times in hosts.items():
        if host is not None and times > 1:
            yield "workers", f"host {host} is given {times} times; one Ray node runs on a machine"


def _keys(config: ClusterConfig) -> Iterator[Finding]:
    """Keys of a node that its provider does not read, or cannot do without."""
    parts: list[tuple[str, HeadConfig | WorkerConfig]] = [("head", config.head)]
    parts += [(f"workers.{at}", group) for at, group in enumerate(config.workers)]
    for key, part in parts:
        machine, cloud = part.machine, config.provider in CLOUDS
        if cloud and machine is None:
            yield f"{key}.machine", f"{config.provider} needs an instance type; write machine: TYPE"
        if machine is not None and not cloud:
            yield f"{key}.machine", f"has no effect with provider: {config.provider}; leave it out"
        hosted = getattr(part, "hosts", None) or getattr(part, "host", None)
        if hosted and config.provider != "ssh":
            yield f"{key}.{'host' if key == 'head' else 'hosts'}", "only ssh has hosts; leave it out"
        if getattr(part, "spot", False) and not cloud:
            yield f"{key}.spot", f"has no effect with provider: {config.provider}; leave it out"
        if part.memory_gib is not None and config.provider not in ("kuberay", "slurm"):
            yield f"{key}.memory_gib", f"has no effect with provider: {config.provider}; leave it out"
        if config.provider == "kuberay" and (part.memory_gib is None or part.cpus is None):
            yield f"{key}.memory_gib", "a pod needs cpus and memory_gib; write both"
    if config.provider == "gcp" and config.cloud and not (config.cloud.zone and config.cloud.project):
        yield "cloud.zone", "gcp needs zone and project; write both"
    if config.provider == "azure" and config.cloud and not config.cloud.project:
        yield "cloud.project", "azure needs a resource group; write project: GROUP"
    if config.provider == "azure" and config.cloud and config.cloud.image.count(":") != 3:
        yield "cloud.image", "azure names an image publisher:offer:sku:version"
    if config.kubernetes and config.kubernetes.volume_claim and not config.job.workdir:
        yield "job.workdir", "kubernetes.volume_claim is mounted there; write it"


def _network(config: ClusterConfig) -> Iterator[Finding]:
    security = config.security
    if not is_loopback(security.dashboard_host):
        host = security.dashboard_host
        if not security.expose:
            yield (
                "security.dashboard_host",
                f"{host} is reachable from outside, and whoever has the job API runs code here; write 127.0.0.1 "
                "and use `omniopsd-cluster dashboard`, or add expose: true and tls",
            )
        elif security.tls is None:
            yield "security.expose", "true needs encrypted traffic; write the section security.tls"
    elif security.expose:
        yield (
            "security.expose",
            f"has no effect while dashboard_host is {security.dashboard_host}; leave it out",
        )
    if security.isolated and config.provider != "local":
        yield "security.isolated", f"only a local cluster has no network, not {config.provider}; leave it out"
    elif security.isolated and (security.expose or not is_loopback(security.dashboard_host)):
        yield "security.isolated", "contradicts a dashboard that others reach; leave one of them out"
    if security.tls is not None and security.insecure_network:
        yield "security.insecure_network", "has no effect beside tls; leave it out"
    if not several_machines(config):
        for key in ("insecure_network", "network"):
            if getattr(security, key):
                yield f"security.{key}", "has no effect on one machine; leave it out"
        return
    if security.network != "private":
        yield (
            "security.network",
            "several machines need a network that only they reach, because collectives (NCCL, gloo) authenticate "
            "nobody; make sure of it and write network: private",
        )
    if security.tls is None and not security.insecure_network:
        yield (
            "security.tls",
            "traffic between machines would be readable, with the token in it; write the section tls, or "
            "insecure_network: true when the network is trusted",
        )
