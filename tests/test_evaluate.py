"""Evaluations: counts, the two greedy decoders, and `omniopsd eval` on a model folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from omniopsd.evaluate import EvalError, Evaluation, run_eval, tally
from omniopsd.prompts import PromptBook
from omniopsd.samples import read_samples
from rollout.config import RolloutConfig
from rollout.features import FeatureExtractor
from rollout.greedy import greedy_decode
from rollout.renderer import Renderer
from rollout.thinker import load_thinker
from rollout.transformers_engine import TransformersEngine
from tests.run_scene import run_config


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    config = run_config(tmp_path_factory.mktemp("scene"))
    samples = read_samples(config.data.train)
    book = PromptBook(
        samples,
        Renderer(config.model.path),
        model=config.model,
        media=config.data.media,
        teacher=config.teacher,
        max_new_tokens=8,
        seed=0,
    )
    return config, book


def test_counts_by_dataset(scene) -> None:  # type: ignore[no-untyped-def]
    _, book = scene
    right = f"<think>x</think><answer>{book.samples[0].labels[0]}</answer>"
    results = tally(book.samples, [right, *["nothing"] * 5])
    assert (results["n"], results["correct"], results["format_valid"]) == (6, 1, 1)
    assert sum(part["n"] for part in results["by_dataset"].values()) == 6
    assert sum(part["correct"] for part in results["by_dataset"].values()) == 1


def test_samples_without_labels_are_refused(scene) -> None:  # type: ignore[no-untyped-def]
    import dataclasses

    _, book = scene
    bare = [dataclasses.replace(book.samples[0], labels=())]
    with pytest.raises(EvalError, match=r"no labels \(1 such samples\)"):
        Evaluation(book, bare, 8)


def test_batched_greedy_answers_are_those_of_the_engine(scene) -> None:  # type: ignore[no-untyped-def]
    config, book = scene
    prompts = [book.prompt(sample) for sample in book.samples]
    engine = TransformersEngine(config.model, RolloutConfig(engine="transformers"), "engine")
    thinker = load_thinker(config.model.path, "float32")
    batched = greedy_decode(thinker, FeatureExtractor(config.model.path), [p.rendered for p in prompts], 8)
    one_by_one = engine.greedy(prompts, 8)
    assert all(np.array_equal(a, b) for a, b in zip(batched, one_by_one, strict=True))


@pytest.mark.slow
def test_eval_of_a_model_folder(scene, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    config, _ = scene
    settings = ["rollout.engine=transformers", "runtime.kind=inline", "rollout.max_new_tokens=4"]
    out = tmp_path / "eval.json"
    run_eval(config.model.path, config.data.train, overrides=settings, out=str(out))
    assert json.loads(out.read_text())["after"]["n"] == 6
