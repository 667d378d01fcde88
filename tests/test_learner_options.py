"""Every option of the objective through the real learner: the cut of a step leaves no trace in its gradient."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from learner.config import LearnerConfig, ObjectiveConfig
from learner.engine import LearnerFault
from learner.microbatch import MissingAdvantage
from learner.plan import group_lengths, plan_step
from learner.types import RolloutSignal, StepPlan
from learner.worker import GroupInput, LearnerWorker
from rollout.types import RecordError
from tests.learner_scene import Answer, Scene, free_address, keep_gradients, make_scene, run_ranks, worker

STILL = LearnerConfig(lr=1e-30, max_grad_norm=1e9, freeze=(), zero_stage=0)  # weights stay where they are
KINDS = ("text", "audio", "image", "text")
WHOLE, ALONE = [[[0, 1, 2, 3]]], [[[3], [1], [2], [0]]]
RANKS = [[[0], [3]], [[2, 1], []]]
REWARD = {"alpha": 0.2, "baseline": "group"}
OPTIONS: dict[str, dict[str, object]] = {
    "entropy gate": {"tokens": {"entropy_gate": 1.0, "entropy_floor": 0.05}},
    "token weights": {"tokens": {"answer": 3.0}},
    "token weights, token mean": {"tokens": {"answer": 3.0}, "aggregation": "token_mean"},
    "fixed": {"tokens": {"answer": 3.0}, "aggregation": "fixed", "fixed_tokens": 7},
    "capped": {"importance": "capped"},
    "gated": {"importance": "gated", "importance_floor": 0.3, "importance_cap": 3.0},
    "block": {"importance": "block", "importance_block": 2, "divergence": "forward_kl"},
    "draws": {"divergence": "sampled", "draws": 5},
    "power": {"divergence": "power", "power": 0.3},
    "sampled power": {"divergence": "power", "draws": 3, "clip": "advantage", "clip_at": 0.4},
    "entropy switched": {"divergence": "entropy_switched", "entropy_threshold": 2.0},
    "student top-k": {"divergence": "reverse_kl", "support": "student_topk", "top_k": 9},
    "union": {"support": "union", "top_k": 5, "tail": "renormalized", "normalize": True},
    "top-k reverse": {"divergence": "topk_reverse_kl", "support": "union", "top_k": 5},
    "skewed": {"target": "skewed", "clip": "token", "clip_at": 0.64},
    "proximal": {"divergence": "reverse_kl", "target": "proximal", "clip": "soft"},
    "pointwise": {"divergence": "forward_kl", "clip": "pointwise"},
    "bregman": {"divergence": "reverse_kl", "clip": "bregman"},
    "hybrid": {"reward": REWARD, "tokens": {"answer": 3.0}, "importance": "capped"},
    "policy gradient": {"divergence": "none", "reward": REWARD | {"ratio_clip": 0.2}},
}
# whose denominators, random numbers or neighbours could depend on the ranks
ACROSS_RANKS = (
    "entropy gate",
    "token weights",
    "token weights, token mean",
    "fixed",
    "block",
    "draws",
    "hybrid",
    "policy gradient",
)


def signalled(scene: Scene, objective: ObjectiveConfig, seed: int = 5) -> Scene:
    """The scene with advantages, and with token weights where the objective has some; some of them 0."""
    rng = np.random.default_rng(seed)
    groups = []
    for group in scene.groups:
        signals = tuple(
            RolloutSignal(
                weights=rng.choice([0.0, 1.0, 3.0], len(rollout.response_ids)).astype(np.float32)
                if objective.tokens.answer != 1.0
                else None,
                advantage=float(rng.normal()),
            )
            for rollout in group.rollouts.rollouts
        )
        groups.append(dataclasses.replace(group, signals=signals))
    return dataclasses.replace(scene, groups=tuple(groups))


def plan_of(scene: Scene, cells: list[list[list[int]]]) -> StepPlan:
    lengths = [
        group_lengths(group.prompt, group.rollouts, train_truncated=True, signals=group.signals)  # type: ignore[arg-type]
        for group in scene.groups
    ]
    whole = plan_step(1, lengths, 1, 10**6, seed=3)
    frozen = tuple(tuple(tuple(cell) for cell in rank) for rank in cells)
    return dataclasses.replace(whole, cells=frozen)


def gradients(
    one: LearnerWorker, kept: dict[str, torch.Tensor], scene: Scene, name: str, cells: list
) -> tuple:
    objective = ObjectiveConfig.model_validate(OPTIONS[name])
    one.objective, scene = objective, signalled(scene, objective)
    plan = plan_of(scene, cells)
    report = one.train_step(plan, scene.of(plan, one.rank))
    return report.loss, report.grad_norm, dict(kept)


def same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], where: str) -> None:
    size = torch.sqrt(sum((g.double() ** 2).sum() for g in wanted.values()))
    error = torch.sqrt(sum(((found[name] - wanted[name]).double() ** 2).sum() for name in wanted))
    assert size > 1e-4 and error / size < 2e-5, f"{where}: {float(error / size):.2e} of {float(size):.2e}"


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return make_scene(tmp_path_factory.mktemp("options"), KINDS)


@pytest.fixture(scope="module")
def whole(scene: Scene) -> dict[str, tuple]:
    """Loss, norm and gradient of every option, everything in one cell."""
    one = worker(scene, 0, STILL, free_address())
    kept = keep_gradients(one)
    return {name: gradients(one, kept, scene, name, WHOLE) for name in OPTIONS}


@pytest.mark.slow
def test_one_rank_group_by_group_in_padded_rows(scene: Scene, whole: dict[str, tuple]) -> None:
    one = worker(scene, 0, STILL.model_copy(update={"packing": False}), free_address())
    kept = keep_gradients(one)
    for name in OPTIONS:
        loss, norm, found = gradients(one, kept, scene, name, ALONE)
        assert loss == pytest.approx(whole[name][0], rel=2e-5, abs=1e-7), name
        assert norm == pytest.approx(whole[name][1], rel=2e-5), name
        same(found, whole[name][2], name)


def two_ranks(scene: Scene, rank: int, address: tuple[str, int]) -> Answer:
    one = worker(scene, rank, STILL.model_copy(update={"ranks": 2, "zero_stage": 2}), address)
    kept = keep_gradients(one)
    return {name: gradients(one, kept, scene, name, RANKS) for name in ACROSS_RANKS}


@pytest.mark.slow
def test_two_ranks_with_an_empty_cell(scene: Scene, whole: dict[str, tuple], tmp_path: Path) -> None:
    first, second = run_ranks(scene, 2, two_ranks, tmp_path)
    for name, (loss, norm, found) in first.items():
        assert loss + second[name][0] == pytest.approx(whole[name][0], rel=2e-5, abs=1e-7), name
        assert norm == pytest.approx(whole[name][1], rel=2e-5), name
        same(found, whole[name][2], name)


@pytest.mark.slow
def test_a_policy_gradient_raises_what_earned_and_lowers_what_did_not(scene: Scene) -> None:
    objective = ObjectiveConfig.model_validate({"divergence": "none", "reward": {"alpha": 1.0}})
    one = worker(
        scene, 0, LearnerConfig(lr=3e-4, freeze=(), zero_stage=0), free_address(), objective=objective
    )
    group = dataclasses.replace(
        scene.groups[0], scores=None, signals=(RolloutSignal(advantage=1.0), RolloutSignal(advantage=-1.0))
    )
    alone = dataclasses.replace(scene, groups=(group,))
    plan = plan_of(alone, [[[0]]])
    first = one.train_step(plan, alone.of(plan, 0)).student_logprobs
    for _ in range(3):
        last = one.train_step(plan, alone.of(plan, 0)).student_logprobs
    gain = {name: float((last[name] - first[name]).mean()) for name in first}  # type: ignore[operator]
    assert gain["0-0"] > 0.05 and gain["0-1"] < -0.05


@pytest.mark.slow
def test_a_step_without_a_trained_token_changes_nothing_yet(scene: Scene) -> None:
    """All answers right under rows: failures: a gradient of 0, and no division by 0."""
    one = worker(scene, 0, STILL, free_address())
    groups = [
        dataclasses.replace(
            group,
            signals=tuple(
                RolloutSignal(weights=np.zeros(len(rollout.response_ids), np.float32))
                for rollout in group.rollouts.rollouts
            ),
        )
        for group in scene.groups
    ]
    idle = dataclasses.replace(scene, groups=tuple(groups))
    plan = plan_of(idle, WHOLE)
    report = one.train_step(plan, idle.of(plan, 0))
    assert (plan.tokens, plan.sequences, report.tokens, report.loss, report.grad_norm) == (0, 0, 0, 0.0, 0.0)
    assert plan.policy_sequences == 8 and one.version == 1


@pytest.mark.slow
def test_signals_and_counts_that_do_not_fit_are_refused(scene: Scene) -> None:
    objective = ObjectiveConfig.model_validate({"reward": REWARD})
    one = worker(scene, 0, STILL, free_address(), objective=objective)

    def step(group: GroupInput, **changes: int) -> None:
        alone = dataclasses.replace(scene, groups=(group,))
        plan = dataclasses.replace(plan_of(alone, [[[0]]]), **changes)
        one.train_step(plan, alone.of(plan, 0))

    bare = scene.groups[0]
    with pytest.raises(MissingAdvantage, match="0 advantages came for 2 rollouts"):
        step(bare)
    good = dataclasses.replace(bare, signals=(RolloutSignal(advantage=1.0), RolloutSignal(advantage=0.0)))
    with pytest.raises(LearnerFault, match="in 2 responses are to be trained, the plan divides by 1 in 2"):
        step(good, policy_tokens=1)
    with pytest.raises(RecordError, match="2 rollouts and 1 signals"):
        one.train_step(plan_of(dataclasses.replace(scene, groups=(good,)), [[[0]]]), {
            0: dataclasses.replace(good, signals=good.signals[:1])
        })  # fmt: skip
    short = RolloutSignal(advantage=1.0, weights=np.ones(1, np.float32))
    with pytest.raises(RecordError, match="tokens and 1 weights"):
        one.train_step(plan_of(dataclasses.replace(scene, groups=(good,)), [[[0]]]), {
            0: dataclasses.replace(good, signals=(short, short))
        })  # fmt: skip
    assert one.version == 0
