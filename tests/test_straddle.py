"""How vLLM is told to start the workers of several GPUs; without a GPU this is as far as it goes."""

from __future__ import annotations

import pytest

from omniopsd.build import roles
from omniopsd.config import RunConfig
from rollout.config import ModelConfig, RolloutConfig


def test_the_option_reaches_the_placement() -> None:
    values = {
        "run": {"name": "a", "steps": 1},
        "model": {"path": "m"},
        "data": {"train": "t"},
        "rollout": {"tensor_parallel_size": 2, "gpus": 2, "straddle_nodes": True, "replicas": 2},
    }
    engines, teachers, learner, _ = roles(RunConfig.model_validate(values))
    assert engines.straddles and engines.actors == ("rollout-0", "rollout-1")
    assert not teachers.straddles and not learner.straddles


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "straddles", "backend"), [(1, False, None), (2, False, "mp"), (2, True, "ray")]
)
def test_which_executor_vllm_takes(size: int, straddles: bool, backend: str | None) -> None:
    from vllm.v1.executor.abstract import Executor

    from rollout.vllm_engine import _arguments

    rollout = RolloutConfig(tensor_parallel_size=size, gpus=size, straddle_nodes=straddles)
    given = _arguments(ModelConfig(path="m"), rollout, "object_store")["distributed_executor_backend"]
    assert given == backend

    class Given:
        """What vLLM's choice of the executor reads of its config."""

        class parallel_config:  # noqa: N801
            distributed_executor_backend = given or "uni"

    wanted = {None: "UniProcExecutor", "mp": "MultiprocExecutor", "ray": "RayExecutorV2"}[backend]
    assert Executor.get_class(Given).__name__ == wanted
