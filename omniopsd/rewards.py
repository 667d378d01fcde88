"""Rewards of one answer: small pure functions of its text and the sample's labels, and their weighted sum.

A metric becomes a reward by a function here and a field of the same name in `objective.reward`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from learner.objective_config import RewardConfig
from omniopsd.answers import clean, judge, parse_answer

Reward = Callable[[str, Sequence[str]], float]


def accuracy(text: str, labels: Sequence[str]) -> float:
    """1 when the answer is right, else 0 (paper, section 3.4)."""
    return float(judge(text, labels).correct)


def format_valid(text: str, labels: Sequence[str]) -> float:
    """1 when the form of the answer holds, else 0 (paper, section 3.4)."""
    return float(judge(text, labels).format_valid)


def label_f1(text: str, labels: Sequence[str]) -> float:
    """F1 between the set of answered labels, split at commas, and the gold set; 0 without a valid form."""
    answer = parse_answer(text)
    if answer is None:
        return 0.0
    said = {clean(part) for part in answer.split(",")} - {""}
    gold = {clean(label) for label in labels}
    return 2.0 * len(said & gold) / (len(said) + len(gold)) if said or gold else 0.0


REWARDS: Mapping[str, Reward] = {"accuracy": accuracy, "format": format_valid, "label_f1": label_f1}


def reward_of(text: str, labels: Sequence[str], weights: RewardConfig) -> float:
    """sum w_k R_k (paper: R(y) = sum_k w_k R_k); a reward of weight 0 is not computed."""
    used = {name: getattr(weights, name) for name in REWARDS}
    return float(sum(weight * REWARDS[name](text, labels) for name, weight in used.items() if weight))
