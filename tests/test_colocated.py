"""The learner as its own frozen teacher, adapters off: the numbers of a pool, on one rank and on uneven ones."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import learner.engine
from cluster.runtime import InlineRef
from learner.config import LearnerConfig, LoraConfig, ObjectiveConfig
from learner.worker import ForeignRecord
from omniopsd.config_file import ConfigError
from omniopsd.metrics import read
from omniopsd.train import train
from rollout.evidence import MediaMismatch
from rollout.messages import MediaPart, Message, TextPart
from rollout.renderer import Renderer
from rollout.types import RecordError
from teacher.config import TeacherConfig
from teacher.types import PrivilegedContext
from tests.learner_scene import Answer, Scene, free_address, make_scene, run_ranks, worker
from tests.run_scene import run_config

LORA = {"lora": {"rank": 4, "alpha": 8.0}, "lr": 0.02, "freeze": []}
LEARNER = LearnerConfig(lr=0.02, lora=LoraConfig(rank=4, alpha=8.0), zero_stage=0)
TEACHER = TeacherConfig(scorer="colocated", weights="frozen")
NUMBERS = ("loss", "divergence", "teacher_gain", "grad_norm")

REFUSED = [
    ({}, "set learner.lora"),
    ({"learner": LORA, "teacher": {"weights": "ema"}}, "write frozen"),
    ({"learner": LORA, "objective": {"support": "topk"}}, "keeps a part"),
    ({"learner": LORA, "teacher": {"replicas": 2}}, "no effect with scorer: colocated"),
]


@pytest.mark.parametrize(("sections", "words"), REFUSED)
def test_settings_that_contradict_it(sections: dict, words: str, tmp_path: Path) -> None:
    teacher = {"scorer": "colocated", "weights": "frozen"} | sections.get("teacher", {})
    with pytest.raises(ConfigError, match=words):
        run_config(tmp_path, **(sections | {"teacher": teacher}))


@pytest.mark.slow
@pytest.mark.parametrize("contrast", [None, "reference_only", "anchored"])
def test_a_run_has_the_numbers_of_one_with_a_pool(contrast: str | None, tmp_path: Path) -> None:
    rows = []
    for scorer in ("transformers", "colocated"):
        objective = {"contrast": {"kind": contrast}} if contrast else {}
        config = run_config(
            tmp_path / scorer,
            teacher={"scorer": scorer, "weights": "frozen"},
            learner=LORA,
            objective=objective,
        )
        rows.append(read(train(config).metrics_path))
    assert [row["teacher_version"] for row in rows[1]] == [0, 0, 0]
    for pool, own in zip(*rows, strict=True):
        assert [own[name] for name in NUMBERS] == pytest.approx(
            [pool[name] for name in NUMBERS], rel=1e-4, abs=1e-6
        )
    assert rows[1][2]["loss"] > 1e-5


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Groups that come with a context each, and without any score."""
    plain = make_scene(tmp_path_factory.mktemp("colocated"), kinds=("text", "audio", "video+audio", "image"))
    renderer = Renderer(plain.model.path)
    groups = []
    for at, group in enumerate(plain.groups):
        prompt = group.prompt
        kinds = [medium.kind for medium in prompt.media]
        parts = [MediaPart(kind=kind) for kind in kinds if not (prompt.audio_in_video and kind == "audio")]
        message = Message(role="user", parts=(*parts, TextPart(text=f"q{at} and a hint {'xyz' * at}")))
        rendered = renderer.render([message], prompt.media, audio_in_video=prompt.audio_in_video)
        context = PrivilegedContext(
            sample_id=f"s{at}", rendered=rendered, privilege="rationale", evidence_id=f"s{at}"
        )
        groups.append(dataclasses.replace(group, scores=None, contexts=(InlineRef(context),)))
    return dataclasses.replace(plain, groups=tuple(groups))


def steps(
    scene: Scene, rank: int, address: tuple[str, int], config: LearnerConfig, cells: list
) -> list[float]:
    one = worker(scene, rank, config, address, teacher=TEACHER, objective=ObjectiveConfig())
    losses = []
    for number in (1, 2, 3):
        plan = scene.plan(cells, number)
        losses.append(one.train_step(plan, scene.of(plan, rank)).loss)
    return losses


def two_ranks(scene: Scene, rank: int, address: tuple[str, int]) -> Answer:
    learner.engine.WHOLE_NUMBERS = 0
    config = LEARNER.model_copy(update={"ranks": 2, "zero_stage": 3})
    return {"losses": steps(scene, rank, address, config, [[[0, 1, 2], [3]], [[], []]])}


@pytest.mark.slow
def test_ranks_without_work_join_the_teachers_passes(scene: Scene, tmp_path: Path) -> None:
    whole = steps(scene, 0, free_address(), LEARNER, [[[0, 1, 2, 3]]])
    ranks = run_ranks(scene, 2, two_ranks, tmp_path)
    assert np.sum([one["losses"] for one in ranks], axis=0) == pytest.approx(whole, rel=1e-3)
    assert whole[2] > 1e-6 and ranks[1]["losses"] == [0.0] * 3


@pytest.mark.slow
def test_a_context_that_is_missing_or_has_other_media_is_refused(scene: Scene) -> None:
    one = worker(scene, 0, LEARNER, free_address(), teacher=TEACHER)
    plan = scene.plan([[[1]]])
    bare = dataclasses.replace(scene.groups[1], contexts=())
    with pytest.raises(ForeignRecord, match="s1: 0 contexts came for a teacher that makes 1"):
        one.train_step(plan, {1: bare})
    (ref,) = scene.groups[2].contexts
    other = dataclasses.replace(scene.groups[1], contexts=(ref,))
    with pytest.raises(RecordError, match="s1: came with the context of .'s2'"):
        one.train_step(plan, {1: other})
    renamed = dataclasses.replace(ref.get(), sample_id="s1")
    other = dataclasses.replace(scene.groups[1], contexts=(InlineRef(renamed),))
    with pytest.raises(MediaMismatch, match="teacher: sample s1"):
        one.train_step(plan, {1: other})
