"""The grammar of the cluster YAML: one file states the machines, for every provider. Importable without Ray."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from cluster.yaml_schema import name_pattern

SECTION = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

NAME = name_pattern(
    r"^[a-z][a-z0-9-]{0,30}$", "a name of lower-case letters, digits and dashes that starts with a letter"
)
HOST = name_pattern(
    r"^[A-Za-z0-9]([A-Za-z0-9.:-]{0,251}[A-Za-z0-9])?$",
    "a host name or an address, letters, digits, . : and -",
)
USER = name_pattern(r"^[a-z_][a-z0-9_-]{0,31}$", "a user name, like ubuntu")
VARIABLE = name_pattern(
    r"^[A-Za-z_][A-Za-z0-9_]{0,63}$", "the name of an environment variable, not its value"
)
LABEL = name_pattern(
    r"^[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$",
    "a label of letters, digits, dots, dashes and underscores",
)
WORD = name_pattern(
    r"^[A-Za-z0-9][A-Za-z0-9_./:@+-]{0,254}$", "one word of letters, digits and _ . / : @ + -"
)
PATH = name_pattern(r"^[^\x00-\x1f]{1,1000}$", "a path without control characters")
MINUTES = name_pattern(r"^(\d+-)?\d{1,2}:\d{2}:\d{2}$", "a time like 12:00:00 or 2-00:00:00")

Provider = Literal["local", "ssh", "aws", "gcp", "azure", "kuberay", "slurm"]
Name = Annotated[str, StringConstraints(pattern=NAME)]
Host = Annotated[str, StringConstraints(pattern=HOST)]
Variable = Annotated[str, StringConstraints(pattern=VARIABLE)]
Label = Annotated[str, StringConstraints(pattern=LABEL)]
Word = Annotated[str, StringConstraints(pattern=WORD)]
PathText = Annotated[str, StringConstraints(pattern=PATH)]


class HeadConfig(BaseModel):
    """The node that Ray's head and the driver run on."""

    model_config = SECTION

    cpus: int | None = Field(default=None, ge=1)
    """CPUs that Ray may give out here; unset: as many as the machine has."""
    gpus: int = Field(default=0, ge=0)
    """GPUs that Ray may give out here."""
    memory_gib: float | None = Field(default=None, gt=0)
    """Memory (kuberay, slurm)."""
    object_store_gib: float | None = Field(default=None, gt=0)
    """Ray's shared memory; unset: Ray decides (30 % of memory)."""
    labels: dict[Label, Label] = {}
    """Ray labels of the node, for example `gpu: h100`."""
    host: Host | None = None
    """The machine (ssh)."""
    machine: Word | None = None
    """Instance type (aws, gcp, azure), for example `m6i.2xlarge`."""


class WorkerConfig(BaseModel):
    """A group of equal worker nodes."""

    model_config = SECTION

    name: Name
    """Name of the group."""
    count: int = Field(default=1, ge=0)
    """Nodes at the start; with ssh, the number of hosts."""
    most: int | None = Field(default=None, ge=1)
    """Upper bound for Ray's autoscaler (aws, gcp, azure, kuberay); unset: `count`."""
    cpus: int | None = Field(default=None, ge=1)
    """CPUs that Ray may give out on one node; unset: as many as the machine has."""
    gpus: int = Field(default=0, ge=0)
    """GPUs that Ray may give out on one node. With local they may be pretended, for tests."""
    memory_gib: float | None = Field(default=None, gt=0)
    """Memory of one node (kuberay, slurm)."""
    object_store_gib: float | None = Field(default=None, gt=0)
    """Ray's shared memory on one node; unset: Ray decides (30 % of memory)."""
    labels: dict[Label, Label] = {}
    """Ray labels of these nodes."""
    hosts: tuple[Host, ...] = ()
    """The machines (ssh)."""
    machine: Word | None = None
    """Instance type (aws, gcp, azure)."""
    spot: bool = False
    """Cheaper instances that may be taken away (aws, gcp, azure)."""


class TlsConfig(BaseModel):
    """Certificates for Ray's own traffic (`RAY_USE_TLS`); paths on the nodes."""

    model_config = SECTION

    certificate: PathText
    """Certificate of the node."""
    key: PathText
    """Its private key."""
    authority: PathText
    """Certificate of the authority that signed both ends."""


class SecurityConfig(BaseModel):
    """Who may reach the cluster. Tokens are always on."""

    model_config = SECTION

    dashboard_host: Host = "127.0.0.1"
    """Address that the dashboard and the job API listen on."""
    expose: bool = False
    """Allow a `dashboard_host` that other machines reach; needs `tls`."""
    tls: TlsConfig | None = None
    """Encrypt Ray's traffic."""
    isolated: bool = False
    """Put a local cluster into a network namespace of its own: no port of it is reachable from anywhere, and it
    reaches nothing (no endpoint, no model hub)."""
    insecure_network: bool = False
    """Accept plain traffic between machines. The token then travels readable for whoever listens there."""
    network: Literal["private"] | None = None
    """Several machines: say that only they reach each other. Collectives (NCCL, gloo) authenticate nobody."""
    metrics: bool = False
    """Open Ray's Prometheus ports, which authenticate nobody."""
    pass_env: tuple[Variable, ...] = ()
    """Environment variables of the shell of `up` that nodes inherit beside the harmless ones, by name."""


