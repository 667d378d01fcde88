"""A teacher split over two processes: the numbers of the whole one, under every rule, and what a failing rank says."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from cluster.config import RuntimeConfig
from cluster.placement import placement
from cluster.ray_runtime import RayRanks
from cluster.runtime import InlineRef, NotEnoughResources, RuntimeFault, start_runtime
from omniopsd.build import teacher_role
from omniopsd.metrics import read
from omniopsd.mini_omni import write_mini_omni
from omniopsd.train import train
from rollout.thinker import read_weights
from rollout.types import WeightUpdate
from rollout.weights import WeightDigest, chunk_tensors
from teacher.config import TeacherConfig
from teacher.pool import ScoreSpec, TeacherPool, resources
from teacher.shards import Member, undivided, whole_tensors
from teacher.types import GroupScore, TeacherRule
from teacher.weights import AVERAGE_FILE, COPY_FILE, TeacherWeights
from teacher.worker import TeacherWorker
from tests.learner_scene import KINDS, Answer, Scene, make_scene, run_ranks
from tests.run_scene import run_config
from tests.test_scorers import requests

RANKS, TOP_K, TOLERANCE = 2, 6, 1e-5
RULES: tuple[TeacherRule, ...] = ("frozen", "live", "hard", "gated", "ema", "trust_region")
SPLIT = TeacherConfig(weights="ema", ema=0.5, tensor_parallel_size=RANKS, timeout_seconds=300.0)
WHOLE = SPLIT.model_copy(update={"tensor_parallel_size": 1})


# --- what it reserves ----------------------------------------------------------------------------


def test_the_ranks_of_a_teacher_are_one_bundle_and_share_what_it_reserves() -> None:
    config = TeacherConfig(tensor_parallel_size=4, gpus=4, cpus=8)
    (group,) = placement([teacher_role(config, 2)])
    assert [bundle.asked() for bundle in group.bundles] == [{"CPU": 8, "GPU": 4}] * 2
    assert list(group.bundles[1].shares) == [f"teacher-1-rank-{rank}" for rank in range(4)]
    assert {(share.cpus, share.gpus) for share in group.bundles[1].shares.values()} == {(2, 1)}


def test_ranks_without_gpus_see_none() -> None:
    assert resources(TeacherConfig(tensor_parallel_size=2)).env["CUDA_VISIBLE_DEVICES"] == ""
    assert "CUDA_VISIBLE_DEVICES" not in resources(TeacherConfig(tensor_parallel_size=2, gpus=2)).env
    assert "CUDA_VISIBLE_DEVICES" not in resources(TeacherConfig()).env


def test_a_vllm_teacher_is_one_actor_whatever_its_size() -> None:
    config = TeacherConfig(scorer="vllm", tensor_parallel_size=4, gpus=4)
    (group,) = placement([teacher_role(config, 1)])
    assert [dict(bundle.shares) for bundle in group.bundles] == [{"teacher-0": resources(config)}]
    assert resources(config).gpus == 4


def test_sizes_that_the_ranks_do_not_divide_are_named() -> None:
    text = {"num_attention_heads": 28, "num_key_value_heads": 4, "intermediate_size": 18944}  # the 7B
    assert undivided({"text_config": text}, 4) == []
    assert undivided({"text_config": text}, 8) == ["num_attention_heads 28", "num_key_value_heads 4"]
    assert undivided({"text_config": text | {"intermediate_size": 18945}}, 2) == ["intermediate_size 18945"]


def test_one_process_cannot_hold_several_ranks() -> None:
    with pytest.raises(NotEnoughResources, match="teacher-0: its 2 ranks need a process each"):
        start_runtime(RuntimeConfig(kind="inline")).together("teacher-0", [None, None])  # type: ignore[arg-type]


# --- its numbers -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    folder = tmp_path_factory.mktemp("teacher-ranks")
    write_mini_omni(folder / "model", size="mini")  # 4 heads, 2 key-value heads
    return make_scene(folder, kinds=tuple(KINDS))


def student(shapes: dict[str, tuple[int, ...]], version: int) -> dict[str, Tensor]:
    """The student's weights of a version, whole: far from those that the teacher begins with."""
    made = torch.Generator().manual_seed(version)
    return {name: 0.1 * torch.randn(shape, generator=made) for name, shape in shapes.items()}


