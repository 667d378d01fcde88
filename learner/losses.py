"""The token losses: pure functions of log-probabilities, and the choice between them.

    N   response rows     V   vocabulary     K   top-k     D   hidden width
    p, lp   student and its log     q, lq   teacher and its log, always detached     tau   temperature

All log-probabilities are natural and at least float32 (float64 stays float64). Sources: GKD
(arXiv 2306.13649) for the generalised JSD, OmniOPSD (arXiv 2606.15920, section 3.2) for beta 0.5, full
vocabulary and tau 1. The loss is not rescaled by tau^2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from learner.config import ObjectiveConfig

TAIL_LOGMASS = -1e-7  # largest log mass of a top-k: leaves the tail a finite log-probability
VOCAB_BLOCK = 16384  # head rows cast to float32 at one time
LOG_RATIO_LIMIT = 20.0
GAP_LIMIT = 80.0  # exp(80) is finite in float32


class ObjectiveError(ValueError):
    """An objective that the given teacher targets or temperature cannot serve."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TeacherTargets:
    """What the learner knows of the teacher, for N rows; all empty for `cross_entropy`.

    Full support: `hidden` [N,D] after the final norm and `head_weight` [V,D] of the same teacher
    version. Top-k: `topk_ids` int [N,K] (distinct in a row) and `topk_logprobs` [N,K], normalised over
    the full vocabulary. `logprobs` [N] of the sampled ids. Top-k and `logprobs` are at temperature 1.
    Raises ObjectiveError when fields that belong together do not fit.
    """

    hidden: Tensor | None = None
    head_weight: Tensor | None = None
    topk_ids: Tensor | None = None
    topk_logprobs: Tensor | None = None
    logprobs: Tensor | None = None

    def __post_init__(self) -> None:
        for one, two in (("hidden", "head_weight"), ("topk_ids", "topk_logprobs")):
            if (getattr(self, one) is None) != (getattr(self, two) is None):
                raise ObjectiveError(
                    f"teacher targets have only one of {one} and {two}: give both or neither"
                )
        counts = {name: len(value) for name, value in self._by_row().items()}
        if len(set(counts.values())) > 1:
            raise ObjectiveError(f"teacher targets have different numbers of rows: {counts}")

    def rows(self, start: int, stop: int) -> TeacherTargets:
        """The targets of rows `start` to `stop` (exclusive); the head weight is shared."""
        cut = {name: value[start:stop] for name, value in self._by_row().items()}
        return TeacherTargets(head_weight=self.head_weight, **cut)

    def _by_row(self) -> dict[str, Tensor]:
        values = {
            field.name: getattr(self, field.name) for field in fields(self) if field.name != "head_weight"
        }
        return {name: value for name, value in values.items() if value is not None}


def log_softmax(logits: Tensor, temperature: float = 1.0, vocab_size: int | None = None) -> Tensor:
    """log softmax(logits / tau) over the last axis, [N,V], in float32.

    Rows of the head beyond `vocab_size` are cut off, which is a logit of -inf and no product with it.
    Raises ObjectiveError when the head has fewer rows than `vocab_size`.
    """
    if vocab_size is not None and vocab_size > logits.shape[-1]:
        raise ObjectiveError(f"vocab_size {vocab_size} is above the head's {logits.shape[-1]} rows")
    wide = _wide(logits[..., :vocab_size])
    return torch.log_softmax(wide if temperature == 1.0 else wide / temperature, dim=-1)


def forward_kl(lp: Tensor, lq: Tensor) -> Tensor:
    """KL(q||p) = sum q (lq - lp) -> [N]. Logit gradient p - q. 0 log 0 = 0.

    lp [N,V] has gradient, lq [N,V] has none.
    """
    with torch.no_grad():
        q = lq.exp()
        value = (lq - lp).mul_(q).masked_fill_(q == 0, 0.0).sum(-1)  # ~(q > 0) would hide a nan
    return _known(lp, value, q.neg_())


def reverse_kl(lp: Tensor, lq: Tensor) -> Tensor:
    """KL(p||q) = sum p (lp - lq) -> [N]. Logit gradient p_j [(lp_j - lq_j) - KL]. 0 log 0 = 0.

    lp [N,V] has gradient, lq [N,V] has none.
    """
    with torch.no_grad():
        p = lp.exp()
        terms = (lp - lq).mul_(p).masked_fill_(p == 0, 0.0)
        value = terms.sum(-1)
    return _known(lp, value, terms.add_(p))


