"""Settings of the objective: distance, support, clipping, token weights, rows, reward. Importable without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

SECTION = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

Divergence = Literal[
    "jsd",
    "forward_kl",
    "reverse_kl",
    "power",
    "entropy_switched",
    "topk_reverse_kl",
    "sampled",
    "cross_entropy",
    "none",
]
Aggregation = Literal["seq_mean", "token_mean", "fixed"]
Transport = Literal["full", "topk", "sampled"]

TRAPS = {
    "k1": "differentiating log p - log q of one sample has an expected gradient of exactly zero; "
    "write sampled, whose gradient is that of reverse KL",
    "k2": "half the squared log-ratio of one sample has the gradient of divergence: sampled, "
    "token for token; write sampled",
    "k3": "differentiating k3 on student samples gives the gradient of forward KL, not of reverse KL; "
    "write sampled for reverse KL, or forward_kl",
}


class TokenWeightsConfig(BaseModel):
    """Detached factors on each response token's divergence; all of them 1 by default.

    Factors known before the forward pass take a token out of the step's count when they are 0; the
    entropy gate and the importance weight scale a token and leave the count as it is.
    """

    model_config = SECTION

    format_invalid: float = Field(default=1.0, ge=0)
    """Factor of every token of an answer whose form does not hold; 0 leaves such answers out."""
    reasoning: float = Field(default=1.0, ge=0)
    """Factor of the tokens before `<answer>`."""
    answer: float = Field(default=1.0, ge=0)
    """Factor of the tokens from `<answer>` on, the end token included."""
    skip_first: int = Field(default=0, ge=0)
    """Leave out the first n tokens of every response."""
    position: float = Field(default=0.0, ge=-1, le=1)
    """Linear slope s over the response, 1 + s (2x - 1) with x from 0 to 1: above 0 weights late tokens
    (PW-OPSD), below 0 early ones; its mean is 1."""
    entropy_gate: float = Field(default=0.0, ge=0)
    """b of exp(-b H), H the teacher's entropy in nats (SRPO: 1); 0 is off. Needs the teacher's full distribution."""
    entropy_floor: float = Field(default=0.0, ge=0, lt=1)
    """Smallest factor of the entropy gate."""


class RewardConfig(BaseModel):
    """A policy-gradient term on the sampled tokens: - advantage x log p (paper, hybrid objective)."""

    model_config = SECTION

    alpha: float = Field(default=0.2, gt=0)
    """Weight of the term (paper: 0.2)."""
    accuracy: float = Field(default=1.0, ge=0)
    """Weight of 1 for a right answer (the paper does not print its weights)."""
    format: float = Field(default=1.0, ge=0)
    """Weight of 1 for an answer whose form holds."""
    label_f1: float = Field(default=0.0, ge=0)
    """Weight of F1 between the answered and the gold label sets (several labels, split at commas)."""
    baseline: Literal["raw", "batch_baseline", "group"] = "raw"
    """The advantage: the reward itself (paper), less the step's mean, or less the group's mean (GRPO)."""
    normalize_std: bool = True
    """With `group`: divide by the group's standard deviation (GRPO); false as in Dr. GRPO."""
    ratio_clip: float | None = Field(default=None, gt=0, lt=1)
    """PPO's epsilon: min(r A, clip(r, 1-eps, 1+eps) A) with r = p_student / p_rollout; unset: no ratio."""


class ContrastConfig(BaseModel):
    """A target made of two teacher forwards: under the run's privilege, and under a second context.

    With q the privileged teacher, o the same weights under the second context, and p the student, detached.
    """

    model_config = SECTION

    kind: Literal["anchored", "reference_only", "wrong_rationale"]
    """`anchored`: o sees a part of the privilege, target ~ o (q/o)^lam (AR-OPD, arXiv 2606.10385).
    `reference_only`: o sees the evidence without media and question, and what that alone predicts is taken away,
    target ~ p (q/o)^(1/b) (arXiv 2607.02234). `wrong_rationale`: o sees another row's rationale, the same target
    (after RLCSD, arXiv 2606.11709)."""
    partial: Literal["none", "label"] = "none"
    """The second context of `anchored`: what the student sees, or the label as well."""
    lam: float = Field(default=0.5, gt=0, le=4)
    """`anchored`: 1 is the privileged teacher, below 1 stays nearer to o, above 1 goes beyond q."""
    b: float = Field(default=1.0, gt=0)
    """The other two: what the log-ratio is divided by."""
    bound: float = Field(default=10.0, gt=0)
    """The other two: the log-ratio is kept in +-bound nats by bound x tanh(ratio / bound)."""


