"""The extraction model behind an OpenAI-compatible address."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from omniopsd.bench.extract import ExtractError
from rationale_cache.completion import MalformedCompletion, read_completion
from rationale_cache.config import EndpointConfig
from rationale_cache.endpoint import Answer, Endpoint
from rollout.vllm_text import TextSampling

LETTERS_PER_TOKEN = 3
SHOWN = 3


class EndpointAsker:
    """Asks many prompts at once; every reply is handed on as it arrives, so a kill loses only what is under way."""

    def __init__(self, config: EndpointConfig, sampling: TextSampling) -> None:
        self.model, self.sampling, self._config = config.model, sampling, config

    def ask(self, prompts: Mapping[str, str], keep: Callable[[str, str], None]) -> None:
        """Raises EndpointStopped, or ExtractError when prompts were left without a reply."""
        faults = asyncio.run(self._ask(prompts, keep))
        if faults:
            raise ExtractError(
                f"{self._config.base_url} ({self.model}): {len(faults)} of {len(prompts)} prompts have no reply "
                f"({'; '.join(sorted(set(faults))[:SHOWN])}); run again to ask only these"
            )

    async def _ask(self, prompts: Mapping[str, str], keep: Callable[[str, str], None]) -> list[str]:
        queue, faults = list(prompts.items()), list[str]()
        async with Endpoint(self._config) as endpoint:

            async def work() -> None:
                while queue:
                    key, prompt = queue.pop()
                    if fault := await self._one(endpoint, key, prompt, keep):
                        faults.append(fault)

            async with asyncio.TaskGroup() as tasks:
                workers = [tasks.create_task(work()) for _ in range(self._config.max_concurrency)]
            del workers
        return faults

    async def _one(
        self, endpoint: Endpoint, key: str, prompt: str, keep: Callable[[str, str], None]
    ) -> str | None:
        """Ask one prompt; what went wrong in a phrase, or None."""
        tokens = len(prompt) // LETTERS_PER_TOKEN + 32
        outcome = await endpoint.ask([{"role": "user", "content": prompt}], self._body(key), tokens=tokens)
        if not isinstance(outcome, Answer):
            return f"{outcome.kind}: {outcome.detail}"
        try:
            completion = read_completion(outcome.body)
        except MalformedCompletion as error:
            return f"not a chat completion: {error}"
        if completion.refusal or completion.finish_reason not in ("stop", "length"):
            return f"ended by {completion.finish_reason or 'nothing'} {completion.refusal}".strip()
        keep(key, completion.text)
        return None

    def _body(self, key: str) -> dict[str, Any]:
        """Sampling as the API names it; a penalty of 1 is left out, because not every server knows the word."""
        body: dict[str, Any] = {
            "temperature": self.sampling.temperature,
            "top_p": self.sampling.top_p,
            "max_tokens": self.sampling.max_new_tokens,
            "seed": int(key[:8], 16) >> 1,
        }
        if self.sampling.repetition_penalty != 1.0:
            body["repetition_penalty"] = self.sampling.repetition_penalty
        return body
