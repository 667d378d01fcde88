"""One teacher spread over several processes: the library's own tensor parallelism, by its plan for the model.

    text layers    q, k, v, gate, up    rows       [rank 0 | rank 1 | ...]
                   o, down              columns    [rank 0 | rank 1 | ...]    and an all-reduce behind each
    towers, embedding, head, norms      a whole copy on every rank

Every rank computes the same hidden rows, so rank 0 answers for all. The ranks of one teacher share a node and
meet through a file on it.
"""

from __future__ import annotations

import atexit
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import Qwen2_5OmniThinkerConfig

SPLIT_SIZES = ("num_attention_heads", "num_key_value_heads", "intermediate_size")


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One rank of a teacher; `meeting` names the file by which its ranks find each other, and was never used."""

    rank: int
    ranks: int
    meeting: str


def undivided(thinker_config: Mapping[str, Any], ranks: int) -> list[str]:
    """The sizes of a thinker's text layers that `ranks` does not divide, as "name size". Pure.

    Without this check a rank would hold half a head, and view it as something else.
    """
    text = Qwen2_5OmniThinkerConfig(**thinker_config).text_config
    return [f"{name} {getattr(text, name)}" for name in SPLIT_SIZES if getattr(text, name) % ranks]


def meet(member: Member, *, gpu: bool, timeout_seconds: float) -> None:
    """Make this process one of the ranks: NCCL on GPUs, gloo on CPUs. One process can meet once."""
    os.environ.setdefault("LOCAL_RANK", "0")  # Ray shows each actor only its own GPU
    dist.init_process_group(
        "nccl" if gpu else "gloo",
        init_method=f"file://{tempfile.gettempdir()}/omniopsd-teacher-{member.meeting}",
        rank=member.rank,
        world_size=member.ranks,
        timeout=timedelta(seconds=timeout_seconds),
        device_id=torch.device("cuda", 0) if gpu else None,
    )
    atexit.register(dist.destroy_process_group)  # a collective thread that outlives Python aborts the process


def own_part(parameter: Tensor) -> Tensor:
    """What this rank holds of a parameter, sharing its memory; the parameter itself where it is whole."""
    with torch.no_grad():
        return parameter.to_local() if isinstance(parameter, DTensor) else parameter


def part_like(whole: Tensor, parameter: Tensor) -> Tensor:
    """This rank's part of `whole`, cut as `parameter` is, on its device. No rank speaks to another."""
    if not isinstance(parameter, DTensor):
        return whole.to(parameter.device)
    mesh, placements = parameter.device_mesh, parameter.placements
    return distribute_tensor(whole, mesh, placements, src_data_rank=None).to_local()


def whole_tensors(
    parts: Iterable[tuple[str, Tensor]], like: Mapping[str, Tensor]
) -> Iterator[tuple[str, Tensor]]:
    """Each part as the whole tensor, by name; cut as `like` is. All ranks must go through all of it together."""
    for name, part in parts:
        parameter = like[name]
        if isinstance(parameter, DTensor):
            mesh, placements = parameter.device_mesh, parameter.placements
            part = DTensor.from_local(part, mesh, placements, run_check=False).full_tensor()
        yield name, part