class ObjectiveConfig(BaseModel):
    """The token loss; the defaults are the paper's (section 3.2: JSD 0.5, full vocabulary, tau 1)."""

    model_config = SECTION

    divergence: Divergence = "jsd"
    """Distance from student to teacher at each response token. `sampled`: reverse KL by policy gradient;
    `power`: the power family; `cross_entropy` (supervised) and `none` (the reward alone) have no teacher."""
    beta: float = Field(default=0.5, gt=0, lt=1)
    """Weight of the teacher in the JSD mixture m = (1-beta) p + beta q."""
    normalize: bool = False
    """Divide the JSD by beta (1-beta), so that it equals KL near agreement (4 times larger at 0.5)."""
    power: float = Field(default=0.5, gt=0, le=1)
    """a of `power`, whose sampled reward is (q^a - p^a)/a; towards 0 it is reverse KL."""
    entropy_threshold: float = Field(default=1.0, ge=0)
    """h of `entropy_switched`, nats: forward KL is added where the teacher's entropy is above it."""
    target: Literal["teacher", "skewed", "proximal"] = "teacher"
    """The distribution to match: the teacher's q, or one between student and teacher (see `target_weight`)."""
    target_weight: float = Field(default=0.5, gt=0, lt=1)
    """g: `skewed` is the normalised p^(1-g) q^g, `proximal` is (1-g) p + g q; p is detached."""
    contrast: ContrastConfig | None = None
    """A second teacher forward that corrects the target; unset: none. Needs the teacher's full distribution."""
    support: Literal["full", "topk", "student_topk", "union", "sampled"] = "full"
    """Over the whole vocabulary, the teacher's top k, the student's, both, or the sampled token alone."""
    top_k: int = Field(default=100, ge=1)
    """k of the top-k supports."""
    tail: Literal["bucket", "renormalized"] = "bucket"
    """What a top-k support does with all other tokens: one bucket, or none (both sides divided by their mass)."""
    draws: int = Field(default=0, ge=0)
    """`sampled` and `power` with support: full: mean over m tokens drawn anew from the student at each
    position (variance 1/m); 0 uses the sampled token (`sampled`) or the exact sum (`power`)."""
    temperature: float = Field(default=1.0, gt=0)
    """tau: divides both models' logits inside the divergence."""
    clip: Literal["off", "pointwise", "bregman", "soft", "token", "advantage"] = "off"
    """Cap on each vocabulary entry (`pointwise`, OPSD; `bregman` and `soft` are safer forms), on a token's
    sum, or on the advantage of the sampled kinds."""
    clip_at: float = Field(default=0.05, gt=0)
    """The cap c, nats (OPSD: 0.05 on entries; 1 to 5 is usual for an advantage)."""
    aggregation: Aggregation = "seq_mean"
    """Mean over tokens then sequences (paper), over all tokens of the step, or sums over `fixed_tokens`."""
    fixed_tokens: int = Field(default=512, ge=1)
    """Divisor of each response's sum with aggregation: fixed."""
    importance: Literal["off", "uncorrected", "capped", "gated", "block"] = "off"
    """Off-policy weight r = p_student / p_rollout of each token, detached: min(r, cap); r inside
    [floor, cap] and 0 outside; or exp(-|mean log r|) of each block of tokens. `uncorrected` says that
    old tokens are meant to count as they are."""
    importance_cap: float = Field(default=2.0, gt=0)
    """Largest importance weight."""
    importance_floor: float = Field(default=0.5, ge=0)
    """Smallest ratio that `gated` keeps."""
    importance_block: int = Field(default=64, ge=1)
    """Tokens of one block; a response's block weights are divided by their mean."""
    tokens: TokenWeightsConfig = TokenWeightsConfig()
    """Factors on single tokens."""
    rows: Literal["all", "failures"] = "all"
    """Which answers the divergence trains: all, or only wrong ones (needs labels)."""
    pass_rate_weight: bool = False
    """Weight a group's divergence by sqrt(r (1-r)), r the share of right answers in it (needs labels)."""
    train_truncated: bool = True
    """Train on answers cut at `max_new_tokens`; false masks them (and counts them)."""
    reward: RewardConfig | None = None
    """The reward term; unset: none."""
    supervised: Literal["response", "label", "rationale"] = "response"
    """What `cross_entropy` learns to write: the row's `response`, its label in the answer form, or its
    rationale as reasoning and then the label."""
    row_chunk: int = Field(default=256, ge=1)
    """Response rows whose full-vocabulary logits exist at one time."""

    @field_validator("divergence", mode="before")
    @classmethod
    def _no_trap(cls, value: object) -> object:
        if isinstance(value, str) and value in TRAPS:
            raise ValueError(TRAPS[value])
        return value

    @property
    def has_teacher(self) -> bool:
        """Whether a teacher scores anything."""
        return self.divergence not in ("cross_entropy", "none")

    @property
    def estimates(self) -> bool:
        """Whether the loss is a policy-gradient surrogate on sampled tokens, whose value means nothing."""
        sampled = self.draws > 0 or self.support == "sampled"
        return self.divergence == "sampled" or (self.divergence == "power" and sampled)

    @property
    def transport(self) -> Transport:
        """What the teacher must send: hidden rows serve every support that needs its whole distribution."""
        if not self.has_teacher or self.support == "sampled":
            return "sampled"
        return "topk" if self.support == "topk" else "full"

    @property
    def needs_verdicts(self) -> bool:
        """Whether some option asks if an answer is right."""
        return self.rows == "failures" or self.pass_rate_weight or self.reward is not None
