"""The plan of one run on some machines: memory, time, balance, traffic and cost, and what does not fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from learner.plan import PlanError
from omniopsd.build import has_pool
from omniopsd.config import RunConfig
from omniopsd.planning.balance import Split, recommended
from omniopsd.planning.bounds import task_bound, waiting_share
from omniopsd.planning.estimate import Estimate, Known, estimate, weakest
from omniopsd.planning.fit import cache_tokens, problems
from omniopsd.planning.host import driver_memory, feature_cache, object_store, teacher_payload
from omniopsd.planning.memory import RoleMemory, learner_memory, rollout_memory, teacher_memory
from omniopsd.planning.situation import Situation
from omniopsd.planning.timeline import StepTimes, steady

HOUR = 3600.0
NO_RATES = (
    "no data sheet says how fast a CPU is here: run `omniopsd plan calibrate` on the machine and give its file "
    "with --calibration"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage of the step: its seconds, the estimates behind them, and what bounds them."""

    name: str
    seconds: float
    tasks: tuple[Estimate, ...]
    bound: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that `omniopsd plan` tells. `times` is None while a role's rates are not known."""

    situation: Situation
    memory: tuple[RoleMemory, ...]
    driver: tuple[Estimate, ...]
    store: tuple[Estimate, ...]
    payload: Estimate | None
    stages: tuple[Stage, ...]
    times: StepTimes | None
    idle: dict[str, float]
    split: Split | None
    totals: tuple[Estimate, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]


def make_plan(one: Situation) -> Plan:
    """Reckon it all; starts nothing."""
    driver, store = driver_memory(one), object_store(one)
    try:
        memory = roles_memory(one)
    except PlanError as error:
        return _unplanned(one, driver, store, str(error))
    times = steady(one.durations) if one.durations is not None else None
    stages = _stages(one, times)
    return Plan(
        situation=one,
        memory=tuple(memory),
        driver=tuple(driver),
        store=tuple(store),
        payload=teacher_payload(one) if has_pool(one.config) else None,
        stages=stages,
        times=times,
        idle=waiting_share(one.durations, times) if one.durations is not None and times is not None else {},
        split=recommended(one, one.machines.gpus),
        totals=tuple(_totals(one, times, stages)),
        problems=tuple(problems(one, memory, driver, store)),
        notes=tuple(_notes(one)),
    )


def roles_memory(one: Situation) -> list[RoleMemory]:
    """Memory of every role that the run has, with its cached tower inputs. Raises PlanError."""
    config, shape, workload, measured = one.config, one.shape, one.workload, one.calibration
    found = [rollout_memory(config, shape, workload, measured)]
    if has_pool(config):
        found.append(teacher_memory(config, shape, workload, measured))
    found.append(learner_memory(config, shape, workload, one.worst, measured))
    return [_with_cache(one, role) for role in found]


def _with_cache(one: Situation, role: RoleMemory) -> RoleMemory:
    cache = feature_cache(one, role.role)
    if cache is None:
        return role
    if role.gpu:
        return RoleMemory(
            role=role.role, gpu=True, parts=role.parts, peak=role.peak, host=(*role.host, cache)
        )
    peak = estimate("peak", "bytes", "peak + tower_inputs", peak=role.peak.known, tower_inputs=cache.known)
    return RoleMemory(role=role.role, gpu=False, parts=(*role.parts, cache), peak=peak, host=role.host)


def _stages(one: Situation, times: StepTimes | None) -> tuple[Stage, ...]:
    tasks, pushed = one.tasks, one.tasks.push if one.tasks else None
    if tasks is None or pushed is None or times is None:
        return ()
    makes = [tasks.generate[size] for size in sorted(tasks.generate, reverse=True)]
    scores = [tasks.score[size] for size in sorted(tasks.score, reverse=True)]
    updates = [pushed.engine, *([pushed.teacher] if pushed.teacher else [])]
    slowest = max([pushed.publish, *updates], key=lambda part: part.value)
    bound = {name: task_bound(parts[0]) for name, parts in (("rollout", makes), ("learner", [tasks.train]))}
    if times.learner > tasks.train.value * 1.05:
        bound["learner"] += ", after waiting for scores"
    stages = [
        Stage(name="rollout", seconds=times.rollout, tasks=tuple(makes), bound=bound["rollout"]),
        Stage(
            name="learner",
            seconds=times.learner,
            tasks=(tasks.collectives, tasks.train),
            bound=bound["learner"],
        ),
        Stage(
            name="push",
            seconds=times.push,
            tasks=(pushed.publish, *updates, pushed.probe),
            bound=task_bound(slowest),
        ),
    ]
    if scores and one.durations is not None:
        busy = sum(one.durations.score)
        stages.insert(
            1, Stage(name="teacher", seconds=busy, tasks=tuple(scores), bound=task_bound(scores[0]))
        )
    return tuple(stages)


