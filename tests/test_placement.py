"""Placement groups: bundles and strategies of the three roles, and what does not fit."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from cluster.placement import ROLLOUT_LEARNER, TEACHER_LEARNER, Role, placement, require_fit, slots
from cluster.runtime import NotEnoughResources, Resources


def role(name: str, count: int, **resources: Any) -> Role:
    return Role(
        name=name, actors=tuple(f"{name}-{n}" for n in range(count)), resources=Resources(**resources)
    )


ROLES = [
    role("rollout", 2, cpus=4, gpus=4),
    role("teacher", 2, cpus=1, gpus=0.25),
    role("learner", 2, cpus=2, gpus=1),
]


def test_each_role_has_a_group_the_learner_first_and_packed() -> None:
    groups = placement(ROLES)
    assert [(group.name, group.strategy) for group in groups] == [
        ("learner", "PACK"), ("rollout", "SPREAD"), ("teacher", "SPREAD"),
    ]  # fmt: skip
    assert [bundle.asked() for bundle in groups[1].bundles] == [{"CPU": 4, "GPU": 4}] * 2
    assert {actor: (at, index) for actor, at, index, _ in slots(groups)} == {
        "learner-0": (0, 0), "learner-1": (0, 1), "rollout-0": (1, 0), "rollout-1": (1, 1),
        "teacher-0": (2, 0), "teacher-1": (2, 1),
    }  # fmt: skip


def test_a_role_without_gpus_asks_for_none() -> None:
    (group,) = placement([role("rollout", 1, cpus=2), role("teacher", 0)])  # nor does a role without actors
    assert group.bundles[0].asked() == {"CPU": 2}


def test_teacher_and_rank_share_one_gpu() -> None:
    groups = placement(ROLES, TEACHER_LEARNER)
    assert [group.name for group in groups] == ["learner+teacher", "rollout"]
    bundle = groups[0].bundles[1]
    assert bundle.asked() == {"CPU": 3, "GPU": 1}
    assert {actor: share.gpus for actor, share in bundle.shares.items()} == {
        "learner-1": 0.75,
        "teacher-1": 0.25,
    }


def test_an_engine_lies_on_the_gpus_of_its_ranks() -> None:
    roles = [role("rollout", 2, cpus=4, gpus=2), role("learner", 4, cpus=1, gpus=1), ROLES[1]]
    groups = placement(roles, ROLLOUT_LEARNER)
    assert [(group.name, group.strategy) for group in groups] == [
        ("learner+rollout", "PACK"), ("teacher", "SPREAD"),
    ]  # fmt: skip
    assert [bundle.asked() for bundle in groups[0].bundles] == [{"CPU": 6, "GPU": 2}] * 2
    shares = groups[0].bundles[1].shares
    assert {actor: (share.cpus, share.gpus) for actor, share in shares.items()} == {
        "learner-2": (1, 1), "learner-3": (1, 1), "rollout-1": (4, 0),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("engines", "gpus", "ranks", "own"), [(1, 2, 4, 1), (2, 1, 1, 1), (1, 0, 1, 1), (1, 1, 1, 0)]
)
def test_engines_that_do_not_cover_the_ranks_are_refused(
    engines: int, gpus: float, ranks: int, own: float
) -> None:
    roles = [role("rollout", engines, gpus=gpus), role("learner", ranks, gpus=own)]
    with pytest.raises(ValueError, match="cannot share those of"):
        placement(roles, ROLLOUT_LEARNER)


def test_an_engine_that_may_straddle_has_a_bundle_for_each_gpu_and_a_group_of_its_own() -> None:
    engines = dataclasses.replace(role("rollout", 2, cpus=4, gpus=3), straddles=True)
    groups = placement([engines, ROLES[2]])
    assert [(group.name, group.strategy) for group in groups] == [
        ("learner", "PACK"), ("rollout-0", "PACK"), ("rollout-1", "PACK"),
    ]  # fmt: skip
    # vLLM refuses a bundle with more than one GPU, and counts every bundle of the group as its own
    assert [bundle.asked() for bundle in groups[2].bundles] == [{"CPU": 4, "GPU": 1}, {"GPU": 1}, {"GPU": 1}]
    placed = {actor: (at, index, share) for actor, at, index, share in slots(groups)}
    assert placed["rollout-1"][:2] == (2, 0)
    assert placed["rollout-1"][2] == Resources(cpus=4, gpus=0)  # vLLM's workers reserve the GPUs
    small = [{"CPU": 8, "GPU": 2}] * 4
    require_fit(groups, small)
    with pytest.raises(NotEnoughResources, match="rollout-0: 4 CPUs and 3 GPUs are needed on one node"):
        require_fit(placement([dataclasses.replace(engines, straddles=False)]), small)
    with pytest.raises(NotEnoughResources, match="rollout-0: 4 CPUs and 1 GPUs are needed on one node"):
        require_fit(groups[1:], [{"CPU": 16, "GPU": 0}, {"CPU": 8, "GPU": 0.5}] + [{"GPU": 0.5}] * 11)


@pytest.mark.parametrize(("count", "gpus"), [(1, 0.25), (2, 0.0), (2, 1.0)])
def test_pairs_that_are_none_are_refused(count: int, gpus: float) -> None:
    with pytest.raises(ValueError, match="cannot share"):
        placement([role("learner", 2, gpus=1), role("teacher", count, gpus=gpus)], TEACHER_LEARNER)


def test_what_fits_passes_and_what_does_not_is_named() -> None:
    groups = placement(ROLES)
    require_fit(groups, [{"CPU": 8, "GPU": 8}, {"CPU": 8, "GPU": 4}])
    with pytest.raises(NotEnoughResources, match=r"asks for 10\.5 GPUs and the cluster has 8"):
        require_fit(groups, [{"CPU": 16, "GPU": 8}])
    with pytest.raises(NotEnoughResources, match="rollout-0: 4 CPUs and 4 GPUs are needed on one node"):
        require_fit(groups, [{"CPU": 8, "GPU": 2}] * 6)  # enough in sum, but no engine straddles nodes
