"""Settings that contradict each other, found before anything starts. Pure.

Two kinds. A *conflict* is a value that would train something else than it says, whoever wrote it. An
*idle key* (`omniopsd.idle_keys`) has no effect beside the other settings; it is refused only where the
user wrote it, because then it is believed to do something.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from pathlib import Path

from pydantic import BaseModel

from omniopsd.config import RunConfig
from omniopsd.idle_keys import idle_keys
from omniopsd.machine_checks import machine_conflicts, tensor_parallel_conflicts
from omniopsd.objective_checks import Finding, objective_conflicts
from omniopsd.rationales.checks import cache_conflicts

FLOAT32_PROBE = 1e-2
BFLOAT16_PROBE = (1e-2, 0.5)


def contradictions(config: RunConfig, given: Collection[str] | None = None) -> list[Finding]:
    """All conflicts, and the idle keys among `given` (dotted); None takes the keys set on the models."""
    given = set(given_keys(config)) if given is None else given
    idle = [finding for finding in idle_keys(config) if finding[0] in given]
    return [*conflicts(config), *idle]


def given_keys(model: BaseModel, prefix: str = "") -> Iterator[str]:
    """Dotted names of the fields that were passed to the models, by `model_fields_set`."""
    for name in sorted(model.model_fields_set):
        value = getattr(model, name)
        if value is not None:
            yield f"{prefix}{name}"
        if isinstance(value, BaseModel):
            yield from given_keys(value, f"{prefix}{name}.")


def conflicts(config: RunConfig) -> Iterator[Finding]:
    """Values that do not go together, in the order of the sections."""
    yield from _steps(config)
    yield from _data(config)
    yield from _bench(config)
    yield from objective_conflicts(config)
    yield from _teacher(config)
    yield from _learner(config)
    yield from _weights(config)
    yield from machine_conflicts(config)
    yield from cache_conflicts(config)
    yield from _alarms(config)


def _steps(config: RunConfig) -> Iterator[Finding]:
    run, learner = config.run, config.learner
    if learner.warmup_steps >= run.steps:
        yield (
            "learner.warmup_steps",
            f"a warm-up of {learner.warmup_steps} steps leaves none of {run.steps} at learner.lr; "
            "lower it, or raise run.steps",
        )
    if learner.decay_steps is not None and learner.decay_steps < run.steps:
        yield (
            "learner.decay_steps",
            f"the rate is 0 after {learner.decay_steps} of {run.steps} steps, so the rest would learn nothing; "
            "write run.steps or more",
        )
    if run.samples_per_step < learner.ranks:
        yield (
            "run.samples_per_step",
            f"{run.samples_per_step} samples leave some of {learner.ranks} learner.ranks without work "
            "in every step; raise it, or lower learner.ranks",
        )
    cells = learner.ranks * (learner.micro_batches or 1)
    if learner.micro_batches is not None and cells > max(run.samples_per_step, learner.ranks):
        yield (
            "learner.micro_batches",
            f"{learner.ranks} ranks x {learner.micro_batches} micro-batches are more than the "
            f"{run.samples_per_step} samples of a step, so some are always empty; lower it",
        )


def _data(config: RunConfig) -> Iterator[Finding]:
    data = config.data
    if data.test is not None and Path(data.test).resolve() == Path(data.train).resolve():
        yield (
            "data.test",
            "the same file as data.train, so the table would measure memory; give held-out samples",
        )
    room = config.model.max_context - config.rollout.max_new_tokens
    if room < 1:
        yield (
            "rollout.max_new_tokens",
            f"{config.rollout.max_new_tokens} tokens leave no room for a prompt in model.max_context "
            f"{config.model.max_context}; lower it, or raise model.max_context",
        )


def _bench(config: RunConfig) -> Iterator[Finding]:
    bench, every = config.eval.bench, config.eval.every
    if bench is None or not bench.select:
        return
    if every is None:
        yield "eval.bench.select", "one score after the last step is nothing to choose from; set eval.every"
    elif every % config.checkpoint.every:
        yield (
            "eval.every",
            f"{every} is no multiple of checkpoint.every {config.checkpoint.every}, so a measured step may have no "
            "checkpoint to keep; make it one",
        )


def _teacher(config: RunConfig) -> Iterator[Finding]:
    teacher = config.teacher
    if teacher.privilege != "none" and teacher.template.count("{evidence}") != 1:
        yield (
            "teacher.template",
            f"has {{evidence}} {teacher.template.count('{evidence}')} times, so the teacher would not see "
            "the evidence as meant; write it exactly once",
        )
    windows = 2 if teacher.weights == "gated" else 1
    if teacher.weights in ("hard", "gated") and teacher.copy_every * windows > config.run.steps:
        yield (
            "teacher.copy_every",
            f"with weights: {teacher.weights} the first copy could come at step {teacher.copy_every * windows}, "
            f"and the run has {config.run.steps}; lower it, or write weights: frozen",
        )
    media = re.findall(r"<(?:video|audio|image)>", teacher.template)
    if media:
        yield "teacher.template", f"has {media[0]}: the teacher's media are those of the sample; leave it out"
    if teacher.colocated:
        yield from _colocated_teacher(config)
    elif teacher.scorer == "vllm":
        yield from _vllm_teacher(config)
    elif teacher.tensor_parallel_size > 1:
        yield from _split_teacher(config)
    elif teacher.gpus > 1:
        yield (
            "teacher.gpus",
            f"{teacher.gpus:g}, but teacher.tensor_parallel_size is 1; write the same number, or 1 and more "
            "teacher.replicas",
        )


def _colocated_teacher(config: RunConfig) -> Iterator[Finding]:
    if config.learner.lora is None:
        yield (
            "teacher.scorer",
            "colocated scores with the learner's own first weights, which full fine-tuning changes; "
            "set learner.lora, or write scorer: transformers",
        )
    if config.teacher.weights != "frozen":
        yield (
            "teacher.weights",
            f"{config.teacher.weights}, but a colocated teacher is the learner with its adapters off; write frozen",
        )
    if config.objective.has_teacher and config.objective.transport != "full":
        yield (
            "teacher.scorer",
            f"colocated has the whole distribution at hand, and objective.support: {config.objective.support} "
            "keeps a part; write support: full, student_topk or union",
        )
    if config.data.test is not None and config.eval.teacher and config.teacher.privilege != "none":
        yield (
            "eval.teacher",
            "a colocated teacher does not write answers; write eval.teacher: false, or scorer: transformers",
        )


def _split_teacher(config: RunConfig) -> Iterator[Finding]:
    teacher, ranks = config.teacher, config.teacher.tensor_parallel_size
    if config.runtime.kind == "inline":
        yield (
            "teacher.tensor_parallel_size",
            f"{ranks} ranks need a process each, but runtime.kind: inline is one; write 1, or kind: ray",
        )
    if teacher.gpus > 0 and teacher.gpus != ranks:
        yield (
            "teacher.gpus",
            f"{teacher.gpus:g}, but teacher.tensor_parallel_size is {ranks}; write the same number",
        )
    elif teacher.gpus == 0 and config.rollout.gpus + config.learner.gpus > 0:
        yield (
            "teacher.gpus",
            f"0 puts the {ranks} ranks of a teacher on the CPU, while other roles have GPUs; write {ranks}",
        )


def _vllm_teacher(config: RunConfig) -> Iterator[Finding]:
    teacher = config.teacher
    if config.objective.transport == "full":
        yield (
            "teacher.scorer",
            "vllm sends log-probs and no hidden rows, so objective.support: "
            f"{config.objective.support} cannot be rebuilt from them; "
            "write support: topk or sampled, or scorer: transformers",
        )
    yield from tensor_parallel_conflicts("teacher", teacher)
    if config.runtime.kind == "inline" and config.rollout.engine == "vllm":
        yield (
            "teacher.scorer",
            "two vLLM engines do not live in the one process of runtime.kind: inline; write kind: ray, "
            "or scorer: transformers",
        )


def _learner(config: RunConfig) -> Iterator[Finding]:
    learner = config.learner
    for beta in learner.betas:
        if not 0 <= beta < 1:
            yield "learner.betas", f"{beta:g} is no decay; both lie in 0 <= beta < 1"
    if learner.zero_stage == 0 and config.model.dtype == "bfloat16":
        yield (
            "learner.zero_stage",
            "0 adds up gradients in bfloat16 when model.dtype is bfloat16; "
            "write 1, which is the same on one rank, or dtype float32",
        )
    if learner.lora is not None and not learner.lora.targets:
        yield "learner.lora.targets", "an empty list trains nothing; name at least one linear layer"
    answers = config.rollout.rollouts_per_sample * config.rollout.max_new_tokens
    if answers >= learner.max_pack_tokens:
        yield (
            "learner.max_pack_tokens",
            f"{learner.max_pack_tokens} tokens do not hold the answers of one sample ({answers} at most) "
            "and its prompt; raise it, or lower rollouts_per_sample or max_new_tokens of rollout",
        )


def _weights(config: RunConfig) -> Iterator[Finding]:
    weights = config.weights
    if weights.probe_every > config.run.steps:
        yield (
            "weights.probe_every",
            f"{weights.probe_every} pushes never come in {config.run.steps} steps, so no push "
            "would be verified; lower it",
        )
    low, high = (0.0, FLOAT32_PROBE) if config.model.dtype == "float32" else BFLOAT16_PROBE
    if weights.probe_tolerance > high:
        yield (
            "weights.probe_tolerance",
            f"{weights.probe_tolerance:g} would let stale weights pass when model.dtype is "
            f"{config.model.dtype}; write at most {high:g}",
        )
    if weights.probe_tolerance < low:
        yield (
            "weights.probe_tolerance",
            f"{weights.probe_tolerance:g} is below the rounding of model.dtype bfloat16, so a good push "
            "would stop the run; write about 5e-2",
        )
    if weights.transport == "nccl" and config.rollout.engine != "vllm":
        yield "weights.transport", "nccl goes through vLLM; write object_store, or rollout.engine: vllm"
    without = [name for name in ("rollout", "learner") if getattr(config, name).gpus == 0]
    if weights.transport == "nccl" and without:
        keys = " and ".join(f"{name}.gpus" for name in without)
        verb = "is" if len(without) == 1 else "are"
        yield (
            "weights.transport",
            f"nccl needs GPUs, and {keys} {verb} 0; set them, or write object_store",
        )
    if weights.transport == "nccl" and weights.probe_every > 1:
        yield (
            "weights.probe_every",
            f"{weights.probe_every}, but a push over nccl has no digest, so the probe alone verifies it; write 1",
        )


def _alarms(config: RunConfig) -> Iterator[Finding]:
    gain, telemetry = config.alarms.gain, config.telemetry
    unmeasured = telemetry.reference_every is None or telemetry.reference_every > config.run.steps
    pool = config.objective.has_teacher and not config.teacher.colocated
    if gain.action == "stop" and (unmeasured or not pool):
        yield (
            "alarms.gain.action",
            "stop needs reference_gain, which this run never measures; set telemetry.reference_every below "
            "run.steps with a pool of teachers, or write warn",
        )
    if telemetry.answer_driven_every is not None and config.teacher.privilege == "none":
        yield (
            "telemetry.answer_driven_every",
            "there is no evidence to be driven by with teacher.privilege: none; leave it out",
        )
    if not telemetry.leak_phrases and config.alarms.leak.action == "stop":
        yield (
            "telemetry.leak_phrases",
            "empty, so alarms.leak never stops the run; write phrases, or action: off",
        )
    if any(not phrase.strip() for phrase in telemetry.leak_phrases):
        yield "telemetry.leak_phrases", "an empty phrase is in every answer; take it out"
