"""Answers to several prompts at once are the answers to each alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from omniopsd.prompts import make_book
from omniopsd.samples import read_samples
from rollout.config import RolloutConfig
from rollout.renderer import Renderer
from rollout.token_decoder import sampled_distribution
from rollout.transformers_engine import TransformersEngine
from rollout.types import Prompt, SamplingSpec
from tests.run_scene import run_config


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> tuple[TransformersEngine, list[Prompt]]:
    config = run_config(tmp_path_factory.mktemp("decoder"))
    samples = read_samples(config.data.train)
    book = make_book(config, samples, Renderer(config.model.path))
    engine = TransformersEngine(config.model, RolloutConfig(engine="transformers"), "engine")
    return engine, [book.prompt(sample) for sample in samples]


def test_prompts_of_different_lengths_do_not_see_each_other(
    scene: tuple[TransformersEngine, list[Prompt]],
) -> None:
    engine, prompts = scene
    assert len({len(prompt.rendered.token_ids) for prompt in prompts}) > 1
    spec = SamplingSpec(rollouts=2, max_new_tokens=12, temperature=1.0, top_p=1.0, top_k=0, seed=3)
    together = engine.generate(prompts, spec, 1)
    alone = [engine.generate([prompt], spec, 1)[0] for prompt in prompts]
    for one, other in zip(together, alone, strict=True):
        for left, right in zip(one.rollouts, other.rollouts, strict=True):
            assert left.response_ids.tolist() == right.response_ids.tolist()
            assert np.abs(left.rollout_logprobs - right.rollout_logprobs).max() < 1e-5


def test_sampled_and_scored_log_probs_agree(scene: tuple[TransformersEngine, list[Prompt]]) -> None:
    engine, prompts = scene
    spec = SamplingSpec(rollouts=1, max_new_tokens=12, temperature=1.0, top_p=1.0, top_k=0, seed=4)
    for prompt, group in zip(prompts, engine.generate(prompts, spec, 1), strict=True):
        scored = engine.score(prompt, group.rollouts[0].response_ids)
        assert np.abs(scored - group.rollouts[0].rollout_logprobs).max() < 1e-4


def test_greedy_answers_are_those_of_each_prompt_alone(
    scene: tuple[TransformersEngine, list[Prompt]],
) -> None:
    engine, prompts = scene
    together = engine.greedy(prompts, 8)
    assert [a.tolist() for a in together] == [engine.greedy([p], 8)[0].tolist() for p in prompts]


def test_cut_distributions_sum_to_one_and_keep_the_likeliest() -> None:
    logits = torch.tensor([[0.0, 3.0, 2.0, -1.0], [5.0, 0.0, 0.0, 0.0]])
    spec = SamplingSpec(rollouts=1, max_new_tokens=1, temperature=1.0, top_p=0.9, top_k=3, seed=0)
    probs = sampled_distribution(logits, spec).exp()
    assert torch.allclose(probs.sum(-1), torch.ones(2))
    assert (probs > 0).tolist() == [[False, True, True, False], [True, False, False, False]]
