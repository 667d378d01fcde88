"""How to share out GPUs between rollout, teacher and learner. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cluster.placement import ROLLOUT_LEARNER, TEACHER_LEARNER
from learner.plan import PlanError
from omniopsd.build import has_pool
from omniopsd.config import RunConfig
from omniopsd.planning.memory import learner_memory
from omniopsd.planning.situation import Situation
from omniopsd.planning.timeline import StepTimes, steady

MOST_TRIES = 14


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Actors of each role, the GPUs that they take, and the step that this gives."""

    engines: int
    teachers: int
    ranks: int
    gpus: float
    times: StepTimes

    @property
    def text(self) -> str:
        """As one line."""
        return f"{self.engines} engines : {self.teachers} teachers : {self.ranks} learner ranks"


def recommended(one: Situation, gpus: int) -> Split | None:
    """The split of `gpus` GPUs with the shortest step whose learner ranks fit their GPU; None without rates.

    Engines on the learner's own GPUs leave nothing to share out: None. More GPUs than help are left alone. Every
    count up to 14 GPUs is tried, steps of a fourteenth above.
    """
    if one.tasks is None or gpus < 1 or one.config.runtime.colocate == ROLLOUT_LEARNER:
        return None
    found = [split for config in _configs(one.config, gpus) if (split := _split(one, config)) is not None]
    return min(found, key=lambda split: (round(split.times.step, 6), split.gpus), default=None)


def _configs(config: RunConfig, gpus: int) -> Iterator[RunConfig]:
    """Configs that use at most `gpus` GPUs: engines and teachers by turns, the learner takes the rest."""
    engine, pool = max(config.rollout.gpus, 1.0), has_pool(config)
    teacher = max(config.teacher.gpus, 1.0) if pool else 0.0
    shared = config.runtime.colocate == TEACHER_LEARNER
    stride = max(1, gpus // MOST_TRIES)
    for taken in _counts(gpus, stride):
        engines = int(taken // engine)
        for given in _counts(gpus - taken, stride) if pool and not shared else (0,):
            rest = gpus - taken - given
            teachers = int(given // teacher) if teacher and not shared else 0
            if not engines or (pool and not shared and not teachers) or rest < 1:
                continue
            for ranks in {rest, max(1, rest - stride)}:
                yield split_config(config, engines, teachers or (ranks if pool else 1), ranks)


def _counts(most: int, stride: int) -> Iterator[int]:
    yield from sorted({1, *range(stride, most, stride)} - {0})


def split_config(config: RunConfig, engines: int, teachers: int, ranks: int) -> RunConfig:
    """The config with other counts of actors."""
    return config.model_copy(
        update={
            "rollout": config.rollout.model_copy(update={"replicas": engines}),
            "teacher": config.teacher.model_copy(update={"replicas": teachers}),
            "learner": config.learner.model_copy(update={"ranks": ranks}),
        }
    )


def _split(one: Situation, config: RunConfig) -> Split | None:
    other = one.with_config(config)
    try:
        if not _fits(other) or other.durations is None:
            return None
        times = steady(other.durations)
    except PlanError:
        return None
    pool = has_pool(config)
    shared = config.runtime.colocate == TEACHER_LEARNER
    teachers = config.teacher.replicas if pool else 0
    gpus = config.rollout.replicas * max(config.rollout.gpus, 1.0) + config.learner.ranks
    gpus += 0.0 if shared else teachers * max(config.teacher.gpus, 1.0)
    return Split(
        engines=config.rollout.replicas, teachers=teachers, ranks=config.learner.ranks, gpus=gpus, times=times
    )


def _fits(one: Situation) -> bool:
    gpu = one.machines.gpu
    if gpu is None:
        return True
    memory = learner_memory(one.config, one.shape, one.workload, one.worst, one.calibration)
    return memory.peak.value <= gpu.memory_gb * 1e9
