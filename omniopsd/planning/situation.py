"""All that a plan is made from, and the durations of the loop's tasks that follow from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from omniopsd.build import has_pool
from omniopsd.config import RunConfig
from omniopsd.planning import stages
from omniopsd.planning.calibration import ROLES, Calibration, Role
from omniopsd.planning.estimate import Estimate
from omniopsd.planning.hardware import Machines
from omniopsd.planning.model_shape import ModelShape
from omniopsd.planning.push import Push, push
from omniopsd.planning.rates import Links, Rates, links, role_rates
from omniopsd.planning.timeline import Durations
from omniopsd.planning.workload import Cells, Workload, cells


@dataclass(frozen=True, kw_only=True)
class Situation:
    """Config, model, rendered samples, machines and, where there is one, a measurement."""

    config: RunConfig
    shape: ModelShape
    workload: Workload
    machines: Machines
    calibration: Calibration | None = None

    def with_config(self, config: RunConfig) -> Situation:
        """The same under another config, for what-ifs."""
        return replace(self, config=config)

    @property
    def follows(self) -> bool:
        """Whether teachers take in the pushes; `hard` and `gated` do it so rarely that a step counts none."""
        return has_pool(self.config) and self.config.teacher.weights in ("live", "ema", "trust_region")

    @property
    def on_gpus(self) -> bool:
        """Whether the learner has GPUs, so that a push starts there."""
        return bool(self.config.learner.gpus)

    @cached_property
    def rates(self) -> Mapping[Role, Rates | None]:
        """Of every role."""
        return {role: role_rates(role, self.config, self.machines, self.calibration) for role in ROLES}

    @cached_property
    def links(self) -> Links:
        """What moves bytes."""
        return links(self.machines, self.calibration, self.on_gpus)

    @cached_property
    def usual(self) -> Cells:
        """The layout of a step with mean answers."""
        answer = max(1, round(self.workload.answers.mean))
        return cells(self.config, self.workload.step_lengths(self.config, answer))

    @cached_property
    def worst(self) -> Cells:
        """The layout of a step with the longest rendered samples and full answers."""
        return cells(self.config, self.workload.step_lengths(self.config, self.workload.limit, worst=True))

    @cached_property
    def calls(self) -> tuple[int, ...]:
        """Samples of each generate call of a step, as `rollout.pool` cuts them."""
        total, rollout = self.config.run.samples_per_step, self.config.rollout
        size = min(rollout.samples_per_call, -(-total // rollout.replicas))
        return tuple(min(size, total - at) for at in range(0, total, size))

    @cached_property
    def tasks(self) -> Tasks | None:
        """Estimates of every task; None while the rates of a role are not known."""
        pool = has_pool(self.config)
        rollout, teacher, learner = (self.rates[role] for role in ROLES)
        if rollout is None or learner is None or (pool and teacher is None):
            return None
        makes = {size: self._generate(size, rollout) for size in set(self.calls)}
        scores = {size: self._score(size, teacher) for size in set(self.calls)} if pool and teacher else {}
        per_node = max((node.gpus for node in self.machines.nodes), default=0)
        together = stages.collective_seconds(self.config, self.shape, self.usual, self.links, per_node)
        one = stages.train_work(self.shape, self.workload, self.config, self.usual)
        return Tasks(
            generate=makes,
            score=scores,
            train=stages.train_seconds(one, learner, together),
            collectives=together,
            push=push(self.config, self.shape, self.links, self._receiving_nodes(), self.follows),
        )

    @cached_property
    def durations(self) -> Durations | None:
        """The tasks as the timeline takes them; None as `tasks`."""
        tasks, config = self.tasks, self.config
        if tasks is None:
            return None
        supervised = config.objective.divergence == "cross_entropy"
        return Durations(
            generate=() if supervised else tuple(tasks.generate[size].value for size in self.calls),
            score=tuple(tasks.score[size].value for size in self.calls) if tasks.score else (),
            train=tasks.train.value,
            publish=tasks.push.publish.value,
            engine_update=tasks.push.engine.value,
            teacher_update=tasks.push.teacher.value if tasks.push.teacher else None,
            probe=tasks.push.probe.value / config.weights.probe_every,
            engines=config.rollout.replicas,
            teachers=config.teacher.replicas if tasks.score else 0,
            passes=2 if config.objective.contrast is not None else 1,
            lag=config.rollout.max_policy_lag,
            driver=config.run.samples_per_step * self.calibration.driver_sample_seconds
            if self.calibration
            else 0.0,
            threads=self._threads(),
            cores=float(self.calibration.cores) if self.calibration else float("inf"),
        )

    def _generate(self, samples: int, rates: Rates) -> Estimate:
        one = stages.generate_work(self.shape, self.workload, self.config, samples)
        return stages.generate_seconds(one, rates)

    def _score(self, samples: int, rates: Rates) -> Estimate:
        return stages.score_seconds(stages.score_work(self.shape, self.workload, self.config, samples), rates)

    def _threads(self) -> tuple[float, float, float]:
        """Threads that each actor keeps busy on shared cores; none where it has a GPU."""
        config = self.config
        return (
            0.0 if config.rollout.gpus else float(max(1, int(config.rollout.cpus))),
            0.0 if config.teacher.gpus else float(max(1, int(config.teacher.cpus))),
            0.0 if config.learner.gpus else float(max(1, int(config.learner.cpus)) * config.learner.ranks),
        )

    def _receiving_nodes(self) -> int:
        """Nodes beside the sender's that hold a receiver: engines and teachers are spread."""
        nodes = [node for node in self.machines.nodes if node.gpus or not self.machines.gpus]
        total = sum(node.count for node in nodes)
        receivers = self.config.rollout.replicas + (self.config.teacher.replicas if self.follows else 0)
        return min(receivers, max(0, total - 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Tasks:
    """Seconds of every kind of task: generate and score calls by their samples."""

    generate: Mapping[int, Estimate]
    score: Mapping[int, Estimate]
    train: Estimate
    collectives: Estimate
    push: Push
