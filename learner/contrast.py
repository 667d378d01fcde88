"""Targets from two teacher forwards: the privileged one, and one under a second context. Pure.

    N   rows     V   vocabulary     p, q, o   student (detached), privileged teacher, second context

Each keeps what the privilege adds over the second context; they differ in what it is added to.
"""

from __future__ import annotations

import torch
from torch import Tensor

from learner.objective_config import ContrastConfig


@torch.no_grad()
def contrasted(contrast: ContrastConfig, lp: Tensor, lq: Tensor, lo: Tensor) -> Tensor:
    """The log-probs to match [N,V], from those of student, privileged teacher and second context [N,V]."""
    if contrast.kind == "anchored":
        return anchored(lq, lo, contrast.lam)
    return corrected(lp, lq, lo, contrast.b, contrast.bound)


@torch.no_grad()
def anchored(lq: Tensor, lo: Tensor, lam: float) -> Tensor:
    """log of the normalised o (q/o)^lam -> [N,V]: o at 0, q at 1 (AR-OPD, arXiv 2606.10385)."""
    return torch.log_softmax(torch.lerp(lo, lq, lam), dim=-1)


@torch.no_grad()
def corrected(lp: Tensor, lq: Tensor, lo: Tensor, b: float, bound: float) -> Tensor:
    """log of the normalised p exp(c tanh(log(q/o) / (b c))), c the bound -> [N,V] (arXiv 2607.02234).

    With q = o the target is the student itself and the loss has no gradient: an evidence that predicts
    the answer as well without the clip, or whose right and wrong rows read alike, teaches nothing.
    """
    ratio = (lq - lo) / b
    return torch.log_softmax(lp + bound * torch.tanh(ratio / bound), dim=-1)
