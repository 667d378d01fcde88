"""Seconds of one generate call, one score call, one train step and one push. Pure.

Each is a sum of fixed times (calls, samples, decode steps), of work over a rate, and of bytes over a bandwidth:

    generate  call + k sample + S step + tokens token + prefill / F + max(decode / F, read / B)
    score     call + k sample + tokens token + max(forward / F, weights / B)
    train     call + k sample + m micro + tokens token + work / F + optimizer / B + collectives / link
    push      fixed + bytes x (sender, then the slowest receiver)

k samples of a call; S steps, the longest of its answers; F operations, B bytes per second; m micro-batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from omniopsd.config import RunConfig
from omniopsd.planning import activations as work
from omniopsd.planning.estimate import Estimate, estimate
from omniopsd.planning.memory import BYTES
from omniopsd.planning.model_shape import ModelShape
from omniopsd.planning.rates import Links, Rates
from omniopsd.planning.workload import Cells, Workload

ADAM_BYTES = 32
"""Adam on one float32 number reads master, gradient and two moments and writes three of them, plus the weight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Counts of one call, before any rate: FLOPs, bytes, and how many of each fixed time."""

    flops: float
    read: float
    counts: dict[str, float]
    prefill: float = 0.0


def generate_work(shape: ModelShape, workload: Workload, config: RunConfig, samples: float) -> Work:
    """One generate call of some samples: prompts once for their G answers (prefix cache), then one token a step."""
    text, answers, rollouts = shape.text, workload.answers, config.rollout.rollouts_per_sample
    prompt, tokens = workload.mean("prompt"), samples * rollouts * answers.mean
    split = config.rollout.tensor_parallel_size
    prefill = samples * (work.text_flops(text, prompt, prompt / 2) + towers(shape, workload))
    middle = prompt + answers.mean / 2
    flops = work.text_flops(text, tokens, middle) + work.head_flops(text, tokens)
    parts, width = shape.by_part(), BYTES[config.model.dtype]
    weights = (parts["text"] + (parts["head"] or parts["embedding"])) * width
    read = answers.longest * weights + tokens * middle * work.kv_bytes(text, width)
    counts = {"call": 1.0, "sample": samples, "step": answers.longest, "token": tokens}
    return Work(flops=flops / split, read=read / split, prefill=prefill / split, counts=counts)


def score_work(
    shape: ModelShape, workload: Workload, config: RunConfig, samples: float, context: str = "context"
) -> Work:
    """One score call: contexts and all answers in packs; a vLLM teacher reads the context anew for every answer."""
    rollouts, answer = config.rollout.rollouts_per_sample, workload.answers.mean
    each = workload.mean(context)
    group = each + rollouts * answer
    row = min(max(group, config.teacher.max_pack_tokens), samples * group)
    tokens = samples * group
    if config.teacher.scorer == "vllm":
        tokens, row = samples * rollouts * (each + answer), (each + answer) / 2
    flops = work.text_flops(shape.text, tokens, row) + samples * towers(shape, workload)
    flops += work.head_flops(shape.text, samples * rollouts * answer)
    split = config.teacher.tensor_parallel_size
    counts = {"call": 1.0, "sample": samples, "token": tokens}
    read = shape.parameters * BYTES[config.model.dtype]
    return Work(flops=flops / split, read=read / split, counts=counts)


def train_work(shape: ModelShape, workload: Workload, config: RunConfig, cells: Cells) -> Work:
    """One train step of the busiest rank: forward 1, backward 2 (adapters 1), recomputation 1."""
    learner, text = config.learner, shape.text
    again, adapters = learner.gradient_checkpointing, learner.lora is not None
    passes = (2 if adapters else 3) + again
    flops = sum(
        passes * work.text_flops(text, rows * row, row)
        for rows, row in zip(cells.rows, cells.width, strict=True)
    )
    groups, responses = sum(cells.groups), sum(cells.responses)
    for tower, one in (("vision", vision(shape, workload)), ("audio", audio(shape, workload))):
        frozen = adapters or tower in learner.freeze
        flops += groups * one * (1 if frozen else 3)
    teacher_head = 2 if config.objective.transport == "full" and config.objective.has_teacher else 0
    flops += (4 + teacher_head) * work.head_flops(text, responses)
    if config.teacher.colocated and config.objective.has_teacher:
        own = groups * workload.mean("context") + responses
        flops += work.text_flops(text, own, own) + groups * towers(shape, workload)
    shards = learner.ranks if learner.zero_stage else 1
    counts = {
        "call": 1.0,
        "sample": float(groups),
        "micro": float(len(cells.rows)),
        "token": float(cells.tokens),
    }
    return Work(flops=flops, read=ADAM_BYTES * shape.trained(learner) / shards, counts=counts)


def towers(shape: ModelShape, workload: Workload) -> float:
    """FLOPs of the media of one sample."""
    return vision(shape, workload) + audio(shape, workload)


def vision(shape: ModelShape, workload: Workload) -> float:
    """FLOPs of its frames and images."""
    return work.vision_flops(shape.vision, workload.mean("patches"), shape.text.width)


def audio(shape: ModelShape, workload: Workload) -> float:
    """FLOPs of its sound."""
    return work.audio_flops(shape.audio, workload.mean("frames"), shape.text.width)


def generate_seconds(one: Work, rates: Rates) -> Estimate:
    """Seconds of a generate call."""
    return estimate(
        "generate call",
        "seconds",
        "fixed + prefill / F + max(decode / F, read / B)",
        fixed=fixed_seconds(one, rates).known,
        prefill=one.prefill,
        decode=one.flops,
        read=one.read,
        F=rates.flops,
        B=rates.bandwidth,
    )


def score_seconds(one: Work, rates: Rates) -> Estimate:
    """Seconds of a score call."""
    return estimate(
        "score call",
        "seconds",
        "fixed + max(work / F, weights / B)",
        fixed=fixed_seconds(one, rates).known,
        work=one.flops,
        weights=one.read,
        F=rates.flops,
        B=rates.bandwidth,
    )


def train_seconds(one: Work, rates: Rates, collectives: Estimate) -> Estimate:
    """Seconds of a train step of the busiest rank."""
    return estimate(
        "train step",
        "seconds",
        "fixed + work / F + optimizer / B + collectives",
        fixed=fixed_seconds(one, rates).known,
        work=one.flops,
        optimizer=one.read,
        F=rates.flops,
        B=rates.bandwidth,
        collectives=collectives.known,
    )


def fixed_seconds(one: Work, rates: Rates) -> Estimate:
    """What is paid by call, sample, step and token, whatever the sizes of the model."""
    inputs: dict[str, Any] = {}
    terms = []
    for name, count in one.counts.items():
        inputs |= {f"{name}s": count, name: rates.fixed(name)}
        terms.append(f"{name}s * {name}")
    return estimate("fixed", "seconds", " + ".join(terms), **inputs)


def collective_seconds(
    config: RunConfig, shape: ModelShape, cells: Cells, links: Links, gpus_per_node: int
) -> Estimate:
    """Reduced gradients in float32, gathered weights; at stage 3 the weights once more in every pass."""
    learner = config.learner
    if learner.ranks == 1:
        return estimate("collectives", "seconds", "0")
    trained, width = shape.trained(learner), BYTES[config.model.dtype]
    inside = learner.ranks <= max(1, gpus_per_node)
    passes = len(cells.rows) * (2 + learner.gradient_checkpointing) if learner.zero_stage == 3 else 1
    return estimate(
        "collectives",
        "seconds",
        "(R - 1) / R * (4 * M + gathers * N * b) / link",
        "ring collectives; over NVLink inside a node, else over the network",
        R=learner.ranks,
        M=trained,
        gathers=passes if learner.zero_stage else 0,
        N=shape.parameters if learner.zero_stage == 3 else trained,
        b=width,
        link=links.gpus if inside else links.network,
    )
