"""Who trains what in one step: groups to ranks, groups to micro-batches, and one denominator.

    R   ranks     M   micro-batches of a rank     T   response tokens

A worked example: 5 groups of costs 9, 7, 6, 5, 4 on R = 2 ranks with `max_pack_tokens` 12. Longest
first to the emptier rank gives {9, 5} and {7, 6, 4}; each needs M = 2 cells: (9)(5) and (6 4)(7).

DeepSpeed averages gradients over ranks, but `token_weights` already divides by the whole step's count:
the learner must multiply its loss by R (and undo any division by M), or the gradient is R times small.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from learner.types import StepPlan
from rollout.types import Rendered, RolloutGroup

Cell = tuple[int, ...]


class PlanError(ValueError):
    """A step that cannot be laid out."""


class GroupLengths(NamedTuple):
    """Tokens of one group: its prompt, its responses, and which responses are trained."""

    prompt: int
    responses: tuple[int, ...]
    trained: tuple[bool, ...]


def group_lengths(prompt: Rendered, group: RolloutGroup, *, train_truncated: bool) -> GroupLengths:
    """Lengths of one group; `train_truncated` false masks responses that ended by length.

    An aborted response is no whole answer by the policy and is never trained.
    """
    kinds = {"stop", "length"} if train_truncated else {"stop"}
    return GroupLengths(
        prompt=len(prompt.token_ids),
        responses=tuple(len(rollout.response_ids) for rollout in group.rollouts),
        trained=tuple(rollout.finish in kinds for rollout in group.rollouts),
    )


def plan_step(
    step: int,
    lengths: Sequence[GroupLengths],
    ranks: int,
    max_pack_tokens: int,
    micro_batches: int | None = None,
) -> StepPlan:
    """Lay out one step; a group is named by its position in `lengths` and stays whole.

    A group costs prompt + all its responses (the untrained ones are computed too). Deterministic.
    Raises PlanError when a group is longer than `max_pack_tokens`, when `micro_batches` are too few, or
    when the step has no trained token.
    """
    costs = [_cost(step, at, group, max_pack_tokens) for at, group in enumerate(lengths)]
    tokens, sequences = _trained(step, lengths)
    shares = _balance(range(len(costs)), costs, ranks)
    fewest = max(len(_first_fit(share, costs, max_pack_tokens)) for share in shares)
    if micro_batches is not None and fewest > micro_batches:
        raise PlanError(
            f"step {step}: learner.micro_batches is {micro_batches}, but a rank needs {fewest} of "
            f"{max_pack_tokens} tokens: raise micro_batches, max_pack_tokens or ranks"
        )
    count = micro_batches or fewest
    cells = tuple(_cells(share, costs, count, max_pack_tokens) for share in shares)
    return StepPlan(step=step, cells=cells, tokens=tokens, sequences=sequences)


def token_weights(
    plan: StepPlan,
    responses: Sequence[int],
    trained: Sequence[bool],
    aggregation: Literal["seq_mean", "token_mean"],
) -> np.ndarray:
    """Weight of each response token of one group, float32 [sum of `responses`], end to end.

    seq_mean: 1 / (T_i * plan.sequences), the paper's mean over tokens, then over sequences; token_mean:
    1 / plan.tokens; 0 where a response is not trained. The sum over all ranks of weight x divergence
    is then the loss of the step, however it was cut.
    """
    parts = [np.zeros(0)]
    for length, train in zip(responses, trained, strict=True):
        scale = length * plan.sequences if aggregation == "seq_mean" else plan.tokens
        parts.append(np.full(length, 1.0 / scale if train else 0.0))
    return np.concatenate(parts).astype(np.float32)


def _cost(step: int, at: int, group: GroupLengths, max_pack_tokens: int) -> int:
    prompt, responses, trained = group
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
        for _, responses, trained in lengths
        for length, train in zip(responses, trained, strict=True)
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
