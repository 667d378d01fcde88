"""The extraction model in a local vLLM engine, where the rollout engines were."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType

from cluster.runtime import Actor, Ref, Runtime, start_runtime
from omniopsd.bench.answers import model_sha256
from omniopsd.bench.extract import ExtractError
from omniopsd.config import RunConfig
from rollout.pool import resources
from rollout.vllm_text import TextEngine, TextSampling

OFFICIAL_BATCH = 8
CONTEXT = 8192
"""Longest prompt and reply; label lists of 512 tokens and replies of a few thousand fit."""
START_SECONDS = 1800.0


class EngineAsker:
    """A folder of a chat model, with the machines and the placement of `rollout` in the config; a context manager.

    Its processes start with the first prompt that is asked and end with the context.
    """

    def __init__(self, config: RunConfig, folder: str, sampling: TextSampling) -> None:
        """Raises ExtractError when there is no model folder."""
        self._config, self._folder = config, folder
        self._context = _context(folder)
        self.model, self.sampling = model_sha256(folder), sampling
        self._runtime: Runtime | None = None
        self._actors: list[Actor[TextEngine]] = []

    def __enter__(self) -> EngineAsker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._runtime is not None:
            self._runtime.shutdown()

    def ask(self, prompts: Mapping[str, str], keep: Callable[[str, str], None]) -> None:
        """In batches of eight, as the official code asks."""
        runtime, timeout = self._start(), self._config.rollout.timeout_seconds
        batches = _batches(list(prompts), OFFICIAL_BATCH)
        waiting: list[tuple[Ref[list[str]], list[str], int]] = []

        def submit(place: int) -> None:
            if (keys := next(batches, None)) is not None:
                texts, seeds = [prompts[key] for key in keys], [int(key[:8], 16) >> 1 for key in keys]
                ref = self._actors[place].call(TextEngine.complete, texts, seeds, self.sampling)
                waiting.append((ref, keys, place))

        for place in range(len(self._actors)):
            submit(place)
        while waiting:
            index = runtime.wait([ref for ref, _, _ in waiting], timeout)
            ref, keys, place = waiting.pop(index)
            submit(place)
            for key, reply in zip(keys, ref.get(timeout), strict=True):
                keep(key, reply)

    def _start(self) -> Runtime:
        if self._runtime is None:
            rollout = self._config.rollout
            self._runtime = start_runtime(self._config.runtime)
            self._runtime.require([resources(rollout)] * rollout.replicas)
            self._actors = [
                self._runtime.start(
                    f"extraction-{index}",
                    resources(rollout),
                    TextEngine,
                    self._folder,
                    rollout,
                    self._context,
                )
                for index in range(rollout.replicas)
            ]
            for actor in self._actors:
                actor.call(TextEngine.ready).get(START_SECONDS)
        return self._runtime


def _context(folder: str) -> int:
    try:
        content = json.loads((Path(folder) / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise ExtractError(
            f"--llm {folder}: no model folder ({error}); give one, or an --endpoint"
        ) from error
    return min(CONTEXT, int(content.get("max_position_embeddings", CONTEXT)))


def _batches(items: list[str], size: int) -> Iterator[list[str]]:
    return iter([items[at : at + size] for at in range(0, len(items), size)])
