"""What a benchmark run is asked to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omniopsd.bench.extract import Pass
from omniopsd.bench.prepared import Benchmark
from rationale_cache.config import EndpointConfig
from rollout.vllm_text import TextSampling

OFFICIAL_MODEL = "Qwen2.5-7B-Instruct"
OFFICIAL_SAMPLING = TextSampling(temperature=0.7, top_p=0.8, repetition_penalty=1.05, max_new_tokens=512)


@dataclass(frozen=True, slots=True, kw_only=True)
class Llm:
    """The extraction model: a folder for a local engine, or an endpoint."""

    folder: str | None = None
    endpoint: EndpointConfig | None = None
    sampling: TextSampling = OFFICIAL_SAMPLING

    @property
    def name(self) -> str:
        """The endpoint's model name, or the folder."""
        return self.endpoint.model if self.endpoint else str(self.folder)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """`llm` None: extraction by fixed rules. `passed`: what step A reads of a reply."""

    benchmark: Benchmark
    model: str
    out: Path
    data: Path
    llm: Llm | None
    wheel: str | None = None
    words_version: str | None = None
    sets: Sequence[str] | None = None
    samples: int | None = None
    prompts: str | None = None
    passed: Pass = "whole"
    overrides: Sequence[str] = ()
    chunk: int = 32
    seed: int = 0
