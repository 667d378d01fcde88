"""Greedy answers of a model folder to a test file, and how sure the model was of the answer that it gave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from omniopsd.answers import judge, parse_answer
from omniopsd.config import RunConfig
from omniopsd.prompts import PromptBook, make_book
from omniopsd.samples import Sample, read_samples
from rollout.features import FeatureExtractor
from rollout.renderer import END, Renderer
from rollout.thinker import load_thinker
from rollout.token_decoder import Draw, TokenDecoder
from rollout.types import Rendered

BATCH = 48
OPENING = "<answer>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer. `confidence`: the probability that the model gave its own label, given its reasoning."""

    sample_id: str
    label: str
    answer: str | None
    correct: bool
    confidence: float
    tokens: int
    text: str


class Examiner:
    """Keeps the decoded prompts of all test files, for one model after the other."""

    def __init__(self, config: RunConfig, files: Mapping[Any, Path], max_new_tokens: int) -> None:
        self.config, self.max_new_tokens = config, max_new_tokens
        self.renderer = Renderer(config.model.path)
        self.features = FeatureExtractor(config.model.path)
        self.tests = {name: self._prompts(path) for name, path in files.items()}

    def _prompts(self, path: Path) -> list[tuple[Sample, Rendered, Rendered]]:
        samples = read_samples(path)
        book: PromptBook = make_book(self.config, samples, self.renderer)
        return [
            (sample, book.prompt(sample).rendered, book.with_evidence(sample, str(sample.rationale)))
            for sample in book.samples
        ]

    def answers(self, model: Path, *, evidence: bool = False) -> dict[str, list[Answer]]:
        """By test; with `evidence` the rationale stands in the prompt."""
        thinker = load_thinker(str(model), "float32").requires_grad_(False)
        end = int(self.features.processor.tokenizer.convert_tokens_to_ids(END))
        decoder = TokenDecoder(thinker, end)
        return {
            name: [
                answer
                for at in range(0, len(rows), BATCH)
                for answer in self._batch(decoder, rows[at : at + BATCH], evidence)
            ]
            for name, rows in self.tests.items()
        }

    def _batch(
        self, decoder: TokenDecoder, rows: list[tuple[Sample, Rendered, Rendered]], evidence: bool
    ) -> list[Answer]:
        prompts = [told if evidence else asked for _, asked, told in rows]
        limits = [min(self.max_new_tokens, self.config.model.max_context - len(p.token_ids)) for p in prompts]
        draws = decoder.greedy(prompts, [self.features.features(prompt) for prompt in prompts], limits)
        return [self._answer(sample, draw) for (sample, _, _), draw in zip(rows, draws, strict=True)]

    def _answer(self, sample: Sample, draw: Draw) -> Answer:
        ids = np.array(draw.ids, np.int32)
        text = self.renderer.decode(ids)
        pieces = self.renderer.decode_tokens(ids)
        return Answer(
            sample_id=sample.sample_id,
            label=sample.labels[0],
            answer=parse_answer(text),
            correct=judge(text, sample.labels).correct,
            confidence=answer_confidence(pieces, draw.logprobs),
            tokens=len(ids),
            text=text,
        )


def answer_confidence(pieces: list[str], logprobs: list[float]) -> float:
    """exp of the summed log-probs of the tokens behind `<answer>`; 0 when there is no such tag."""
    before = ""
    for at, piece in enumerate(pieces):
        before += piece
        if OPENING in before:
            return float(np.exp(sum(logprobs[at + 1 :])))
    return 0.0
