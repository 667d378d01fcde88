"""Memory: parameter counts and kept activations against real tensors, ZeRO against hand-computed and DeepSpeed's numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from learner.config import LearnerConfig, LoraConfig
from learner.policy import PolicyModule
from omniopsd.mini_omni import write_mini_omni
from omniopsd.planning import activations as kept
from omniopsd.planning.fit import problems
from omniopsd.planning.host import object_store, teacher_payload
from omniopsd.planning.memory import zero_states
from omniopsd.planning.model_shape import ModelShape, ShapeError, read_shape
from omniopsd.planning.plan import roles_memory
from rollout.thinker import load_thinker
from tests.planning_scene import large_shape, large_situation


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plan") / "model"
    write_mini_omni(path, size="tiny")
    return path


@pytest.fixture(scope="module")
def shape(folder: Path) -> ModelShape:
    return read_shape(folder)


def test_the_counts_are_those_of_the_real_model(folder: Path, shape: ModelShape):
    thinker = load_thinker(folder, "float32")
    assert shape.parameters == sum(p.numel() for p in thinker.parameters())
    assert shape.by_part()["vision"] == sum(p.numel() for p in thinker.visual.parameters())
    assert shape.by_part()["head"] == 0 and shape.tied
    assert shape.layer == sum(p.numel() for p in thinker.model.layers[0].parameters())


@pytest.mark.parametrize(
    "learner",
    [
        LearnerConfig(freeze=()),
        LearnerConfig(freeze=("vision",)),
        LearnerConfig(freeze=("vision", "audio")),
        LearnerConfig(lora=LoraConfig(rank=4)),
        LearnerConfig(lora=LoraConfig(rank=2, targets=("q_proj", "down_proj"))),
    ],
    ids=["all", "no vision", "text", "lora", "some lora"],
)
def test_trained_weights_are_those_that_get_a_gradient(
    folder: Path, shape: ModelShape, learner: LearnerConfig
):
    policy = PolicyModule(load_thinker(folder, "float32"), learner)
    assert shape.trained(learner) == sum(p.numel() for p in policy.parameters() if p.requires_grad)


def test_the_7b_has_the_published_number_of_weights():
    parts = large_shape().by_part()
    assert (
        parts["text"] + parts["embedding"] + parts["head"] == 7_615_616_512
    )  # Qwen2.5-7B's model card: 7.61 B


def test_other_weights_than_the_config_says_are_refused(folder: Path, tmp_path: Path):
    copy = tmp_path / "model"
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    config = json.loads((copy / "config.json").read_text())
    config["thinker_config"]["text_config"]["intermediate_size"] = 64
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ShapeError, match="6 weights do not fit config.json"):
        read_shape(copy)


# --- activations: what autograd really keeps ------------------------------------------------------------


def saved_bytes(model: torch.nn.Module, run: Any) -> int:
    """Bytes of all storages that autograd keeps for `run`, weights left out."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    seen: dict[int, Any] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept_alive = run()
    total = sum(storage.nbytes() for storage in seen.values())
    del kept_alive
    return total


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("tokens", [32, 200])
def test_text_activations_are_what_autograd_keeps(folder: Path, shape: ModelShape, dtype: str, tokens: int):
    model = load_thinker(folder, dtype).model
    embeddings = torch.randn(1, tokens, shape.text.width, dtype=getattr(torch, dtype), requires_grad=True)
    mask = torch.ones(tokens, tokens, dtype=torch.bool).tril()[None, None]
    positions = torch.arange(tokens)[None, None].expand(3, 1, tokens)
    real = saved_bytes(
        model,
        lambda: model(
            inputs_embeds=embeddings, attention_mask=mask, position_ids=positions, use_cache=False
        ).last_hidden_state.sum(),
    )
    width = getattr(torch, dtype).itemsize
    assert tokens * kept.text_bytes(shape.text, tokens, width, checkpointed=False) == pytest.approx(
        real, rel=0.03
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_tower_activations_are_what_autograd_keeps(folder: Path, shape: ModelShape, dtype: str):
    thinker, kind = load_thinker(folder, dtype), getattr(torch, dtype)
    patches = torch.randn(64, shape.vision.input_numbers, dtype=kind)
    vision = saved_bytes(
        thinker.visual,
        lambda: thinker.visual(patches, grid_thw=torch.tensor([[1, 8, 8]])).pooler_output.sum(),
    )
    mel = torch.randn(shape.audio.input_numbers, 400, dtype=kind)
    audio = saved_bytes(
        thinker.audio_tower,
        lambda: thinker.audio_tower(mel, feature_lens=torch.tensor([400])).last_hidden_state.sum(),
    )
    assert 64 * kept.vision_bytes(shape.vision, kind.itemsize) == pytest.approx(vision, rel=0.03)
    assert 400 * kept.audio_bytes(shape.audio, kind.itemsize) == pytest.approx(audio, rel=0.05)


def test_checkpointing_keeps_one_layer_and_the_inputs_of_all(shape: ModelShape):
    text = shape.text
    whole = kept.text_bytes(text, 100, 2, checkpointed=False)
    less = kept.text_bytes(text, 100, 2, checkpointed=True)
    layer = kept.text_layer_bytes(text, 100, 2)
    assert whole - less == pytest.approx((text.layers - 1) * layer - text.layers * 2 * text.width)


def test_layer_numbers_are_the_matrices_of_a_layer(folder: Path, shape: ModelShape):
    layer = load_thinker(folder, "float32").model.layers[0]
    assert kept.text_layer_numbers(shape.text) == sum(p.numel() for p in layer.parameters() if p.ndim == 2)


# --- ZeRO ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "width", "expected"),
    [
        # 100 weights, 80 of them trained, 4 ranks
        (0, 4, {"weights": 400, "gradients": 320, "moments": 640}),
        (1, 2, {"weights": 200, "gradients": 320, "masters": 80, "moments": 160}),
        (2, 2, {"weights": 200, "gradients": 80, "masters": 80, "moments": 160}),
        (3, 2, {"weights": 50, "gradients": 80, "masters": 80, "moments": 160, "gathered weights": 200}),
    ],
)
def test_states_by_stage(stage: int, width: int, expected: dict[str, float]):
    states = zero_states(100, 80, stage, 4, width)
    assert {state.name: state.value for state in states} == expected