def _totals(one: Situation, times: StepTimes | None, stages: Sequence[Stage]) -> list[Estimate]:
    config, workload, hardware = one.config, one.workload, one.machines.hardware
    answer = Known(value=workload.answers.mean, source="measured" if workload.answers.measured else "exact")
    rendered = Known(value=workload.mean("prompt"), source="rendered")
    context = Known(value=workload.mean("context"), source="rendered")
    inputs: dict[str, Any] = {
        "samples": workload.samples,
        "G": config.rollout.rollouts_per_sample,
        "T": answer,
    }
    found = [
        estimate("student tokens of an epoch", "tokens", "samples * (P + G * T)", P=rendered, **inputs),
        estimate("sampled tokens of an epoch", "tokens", "samples * G * T", **inputs),
    ]
    if config.objective.has_teacher:
        found.append(
            estimate("teacher tokens of an epoch", "tokens", "samples * (C + G * T)", C=context, **inputs)
        )
    if times is None:
        return found
    source = weakest(task.source for stage in stages for task in stage.tasks)
    seconds = estimate(
        "seconds of an epoch",
        "seconds",
        "samples / B * step",
        samples=workload.samples,
        B=config.run.samples_per_step,
        step=Known(value=times.step, source=source),
    )
    found.append(seconds)
    if hardware.price_per_gpu_hour is not None and one.machines.gpus:
        found.append(
            estimate(
                "cost of an epoch",
                hardware.currency,
                "seconds / 3600 * gpus * price",
                "every GPU of the cluster, used or not",
                seconds=seconds.known,
                gpus=one.machines.gpus,
                price=hardware.price_per_gpu_hour,
            )
        )
    elif hardware.price_per_node_hour is not None and not one.machines.gpus:
        nodes = sum(node.count for node in one.machines.nodes)
        price = hardware.price_per_node_hour
        found.append(
            estimate(
                "cost of an epoch",
                hardware.currency,
                "seconds / 3600 * nodes * price",
                seconds=seconds.known,
                nodes=nodes,
                price=price,
            )
        )
    return found


def _notes(one: Situation) -> list[str]:
    """What a reader must know to take the numbers for what they are."""
    notes, config = [], one.config
    if one.tasks is None:
        notes.append(NO_RATES)
    elif any(rate is not None and rate.flops.source == "assumption" for rate in one.rates.values()):
        notes.append(
            "rates are a data sheet's figures times assumed efficiencies, which nobody has measured here; "
            "`omniopsd plan calibrate` measures them"
        )
    if not one.workload.answers.measured:
        notes.append(
            f"answers are taken at their limit, rollout.max_new_tokens {config.rollout.max_new_tokens}: shorter ones "
            "take less; --answer-tokens says how long they are"
        )
    priced = one.machines.hardware.price_per_gpu_hour or one.machines.hardware.price_per_node_hour
    if priced is None:
        notes.append("no cost: give a price with --price, or price_per_gpu_hour in the --hardware file")
    held, prompts = cache_tokens(one), min(one.calls, default=0)
    if held is not None:
        group = one.workload.mean("prompt") + config.rollout.rollouts_per_sample * one.workload.answers.mean
        wanted = max(one.calls) * group
        if wanted > held and prompts:
            notes.append(
                f"one generate call wants keys and values of {wanted:,.0f} tokens and an engine holds {held:,.0f}: it "
                "will work through the call in parts; raise rollout.memory_fraction or lower rollout.samples_per_call"
            )
    if len(one.workload.sizes) < one.workload.samples:
        notes.append(
            f"media of {len(one.workload.sizes)} of {one.workload.samples} samples were decoded; a longer one may be "
            "among the others (--limit)"
        )
    return [*notes, *_calibration_notes(one)]


def _calibration_notes(one: Situation) -> list[str]:
    measured, config = one.calibration, one.config
    if measured is None:
        return []
    notes = []
    if (measured.gpu is None) == one.on_gpus:
        notes.append(
            "the calibration was made on another kind of device than this run's learner and does not count"
        )
    if (measured.dtype, measured.engine) != (config.model.dtype, config.rollout.engine):
        notes.append(
            f"the calibration was made with {measured.dtype} on {measured.engine}, this run has {config.model.dtype} on "
            f"{config.rollout.engine}: its fixed times are another's"
        )
    cpus = {
        "rollout": config.rollout.cpus,
        "teacher": config.teacher.cpus,
        "learner": config.learner.cpus,
    }
    for role, rates in measured.rates.items():
        threads = max(1, int(cpus[role]))
        if measured.gpu is None and rates.threads != threads:
            notes.append(f"{role} was calibrated with {rates.threads} threads and has {threads} here")
    return notes


def _unplanned(one: Situation, driver: Sequence[Estimate], store: Sequence[Estimate], error: str) -> Plan:
    """A step that cannot even be laid out."""
    return Plan(
        situation=one,
        memory=(),
        driver=tuple(driver),
        store=tuple(store),
        payload=None,
        stages=(),
        times=None,
        idle={},
        split=None,
        totals=(),
        problems=(_layout_problem(one.config, one, error),),
        notes=(),
    )


def _layout_problem(config: RunConfig, one: Situation, error: str) -> str:
    group = one.workload.longest("prompt") + config.rollout.rollouts_per_sample * one.workload.limit
    if group > config.learner.max_pack_tokens:
        return (
            f"learner.max_pack_tokens: {config.learner.max_pack_tokens} does not hold the longest sample with "
            f"{config.rollout.rollouts_per_sample} full answers ({group} tokens); write at least {group}"
        )
    return f"learner: {error}"
