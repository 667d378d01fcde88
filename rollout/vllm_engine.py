"""Rollouts from vLLM, in this process.

G rollouts are G requests with seeds of their own (so a draw does not depend on G); the prefix cache
computes their common prompt once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# read when vllm is imported; in a pool the actor's own environment has them already
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

# ruff: noqa: E402
import numpy as np
from vllm import LLM, RequestOutput, SamplingParams
from vllm.config import WeightTransferConfig
from vllm.platforms import current_platform

from rollout.config import ModelConfig, RolloutConfig
from rollout.engine import EngineFault, require_unique, rollout_id, rollout_seed, room
from rollout.renderer import END, PLACEHOLDERS
from rollout.sleep_cycle import SleepCycle, SleepUnsupported
from rollout.thinker import PREFIX
from rollout.types import (
    MediaUse,
    Prompt,
    Rollout,
    RolloutGroup,
    SamplingSpec,
    WeightReceipt,
    WireTensor,
)
from rollout.vllm_layout import LaidOut, PromptLayout
from rollout.vllm_thinker import WorkerExtension
from rollout.vllm_weights import OBJECT_STORE
from rollout.weights import IncomingWeights, WeightFault, weight_names

STATION = "rollout"
MEDIA_LIMIT = 64
"""Media of one modality in a prompt; vLLM wants a number, the context length is the real limit."""
SLEEP_LEVEL = 2
"""Weights are dropped, not kept in host memory: the next push brings all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredRows:
    """One given answer: `logprobs` float32 [T]; `topk_ids` int32 and `topk_logprobs` float32 [T,K], likeliest first."""

    logprobs: np.ndarray
    topk_ids: np.ndarray
    topk_logprobs: np.ndarray


