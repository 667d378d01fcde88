"""Actors that sleep in place of work, under the real loop, the real pools and the real runtime.

A runtime that starts a sleeper for each worker: what remains is the order of the calls and what the loop itself
costs. It serves to hold the timeline and the simulation to reality on a machine without the GPUs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np

from cluster.runtime import Actor, Ref, Resources, Runtime, fetch
from learner.group_input import GroupInput
from learner.types import StepPlan, StepReport
from omniopsd.planning.timeline import Durations
from rollout.types import (
    Prompt,
    Rendered,
    Rollout,
    RolloutGroup,
    SamplingSpec,
    WeightReceipt,
    WeightUpdate,
    WireTensor,
)
from teacher.types import GroupScore, ScoreRequest, TeacherScore

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")
WAIT, TOKENS, LIGHT = 600.0, 4, 0.001


class Sleeper:
    """What all sleepers have: a name, the durations, and the version of the last push."""

    def __init__(self, name: str, durations: Durations, calls: Sequence[int]) -> None:
        """`calls`: samples of each generate call, in the order of the durations."""
        self.name, self.durations, self.version = name, durations, 0
        self.generate_seconds = dict(zip(calls, durations.generate, strict=True))
        self.score_seconds = dict(zip(calls, durations.score, strict=True)) if durations.score else {}

    def ready(self) -> str:
        """Answers at once."""
        return self.name

    def _receive(self, update: WeightUpdate, seconds: float) -> WeightReceipt:
        for chunk in update.chunks:
            chunk.get(WAIT)
        time.sleep(seconds)
        self.version = update.version
        return WeightReceipt(receiver=self.name, version=update.version, digest=update.digest)


class SleepingEngine(Sleeper):
    """For `rollout.worker.RolloutWorker`."""

    def generate(self, prompts: Sequence[Ref[Prompt]], spec: SamplingSpec, step: int) -> list[RolloutGroup]:
        """Groups of short answers, after the seconds of a call of so many samples."""
        opened = fetch(prompts, WAIT)
        time.sleep(self.generate_seconds[len(opened)])
        return [self._group(prompt, spec, step) for prompt in opened]

    def _group(self, prompt: Prompt, spec: SamplingSpec, step: int) -> RolloutGroup:
        rollouts = tuple(
            Rollout(
                rollout_id=f"{step}-{prompt.sample_id}-{index}",
                sample_id=prompt.sample_id,
                index=index,
                response_ids=np.ones(TOKENS, np.int32),
                rollout_logprobs=np.zeros(TOKENS, np.float32),
                temperature=spec.temperature,
                policy_version=self.version,
                finish="stop",
            )
            for index in range(spec.rollouts)
        )
        use = prompt.rendered.media_use
        return RolloutGroup(sample_id=prompt.sample_id, rollouts=rollouts, media_use=use, seconds=0.0)

    def score(self, prompt: Prompt, response_ids: np.ndarray) -> np.ndarray:
        """The probe."""
        return np.zeros(len(response_ids), np.float32)

    def update(self, update: WeightUpdate) -> WeightReceipt:
        """A push."""
        return self._receive(update, self.durations.engine_update)


class SleepingTeacher(Sleeper):
    """For `teacher.worker.TeacherWorker`."""

    def score(
        self, requests: Sequence[ScoreRequest], support: str, top_k: int, temperature: float
    ) -> list[GroupScore]:
        """Log-probs of 0, after the seconds of a call of so many samples."""
        time.sleep(self.score_seconds[len(requests)])
        return [
            GroupScore(
                sample_id=request.context.sample_id,
                scores=tuple(self._score(rollout_id) for rollout_id in request.rollout_ids),
                media_use=request.context.rendered.media_use,
                seconds=0.0,
            )
            for request in requests
        ]

    def _score(self, rollout_id: str) -> TeacherScore:
        return TeacherScore(
            rollout_id=rollout_id,
            teacher_version=self.version,
            head_digest="",
            logprobs=np.zeros(TOKENS, np.float32),
            topk_ids=None,
            topk_logprobs=None,
            hidden=None,
        )

    def update(self, update: WeightUpdate) -> WeightReceipt:
        """A push."""
        return self._receive(update, self.durations.teacher_update or 0.0)


class SleepingLearner(Sleeper):
    """For `learner.worker.LearnerWorker`."""

    def address(self) -> tuple[str, int]:
        """None is needed."""
        return "127.0.0.1", 1

    def setup(self, host: str, port: int) -> int:
        """Joins nobody."""
        return 0

    def train_step(self, plan: StepPlan, groups: Mapping[int, GroupInput]) -> StepReport:
        """Opens its groups, as the real one does, and sleeps."""
        for group in groups.values():
            group.open(WAIT)
        time.sleep(self.durations.train)
        self.version += 1
        first = self.name == "learner-0"
        return StepReport(
            rank=int(self.name.rpartition("-")[2]),
            version=self.version,
            loss=0.0,
            grad_norm=0.0,
            sums={},
            tokens=plan.tokens if first else 0,
            sequences=plan.sequences if first else 0,
            media_use={},
        )

    def publish_begin(self, version: int, chunk_bytes: int) -> int:
        """One chunk."""
        return 1

    def publish_chunk(self, index: int, follow: bool) -> list[WireTensor]:
        """An empty one, after the seconds of a whole push."""
        time.sleep(self.durations.publish)
        return []

    def publish_digest(self) -> str:
        """Of nothing."""
        return ""

    def probe(self, prompt: Rendered, response_ids: np.ndarray, temperature: float) -> np.ndarray:
        """What the engines will say as well."""
        time.sleep(self.durations.probe)
        return np.zeros(len(response_ids), np.float32)


SLEEPERS: dict[str, type[Sleeper]] = {
    "rollout": SleepingEngine,
    "teacher": SleepingTeacher,
    "learner": SleepingLearner,
}


class SleepingActor(Actor[T]):
    """Calls the sleeper's method of the same name."""

    def __init__(self, inner: Actor[Any], sleeper: type[Sleeper]) -> None:
        self.name, self.inner, self.sleeper = inner.name, inner, sleeper

    def call(self, method: Callable[Concatenate[T, P], R], /, *args: P.args, **kwargs: P.kwargs) -> Ref[R]:
        own: Callable[..., R] = getattr(self.sleeper, method.__name__)
        return self.inner.call(own, *args, **kwargs)


