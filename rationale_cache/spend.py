"""What was spent and what may still be: requests, tokens, US dollars."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rationale_cache.completion import Completion
from rationale_cache.config import BudgetConfig, PricesConfig
from rationale_cache.types import Usage

MILLION = 1e6


def cost_of(usage: Usage, prices: PricesConfig | None, *, audio_tokens: int = 0) -> float | None:
    """US dollars of one reply; None without prices.

    >>> cost_of(Usage(prompt_tokens=1000, completion_tokens=100), PricesConfig(input=2.5, output=10))
    0.0035
    """
    if prices is None:
        return None
    cached = min(usage.cached_tokens, usage.prompt_tokens)
    audio = min(audio_tokens, usage.prompt_tokens - cached)
    parts = [
        (usage.prompt_tokens - cached - audio, prices.input),
        (cached, prices.input if prices.cached_input is None else prices.cached_input),
        (audio, prices.input if prices.audio_input is None else prices.audio_input),
        (usage.completion_tokens, prices.output),
    ]
    return sum(tokens * price for tokens, price in parts) / MILLION


def used(completion: Completion | None, prompt_tokens: int, completion_tokens: int) -> Usage:
    """What a reply cost in tokens: its own word, or the estimate when it gives none."""
    if completion is not None and completion.usage is not None:
        return completion.usage
    return Usage(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """The most that one request can cost."""

    tokens: int
    cost: float


class Spend:
    """A budget's state. `reserve` before a request, `settle` after it: what is out never adds up to too much."""

    def __init__(self, budget: BudgetConfig, prices: PricesConfig | None) -> None:
        self.budget, self.prices = budget, prices
        self.tokens, self.cost = 0, 0.0
        self._held_tokens, self._held_cost = 0, 0.0
        self._underrated = 1.0  # the most by which a reply's prompt was dearer than its estimate

    def reserve(self, prompt_tokens: int, completion_tokens: int) -> Reservation | str:
        """Set aside the most that a request can cost, or say which limit it would pass."""
        prompt = math.ceil(prompt_tokens * self._underrated)
        usage = Usage(prompt_tokens=prompt, completion_tokens=completion_tokens)
        audio = prompt if self.prices and (self.prices.audio_input or 0.0) > self.prices.input else 0
        cost = cost_of(usage, self.prices, audio_tokens=audio) or 0.0
        most_tokens, most_cost = self.budget.max_tokens, self.budget.max_cost
        if most_tokens is not None and self.tokens + self._held_tokens + usage.total > most_tokens:
            return f"budget.max_tokens {most_tokens} leaves no room for one more request ({self.tokens} used)"
        if most_cost is not None and self.cost + self._held_cost + cost > most_cost:
            return (
                f"budget.max_cost {most_cost:g} leaves no room for one more request (${self.cost:.4f} spent)"
            )
        self._held_tokens += usage.total
        self._held_cost += cost
        return Reservation(tokens=usage.total, cost=cost)

    def release(self, reservation: Reservation) -> None:
        """The request is over; what it cost comes by `add`."""
        self._held_tokens -= reservation.tokens
        self._held_cost -= reservation.cost

    def add(self, usage: Usage, cost: float | None, estimate: int = 0) -> None:
        """Count what was paid; `estimate` is what its prompt was thought to be."""
        if estimate > 0:
            self._underrated = max(self._underrated, usage.prompt_tokens / estimate)
        self.tokens += usage.total
        self.cost += cost or 0.0
