"""Caps on a divergence: on each vocabulary entry, or on a token's whole sum. Pure.

    N   rows     V   vocabulary or buckets     l_v   entry of a divergence     c   the cap

Every divergence here is a sum of entries l_v, each with its own slope d l_v / d lp_v, so a cap is
one rule for all of them. Entries of a KL can be negative, those of the JSD and the power family cannot.
Source: OPSD (arXiv 2601.18734) for the pointwise form.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from learner.divergences import GAP_LIMIT, known, power_entries
from learner.objective_config import ObjectiveConfig

EntryClip = Literal["pointwise", "bregman", "soft"]


class Entries(NamedTuple):
    """l_v [N,V] and their slopes with respect to lp_v [N,V]."""

    values: Tensor
    slopes: Tensor


class Clipped(NamedTuple):
    """A token loss [N] with gradient, and, detached, whether the cap touched it and what it took (nats)."""

    loss: Tensor
    touched: Tensor
    removed: Tensor


@torch.no_grad()
def entries(
    objective: ObjectiveConfig, lp: Tensor, lq: Tensor, teacher_entropy: Tensor | None = None
) -> Entries:
    """The entries of the objective's divergence; their sum over V is the divergence."""
    if objective.divergence == "forward_kl":
        return _forward(lp, lq)
    if objective.divergence == "reverse_kl":
        return _reverse(lp, lq)
    if objective.divergence == "power":
        return Entries(*power_entries(lp, lq, objective.power))
    if objective.divergence == "topk_reverse_kl":
        values = _reverse(lp, lq).values
        return Entries(values, values)
    if objective.divergence == "entropy_switched":
        assert teacher_entropy is not None
        unsure = (teacher_entropy > objective.entropy_threshold).to(lp.dtype).unsqueeze(-1)
        one, two = _reverse(lp, lq), _forward(lp, lq)
        return Entries(one.values + unsure * two.values, one.slopes + unsure * two.slopes)
    scale = 1.0 / (objective.beta * (1 - objective.beta)) if objective.normalize else 1.0
    return _jsd(lp, lq, objective.beta, scale)


def clip_entries(lp: Tensor, found: Entries, kind: EntryClip, cap: float) -> Clipped:
    """The capped sum of entries -> loss [N] with gradient to lp [N,V].

    pointwise  min(l_v, c): an entry above c has no gradient, so it is a hard mask on the largest
               disagreements; the sum can be negative where entries are.
    bregman    the same on entries that are never negative (see `bregman`), so the sum is not either.
    soft       l_v sg(min(1, c / l_v)): the same value, and the gradient keeps its direction.
    """
    with torch.no_grad():
        above = found.values > cap
        values = found.values.clamp(max=cap)
        if kind == "soft":
            slopes = torch.where(above, found.slopes * (cap / found.values), found.slopes)
        else:
            slopes = found.slopes.masked_fill(above, 0.0)
        value, whole = values.sum(-1), found.values.sum(-1)
    return Clipped(known(lp, value, slopes), above.any(-1), whole - value)


@torch.no_grad()
def bregman(kind: Literal["forward_kl", "reverse_kl"], lp: Tensor, lq: Tensor) -> Entries:
    """Entries of a KL that are never negative: + p - q (forward) or + q - p (reverse), which sum to 0.

    Same sum and same minimum as the plain entries, for p and q that both sum to 1.
    """
    values, slopes = _forward(lp, lq) if kind == "forward_kl" else _reverse(lp, lq)
    p, q = lp.exp(), lq.exp()
    if kind == "forward_kl":
        return Entries(values + p - q, slopes + p)
    return Entries(values + q - p, slopes - p)


def clip_tokens(loss: Tensor, cap: float) -> Clipped:
    """min(D, c) of each token's divergence [N]: a token above c gives no gradient."""
    value = loss.detach()
    return Clipped(loss.clamp(max=cap), value > cap, (value - cap).clamp(min=0.0))


def clip_advantage(advantage: Tensor, cap: float) -> Clipped:
    """The advantage within [-c, c]; `removed` is what it lost of its size."""
    size = advantage.abs()
    return Clipped(advantage.clamp(-cap, cap), size > cap, (size - cap).clamp(min=0.0))


def _forward(lp: Tensor, lq: Tensor) -> Entries:
    q = lq.exp()
    return Entries((lq - lp).mul_(q).masked_fill_(q == 0, 0.0), q.neg())


def _reverse(lp: Tensor, lq: Tensor) -> Entries:
    p = lp.exp()
    values = (lp - lq).mul_(p).masked_fill_(p == 0, 0.0)
    return Entries(values, values + p)


def _jsd(lp: Tensor, lq: Tensor, beta: float, scale: float) -> Entries:
    gap = (lp - lq).nan_to_num_(nan=0.0).clamp_(-GAP_LIMIT, GAP_LIMIT)
    student = gap.neg().expm1_().mul_(beta).log1p_().neg_()
    slopes = lp.exp().mul_(student).mul_(scale * (1 - beta))
    values = lq.exp().mul_(student.sub_(gap)).mul_(scale * beta).add_(slopes)
    return Entries(values, slopes)
