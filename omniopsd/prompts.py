"""Samples to prompts: media decoded once, student prompt and privileged context rendered from the same arrays."""

from __future__ import annotations

from collections.abc import Sequence

from omniopsd.config import RunConfig
from omniopsd.samples import Sample
from rationale_cache.types import Rationale
from rollout.config import MediaConfig, ModelConfig
from rollout.media import MediaCache, decode_media
from rollout.messages import Message
from rollout.renderer import Renderer
from rollout.types import Media, Prompt, Rendered
from teacher.config import TeacherConfig
from teacher.context import (
    Evidence,
    EvidenceBook,
    Privileged,
    check_template,
    missing_evidence,
    privileged_messages,
)
from teacher.types import PrivilegedContext


class ContextTooLong(ValueError):
    """A prompt that leaves no room for the answer within the model's context."""


class PromptBook:
    """Renders the samples of one data file, for the student and for the teacher."""

    def __init__(
        self,
        samples: Sequence[Sample],
        renderer: Renderer,
        *,
        model: ModelConfig,
        media: MediaConfig,
        teacher: TeacherConfig,
        max_new_tokens: int,
        seed: int,
    ) -> None:
        """Raises EvidenceError when `teacher.missing` is "fail" and evidence is missing."""
        check_template(teacher.template)
        rows = [_privileged(sample) for sample in samples]
        absent: set[str] = set()
        if teacher.missing == "skip":
            absent = set(missing_evidence(rows, teacher.privilege))
        self.samples = [sample for sample in samples if sample.sample_id not in absent]
        self.skipped = len(absent)
        kept = [row for row in rows if row.sample_id not in absent]
        self.evidence = EvidenceBook(kept, teacher.privilege, seed=seed)
        self.renderer, self.template = renderer, teacher.template
        self._media_config, self._cache = media, MediaCache(media.cache_bytes)
        self._room = model.max_context - max_new_tokens
        self._max_context = model.max_context

    def media(self, sample: Sample) -> tuple[Media, ...]:
        """The sample's media in prompt order, from memory when they were decoded before."""
        inputs = sample.inputs
        return decode_media(
            inputs.messages,
            inputs.paths,
            inputs.audio_in_video,
            self._media_config,
            where=sample.where,
            cache=self._cache,
        )

    def prompt(self, sample: Sample) -> Prompt:
        """The student's prompt: made from `sample.inputs` alone. Raises ContextTooLong."""
        rendered = self._render(sample, sample.inputs.messages, "the student's prompt")
        return Prompt(sample_id=sample.sample_id, rendered=rendered)

    def context(self, sample: Sample) -> PrivilegedContext:
        """The teacher's context: the same messages and media, and the evidence. Raises ContextTooLong."""
        evidence = self.evidence.of(sample.sample_id)
        messages = privileged_messages(sample.inputs.messages, evidence, self.template)
        rendered = self._render(sample, messages, "the teacher's context")
        return PrivilegedContext(
            sample_id=sample.sample_id,
            rendered=rendered,
            privilege=self.evidence.privilege,
            evidence_id=evidence.source_id if evidence else "",
        )

    def variant(
        self, sample: Sample, *, evidence_of: Sample | None, media_of: Sample | None = None
    ) -> PrivilegedContext:
        """A context for measurements alone: the evidence of another sample, or none, and the media of another.

        Raises ContextTooLong.
        """
        evidence = self.evidence.of(evidence_of.sample_id) if evidence_of else None
        messages = privileged_messages(sample.inputs.messages, evidence, self.template)
        return PrivilegedContext(
            sample_id=sample.sample_id,
            rendered=self._render(sample, messages, "a measurement's context", media_of),
            privilege=self.evidence.privilege if evidence else "none",
            evidence_id=evidence.source_id if evidence else "",
        )

    def with_evidence(self, sample: Sample, text: str) -> Rendered:
        """The messages with a given text of evidence: what a cold start learns to read."""
        evidence = Evidence(text=text, source_id=sample.sample_id, rationale_key="")
        messages = privileged_messages(sample.inputs.messages, evidence, self.template)
        return self._render(sample, messages, "the context")

    def _render(
        self, sample: Sample, messages: Sequence[Message], what: str, media_of: Sample | None = None
    ) -> Rendered:
        """Messages that belong to a sample, with its media (or another's). Raises ContextTooLong naming `what`."""
        rendered = self.renderer.render(
            messages,
            self.media(media_of or sample),
            audio_in_video=sample.inputs.audio_in_video,
            where=sample.where,
        )
        tokens = len(rendered.token_ids)
        if tokens > self._room:
            raise ContextTooLong(
                f"{sample.where}: {what} has {tokens} tokens, and model.max_context {self._max_context} leaves "
                f"{self._room} beside rollout.max_new_tokens: shorten the sample or use fewer frames"
            )
        return rendered


def make_book(
    config: RunConfig, samples: Sequence[Sample], renderer: Renderer, teacher: TeacherConfig | None = None
) -> PromptBook:
    """The book of some samples of a run; `teacher` in place of the run's own.

    Without a teacher in the objective no evidence is asked for.
    """
    teacher = teacher or config.teacher
    if not config.objective.has_teacher:
        teacher = teacher.model_copy(update={"privilege": "none"})
    return PromptBook(
        samples,
        renderer,
        model=config.model,
        media=config.data.media,
        teacher=teacher,
        max_new_tokens=config.rollout.max_new_tokens,
        seed=config.run.seed,
    )


def _privileged(sample: Sample) -> Privileged:
    text = sample.rationale
    return Privileged(
        sample_id=sample.sample_id,
        labels=sample.labels,
        rationale=Rationale.of(text) if text is not None and text.strip() else None,
    )
