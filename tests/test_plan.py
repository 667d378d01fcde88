"""The step plan: nothing lost, nothing twice, equal cells, and one denominator."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.plan import GroupLengths, PlanError, group_lengths, plan_step, token_weights
from learner.types import StepPlan
from rollout.types import Finish, Rendered, Rollout, RolloutGroup

LIMIT = 100


@st.composite
def group(draw: st.DrawFn) -> GroupLengths:
    responses = draw(st.lists(st.integers(1, 15), min_size=1, max_size=4))
    trained = draw(st.lists(st.booleans(), min_size=len(responses), max_size=len(responses)))
    return GroupLengths(draw(st.integers(1, 40)), tuple(responses), tuple(trained))


steps = st.lists(group(), min_size=1, max_size=12).filter(lambda groups: any(any(g.trained) for g in groups))


def cost(one: GroupLengths) -> int:
    return one.prompt + sum(one.responses)


@given(steps, st.integers(1, 5))
@settings(max_examples=150, deadline=None)
def test_plan_holds_every_group_once_in_equal_cells_that_fit(groups: list[GroupLengths], ranks: int) -> None:
    plan = plan_step(3, groups, ranks, LIMIT)
    assert sorted(at for rank in plan.cells for cell in rank for at in cell) == list(range(len(groups)))
    assert len(plan.cells) == ranks and len({len(rank) for rank in plan.cells}) == 1
    assert all(sum(cost(groups[at]) for at in cell) <= LIMIT for rank in plan.cells for cell in rank)
    assert any(all(rank[micro] for micro in range(len(rank))) for rank in plan.cells)  # no spare cell
    flat = [t for g in groups for t, train in zip(g.responses, g.trained, strict=True) if train]
    assert (plan.step, plan.tokens, plan.sequences) == (3, sum(flat), len(flat))
    assert plan == plan_step(3, groups, ranks, LIMIT)


@given(steps, st.integers(1, 4))
@settings(max_examples=100, deadline=None)
def test_ranks_are_balanced_within_one_group(groups: list[GroupLengths], ranks: int) -> None:
    plan = plan_step(0, groups, ranks, LIMIT)
    loads = [sum(cost(groups[at]) for cell in rank for at in cell) for rank in plan.cells]
    assert max(loads) - min(loads) <= max(cost(g) for g in groups)


def loss_of(
    plan: StepPlan, groups: list[GroupLengths], aggregation: str, divergence: list[np.ndarray]
) -> float:
    total = 0.0
    for rank in plan.cells:
        for at in (at for cell in rank for at in cell):
            weights = token_weights(plan, groups[at].responses, groups[at].trained, aggregation)  # type: ignore[arg-type]
            total += float((weights.astype(np.float64) * divergence[at]).sum())
    return total


def naive_loss(groups: list[GroupLengths], aggregation: str, divergence: list[np.ndarray]) -> float:
    rows = []
    for one, values in zip(groups, divergence, strict=True):
        ends = np.cumsum(one.responses)
        for length, end, train in zip(one.responses, ends, one.trained, strict=True):
            if train:
                rows.append(values[end - length : end])
    if aggregation == "token_mean":
        return float(np.concatenate(rows).mean())
    return float(np.mean([row.mean() for row in rows]))


@given(
    steps, st.integers(1, 5), st.randoms(use_true_random=False), st.sampled_from(["seq_mean", "token_mean"])
)
@settings(max_examples=150, deadline=None)
def test_weights_give_the_same_loss_for_any_cut_and_order(
    groups: list[GroupLengths], ranks: int, random: object, aggregation: str
) -> None:
    plan = plan_step(0, groups, ranks, LIMIT)
    ones = [np.ones(sum(g.responses)) for g in groups]
    assert loss_of(plan, groups, aggregation, ones) == pytest.approx(1.0, rel=1e-5)
    divergence = [np.random.default_rng(at).random(sum(g.responses)) for at, g in enumerate(groups)]
    expected = naive_loss(groups, aggregation, divergence)
    assert loss_of(plan, groups, aggregation, divergence) == pytest.approx(expected, rel=1e-5)
    order = list(range(len(groups)))
    random.shuffle(order)  # type: ignore[attr-defined]
    mixed = [groups[at] for at in order]
    again = loss_of(plan_step(0, mixed, 1, LIMIT), mixed, aggregation, [divergence[at] for at in order])
    assert again == pytest.approx(expected, rel=1e-5)


def test_worked_example() -> None:
    groups = [GroupLengths(c - 1, (1,), (True,)) for c in (9, 7, 6, 5, 4)]
    plan = plan_step(0, groups, 2, 12)
    assert plan.cells == (((0,), (3,)), ((2, 4), (1,)))


def test_weights_of_one_group() -> None:
    plan = StepPlan(step=0, cells=((),), tokens=8, sequences=4)
    weights = token_weights(plan, (2, 3, 1), (True, False, True), "seq_mean")
    assert weights.dtype == np.float32
    assert weights.tolist() == [0.125, 0.125, 0, 0, 0, 0.25]
    assert token_weights(plan, (2, 1), (True, False), "token_mean").tolist() == [0.125, 0.125, 0]
    assert token_weights(plan, (), (), "seq_mean").shape == (0,)


def test_fixed_micro_batches_are_spread_and_padded() -> None:
    groups = [GroupLengths(10, (5,), (True,))] * 3
    plan = plan_step(0, groups, 2, LIMIT, micro_batches=3)
    assert plan.cells == (((0,), (2,), ()), ((1,), (), ()))
    assert plan_step(0, groups, 2, LIMIT).cells == (((0, 2),), ((1,),))


def test_first_fit_saves_a_cell_where_balancing_would_overflow() -> None:
    groups = [GroupLengths(c - 1, (1,), (True,)) for c in (6, 6, 4, 4, 4)]
    assert plan_step(0, groups, 1, 12).cells == (((0, 1), (2, 3, 4)),)


def test_more_ranks_than_groups_leaves_empty_cells() -> None:
    plan = plan_step(0, [GroupLengths(1, (1,), (True,))], 3, LIMIT)
    assert plan.cells == (((0,),), ((),), ((),))


def test_errors_say_where_what_and_what_instead() -> None:
    one = GroupLengths(50, (30, 30), (True, True))
    with pytest.raises(
        PlanError, match=r"step 5, group 1: prompt of 50 .* 110 tokens, above .*max_pack_tokens 100"
    ):
        plan_step(5, [GroupLengths(1, (1,), (True,)), one], 1, LIMIT)
    with pytest.raises(PlanError, match="micro_batches is 1, but a rank needs 2"):
        plan_step(0, [GroupLengths(50, (10,), (True,))] * 2, 1, LIMIT, micro_batches=1)
    with pytest.raises(PlanError, match="step 7: no trained token in 2 groups"):
        plan_step(7, [GroupLengths(5, (3,), (False,))] * 2, 1, LIMIT)
    with pytest.raises(PlanError, match="2 responses and 1 trained flags"):
        plan_step(0, [GroupLengths(5, (3, 3), (True,))], 1, LIMIT)
    with pytest.raises(PlanError, match="need 1 token each"):
        plan_step(0, [GroupLengths(5, (0,), (True,))], 1, LIMIT)


def rollouts_of(*finishes: Finish) -> RolloutGroup:
    rollouts = tuple(
        Rollout(
            rollout_id=f"0/s/{index}",
            sample_id="s",
            index=index,
            response_ids=np.zeros(index + 2, np.int32),
            rollout_logprobs=np.zeros(index + 2, np.float32),
            temperature=1.0,
            policy_version=0,
            finish=finish,
        )
        for index, finish in enumerate(finishes)
    )
    return RolloutGroup(sample_id="s", rollouts=rollouts, media_use=(), seconds=0.0)


@pytest.mark.parametrize("train_truncated", [True, False])
def test_truncated_responses_are_masked_by_option_and_aborted_ones_always(train_truncated: bool) -> None:
    ids = np.zeros(7, np.int32)
    prompt = Rendered(token_ids=ids, collapsed_ids=ids, media=(), media_use=(), audio_in_video=False)
    group = rollouts_of("stop", "length", "abort")
    found = group_lengths(prompt, group, train_truncated=train_truncated)
    assert found == GroupLengths(7, (2, 3, 4), (True, train_truncated, False))
