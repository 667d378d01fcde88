"""The one way from messages and media to token ids, for student and teacher alike.

Chat text in the form of Qwen2.5-Omni, without a default system message:

    <|im_start|>user\\n<|vision_bos|><|VIDEO|><|vision_eos|>What does he feel?<|im_end|>\\n
    <|im_start|>assistant\\n

`collapsed_ids` has one placeholder for each medium (vLLM expands it), `token_ids` has them all, equal
to what transformers' processor gives when the folder's own sizes are passed to it. With
`audio_in_video` a video span reads `<|vision_bos|><|audio_bos|>` video and audio tokens in turns
`<|audio_eos|><|vision_eos|>`.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from transformers import Qwen2_5OmniProcessor

from rollout.expand import (
    POSITIONS_PER_SECOND,
    SECONDS_PER_CHUNK,
    RenderError,
    audio_tokens,
    interleave,
    vision_grid,
)
from rollout.messages import Message, TextPart, media_kinds
from rollout.thinker import read_config
from rollout.types import Media, MediaUse, Modality, Rendered

END = "<|im_end|>"
SPANS: dict[Modality, str] = {
    "video": "<|vision_bos|><|VIDEO|><|vision_eos|>",
    "image": "<|vision_bos|><|IMAGE|><|vision_eos|>",
    "audio": "<|audio_bos|><|AUDIO|><|audio_eos|>",
}
PLACEHOLDERS: dict[Modality, str] = {"video": "<|VIDEO|>", "image": "<|IMAGE|>", "audio": "<|AUDIO|>"}
# stand-ins that transformers' processor replaces in the text itself
INTERNAL = ("<|audio_placeholder|>", "<|image_placeholder|>", "<|video_placeholder|>")


class Renderer:
    """The tokenizer and the size settings of one model folder. Light: no weights, no features."""

    end_token_id: int
    vocab_size: int
    """Entries of the tokenizer; the model's head may have more rows, padded to a round number."""
    vocab_digest: str
    """Names the vocabulary: two models with the same digest mean the same by an id."""

    def __init__(self, model_path: str | Path) -> None:
        """Raises RenderError on a folder without a Qwen2.5-Omni processor."""
        try:
            self.processor = Qwen2_5OmniProcessor.from_pretrained(model_path, local_files_only=True)
        except (OSError, ValueError, AttributeError) as error:
            raise RenderError(
                f"{model_path}: no Qwen2.5-Omni processor found ({error}); give a folder with its files"
            ) from error
        self._tokenizer = self.processor.tokenizer
        vocabulary = self._tokenizer.get_vocab()
        self._ids = {token: vocabulary.get(token) for token in _needed()}
        if missing := sorted(token for token, id_ in self._ids.items() if id_ is None):
            raise RenderError(
                f"{model_path}: the tokenizer lacks {', '.join(missing)}; use one of Qwen2.5-Omni"
            )
        _check_clock(model_path)
        self.end_token_id = self._id(END)
        self.vocab_size = len(self._tokenizer)
        self.vocab_digest = _digest(vocabulary)
        specials = {token.content for token in self._tokenizer.added_tokens_decoder.values() if token.special}
        specials |= {*self._tokenizer.all_special_tokens, *INTERNAL, *_needed()}
        self._special = re.compile(
            "|".join(re.escape(token) for token in sorted(specials, key=len, reverse=True))
        )

    def render(
        self,
        messages: Sequence[Message],
        media: Sequence[Media],
        *,
        audio_in_video: bool = False,
        where: str = "",
    ) -> Rendered:
        """Token ids of a prompt that ends where the answer begins.

        `media` in the order of the prompt; with `audio_in_video` each video is followed by its
        track. `where` names the row in errors. Raises RenderError on a special token in a text,
        media that do not fit the placeholders, videos of different rates, or a medium that the
        model cannot take.
        """
        try:
            return self._render(messages, tuple(media), audio_in_video)
        except RenderError as error:
            raise RenderError(f"{where}: {error}" if where else str(error)) from None

    def encode_response(self, text: str) -> np.ndarray:
        """An answer as the model would write it: int32 [T], the end token last. Raises RenderError."""
        self._check_text(text, "the answer")
        return np.append(self._encode(text), np.int32(self.end_token_id)).astype(np.int32)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Text of ids, special tokens and padding rows of the head left out."""
        known = [int(id_) for id_ in ids if 0 <= int(id_) < self.vocab_size]
        return str(
            self._tokenizer.decode(known, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        )

    def _render(
        self, messages: Sequence[Message], media: tuple[Media, ...], audio_in_video: bool
    ) -> Rendered:
        _check_media(media_kinds(messages), media, audio_in_video)
        collapsed = self._encode("".join(self._chat(messages)))
        spans, uses = self._spans(media, audio_in_video)
        placeholders = {self._id(token) for token in PLACEHOLDERS.values()}
        pieces: list[np.ndarray] = []
        start = 0
        for index in np.flatnonzero(np.isin(collapsed, list(placeholders))):
            pieces += [collapsed[start:index], next(spans)]
            start = int(index) + 1
        return Rendered(
            token_ids=np.concatenate([*pieces, collapsed[start:]]).astype(np.int32),
            collapsed_ids=collapsed,
            media=media,
            media_use=tuple(uses),
            audio_in_video=audio_in_video,
        )

    def decode_tokens(self, ids: Sequence[int] | np.ndarray) -> list[str]:
        """Each token as text of its own, special tokens too; for people to read."""
        return [self.processor.tokenizer.decode([int(one)]) for one in ids]

    def _chat(self, messages: Sequence[Message]) -> Iterator[str]:
        for index, message in enumerate(messages):
            yield f"<|im_start|>{message.role}\n"
            # joined first: two parts side by side could spell a special token together
            self._check_text(
                "".join(part.text if isinstance(part, TextPart) else "\n" for part in message.parts),
                f"messages[{index}]",
            )
            for part in message.parts:
                yield part.text if isinstance(part, TextPart) else SPANS[part.kind]
            yield f"{END}\n"
        yield "<|im_start|>assistant\n"

    def _check_text(self, text: str, where: str) -> None:
        if found := self._special.search(text):
            raise RenderError(
                f"{where}: the text spells the special token {found.group()}; write it another way"
            )

    def _encode(self, text: str) -> np.ndarray:
        return np.array(self._tokenizer(text)["input_ids"], dtype=np.int32)

    def _id(self, token: str) -> int:
        id_ = self._ids[token]
        assert id_ is not None
        return id_

    def _spans(
        self, media: tuple[Media, ...], audio_in_video: bool
    ) -> tuple[Iterator[np.ndarray], list[MediaUse]]:
        spans: list[np.ndarray] = []
        uses: list[MediaUse] = []
        for medium in media:
            if medium.kind == "audio":
                count = audio_tokens(medium, self.processor)
            else:
                count = int(np.prod(vision_grid(medium, self.processor)))
            uses.append(MediaUse(kind=medium.kind, digest=medium.digest, tokens=count))
            if audio_in_video and medium.kind == "audio":
                spans[-1] = self._interleaved(media[len(uses) - 2], count)
            else:
                spans.append(np.full(count, self._id(PLACEHOLDERS[medium.kind]), np.int32))
        return iter(spans), uses

    def _interleaved(self, video: Media, audio: int) -> np.ndarray:
        seconds_per_grid = self.processor.video_processor.temporal_patch_size / video.fps
        is_audio = interleave(vision_grid(video, self.processor), seconds_per_grid, audio)
        inner = np.where(is_audio, self._id(PLACEHOLDERS["audio"]), self._id(PLACEHOLDERS["video"]))
        return np.array([self._id("<|audio_bos|>"), *inner, self._id("<|audio_eos|>")], dtype=np.int32)


def token_counts(rendered: Rendered) -> dict[str, int]:
    """Prompt tokens by modality: "text" (chat marks included), then each kind that occurs."""
    counts: Counter[str] = Counter()
    for use in rendered.media_use:
        counts[use.kind] += use.tokens
    return {"text": len(rendered.token_ids) - counts.total(), **counts}


def _needed() -> tuple[str, ...]:
    marks = [token for span in SPANS.values() for token in re.findall(r"<\|\w+\|>", span)]
    return tuple(dict.fromkeys(["<|im_start|>", END, *marks]))


def _check_clock(model_path: str | Path) -> None:
    # the processor's chunk length and clock are constants in transformers; vLLM reads them from here
    config = read_config(model_path)["thinker_config"]
    vision = config.get("vision_config", {})
    for section, key, wanted in (
        (config, "seconds_per_chunk", SECONDS_PER_CHUNK),
        (config, "position_id_per_seconds", POSITIONS_PER_SECOND),
        (vision, "tokens_per_second", POSITIONS_PER_SECOND),
    ):
        if (found := section.get(key, wanted)) != wanted:
            raise RenderError(f"{model_path}: config.json has {key} {found}; only {wanted:g} is supported")


def _digest(vocabulary: dict[str, int]) -> str:
    state = hashlib.blake2b(digest_size=16)
    for token, id_ in sorted(vocabulary.items()):
        state.update(f"{id_}:{len(token)}:{token}\n".encode("utf-8", "surrogatepass"))
    return state.hexdigest()


def _check_media(kinds: Sequence[Modality], media: Sequence[Media], audio_in_video: bool) -> None:
    wanted: list[Modality] = []
    for kind in kinds:
        wanted += ["video", "audio"] if audio_in_video and kind == "video" else [kind]
    if audio_in_video and "audio" in kinds:
        raise RenderError("audio_in_video does not go with an <audio> placeholder; leave one of them out")
    given = [medium.kind for medium in media]
    if given != wanted:
        raise RenderError(
            f"the media are [{', '.join(given)}], the placeholders ask for [{', '.join(wanted)}]; give them in order"
        )
    rates = sorted({medium.fps for medium in media if medium.kind == "video"})
    if len(rates) > 1:
        raise RenderError(f"the videos have rates {rates}; decode them together, at one rate")