def jsd(lp: Tensor, lq: Tensor, beta: float = 0.5) -> Tensor:
    """beta KL(q||m) + (1-beta) KL(p||m) with m = (1-beta) p + beta q -> [N] (GKD; OmniOPSD section 3.2).

    Logit gradient (1-beta) p_j [log(p_j/m_j) - KL(p||m)]; at most H(beta), ln 2 at 0.5; near agreement
    about beta (1-beta) KL, so 4 times weaker than KL at 0.5. It tends to 0 as beta does, where TRL's
    switches to a plain KL: beta is open on both sides here. lp, lq [N,V] as above.
    """
    with torch.no_grad():
        # lp - lm and lq - lm from the gap alone: exactly 0 where the two agree, where
        # lm = logaddexp(lp + log1p(-beta), lq + log(beta)) has the rounding of lp, an error of 1e-7 in
        # the value. The limit is harmless (the side it touches has mass below exp(-80)); nan_to_num is
        # for -inf - -inf, a mass of 0. In place: at V = 152k four buffers are fewer than ten.
        gap = (lp - lq).nan_to_num_(nan=0.0).clamp_(-GAP_LIMIT, GAP_LIMIT)
        student = gap.neg().expm1_().mul_(beta).log1p_().neg_()
        slope = lp.exp().mul_(student).mul_(1 - beta)
        teacher = torch.sub(student, gap, out=gap)
        value = slope.sum(-1) + beta * lq.exp().mul_(teacher).sum(-1)
    return _known(lp, value, slope)


def bucketed(student_logprobs: Tensor, topk_ids: Tensor, topk_logprobs: Tensor) -> tuple[Tensor, Tensor]:
    """Student and teacher on K+1 buckets: the teacher's top k, and one for all other ids.

    student_logprobs [N,V], topk_ids [N,K], topk_logprobs [N,K] -> (lp, lq), both [N,K+1]. The tail is
    log(-expm1(min(logsumexp(l_K), -1e-7))). A divergence on buckets is a lower bound of the full one and
    grows with K (data processing inequality).
    """
    picked = student_logprobs.gather(-1, topk_ids.long())
    return _with_tail(picked), _with_tail(_wide(topk_logprobs.detach()))


def sampled_policy_gradient(lp: Tensor, lq: Tensor) -> Tensor:
    """-sg(lq - lp) lp at the sampled ids -> [N]: a surrogate whose expected gradient is that of KL(p||q).

    lp [N] has gradient. Only the gradient means something; the divergence to report is lp - lq.
    Source: Thinking Machines, "On-policy distillation". Differentiating lp - lq itself gives 0.
    """
    return -(lq - lp).detach() * lp


def cross_entropy(lp: Tensor) -> Tensor:
    """-lp at the target ids [N] -> [N]."""
    return -lp


def importance_weight(student_logprobs: Tensor, rollout_logprobs: Tensor, cap: float) -> Tensor:
    """min(exp(clamp(student - rollout, -20, 20)), cap) -> [N], detached (truncated importance sampling).

    Both of the sampled ids and of the distribution that was sampled, so at the rollout's temperature.
    """
    ratio = (student_logprobs - rollout_logprobs).detach().clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    return ratio.exp().clamp(max=cap)


def token_divergence(
    objective: ObjectiveConfig,
    student_logits: Tensor,
    teacher: TeacherTargets,
    targets: Tensor,
    vocab_size: int | None = None,
) -> Tensor:
    """The objective's loss for each row -> [N], with gradient to `student_logits` [N,V].

    `targets` int64 [N] are the response ids. Raises ObjectiveError when `teacher` lacks what the
    objective needs, or knows it only at another temperature.
    """
    lp = log_softmax(student_logits, objective.temperature, vocab_size)
    return divergence_of(objective, lp, teacher_logprobs(objective, teacher, vocab_size), teacher, targets)


