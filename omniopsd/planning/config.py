"""Settings of the hardware file that `omniopsd plan --hardware` takes. Importable without torch."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

SECTION = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class GpuConfig(BaseModel):
    """One kind of GPU, as its data sheet says it (decimal units, dense rates, one direction of each link)."""

    model_config = SECTION

    memory_gb: float = Field(gt=0)
    """Memory, 10^9 bytes."""
    bandwidth_gbs: float = Field(gt=0)
    """Memory bandwidth, 10^9 bytes per second."""
    bfloat16_tflops: float = Field(gt=0)
    """Matrix rate in bfloat16 without sparsity, 10^12 operations per second."""
    float32_tflops: float = Field(gt=0)
    """Rate in float32 without TF32."""
    nvlink_gbs: float = Field(default=0.0, ge=0)
    """NVLink to the other GPUs of a node, one direction; 0: none, PCIe serves."""
    pcie_gbs: float = Field(gt=0)
    """PCIe to the host, one direction."""


class EfficiencyConfig(BaseModel):
    """Which part of a data sheet's figure a program reaches. Assumptions, until `plan calibrate` has measured."""

    model_config = SECTION

    train: float = Field(default=0.35, gt=0, le=1)
    """Share of the matrix rate in the learner's forward and backward pass (model FLOPs utilization)."""
    prefill: float = Field(default=0.4, gt=0, le=1)
    """Share of the matrix rate in prefill and in scoring."""
    decode: float = Field(default=0.6, gt=0, le=1)
    """Share of the memory bandwidth while decoding."""
    link: float = Field(default=0.7, gt=0, le=1)
    """Share of NVLink, PCIe and network bandwidth."""
    hash_gbs: float = Field(default=1.0, gt=0)
    """Bytes that one core hashes for the digest of a push, 10^9 per second."""
    decode_step_seconds: float = Field(default=0.012, ge=0)
    """Fixed time of one decoding step (scheduler, kernel launches); with CUDA graphs a few milliseconds."""
    call_seconds: float = Field(default=0.05, ge=0)
    """Fixed time of one call of an actor."""
    sample_seconds: float = Field(default=0.05, ge=0)
    """Host work on one sample in one actor: resizing frames, mel spectrogram."""


class HardwareConfig(BaseModel):
    """What the planner should know of the machines beyond the cluster YAML."""

    model_config = SECTION

    gpu: str | None = None
    """Kind of every GPU that the cluster YAML does not name by a label `gpu: KIND`."""
    price_per_gpu_hour: float | None = Field(default=None, gt=0)
    """Price of one GPU for one hour; unset: no cost is told."""
    price_per_node_hour: float | None = Field(default=None, gt=0)
    """Price of one node without GPUs for one hour."""
    currency: str = Field(default="USD", pattern=r"^[A-Z]{3}$")
    """Currency of the prices."""
    network_gbs: float = Field(default=12.5, gt=0)
    """Network between two nodes, one direction, 10^9 bytes per second (100 Gbit/s: an assumption)."""
    node_memory_gib: float | None = Field(default=None, gt=0)
    """Memory of one node, where the cluster YAML does not state it."""
    efficiency: EfficiencyConfig = EfficiencyConfig()
    """Assumptions about what is reached."""
    gpus: dict[str, GpuConfig] = {}
    """Kinds of GPUs beyond those in the table, or other figures for one of them."""