class JobConfig(BaseModel):
    """How runs start and stop."""

    model_config = SECTION

    workdir: PathText | None = None
    """Folder that relative paths of a run YAML start from, the same on every node; unset with local: where
    `submit` was called."""
    python: PathText | None = None
    """The Python with omniopsd on the nodes; unset: the one of this command (local), or `python3`."""
    stop_seconds: int = Field(default=600, ge=5)
    """What a run gets to finish its step and write a checkpoint after `stop-job`, before it is killed."""


class SshConfig(BaseModel):
    """Machines that are there already."""

    model_config = SECTION

    user: Annotated[str, StringConstraints(pattern=USER)]
    """Login on every machine."""
    key: PathText
    """Private key file on this machine."""
    port: int = Field(default=22, ge=1, le=65535)
    """Port of sshd."""
    known_hosts: PathText = "~/.ssh/known_hosts"
    """Host keys; a machine that is not in it is refused."""
    ray_port: int = Field(default=6379, ge=1024, le=65535)
    """Port of Ray's head."""
    dashboard_port: int = Field(default=8265, ge=1024, le=65000)
    """Port of the dashboard on the head, by default on its loopback; the ports above it serve the nodes' agents."""
    setup: tuple[PathText, ...] = ()
    """Shell commands that run on every machine before Ray starts."""


class CloudConfig(BaseModel):
    """Instances of a cloud, through Ray's cluster launcher."""

    model_config = SECTION

    region: Word
    """Region, for example us-east-1 (azure: the location)."""
    zone: Word | None = None
    """Availability zone (gcp needs one)."""
    project: Word | None = None
    """Project (gcp) or resource group (azure)."""
    image: Word
    """Machine image: an AMI, an image path, or publisher:offer:sku:version."""
    disk_gib: int = Field(default=200, ge=20)
    """Root disk of every node."""
    user: Annotated[str, StringConstraints(pattern=USER)] = "ubuntu"
    """Login of the image."""
    key: PathText | None = None
    """Private key file; unset: Ray's launcher makes one (aws, gcp)."""
    setup: tuple[PathText, ...] = ()
    """Shell commands that run on every node before Ray starts."""
    idle_minutes: int = Field(default=15, ge=1)
    """Workers above `count` go after this long without work."""


class SecretRef(BaseModel):
    """A Kubernetes secret that becomes an environment variable; its value stays in the cluster."""

    model_config = SECTION

    variable: Variable
    """Name of the variable."""
    secret: Word
    """Name of the Secret."""
    key: Word
    """Key inside the Secret."""


class KubernetesConfig(BaseModel):
    """A RayCluster under the KubeRay operator."""

    model_config = SECTION

    namespace: Name = "default"
    """Namespace of every object."""
    image: Word
    """Container image with this project and its GPU libraries."""
    service_account: Name | None = None
    """Service account of the pods."""
    gpu_resource: Word = "nvidia.com/gpu"
    """Resource name of a GPU."""
    shared_memory_gib: float = Field(default=16.0, gt=0)
    """Size of /dev/shm in every pod; Ray's object store lives there."""
    secrets: tuple[SecretRef, ...] = ()
    """Secrets by reference."""
    volume_claim: Name | None = None
    """PersistentVolumeClaim mounted at `job.workdir` in every pod: data, models and run folders."""


class SlurmConfig(BaseModel):
    """One allocation of a SLURM machine."""

    model_config = SECTION

    partition: Word | None = None
    """Partition."""
    account: Word | None = None
    """Account."""
    time: Annotated[str, StringConstraints(pattern=MINUTES)] = "24:00:00"
    """Time limit."""
    setup: tuple[PathText, ...] = ()
    """Shell commands at the top of the batch script, for example `module load cuda`."""


class ClusterConfig(BaseModel):
    """One cluster."""

    model_config = SECTION

    name: Name
    """Name of the cluster; its state is kept under it."""
    provider: Provider
    """Where the machines come from."""
    head: HeadConfig = HeadConfig()
    """The node that Ray's head and the driver run on."""
    workers: tuple[WorkerConfig, ...] = ()
    """Groups of worker nodes."""
    security: SecurityConfig = SecurityConfig()
    """Who may reach the cluster. Tokens are always on."""
    job: JobConfig = JobConfig()
    """How runs start and stop."""
    ssh: SshConfig | None = None
    """Machines that are there already (provider ssh)."""
    cloud: CloudConfig | None = None
    """Instances of a cloud (providers aws, gcp, azure)."""
    kubernetes: KubernetesConfig | None = None
    """A RayCluster (provider kuberay)."""
    slurm: SlurmConfig | None = None
    """One allocation (provider slurm)."""

    @property
    def node_count(self) -> int:
        """Nodes at the start, with the head."""
        return 1 + sum(group.count for group in self.workers)

    @property
    def gpu_count(self) -> int:
        """GPUs at the start."""
        return self.head.gpus + sum(group.count * group.gpus for group in self.workers)
