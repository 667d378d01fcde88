"""Off-policy weights of tokens, detached. Pure.

    N   tokens, responses end to end     r   p_student / p_rollout of a sampled token

Both log-probs are of the sampled ids under the distribution that was really sampled, so at the rollout's
temperature. E_old[r A grad log p] is the on-policy gradient (arXiv 2606.24143); a cap or a gate gives
up some of that for less variance.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

LOG_RATIO_LIMIT = 20.0


def ratio(student_logprobs: Tensor, rollout_logprobs: Tensor) -> Tensor:
    """exp(clamp(student - rollout, -20, 20)) -> [N], detached."""
    gap = (student_logprobs - rollout_logprobs).detach().clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    return gap.exp()


def importance_weight(student_logprobs: Tensor, rollout_logprobs: Tensor, cap: float) -> Tensor:
    """min(r, cap) -> [N] (truncated importance sampling; SDPO caps at 2)."""
    return ratio(student_logprobs, rollout_logprobs).clamp(max=cap)


def gated_weight(student_logprobs: Tensor, rollout_logprobs: Tensor, floor: float, cap: float) -> Tensor:
    """r inside [floor, cap], 0 outside -> [N]: a token that moved too far is left out."""
    found = ratio(student_logprobs, rollout_logprobs)
    return found * ((found >= floor) & (found <= cap))


def block_weight(
    student_logprobs: Tensor, rollout_logprobs: Tensor, lengths: Sequence[int], block: int
) -> Tensor:
    """exp(-|mean log r|) of each block of tokens, over the response's mean -> [N] (arXiv 2606.24084).

    Blocks never cross a response, whose weights have mean 1: so no other response, rank or micro-batch
    has a say in them. `lengths` sum to N.
    """
    gap = (student_logprobs - rollout_logprobs).detach().clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    parts = []
    for response in gap.split(list(lengths)):
        blocks = [part.mean().abs().neg().exp().expand(len(part)) for part in response.split(block)]
        weights = torch.cat(blocks)
        parts.append(weights / weights.mean())
    return torch.cat(parts) if parts else torch.ones_like(gap)