def push(weights: dict[str, Tensor], version: int) -> WeightUpdate:
    digest, chunks = WeightDigest(), list(chunk_tensors(weights.items(), 200_000))
    for chunk in chunks:
        for wire in chunk:
            digest.add(wire)
    return WeightUpdate(version=version, chunks=tuple(map(InlineRef, chunks)), digest=digest.hexdigest())


def life(worker: TeacherWorker, scene: Scene, folder: Path) -> Answer:
    """What a teacher says and writes: before and after a push, and under each rule over two and a checkpoint."""
    asked, answer = requests(scene), {}
    shapes = {name: tuple(p.shape) for name, p in worker._parameters.items()}
    for name, version in (("first", 0), ("pushed", 1)):
        if version:
            answer["receipt"] = worker.update(push(student(shapes, version), version))
        for support in ("full", "topk", "sampled"):
            answer[name, support] = worker.score(asked, support, TOP_K, 1.0)
        answer[name, "answer"] = worker.answer([request.context for request in asked], 4)
    for rule in RULES:
        answer[rule] = rule_life(worker, shapes, rule, folder / rule)
    return answer


def rule_life(
    worker: TeacherWorker, shapes: dict[str, tuple[int, ...]], rule: TeacherRule, folder: Path
) -> dict[str, Tensor]:
    parameters, writes = worker._parameters, worker.weights.writes
    config = worker.weights.config.model_copy(update={"weights": rule})
    TeacherWeights(parameters, config.model_copy(update={"weights": "live"})).follow(
        student(shapes, 2).items()
    )
    weights = TeacherWeights(parameters, config, writes=writes)
    weights.follow(student(shapes, 3).items())
    if writes:
        folder.mkdir(parents=True)
    weights.save(folder)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
    if rule in ("ema", "hard", "gated"):
        resumed = TeacherWeights(parameters, config, writes=writes)
        weights.follow(student(shapes, 4).items())
        resumed.load(folder)
        weights = resumed
    weights.follow(student(shapes, 5).items())
    return dict(
        whole_tensors(((n, w.weight.detach().clone()) for n, w in weights._followed.items()), parameters)
    )


def ranks_life(scene: Scene, rank: int, address: tuple[str, int]) -> Answer:
    member = Member(rank=rank, ranks=RANKS, meeting=f"test-{address[1]}-{os.getppid()}")
    worker = TeacherWorker(0, scene.model, SPLIT, TOP_K, member)
    held = sum(p.to_local().numel() if hasattr(p, "to_local") else 0 for p in worker._parameters.values())
    folder = Path(scene.model.path).parent / "split"
    return life(worker, scene, folder) | {"name": worker.name, "held": held}


@pytest.mark.slow
def test_two_ranks_have_the_numbers_of_one_teacher(scene: Scene, tmp_path: Path) -> None:
    whole = TeacherWorker(0, scene.model, WHOLE, TOP_K)
    wanted = life(whole, scene, tmp_path / "whole")
    found, other = run_ranks(scene, RANKS, ranks_life, tmp_path)
    assert (found["name"], other["name"]) == ("teacher-0-rank-0", "teacher-0-rank-1")
    layers = sum(
        p.numel()
        for name, p in whole._parameters.items()
        if name.startswith("model.layers.") and "_proj" in name
    )
    assert found["held"] == other["held"] == layers // RANKS
    assert found["receipt"].digest == wanted["receipt"].digest
    for when in ("first", "pushed"):
        for support in ("full", "topk", "sampled"):
            require_alike(found[when, support], wanted[when, support])
        for one, same in zip(found[when, "answer"], wanted[when, "answer"], strict=True):
            assert one.tolist() == same.tolist()
    moved = found["pushed", "full"][0].scores[0].hidden - found["first", "full"][0].scores[0].hidden
    assert np.abs(moved).max() > 0.1
    for rule in RULES:
        for name, weight in wanted[rule].items():
            assert torch.equal(found[rule][name], weight), (rule, name)
        require_same_files(Path(scene.model.path).parent / "split" / rule, tmp_path / "whole" / rule)


