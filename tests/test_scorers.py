"""One contract for both scorers, on multimodal contexts of a real model folder; vLLM runs for real, on the CPU."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from omniopsd.metrics import read
from omniopsd.mini_omni import write_mini_omni
from omniopsd.train import train
from rollout.config import ModelConfig
from rollout.evidence import MediaMismatch
from rollout.features import FeatureExtractor
from rollout.renderer import Renderer
from rollout.thinker import load_thinker
from teacher.config import TeacherConfig
from teacher.scorer import Scorer
from teacher.transformers_scorer import TransformersScorer
from teacher.types import GroupScore, PrivilegedContext, ScoreRequest
from teacher.worker import TeacherWorker
from tests.learner_scene import KINDS, Scene, make_scene
from tests.run_scene import run_config

pytestmark = pytest.mark.slow
TOP_K = 6
TOLERANCE = 1e-3


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """A head without padding rows: vLLM scores over all rows of a head, transformers over the tokenizer's."""
    folder = tmp_path_factory.mktemp("scorers")
    letters = np.random.default_rng(0).integers(97, 123, 15000).astype(np.uint8).tobytes().decode()
    words = " ".join(letters[at : at + 5] for at in range(0, len(letters), 5))
    write_mini_omni(folder / "model", size="tiny", corpus=[words], vocabulary=384)
    renderer = Renderer(folder / "model")
    assert renderer.vocab_size == 384
    return make_scene(folder, kinds=tuple(KINDS))


@pytest.fixture(scope="module")
def model(scene: Scene) -> ModelConfig:
    return scene.model.model_copy(update={"max_context": 512})


@pytest.fixture(scope="module", params=["transformers", "vllm"])
def worker(request: pytest.FixtureRequest, model: ModelConfig) -> Iterator[TeacherWorker]:
    extra = {"kv_cache_gib": 0.25} if request.param == "vllm" else {}
    yield TeacherWorker(0, model, TeacherConfig(scorer=request.param, weights="live", **extra), TOP_K)


def requests(scene: Scene) -> list[ScoreRequest]:
    return [
        ScoreRequest(
            context=PrivilegedContext(
                sample_id=f"s{at}", rendered=group.prompt, privilege="rationale", evidence_id=f"s{at}"
            ),
            rollout_ids=tuple(r.rollout_id for r in group.rollouts.rollouts),
            responses=tuple(r.response_ids for r in group.rollouts.rollouts),
        )
        for at, group in enumerate(scene.groups)
    ]


def reference(model: ModelConfig) -> tuple[torch.nn.Module, Scorer]:
    thinker = load_thinker(model.path, "float32").requires_grad_(False)
    return thinker, TransformersScorer(thinker, FeatureExtractor(model.path), max_pack_tokens=64)


def topk(scorer: Scorer, scene: Scene) -> list[GroupScore]:
    return scorer.score(requests(scene), support="topk", top_k=TOP_K, temperature=1.0)


def require_alike(found: list[GroupScore], wanted: list[GroupScore]) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert (one.sample_id, one.media_use) == (other.sample_id, other.media_use)
        for score, expected in zip(one.scores, other.scores, strict=True):
            assert score.rollout_id == expected.rollout_id
            assert score.logprobs == pytest.approx(expected.logprobs, abs=TOLERANCE)
            assert score.topk_logprobs == pytest.approx(expected.topk_logprobs, abs=TOLERANCE)
            assert score.topk_ids is not None and score.topk_ids.shape == expected.topk_ids.shape  # type: ignore[union-attr]


def test_scores_are_those_of_a_plain_forward_pass(
    worker: TeacherWorker, scene: Scene, model: ModelConfig
) -> None:
    found = worker.score(requests(scene), "topk", TOP_K, 1.0)
    require_alike(found, topk(reference(model)[1], scene))
    sampled = worker.score(requests(scene), "sampled", TOP_K, 1.0)
    assert sampled[3].scores[1].topk_ids is None
    assert sampled[3].scores[1].logprobs == pytest.approx(found[3].scores[1].logprobs, abs=TOLERANCE)


def test_it_scores_with_the_weights_that_it_was_told_to_hold(
    worker: TeacherWorker, scene: Scene, model: ModelConfig
) -> None:
    thinker, plain = reference(model)
    before = topk(plain, scene)
    changed = []
    for name, parameter in thinker.named_parameters():
        parameter.mul_(1.5)
        changed.append((name, parameter.detach().clone()))
    worker.weights.follow(changed)
    worker.scorer.hold(3, worker._parameters.items())
    found = worker.score(requests(scene), "topk", TOP_K, 1.0)
    assert {score.teacher_version for group in found for score in group.scores} == {3}
    require_alike(found, topk(plain, scene))
    assert np.abs(found[0].scores[0].logprobs - before[0].scores[0].logprobs).max() > 0.01


def test_greedy_answers_are_those_of_the_same_weights(worker: TeacherWorker, scene: Scene) -> None:
    contexts = [request.context for request in requests(scene)]
    answers = worker.answer(contexts, 4)
    assert [len(answer) for answer in answers] == [4] * len(contexts)
    again = worker.score(
        [dataclasses.replace(requests(scene)[0], rollout_ids=("a",), responses=(answers[0],))],
        "topk",
        TOP_K,
        1.0,
    )
    assert again[0].scores[0].topk_ids is not None
    assert again[0].scores[0].topk_ids[:, 0].tolist() == answers[0].tolist()


def test_another_medium_is_refused_by_the_teachers_name(worker: TeacherWorker, scene: Scene) -> None:
    request = requests(scene)[2]
    rendered = request.context.rendered
    swapped = (dataclasses.replace(rendered.media_use[0], digest="0" * 32),)
    context = dataclasses.replace(request.context, rendered=dataclasses.replace(rendered, media_use=swapped))
    with pytest.raises(MediaMismatch, match="teacher: sample s2: audio"):
        worker.score([dataclasses.replace(request, context=context)], "sampled", 0, 1.0)


def test_a_run_with_a_vllm_teacher_has_the_numbers_of_one_with_transformers(tmp_path: Path) -> None:
    losses = []
    for scorer in ("transformers", "vllm"):
        extra = {"kv_cache_gib": 0.25} if scorer == "vllm" else {}
        config = run_config(
            tmp_path / scorer,
            run={"steps": 2},
            teacher={"scorer": scorer, "weights": "ema", "ema": 0.5, **extra},
            objective={"support": "topk", "top_k": TOP_K},
        )
        losses.append([row["loss"] for row in read(train(config).metrics_path)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3) and losses[0][1] > 0
