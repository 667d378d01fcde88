"""A whole small run for the loop's tests: real clips, the tiny model, real parts in one process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from omniopsd.config import RunConfig
from omniopsd.config_file import load_config
from omniopsd.mer_mini.write import write_mer_mini
from omniopsd.mini_omni import write_mini_omni

CLIPS = 6


def run_yaml(folder: Path, **sections: dict[str, Any]) -> Path:
    """Write data, model folder and `run.yaml` below `folder`; `sections` go over the defaults."""
    data = write_mer_mini(folder / "clips", CLIPS, 5, "train")
    if not (folder / "model").exists():
        write_mini_omni(folder / "model", size="tiny", corpus=[data.read_text()], vocabulary=512)
    content: dict[str, dict[str, Any]] = {
        "run": {"name": "small", "root": str(folder / "runs"), "steps": 3, "samples_per_step": 2},
        "model": {"path": str(folder / "model"), "max_context": 512},
        "data": {"train": str(data), "media": {"max_frames": 4}},
        "rollout": {
            "engine": "transformers",
            "rollouts_per_sample": 2,
            "max_new_tokens": 6,
            "samples_per_call": 1,
        },
        "teacher": {"template": "\nRationale: {evidence}"},
        "learner": {"lr": 1e-3, "freeze": [], "packing": False, "zero_stage": 0},
        "runtime": {"kind": "inline"},
    }
    for name, values in sections.items():
        content.setdefault(name, {}).update(values)
    path = folder / "run.yaml"
    path.write_text(json.dumps(content, indent=1))
    return path


def held_out(folder: Path) -> str:
    """A file of clips that the run does not train on."""
    return str(write_mer_mini(folder / "held-out", CLIPS, 6, "test"))


def run_config(folder: Path, **sections: dict[str, Any]) -> RunConfig:
    """The same, loaded and checked."""
    return load_config(run_yaml(folder, **sections))


def bare(file: str | Path) -> str:
    """The same samples without a rationale."""
    path = Path(file)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        row.pop("rationale", None)
    other = path.with_name("bare.jsonl")
    other.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(other)