@pytest.mark.parametrize("ranks", [1, 8, 64])
def test_states_against_deepspeed_s_own_estimators(ranks: int):
    """DeepSpeed counts 16-bit gradients of the whole partition besides; here they live in the buckets."""
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs

    numbers = 7_000_000_000
    _, two = estimate_zero2_model_states_mem_needs(numbers, num_gpus_per_node=ranks, cpu_offload=False)
    ours = sum(state.value for state in zero_states(numbers, numbers, 2, ranks, 2))
    assert two - ours == pytest.approx(2 * numbers / ranks, rel=1e-6)
    _, three, _ = estimate_zero3_model_states_mem_needs(
        numbers, 500_000_000, num_gpus_per_node=ranks, cpu_offload=False, cpu_offload_params=False
    )
    ours = sum(s.value for s in zero_states(numbers, numbers, 3, ranks, 2) if s.name != "gathered weights")
    assert three - 4 * 500_000_000 == pytest.approx(ours, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "dtype", "floats"), [(1, "bfloat16", 18), (2, "bfloat16", 14), (2, "float32", 16)]
)
def test_states_are_what_a_learner_holds_after_a_step(tmp_path: Path, stage: int, dtype: str, floats: int):
    """Bytes of a weight at rest: gradients are held at stage 1 in bfloat16 and freed where they are the model's own."""
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "-m", "tests.planning_census", str(tmp_path), str(stage), dtype],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["bytes"] / found["weights"] == pytest.approx(floats, rel=0.15)


# --- whole roles ----------------------------------------------------------------------------------------------


def test_every_estimate_is_its_formula_over_its_inputs():
    for role in roles_memory(large_situation()):
        for part in (*role.parts, role.peak, *role.host):
            again = eval(part.formula, {"max": max, "min": min, "ceil": math.ceil}, dict(part.inputs))
            assert again == pytest.approx(part.value), part.name


def test_the_7b_with_zero_2_on_one_rank_does_not_fit_and_says_what_does():
    one = large_situation(learner={"ranks": 1, "zero_stage": 2, "gradient_checkpointing": False})
    memory = roles_memory(one)
    found = list(problems(one, memory, [], object_store(one)))
    assert len(found) == 1
    assert found[0].startswith("learner: a rank needs ") and "a h100 has 80 GB; write learner." in found[0]


def test_what_it_proposes_does_fit():
    one = large_situation(learner={"ranks": 1, "zero_stage": 2, "gradient_checkpointing": False})
    text = next(iter(problems(one, roles_memory(one), [], object_store(one))))
    changes = dict(part.strip().split(": ") for part in text.split("write ")[1].split(" (")[0].split(", "))
    keys = {key.removeprefix("learner."): json.loads(value) for key, value in changes.items()}
    other = large_situation(learner={"ranks": 1, "zero_stage": 2, "gradient_checkpointing": False} | keys)
    learner = next(role for role in roles_memory(other) if role.role == "learner")
    assert learner.peak.value <= 80e9


def test_an_engine_that_its_share_does_not_hold():
    one = large_situation(rollout={"memory_fraction": 0.2})
    found = [text for text in problems(one, roles_memory(one), [], []) if text.startswith("rollout")]
    assert (
        len(found) == 1
        and "rollout.memory_fraction 0.2 of a h100 is 16 GB; write rollout.memory_fraction:" in found[0]
    )


def test_a_cluster_without_enough_gpus():
    found = list(problems(large_situation(gpus=4), [], [], []))
    assert found and "the placement asks for 8 GPUs and the cluster has 4" in found[0]


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        ({"support": "full"}, 512 * (3584 * 2 + 4)),
        ({"support": "topk", "top_k": 100}, 512 * (100 * 8 + 4)),
        ({"divergence": "sampled", "support": "sampled"}, 512 * 4),
    ],
)
def test_teacher_payload_of_an_answer(objective: dict[str, Any], expected: int):
    assert teacher_payload(large_situation(objective=objective)).value == expected
