"""Factors on the tokens of one response that need no model, only its text. Pure numpy.

    T   response tokens     w_t = format x segment x position x row, and 0 for the first n

A factor of 0 takes the token out of the step's count; the entropy gate and the importance weight
belong to the learner (`learner.chunked`) and leave the count as it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from learner.objective_config import ObjectiveConfig, TokenWeightsConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutFacts:
    """What the text of one rollout says: T tokens, its verdict, and where its answer starts.

    `answer_start` is the first token of the answer segment, T when there is none; `pass_rate` the share
    of right answers in its group.
    """

    length: int
    format_valid: bool
    correct: bool
    answer_start: int
    pass_rate: float


def asks_for_weights(objective: ObjectiveConfig) -> bool:
    """Whether any factor can differ from 1."""
    plain = TokenWeightsConfig(
        entropy_gate=objective.tokens.entropy_gate, entropy_floor=objective.tokens.entropy_floor
    )
    rows = objective.rows != "all" or objective.pass_rate_weight
    return rows or objective.tokens != plain


def rollout_weights(objective: ObjectiveConfig, facts: RolloutFacts) -> np.ndarray:
    """The product of all factors, float32 [T]."""
    tokens = objective.tokens
    weights = row_factor(objective, facts) * segment_factors(tokens, facts)
    weights = weights * position_factors(tokens.position, facts.length)
    weights[: tokens.skip_first] = 0.0
    return np.asarray(weights, np.float32)


def row_factor(objective: ObjectiveConfig, facts: RolloutFacts) -> float:
    """Of the whole response: form, failures only (SRPO, PTD-PO), pass rate (see `pass_rate_factor`)."""
    factor = 1.0 if facts.format_valid else objective.tokens.format_invalid
    if objective.rows == "failures" and facts.correct:
        return 0.0
    return factor * (pass_rate_factor(facts.pass_rate) if objective.pass_rate_weight else 1.0)


def pass_rate_factor(rate: float) -> float:
    """sqrt(r (1-r)): groups of mixed success count most, those that all pass or all fail not at all.

    Source: arXiv 2605.27765.
    """
    return math.sqrt(rate * (1.0 - rate))


def segment_factors(tokens: TokenWeightsConfig, facts: RolloutFacts) -> np.ndarray:
    """`reasoning` before the answer segment, `answer` from it on: float64 [T]."""
    factors = np.full(facts.length, tokens.reasoning)
    factors[facts.answer_start :] = tokens.answer
    return factors


def position_factors(slope: float, length: int) -> np.ndarray:
    """1 + s (2x - 1) at x = (t + 0.5) / T: float64 [T], with mean 1 for every s and T."""
    where = (np.arange(length) + 0.5) / length
    return 1.0 + slope * (2.0 * where - 1.0)
