"""Engine and learner compute the same: 20 steps and pushes under vLLM, on multimodal prompts, float32."""

from __future__ import annotations

from pathlib import Path

import pytest

from omniopsd.metrics import read
from omniopsd.train import train
from rollout.weights import WeightFault
from tests.run_scene import run_config

pytestmark = pytest.mark.slow
PUSHES = 20


def test_twenty_pushes_under_vllm(tmp_path: Path) -> None:
    config = run_config(
        tmp_path,
        run={"steps": PUSHES},
        # actors of their own: vLLM leaves process groups behind that a second engine in a process trips over
        runtime={"kind": "ray", "cpus": 4},
        rollout={"engine": "vllm", "kv_cache_gib": 0.25, "samples_per_call": 2, "temperature": 0.8},
    )
    rows = read(train(config).metrics_path)
    assert len(rows) == PUSHES
    # sampled under version v - 1, scored again by the learner at version v - 1
    assert max(row["rollout_learner_difference"] for row in rows) < 1e-3
    assert max(row["probe_difference"] for row in rows) < 1e-3


def test_an_engine_that_keeps_one_old_tensor_fails_the_probe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rollout import transformers_engine

    load = transformers_engine.TransformersEngine.load_chunk

    def stale(self, tensors):  # type: ignore[no-untyped-def]
        name = "model.layers.0.self_attn.q_proj.weight"
        old = self._weights[name].detach().clone()
        load(self, tensors)
        self._weights[name].data.copy_(old)

    monkeypatch.setattr(transformers_engine.TransformersEngine, "load_chunk", stale)
    config = run_config(tmp_path, learner={"lr": 0.05}, weights={"probe_tolerance": 1e-4})
    with pytest.raises(WeightFault, match="rollout-0: after the push of version"):
        train(config)
