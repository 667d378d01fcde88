"""Measurements that cost forward passes: what the teacher's evidence, and not its weights or the media, says.

    q     teacher with its evidence         q0   teacher without          p   student
    qA    teacher with the evidence of a sample with other labels
    qI    teacher with the media of such a sample

    reference_gain          log q - log p and log q0 - log p on the reference answer
    gain_without_evidence   log q0 - log p on the sampled tokens; its negative is the drift
    answer_driven_share     sum s cA / sum s (cA + cI), s = |log q - log p|, cA = [log q - log qA]+,
                            cI = [log q - log qI]+ over reasoning tokens (PALR, arXiv 2606.19120)

The extra requests go to the teacher before the student's update; the learner's own pass gives q and p.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from learner.group import LearnerGroup, StepResult
from omniopsd.prompts import PromptBook
from omniopsd.samples import Sample
from omniopsd.signals import answer_start
from omniopsd.supervised import target_text
from omniopsd.telemetry_config import TelemetryConfig
from rollout.types import Prompt, RolloutGroup
from teacher.pool import TeacherPool
from teacher.types import PrivilegedContext, ScoreRequest

Scores = dict[str, np.ndarray]
"""Teacher log-probs float32 [T] by rollout id."""


class InspectionError(ValueError):
    """A measurement that the data cannot give."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What was scored in one step; empty where it was not its turn."""

    reference: dict[str, float] = field(default_factory=dict)
    plain: Scores = field(default_factory=dict)
    wrong_evidence: Scores = field(default_factory=dict)
    wrong_media: Scores = field(default_factory=dict)


class Inspector:
    """Asks teacher and learner for the extra scores; changes nothing."""

    def __init__(
        self,
        config: TelemetryConfig,
        book: PromptBook,
        teacher: TeacherPool,
        learner: LearnerGroup,
        timeout: float,
    ) -> None:
        """Raises InspectionError when no sample has another one to take wrong evidence from."""
        self.config, self.book, self.teacher, self.learner = config, book, teacher, learner
        self.timeout = timeout
        self._alike: defaultdict[tuple[int | bool, ...], list[Sample]] = defaultdict(list)
        for sample in book.samples:
            self._alike[_kinds(sample)].append(sample)
        if config.answer_driven_every is not None and not self._has_others():
            raise InspectionError(
                "telemetry.answer_driven_every needs samples with media of the same kinds and other labels, and "
                "there are none: leave it out"
            )

    def look(
        self,
        step: int,
        samples: Mapping[str, Sample],
        prompts: Mapping[str, Prompt],
        groups: Mapping[str, RolloutGroup],
    ) -> Inspection:
        """The scores that are due in this step."""
        chosen = list(samples.values())[: self.config.samples]
        reference: dict[str, float] = {}
        plain: Scores = {}
        wrong_evidence: Scores = {}
        wrong_media: Scores = {}
        if _due(step, self.config.reference_every):
            reference = self._reference([s for s in chosen if s.labels or s.response], prompts)
        if _due(step, self.config.plain_every):
            plain = self._scores(
                [(self.book.variant(s, evidence_of=None), groups[s.sample_id]) for s in chosen]
            )
        if _due(step, self.config.answer_driven_every):
            pairs = [(s, other) for s in chosen if (other := self._other(s)) is not None]
            wrong_evidence = self._scores(
                [(self.book.variant(s, evidence_of=other), groups[s.sample_id]) for s, other in pairs]
            )
            wrong_media = self._scores(
                [
                    (self.book.variant(s, evidence_of=s, media_of=other), groups[s.sample_id])
                    for s, other in pairs
                ]
            )
        return Inspection(
            reference=reference, plain=plain, wrong_evidence=wrong_evidence, wrong_media=wrong_media
        )

    def _reference(self, samples: Sequence[Sample], prompts: Mapping[str, Prompt]) -> dict[str, float]:
        """Token means over the answer segments of all reference answers; empty without any."""
        if not samples:
            return {}
        renderer = self.book.renderer
        texts = [target_text(s, "response" if s.response is not None else "label") for s in samples]
        ids = [renderer.encode_response(text) for text in texts]
        own = [
            self.learner.probe(prompts[s.sample_id].rendered, response, 1.0)
            for s, response in zip(samples, ids, strict=True)
        ]
        starts = [answer_start(response, renderer) % len(response) for response in ids]

        def gain(contexts: Sequence[PrivilegedContext]) -> float:
            found = self._score(
                [
                    ScoreRequest(
                        context=context, rollout_ids=(f"reference/{context.sample_id}",), responses=(r,)
                    )
                    for context, r in zip(contexts, ids, strict=True)
                ]
            )
            rows = zip(contexts, own, starts, strict=True)
            parts = [(found[f"reference/{c.sample_id}"] - student)[start:] for c, student, start in rows]
            return float(np.concatenate(parts).mean(dtype=np.float64))

        return {
            "with_evidence": gain([self.book.context(s) for s in samples]),
            "without_evidence": gain([self.book.variant(s, evidence_of=None) for s in samples]),
        }

    def _scores(self, pairs: Sequence[tuple[PrivilegedContext, RolloutGroup]]) -> Scores:
        return self._score(
            [
                ScoreRequest(
                    context=context,
                    rollout_ids=tuple(rollout.rollout_id for rollout in group.rollouts),
                    responses=tuple(rollout.response_ids for rollout in group.rollouts),
                )
                for context, group in pairs
            ]
        )

    def _score(self, requests: Sequence[ScoreRequest]) -> Scores:
        if not requests:
            return {}
        answered = self.teacher.score_sampled(requests).get(self.timeout)
        return {score.rollout_id: score.logprobs for group in answered for score in group.scores}

    def _has_others(self) -> bool:
        """Whether some samples with media of the same kinds have different labels."""
        return any(
            any(kinds[:3]) and len({frozenset(sample.labels) for sample in alike}) > 1
            for kinds, alike in self._alike.items()
        )

    def _other(self, sample: Sample) -> Sample | None:
        """The next sample with other labels and media of the same kinds; None without media, or without one."""
        kinds = _kinds(sample)
        alike = self._alike[kinds]
        at = next(n for n, one in enumerate(alike) if one.sample_id == sample.sample_id)
        after = (alike[(at + step) % len(alike)] for step in range(1, len(alike)))
        return next((o for o in after if any(kinds[:3]) and set(o.labels) != set(sample.labels)), None)


