"""What the driver knows of a step's rollouts before the forward pass: token weights and advantages.

Both come from the text and the labels alone, and from all groups of the step at once, so that neither
ranks nor micro-batches have a say in them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from learner.advantages import advantages
from learner.objective_config import ObjectiveConfig
from learner.token_weights import RolloutFacts, asks_for_weights, rollout_weights
from learner.types import RolloutSignal
from omniopsd.answers import judge
from omniopsd.rewards import reward_of
from omniopsd.samples import Sample
from rollout.renderer import Renderer
from rollout.types import RolloutGroup

ANSWER_TAG = "<answer>"
Signals = dict[str, tuple[RolloutSignal, ...]]


class UnlabelledSample(ValueError):
    """A sample without labels under an objective that asks whether answers are right."""


def step_signals(
    objective: ObjectiveConfig,
    samples: Mapping[str, Sample],
    groups: Mapping[str, RolloutGroup],
    renderer: Renderer,
) -> Signals:
    """Signals of every group by sample id; empty when the objective asks for none."""
    weighted = asks_for_weights(objective)
    if not weighted and objective.reward is None:
        return {}
    texts = {
        name: [renderer.decode(rollout.response_ids) for rollout in group.rollouts]
        for name, group in groups.items()
    }
    earned = _earned(objective, samples, texts)
    found: Signals = {}
    for name, group in groups.items():
        weights: Sequence[np.ndarray | None] = [None] * len(group.rollouts)
        if weighted:
            facts = group_facts(samples[name], group, texts[name], renderer)
            weights = [rollout_weights(objective, fact) for fact in facts]
        found[name] = tuple(
            RolloutSignal(weights=own, reward=reward, advantage=advantage)
            for own, (reward, advantage) in zip(weights, earned[name], strict=True)
        )
    return found


def group_facts(
    sample: Sample, group: RolloutGroup, texts: Sequence[str], renderer: Renderer
) -> list[RolloutFacts]:
    """Facts of one group's rollouts, in their order."""
    verdicts = [judge(text, sample.labels) for text in texts]
    rate = sum(verdict.correct for verdict in verdicts) / len(verdicts)
    return [
        RolloutFacts(
            length=len(rollout.response_ids),
            format_valid=verdict.format_valid,
            correct=verdict.correct,
            answer_start=answer_start(rollout.response_ids, renderer),
            pass_rate=rate,
        )
        for rollout, verdict in zip(group.rollouts, verdicts, strict=True)
    ]


def answer_start(ids: np.ndarray, renderer: Renderer) -> int:
    """The token in which `<answer>` begins; the number of tokens when there is none.

    By halving: a prefix of the ids holds the whole tag or not, and decoding is by prefix, since a token alone
    may be part of a character.
    """
    if ANSWER_TAG not in renderer.decode(ids):
        return len(ids)
    low, high = 1, len(ids)  # the shortest prefix with the whole tag has a length in [low, high]
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if ANSWER_TAG in renderer.decode(ids[:middle]) else (middle + 1, high)
    begin = renderer.decode(ids[:low]).index(ANSWER_TAG)
    start = low
    while start and len(renderer.decode(ids[:start])) > begin:
        start -= 1
    return start


def require_labels(objective: ObjectiveConfig, samples: Sequence[Sample]) -> None:
    """Raises UnlabelledSample when the objective judges answers and a sample has no labels."""
    bare = [sample.where for sample in samples if not sample.labels]
    if objective.needs_verdicts and bare:
        raise UnlabelledSample(
            f"{bare[0]}: no labels ({len(bare)} such samples), and objective.reward, rows and pass_rate_weight "
            "ask whether an answer is right; add labels, or leave those keys out"
        )


def _earned(
    objective: ObjectiveConfig, samples: Mapping[str, Sample], texts: Mapping[str, Sequence[str]]
) -> dict[str, list[tuple[float | None, float | None]]]:
    """Reward and advantage of every rollout, by sample id."""
    reward = objective.reward
    if reward is None:
        return {name: [(None, None)] * len(group) for name, group in texts.items()}
    rewards = [
        [reward_of(text, samples[name].labels, reward) for text in group] for name, group in texts.items()
    ]
    pairs = zip(texts, rewards, advantages(rewards, reward), strict=True)
    return {name: list(zip(own, better, strict=True)) for name, own, better in pairs}
