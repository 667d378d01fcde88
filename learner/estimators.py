"""Policy-gradient forms of a divergence, from tokens that the student sampled. Pure.

    N   rows     V   vocabulary     m   draws     A   advantage of a token, detached

The loss is - sg(A) log p: only its gradient means something. Differentiating an estimate of the value is a
trap: the one-sample log p - log q has an expected gradient of 0, k3 has that of forward KL.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 64  # rows whose cumulative sums exist in float64 at one time


def sampled_policy_gradient(lp: Tensor, lq: Tensor) -> Tensor:
    """-sg(lq - lp) lp at the sampled ids -> [N]: a surrogate whose expected gradient is that of KL(p||q).

    lp [N] has gradient. Only the gradient means something; the divergence to report is lp - lq.
    Source: Thinking Machines, "On-policy distillation". Differentiating lp - lq itself gives 0.
    """
    return surrogate(lp, log_ratio(lp, lq))


def surrogate(lp: Tensor, advantage: Tensor) -> Tensor:
    """- sg(A) lp, of any shape; lp has gradient."""
    return -advantage.detach() * lp


def log_ratio(lp: Tensor, lq: Tensor) -> Tensor:
    """A = lq - lp, detached: the reward whose policy gradient is reverse KL's."""
    return (lq - lp).detach()


def power_ratio(lp: Tensor, lq: Tensor, a: float) -> Tensor:
    """A = (q^a - p^a)/a as expm1(a lq)/a - expm1(a lp)/a, detached (PowerOPD, arXiv 2606.17199).

    Within [-1/a, 1/a], with the sign of lq - lp, which is its limit as a goes to 0.
    """
    return ((torch.expm1(a * lq) - torch.expm1(a * lp)) / a).detach()


@torch.no_grad()
def draw_tokens(lp: Tensor, uniforms: Tensor) -> Tensor:
    """Token ids int64 [N,m] from the distribution exp(lp) [N,V] by inverse CDF; uniforms [N,m] in [0,1).

    The numbers come with the rows, so the draws are the same however the rows are cut. Sums in float64:
    152k float32 terms would be off by 1e-5.
    """
    parts = []
    for rows, numbers in zip(lp.split(BLOCK), uniforms.to(lp.device).split(BLOCK), strict=True):
        total = rows.double().exp().cumsum(-1)
        places = torch.searchsorted(total, numbers.double() * total[:, -1:], right=True)
        # searchsorted may step over the last token of a distribution by rounding
        parts.append(places.clamp_(max=lp.shape[-1] - 1))
    return torch.cat(parts)