def require_alike(found: list[GroupScore], wanted: list[GroupScore]) -> None:
    for group, same in zip(found, wanted, strict=True):
        assert (group.sample_id, group.media_use) == (same.sample_id, same.media_use)
        for score, other in zip(group.scores, same.scores, strict=True):
            assert (score.rollout_id, score.teacher_version) == (other.rollout_id, other.teacher_version)
            assert score.head_digest == other.head_digest
            for name in ("logprobs", "topk_ids", "topk_logprobs", "hidden"):
                one, two = getattr(score, name), getattr(other, name)
                assert (one is None) == (two is None)
                if one is not None:
                    np.testing.assert_allclose(one, two, rtol=0, atol=TOLERANCE, err_msg=name)


def require_same_files(found: Path, wanted: Path) -> None:
    assert sorted(file.name for file in found.iterdir()) == sorted(file.name for file in wanted.iterdir())
    for file in (AVERAGE_FILE, COPY_FILE):
        if (wanted / file).exists():
            ours, theirs = load_file(found / file), load_file(wanted / file)
            assert list(ours) == list(theirs)
            assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


# --- over Ray ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_checkpoint_comes_back_and_a_dead_rank_is_named(scene: Scene, tmp_path: Path) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in read_weights(scene.model.path)}
    update = push(student(shapes, 1), 1)
    runtime = start_runtime(RuntimeConfig(kind="ray", cpus=2))
    try:
        runtime.reserve(placement([teacher_role(SPLIT, 1)]))
        pool = TeacherPool(
            runtime, scene.model, SPLIT, ScoreSpec(support="sampled", top_k=TOP_K, temperature=1.0)
        )
        pool.wait_ready()
        before = pool.score(requests(scene)).get(120.0)
        pool.save(str(tmp_path))
        pool.confirm(pool.push(update), update, 120.0)
        assert pool.score(requests(scene)).get(120.0)[0].scores[0].teacher_version == 1
        pool.resume(str(tmp_path), update, 120.0)
        require_alike(pool.score(requests(scene)).get(120.0), before)
        (teacher,) = pool.actors
        assert isinstance(teacher, RayRanks)
        pid = teacher.ranks[1].call(lambda worker: os.getpid()).get(60.0)
        refs = [pool.score(requests(scene) * 4) for _ in range(3)]
        os.kill(pid, 9)
        with pytest.raises(RuntimeFault, match="teacher-0-rank-1.score: the actor died"):
            refs[-1].get(120.0)
    finally:
        runtime.shutdown()


@pytest.mark.slow
def test_a_run_with_a_split_teacher_has_the_numbers_of_one_with_a_whole_one(tmp_path: Path) -> None:
    losses, averages = [], []
    for size in (1, RANKS):
        folder = tmp_path / str(size)
        write_mini_omni(folder / "model", size="mini")
        config = run_config(
            folder,
            run={"steps": 2},
            teacher={"weights": "ema", "ema": 0.5, "tensor_parallel_size": size},
            runtime={"kind": "inline"} if size == 1 else {"kind": "ray", "cpus": 3},
        )
        run = train(config)
        losses.append([row["loss"] for row in read(run.metrics_path)])
        newest = max(run.checkpoints_path.glob("step_*"))
        averages.append(load_file(newest / "teacher" / AVERAGE_FILE))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4) and losses[0][1] > 0
    assert list(averages[0]) == list(averages[1])
    for name, average in averages[0].items():
        torch.testing.assert_close(averages[1][name], average, rtol=0, atol=1e-5)
