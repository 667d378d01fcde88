"""Rollouts from plain transformers: for machines without vLLM, for debugging, and as the reference.

Answers to several prompts are decoded together (`rollout.token_decoder`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np
import torch

from rollout.config import ModelConfig, RolloutConfig
from rollout.engine import EngineFault, require_unique, rollout_id, rollout_seed, room
from rollout.evidence import require_same_media
from rollout.features import FeatureExtractor, Features
from rollout.forward import branches, thinker_hidden
from rollout.renderer import END
from rollout.sequence import pack_groups
from rollout.thinker import load_thinker
from rollout.token_decoder import Draw, TokenDecoder
from rollout.types import MediaUse, Prompt, Rollout, RolloutGroup, SamplingSpec, WeightReceipt, WireTensor
from rollout.weights import TIED_HEAD, IncomingWeights, WeightFault, from_wire, weight_names

STATION = "rollout"
ROWS = 64
"""Answers that are decoded together."""


class TransformersEngine:
    """A `RolloutEngine` over transformers' thinker."""

    def __init__(self, model: ModelConfig, rollout: RolloutConfig, name: str) -> None:
        """Load the model folder (version 0)."""
        self.name, self._max_context = name, model.max_context
        self._device = torch.device("cuda" if rollout.gpus > 0 else "cpu")
        self._thinker = load_thinker(model.path, model.dtype).to(self._device)
        self._weights = dict(self._thinker.named_parameters(remove_duplicate=False))
        self._extractor = FeatureExtractor(model.path)
        self._end = int(self._extractor.processor.tokenizer.convert_tokens_to_ids(END))
        self._decoder = TokenDecoder(self._thinker, self._end)
        self._expected = weight_names(model.path)
        self._version: int | None = 0
        self._incoming: IncomingWeights | None = None

    @property
    def policy_version(self) -> int:
        if self._version is None:
            raise EngineFault(f"{self.name}: an update of the weights did not finish; restart the engine")
        return self._version

    def generate(self, prompts: Sequence[Prompt], spec: SamplingSpec, step: int) -> list[RolloutGroup]:
        require_unique(prompts)
        self.policy_version  # noqa: B018 (raises when there is none)
        return [
            group
            for part in self._batches(prompts, spec.rollouts)
            for group in self._groups(part, spec, step)
        ]

    def greedy(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[np.ndarray]:
        self.policy_version  # noqa: B018 (raises when there is none)
        answers: list[np.ndarray] = []
        for part in self._batches(prompts, 1):
            features = [self._features(prompt) for prompt in part]
            limits = [room(prompt, max_new_tokens, self._max_context) for prompt in part]
            draws = self._decoder.greedy([prompt.rendered for prompt in part], features, limits)
            answers += [np.array(draw.ids, np.int32) for draw in draws]
        return answers

    @torch.no_grad()
    def score(self, prompt: Prompt, response_ids: np.ndarray) -> np.ndarray:
        self.policy_version  # noqa: B018
        features = self._features(prompt)
        pack = pack_groups([branches(self._thinker, prompt.rendered, features, [response_ids])])
        logits = self._thinker.lm_head(thinker_hidden(self._thinker, pack, [features]))
        logprobs = logits.float().log_softmax(-1).cpu()
        return logprobs.gather(-1, torch.from_numpy(pack.targets)[:, None])[:, 0].numpy()

    def start_update(self, version: int) -> None:
        self._version = None
        self._incoming = IncomingWeights(version, self._expected, self.name)

    @torch.no_grad()
    def load_chunk(self, tensors: Sequence[WireTensor]) -> None:
        incoming = self._require_incoming()
        for wire in tensors:
            incoming.add(wire)
            if wire.name in self._weights:
                self._weights[wire.name].copy_(from_wire(wire))
            elif wire.name != TIED_HEAD:
                raise WeightFault(f"{self.name}: {wire.name} is no weight of this model")

    def finish_update(self, version: int, digest: str) -> WeightReceipt:
        received = self._require_incoming().close(version, digest)
        self._version, self._incoming = version, None
        return WeightReceipt(receiver=self.name, version=version, digest=received)

    def _require_incoming(self) -> IncomingWeights:
        if self._incoming is None:
            raise WeightFault(f"{self.name}: weights came without a start_update")
        return self._incoming

    def _features(self, prompt: Prompt) -> Features:
        features = self._extractor.features(prompt.rendered)
        require_same_media(
            prompt.rendered.media_use, features.media_use, station=STATION, sample_id=prompt.sample_id
        )
        return features

    def _batches(self, prompts: Sequence[Prompt], answers: int) -> Iterator[list[Prompt]]:
        """Prompts that are decoded together: at most `ROWS` answers, and one way of reading audio."""
        size = max(1, ROWS // answers)
        for _, alike in groupby(prompts, key=lambda prompt: prompt.rendered.audio_in_video):
            part = list(alike)
            yield from (part[at : at + size] for at in range(0, len(part), size))

    def _groups(self, prompts: Sequence[Prompt], spec: SamplingSpec, step: int) -> list[RolloutGroup]:
        started = time.monotonic()
        features = [self._features(prompt) for prompt in prompts]
        generators = [
            torch.Generator().manual_seed(rollout_seed(spec.seed, step, prompt.sample_id, index))
            for prompt in prompts
            for index in range(spec.rollouts)
        ]
        limits = [room(prompt, spec.max_new_tokens, self._max_context) for prompt in prompts]
        draws = self._decoder.sample([p.rendered for p in prompts], features, limits, spec, generators)
        seconds = (time.monotonic() - started) / len(prompts)
        return [
            self._group(
                prompt, own.media_use, draws[at * spec.rollouts :][: spec.rollouts], spec, step, seconds
            )
            for at, (prompt, own) in enumerate(zip(prompts, features, strict=True))
        ]

    def _group(
        self,
        prompt: Prompt,
        used: tuple[MediaUse, ...],
        draws: Sequence[Draw],
        spec: SamplingSpec,
        step: int,
        seconds: float,
    ) -> RolloutGroup:
        return RolloutGroup(
            sample_id=prompt.sample_id,
            rollouts=tuple(
                Rollout(
                    rollout_id=rollout_id(step, prompt.sample_id, index),
                    sample_id=prompt.sample_id,
                    index=index,
                    response_ids=np.array(draw.ids, np.int32),
                    rollout_logprobs=np.array(draw.logprobs, np.float32),
                    temperature=spec.temperature,
                    policy_version=self.policy_version,
                    finish="stop" if draw.finish == "stop" else "length",
                )
                for index, draw in enumerate(draws)
            ),
            media_use=used,
            seconds=seconds,
        )
