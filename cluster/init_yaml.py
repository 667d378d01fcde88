"""`omniopsd-cluster init`: a commented YAML for a provider, ready to be filled in."""

from __future__ import annotations

from pathlib import Path

SCHEMA = """# A cluster for omniopsd; every key: docs/cluster.md. Check it: omniopsd-cluster check
name: {name}
provider: {provider}
"""
LOCAL = """
# One Ray head and two further Ray nodes on this machine. The GPUs are pretended: good for trying out
# placement, not for roles that ask for GPUs. On a GPU machine write one head with its real count.
head: {cpus: 4, gpus: 0}
workers:
  - {name: gpu, count: 2, cpus: 2, gpus: 2, labels: {gpu: pretended}}
"""
NETWORK = """
security:
  network: private # only these machines reach each other: collectives authenticate nobody
  insecure_network: true # or certificates: tls: {certificate: PATH, key: PATH, authority: PATH}
"""
JOB = """
job:
  workdir: /shared/omniopsd # data, models and run folders; the same folder on every node
  python: /opt/omniopsd/bin/python # has omniopsd installed, on every node
  stop_seconds: 600 # what a run gets to finish its step and write a checkpoint
"""
SSH = """
ssh:
  user: ubuntu
  key: ~/.ssh/id_ed25519
  setup: [] # shell commands before Ray starts, for example [source /opt/env.sh]
head: {host: node0, cpus: 16, gpus: 0}
workers:
  - {name: gpu, count: 2, hosts: [node1, node2], cpus: 64, gpus: 8}
"""
CLOUDS = {
    "aws": """
cloud:
  region: us-east-1
  image: ami-0123456789abcdef0 # with drivers, and omniopsd at job.python
  disk_gib: 200
head: {machine: m6i.4xlarge}
workers:
  - {name: gpu, count: 2, most: 4, gpus: 8, machine: p5.48xlarge, spot: false}
""",
    "gcp": """
cloud:
  region: us-central1
  zone: us-central1-a
  project: my-project
  image: projects/my-project/global/images/omniopsd # with drivers, and omniopsd at job.python
  disk_gib: 200
head: {machine: n2-standard-16}
workers:
  - {name: gpu, count: 2, most: 4, gpus: 8, machine: a3-highgpu-8g}
""",
    "azure": """
cloud:
  region: eastus
  project: my-resource-group
  image: microsoft-dsvm:ubuntu-hpc:2204:latest # publisher:offer:sku:version
  disk_gib: 200
  key: ~/.ssh/id_ed25519
head: {machine: Standard_D16s_v5}
workers:
  - {name: gpu, count: 2, most: 4, gpus: 8, machine: Standard_ND96isr_H100_v5}
""",
}
KUBERAY = """
kubernetes:
  namespace: default
  image: registry.example/omniopsd:0.1.0
  shared_memory_gib: 32
  volume_claim: omniopsd # mounted at job.workdir
  secrets: [] # for example [{variable: HF_TOKEN, secret: huggingface, key: token}]
head: {cpus: 8, memory_gib: 32}
workers:
  - {name: gpu, count: 2, most: 4, cpus: 32, memory_gib: 256, gpus: 8}
"""
SLURM = """
slurm:
  partition: gpu
  account: my-account
  time: 24:00:00
  setup: [] # for example [module load cuda]
head: {cpus: 16, gpus: 8}
workers:
  - {name: gpu, count: 3, cpus: 64, gpus: 8}
"""


def template(provider: str) -> str:
    """The YAML of one provider."""
    head = SCHEMA.format(name="dev" if provider == "local" else "omniopsd", provider=provider)
    if provider == "local":
        return head + LOCAL
    body = {"ssh": SSH, "kuberay": KUBERAY, "slurm": SLURM, **CLOUDS}[provider]
    return head + body + NETWORK + JOB


def write_template(provider: str, file: str) -> None:
    """Write it to a new file. Raises ValueError when the file is there."""
    path = Path(file)
    if path.exists():
        raise ValueError(f"{file} exists; remove it, or write another one with -f")
    path.write_text(template(provider), encoding="utf-8")
    print(
        f"wrote {file}\nnext: edit it, then omniopsd-cluster check{'' if file == 'cluster.yaml' else f' -f {file}'}"
    )
