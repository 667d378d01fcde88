"""From rewards to advantages. Pure numpy.

    B   samples of the step     G   rollouts of a sample     R   reward of one rollout

All rewards of a step are known before it is cut over ranks, so no baseline depends on the cut.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from learner.objective_config import RewardConfig

STD_FLOOR = 1e-4  # added to a group's deviation, as in GRPO's implementations


def advantages(rewards: Sequence[Sequence[float]], reward: RewardConfig) -> list[list[float]]:
    """Advantage of each rollout, by group, in the order of `rewards`."""
    groups = [np.asarray(group, np.float64) for group in rewards]
    if reward.baseline == "raw":
        return [group.tolist() for group in groups]
    if reward.baseline == "batch_baseline":
        mean = np.concatenate(groups).mean()
        return [(group - mean).tolist() for group in groups]
    return [group_advantages(group, normalize_std=reward.normalize_std).tolist() for group in groups]


def group_advantages(rewards: np.ndarray, *, normalize_std: bool) -> np.ndarray:
    """R - mean(R) over the group, and over its deviation (GRPO, arXiv 2402.03300; without: Dr. GRPO).

    A group whose rewards are all equal has no signal: advantages of exactly 0.
    """
    centred = rewards - rewards.mean()
    if np.ptp(rewards) == 0:
        return np.zeros_like(centred)
    return centred / (rewards.std() + STD_FLOOR) if normalize_std else centred
