"""Which tokens a divergence looks at: student and teacher on K picked tokens, with or without the rest. Pure.

    N   rows     V   vocabulary     K   picked tokens (2k for the union)

A picked id that stands twice in a row (union) has its second place masked: -inf on both sides, a mass of 0.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

TAIL_LOGMASS = -1e-7  # largest log mass of a top-k: leaves the tail a finite log-probability


class Picked(NamedTuple):
    """Log-probs of the picked tokens [N,K], normalised over the full vocabulary; lp has gradient."""

    lp: Tensor
    lq: Tensor


def pick(student_logprobs: Tensor, ids: Tensor, teacher_picked: Tensor) -> Picked:
    """student_logprobs [N,V], ids int [N,K] distinct in a row, teacher_picked [N,K] of the same ids.

    An id beyond V (a padding row of the head that an engine counted) has no mass on either side.
    """
    wide = torch.promote_types(teacher_picked.dtype, torch.float32)
    outside = ids >= student_logprobs.shape[-1]
    own = student_logprobs.gather(-1, ids.long().clamp(max=student_logprobs.shape[-1] - 1))
    return Picked(*(side.masked_fill(outside, -math.inf) for side in (own, teacher_picked.detach().to(wide))))


def pick_by(by: Literal["teacher", "student", "union"], lp: Tensor, lq: Tensor, k: int) -> Picked:
    """The k likeliest tokens by the teacher, the student or both, from full log-probs [N,V].

    The student's top k is that of the student being trained, taken anew here: one from an older student
    cannot be repaired by weights (arXiv 2606.24143).
    """
    k = min(k, lp.shape[-1])
    if by != "union":
        ids = (lq if by == "teacher" else lp.detach()).topk(k).indices
        return Picked(lp.gather(-1, ids), lq.gather(-1, ids))
    ids = torch.cat((lq.topk(k).indices, lp.detach().topk(k).indices), dim=-1)
    again = torch.cat(
        (torch.zeros_like(ids[:, :k], dtype=torch.bool), (ids[:, k:, None] == ids[:, None, :k]).any(-1)), -1
    )
    return Picked(*(side.gather(-1, ids).masked_fill(again, -math.inf) for side in (lp, lq)))


def with_tail(picked: Picked) -> Picked:
    """K+1 buckets: the picked tokens and one for all others, log(-expm1(min(logsumexp, -1e-7))).

    An f-divergence (KL, JSD) on buckets is a lower bound of the full one and grows with K (data
    processing inequality).
    """
    return Picked(*(_with_tail(side) for side in picked))


def renormalized(picked: Picked) -> Picked:
    """Both sides divided by their mass on the picked tokens: blind to how much mass is outside.

    With reverse KL on the teacher's top k the student may move mass to the tail for nothing
    (arXiv 2608.14728); `with_tail` has no such hole. Not monotone in K.
    """
    return Picked(*(side - torch.logsumexp(side, dim=-1, keepdim=True) for side in picked))


def bucketed(student_logprobs: Tensor, topk_ids: Tensor, topk_logprobs: Tensor) -> tuple[Tensor, Tensor]:
    """Student and teacher on K+1 buckets: the teacher's top k, and one for all other ids.

    student_logprobs [N,V], topk_ids [N,K], topk_logprobs [N,K] -> (lp, lq), both [N,K+1].
    """
    return with_tail(pick(student_logprobs, topk_ids, topk_logprobs))


def _with_tail(picked: Tensor) -> Tensor:
    mass = torch.logsumexp(picked, dim=-1, keepdim=True).clamp(max=TAIL_LOGMASS)
    return torch.cat((picked, torch.log(-torch.expm1(mass))), dim=-1)
