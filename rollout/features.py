"""Media to tower inputs, through the model folder's own processors.

The sizes saved in the folder decide (`size` of the image and video processors): the processor's
`__call__` of transformers would replace the video size by a built-in default, so its parts are
called one by one here, and vLLM is given the same size by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import Qwen2_5OmniProcessor

from rollout.byte_cache import ByteCache
from rollout.types import Media, MediaUse, Rendered, media_digest

CACHE_BYTES = 2 * 2**30
"""Most that one extractor keeps of what it has made; the oldest goes first. Media are made anew after that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One medium as a tower takes it.

    Vision: `values` float32 [patches, patch_dim] with `grid` (t, h, w) in patches and
    `seconds_per_grid`. Audio: `values` float32 [mel bins, frames] without padding.
    """

    values: torch.Tensor
    grid: tuple[int, int, int] | None
    seconds_per_grid: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """The tower inputs of one prompt, in the order of its media, and what was really used."""

    vision: tuple[Item, ...]
    audio: tuple[Item, ...]
    videos: tuple[Item, ...]
    images: tuple[Item, ...]
    media_use: tuple[MediaUse, ...]


class FeatureExtractor:
    """Runs the folder's processors; the digest of each medium is taken again from the array itself."""

    def __init__(self, model_path: str | Path) -> None:
        self.processor = Qwen2_5OmniProcessor.from_pretrained(model_path, local_files_only=True)
        self.vocab_size = len(self.processor.tokenizer)  # a head may have more rows, all of them padding
        self._cache = ByteCache(CACHE_BYTES, _tower_bytes)

    def features(self, rendered: Rendered) -> Features:
        """Tower inputs for every medium of a prompt, cached by content."""
        return self.of_media(rendered.media)

    def of_media(self, media: tuple[Media, ...]) -> Features:
        """As `features`, for bare media."""
        items = [self._item(medium) for medium in media]
        pairs = list(zip(media, items, strict=True))
        return Features(
            vision=tuple(item for medium, (_, item) in pairs if medium.kind != "audio"),
            audio=tuple(item for medium, (_, item) in pairs if medium.kind == "audio"),
            videos=tuple(item for medium, (_, item) in pairs if medium.kind == "video"),
            images=tuple(item for medium, (_, item) in pairs if medium.kind == "image"),
            media_use=tuple(
                MediaUse(kind=medium.kind, digest=digest, tokens=self._tokens(item))
                for medium, (digest, item) in pairs
            ),
        )

    def _item(self, medium: Media) -> tuple[str, Item]:
        digest = media_digest(medium.kind, medium.data, medium.fps)
        make = {"video": self._video, "image": self._image, "audio": self._audio}[medium.kind]
        return digest, self._cache.get_by(digest, lambda: make(medium))

    def _video(self, medium: Media) -> Item:
        videos = self.processor.video_processor
        out = videos(videos=[np.array(medium.data)], do_sample_frames=False, return_tensors="pt")
        t, h, w = (int(n) for n in out["video_grid_thw"][0])
        seconds = videos.temporal_patch_size / medium.fps
        return Item(values=out["pixel_values_videos"].float(), grid=(t, h, w), seconds_per_grid=seconds)

    def _image(self, medium: Media) -> Item:
        images = self.processor.image_processor
        out = images(images=[np.array(medium.data)], return_tensors="pt", input_data_format="channels_last")
        t, h, w = (int(n) for n in out["image_grid_thw"][0])
        return Item(values=out["pixel_values"].float(), grid=(t, h, w), seconds_per_grid=0.0)

    def _audio(self, medium: Media) -> Item:
        out = self.processor.feature_extractor(
            np.array(medium.data),
            sampling_rate=16000,
            padding="max_length",
            return_attention_mask=True,
            return_tensors="pt",
        )
        frames = int(out["attention_mask"][0].sum())
        return Item(values=out["input_features"][0, :, :frames].float(), grid=None, seconds_per_grid=0.0)

    def _tokens(self, item: Item) -> int:
        if item.grid is None:
            return audio_tokens(item.values.shape[1])
        t, h, w = item.grid
        return t * h * w // self.processor.image_processor.merge_size**2


def _tower_bytes(item: object) -> int:
    assert isinstance(item, Item)
    return item.values.nbytes


def audio_tokens(mel_frames: int) -> int:
    """Placeholder tokens of one audio: a stride-2 convolution, then a stride-2 average."""
    return ((mel_frames - 1) // 2 + 1 - 2) // 2 + 1


def tower_inputs(features: Sequence[Features], dtype: torch.dtype) -> dict[str, Tensor]:
    """The media of several prompts as the keyword arguments of transformers' thinker."""
    images = [item for one in features for item in one.images]
    videos = [item for one in features for item in one.videos]
    audio = [item for one in features for item in one.audio]
    inputs: dict[str, Tensor] = {}
    if images:
        inputs |= {"pixel_values": _values(images, dtype), "image_grid_thw": _grids(images)}
    if videos:
        inputs |= {"pixel_values_videos": _values(videos, dtype), "video_grid_thw": _grids(videos)}
        inputs["video_second_per_grid"] = torch.tensor([item.seconds_per_grid for item in videos])
    if audio:
        mel, mask = _padded(audio)
        inputs |= {"input_features": mel.to(dtype), "feature_attention_mask": mask}
    return inputs


def _values(items: Sequence[Item], dtype: torch.dtype) -> Tensor:
    return torch.cat([item.values for item in items]).to(dtype)


def _grids(items: Sequence[Item]) -> Tensor:
    return torch.tensor([item.grid for item in items])


def _padded(items: Sequence[Item]) -> tuple[Tensor, Tensor]:
    """Mel [n, bins, longest] and its mask [n, longest]."""
    longest = max(item.values.shape[1] for item in items)
    mel = torch.zeros(len(items), items[0].values.shape[0], longest)
    mask = torch.zeros(len(items), longest, dtype=torch.long)
    for row, item in enumerate(items):
        mel[row, :, : item.values.shape[1]] = item.values
        mask[row, : item.values.shape[1]] = 1
    return mel, mask
