"""Settings of the teacher pool. Importable without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from teacher.types import Privilege, TeacherRule

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
    weights: TeacherRule = "ema"
    """Which weights the teacher has: the first ones (`frozen`), the student's own (`live`), their moving average
    (`ema`, paper), a copy of the student's every `copy_every` steps (`hard`), such a copy only while answers get
    better and not longer (`gated`), or a point between the first and the student's own (`trust_region`)."""
    ema: float = Field(default=0.999, gt=0, lt=1)
    """Decay mu of the moving average, applied after every step (paper: 0.999)."""
    copy_every: int = Field(default=50, ge=1)
    """Steps between two copies (`hard`), or between two chances of one (`gated`). Copies every 1 or 2 steps were
    seen to collapse, every 50 did best (arXiv 2606.03532)."""
    gate_gain: float = Field(default=0.0, ge=0)
    """`gated`: the share of right answers must have risen by more than this since the last copy."""
    gate_length_tail: float = Field(default=1.25, ge=1)
    """`gated`: the 95th percentile of answer lengths may have grown by at most this factor since the last copy."""
    trust: float = Field(default=0.5, gt=0, lt=1)
    """`trust_region`: the teacher is first + trust x (student - first), weight by weight."""
    missing: Literal["fail", "skip"] = "fail"
    """A sample without the evidence that `privilege` needs: an error, or left out of the data (and counted)."""
    scorer: Literal["transformers", "vllm", "colocated"] = "transformers"
    """Plain transformers (every support), an own vLLM engine (`objective.support: sampled` or `topk`), which
    batches by itself, or the learner itself with its adapters off (`colocated`: a frozen teacher
    under `learner.lora`, without a second copy of the model)."""
    tensor_parallel_size: int = Field(default=1, ge=1)
    """Devices that one teacher is spread over. vLLM: GPUs of its engine. transformers: as many actors on one node,
    each with its part of the text layers and whole towers, embedding and head; must divide the attention heads, the
    key-value heads and the `intermediate_size` of the language model."""
    memory_fraction: float = Field(default=0.2, gt=0, le=1)
    """Share of the device's memory for a vLLM teacher (`gpu_memory_utilization`)."""
    kv_cache_gib: float = Field(default=1.0, gt=0)
    """Key-value cache of a vLLM teacher on the CPU; on GPUs `memory_fraction` decides."""
    replicas: int = Field(default=1, ge=1)
    """Teachers in the pool; each is one copy of the model, in one Ray actor or in `tensor_parallel_size` of them."""
    cpus: float = Field(default=1.0, gt=0)
    """CPUs that Ray reserves for one teacher; its ranks share them."""
    gpus: float = Field(default=0.0, ge=0)
    """GPUs that Ray reserves for one teacher; must equal `tensor_parallel_size` where that is above 1 (0 is the CPU)."""
    max_pack_tokens: int = Field(default=16384, ge=1)
    """Most tokens of one forward pass; groups are packed up to it."""
    timeout_seconds: float = Field(default=600.0, gt=0)
    """Longest wait for one score call before the step fails."""

    @property
    def colocated(self) -> bool:
        """Whether the learner scores for itself, and there is no pool."""
        return self.scorer == "colocated"

    @property
    def ranks(self) -> int:
        """Actors of one teacher: vLLM spreads itself."""
        return self.tensor_parallel_size if self.scorer == "transformers" else 1
