"""Helpers of the numeric tests: random log-probs, naive float64 references, finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from learner.objective_config import ObjectiveConfig


def draw(seed: int, *shape: int, scale: float = 2.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def logs(seed: int, *shape: int, scale: float = 2.0) -> Tensor:
    return torch.log_softmax(draw(seed, *shape, scale=scale), -1)


def slope_of(loss: Callable[[Tensor], Tensor], point: Tensor) -> Tensor:
    leaf = point.clone().requires_grad_()
    loss(leaf).sum().backward()
    assert leaf.grad is not None
    return leaf.grad


def finite_differences(loss: Callable[[Tensor], Tensor], point: Tensor, step: float = 1e-5) -> Tensor:
    slope = torch.zeros_like(point)
    for at in range(point.numel()):
        nudge = torch.zeros_like(point).flatten()
        nudge[at] = step
        nudge = nudge.view_as(point)
        slope.view(-1)[at] = (loss(point + nudge).sum() - loss(point - nudge).sum()) / (2 * step)
    return slope


def naive_entries(objective: ObjectiveConfig, p: list[float], q: list[float]) -> list[float]:
    """The entries of one row's divergence, in Python floats, as the textbook writes them."""
    kl = [a * math.log(a / b) if a else 0.0 for a, b in zip(p, q, strict=True)]
    back = [b * math.log(b / a) if b else 0.0 for a, b in zip(p, q, strict=True)]
    match objective.divergence:
        case "forward_kl":
            return back
        case "reverse_kl" | "topk_reverse_kl":
            return kl
        case "power":
            e = objective.power
            return [
                a ** (1 + e) / (e * (1 + e)) - a * b**e / e + b ** (1 + e) / (1 + e)
                for a, b in zip(p, q, strict=True)
            ]
        case "entropy_switched":
            unsure = -sum(b * math.log(b) for b in q if b) > objective.entropy_threshold
            return [x + unsure * y for x, y in zip(kl, back, strict=True)]
        case _:
            beta = objective.beta
            scale = beta * (1 - beta) if objective.normalize else 1.0
            m = [(1 - beta) * a + beta * b for a, b in zip(p, q, strict=True)]
            return [
                (
                    (beta * b * math.log(b / c) if b else 0.0)
                    + ((1 - beta) * a * math.log(a / c) if a else 0.0)
                )
                / scale
                for a, b, c in zip(p, q, m, strict=True)
            ]
