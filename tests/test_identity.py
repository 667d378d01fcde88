"""A live teacher without privilege is the student: no loss, no gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cluster.runtime import InlineRef
from learner.config import LearnerConfig, ObjectiveConfig
from learner.group_input import GroupInput
from rollout.features import FeatureExtractor
from rollout.thinker import load_thinker
from teacher.config import TeacherConfig
from teacher.transformers_scorer import TransformersScorer
from teacher.types import PrivilegedContext, ScoreRequest
from tests.learner_scene import Scene, free_address, keep_gradients, make_scene, worker

pytestmark = pytest.mark.slow

KINDS = ("text", "video+audio")
FULL = [("jsd", "full"), ("forward_kl", "full"), ("reverse_kl", "full")]


def without_privilege(scene: Scene, support: str) -> tuple[GroupInput, ...]:
    """The scene's rollouts, scored by the student's own weights under the student's own prompt."""
    thinker = load_thinker(scene.model.path, scene.model.dtype)
    scorer = TransformersScorer(thinker, FeatureExtractor(scene.model.path), max_pack_tokens=4096)
    groups = []
    for group in scene.groups:
        rollouts = group.rollouts.rollouts
        context = PrivilegedContext(
            sample_id=group.rollouts.sample_id, rendered=group.prompt, privilege="none", evidence_id=""
        )
        request = ScoreRequest(
            context=context,
            rollout_ids=tuple(rollout.rollout_id for rollout in rollouts),
            responses=tuple(rollout.response_ids for rollout in rollouts),
        )
        scores = scorer.score([request], support=support, top_k=8, temperature=1.0)  # type: ignore[arg-type]
        groups.append(GroupInput(prompt=group.prompt, rollouts=group.rollouts, scores=InlineRef(scores)))
    return tuple(groups)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return make_scene(tmp_path_factory.mktemp("scene"), KINDS)


@pytest.mark.parametrize(
    ("divergence", "support"), [*FULL, ("jsd", "topk"), ("reverse_kl", "topk"), ("sampled", "sampled")]
)
def test_no_loss_and_no_gradient(scene: Scene, divergence: str, support: str) -> None:
    objective = ObjectiveConfig(divergence=divergence, support=support, top_k=8)  # type: ignore[arg-type]
    learner = LearnerConfig(freeze=(), zero_stage=0)
    teacher = TeacherConfig(privilege="none", weights="live")
    one = worker(scene, 0, learner, free_address(), objective=objective, teacher=teacher)
    gradients = keep_gradients(one)
    same = Scene(scene.model, scene.kinds, without_privilege(scene, support))
    plan = same.plan([[tuple(range(len(KINDS)))]])
    report = one.train_step(plan, same.of(plan, 0))
    assert abs(report.loss) < 1e-6
    # the reverse KL's gradient is exact zero only where the two log-probs are equal to the last bit
    assert max(float(gradient.abs().max()) for gradient in gradients.values()) < 1e-6


def test_the_same_with_privilege_is_not_zero(scene: Scene) -> None:
    one = worker(scene, 0, LearnerConfig(freeze=(), zero_stage=0), free_address())
    gradients = keep_gradients(one)
    plan = scene.plan([[tuple(range(len(KINDS)))]])
    report = one.train_step(plan, scene.of(plan, 0))
    assert report.loss > 1e-4
    assert max(float(gradient.abs().max()) for gradient in gradients.values()) > 1e-4
    assert np.isfinite(report.loss) and torch.isfinite(torch.tensor(report.grad_norm))
