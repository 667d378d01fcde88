"""Two ranks at once: mixed modalities, faults of one rank, state, and the group over Ray."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

import learner.engine
from cluster.ray_runtime import RayRuntime
from cluster.runtime import InlineRef
from learner.config import LearnerConfig, LoraConfig, ObjectiveConfig
from learner.engine import LearnerFault, join_ranks
from learner.group import LearnerGroup
from learner.worker import LearnerWorker, PeerFault
from rollout.config import WeightsConfig
from rollout.evidence import MediaMismatch
from rollout.weights import WeightDigest
from teacher.config import TeacherConfig
from tests.learner_scene import (
    KINDS,
    Answer,
    Scene,
    free_address,
    full_weights,
    make_scene,
    run_ranks,
    worker,
)

pytestmark = pytest.mark.slow

STEPS = 3
TRAIN = LearnerConfig(ranks=2, lr=1e-4, freeze=())
# the group of the first rank and those of the second: another copy of each kind, or nothing at all
PAIRS = [(first, second) for first in range(5) for second in ((), (5,), (6,), (7,), (8,), (9,))]


def split_everything() -> None:
    """A tiny model's weights would all stay whole on every rank, and ZeRO-3 would gather nothing."""
    learner.engine.WHOLE_NUMBERS = 0


def step(one: LearnerWorker, scene: Scene, cells: list, rank: int, **changes: object) -> float:
    plan = scene.plan(cells)
    groups = scene.of(plan, rank)
    if changes:
        groups = {at: dataclasses.replace(group, **changes) for at, group in groups.items()}
    return one.train_step(plan, groups).loss


def every_pair(scene: Scene, rank: int, address: tuple[str, int]) -> Answer:
    split_everything()
    losses = {}
    for stage in (2, 3):
        one = worker(scene, rank, TRAIN.model_copy(update={"zero_stage": stage}), address)
        for pair in PAIRS:
            cells = [[[pair[0]]], [[*pair[1]]]]
            losses[stage, pair] = [step(one, scene, cells, rank) for _ in range(STEPS)]
    return losses


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return make_scene(tmp_path_factory.mktemp("ranks"), kinds=(*KINDS, *KINDS))


def leave(scene: Scene, rank: int, address: tuple[str, int]) -> Answer:
    """End with collectives still on their way."""
    join_ranks(rank=rank, ranks=2, host=address[0], port=address[1], gpu=False, timeout_seconds=60)
    for _ in range(300):
        own = torch.zeros(20_000)
        torch.distributed.all_gather([torch.empty_like(own) for _ in range(2)], own, async_op=True)
    return {}


def test_a_rank_with_open_collectives_ends_without_an_abort(scene: Scene, tmp_path: Path) -> None:
    assert run_ranks(scene, 2, leave, tmp_path) == [{}, {}]


def test_every_pair_of_modalities_trains_as_on_one_rank(scene: Scene, tmp_path: Path) -> None:
    first, second = run_ranks(scene, 2, every_pair, tmp_path)
    alone = worker(scene, 0, TRAIN.model_copy(update={"ranks": 1, "zero_stage": 0}), free_address())
    for pair in PAIRS:
        wanted = [step(alone, scene, [[[pair[0], *pair[1]]]], 0) for _ in range(STEPS)]
        for stage in (2, 3):
            found = np.add(first[stage, pair], second[stage, pair])
            assert found == pytest.approx(wanted, rel=1e-4), (stage, pair)


def faults(scene: Scene, rank: int, address: tuple[str, int]) -> Answer:
    """Only rank 1 has something wrong; both must stop, with their weights as they were."""
    split_everything()
    answer: Answer = {}
    for stage in (1, 2, 3):
        one = worker(scene, rank, TRAIN.model_copy(update={"zero_stage": stage}), address)
        before = full_weights(one)
        score = scene.groups[1].scores.get()[0]
        bad = tuple(dataclasses.replace(s, hidden=np.full_like(s.hidden, np.inf)) for s in score.scores)
        poison = InlineRef([dataclasses.replace(score, scores=bad)])
        other = InlineRef([dataclasses.replace(score, media_use=())])
        answer[stage, "media"] = failure(one, scene, rank, scores=other)
        handle = one.policy.thinker.model.norm.weight.register_hook(lambda g: g * np.nan) if rank else None
        answer[stage, "gradient"] = failure(one, scene, rank)
        if handle is not None:
            handle.remove()
        answer[stage, "loss"] = failure(one, scene, rank, scores=poison)
        after = full_weights(one)
        answer[stage, "same"] = all(torch.equal(after[name], before[name]) for name in before)
        answer[stage, "version"] = one.version
    return answer