class VllmEngine:
    """A `RolloutEngine`, `CollectiveReceiver` and `SleepingEngine` over one vLLM `LLM`."""

    def __init__(
        self,
        model: ModelConfig,
        rollout: RolloutConfig,
        name: str,
        *,
        transport: str = OBJECT_STORE,
        station: str = STATION,
        max_logprobs: int = 0,
        sleeps: bool = False,
    ) -> None:
        """Load the model folder (version 0). Raises SleepUnsupported where `sleeps` asks for what is not there.

        `transport` as in `weights.transport`; `station` names this engine in errors about media;
        `max_logprobs` is the largest `top_k` of `score_rows`; `sleeps`: whether `sleep` will be called.
        """
        if sleeps:
            _require_sleep_mode(name)
        self.name, self._max_context, self._transport = name, model.max_context, transport
        self._expected = weight_names(model.path)
        self._version: int | None = 0
        self._incoming: IncomingWeights | None = None
        self._cycle = SleepCycle(name)
        self._llm = LLM(
            **_arguments(model, rollout, transport), max_logprobs=max_logprobs, enable_sleep_mode=sleeps
        )
        self._layout = PromptLayout(self._llm, station)
        self._end = int(self._llm.get_tokenizer().convert_tokens_to_ids(END))

    @property
    def policy_version(self) -> int:
        self._cycle.require_awake()
        if self._version is None:
            raise EngineFault(f"{self.name}: an update of the weights did not finish; restart the engine")
        return self._version

    def generate(self, prompts: Sequence[Prompt], spec: SamplingSpec, step: int) -> list[RolloutGroup]:
        require_unique(prompts)
        version, started = self.policy_version, time.monotonic()
        laid = [self._layout.lay_out(prompt) for prompt in prompts]
        requests = [
            (rollout_id(step, prompt.sample_id, index), one, self._sampling(prompt, spec, step, index))
            for prompt, one in zip(prompts, laid, strict=True)
            for index in range(spec.rollouts)
        ]
        done = self._run(requests)
        groups = []
        for prompt, one in zip(prompts, laid, strict=True):
            ids = [rollout_id(step, prompt.sample_id, index) for index in range(spec.rollouts)]
            rollouts = [
                self._rollout(done[id_][0], prompt, one, index, spec.temperature, version)
                for index, id_ in enumerate(ids)
            ]
            groups.append(
                RolloutGroup(
                    sample_id=prompt.sample_id,
                    rollouts=tuple(rollouts),
                    media_use=one.media_use,
                    seconds=max(done[id_][1] for id_ in ids) - started,
                )
            )
        return groups

    def greedy(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[np.ndarray]:
        self.policy_version  # noqa: B018 (raises when there is none)
        requests = []
        for number, prompt in enumerate(prompts):
            limit = room(prompt, max_new_tokens, self._max_context)
            requests.append((str(number), self._layout.lay_out(prompt), self._params(limit, temperature=0.0)))
        done = self._run(requests)
        return [
            self._completion(done[id_][0], prompt, one)[0]
            for prompt, (id_, one, _) in zip(prompts, requests, strict=True)
        ]

    def score(self, prompt: Prompt, response_ids: np.ndarray) -> np.ndarray:
        return self.score_rows(prompt, [response_ids])[0][0].logprobs

    def score_rows(
        self, prompt: Prompt, responses: Sequence[np.ndarray], top_k: int = 0
    ) -> tuple[list[ScoredRows], tuple[MediaUse, ...]]:
        """Given answers at temperature 1: the sampled ids, the `top_k` likeliest, and the media that were used.

        One prefill of the whole prompt for each answer: vLLM reads no cached prefix where prompt
        log-probs are asked for (0.32).
        """
        self.policy_version  # noqa: B018
        laid = self._layout.lay_out(prompt)
        params = SamplingParams(temperature=1.0, max_tokens=1, prompt_logprobs=top_k, detokenize=False)
        requests = []
        for number, response in enumerate(responses):
            ids = laid.token_ids + [int(id_) for id_ in response]
            engine_input = laid.engine_input | {"prompt_token_ids": ids}
            whole = LaidOut(engine_input=engine_input, token_ids=ids, media_use=laid.media_use)
            requests.append((f"score-{number}", whole, params))
        done = self._run(requests)
        rows = [(done[id_][0].prompt_logprobs or [])[len(laid.token_ids) :] for id_, *_ in requests]
        scored = [_scored(own, ids, top_k) for own, ids in zip(rows, responses, strict=True)]
        return scored, laid.media_use

    # --- weights, chunk by chunk

    def start_update(self, version: int) -> None:
        self._cycle.require_weight_memory()
        self._version = None
        self._incoming = IncomingWeights(version, self._expected, self.name)
        self._llm.start_weight_update()

    def load_chunk(self, tensors: Sequence[WireTensor]) -> None:
        incoming = self._require_incoming()
        if self._transport != OBJECT_STORE:
            raise WeightFault(f"{self.name}: chunks came, but weights.transport is {self._transport}")
        for wire in tensors:
            incoming.add(wire)
        self._llm.update_weights({"update_info": {"tensors": list(tensors)}})

    def finish_update(self, version: int, digest: str) -> WeightReceipt:
        received = self._require_incoming().close(version, digest)
        return self._finish(version, received)

    # --- weights, in collectives

    def join_transfer(self, init_info: dict[str, Any]) -> None:
        self._llm.init_weight_transfer_engine({"init_info": init_info})

    def begin_transfer(self, version: int) -> None:
        self.start_update(version)

    def receive_transfer(self, update_info: dict[str, Any]) -> None:
        names = {str(name).removeprefix(PREFIX) for name in update_info["names"]}
        if missing := sorted(self._expected - names):
            raise WeightFault(f"{self.name}: {len(missing)} tensors missing {missing[:3]}")
        self._llm.update_weights({"update_info": update_info})

    def end_transfer(self, version: int) -> WeightReceipt:
        return self._finish(version, "")

    def _finish(self, version: int, digest: str) -> WeightReceipt:
        self._llm.finish_weight_update(str(version))
        # what the old weights computed: key-values of prefixes, and rows out of the towers
        self._llm.reset_prefix_cache()
        self._llm.reset_mm_cache()
        self._llm.llm_engine.reset_encoder_cache()
        self._version, self._incoming = version, None
        return WeightReceipt(receiver=self.name, version=version, digest=digest)

    def _require_incoming(self) -> IncomingWeights:
        if self._incoming is None:
            raise WeightFault(f"{self.name}: weights came without a start_update")
        return self._incoming

    # --- sleep

    def sleep(self) -> None:
        self._cycle.sleep()
        self._version = None
        self._llm.sleep(level=SLEEP_LEVEL)

    def wake_weights(self) -> None:
        self._cycle.wake_weights()
        self._llm.wake_up(["weights"])

    def wake_cache(self) -> None:
        self._cycle.wake_cache(self._version)
        if not self._llm.wake_up(["kv_cache"]):
            raise EngineFault(f"{self.name}: vLLM is still asleep in part; restart the engine")

    # --- one prompt

    def _sampling(self, prompt: Prompt, spec: SamplingSpec, step: int, index: int) -> SamplingParams:
        return self._params(
            room(prompt, spec.max_new_tokens, self._max_context),
            temperature=spec.temperature,
            top_p=spec.top_p,
            top_k=spec.top_k,
            seed=rollout_seed(spec.seed, step, prompt.sample_id, index),
            logprobs=0,
        )

    def _params(self, max_tokens: int, **settings: Any) -> SamplingParams:
        # ignore_eos: only the chat's own end token ends an answer, whatever else the folder lists
        return SamplingParams(
            max_tokens=max_tokens, stop_token_ids=[self._end], ignore_eos=True, detokenize=False, **settings
        )

    # --- one run of the engine

    def _run(
        self, requests: Sequence[tuple[str, LaidOut, SamplingParams]]
    ) -> dict[str, tuple[RequestOutput, float]]:
        """Outputs by request id, with the time at which each was done."""
        engine = self._llm.llm_engine
        done: dict[str, tuple[RequestOutput, float]] = {}
        internal: list[str] = []
        try:
            for id_, laid, params in requests:
                internal.append(engine.add_request(id_, laid.engine_input, params))
            while engine.has_unfinished_requests():
                for output in engine.step():
                    if output.finished:
                        done[output.request_id] = (output, time.monotonic())
        except BaseException:
            # leave nothing behind: the next call would get the answers of this one
            engine.abort_request(internal, internal=True)
            raise
        if missing := [id_ for id_, _, _ in requests if id_ not in done]:
            raise EngineFault(f"{self.name}: no output for {missing[:3]}")
        return done

    def _rollout(
        self,
        output: RequestOutput,
        prompt: Prompt,
        laid: LaidOut,
        index: int,
        temperature: float,
        version: int,
    ) -> Rollout:
        ids, finish = self._completion(output, prompt, laid)
        logprobs = output.outputs[0].logprobs
        if logprobs is None or len(logprobs) != len(ids):
            raise EngineFault(f"{output.request_id}: {len(ids)} ids and {len(logprobs or [])} log-probs")
        return Rollout(
            rollout_id=output.request_id,
            sample_id=prompt.sample_id,
            index=index,
            response_ids=ids,
            rollout_logprobs=np.array(
                [row[int(id_)].logprob for row, id_ in zip(logprobs, ids, strict=True)], np.float32
            ),
            temperature=temperature,
            policy_version=version,
            finish="stop" if finish == "stop" else "length",
        )

    def _completion(self, output: RequestOutput, prompt: Prompt, laid: LaidOut) -> tuple[np.ndarray, str]:
        if list(output.prompt_token_ids or []) != laid.token_ids:
            raise EngineFault(f"sample {prompt.sample_id}: vLLM ran another prompt than it was given")
        completion = output.outputs[0]
        ids, finish = np.array(completion.token_ids, np.int32), completion.finish_reason
        if finish not in ("stop", "length") or len(ids) == 0:
            raise EngineFault(
                f"{self.name}: {output.request_id}: finished as {finish!r} with {len(ids)} tokens"
            )
        if (finish == "stop") != (int(ids[-1]) == self._end):
            raise EngineFault(f"{self.name}: {output.request_id}: finished as {finish!r} on id {ids[-1]}")
        return ids, finish


def _require_sleep_mode(name: str) -> None:
    if not current_platform.is_sleep_mode_available():
        raise SleepUnsupported(
            f"{name}: runtime.colocate: rollout-learner needs vLLM's sleep mode, which platform "
            f"{current_platform.device_name} does not have; write colocate: none"
        )


def _arguments(model: ModelConfig, rollout: RolloutConfig, transport: str) -> dict[str, Any]:
    cpu = current_platform.is_cpu()
    return {
        "model": model.path,
        "dtype": model.dtype,
        "max_model_len": model.max_context,
        "tensor_parallel_size": rollout.tensor_parallel_size,
        "distributed_executor_backend": _executor(rollout),
        "gpu_memory_utilization": rollout.memory_fraction,
        "kv_cache_memory_bytes": int(rollout.kv_cache_gib * 2**30) if cpu else None,
        "enforce_eager": rollout.enforce_eager,
        "enable_prefix_caching": True,
        # log-probs of the distribution that was sampled from, after temperature, top-k and top-p
        "logprobs_mode": "processed_logprobs",
        # nothing from the folder's generation_config.json: its penalties would bend the policy
        "generation_config": "vllm",
        "limit_mm_per_prompt": {kind: MEDIA_LIMIT for kind in PLACEHOLDERS},
        # each medium is processed once for its G requests; the content changes with every sample
        "mm_processor_cache_gb": 0,
        "skip_mm_profiling": cpu,
        "weight_transfer_config": WeightTransferConfig(backend=transport),
        "worker_extension_cls": f"{WorkerExtension.__module__}.{WorkerExtension.__name__}",
        "seed": 0,
    }


def _executor(rollout: RolloutConfig) -> str | None:
    """How vLLM starts the workers of several GPUs. Left alone it takes Ray inside a placement group, and then
    refuses a bundle with more than one GPU (0.32)."""
    if rollout.tensor_parallel_size == 1:
        return None
    return "ray" if rollout.straddle_nodes else "mp"


def _scored(rows: Sequence[Any], response: np.ndarray, top_k: int) -> ScoredRows:
    """Prompt log-probs of one answer's rows: vLLM gives the k likeliest by rank, and the given id besides."""
    sampled = [row[int(id_)].logprob for row, id_ in zip(rows, response, strict=True)]
    best = [sorted(row.items(), key=lambda item: item[1].rank)[:top_k] for row in rows]
    return ScoredRows(
        logprobs=np.array(sampled, np.float32),
        topk_ids=np.array([[id_ for id_, _ in row] for row in best], np.int32).reshape(len(rows), top_k),
        topk_logprobs=np.array([[one.logprob for _, one in row] for row in best], np.float32).reshape(
            len(rows), top_k
        ),
    )
