"""Settings of the objective and of the DeepSpeed learner. Importable without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

SECTION = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ObjectiveConfig(BaseModel):
    """The token loss; the defaults are the paper's (section 3.2: JSD 0.5, full vocabulary, tau 1)."""

    model_config = SECTION

    divergence: Literal["jsd", "forward_kl", "reverse_kl", "sampled", "cross_entropy"] = "jsd"
    """Distance from student to teacher at each response token; `cross_entropy` needs no teacher (cold start)."""
    beta: float = Field(default=0.5, gt=0, lt=1)
    """Weight of the teacher in the JSD mixture m = (1-beta) p + beta q."""
    support: Literal["full", "topk", "sampled"] = "full"
    """Over the whole vocabulary, the teacher's top k and a tail bucket, or the sampled token alone."""
    top_k: int = Field(default=100, ge=1)
    """Size of the teacher's top-k."""
    temperature: float = Field(default=1.0, gt=0)
    """tau: divides both models' logits inside the divergence."""
    aggregation: Literal["seq_mean", "token_mean"] = "seq_mean"
    """Mean over tokens then sequences (paper), or over all tokens of the step."""
    importance: Literal["off", "capped"] = "off"
    """Weight each token by min(p_student / p_rollout, cap), detached; for `max_policy_lag` above 0."""
    importance_cap: float = Field(default=2.0, gt=0)
    """Cap of the importance weight."""
    train_truncated: bool = True
    """Train on answers cut at `max_new_tokens`; false masks them (and counts them)."""
    row_chunk: int = Field(default=256, ge=1)
    """Response rows whose full-vocabulary logits exist at one time."""


class LoraConfig(BaseModel):
    """Low-rank adapters (peft) on the language model's linear layers; only they are trained."""

    model_config = SECTION

    rank: int = Field(default=64, ge=1)
    """Rank r."""
    alpha: float = Field(default=128.0, gt=0)
    """Scale; the adapter's weight is alpha / rank."""
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    """Names of the linear layers that get an adapter."""


class LearnerConfig(BaseModel):
    """The DeepSpeed ranks."""

    model_config = SECTION

    ranks: int = Field(default=1, ge=1)
    """Learner processes; each is one Ray actor."""
    cpus: float = Field(default=1.0, gt=0)
    """CPUs that Ray reserves for one rank."""
    gpus: Literal[0, 1] = 0
    """GPUs of one rank."""
    zero_stage: Literal[0, 1, 2, 3] = 2
    """DeepSpeed ZeRO stage: what is split over the ranks (1 optimizer, 2 + gradients, 3 + weights)."""
    lr: float = Field(default=1e-6, gt=0)
    """Learning rate of AdamW (paper: 1e-6)."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW betas (the paper is silent)."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW weight decay (the paper is silent)."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps of linear warm-up."""
    decay_steps: int | None = Field(default=None, ge=1)
    """Step at which a linear fall of the rate from the end of the warm-up ends; unset: constant (the paper is silent)."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradient norm above which gradients are scaled down."""
    freeze: tuple[Literal["vision", "audio"], ...] = ("vision",)
    """Towers that are not trained (paper: the visual encoder)."""
    lora: LoraConfig | None = None
    """Adapters instead of full fine-tuning."""
    packing: bool = True
    """Put groups end to end in one row without padding; false pads one row for each group."""
    max_pack_tokens: int = Field(default=16384, ge=1)
    """Most tokens of one micro-batch."""
    micro_batches: int | None = Field(default=None, ge=1)
    """Fixed number of micro-batches of a rank; unset: as few as `max_pack_tokens` allows."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass."""
    timeout_seconds: float = Field(default=1800.0, gt=0)
    """Longest wait for one train step, and for any collective inside it."""
