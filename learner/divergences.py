"""Distances between two distributions of one token, as pure functions of log-probabilities.

    N   rows     V   vocabulary or buckets     p, lp   student and its log     q, lq   teacher, detached

Natural logs, at least float32 (float64 stays float64), 0 log 0 = 0. Each gives a value [N] whose gradient
with respect to lp is exact and known in closed form; no autograd graph over [N,V] is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

GAP_LIMIT = 80.0  # exp(80) is finite in float32


def forward_kl(lp: Tensor, lq: Tensor) -> Tensor:
    """KL(q||p) = sum q (lq - lp) -> [N]. Logit gradient p - q. 0 log 0 = 0.

    lp [N,V] has gradient, lq [N,V] has none. Main objective of OPSD (arXiv 2601.18734).
    """
    with torch.no_grad():
        q = lq.exp()
        value = (lq - lp).mul_(q).masked_fill_(q == 0, 0.0).sum(-1)  # ~(q > 0) would hide a nan
    return known(lp, value, q.neg_())


def reverse_kl(lp: Tensor, lq: Tensor) -> Tensor:
    """KL(p||q) = sum p (lp - lq) -> [N]. Logit gradient p_j [(lp_j - lq_j) - KL]. 0 log 0 = 0.

    lp [N,V] has gradient, lq [N,V] has none.
    """
    with torch.no_grad():
        p = lp.exp()
        terms = (lp - lq).mul_(p).masked_fill_(p == 0, 0.0)
        value = terms.sum(-1)
    return known(lp, value, terms.add_(p))


def jsd(lp: Tensor, lq: Tensor, beta: float = 0.5, normalize: bool = False) -> Tensor:
    """beta KL(q||m) + (1-beta) KL(p||m) with m = (1-beta) p + beta q -> [N] (GKD; OmniOPSD section 3.2).

    Logit gradient (1-beta) p_j [log(p_j/m_j) - KL(p||m)]; at most H(beta), ln 2 at 0.5; near agreement
    about beta (1-beta) KL, so 4 times weaker than KL at 0.5; `normalize` divides by beta (1-beta). It
    tends to 0 as beta does, where TRL's switches to a plain KL: beta is open on both sides here. The
    gradient vanishes with p_j: a token that the student never proposes is not raised (forward KL does).
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
    value = known(lp, value, slope)
    return value / (beta * (1 - beta)) if normalize else value


def power(lp: Tensor, lq: Tensor, a: float) -> Tensor:
    """sum [p (u - w) - (1 + a w) (p - q)] / (1+a) with u, w = (p^a - 1)/a, (q^a - 1)/a -> [N].

    The density power divergence (Basu et al. 1998) over 1 + a: its gradient is the expected gradient of the
    sampled reward (q^a - p^a)/a (PowerOPD, arXiv 2606.17199), so this is that objective without sampling
    noise. p_j (p_j^a - q_j^a)/a is the slope; a -> 0 gives reverse KL. Never negative.
    """
    with torch.no_grad():
        values, slope = power_entries(lp, lq, a)
        value = values.sum(-1)
    return known(lp, value, slope)


def power_entries(lp: Tensor, lq: Tensor, a: float) -> tuple[Tensor, Tensor]:
    """The terms of `power` and their slopes, [N,V] each; every term is at least 0."""
    p, q, w = lp.exp(), lq.exp(), torch.expm1(a * lq).div_(a)
    slope = torch.expm1(a * lp).div_(a).sub_(w).mul_(p)
    values = (slope - w.mul_(a).add_(1.0).mul_(p.sub_(q))).div_(1.0 + a)
    return values, slope


def entropy_switched(lp: Tensor, lq: Tensor, teacher_entropy: Tensor, threshold: float) -> Tensor:
    """KL(p||q) + 1[H(q) > threshold] KL(q||p) -> [N] (EOPD): coverage only where the teacher is unsure.

    `teacher_entropy` [N] in nats, of the teacher's full distribution.
    """
    unsure = (teacher_entropy > threshold).to(lp.dtype)
    return reverse_kl(lp, lq) + unsure * forward_kl(lp, lq)


def topk_reverse_kl(lp: Tensor, lq: Tensor) -> Tensor:
    """sum over k of p (sg(lp) - lq) -> [N], lp and lq [N,K] of the picked tokens, not renormalised.

    Logit gradient from p alone. The exact gradient of the truncated sum has one term more, that of the
    captured mass, which pushes probability out of the top k and is unstable (arXiv 2605.11182).
    """
    with torch.no_grad():
        p = lp.exp()
        slope = (lp - lq).mul_(p).masked_fill_(p == 0, 0.0)
    return known(lp, slope.sum(-1), slope)


def entropy(logprobs: Tensor) -> Tensor:
    """-sum p log p over the last axis, nats, without gradient."""
    with torch.no_grad():
        p = logprobs.exp()
        return torch.special.entr(p, out=p).sum(-1)


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


def known(logprobs: Tensor, value: Tensor, slope: Tensor) -> Tensor:
    """`value` [N] with the gradient `slope` [N,V] to `logprobs` [N,V]."""
    apply: Callable[..., Tensor] = _Known.apply
    return apply(logprobs, value, slope)
