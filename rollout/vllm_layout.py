"""How a prompt is laid out for vLLM: the renderer's ids, and the towers' inputs from vLLM's own processor.

Every medium goes through vLLM's own processor by itself; the prompt is then laid out from the
renderer's ids. So vLLM never expands a prompt in its own way: its expansion of audio in video differs
from transformers' when frames are more than two seconds apart, and takes one frame rate for all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from vllm import LLM
from vllm.inputs import mm_input, tokens_input
from vllm.multimodal.inputs import MultiModalKwargsItems, PlaceholderRange
from vllm.renderers.inputs.preprocess import parse_model_prompt

from rollout.evidence import placeholder_rows, require_same_media
from rollout.renderer import PLACEHOLDERS
from rollout.types import Media, MediaUse, Modality, Prompt, media_digest


@dataclass(frozen=True, slots=True, kw_only=True)
class LaidOut:
    """One prompt as vLLM takes it, and what went into it."""

    engine_input: Any
    token_ids: list[int]
    media_use: tuple[MediaUse, ...]


class PromptLayout:
    """Lays out prompts for one engine; `station` names it in errors about media."""

    def __init__(self, llm: LLM, station: str) -> None:
        self._llm, self._station = llm, station
        tokenizer = llm.get_tokenizer()
        self._placeholders: dict[Modality, int] = {
            kind: int(tokenizer.convert_tokens_to_ids(token)) for kind, token in PLACEHOLDERS.items()
        }
        processor = llm.llm_engine.renderer.get_mm_processor().info.get_hf_processor()
        # transformers' processor would put its built-in video size in place of the folder's
        self._video_size = dict(processor.video_processor.size)

    def lay_out(self, prompt: Prompt) -> LaidOut:
        """Ids, tower inputs and the media that were used. Raises MediaMismatch."""
        rendered = prompt.rendered
        ids = [int(id_) for id_ in rendered.token_ids]
        items, use = [], []
        for medium in rendered.media:
            item, digest, tokens = self._process(medium)
            items.append(item)
            use.append(MediaUse(kind=medium.kind, digest=digest, tokens=tokens))
        require_same_media(rendered.media_use, use, station=self._station, sample_id=prompt.sample_id)
        rows = placeholder_rows(
            rendered, self._placeholders, station=self._station, sample_id=prompt.sample_id
        )
        if not items:
            return LaidOut(engine_input=tokens_input(ids), token_ids=ids, media_use=())
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
        return LaidOut(engine_input=engine_input, token_ids=ids, media_use=tuple(use))

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