class SleepingRuntime(Runtime):
    """Another runtime, whose actors sleep and take next to nothing of the machine."""

    def __init__(self, inner: Runtime, durations: Durations, calls: Sequence[int]) -> None:
        self._inner, self._durations, self._calls = inner, durations, tuple(calls)

    def start(
        self, name: str, resources: Resources, cls: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Actor[T]:
        sleeper = SLEEPERS.get(name.partition("-")[0])
        if sleeper is None:  # decoders have no seconds of their own in the timeline
            return self._inner.start(name, Resources(cpus=LIGHT), cls, *args, **kwargs)
        inner = self._inner.start(name, Resources(cpus=LIGHT), sleeper, name, self._durations, self._calls)
        return SleepingActor(inner, sleeper)

    def together(self, name: str, actors: Sequence[Actor[T]]) -> Actor[T]:
        sleepers = [actor for actor in actors if isinstance(actor, SleepingActor)]
        return SleepingActor(self._inner.together(name, [one.inner for one in sleepers]), sleepers[0].sleeper)

    def put(self, value: R) -> Ref[R]:
        return self._inner.put(value)

    def wait(self, refs: Sequence[Ref[Any]], timeout: float) -> int:
        return self._inner.wait(refs, timeout)

    def require(self, needs: Sequence[Resources]) -> None:
        """Sleepers need nothing."""

    def require_same(self, files: Mapping[str, str]) -> None:
        self._inner.require_same(files)

    def shutdown(self) -> None:
        self._inner.shutdown()


def rehearse(
    config: Any, runtime: Runtime, durations: Durations, calls: Sequence[int], steps: int
) -> list[dict[str, float]]:
    """Run the real loop with sleeping actors; the seconds of each step, as `metrics.jsonl` has them."""
    from omniopsd.build import make_parts
    from omniopsd.check import require_sound
    from omniopsd.loop import TrainLoop
    from omniopsd.prompts import make_book

    renderer, samples, _ = require_sound(config)
    sleeping = SleepingRuntime(runtime, durations, calls)
    parts = make_parts(config, sleeping)
    parts.wait_ready()
    book = make_book(config, samples, renderer)
    for sample in book.samples:  # decoded before the clock runs
        book.prompt(sample), book.context(sample)
    loop = TrainLoop(
        config,
        runtime=sleeping,
        book=book,
        rollout=parts.rollout,
        teacher=parts.teacher,
        learner=parts.learner,
    )
    return [loop.step(step, steps).seconds for step in range(1, steps + 1)]
