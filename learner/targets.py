"""Targets between student and teacher: a nearer distribution to match than the teacher's own. Pure.

    N   rows     V   vocabulary or buckets     g   weight of the teacher, in (0, 1)

The student's part is detached: the target is a constant of the step. At g = 1 both are the teacher.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


@torch.no_grad()
def skewed(lp: Tensor, lq: Tensor, g: float) -> Tensor:
    """log of the normalised p^(1-g) q^g -> [N,V]: geometric, small where either is small.

    With reverse KL the gradient is g times that towards the teacher; with forward KL and JSD it differs.
    """
    mixed = torch.lerp(lp, lq, g)
    mixed = mixed.masked_fill(lp.isneginf() | lq.isneginf(), -math.inf)
    return mixed - torch.logsumexp(mixed, dim=-1, keepdim=True)


@torch.no_grad()
def proximal(lp: Tensor, lq: Tensor, g: float) -> Tensor:
    """log of (1-g) p + g q -> [N,V]: arithmetic, keeps the tokens of both.

    With forward KL the gradient is g times that towards the teacher; with reverse KL a token that the
    teacher excludes costs at most -log(1-g).
    """
    return torch.logaddexp(lp + math.log1p(-g), lq + math.log(g))
