"""Model shapes and situations for the planner's tests."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from omniopsd.config import RunConfig
from omniopsd.planning.calibration import Calibration
from omniopsd.planning.config import HardwareConfig
from omniopsd.planning.hardware import machines
from omniopsd.planning.model_shape import ModelShape, shape_of
from omniopsd.planning.situation import Situation
from omniopsd.planning.workload import Answers, SampleSize, Workload

LARGE: dict[str, dict[str, Any]] = {
    "text_config": {
        "hidden_size": 3584,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "intermediate_size": 18944,
        "vocab_size": 152064,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": False,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1000000.0,
            "mrope_section": [16, 24, 24],
        },
    },
    "vision_config": {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "out_hidden_size": 3584,
    },
    "audio_config": {
        "encoder_layers": 32,
        "d_model": 1280,
        "encoder_attention_heads": 20,
        "encoder_ffn_dim": 5120,
        "num_mel_bins": 128,
        "output_dim": 3584,
    },
}
"""The sizes of Qwen2.5-Omni-7B's thinker, from its published config.json."""


def large_shape() -> ModelShape:
    """The shape of the 7B thinker."""
    return shape_of({"tie_word_embeddings": False, **LARGE})


def large_folder(small: Path, folder: Path) -> Path:
    """A model folder with the processor of a small one and a config of the 7B's sizes; its weights file is empty."""
    shutil.copytree(small, folder)
    for file in folder.glob("*.safetensors"):
        save_file({}, file)
    config = json.loads((folder / "config.json").read_text())
    thinker = config["thinker_config"] | {"tie_word_embeddings": False}
    for name, values in LARGE.items():
        thinker[name] = thinker[name] | values
    config |= {"thinker_config": thinker, "tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def workload(prompt: int = 3000, context: int = 3300, answer: float = 512.0, limit: int = 512) -> Workload:
    """Equal samples with a video and its sound."""
    size = SampleSize(
        prompt=prompt, context=context, second=0, patches=4096, frames=1000, media_bytes=8_000_000
    )
    answers = Answers(mean=answer, longest=float(limit), measured=False)
    return Workload(sizes=(size,) * 4, samples=1000, answers=answers, limit=limit)


def large_config(**sections: dict[str, Any]) -> RunConfig:
    """A run of the 7B on 8 GPUs in bfloat16."""
    content: dict[str, dict[str, Any]] = {
        "run": {"name": "large", "steps": 10, "samples_per_step": 32},
        "model": {"path": "model", "dtype": "bfloat16", "max_context": 8192},
        "data": {"train": "train.jsonl"},
        "rollout": {"gpus": 1, "replicas": 2, "memory_fraction": 0.9},
        "teacher": {"gpus": 1, "replicas": 1},
        "learner": {"gpus": 1, "ranks": 5, "zero_stage": 3, "gradient_checkpointing": True},
    }
    for name, values in sections.items():
        content.setdefault(name, {}).update(values)
    return RunConfig.model_validate(content)


def large_situation(kind: str = "h100", gpus: float = 8, **sections: dict[str, Any]) -> Situation:
    """That run on one node of 8 GPUs."""
    return Situation(
        config=large_config(**sections),
        shape=large_shape(),
        workload=workload(),
        machines=machines(None, HardwareConfig(), kind, gpus),
    )


def calibration(**changes: Any) -> Calibration:
    """Made-up rates of a machine with two cores."""
    seconds = {"call": 0.1, "sample": 0.02, "step": 0.01, "token": 0.001, "micro": 0.05}
    role = {"flops": 1e10, "bytes_per_second": 1e10, "base_bytes": 1e9, "threads": 1}
    names = {
        "rollout": ("call", "sample", "step", "token"),
        "teacher": ("call", "sample", "token"),
        "learner": ("call", "sample", "micro", "token"),
    }
    values: dict[str, Any] = {
        "format": 1,
        "source": "measured",
        "host": "here",
        "date": "2026-01-01T00:00:00+00:00",
        "clock": "wall",
        "cores": 2,
        "gpu": None,
        "model": "0",
        "dtype": "float32",
        "engine": "transformers",
        "versions": {},
        "rates": {
            name: role | {"seconds": {key: seconds[key] for key in keys}} for name, keys in names.items()
        },
        "driver_sample_seconds": 0.001,
        "driver_bytes": 1e9,
        "push_seconds": {"publish_call": 0.1, "publish_byte": 1e-9, "engine_call": 0.1, "engine_byte": 1e-9},
        "answers": {"mean": 5.0, "longest": 6.0, "limit": 6},
    }
    return Calibration.model_validate(values | changes)
