"""Samples to prompts: media decoded once, student prompt and privileged context rendered from the same arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from learner.objective_config import ContrastConfig
from omniopsd.config import RunConfig
from omniopsd.samples import Sample
from omniopsd.student_prompts import StudentPrompts
from rationale_cache.types import Rationale
from rollout.config import MediaConfig, ModelConfig
from rollout.decoders import DecoderPool
from rollout.messages import Message
from rollout.renderer import Renderer
from rollout.types import Media, Prompt, Rendered
from teacher.config import TeacherConfig
from teacher.context import (
    Evidence,
    EvidenceBook,
    Privileged,
    check_template,
    evidence_alone,
    missing_evidence,
    privileged_messages,
)
from teacher.types import PrivilegedContext


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
        contrast: ContrastConfig | None = None,
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
        self._second = _second_evidence(kept, contrast, seed) if contrast else None
        self.renderer, self.template = renderer, teacher.template
        self._student = StudentPrompts(renderer, model=model, media=media, max_new_tokens=max_new_tokens)

    @property
    def digest(self) -> str:
        """Names the samples in their order, with messages, labels and rationales: what a resumed run must find again."""
        digest = hashlib.blake2b(digest_size=16)
        for sample in self.samples:
            said = (sample.sample_id, sample.inputs.messages, sample.labels, sample.rationale)
            digest.update(repr(said).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    def media(self, sample: Sample) -> tuple[Media, ...]:
        """The sample's media in prompt order, from memory when they were decoded before."""
        return self._student.media(sample.inputs, sample.where)

    def decode_with(self, decoders: DecoderPool) -> None:
        """From now on media come from these actors."""
        self._student.decoders = decoders

    def decode_ahead(self, samples: Iterable[Sample]) -> None:
        """Let the decoders, if there are any, begin with samples that will be asked for soon."""
        self._student.decode_ahead((sample.inputs, sample.where) for sample in samples)

    def prompt(self, sample: Sample) -> Prompt:
        """The student's prompt: made from `sample.inputs` alone. Raises ContextTooLong."""
        return self._student.prompt(sample.inputs, sample.where)

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

    def second_context(self, sample: Sample) -> PrivilegedContext:
        """The context that `objective.contrast` compares with. Raises ContextTooLong."""
        book, messages = self._second or self.evidence, sample.inputs.messages
        evidence = book.of(sample.sample_id)
        if self._second is None and evidence is not None:  # reference_only
            rendered = self.renderer.render(
                evidence_alone(messages, evidence, self.template),
                (),
                audio_in_video=False,
                where=sample.where,
            )
        else:
            told = privileged_messages(messages, evidence, self.template)
            rendered = self._render(sample, told, "the teacher's second context")
        return PrivilegedContext(
            sample_id=sample.sample_id,
            rendered=rendered,
            privilege=book.privilege,
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
        inputs = media_of.inputs if media_of else None
        return self._student.render(sample.inputs, messages, sample.where, what, media_of=inputs)


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
        contrast=config.objective.contrast,
    )


def _second_evidence(rows: Sequence[Privileged], contrast: ContrastConfig, seed: int) -> EvidenceBook | None:
    """Evidence of the second context; None for reference_only, whose evidence is the first one's."""
    if contrast.kind == "reference_only":
        return None
    if contrast.kind == "wrong_rationale":
        return EvidenceBook(rows, "other-row", seed=seed, key="the second privilege of objective.contrast")
    return EvidenceBook(rows, contrast.partial, seed=seed, key="objective.contrast.partial")


def _privileged(sample: Sample) -> Privileged:
    return Privileged(sample_id=sample.sample_id, labels=sample.labels, rationale=_rationale(sample))


def _rationale(sample: Sample) -> Rationale | None:
    text = sample.rationale
    if text is None or not text.strip():
        return None
    return Rationale(key=sample.rationale_key, text=text) if sample.rationale_key else Rationale.of(text)
