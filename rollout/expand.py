"""How many placeholder tokens a medium takes, and in what order: arithmetic only, no features.

The formulas are those of transformers' processors, with the sizes that the model folder states:
- vision: resized by `smart_resize`, t*h*w patches over merge_size^2; F frames make ceil(F/2) grids;
- audio: one mel frame each 160 samples, then a stride-2 convolution and a stride-2 average;
- audio in video: both are cut into chunks of 50 positions (2 s) and alternate, video first.
"""

from __future__ import annotations

from itertools import zip_longest

import numpy as np
from transformers import Qwen2_5OmniProcessor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from rollout.types import Media

SECONDS_PER_CHUNK = 2.0
POSITIONS_PER_SECOND = 25


class RenderError(ValueError):
    """Messages or media that cannot be put into token ids."""


def vision_grid(medium: Media, processor: Qwen2_5OmniProcessor) -> tuple[int, int, int]:
    """Token grid (t, h, w) of a video or image, after merging. Raises RenderError on a ribbon."""
    sizes = processor.video_processor if medium.kind == "video" else processor.image_processor
    frames, (height, width) = (
        (len(medium.data), medium.data.shape[1:3]) if medium.kind == "video" else (1, medium.data.shape[:2])
    )
    factor = sizes.patch_size * sizes.merge_size
    try:
        tall, wide = smart_resize(
            height,
            width,
            factor=factor,
            min_pixels=sizes.size["shortest_edge"],
            max_pixels=sizes.size["longest_edge"],
        )
    except (ValueError, ZeroDivisionError) as error:
        raise RenderError(
            f"a {medium.kind} of {width}x{height} pixels cannot be resized ({error}); crop or pad it"
        ) from error
    return -(-frames // sizes.temporal_patch_size), tall // factor, wide // factor


def audio_tokens(medium: Media, processor: Qwen2_5OmniProcessor) -> int:
    """Tokens of an audio medium. Raises RenderError when it is too short or too long for the model."""
    extractor = processor.feature_extractor
    samples, rate = len(medium.data), extractor.sampling_rate
    if samples > extractor.n_samples:
        raise RenderError(
            f"an audio of {samples / rate:.2f} s is longer than the {extractor.n_samples / rate:g} s that the "
            "model's feature extractor takes; cut it"
        )
    frames = -(-samples // extractor.hop_length)
    tokens = ((frames - 1) // 2 + 1 - 2) // 2 + 1
    if tokens < 1:
        raise RenderError(
            f"an audio of {samples / rate:.3f} s is too short for one token; give at least 0.03 s"
        )
    return tokens


def interleave(grid: tuple[int, int, int], seconds_per_grid: float, audio: int) -> np.ndarray:
    """The order of a video's tokens and those of its own track: bool [video+audio], true for audio.

    As transformers' processor and its rotary positions have it. vLLM's own expansion agrees while a
    frame pair starts in every 2 s, so at 1 frame a second or more; below that it differs, and the
    engine must be given these ids rather than a single placeholder.
    """
    t, h, w = grid
    video = _chunks(np.arange(t).repeat(h * w) * seconds_per_grid * POSITIONS_PER_SECOND)
    sound = _chunks(np.arange(audio))
    order: list[bool] = []
    for frames, sounds in zip_longest(video, sound, fillvalue=0):
        order += [False] * frames + [True] * sounds
    return np.array(order, dtype=bool)


def _chunks(positions: np.ndarray) -> list[int]:
    # Qwen2_5OmniProcessor.get_chunked_index: a token makes at most one cut, so where a chunk is
    # skipped the next token is cut off alone
    per_chunk = int(POSITIONS_PER_SECOND * SECONDS_PER_CHUNK)
    sizes: list[int] = []
    start = 0
    for index, position in enumerate(positions):
        if position >= (len(sizes) + 1) * per_chunk:
            sizes.append(index - start)
            start = index
    return [*sizes, len(positions) - start]
