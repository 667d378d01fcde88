"""Keys that do nothing under a config, and why. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from omniopsd.config import RunConfig

Finding = tuple[str, str]
"""A dotted key, and one sentence about it."""

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
    yield from _objective(config)
    yield from _teacher(config)
    yield from _rollout(config)
    yield from _program(config)


def _objective(config: RunConfig) -> Iterator[Finding]:
    objective = config.objective
    if objective.divergence == "cross_entropy":
        why = "no effect with divergence: cross_entropy, which has no teacher; leave it out"
        for name in ("beta", "support", "top_k", "temperature", "importance", "importance_cap"):
            yield f"objective.{name}", why
        return
    if objective.divergence != "jsd":
        yield (
            "objective.beta",
            f"no effect with divergence: {objective.divergence}; leave it out, or write jsd",
        )
    if objective.support != "topk":
        yield "objective.top_k", f"no effect with support: {objective.support}; leave it out, or write topk"
    if objective.importance == "off":
        yield "objective.importance_cap", "no effect with importance: off; leave it out, or write capped"


def _teacher(config: RunConfig) -> Iterator[Finding]:
    teacher = config.teacher
    if config.objective.divergence == "cross_entropy":
        for name in sorted(
            set(type(teacher).model_fields) - {"template"}
        ):  # a cold start reads rationales in it
            yield (
                f"teacher.{name}",
                "no effect: objective.divergence cross_entropy has no teacher; leave it out",
            )
        return
    for name, rules in RULE_KEYS.items():
        if teacher.weights not in rules:
            yield (
                f"teacher.{name}",
                f"no effect with weights: {teacher.weights}; leave it out, or write weights: {' or '.join(rules)}",
            )
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
    runtime = config.runtime
    if config.data.test is None:
        for name in type(config.eval).model_fields:
            yield (
                f"eval.{name}",
                "no effect without data.test; name a file of held-out samples, or leave it out",
            )
    if runtime.kind == "inline":
        yield "runtime.address", "no effect with kind: inline; leave it out, or write kind: ray"
        yield "runtime.colocate", "no effect with kind: inline; leave it out, or write kind: ray"
    if runtime.kind == "inline":  # the same YAML may go to a cluster: --set runtime.address=auto
        for name in ("cpus", "object_store_bytes"):
            yield (
                f"runtime.{name}",
                "no effect unless a local Ray is started; leave it out, or write kind: ray",
            )
