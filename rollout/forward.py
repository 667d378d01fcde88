"""The thinker's forward pass over a pack: towers, scatter, language model, and only the rows asked for.

Every tower runs at most once. With `every_tower` it runs exactly once, on a minimal dummy when the
pack has no such medium (its output is added times zero): partitioned training needs every rank to
run the same modules in the same order, or the collectives of different ranks meet and abort.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor
from transformers import Qwen2_5OmniThinkerForConditionalGeneration

from rollout.features import Features, Item
from rollout.sequence import Branches, Pack
from rollout.types import Rendered

Thinker: TypeAlias = Qwen2_5OmniThinkerForConditionalGeneration

DUMMY_GRID = (1, 2, 2)
DUMMY_MEL_FRAMES = 4


class FeatureMismatch(ValueError):
    """Placeholders in the ids and rows out of the towers differ in number."""


def branches(
    thinker: Thinker, rendered: Rendered, features: Features, responses: Sequence[np.ndarray]
) -> Branches:
    """One prompt and its responses, with the multimodal rotary positions [3,P] of the prompt."""
    return Branches(
        prefix_ids=rendered.token_ids,
        positions=rope_positions(thinker, rendered, features),
        responses=tuple(responses),
    )


def rope_positions(thinker: Thinker, rendered: Rendered, features: Features) -> np.ndarray:
    """The model's own position ids, int64 [3,P], for a prompt and its media grids."""
    ids = torch.from_numpy(np.asarray(rendered.token_ids, np.int64))[None]
    positions, _ = thinker.get_rope_index(
        ids,
        _grids(features.images),
        _grids(features.videos),
        torch.ones_like(ids),
        rendered.audio_in_video,
        torch.tensor([item.values.shape[1] for item in features.audio]) if features.audio else None,
        torch.tensor([item.seconds_per_grid for item in features.videos]) if features.videos else None,
    )
    return positions[:, 0].numpy().astype(np.int64)


def thinker_hidden(
    thinker: Thinker, pack: Pack, features: Sequence[Features], *, every_tower: bool = False
) -> Tensor:
    """Hidden rows [N,D] after the final norm: row n predicts `pack.targets[n]`.

    `features` in the order of the pack's groups. Raises FeatureMismatch.
    """
    # not of single weights: under ZeRO-3 reading one outside its module keeps it gathered
    device = thinker.device
    ids = torch.from_numpy(pack.token_ids).to(device)
    embeddings = thinker.model.embed_tokens(ids)
    config = thinker.config
    # a sampled placeholder token is a token like any other: media stand in prompts alone
    prompt = torch.from_numpy(pack.branch == 0).to(device)
    vision = [item for one in features for item in one.vision]
    audio = [item for one in features for item in one.audio]
    if vision or every_tower:
        where = prompt & ((ids == config.image_token_id) | (ids == config.video_token_id))
        embeddings = _scatter(embeddings, where, _vision_rows(thinker, vision), bool(vision), "vision")
    if audio or every_tower:
        where = prompt & (ids == config.audio_token_id)
        embeddings = _scatter(embeddings, where, _audio_rows(thinker, audio), bool(audio), "audio")
    out = thinker.model(
        inputs_embeds=embeddings,
        attention_mask=tree_mask(pack).to(device),
        position_ids=torch.from_numpy(pack.positions).to(device),
        use_cache=False,
    )
    rows = torch.from_numpy(pack.rows).to(device)
    return out.last_hidden_state.reshape(-1, out.last_hidden_state.shape[-1])[rows]


def tree_mask(pack: Pack) -> Tensor:
    """Boolean [R,1,L,L]: true where a token (row) may see another (column). Padding sees itself."""
    group, branch = torch.from_numpy(pack.group), torch.from_numpy(pack.branch)
    length = group.shape[1]
    same_group = group[:, :, None] == group[:, None, :]
    same_branch = (branch[:, None, :] == 0) | (branch[:, :, None] == branch[:, None, :])
    before = torch.ones(length, length, dtype=torch.bool).tril()
    return (same_group & same_branch & before)[:, None]


def _scatter(embeddings: Tensor, where: Tensor, rows: Tensor, real: bool, tower: str) -> Tensor:
    rows = rows.to(embeddings.dtype)
    if not real:
        return embeddings + 0.0 * rows.sum()
    if int(where.sum()) != len(rows):
        raise FeatureMismatch(f"{int(where.sum())} {tower} placeholders, {len(rows)} rows out of the tower")
    return embeddings.masked_scatter(where[..., None], rows)


def _vision_rows(thinker: Thinker, items: Sequence[Item]) -> Tensor:
    grids = _grids(items)
    if grids is not None:
        pixels = torch.cat([item.values for item in items])
    else:
        config = thinker.config.vision_config
        patch = config.in_channels * config.temporal_patch_size * config.patch_size**2
        pixels, grids = torch.zeros(int(np.prod(DUMMY_GRID)), patch), torch.tensor([DUMMY_GRID])
    return thinker.visual(
        pixels.to(thinker.device, thinker.dtype), grid_thw=grids.to(thinker.device)
    ).pooler_output


def _audio_rows(thinker: Thinker, items: Sequence[Item]) -> Tensor:
    if items:
        mel = torch.cat([item.values for item in items], dim=1)
        lengths = torch.tensor([item.values.shape[1] for item in items])
    else:
        mel = torch.zeros(thinker.config.audio_config.num_mel_bins, DUMMY_MEL_FRAMES)
        lengths = torch.tensor([DUMMY_MEL_FRAMES])
    return thinker.audio_tower(
        mel.to(thinker.device, thinker.dtype), feature_lens=lengths.to(thinker.device)
    ).last_hidden_state


def _grids(items: Sequence[Item]) -> Tensor | None:
    return torch.tensor([item.grid for item in items]) if items else None
