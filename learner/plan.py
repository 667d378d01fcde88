"""Who trains what in one step: groups to ranks, groups to micro-batches, and one denominator.

    R   ranks     M   micro-batches of a rank     T   response tokens

A worked example: 5 groups of costs 9, 7, 6, 5, 4 on R = 2 ranks with `max_pack_tokens` 12. Longest
first to the emptier rank gives {9, 5} and {7, 6, 4}; each needs M = 2 cells: (9)(5) and (6 4)(7).

DeepSpeed averages gradients over ranks, but `token_weights` already divides by the whole step's count:
the learner must multiply its loss by R (and undo any division by M), or the gradient is R times small.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from learner.objective_config import Aggregation
from learner.types import RolloutSignal, StepPlan
from rollout.types import Finish, Rendered, RolloutGroup

Cell = tuple[int, ...]


class PlanError(ValueError):
    """A step that cannot be laid out."""


class GroupLengths(NamedTuple):
    """Tokens of one group: its prompt, its responses, and which responses are trained.

    `trained` says it by how a response finished; `weighted` counts the tokens of each response whose
    weight is above 0 (None: all of them).
    """

    prompt: int
    responses: tuple[int, ...]
    trained: tuple[bool, ...]
    weighted: tuple[int, ...] | None = None

    def counts(self) -> list[int]:
        """Trained tokens of each response."""
        weighted = self.responses if self.weighted is None else self.weighted
        return [count if train else 0 for count, train in zip(weighted, self.trained, strict=True)]


def group_lengths(
    prompt: Rendered,
    group: RolloutGroup,
    *,
    train_truncated: bool,
    signals: Sequence[RolloutSignal] = (),
) -> GroupLengths:
    """Lengths of one group; `train_truncated` false masks responses that ended by length.

    An aborted response is no whole answer by the policy and is never trained.
    """
    kinds = finishes(train_truncated)
    responses = tuple(len(rollout.response_ids) for rollout in group.rollouts)
    return GroupLengths(
        prompt=len(prompt.token_ids),
        responses=responses,
        trained=tuple(rollout.finish in kinds for rollout in group.rollouts),
        weighted=tuple(
            length if signal.weights is None else int((signal.weights > 0).sum())
            for length, signal in zip(responses, signals, strict=True)
        )
        if signals
        else None,
    )


def finishes(train_truncated: bool) -> set[Finish]:
    """How a response that may be trained has ended."""
    return {"stop", "length"} if train_truncated else {"stop"}


def plan_step(
    step: int,
    lengths: Sequence[GroupLengths],
    ranks: int,
    max_pack_tokens: int,
    micro_batches: int | None = None,
    seed: int = 0,
) -> StepPlan:
    """Lay out one step; a group is named by its position in `lengths` and stays whole.

    A group costs prompt + all its responses (the untrained ones are computed too). Deterministic.
    Raises PlanError when a group is longer than `max_pack_tokens`, when `micro_batches` are too few, or
    when no response of the step may be trained. Weights of 0 everywhere are no error: the step then has
    0 tokens and a gradient of 0 (all answers right under `rows: failures`).
    """
    costs = [_cost(step, at, group, max_pack_tokens) for at, group in enumerate(lengths)]
    policy_tokens, policy_sequences = _trained(step, lengths)
    counts = [count for group in lengths for count in group.counts()]
    shares = _balance(range(len(costs)), costs, ranks)
    fewest = max(len(_first_fit(share, costs, max_pack_tokens)) for share in shares)
    if micro_batches is not None and fewest > micro_batches:
        raise PlanError(
            f"step {step}: learner.micro_batches is {micro_batches}, but a rank needs {fewest} of "
            f"{max_pack_tokens} tokens: raise micro_batches, max_pack_tokens or ranks"
        )
    count = micro_batches or fewest
    cells = tuple(_cells(share, costs, count, max_pack_tokens) for share in shares)
    return StepPlan(
        step=step,
        cells=cells,
        tokens=sum(counts),
        sequences=sum(count > 0 for count in counts),
        policy_tokens=policy_tokens,
        policy_sequences=policy_sequences,
        seed=seed,
    )


def token_weights(
    plan: StepPlan,
    responses: Sequence[int],
    trained: Sequence[bool],
    aggregation: Aggregation,
    signals: Sequence[RolloutSignal] = (),
    fixed_tokens: int = 512,
) -> np.ndarray:
    """Weight of each response token of one group, float32 [sum of `responses`], end to end.

    seq_mean: 1 / (T_i * plan.sequences), the paper's mean over tokens, then over sequences; token_mean:
    1 / plan.tokens; fixed: 1 / (fixed_tokens * plan.sequences) (Dr. GRPO's constant divisor). Times the
    token's own weight from `signals`; T_i and the counts are those of tokens with a weight above 0. 0
    where a response is not trained. The sum over all ranks of weight x divergence is then the loss of
    the step, however it was cut.
    """
    parts = [np.zeros(0)]
    for at, (length, train) in enumerate(zip(responses, trained, strict=True)):
        own = signals[at].weights if signals else None
        counted = length if own is None else int((own > 0).sum())
        if not train or not counted:
            parts.append(np.zeros(length))
            continue
        scale = _scale(aggregation, counted, plan.tokens, plan.sequences, fixed_tokens)
        parts.append(np.full(length, 1.0 / scale) if own is None else own.astype(np.float64) / scale)
    return np.concatenate(parts).astype(np.float32)


def policy_weights(
    plan: StepPlan,
    responses: Sequence[int],
    trained: Sequence[bool],
    aggregation: Aggregation,
    advantages: Sequence[float],
    fixed_tokens: int = 512,
) -> np.ndarray:
    """Advantage of each response token over the reward term's denominator, float32, as `token_weights`."""
    parts = [np.zeros(0)]
    for length, train, advantage in zip(responses, trained, advantages, strict=True):
        scale = _scale(aggregation, length, plan.policy_tokens, plan.policy_sequences, fixed_tokens)
        parts.append(np.full(length, advantage / scale if train else 0.0))
    return np.concatenate(parts).astype(np.float32)


def _scale(aggregation: Aggregation, length: int, tokens: int, sequences: int, fixed_tokens: int) -> int:
    if aggregation == "token_mean":
        return tokens
    return (length if aggregation == "seq_mean" else fixed_tokens) * sequences


def _cost(step: int, at: int, group: GroupLengths, max_pack_tokens: int) -> int:
    prompt, responses, trained, _ = group
    if len(responses) != len(trained):
        raise PlanError(
            f"step {step}, group {at}: {len(responses)} responses and {len(trained)} trained flags"
        )
    if prompt < 1 or not responses or min(responses) < 1:
        raise PlanError(
            f"step {step}, group {at}: prompt of {prompt}, responses of {responses}: need 1 token each"
        )
    cost = prompt + sum(responses)
    if cost > max_pack_tokens:
        raise PlanError(
            f"step {step}, group {at}: prompt of {prompt} and responses of {responses} are {cost} tokens, above "
            f"learner.max_pack_tokens {max_pack_tokens}: raise it, or lower rollout.rollouts_per_sample"
        )
    return cost


def _trained(step: int, lengths: Sequence[GroupLengths]) -> tuple[int, int]:
    counts = [
        length
        for group in lengths
        for length, train in zip(group.responses, group.trained, strict=True)
        if train
    ]
    if not counts:
        raise PlanError(
            f"step {step}: no trained token in {len(lengths)} groups: every response was cut at "
            "rollout.max_new_tokens; raise it, or write objective.train_truncated: true"
        )
    return sum(counts), len(counts)


def _balance(groups: Sequence[int], costs: Sequence[int], bins: int) -> list[list[int]]:
    """Longest first, each to the bin with the least cost so far; ties by position."""
    shares: list[list[int]] = [[] for _ in range(bins)]
    loads = [0] * bins
    for at in _longest_first(groups, costs):
        least = loads.index(min(loads))
        shares[least].append(at)
        loads[least] += costs[at]
    return shares


def _first_fit(groups: Sequence[int], costs: Sequence[int], limit: int) -> list[list[int]]:
    """Longest first, each to the first bin that has room: few bins, unevenly full."""
    bins: list[list[int]] = []
    for at in _longest_first(groups, costs):
        room = (cell for cell in bins if _load(cell, costs) + costs[at] <= limit)
        cell = next(room, None)
        if cell is None:
            bins.append([at])
        else:
            cell.append(at)
    return bins


def _cells(groups: Sequence[int], costs: Sequence[int], count: int, limit: int) -> tuple[Cell, ...]:
    """Exactly `count` cells, even if that fits; fullest first, so that ranks wait little for each other."""
    cells = _balance(groups, costs, count)
    if max(_load(cell, costs) for cell in cells) > limit:
        cells = _first_fit(groups, costs, limit)
        cells += [[] for _ in range(count - len(cells))]
    fullest = sorted(cells, key=lambda cell: (-_load(cell, costs), sorted(cell)))
    return tuple(tuple(sorted(cell)) for cell in fullest)


def _longest_first(groups: Sequence[int], costs: Sequence[int]) -> list[int]:
    return sorted(groups, key=lambda at: (-costs[at], at))


def _load(cell: Sequence[int], costs: Sequence[int]) -> int:
    return sum(costs[at] for at in cell)
