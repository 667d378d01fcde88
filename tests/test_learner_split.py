"""How a step is cut leaves no trace: gradients equal those of one rank with everything in one cell."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import learner.engine
from learner.config import LearnerConfig
from tests.learner_scene import Answer, Scene, free_address, keep_gradients, make_scene, run_ranks, worker

pytestmark = pytest.mark.slow

STILL = LearnerConfig(lr=1e-30, max_grad_norm=1e9, freeze=(), zero_stage=0)  # weights stay where they are
WHOLE = [[[0, 1, 2, 3, 4, 5, 6, 7]]]
ALONE = [[[at] for at in range(8)]]
HALVES = [[[0, 1, 2, 3]], [[4, 5, 6, 7]]]
SINGLES = [[[0], [2], [4], [6]], [[1], [3], [5], [7]]]
REVERSED = [[[7, 6], [5, 4]], [[3, 2], [1, 0]]]
LOPSIDED = [[[0, 1, 2, 3, 4], [5, 6, 7]], [[], []]]


def gradients(
    scene: Scene, rank: int, address: tuple[str, int], ranks: int, stage: int, cuts: dict
) -> Answer:
    """Loss, norm and gradients of one step for every cut; a name with "padded" is not packed."""
    config = STILL.model_copy(update={"ranks": ranks, "zero_stage": stage})
    one = worker(scene, rank, config, address)
    kept = keep_gradients(one)
    answer = {}
    for name, cells in cuts.items():
        one.learner = config.model_copy(update={"packing": "padded" not in name})
        plan = scene.plan(cells)
        report = one.train_step(plan, scene.of(plan, rank))
        answer[f"stage {stage}, {name}"] = (report.loss, report.grad_norm, dict(kept))
    return answer


def two_ranks(scene: Scene, rank: int, address: tuple[str, int]) -> Answer:
    learner.engine.WHOLE_NUMBERS = 0  # or a tiny model's weights would all stay whole on every rank
    cuts = {"halves": HALVES, "singles": SINGLES, "reversed padded": REVERSED, "lopsided": LOPSIDED}
    answer = {}
    for stage in (0, 1, 2, 3):
        answer |= gradients(scene, rank, address, 2, stage, cuts)
    return answer


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return make_scene(tmp_path_factory.mktemp("split"))


@pytest.fixture(scope="module")
def whole(scene: Scene) -> tuple:
    return gradients(scene, 0, free_address(), 1, 0, {"whole": WHOLE})["stage 0, whole"]


def same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], where: str) -> None:
    assert set(found) == set(wanted)
    size = torch.sqrt(sum((g.double() ** 2).sum() for g in wanted.values()))
    error = torch.sqrt(sum(((found[name] - wanted[name]).double() ** 2).sum() for name in wanted))
    assert error / size < 1e-5, f"{where}: {float(error / size):.2e}"


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_one_rank_in_any_micro_batches(scene: Scene, whole: tuple, stage: int) -> None:
    cuts = {"whole": WHOLE, "alone": ALONE, "padded": WHOLE}
    for name, (loss, norm, found) in gradients(scene, 0, free_address(), 1, stage, cuts).items():
        assert loss == pytest.approx(whole[0], rel=1e-5)
        assert norm == pytest.approx(whole[1], rel=1e-5)
        same(found, whole[2], name)


@pytest.mark.slow
def test_two_ranks_at_every_stage(scene: Scene, whole: tuple, tmp_path: Path) -> None:
    first, second = run_ranks(scene, 2, two_ranks, tmp_path)
    for name, (loss, norm, found) in first.items():
        assert loss + second[name][0] == pytest.approx(whole[0], rel=1e-5), name
        assert norm == pytest.approx(whole[1], rel=1e-5), name
        same(found, whole[2], name)
        same(second[name][2], whole[2], name)
