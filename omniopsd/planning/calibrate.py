"""`omniopsd plan calibrate`: the run's own actors on its own samples, timed call by call, and what they say.

    generate   1 sample to 4 tokens, k to 4, k to the limit      -> call, sample, step, token
    score      the answers of 1 sample, of k                     -> call, sample, token
    train      a step of 1 sample, of k                          -> call, sample, micro, token
    push       publish, update of engine and teacher, probe

A fixed time is fitted to what the formulas of `stages` leave over. Nothing is written into the run folder.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean, median
from time import perf_counter, process_time
from typing import Any

from cluster.runtime import Actor, Runtime, start_runtime
from cluster.versions import own_versions
from learner.group_input import GroupInput
from learner.plan import GroupLengths, group_lengths, plan_step
from learner.worker import LearnerWorker
from omniopsd.build import Parts, make_parts
from omniopsd.config import RunConfig
from omniopsd.planning import probes, stages
from omniopsd.planning.calibration import AnswerLengths, Calibration, Role, RoleRates
from omniopsd.planning.estimate import Estimate, Known, estimate
from omniopsd.planning.fitting import fit_fixed
from omniopsd.planning.memory import BYTES
from omniopsd.planning.plan import roles_memory
from omniopsd.planning.probes import Timed
from omniopsd.planning.rates import FIXED, Rates
from omniopsd.planning.situation import Situation
from omniopsd.planning.stages import Work
from omniopsd.planning.workload import Answers, Workload, cells
from omniopsd.prompts import PromptBook
from rollout.types import Prompt, RolloutGroup, SamplingSpec, WeightUpdate
from rollout.worker import RolloutWorker
from teacher.types import GroupScore, PrivilegedContext, ScoreRequest
from teacher.worker import TeacherWorker

SHORT, STEP = 4, 1_000_000


class CalibrationError(ValueError):
    """A run that cannot be measured as it is."""


Observation = tuple[Work, float]


def calibrate(situation: Situation, book: PromptBook, *, clock: str, repeats: int) -> Calibration:
    """Start the run's actors, measure them, take them down. Raises CalibrationError."""
    config = measurable(situation.config)
    situation = situation.with_config(config)
    runtime = start_runtime(config.runtime)
    try:
        parts = make_parts(config, runtime)
        parts.wait_ready()
        return Calibrator(situation, runtime, parts, book, clock=clock, repeats=repeats).run()
    finally:
        runtime.shutdown()


def measurable(config: RunConfig) -> RunConfig:
    """The config with answers trained that are cut on purpose. Raises CalibrationError on what is not measured."""
    objective = config.objective
    for key, given in (("contrast", objective.contrast), ("reward", objective.reward)):
        if given is not None:
            raise CalibrationError(
                f"objective.{key} is not measured; give --set objective.{key}=null to measure the rest of the run"
            )
    if objective.divergence == "cross_entropy":
        raise CalibrationError(
            "objective.divergence: cross_entropy generates nothing; there is nothing to measure"
        )
    if config.weights.transport == "nccl":
        raise CalibrationError(
            "weights.transport: nccl is not measured; give --set weights.transport=object_store to measure the rest"
        )
    trained = objective.model_copy(update={"train_truncated": True, "rows": "all", "pass_rate_weight": False})
    return config.model_copy(update={"objective": trained})