def failure(one: LearnerWorker, scene: Scene, rank: int, **changes: object) -> str:
    try:
        step(one, scene, [[[0]], [[1]]], rank, **(changes if rank == 1 else {}))
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def test_a_fault_on_one_rank_stops_both_before_any_weight_changes(scene: Scene, tmp_path: Path) -> None:
    answers = run_ranks(scene, 2, faults, tmp_path)
    for stage in (1, 2, 3):
        assert answers[0][stage, "media"].startswith(PeerFault.__name__)
        assert answers[1][stage, "media"].startswith(f"{MediaMismatch.__name__}: teacher: sample s1")
        for answer in answers:
            assert answer[stage, "gradient"].startswith(f"{LearnerFault.__name__}: step 1: the gradient norm")
            assert answer[stage, "loss"].startswith(f"{LearnerFault.__name__}: step 1: the loss")
            assert answer[stage, "same"] and answer[stage, "version"] == 0


def resume(scene: Scene, rank: int, address: tuple[str, int]) -> Answer:
    split_everything()
    answer: Answer = {}
    folder = Path(scene.model.path).parent / "states"
    cells = [[[0], [4]], [[3], []]]
    kinds = [(1, None, ()), (2, None, ("vision",)), (3, None, ()), (3, LoraConfig(rank=2), ())]
    for number, (stage, lora, freeze) in enumerate(kinds):
        config = TRAIN.model_copy(update={"zero_stage": stage, "lora": lora, "freeze": freeze})
        one = worker(scene, rank, config, address)
        for _ in range(2):
            step(one, scene, cells, rank)
        one.save(str(folder / str(number)))
        straight = [step(one, scene, cells, rank) for _ in range(2)]
        again = worker(scene, rank, config, address)
        again.load(str(folder / str(number)))
        resumed = [step(again, scene, cells, rank) for _ in range(2)]
        one_weights, weights = full_weights(one), full_weights(again)
        answer[number] = (
            straight == resumed,
            all(torch.equal(weights[name], tensor) for name, tensor in one_weights.items()),
            all(torch.equal(a, b) for a, b in zip(one.engine._masters, again.engine._masters, strict=True)),
        )
        answer[number, "weights"] = weights
    return answer


def test_a_resumed_pair_is_bit_identical_and_both_hold_the_same(scene: Scene, tmp_path: Path) -> None:
    first, second = run_ranks(scene, 2, resume, tmp_path)
    for number in range(4):
        assert first[number] == second[number] == (True, True, True), number
        for name, tensor in first[number, "weights"].items():
            assert torch.equal(tensor, second[number, "weights"][name]), (number, name)


def test_the_group_over_ray(scene: Scene, tmp_path: Path) -> None:
    runtime = RayRuntime(address="local", cpus=2, object_store_bytes=100_000_000)
    try:
        group = LearnerGroup(
            runtime,
            scene.model,
            TRAIN.model_copy(update={"zero_stage": 3, "cpus": 0.5}),
            ObjectiveConfig(),
            TeacherConfig(weights="live"),
            WeightsConfig(chunk_bytes=1_000_000),
        )
        group.wait_ready()
        plan = scene.plan([[[0, 1]], [[4]]])
        groups = {
            at: dataclasses.replace(one, scores=runtime.put(one.scores.get()))
            for at, one in enumerate(scene.groups)
        }
        foreign = dataclasses.replace(groups[4], scores=groups[3].scores)
        with pytest.raises(ValueError, match="s4"):  # rank 1 says what is wrong, rank 0 only noticed
            group.step(plan, groups | {4: foreign})
        result = group.step(plan, groups)
        alone = worker(scene, 0, TRAIN.model_copy(update={"ranks": 1, "zero_stage": 0}), free_address())
        assert result.loss == pytest.approx(step(alone, scene, [[[0, 1, 4]]], 0), rel=1e-5)
        assert result.version == 1
        update, digest = group.publish(), WeightDigest()
        sent = {}
        for chunk in update.chunks:
            for wire in chunk.get(60):
                digest.add(wire)
                sent[wire.name] = np.array(wire.data).view(np.float32).reshape(wire.shape)
        assert digest.hexdigest() == update.digest
        for name, tensor in full_weights(alone).items():
            assert sent[name] == pytest.approx(tensor.numpy(), abs=2e-5), name
        response = scene.groups[3].rollouts.rollouts[0].response_ids
        probe = group.probe(scene.groups[3].prompt, response, 1.0)
        assert probe == pytest.approx(alone.probe(scene.groups[3].prompt, response, 1.0), abs=1e-3)
        group.save(str(tmp_path))
        assert group.load(str(tmp_path)) == 1
    finally:
        runtime.shutdown()
