"""Bytes of all tensors that a learner rank holds after one step; a process of its own, for ranks join once.

python -m tests.planning_census FOLDER STAGE DTYPE
"""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path

import torch

from learner.config import LearnerConfig
from omniopsd import mini_omni
from tests.learner_scene import free_address, make_scene, worker


def main(folder: Path, stage: int, dtype: str) -> None:
    """One step of a model that is large against its activations."""
    mini_omni.SHAPES["tiny"] = ((256, 4, 4, 1024), (32, 2, 2))
    scene = make_scene(folder, ("text",), dtype)
    one = worker(scene, 0, LearnerConfig(zero_stage=stage, freeze=()), free_address())
    plan = scene.plan([[[0]]])
    one.train_step(plan, scene.of(plan, 0))
    gc.collect()
    seen = {}
    for thing in gc.get_objects():
        if isinstance(thing, torch.Tensor):
            storage = thing.untyped_storage()
            seen[storage.data_ptr()] = storage.nbytes()
    weights = sum(p.numel() for p in one.policy.parameters())
    print(json.dumps({"bytes": sum(seen.values()), "weights": weights}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
