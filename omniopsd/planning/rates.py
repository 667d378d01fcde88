"""How fast one actor of a role is: from a calibration, or from its GPU's data sheet and stated assumptions. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from omniopsd.config import RunConfig
from omniopsd.planning.calibration import Calibration, Role
from omniopsd.planning.estimate import Known
from omniopsd.planning.hardware import Machines

GIGA, TERA = 1e9, 1e12
FIXED = {
    "rollout": ("call", "sample", "step", "token"),
    "teacher": ("call", "sample", "token"),
    "learner": ("call", "sample", "micro", "token"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Operations and bytes per second of one actor, and fixed `seconds` by what they are paid for."""

    flops: Known
    bandwidth: Known
    seconds: Mapping[str, Known]

    def fixed(self, name: str) -> Known:
        """Seconds for one of something, 0 where nothing is known to be paid."""
        return self.seconds.get(name, Known(value=0.0, source="exact"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Links:
    """Bytes per second between GPUs of a node, to the host and between nodes; hashing; seconds per byte of a push."""

    gpus: Known
    host: Known
    network: Known
    hashing: Known
    push: Mapping[str, Known] | None


def role_rates(
    role: Role, config: RunConfig, machines: Machines, calibration: Calibration | None
) -> Rates | None:
    """None for a role on the CPU without a calibration: no data sheet says what a CPU does here."""
    gpus = {"rollout": config.rollout.gpus, "teacher": config.teacher.gpus, "learner": config.learner.gpus}[
        role
    ]
    if calibration is not None and role in calibration.rates and (calibration.gpu is not None) == bool(gpus):
        measured = calibration.rates[role]
        return Rates(
            flops=Known(value=measured.flops, source="measured"),
            bandwidth=Known(value=measured.bytes_per_second, source="measured"),
            seconds={name: Known(value=value, source="measured") for name, value in measured.seconds.items()},
        )
    if not gpus or machines.gpu is None:
        return None
    return _from_data_sheet(role, config, machines)


def _from_data_sheet(role: Role, config: RunConfig, machines: Machines) -> Rates:
    """Of one GPU: the work of a tensor-parallel actor is counted for each of its GPUs."""
    gpu, assumed = machines.gpu, machines.hardware.efficiency
    assert gpu is not None  # the caller has looked
    peak = gpu.bfloat16_tflops if config.model.dtype == "bfloat16" else gpu.float32_tflops
    share = assumed.train if role == "learner" else assumed.prefill
    seconds = {"call": assumed.call_seconds, "sample": assumed.sample_seconds}
    if role == "rollout":
        seconds["step"] = assumed.decode_step_seconds
    return Rates(
        flops=Known(value=peak * TERA * share, source="assumption"),
        bandwidth=Known(value=gpu.bandwidth_gbs * GIGA * assumed.decode, source="assumption"),
        seconds={name: Known(value=value, source="assumption") for name, value in seconds.items()},
    )


def links(machines: Machines, calibration: Calibration | None, on_gpus: bool) -> Links:
    """What moves bytes. Without GPUs everything is memory of one host, as fast as the hash over it."""
    hardware = machines.hardware
    share, gpu = hardware.efficiency.link, machines.gpu
    network = Known(value=hardware.network_gbs * GIGA * share, source="assumption")
    hashing = Known(value=hardware.efficiency.hash_gbs * GIGA, source="assumption")
    push = None
    if calibration is not None and (calibration.gpu is not None) == on_gpus:
        push = {
            name: Known(value=value, source="measured") for name, value in calibration.push_seconds.items()
        }
    if gpu is None:
        return Links(gpus=network, host=hashing, network=network, hashing=hashing, push=push)
    between = (gpu.nvlink_gbs or gpu.pcie_gbs) * GIGA * share
    return Links(
        gpus=Known(value=between, source="assumption"),
        host=Known(value=gpu.pcie_gbs * GIGA * share, source="assumption"),
        network=network,
        hashing=hashing,
        push=push,
    )
