"""One cell of the plan as tensors: groups packed, teacher targets and weights in the pack's order.

N   response rows of the cell     T   response tokens     K   top-k     D   hidden width     V   vocabulary
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from learner.config import ObjectiveConfig
from learner.losses import TeacherTargets
from learner.plan import group_lengths, token_weights
from learner.types import StepPlan, TrainGroup
from rollout.features import Features
from rollout.forward import Thinker, branches
from rollout.sequence import Branches, Pack, pack_groups
from rollout.types import Rendered, Rollout
from teacher.transformers_scorer import hidden_from_wire
from teacher.types import TeacherScore


class MixedTemperatures(ValueError):
    """Rollouts of one micro-batch that were sampled at different temperatures."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MicroBatch:
    """One cell; `weights` and `rollout_logprobs` are float32 [N] over the pack's response rows.

    `weights` hold the step's one denominator, 0 for rows that are not trained. `rollouts` in the
    order of `pack.lengths`. An empty cell has `empty` set, and its rows count for nothing.
    """

    pack: Pack
    features: tuple[Features, ...]
    rollouts: tuple[Rollout, ...]
    teacher: TeacherTargets
    objective: ObjectiveConfig
    weights: Tensor
    rollout_logprobs: Tensor
    temperature: float
    empty: bool = False

    def trained(self) -> tuple[int, int]:
        """Response tokens and responses with a weight above 0."""
        lengths = [len(part) for part in self.pack.split(self.weights.numpy()) if part.any()]
        return sum(lengths), len(lengths)


def assemble(
    thinker: Thinker,
    groups: Sequence[TrainGroup],
    features: Sequence[Features],
    *,
    plan: StepPlan,
    objective: ObjectiveConfig,
    head: Tensor,
    packed: bool,
) -> MicroBatch:
    """The micro-batch of one cell that has groups. `head` [V,D] is the teacher's."""
    rollouts = tuple(rollout for group in groups for rollout in group.rollouts.rollouts)
    temperatures = {rollout.temperature for rollout in rollouts}
    if len(temperatures) > 1:
        raise MixedTemperatures(
            f"step {plan.step}: rollouts at temperatures {sorted(temperatures)} in one cell"
        )
    pack = pack_groups(
        [
            branches(thinker, group.prompt, media, [r.response_ids for r in group.rollouts.rollouts])
            for group, media in zip(groups, features, strict=True)
        ],
        packed=packed,
    )
    return MicroBatch(
        pack=pack,
        features=tuple(features),
        rollouts=rollouts,
        teacher=_targets([s for g in groups if g.score for s in g.score.scores], objective, head),
        objective=objective,
        weights=torch.from_numpy(np.concatenate([_weights(group, plan, objective) for group in groups])),
        rollout_logprobs=_cat([rollout.rollout_logprobs for rollout in rollouts]),
        temperature=temperatures.pop(),
    )


def empty_micro_batch(objective: ObjectiveConfig) -> MicroBatch:
    """What a rank runs when it has nothing to train: one prompt token and one response token."""
    one = np.zeros(1, np.int64)
    prompt = Branches(prefix_ids=one, positions=np.zeros((3, 1), np.int64), responses=(one,))
    return MicroBatch(
        pack=pack_groups([prompt]),
        features=(Features(vision=(), audio=(), videos=(), images=(), media_use=()),),
        rollouts=(),
        teacher=TeacherTargets(),
        objective=objective,
        weights=torch.zeros(1),
        rollout_logprobs=torch.zeros(1),
        temperature=1.0,
        empty=True,
    )


def probe_micro_batch(
    thinker: Thinker, prompt: Rendered, features: Features, response_ids: np.ndarray, temperature: float
) -> MicroBatch:
    """One prompt with one response, for its log-probs at `temperature` alone."""
    zeros = torch.zeros(len(response_ids))
    return MicroBatch(
        pack=pack_groups([branches(thinker, prompt, features, [response_ids])]),
        features=(features,),
        rollouts=(),
        teacher=TeacherTargets(),
        objective=ObjectiveConfig(divergence="cross_entropy"),
        weights=zeros,
        rollout_logprobs=zeros,
        temperature=temperature,
    )


def _targets(scores: Sequence[TeacherScore], objective: ObjectiveConfig, head: Tensor) -> TeacherTargets:
    if objective.divergence == "cross_entropy":
        return TeacherTargets()
    device = head.device
    logprobs = _cat([score.logprobs for score in scores]).to(device)
    if objective.support == "full":
        hidden = torch.cat([hidden_from_wire(score.hidden) for score in scores if score.hidden is not None])
        return TeacherTargets(hidden=hidden.to(device), head_weight=head, logprobs=logprobs)
    if objective.support == "topk":
        return TeacherTargets(
            topk_ids=_cat([score.topk_ids for score in scores]).to(device),
            topk_logprobs=_cat([score.topk_logprobs for score in scores]).to(device),
            logprobs=logprobs,
        )
    return TeacherTargets(logprobs=logprobs)


def _weights(group: TrainGroup, plan: StepPlan, objective: ObjectiveConfig) -> np.ndarray:
    lengths = group_lengths(group.prompt, group.rollouts, train_truncated=objective.train_truncated)
    return token_weights(plan, lengths.responses, lengths.trained, objective.aggregation)


def _cat(parts: Sequence[np.ndarray | None]) -> Tensor:
    """One tensor of arrays that arrive read-only; absent ones are noticed by `TeacherTargets`."""
    return torch.from_numpy(np.concatenate([part for part in parts if part is not None]))
