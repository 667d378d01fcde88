"""Bytes that a forward pass keeps for the backward pass, and the work of a pass in FLOPs. Pure.

    b   bytes of a number in the model's type     L   tokens of a packed row     n   tokens or patches

What is kept was counted in transformers 5.19 with `torch.autograd.graph.saved_tensors_hooks`; the tests count
again. The tree mask is dense, and torch makes a copy of it in the model's type in every layer: L numbers for
each token, which outgrows all else in long rows.
"""

from __future__ import annotations

from omniopsd.planning.model_shape import TextShape, TowerShape

FLOAT = 4
LOGIT_ARRAYS = 6
"""Float32 arrays [row_chunk, V] of the loss at its peak (benchmarks/results/loss_memory.json: 963 MB / 156 MB)."""


def text_layer_bytes(text: TextShape, row: int, width: int) -> float:
    """For one token of a row of `row` tokens in one layer; `width` is b.

    Two norms keep their float32 input and their normalized value, their outputs feed the projections; q, k, v
    (repeated to all heads) and the attention's output; gate, activation, up and product; the mask.
    """
    heads = text.heads * text.head_width
    numbers = 4 * text.inner + 4 * text.width + 4 * heads + row
    return width * numbers + 2 * FLOAT * text.width + FLOAT * (2 + text.heads)


def text_bytes(text: TextShape, row: int, width: int, *, checkpointed: bool) -> float:
    """For one token through all layers and the last norm; checkpointed layers keep their input and one whole layer."""
    layer = text_layer_bytes(text, row, width)
    kept = layer + text.layers * width * text.width if checkpointed else text.layers * layer
    return kept + (FLOAT + width) * text.width


def vision_bytes(tower: TowerShape, width: int) -> float:
    """For one patch through the whole vision tower."""
    block = width * (4 * tower.inner + 9 * tower.width) + 2 * FLOAT * tower.width + FLOAT * (2 + tower.heads)
    ends = width * (tower.input_numbers + 2 * tower.width + 3 * tower.width) + FLOAT * 64
    return tower.layers * block + ends


def audio_bytes(tower: TowerShape, width: int) -> float:
    """For one mel frame through the audio tower, whose convolution halves the frames."""
    block = width * (2 * tower.inner + 9 * tower.width) + FLOAT * (4 + tower.heads)
    return (
        width * (tower.input_numbers + 2.5 * tower.width) + tower.layers * block / 2 + width * tower.width / 2
    )


def text_layer_numbers(text: TextShape) -> int:
    """Weights of one layer that multiply a token: q, k, v, o, gate, up, down."""
    heads, keys = text.heads * text.head_width, text.key_heads * text.head_width
    return text.width * (2 * heads + 2 * keys) + 3 * text.width * text.inner


def text_flops(text: TextShape, tokens: float, row: float) -> float:
    """Forward pass of `tokens` through the layers, each seeing a row of `row` tokens (the mask is dense)."""
    attention = 4 * row * text.heads * text.head_width
    return tokens * text.layers * (2 * text_layer_numbers(text) + attention)


def head_flops(text: TextShape, rows: float) -> float:
    """Logits of `rows` rows."""
    return 2.0 * rows * text.width * text.vocabulary


def vision_flops(tower: TowerShape, patches: float, out_width: int) -> float:
    """Forward pass of `patches`; attention inside windows is left out (64 patches each, under a hundredth)."""
    block = 2 * (4 * tower.width**2 + 3 * tower.width * tower.inner)
    merged = tower.merge * tower.width
    ends = 2 * tower.width * tower.input_numbers + 2 * (merged**2 + merged * out_width) / tower.merge
    return patches * (tower.layers * block + ends)


def audio_flops(tower: TowerShape, frames: float, out_width: int) -> float:
    """Forward pass of `frames` mel frames: two convolutions, the layers on every second frame, the projection."""
    block = 2 * (4 * tower.width**2 + 2 * tower.width * tower.inner)
    ends = 6 * tower.input_numbers * tower.width + 3 * tower.width**2 + tower.width * out_width / 2
    return frames * (tower.layers * block / 2 + ends)


def kv_bytes(text: TextShape, width: int) -> int:
    """Keys and values of one token in all layers."""
    return 2 * text.layers * text.key_heads * text.head_width * width
