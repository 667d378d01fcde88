"""Settings of the DeepSpeed learner. Importable without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from learner.objective_config import ObjectiveConfig as ObjectiveConfig

SECTION = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


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
