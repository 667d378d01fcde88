"""Settings of the runtime. Importable without Ray."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class RuntimeConfig(BaseModel):
    """Where the actors run."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    kind: Literal["ray", "inline"] = "ray"
    """Ray actors, or everything in one process (breakpoints work; one rank, no GPUs)."""
    address: str = "local"
    """`local` starts a private Ray on this machine; `auto` is the cluster of `ray job submit`; or host:port."""
    cpus: int | None = Field(default=None, ge=1)
    """CPUs that a local Ray pretends to have; unset: as many as the machine. A running cluster has its own."""
    object_store_bytes: int | None = Field(default=None, ge=80_000_000)
    """Shared memory of a local Ray; unset: Ray decides (30 % of memory)."""
    colocate: Literal["none", "teacher-learner", "rollout-learner"] = "none"
    """Which roles share GPUs: none; teacher n with learner rank n (`teacher.gpus` is then the teacher's share,
    between 0 and 1, of the rank's GPU); or each rollout engine with as many ranks as it has GPUs: engines sleep while
    the learner trains (vLLM's sleep mode), and wake with the push."""
