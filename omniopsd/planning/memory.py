"""Memory of one learner rank, one teacher and one rollout engine, part by part. Pure.

N   weights     M   trained weights     R   ranks     b   bytes of a weight in the model's type

         stage 0      1           2           3            in float32 at stages 1 to 3 DeepSpeed keeps
weights  N b          N b         N b         N b / R      masters beside the weights all the same
grads    4 M          4 M         4 M / R     4 M / R
masters  -            4 M / R     4 M / R     4 M / R
moments  8 M          8 M / R     8 M / R     8 M / R
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from omniopsd.config import RunConfig
from omniopsd.planning import activations as kept
from omniopsd.planning.calibration import Calibration, Role
from omniopsd.planning.estimate import Estimate, Known, estimate, total
from omniopsd.planning.model_shape import ModelShape
from omniopsd.planning.workload import Cells, Workload

BYTES = {"float32": 4, "bfloat16": 2}
BUCKET, LIVE = 50_000_000, 1_000_000_000
"""Numbers of DeepSpeed's reduce bucket (learner/engine.py) and of its `stage3_max_live_parameters`."""
TEACHER_ROWS, TEACHER_ARRAYS = 512, 3
"""Rows whose logits a teacher holds at one time (teacher/transformers_scorer.py), and how many arrays of them."""
CONTEXT_BYTES = 1.5e9
"""CUDA context, NCCL buffers and fragmentation of one process: an assumption."""
BASE_BYTES = {"rollout": 1.0e9, "teacher": 0.8e9, "learner": 0.9e9}
"""A process on the CPU with its libraries loaded (measured on x86-64, rounded): an assumption elsewhere."""
VLLM_RESERVE = 2.0e9
"""What vLLM's profiling pass keeps for activations before it sizes its cache: an assumption."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleMemory:
    """`parts` of one actor's memory and their `peak`; `host` what its node keeps for it beside a GPU."""

    role: Role
    gpu: bool
    parts: tuple[Estimate, ...]
    peak: Estimate
    host: tuple[Estimate, ...] = ()


def learner_memory(
    config: RunConfig, shape: ModelShape, workload: Workload, worst: Cells, calibration: Calibration | None
) -> RoleMemory:
    """One rank, with the largest micro-batch that the longest rendered samples can make."""
    learner, gpu = config.learner, bool(config.learner.gpus)
    numbers = shape.parameters + shape.adapters(learner)
    trained, width = shape.trained(learner), BYTES[config.model.dtype]
    states = zero_states(numbers, trained, learner.zero_stage, learner.ranks, width)
    passing = _passing(config, shape, workload, worst)
    bucket = estimate(
        "buckets",
        "bytes",
        "bucket * (b + 4)",
        bucket=BUCKET if gpu else min(BUCKET, trained),
        b=width,
    )
    step = estimate(
        "optimizer step", "bytes", "8 * M / R", M=trained, R=learner.ranks if learner.zero_stage else 1
    )
    fixed = [*states, _teacher_head(config, shape), _base("learner", gpu, calibration)]
    if learner.zero_stage:
        fixed.append(bucket)
    if not gpu:
        fixed.append(_pushed(shape, width))
    peak = estimate(
        "peak",
        "bytes",
        "fixed + max(passing, step)",
        fixed=total("fixed", "bytes", fixed).known,
        passing=total("passing", "bytes", passing).known,
        step=step.known,
    )
    return RoleMemory(role="learner", gpu=gpu, parts=(*fixed, *passing, step), peak=peak)


def zero_states(numbers: int, trained: int, stage: int, ranks: int, width: int) -> list[Estimate]:
    """Weights, gradients, masters and moments of one rank by ZeRO stage (ZeRO, arXiv 1910.02054, section 5)."""
    inputs: dict[str, Any] = {"M": trained, "R": ranks}
    weights = estimate(
        "weights", "bytes", "N * b / R" if stage == 3 else "N * b", N=numbers, b=width, R=ranks
    )
    grads = estimate("gradients", "bytes", "4 * M / R" if stage >= 2 else "4 * M", **inputs)
    moments = estimate("moments", "bytes", "8 * M / R" if stage else "8 * M", **inputs)
    states = [weights, grads, moments]
    if stage:
        states.insert(2, estimate("masters", "bytes", "4 * M / R", **inputs))
    if stage == 3:
        states.append(
            estimate("gathered weights", "bytes", "min(N, live) * b", N=numbers, live=LIVE, b=width)
        )
    return states