def inspection_metrics(
    inspection: Inspection, result: StepResult, answer_starts: Mapping[str, int]
) -> dict[str, Any]:
    """The numbers of one step's inspection; `answer_starts` by rollout id. Pure."""
    metrics: dict[str, Any] = {}
    if inspection.reference:
        metrics["reference_gain"] = inspection.reference
    if inspection.plain:
        gaps = [scores - result.student_logprobs[name] for name, scores in inspection.plain.items()]
        gain = float(np.concatenate(gaps).mean(dtype=np.float64))
        metrics |= {"gain_without_evidence": gain, "teacher_student_drift": -gain}
    share = answer_driven_share(inspection, result, answer_starts)
    if share is not None:
        metrics["answer_driven_share"] = share
    return metrics


def answer_driven_share(
    inspection: Inspection, result: StepResult, answer_starts: Mapping[str, int]
) -> float | None:
    """PALR over the reasoning tokens; None when it was not measured, or nothing hangs on either."""
    evidence = media = 0.0
    for name, wrong in inspection.wrong_evidence.items():
        rows = slice(0, answer_starts[name])
        q, p = result.teacher_logprobs[name][rows], result.student_logprobs[name][rows]
        size = np.abs(q - p).astype(np.float64)
        evidence += float((size * np.maximum(q - wrong[rows], 0.0)).sum())
        media += float((size * np.maximum(q - inspection.wrong_media[name][rows], 0.0)).sum())
    return evidence / (evidence + media) if evidence + media > 0 else None


def _due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0


def _kinds(sample: Sample) -> tuple[int | bool, ...]:
    """Numbers of videos, audios and images, and whether a video brings the sound."""
    inputs = sample.inputs
    return (*(len(inputs.paths.of(kind)) for kind in ("video", "audio", "image")), inputs.audio_in_video)
