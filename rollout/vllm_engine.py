"""Rollouts from vLLM, in this process.

Every medium goes through vLLM's own processor by itself; the prompt is then laid out from the
renderer's ids. So vLLM never expands a prompt in its own way: its expansion of audio in video differs
from transformers' when frames are more than two seconds apart, and takes one frame rate for all.

G rollouts are G requests with seeds of their own (so a draw does not depend on G); the prefix cache
computes their common prompt once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

# read when vllm is imported; in a pool the actor's own environment has them already
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

# ruff: noqa: E402
import numpy as np
import torch
from PIL import Image
from vllm import LLM, RequestOutput, SamplingParams
from vllm.config import WeightTransferConfig
from vllm.inputs import mm_input, tokens_input
from vllm.multimodal.inputs import MultiModalKwargsItems, PlaceholderRange
from vllm.platforms import current_platform
from vllm.renderers.inputs.preprocess import parse_model_prompt

from rollout.config import ModelConfig, RolloutConfig
from rollout.engine import EngineFault, require_unique, rollout_id, rollout_seed, room
from rollout.evidence import placeholder_rows, require_same_media
from rollout.renderer import END, PLACEHOLDERS
from rollout.thinker import PREFIX
from rollout.types import (
    Media,
    MediaUse,
    Modality,
    Prompt,
    Rollout,
    RolloutGroup,
    SamplingSpec,
    WeightReceipt,
    WireTensor,
    media_digest,
)
from rollout.vllm_thinker import WorkerExtension
from rollout.vllm_weights import OBJECT_STORE
from rollout.weights import IncomingWeights, WeightFault, weight_names

STATION = "rollout"
MEDIA_LIMIT = 64
"""Media of one modality in a prompt; vLLM wants a number, the context length is the real limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Laid:
    """One prompt as vLLM takes it, and what went into it."""

    engine_input: Any
    token_ids: list[int]
    media_use: tuple[MediaUse, ...]


