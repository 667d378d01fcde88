"""Plain chat answers from a text model by vLLM, in this process: the extraction steps of a benchmark.

Only a user message is sent; the model's own chat template frames it (Qwen2.5's adds its default system line).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rollout.config import RolloutConfig


class TextEngineFault(ValueError):
    """A model folder that cannot serve, a prompt that does not fit, or an answer that was aborted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSampling:
    """How answers are drawn; each prompt has a seed of its own, so a rerun draws the same."""

    temperature: float
    top_p: float
    repetition_penalty: float
    max_new_tokens: int


class TextEngine:
    """One vLLM `LLM`; placement, memory and parallelism as the rollout engines have them."""

    def __init__(self, path: str, rollout: RolloutConfig, max_context: int) -> None:
        """Load the model folder. Raises TextEngineFault when there is none, or it has no chat template."""
        from vllm import LLM  # heavy, and only this actor needs it
        from vllm.platforms import current_platform

        if not (Path(path) / "config.json").is_file():
            raise TextEngineFault(
                f"{path}: no model folder (it has no config.json); give one of a chat model"
            )
        self._llm: Any = LLM(
            model=path,
            max_model_len=max_context,
            tensor_parallel_size=rollout.tensor_parallel_size,
            gpu_memory_utilization=rollout.memory_fraction,
            kv_cache_memory_bytes=int(rollout.kv_cache_gib * 2**30) if current_platform.is_cpu() else None,
            enforce_eager=rollout.enforce_eager,
            enable_prefix_caching=True,
            # the sampling is stated by the caller; nothing from the folder's generation_config.json
            generation_config="vllm",
            seed=0,
        )
        if not self._llm.get_tokenizer().chat_template:
            raise TextEngineFault(f"{path}: its tokenizer has no chat template; give a chat (instruct) model")

    def ready(self) -> bool:
        """Answers once the engine runs."""
        return True

    def complete(self, prompts: Sequence[str], seeds: Sequence[int], sampling: TextSampling) -> list[str]:
        """The answer to each user message. Raises TextEngineFault when one does not fit or was aborted."""
        from vllm import SamplingParams

        chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
        params = [
            SamplingParams(
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                repetition_penalty=sampling.repetition_penalty,
                max_tokens=sampling.max_new_tokens,
                seed=seed,
            )
            for seed in seeds
        ]
        try:
            outputs = self._llm.chat(chats, params, use_tqdm=False)
        except ValueError as error:  # vLLM's own class does not survive a trip between processes
            longest = max(prompts, key=len)
            raise TextEngineFault(
                f"a prompt of {len(longest)} letters ({longest[:60]!r}...) is refused: {error}"
            ) from None
        texts = []
        for prompt, output in zip(prompts, outputs, strict=True):
            finish = output.outputs[0].finish_reason
            if finish not in ("stop", "length"):
                raise TextEngineFault(f"the text engine ended as {finish!r} on {prompt[:60]!r}")
            texts.append(str(output.outputs[0].text))
        return texts
