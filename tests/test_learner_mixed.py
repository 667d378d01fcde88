"""Two ranks with different modalities: no stall, and the loss of a single rank, for three steps.

Every ordered pair of kinds runs in one pair of processes for each ZeRO stage: the model is set up once,
and pair after pair is trained with it.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from learner.config import LearnerConfig
from tests.learner_scene import KINDS, Answer, Scene, free_address, make_scene, run_ranks, worker

pytestmark = pytest.mark.slow
STEPS = 3
PAIRS = list(itertools.product(range(len(KINDS)), repeat=2))


def two_ranks(stage: int):  # type: ignore[no-untyped-def]
    return {2: _stage_2, 3: _stage_3}[stage]


def _stage_2(scene: Scene, rank: int, address: tuple[str, int]) -> Answer:
    return _train_all(scene, rank, address, 2)


def _stage_3(scene: Scene, rank: int, address: tuple[str, int]) -> Answer:
    return _train_all(scene, rank, address, 3)


def _train_all(scene: Scene, rank: int, address: tuple[str, int], stage: int) -> Answer:
    one = worker(scene, rank, LearnerConfig(ranks=2, zero_stage=stage, freeze=(), lr=1e-3), address)  # type: ignore[arg-type]
    return {"losses": _losses(scene, one, rank, ranks=2)}


def _losses(scene: Scene, one, rank: int, ranks: int) -> list[float]:  # type: ignore[no-untyped-def]
    losses = []
    for left, right in PAIRS:
        other = right + len(KINDS)  # the second copy of each kind has its own media and responses
        cells = [[[left]], [[other]]] if ranks == 2 else [[[left], [other]]]
        for _ in range(STEPS):
            plan = scene.plan(cells, step=one.version + 1)
            losses.append(one.train_step(plan, scene.of(plan, rank)).loss)
    return losses


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return make_scene(tmp_path_factory.mktemp("scene"), (*KINDS, *KINDS))


@pytest.fixture(scope="module")
def alone(scene: Scene) -> list[float]:
    one = worker(scene, 0, LearnerConfig(zero_stage=0, freeze=(), lr=1e-3), free_address())
    return _losses(scene, one, 0, ranks=1)


@pytest.mark.parametrize("stage", [2, 3])
def test_every_pair_of_modalities(scene: Scene, alone: list[float], stage: int, tmp_path: Path) -> None:
    answers = run_ranks(scene, 2, two_ranks(stage), tmp_path)
    together = [a + b for a, b in zip(answers[0]["losses"], answers[1]["losses"], strict=True)]
    assert len(together) == len(PAIRS) * STEPS == 75
    assert together == pytest.approx(alone, rel=1e-3, abs=1e-6)