def teacher_memory(
    config: RunConfig, shape: ModelShape, workload: Workload, calibration: Calibration | None
) -> RoleMemory:
    """One teacher: its weights, the float32 memory of its rule, and the largest pack it scores at one time."""
    teacher, gpu, width = config.teacher, config.teacher.gpus > 0, BYTES[config.model.dtype]
    text = shape.by_part()["text"]
    inputs: dict[str, Any] = {"whole": shape.parameters - text, "text": text, "ranks": teacher.ranks}
    weights = estimate("weights", "bytes", "(whole + text / ranks) * b", **inputs, b=width)
    rule = f"teacher.weights: {teacher.weights}"
    average = estimate("average", "bytes", "4 * (whole + text / ranks)", rule, **inputs)
    own = [weights, average] if teacher.weights in ("ema", "trust_region") else [weights]
    if teacher.scorer == "vllm":
        return _vllm_memory("teacher", config, shape, calibration, () if teacher.weights == "frozen" else own)
    group = workload.longest("context") + config.rollout.rollouts_per_sample * workload.limit
    pack = max(group, min(config.teacher.max_pack_tokens, group * config.rollout.samples_per_call))
    layer = estimate(
        "one layer",
        "bytes",
        "L * layer",
        L=pack,
        layer=kept.text_layer_bytes(shape.text, pack, width),
        note="tokens of the largest pack, through one layer at a time",
    )
    logits = estimate(
        "logits",
        "bytes",
        "arrays * rows * V * 4",
        arrays=TEACHER_ARRAYS,
        rows=TEACHER_ROWS,
        V=shape.text.vocabulary,
    )
    parts = [*own, layer, logits, _base("teacher", gpu, calibration)]
    if not gpu:
        parts.append(_pushed(shape, width))
    return RoleMemory(role="teacher", gpu=gpu, parts=tuple(parts), peak=total("peak", "bytes", parts))


def rollout_memory(
    config: RunConfig, shape: ModelShape, workload: Workload, calibration: Calibration | None
) -> RoleMemory:
    """One engine."""
    if config.rollout.engine == "vllm":
        return _vllm_memory("rollout", config, shape, calibration, ())
    rollout, gpu, width = config.rollout, config.rollout.gpus > 0, BYTES[config.model.dtype]
    calls = min(rollout.samples_per_call, config.run.samples_per_step)
    sequences = calls * rollout.rollouts_per_sample
    parts = [
        estimate("weights", "bytes", "N * b", N=shape.parameters, b=width),
        estimate(
            "key-values",
            "bytes",
            "sequences * tokens * kv",
            sequences=sequences,
            tokens=workload.longest("prompt") + workload.limit,
            kv=kept.kv_bytes(shape.text, width),
        ),
        estimate("logits", "bytes", "3 * sequences * V * 4", sequences=sequences, V=shape.text.vocabulary),
        _base("rollout", gpu, calibration),
    ]
    if not gpu:
        parts.append(_pushed(shape, width))
    return RoleMemory(role="rollout", gpu=gpu, parts=tuple(parts), peak=total("peak", "bytes", parts))


