"""Keys that do nothing under a config, and why. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from omniopsd.config import RunConfig
from omniopsd.objective_checks import Finding, objective_idle_keys

RULE_KEYS = {
    "ema": ("ema",),
    "copy_every": ("hard", "gated"),
    "gate_gain": ("gated",),
    "gate_length_tail": ("gated",),
    "trust": ("trust_region",),
}
VLLM_KEYS = ("tensor_parallel_size", "memory_fraction", "kv_cache_gib", "enforce_eager")


def idle_keys(config: RunConfig) -> Iterator[Finding]:
    """Every key that has no effect beside the other settings."""
    yield from objective_idle_keys(config.objective)
    yield from _teacher(config)
    yield from _rollout(config)
    yield from _program(config)


def _teacher(config: RunConfig) -> Iterator[Finding]:
    teacher = config.teacher
    found = config.objective.divergence
    if not config.objective.has_teacher:
        # a cold start reads rationales in the template
        for name in sorted(set(type(teacher).model_fields) - {"template"}):
            yield f"teacher.{name}", f"no effect: objective.divergence {found} has no teacher; leave it out"
        yield "eval.teacher", f"no effect: objective.divergence {found} has no teacher; leave it out"
        return
    for name, rules in RULE_KEYS.items():
        if teacher.weights not in rules:
            yield (
                f"teacher.{name}",
                f"no effect with weights: {teacher.weights}; leave it out, or write weights: {' or '.join(rules)}",
            )
    for name in ("memory_fraction", "kv_cache_gib"):
        if teacher.scorer != "vllm":
            yield (
                f"teacher.{name}",
                f"no effect with scorer: {teacher.scorer}; leave it out, or write scorer: vllm",
            )
    if teacher.colocated:
        for name in (
            "replicas",
            "cpus",
            "gpus",
            "tensor_parallel_size",
            "max_pack_tokens",
            "timeout_seconds",
        ):
            yield f"teacher.{name}", "no effect with scorer: colocated, which is the learner; leave it out"
    if teacher.scorer == "vllm":
        yield "teacher.max_pack_tokens", "no effect with scorer: vllm, which batches by itself; leave it out"
    if teacher.privilege == "none":
        for name in ("template", "missing"):
            yield f"teacher.{name}", "no effect with privilege: none; leave it out, or choose a privilege"


def _rollout(config: RunConfig) -> Iterator[Finding]:
    rollout = config.rollout
    if rollout.engine == "transformers":
        for name in VLLM_KEYS:
            yield f"rollout.{name}", "no effect with engine: transformers; leave it out, or write vllm"
    elif rollout.gpus > 0:
        yield "rollout.kv_cache_gib", "no effect on GPUs, where memory_fraction decides; leave it out"


def _program(config: RunConfig) -> Iterator[Finding]:
    runtime, objective = config.runtime, config.objective
    for name in ("format", "length", "leak", "spike", "gain"):
        alarm = getattr(config.alarms, name)
        for key in set(type(alarm).model_fields) - {"action"} if alarm.action == "off" else ():
            yield f"alarms.{name}.{key}", "no effect with action: off; leave it out, or write warn or stop"
    if not objective.has_teacher or config.teacher.colocated:
        for name in ("samples", "reference_every", "plain_every", "answer_driven_every"):
            yield (
                f"telemetry.{name}",
                "no effect without a pool of teachers (objective.divergence, teacher.colocated); leave it out",
            )
    if config.data.test is None:
        kept = {"bench"} if config.eval.bench is None else {"bench", "every"}
        for name in sorted(set(type(config.eval).model_fields) - kept):
            yield (
                f"eval.{name}",
                "no effect without data.test; name a file of held-out samples, or leave it out",
            )
    if config.eval.bench is not None and config.eval.bench.select_on_test and not config.eval.bench.select:
        yield "eval.bench.select_on_test", "no effect without select; leave it out, or write select: true"
    if runtime.kind == "inline":
        yield "runtime.address", "no effect with kind: inline; leave it out, or write kind: ray"
        yield "runtime.colocate", "no effect with kind: inline; leave it out, or write kind: ray"
    if runtime.kind == "inline":  # the same YAML may go to a cluster: --set runtime.address=auto
        for name in ("cpus", "object_store_bytes"):
            yield (
                f"runtime.{name}",
                "no effect unless a local Ray is started; leave it out, or write kind: ray",
            )
