"""vLLM's own thinker, corrected for audio in video.

Importing this module registers it for the architectures of a Qwen2.5-Omni folder, in this process and
in the worker processes that vLLM starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import (
    Qwen2_5OmniPreTrainedModelForConditionalGeneration as Reference,
)
from vllm import ModelRegistry
from vllm.model_executor.models.qwen2_5_omni_thinker import (
    Qwen2_5OmniThinkerForConditionalGeneration,
    merge_interleaved_embeddings,
)
from vllm.multimodal.inputs import MultiModalFeatureSpec

ARCHITECTURES = ("Qwen2_5OmniModel", "Qwen2_5OmniForConditionalGeneration")


class Thinker(Qwen2_5OmniThinkerForConditionalGeneration):
    """vLLM's thinker with two corrections for audio in video (vLLM 0.32.0).

    Without them its log-probs differ from those of transformers, and so of the learner: the start and
    end marks of the track get positions of their own where the reference shares them, and video and
    audio rows are swapped when a cached prefix or a prefill chunk ends inside the common span.
    """

    def get_mrope_input_positions(
        self, input_tokens: list[int], mm_features: list[MultiModalFeatureSpec]
    ) -> tuple[torch.Tensor, int]:
        """Positions int64 [3,P] by transformers' own function."""
        features = sorted(mm_features, key=lambda one: one.mm_position.offset)
        videos = [one for one in features if one.modality == "video"]
        tracks = {one.mm_position.offset for one in features if one.modality == "audio"}
        # up to the end marks of the last medium; what follows is text, whatever its ids look like
        stop = max((one.mm_position.offset + one.mm_position.length for one in features), default=0) + 2
        ids = torch.tensor(input_tokens[:stop])[None]
        positions, _ = Reference.get_rope_index(
            self._reference(),
            ids,
            _field(features, "image", "image_grid_thw"),
            _field(features, "video", "video_grid_thw"),
            torch.ones_like(ids),
            use_audio_in_video=any(video.mm_position.offset in tracks for video in videos),
            audio_seqlens=_field(features, "audio", "audio_feature_lengths"),
            second_per_grids=_field(features, "video", "second_per_grid_ts"),
        )
        head = positions[:, 0]
        tail = head[:, -1:].max() + 1 + torch.arange(len(input_tokens) - head.shape[1])
        whole = torch.cat([head, tail.expand(3, -1)], dim=1)
        return whole, int(whole.max()) + 1 - len(input_tokens)

    def embed_input_ids(
        self,
        input_ids: torch.Tensor,
        multimodal_embeddings: Any = None,
        *,
        is_multimodal: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Token embeddings with the towers' rows in place, each modality on its own placeholders."""
        if multimodal_embeddings and is_multimodal is not None:
            ids = input_ids.cpu()
            video = is_multimodal & (ids == self.config.video_token_index)
            audio = is_multimodal & (ids == self.config.audio_token_index)
            if video.any() and audio.any():
                embed = self.get_language_model().embed_input_ids
                text = self._embed_text_input_ids(input_ids, embed, is_multimodal=is_multimodal)
                return merge_interleaved_embeddings(text, multimodal_embeddings, video, audio, is_multimodal)
        return super().embed_input_ids(input_ids, multimodal_embeddings, is_multimodal=is_multimodal)

    def _reference(self) -> Any:
        merge = self.config.vision_config.spatial_merge_size
        reference = SimpleNamespace(config=self.config, spatial_merge_size=merge)
        for name in ("get_llm_pos_ids_for_vision", "get_chunked_index"):
            setattr(reference, name, partial(getattr(Reference, name), reference))
        return reference


class WorkerExtension:
    """Named to vLLM only so that its worker processes import this module, with what it registers."""


def _field(features: Sequence[MultiModalFeatureSpec], modality: str, key: str) -> torch.Tensor | None:
    values = [one.data[key].data for one in features if one.modality == modality and one.data is not None]
    return torch.stack([torch.as_tensor(value) for value in values]) if values else None


for _architecture in ARCHITECTURES:
    ModelRegistry.register_model(_architecture, Thinker)