class VllmEngine:
    """A `RolloutEngine` and `CollectiveReceiver` over one vLLM `LLM`."""

    def __init__(
        self, model: ModelConfig, rollout: RolloutConfig, name: str, *, transport: str = OBJECT_STORE
    ) -> None:
        """Load the model folder (version 0). `transport` as in `weights.transport`."""
        self.name, self._max_context, self._transport = name, model.max_context, transport
        self._expected = weight_names(model.path)
        self._version: int | None = 0
        self._incoming: IncomingWeights | None = None
        self._llm = LLM(**_arguments(model, rollout, transport))
        tokenizer = self._llm.get_tokenizer()
        self._end = int(tokenizer.convert_tokens_to_ids(END))
        self._placeholders: dict[Modality, int] = {
            kind: int(tokenizer.convert_tokens_to_ids(token)) for kind, token in PLACEHOLDERS.items()
        }
        processor = self._llm.llm_engine.renderer.get_mm_processor().info.get_hf_processor()
        # transformers' processor would put its built-in video size in place of the folder's
        self._video_size = dict(processor.video_processor.size)

    @property
    def policy_version(self) -> int:
        if self._version is None:
            raise EngineFault(f"{self.name}: an update of the weights did not finish; restart the engine")
        return self._version

    def generate(self, prompts: Sequence[Prompt], spec: SamplingSpec, step: int) -> list[RolloutGroup]:
        require_unique(prompts)
        version, started = self.policy_version, time.monotonic()
        laid = [self._lay_out(prompt) for prompt in prompts]
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
            requests.append((str(number), self._lay_out(prompt), self._params(limit, temperature=0.0)))
        done = self._run(requests)
        return [
            self._completion(done[id_][0], prompt, one)[0]
            for prompt, (id_, one, _) in zip(prompts, requests, strict=True)
        ]

    def score(self, prompt: Prompt, response_ids: np.ndarray) -> np.ndarray:
        self.policy_version  # noqa: B018
        laid = self._lay_out(prompt)
        response = [int(id_) for id_ in response_ids]
        ids = laid.token_ids + response
        whole = _Laid(
            engine_input=laid.engine_input | {"prompt_token_ids": ids},
            token_ids=ids,
            media_use=laid.media_use,
        )
        params = SamplingParams(temperature=1.0, max_tokens=1, prompt_logprobs=0, detokenize=False)
        output, _ = self._run([("score", whole, params)])["score"]
        rows = (output.prompt_logprobs or [])[len(laid.token_ids) :]
        return np.array([row[id_].logprob for row, id_ in zip(rows, response, strict=True)], np.float32)

    # --- weights, chunk by chunk

    def start_update(self, version: int) -> None:
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

    # --- one prompt

    def _lay_out(self, prompt: Prompt) -> _Laid:
        rendered = prompt.rendered
        ids = [int(id_) for id_ in rendered.token_ids]
        items, use = [], []
        for medium in rendered.media:
            item, digest, tokens = self._process(medium)
            items.append(item)
            use.append(MediaUse(kind=medium.kind, digest=digest, tokens=tokens))
        require_same_media(rendered.media_use, use, station=STATION, sample_id=prompt.sample_id)
        rows = placeholder_rows(rendered, self._placeholders, station=STATION, sample_id=prompt.sample_id)
        if not items:
            return _Laid(engine_input=tokens_input(ids), token_ids=ids, media_use=())
        kwargs: dict[str, list[Any]] = {}
        hashes: dict[str, list[str]] = {}
        places: dict[str, list[PlaceholderRange]] = {}
        for medium, item, (name, place) in zip(
            rendered.media, items, _places(rows, use, rendered.audio_in_video), strict=True
        ):
            kwargs.setdefault(medium.kind, []).append(item)
            hashes.setdefault(medium.kind, []).append(name)
            places.setdefault(medium.kind, []).append(place)
        engine_input = mm_input(ids, MultiModalKwargsItems(kwargs), hashes, places)
        return _Laid(engine_input=engine_input, token_ids=ids, media_use=tuple(use))

    def _process(self, medium: Media) -> tuple[Any, str, int]:
        """vLLM's tower inputs for one medium, the digest of what it was given, and its token count."""
        data: Any = np.array(medium.data)
        digest = media_digest(medium.kind, data, medium.fps)
        options: dict[str, Any] = {}
        if medium.kind == "video":
            options = {
                "videos_kwargs": {"size": self._video_size, "fps": medium.fps, "do_sample_frames": False}
            }
        given = {
            "video": lambda: data,
            "image": lambda: Image.fromarray(data),
            "audio": lambda: (data, 16000),
        }
        request = {
            "prompt_token_ids": [self._placeholders[medium.kind]],
            "multi_modal_data": {medium.kind: [given[medium.kind]()]},
            "multi_modal_uuids": {medium.kind: [digest]},
            "mm_processor_kwargs": options,
        }
        renderer = self._llm.llm_engine.renderer
        parsed = parse_model_prompt(self._llm.model_config, request)
        (out,) = renderer.render_cmpl([parsed], renderer.default_cmpl_tok_params)
        (place,) = out["mm_placeholders"][medium.kind]
        return out["mm_kwargs"][medium.kind][0], digest, place.get_num_embeds()

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
        self, requests: Sequence[tuple[str, _Laid, SamplingParams]]
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
        self, output: RequestOutput, prompt: Prompt, laid: _Laid, index: int, temperature: float, version: int
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

    def _completion(self, output: RequestOutput, prompt: Prompt, laid: _Laid) -> tuple[np.ndarray, str]:
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


def _arguments(model: ModelConfig, rollout: RolloutConfig, transport: str) -> dict[str, Any]:
    cpu = current_platform.is_cpu()
    return {
        "model": model.path,
        "dtype": model.dtype,
        "max_model_len": model.max_context,
        "tensor_parallel_size": rollout.tensor_parallel_size,
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


def _places(
    rows: Sequence[np.ndarray], use: Sequence[MediaUse], audio_in_video: bool
) -> Iterator[tuple[str, PlaceholderRange]]:
    """Cache name and place of each medium; a video and its track share one span and one name.

    vLLM keys the cached key-values inside a span by its first medium alone, so the name of a shared
    span has to tell both.
    """
    for number, (own, one) in enumerate(zip(rows, use, strict=True)):
        pair = _partner(use, number) if audio_in_video else number
        span = np.concatenate([own, rows[pair]])
        start, stop = int(span.min()), int(span.max()) + 1
        mask = np.zeros(stop - start, bool)
        mask[own - start] = True
        name = one.digest if pair == number else f"{one.digest}+{use[pair].digest}"
        yield name, PlaceholderRange(start, stop - start, None if mask.all() else torch.from_numpy(mask))


def _partner(use: Sequence[MediaUse], number: int) -> int:
    """With audio in video: the track of a video, the video of a track, an image itself."""
    return number + {"video": 1, "audio": -1, "image": 0}[use[number].kind]