def _vllm_memory(
    role: Role,
    config: RunConfig,
    shape: ModelShape,
    calibration: Calibration | None,
    host: Sequence[Estimate],
) -> RoleMemory:
    """A vLLM engine; on GPUs its peak is what it must hold at least, and `plan.fit` compares that with its share."""
    section = config.rollout if role == "rollout" else config.teacher
    gpu, width, split = section.gpus > 0, BYTES[config.model.dtype], section.tensor_parallel_size
    weights = estimate(
        "weights", "bytes", "N * b / tensor_parallel", N=shape.parameters, b=width, tensor_parallel=split
    )
    if gpu:
        sequence = estimate(
            "one longest sequence",
            "bytes",
            "max_context * kv / min(tensor_parallel, key_heads)",
            max_context=config.model.max_context,
            kv=kept.kv_bytes(shape.text, width),
            tensor_parallel=split,
            key_heads=shape.text.key_heads,
        )
        reserve = estimate(
            "activations", "bytes", "reserve", reserve=Known(value=VLLM_RESERVE, source="assumption")
        )
        parts = [weights, sequence, reserve]
        return RoleMemory(
            role=role, gpu=True, parts=tuple(parts), peak=total("peak", "bytes", parts), host=tuple(host)
        )
    cache = estimate("key-values", "bytes", "kv_cache_gib * 2**30", kv_cache_gib=section.kv_cache_gib)
    parts = [weights, cache, *host, _base(role, gpu, calibration), _pushed(shape, width)]
    return RoleMemory(role=role, gpu=False, parts=tuple(parts), peak=total("peak", "bytes", parts))


def _passing(config: RunConfig, shape: ModelShape, workload: Workload, worst: Cells) -> list[Estimate]:
    """What lives between forward and backward pass of the largest micro-batch."""
    learner, width, at = config.learner, BYTES[config.model.dtype], worst.largest
    row, rows, groups = worst.width[at], worst.rows[at], worst.groups[at]
    note = "gradient checkpointing" if learner.gradient_checkpointing else "no gradient checkpointing"
    per_token = kept.text_bytes(shape.text, row, width, checkpointed=learner.gradient_checkpointing)
    parts = [
        estimate("text activations", "bytes", "rows * L * token", note, rows=rows, L=row, token=per_token),
        estimate(
            "logits",
            "bytes",
            "arrays * row_chunk * V * 4",
            arrays=kept.LOGIT_ARRAYS,
            row_chunk=min(config.objective.row_chunk, worst.responses[at]),
            V=shape.text.vocabulary,
        ),
        estimate("teacher rows", "bytes", "T * D * b", T=worst.responses[at], D=shape.text.width, b=width),
    ]
    towers = (
        ("vision", "patches", "patch", kept.vision_bytes(shape.vision, width)),
        ("audio", "frames", "frame", kept.audio_bytes(shape.audio, width)),
    )
    for tower, many, one, each in towers:
        if learner.lora is None and tower not in learner.freeze:
            inputs: dict[str, Any] = {many: workload.longest(many), one: each}
            formula = f"groups * {many} * {one}"
            parts.append(estimate(f"{tower} activations", "bytes", formula, groups=groups, **inputs))
    return parts


def _teacher_head(config: RunConfig, shape: ModelShape) -> Estimate:
    """The learner's copy of the teacher's head (learner/head.py)."""
    held = config.objective.has_teacher and not config.teacher.colocated
    return estimate(
        "teacher head",
        "bytes",
        "held * V * D * (b + 4 * average)",
        held=int(held),
        V=shape.text.vocabulary,
        D=shape.text.width,
        b=BYTES[config.model.dtype],
        average=int(config.teacher.weights in ("ema", "trust_region")),
    )


def _pushed(shape: ModelShape, width: int) -> Estimate:
    """Chunks of a push are in shared memory and count for every process that maps them."""
    return estimate("push in shared memory", "bytes", "N * b", N=shape.parameters, b=width)


def _base(role: Role, gpu: bool, calibration: Calibration | None) -> Estimate:
    if gpu:
        return estimate(
            "context", "bytes", "context", context=Known(value=CONTEXT_BYTES, source="assumption")
        )
    if calibration is not None and role in calibration.rates:
        value = Known(value=calibration.rates[role].base_bytes, source="measured")
    else:
        value = Known(value=BASE_BYTES[role], source="assumption")
    return estimate("process", "bytes", "base", base=value)
