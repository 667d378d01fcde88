"""One cell of the plan as tensors: groups packed, teacher targets and weights in the pack's order.

N   response rows of the cell     T   response tokens     K   top-k     D   hidden width     V   vocabulary
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from learner.chunked import PolicyTerm
from learner.objective_config import ObjectiveConfig
from learner.plan import finishes, group_lengths, policy_weights, token_weights
from learner.teacher_targets import TeacherTargets
from learner.types import StepPlan, TrainGroup
from rollout.features import Features
from rollout.forward import Thinker, branches
from rollout.sequence import Branches, Pack, pack_groups
from rollout.types import Rendered, Rollout
from teacher.transformers_scorer import hidden_from_wire
from teacher.types import TeacherScore

NO_MEDIA = Features(vision=(), audio=(), videos=(), images=(), media_use=())


class MissingAdvantage(ValueError):
    """A reward term whose rollouts came without their advantages."""


class MixedTemperatures(ValueError):
    """Rollouts of one micro-batch that were sampled at different temperatures."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TeacherPass:
    """A forward pass of a colocated teacher: the same responses, behind its contexts."""

    pack: Pack
    features: tuple[Features, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MicroBatch:
    """One cell; `weights` and `rollout_logprobs` are float32 [N] over the pack's response rows.

    `weights` hold the step's one denominator, 0 for rows that are not trained; `policy` those of the
    reward term, if there is one; `uniforms` float32 [N,m] the random numbers of local draws. `rollouts`
    in the order of `pack.lengths`. `passes` are those of a colocated teacher, whose `teacher` is empty.
    An empty cell has `empty` set, and its rows count for nothing.
    """

    pack: Pack
    features: tuple[Features, ...]
    rollouts: tuple[Rollout, ...]
    teacher: TeacherTargets
    objective: ObjectiveConfig
    weights: Tensor
    rollout_logprobs: Tensor
    temperature: float
    policy: PolicyTerm | None = None
    uniforms: Tensor | None = None
    passes: tuple[TeacherPass, ...] = ()
    empty: bool = False

    def trainable(self) -> tuple[int, int]:
        """Response tokens and responses that may be trained by how they finished, whatever their weight."""
        kinds = finishes(self.objective.train_truncated)
        lengths = [len(rollout.response_ids) for rollout in self.rollouts if rollout.finish in kinds]
        return sum(lengths), len(lengths)

    def trained(self) -> tuple[int, int]:
        """Response tokens and responses with a weight above 0 (nan counts, and is noticed as a loss)."""
        counts = [int((part != 0).sum()) for part in self.pack.split(self.weights.numpy())]
        return sum(counts), sum(count > 0 for count in counts)


def assemble(
    thinker: Thinker,
    groups: Sequence[TrainGroup],
    features: Sequence[Features],
    passes: Sequence[tuple[Features, ...]] = (),
    *,
    plan: StepPlan,
    objective: ObjectiveConfig,
    head: Tensor,
    packed: bool,
) -> MicroBatch:
    """The micro-batch of one cell that has groups.

    `head` [V,D] is the teacher's; `passes` the tower inputs of each group's contexts, for a colocated one.
    """
    rollouts = tuple(rollout for group in groups for rollout in group.rollouts.rollouts)
    temperatures = {rollout.temperature for rollout in rollouts}
    if len(temperatures) > 1:
        raise MixedTemperatures(
            f"step {plan.step}: rollouts at temperatures {sorted(temperatures)} in one cell"
        )
    prompts = [group.prompt for group in groups]
    return MicroBatch(
        pack=_packed(thinker, groups, prompts, features, packed),
        features=tuple(features),
        rollouts=rollouts,
        teacher=_targets(
            [s for g in groups if g.score for s in g.score.scores],
            [s for g in groups if g.contrast for s in g.contrast.scores],
            objective,
            head,
        ),
        objective=objective,
        weights=torch.from_numpy(np.concatenate([_weights(group, plan, objective) for group in groups])),
        rollout_logprobs=_cat([rollout.rollout_logprobs for rollout in rollouts]),
        temperature=temperatures.pop(),
        policy=_policy(groups, plan, objective),
        uniforms=_uniforms(rollouts, plan.seed, objective.draws) if objective.draws else None,
        passes=tuple(
            TeacherPass(
                pack=_packed(thinker, groups, [g.contexts[number] for g in groups], media, packed),
                features=media,
            )
            for number, media in enumerate(zip(*passes, strict=True))
        ),
    )


def _packed(
    thinker: Thinker,
    groups: Sequence[TrainGroup],
    prompts: Sequence[Rendered],
    features: Sequence[Features],
    packed: bool,
) -> Pack:
    """The groups' responses behind their prompts (or contexts): the same rows in the same order for both."""
    return pack_groups(
        [
            branches(thinker, prompt, media, [r.response_ids for r in group.rollouts.rollouts])
            for group, prompt, media in zip(groups, prompts, features, strict=True)
        ],
        packed=packed,
    )


def empty_micro_batch(objective: ObjectiveConfig, passes: int = 0) -> MicroBatch:
    """What a rank runs when it has nothing to train: one prompt token and one response token, in every pass."""
    one = np.zeros(1, np.int64)
    prompt = Branches(prefix_ids=one, positions=np.zeros((3, 1), np.int64), responses=(one,))
    pack = pack_groups([prompt])
    return MicroBatch(
        pack=pack,
        features=(NO_MEDIA,),
        passes=(TeacherPass(pack=pack, features=(NO_MEDIA,)),) * passes,
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


def _targets(
    scores: Sequence[TeacherScore],
    contrast: Sequence[TeacherScore],
    objective: ObjectiveConfig,
    head: Tensor,
) -> TeacherTargets:
    if not scores:
        return TeacherTargets()
    device = head.device
    logprobs = _cat([score.logprobs for score in scores]).to(device)
    if objective.transport == "full":
        return TeacherTargets(
            hidden=_hidden(scores).to(device),
            head_weight=head,
            contrast_hidden=_hidden(contrast).to(device) if contrast else None,
            logprobs=logprobs,
        )
    if objective.transport == "topk":
        return TeacherTargets(
            topk_ids=_cat([score.topk_ids for score in scores]).to(device),
            topk_logprobs=_cat([score.topk_logprobs for score in scores]).to(device),
            logprobs=logprobs,
        )
    return TeacherTargets(logprobs=logprobs)


def _hidden(scores: Sequence[TeacherScore]) -> Tensor:
    return torch.cat([hidden_from_wire(score.hidden) for score in scores if score.hidden is not None])


def _weights(group: TrainGroup, plan: StepPlan, objective: ObjectiveConfig) -> np.ndarray:
    lengths = group_lengths(group.prompt, group.rollouts, train_truncated=objective.train_truncated)
    return token_weights(
        plan,
        lengths.responses,
        lengths.trained,
        objective.aggregation,
        group.signals,
        objective.fixed_tokens,
    )


def _policy(groups: Sequence[TrainGroup], plan: StepPlan, objective: ObjectiveConfig) -> PolicyTerm | None:
    reward = objective.reward
    if reward is None:
        return None
    parts = []
    for group in groups:
        lengths = group_lengths(group.prompt, group.rollouts, train_truncated=objective.train_truncated)
        advantages = [reward.alpha * advantage for advantage in _advantages(group)]
        parts.append(
            policy_weights(
                plan,
                lengths.responses,
                lengths.trained,
                objective.aggregation,
                advantages,
                objective.fixed_tokens,
            )
        )
    return PolicyTerm(weights=torch.from_numpy(np.concatenate(parts)), ratio_clip=reward.ratio_clip)


def _advantages(group: TrainGroup) -> list[float]:
    found = [signal.advantage for signal in group.signals if signal.advantage is not None]
    if len(found) != len(group.rollouts.rollouts):
        raise MissingAdvantage(
            f"sample {group.rollouts.sample_id}: objective.reward is set, and {len(found)} advantages came for "
            f"{len(group.rollouts.rollouts)} rollouts"
        )
    return found


def _uniforms(rollouts: Sequence[Rollout], seed: int, draws: int) -> Tensor:
    """Numbers in [0,1) that belong to a rollout's tokens, wherever they are trained: float32 [N,draws]."""
    parts = []
    for rollout in rollouts:
        name = zlib.crc32(rollout.rollout_id.encode())
        numbers = np.random.default_rng([seed, name]).random((len(rollout.response_ids), draws), np.float32)
        parts.append(torch.from_numpy(numbers))
    return torch.cat(parts)


def _cat(parts: Sequence[np.ndarray | None]) -> Tensor:
    """One tensor of arrays that arrive read-only; absent ones are noticed by `TeacherTargets`."""
    return torch.from_numpy(np.concatenate([part for part in parts if part is not None]))
