"""Settings of the teacher pool. Importable without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from teacher.types import Privilege

DEFAULT_TEMPLATE = (
    "\n\nHere is a rationale for this clip, written by an expert observer:\n"
    "<rationale>\n{evidence}\n</rationale>\n"
    "Use it as evidence, and answer in your own words."
)


class TeacherConfig(BaseModel):
    """The pool that scores the student's tokens under the privileged context."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    privilege: Privilege = "rationale"
    """What the teacher sees beyond the student's prompt. `none`, `shuffled` and `other-row` are the controls."""
    template: str = DEFAULT_TEMPLATE
    """Text appended to the last user message; `{evidence}` stands for the rationale or label."""
    weights: Literal["frozen", "live", "ema"] = "ema"
    """Which weights the teacher has: the first ones, the student's own, or their moving average (paper)."""
    ema: float = Field(default=0.999, gt=0, lt=1)
    """Decay mu of the moving average, applied after every step (paper: 0.999)."""
    missing: Literal["fail", "skip"] = "fail"
    """A sample without the evidence that `privilege` needs: an error, or left out of the data (and counted)."""
    replicas: int = Field(default=1, ge=1)
    """Teachers in the pool; each is one Ray actor with one copy of the model."""
    cpus: float = Field(default=1.0, gt=0)
    """CPUs that Ray reserves for one teacher."""
    gpus: float = Field(default=0.0, ge=0)
    """GPUs that Ray reserves for one teacher."""
    max_pack_tokens: int = Field(default=16384, ge=1)
    """Most tokens of one forward pass; groups are packed up to it."""
    timeout_seconds: float = Field(default=600.0, gt=0)
    """Longest wait for one score call before the step fails."""
