"""What the student sees: prompts made from `SampleInputs` alone. Nothing privileged can be imported here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from omniopsd.samples import SampleInputs
from rollout.config import MediaConfig, ModelConfig
from rollout.decoders import DecodeJob, DecoderPool
from rollout.media import MediaCache, decode_media
from rollout.messages import Message
from rollout.renderer import Renderer
from rollout.types import Media, Prompt, Rendered


class ContextTooLong(ValueError):
    """A prompt that leaves no room for the answer within the model's context."""


class StudentPrompts:
    """Decodes media once and renders messages; `where` names the sample's row in errors."""

    def __init__(
        self, renderer: Renderer, *, model: ModelConfig, media: MediaConfig, max_new_tokens: int
    ) -> None:
        self.renderer = renderer
        self._media_config, self._cache = media, MediaCache(media.cache_bytes)
        self._room = model.max_context - max_new_tokens
        self._max_context = model.max_context
        self.decoders: DecoderPool | None = None
        """Set once the actors run; until then, and without them, media are decoded here."""

    def media(self, inputs: SampleInputs, where: str) -> tuple[Media, ...]:
        """The sample's media in prompt order, from memory when they were decoded before."""
        if (decoders := self.decoders) is not None:
            job = _job(inputs, where)
            return self._cache.get_by(job.key, lambda: decoders.media(job))
        return decode_media(
            inputs.messages,
            inputs.paths,
            inputs.audio_in_video,
            self._media_config,
            where=where,
            cache=self._cache,
        )

    def decode_ahead(self, asked: Iterable[tuple[SampleInputs, str]]) -> None:
        """Let the decoders begin with samples, each with its `where`, that will be asked for soon."""
        if self.decoders is None:
            return
        jobs = [_job(inputs, where) for inputs, where in asked]
        self.decoders.ahead([job for job in jobs if job.key not in self._cache])

    def prompt(self, inputs: SampleInputs, where: str) -> Prompt:
        """The student's prompt. Raises ContextTooLong."""
        rendered = self.render(inputs, inputs.messages, where, "the student's prompt")
        return Prompt(sample_id=inputs.sample_id, rendered=rendered)

    def render(
        self,
        inputs: SampleInputs,
        messages: Sequence[Message],
        where: str,
        what: str,
        *,
        media_of: SampleInputs | None = None,
    ) -> Rendered:
        """Messages that belong to a sample, with its media (or another's). Raises ContextTooLong naming `what`."""
        rendered = self.renderer.render(
            messages,
            self.media(media_of or inputs, where),
            audio_in_video=inputs.audio_in_video,
            where=where,
        )
        tokens = len(rendered.token_ids)
        if tokens > self._room:
            raise ContextTooLong(
                f"{where}: {what} has {tokens} tokens, and model.max_context {self._max_context} leaves "
                f"{self._room} beside rollout.max_new_tokens: shorten the sample or use fewer frames"
            )
        return rendered


def _job(inputs: SampleInputs, where: str) -> DecodeJob:
    return DecodeJob(
        messages=inputs.messages, paths=inputs.paths, audio_in_video=inputs.audio_in_video, where=where
    )