def teacher_logprobs(
    objective: ObjectiveConfig, teacher: TeacherTargets, vocab_size: int | None = None
) -> Tensor | None:
    """The teacher's full log-probs [N,V] at the objective's temperature; None where it needs none."""
    if objective.divergence == "cross_entropy":
        return None
    if objective.support == "full":
        hidden = _need(teacher.hidden, objective, "hidden and head_weight")
        weight = _need(teacher.head_weight, objective, "hidden and head_weight")
        return log_softmax(_teacher_logits(hidden, weight[:vocab_size]), objective.temperature, vocab_size)
    if objective.temperature != 1.0:
        raise ObjectiveError(
            f"objective.temperature is {objective.temperature} with support: {objective.support}, but the teacher "
            "sends those scores at temperature 1: write temperature: 1.0, or support: full"
        )
    return None


def divergence_of(
    objective: ObjectiveConfig, lp: Tensor, lq: Tensor | None, teacher: TeacherTargets, targets: Tensor
) -> Tensor:
    """`token_divergence` from log-probs: lp [N,V], lq [N,V] or None as `teacher_logprobs` gives it."""
    if objective.divergence == "cross_entropy":
        return cross_entropy(at_targets(lp, targets))
    if objective.divergence == "sampled":
        scores = at_targets(lq, targets) if lq is not None else _need(teacher.logprobs, objective, "logprobs")
        return sampled_policy_gradient(at_targets(lp, targets), scores)
    if objective.support == "sampled":
        raise ObjectiveError(
            f"objective.divergence is {objective.divergence} with support: sampled, which knows one token a row: "
            "write divergence: sampled, or support: full or topk"
        )
    if objective.support == "topk":
        ids = _need(teacher.topk_ids, objective, "topk_ids and topk_logprobs")
        lp, lq = bucketed(lp, ids, _need(teacher.topk_logprobs, objective, "topk_ids and topk_logprobs"))
    return _distance(objective, lp, _need(lq, objective, "hidden and head_weight"))


def at_targets(logprobs: Tensor, targets: Tensor) -> Tensor:
    """Pick the log-prob of one id in each row: [N,V] and int64 [N] -> [N]."""
    return logprobs.gather(-1, targets.unsqueeze(-1)).squeeze(-1)


def _distance(objective: ObjectiveConfig, lp: Tensor, lq: Tensor) -> Tensor:
    if lp.shape != lq.shape:
        raise ObjectiveError(
            f"student log-probs are {tuple(lp.shape)} and the teacher's {tuple(lq.shape)}: "
            "both need the same rows and vocabulary"
        )
    if objective.divergence == "forward_kl":
        return forward_kl(lp, lq)
    if objective.divergence == "reverse_kl":
        return reverse_kl(lp, lq)
    return jsd(lp, lq, objective.beta)


def _teacher_logits(hidden: Tensor, weight: Tensor) -> Tensor:
    """hidden [N,D] @ weight[V,D].T in float32 without gradient, even under autocast."""
    with torch.no_grad(), torch.autocast(hidden.device.type, enabled=False):
        rows = _wide(hidden)
        if weight.dtype == rows.dtype:
            return rows @ weight.T
        logits = rows.new_empty(len(rows), len(weight))
        # A float32 copy of a 7B model's whole head would take 2.2 GB beside the chunk.
        for start in range(0, len(weight), VOCAB_BLOCK):
            block = weight[start : start + VOCAB_BLOCK].to(rows.dtype)
            logits[:, start : start + VOCAB_BLOCK] = rows @ block.T
        return logits


def _with_tail(picked: Tensor) -> Tensor:
    mass = torch.logsumexp(picked, dim=-1, keepdim=True).clamp(max=TAIL_LOGMASS)
    return torch.cat((picked, torch.log(-torch.expm1(mass))), dim=-1)


def _need(value: Tensor | None, objective: ObjectiveConfig, name: str) -> Tensor:
    if value is None:
        raise ObjectiveError(
            f"objective {objective.divergence} with support: {objective.support} needs the teacher's {name}, "
            "which were not sent: give the teacher the same objective.support"
        )
    return value


def _wide(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


class _Known(torch.autograd.Function):
    """A value [N] whose gradient with respect to `logprobs` [N,V] is already known.

    Autograd would keep about ten [N,V] buffers of a divergence; this keeps the one that it needs, and
    has no nan from 0 log 0 in the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, logprobs: Tensor, value: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return value

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return grads[0].unsqueeze(-1) * slope, None, None


def _known(logprobs: Tensor, value: Tensor, slope: Tensor) -> Tensor:
    apply: Callable[..., Tensor] = _Known.apply
    return apply(logprobs, value, slope)