class Calibrator:
    """Measures the actors of one started run."""

    def __init__(
        self,
        situation: Situation,
        runtime: Runtime,
        parts: Parts,
        book: PromptBook,
        *,
        clock: str,
        repeats: int,
    ) -> None:
        """`clock`: wall or cpu; each call is made `repeats` times, on samples that no actor has seen yet."""
        self.one, self.runtime, self.parts, self.book = situation, runtime, parts, book
        self.config, self.clock, self.repeats = situation.config, clock, repeats
        self._next = len(book.samples)  # from the end: a run takes others first
        self._driver: list[float] = []
        self._observed: dict[Role, list[Observation]] = {"rollout": [], "teacher": [], "learner": []}
        self._lengths: list[list[int]] = []
        self._layout: list[GroupLengths] = []

    def run(self) -> Calibration:
        """About a minute on a quiet machine."""
        k = max(self.one.calls)
        limit = self.config.rollout.max_new_tokens
        # the first calls pay for warming up, and the first large ones for memory that then stays
        self._round([1], SHORT, count=False)
        self._round([k], limit, count=False)
        for _ in range(self.repeats):
            # few and many samples with short and long answers: what a call, a sample, a step and a token cost
            for most in (SHORT, limit):
                self._round(sorted({1, k}), most)
        pushes = [self._push() for _ in range(self.repeats + 1)][1:]
        return self._calibration(pushes)

    # --- calls -----------------------------------------------------------------------------------

    def _round(self, sizes: Sequence[int], limit: int, *, count: bool = True) -> None:
        """Generate, score and train one batch of each size."""
        for size in sizes:
            prompts, contexts = self._take(size)
            refs = [self.runtime.put(prompt) for prompt in prompts]
            made = self._call(
                self.parts.rollout.actors[0], RolloutWorker.generate, refs, self._spec(limit), STEP
            )
            groups: list[RolloutGroup] = made.value
            work = stages.generate_work(self.one.shape, self._seen(groups), self.config, float(size))
            self._note("rollout", work, made, count)
            if count and (size, limit) == (max(self.one.calls), self.config.rollout.max_new_tokens):
                self._lengths.append([len(r.response_ids) for group in groups for r in group.rollouts])
            scored = self._score(groups, contexts, count)
            self._train(groups, prompts, contexts, scored, count)

    def _score(self, groups: list[RolloutGroup], contexts: list[PrivilegedContext], count: bool) -> Any:
        teacher = self.parts.teacher
        if teacher is None:
            return None
        requests = [
            ScoreRequest(
                context=context,
                rollout_ids=tuple(rollout.rollout_id for rollout in group.rollouts),
                responses=tuple(rollout.response_ids for rollout in group.rollouts),
            )
            for context, group in zip(contexts, groups, strict=True)
        ]
        spec = teacher.spec
        done = self._call(
            teacher.actors[0], TeacherWorker.score, requests, spec.support, spec.top_k, spec.temperature
        )
        work = stages.score_work(self.one.shape, self._seen(groups), self.config, float(len(contexts)))
        self._note("teacher", work, done, count)
        scores: list[GroupScore] = done.value
        return self.runtime.put(scores)

    def _train(
        self,
        groups: list[RolloutGroup],
        prompts: list[Prompt],
        contexts: list[PrivilegedContext],
        scored: Any,
        count: bool,
    ) -> None:
        learner = self.config.learner
        lengths = [
            group_lengths(prompt.rendered, group, train_truncated=True)
            for prompt, group in zip(prompts, groups, strict=True)
        ]
        plan = plan_step(STEP, lengths, learner.ranks, learner.max_pack_tokens, learner.micro_batches)
        inputs = {
            at: GroupInput(
                prompt=self.runtime.put(prompts[at]),
                rollouts=group,
                scores=scored,
                score_index=at,
                contexts=() if scored is not None else tuple(map(self.runtime.put, contexts[at : at + 1])),
            )
            for at, group in enumerate(groups)
        }
        calls = [
            actor.call(
                probes.timed,
                LearnerWorker.train_step,
                (plan, {at: inputs[at] for cell in own for at in cell}),
            )
            for actor, own in zip(self.parts.learner.actors, plan.cells, strict=True)
        ]
        done = max(
            (ref.get(learner.timeout_seconds) for ref in calls), key=lambda one: one.seconds(self.clock)
        )
        self.parts.learner.version = done.value.version
        layout = cells(self.config, lengths)
        work = stages.train_work(self.one.shape, self.one.workload, self.config, layout)
        self._note("learner", work, done, count)
        if count:
            self._layout = max(
                self._layout, lengths, key=lambda one: cells(self.config, one).tokens if one else 0
            )

    def _push(self) -> dict[str, float]:
        """Seconds of the parts of one push."""
        learner, rollout, teacher = self.parts.learner, self.parts.rollout, self.parts.teacher
        first = learner.actors[0]
        update, publish = self._spent(first, lambda: learner.publish(follow=self.one.follows))
        engine = self._update(rollout.actors[0], RolloutWorker.update, update)
        for other in rollout.actors[1:]:
            self._update(other, RolloutWorker.update, update)
        found = {"publish": publish, "engine": engine, "teacher": 0.0}
        if teacher is not None and self.one.follows:
            found["teacher"] = max(self._update(a, TeacherWorker.update, update) for a in teacher.actors)
        prompt = self.book.prompt(self.book.samples[0])
        response = self.book.renderer.encode_response("A fixed answer.")
        expected, own = self._spent(first, lambda: learner.probe(prompt.rendered, response, 1.0))
        theirs = self._call(rollout.actors[0], RolloutWorker.score, prompt, response)
        del expected
        return found | {"probe": own + theirs.seconds(self.clock)}

    def _update(self, actor: Actor[Any], method: Callable[..., Any], update: WeightUpdate) -> float:
        return self._call(actor, method, update).seconds(self.clock)

    def _call(self, actor: Actor[Any], method: Callable[..., Any], *args: Any) -> Timed:
        return actor.call(probes.timed, method, args).get(self.config.rollout.timeout_seconds)

    def _spent(self, actor: Actor[Any], work: Callable[[], Any]) -> tuple[Any, float]:
        """The answer of a call that the driver makes of several, and its seconds by the clock."""
        before, begin = actor.call(probes.used_seconds).get(), perf_counter()
        value = work()
        wall = perf_counter() - begin
        spent = actor.call(probes.used_seconds).get() - before
        return value, spent if self.clock == "cpu" else wall

    def _take(self, size: int) -> tuple[list[Prompt], list[PrivilegedContext]]:
        """Samples that were not used yet, going backwards and around."""
        count = len(self.book.samples)
        samples = [self.book.samples[(self._next - 1 - at) % count] for at in range(size)]
        self._next -= size
        begin = process_time() if self.clock == "cpu" else perf_counter()
        prompts = [self.book.prompt(sample) for sample in samples]
        scored = self.config.objective.has_teacher
        contexts = [self.book.context(sample) for sample in samples] if scored else []
        end = process_time() if self.clock == "cpu" else perf_counter()
        self._driver.append((end - begin) / size)
        return prompts, contexts

    def _spec(self, limit: int) -> SamplingSpec:
        rollout = self.config.rollout
        return SamplingSpec(
            rollouts=rollout.rollouts_per_sample,
            max_new_tokens=limit,
            temperature=rollout.temperature,
            top_p=rollout.top_p,
            top_k=rollout.top_k,
            seed=self._next % 2**31,
        )

    # --- what the formulas say of the calls that were made ------------------------------------------

    def _seen(self, groups: list[RolloutGroup]) -> Workload:
        """The workload with the answers that were given."""
        lengths = [len(r.response_ids) for group in groups for r in group.rollouts]
        answers = Answers(mean=mean(lengths), longest=float(max(lengths)), measured=True)
        return replace(self.one.workload, answers=answers)

    def _note(self, role: Role, work: Work, done: Timed, count: bool) -> None:
        if count:
            self._observed[role].append((work, done.seconds(self.clock)))

    # --- the result -----------------------------------------------------------------------------------

    def _calibration(self, pushes: list[dict[str, float]]) -> Calibration:
        first = self.parts.learner.actors[0]
        actors: dict[Role, Actor[Any]] = {"rollout": self.parts.rollout.actors[0], "learner": first}
        if self.parts.teacher is not None:
            actors["teacher"] = self.parts.teacher.actors[0]
        peaks = {role: actor.call(probes.peak_bytes).get() for role, actor in actors.items()}
        measured = {role: self._device(role, actor) for role, actor in actors.items()}
        counted = self._counted()
        rates = {
            role: self._rates(role, measured[role], peaks[role], counted.get(role, 0.0)) for role in actors
        }
        flat = [length for one in self._lengths for length in one]
        return Calibration(
            format=1,
            source="measured",
            host=platform.node(),
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            clock="cpu" if self.clock == "cpu" else "wall",
            cores=os.cpu_count() or 1,
            gpu=first.call(probes.device_name).get() if self.config.learner.gpus else None,
            model=model_digest(self.config),
            dtype=self.config.model.dtype,
            engine=self.config.rollout.engine,
            versions=dict(own_versions({}).packages),
            rates=rates,
            driver_sample_seconds=median(self._driver),
            driver_bytes=float(probes.peak_bytes(None)),
            push_seconds=self._push_seconds(pushes, measured["learner"]),
            answers=AnswerLengths(
                mean=mean(flat),
                longest=mean(max(one) for one in self._lengths),
                limit=self.config.rollout.max_new_tokens,
            ),
        )

    def _device(self, role: Role, actor: Actor[Any]) -> dict[str, float]:
        section = getattr(self.config, role)
        text = self.one.shape.text
        return actor.call(
            probes.device_rates, self.config.model.dtype, text.width, text.inner, bool(section.gpus)
        ).get()

    def _rates(self, role: Role, device: dict[str, float], peak: int, counted: float) -> RoleRates:
        bare = Rates(
            flops=Known(value=device["flops"], source="measured"),
            bandwidth=Known(value=device["bytes_per_second"], source="measured"),
            seconds={},
        )
        seconds_of = {
            "rollout": stages.generate_seconds,
            "teacher": stages.score_seconds,
            "learner": _train_seconds,
        }[role]
        counts = [work.counts for work, _ in self._observed[role]]
        rest = [max(took - seconds_of(work, bare).value, took * 0.05) for work, took in self._observed[role]]
        return RoleRates(
            flops=device["flops"],
            bytes_per_second=device["bytes_per_second"],
            seconds=fit_fixed(FIXED[role], counts, rest),
            base_bytes=max(0.0, peak - counted),
            threads=int(device["threads"]),
        )

    def _counted(self) -> dict[Role, float]:
        """Bytes that the formulas count for what was measured, without the processes themselves."""
        layout = cells(self.config, self._layout) if self._layout else self.one.worst
        lengths = [length for one in self._lengths for length in one]
        workload: Workload = replace(self.one.workload, limit=max(lengths))
        one = replace(self.one, workload=workload)
        one.__dict__["worst"] = layout
        return {
            role.role: role.peak.value - sum(p.value for p in role.parts if p.name in ("process", "context"))
            for role in roles_memory(one)
        }

    def _push_seconds(self, pushes: list[dict[str, float]], device: dict[str, float]) -> dict[str, float]:
        size = self.one.shape.parameters * BYTES[self.config.model.dtype]
        each = 1.0 / device["hash_bytes_per_second"] + 2.0 / device["bytes_per_second"]
        found: dict[str, float] = {}
        for name in ("publish", "engine", "teacher", "probe"):
            took, per_byte = median(push[name] for push in pushes), 0.0 if name == "probe" else each
            found[f"{name}_byte"] = min(per_byte, took / size)
            found[f"{name}_call"] = took - size * found[f"{name}_byte"]
        return found


def _train_seconds(work: Work, rates: Rates) -> Estimate:
    return stages.train_seconds(work, rates, estimate("collectives", "seconds", "0"))


def model_digest(config: RunConfig) -> str:
    """Names the model's config.json."""
    return hashlib.blake2b((Path(config.model.path) / "config.json").read_bytes(), digest_size=16).hexdigest()
