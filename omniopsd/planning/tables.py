"""A plan as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from omniopsd.planning.estimate import Estimate
from omniopsd.planning.hardware import Machines
from omniopsd.planning.plan import Plan

SIZES = ("prompt", "context", "patches", "frames", "media_bytes")
UNITS = (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3))


def lines(plan: Plan) -> Iterator[str]:
    """The plan for people: every estimate with its formula and inputs."""
    one = plan.situation
    yield from _machines(one.machines)
    parts = ", ".join(f"{name} {count / 1e6:,.4g} M" for name, count in one.shape.by_part().items() if count)
    trained = one.shape.trained(one.config.learner)
    yield f"model      {one.shape.parameters:,} weights ({parts}); {trained:,} trained, {one.config.model.dtype}"
    yield from _workload(plan)
    for role in plan.memory:
        where = "on its GPU" if role.gpu else "of its process"
        yield ""
        yield f"{role.role}: {_size(role.peak.value)} {where}, at its peak"
        yield from _rows([*role.parts, role.peak])
        if role.host:
            yield f"  and in the memory of its node {_size(sum(part.value for part in role.host))}"
            yield from _rows(role.host)
    yield ""
    yield f"driver: {_size(sum(part.value for part in plan.driver))}"
    yield from _rows(plan.driver)
    yield f"object store: {_size(sum(part.value for part in plan.store))} in flight"
    yield from _rows([*plan.store, *([plan.payload] if plan.payload else [])])
    yield from _times(plan)
    yield ""
    yield from _rows(plan.totals)
    for note in plan.notes:
        yield f"note: {note}"


def as_json(plan: Plan) -> dict[str, Any]:
    """The plan for programs: the same numbers, in bytes and seconds."""
    one = plan.situation
    return {
        "fits": not plan.problems,
        "problems": list(plan.problems),
        "notes": list(plan.notes),
        "machines": {
            "gpus": one.machines.gpus,
            "kind": one.machines.kind,
            "data_sheet": one.machines.gpu.model_dump() if one.machines.gpu else None,
            "assumptions": one.machines.hardware.efficiency.model_dump(),
            "nodes": [asdict(node) for node in one.machines.nodes],
        },
        "model": {
            "parameters": one.shape.parameters,
            "by_part": one.shape.by_part(),
            "trained": one.shape.trained(one.config.learner),
            "text": asdict(one.shape.text),
            "vision": asdict(one.shape.vision),
            "audio": asdict(one.shape.audio),
        },
        "workload": {
            "samples": one.workload.samples,
            "rendered": len(one.workload.sizes),
            "mean": {name: one.workload.mean(name) for name in SIZES},
            "longest": {name: one.workload.longest(name) for name in SIZES},
            "answers": asdict(one.workload.answers),
            "limit": one.workload.limit,
        },
        "memory": [
            {
                "role": role.role,
                "gpu": role.gpu,
                "parts": [asdict(part) for part in role.parts],
                "peak": asdict(role.peak),
                "host": [asdict(part) for part in role.host],
            }
            for role in plan.memory
        ],
        "driver": [asdict(part) for part in plan.driver],
        "object_store": [asdict(part) for part in plan.store],
        "teacher_payload": asdict(plan.payload) if plan.payload else None,
        "stages": [
            {
                "name": stage.name,
                "seconds": stage.seconds,
                "bound": stage.bound,
                "tasks": [asdict(task) for task in stage.tasks],
            }
            for stage in plan.stages
        ],
        "step": asdict(plan.times) if plan.times else None,
        "idle": plan.idle,
        "split": asdict(plan.split) if plan.split else None,
        "totals": [asdict(part) for part in plan.totals],
    }


def _machines(machines: Machines) -> Iterator[str]:
    count = sum(node.count for node in machines.nodes)
    yield f"machines   {count} node{'s' * (count > 1)}, {machines.gpus} GPUs" + (
        f" ({machines.kind}, data sheet)" if machines.kind else ""
    )


def _workload(plan: Plan) -> Iterator[str]:
    one, workload = plan.situation, plan.situation.workload
    run, rollout = one.config.run, one.config.rollout
    yield (
        f"step       {run.samples_per_step} samples x {rollout.rollouts_per_sample} answers of "
        f"{workload.answers.mean:.4g} tokens (limit {workload.limit}); {len(workload.sizes)} of {workload.samples} "
        "samples rendered"
    )
    for name, text in (("prompt", "prompt"), ("context", "teacher context")):
        if workload.longest(name):
            yield f"           {text}: mean {workload.mean(name):.0f} tokens, longest {workload.longest(name)}"
    yield (
        f"           media: mean {_size(workload.mean('media_bytes'))}, {workload.mean('patches'):.0f} patches, "
        f"{workload.mean('frames'):.0f} mel frames; largest {_size(workload.longest('media_bytes'))}"
    )


def _times(plan: Plan) -> Iterator[str]:
    if plan.times is None:
        return
    lag = plan.situation.config.rollout.max_policy_lag
    yield ""
    yield f"step: {plan.times.step:.3g} s (max_policy_lag {lag})"
    for stage in plan.stages:
        within = " (overlaps the others)" if stage.name == "teacher" else ""
        yield f"{stage.name}: {stage.seconds:.3g} s{within}, bound by {stage.bound}"
        yield from _rows(stage.tasks)
    idle = ", ".join(f"{role} {share:.0%}" for role, share in plan.idle.items())
    yield f"idle       {idle}"
    if plan.split is not None:
        yield (
            f"balance    {plan.split.text} on {plan.split.gpus:g} GPUs would take {plan.split.times.step:.3g} s a step"
        )


def _rows(parts: Sequence[Estimate]) -> Iterator[str]:
    for part in parts:
        inputs = ", ".join(f"{name} {_number(value)}" for name, value in part.inputs.items())
        note = f" ({part.note})" if part.note else ""
        formula = f"{part.formula}; {inputs}" if inputs else part.formula
        yield f"  {part.name:<26}{_value(part):>10}  = {formula}  [{part.source}]{note}"


def _value(part: Estimate) -> str:
    if part.unit == "bytes":
        return _size(part.value)
    return f"{part.value:,.4g} {'s' if part.unit == 'seconds' else part.unit}"


def _size(size: float) -> str:
    for unit, scale in UNITS:
        if size >= scale:
            return f"{size / scale:.3g} {unit}"
    return f"{size:.0f} B"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) and abs(value) < 1e15 else f"{value:.4g}"
