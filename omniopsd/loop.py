"""The training loop: one step, four hops, one direction.

     driver (ids, lengths, refs)        rollout pool      teacher pool        learner ranks
  1  claim B samples ----------------> generate(chunk)
  2  <--- groups, as each chunk completes
  3  privileged contexts -------------------------------> score(chunk)
  4  plan from lengths alone                              (scores stay remote: refs)
  5  ------------ plan + groups + score refs ----------------------------> train
  6  <------------------------------------------------------------------ StepResult
     (engines on the learner's GPUs sleep from 5 on; the push of 7 wakes them)
  7  publish v+1: learner ==> engines and teachers, all confirm or the step fails; probe
  8  metrics; rollouts kept; checkpoint at its interval

Scoring of the first chunk starts while the others still generate. With `max_policy_lag: L` the
samples of L further steps are already being generated; the code is the same.

Invariants: policy version v = number of finished steps; every trained group was sampled from a
version in [v - L, v]; every score was made by teachers that had received all pushes up to v.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cluster.placement import ROLLOUT_LEARNER
from cluster.runtime import Ref, Runtime
from learner.group import LearnerGroup, StepResult
from learner.group_input import GroupInput
from learner.plan import group_lengths, plan_step
from omniopsd.answers import judge
from omniopsd.config import RunConfig
from omniopsd.inspection import Inspection, Inspector
from omniopsd.order import DataOrder
from omniopsd.progress import StageTimer
from omniopsd.prompts import PromptBook
from omniopsd.samples import Sample
from omniopsd.signals import Signals, step_signals
from omniopsd.supervised import supervised_groups
from rollout.evidence import require_same_media
from rollout.pool import RolloutCall, RolloutPool
from rollout.types import Prompt, RolloutGroup, SamplingSpec, WeightUpdate
from teacher.pool import TeacherPool
from teacher.refresh import TeacherRefresh
from teacher.types import GroupScore, PrivilegedContext, ScoreRequest

PROBE_TEXT = "A fixed answer that every holder of the weights scores."


class StaleRollout(ValueError):
    """A rollout from a policy version that `rollout.max_policy_lag` does not allow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """The samples of one step, on their way through the engines; everything by sample id."""

    step: int
    samples: dict[str, Sample]
    prompts: dict[str, Prompt]
    refs: dict[str, Ref[Prompt]]
    calls: tuple[RolloutCall, ...]
    contexts: dict[str, PrivilegedContext]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """Where the score of one group is: in a teacher's answer that the driver need not open.

    `contrast` is the answer under the second context, in the same order.
    """

    ref: Ref[list[GroupScore]]
    index: int
    contrast: Ref[list[GroupScore]] | None = None

    def open(self, timeout: float) -> GroupScore:
        """Fetch the score."""
        return self.ref.get(timeout)[self.index]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOutcome:
    """Everything that the recorder needs to know of a finished step.

    `sampled` is false where the answers were given (cross_entropy): nobody drew their tokens. `signals`
    as `step_signals` gives them.
    """

    step: int
    samples: dict[str, Sample]
    prompts: dict[str, Prompt]
    groups: tuple[RolloutGroup, ...]
    scores: dict[str, Scored]
    contexts: dict[str, PrivilegedContext]
    result: StepResult
    prompt_tokens: int
    context_tokens: int
    probe_difference: float | None
    seconds: dict[str, float]
    sampled: bool = True
    signals: Signals = field(default_factory=dict)
    inspection: Inspection = field(default_factory=Inspection)


class TrainLoop:
    """Drives pools and learner; holds no weights, no logits and no torch."""

    def __init__(
        self,
        config: RunConfig,
        *,
        runtime: Runtime,
        book: PromptBook,
        rollout: RolloutPool,
        teacher: TeacherPool | None,
        learner: LearnerGroup,
    ) -> None:
        """`teacher` is None for an objective without one, and where the learner scores for itself."""
        self.config, self.runtime, self.book = config, runtime, book
        self.rollout, self.teacher, self.learner = rollout, teacher, learner
        run = config.run
        self.order = DataOrder(
            len(book.samples), per_step=run.samples_per_step, seed=run.seed, shuffle=config.data.shuffle
        )
        self.version = 0
        self.refresh = TeacherRefresh(config.teacher)
        self._inspector = (
            Inspector(config.telemetry, book, teacher, learner, config.teacher.timeout_seconds)
            if teacher is not None
            else None
        )
        self._claimed: deque[Claimed] = deque()
        self._probe = (book.prompt(book.samples[0]), book.renderer.encode_response(PROBE_TEXT))

    def resume(self, version: int, teacher_folder: str, refresh: Mapping[str, Any]) -> None:
        """Go on after step `version`: the learner has its state back, engines and teachers get theirs."""
        self.refresh.load(refresh)
        update = self.learner.publish(follow=False)
        self._give_engines(update)
        if self.teacher is not None:
            self.teacher.resume(teacher_folder, update, self.config.weights.timeout_seconds)
        self.version = version

    def step(self, step: int, last: int) -> StepOutcome:
        """One whole step; raises on the first thing that is not as it should be."""
        timer = StageTimer()
        begin = time.perf_counter()
        with timer.stage("rollout"):
            claimed = self._next(step, last)
            groups, scores = self._collect(claimed)
        with timer.stage("learner"):
            signals = step_signals(self.config.objective, claimed.samples, groups, self.book.renderer)
        with timer.stage("telemetry"):
            inspection = self._inspect(claimed, groups)
        with timer.stage("learner"):
            if self.config.runtime.colocate == ROLLOUT_LEARNER:
                self.rollout.sleep()
            result = self._train(claimed, groups, scores, signals)
        with timer.stage("push"):
            if self.teacher is not None and self.refresh.watches:
                self._observe(claimed, groups)
            difference = self._push(step)
        seconds = timer.take()
        seconds["step"] = time.perf_counter() - begin
        return StepOutcome(
            step=step,
            samples=claimed.samples,
            prompts=claimed.prompts,
            groups=tuple(groups[sample_id] for sample_id in claimed.samples),
            scores=scores,
            contexts=claimed.contexts,
            result=result,
            prompt_tokens=sum(len(p.rendered.token_ids) for p in claimed.prompts.values()),
            context_tokens=sum(len(c.rendered.token_ids) for c in claimed.contexts.values()),
            probe_difference=difference,
            seconds=seconds,
            sampled=bool(claimed.calls),
            signals=signals,
            inspection=inspection,
        )

    # --- 1: claim ----------------------------------------------------------------------------

    def _next(self, step: int, last: int) -> Claimed:
        """The samples of `step`; those of the next `max_policy_lag` steps are sent off as well."""
        ahead = min(last, step + self.config.rollout.max_policy_lag)
        first = self._claimed[-1].step + 1 if self._claimed else step
        for number in range(first, ahead + 1):
            self._claimed.append(self._claim(number))
        if ahead < last:
            self.book.decode_ahead(self._samples(ahead + 1).values())
        return self._claimed.popleft()

    def _claim(self, step: int) -> Claimed:
        samples = self._samples(step)
        self.book.decode_ahead(samples.values())
        prompts = {sample_id: self.book.prompt(sample) for sample_id, sample in samples.items()}
        refs = {sample_id: self.runtime.put(prompt) for sample_id, prompt in prompts.items()}
        supervised = self.config.objective.divergence == "cross_entropy"
        calls = () if supervised else self.rollout.submit(refs, self._spec(), step)
        scored = samples if self.config.objective.has_teacher else {}
        contexts = {sample_id: self.book.context(sample) for sample_id, sample in scored.items()}
        return Claimed(
            step=step, samples=samples, prompts=prompts, refs=refs, calls=tuple(calls), contexts=contexts
        )

    def _samples(self, step: int) -> dict[str, Sample]:
        return {s.sample_id: s for s in (self.book.samples[at] for at in self.order.claim(step))}

    def _spec(self) -> SamplingSpec:
        rollout = self.config.rollout
        return SamplingSpec(
            rollouts=rollout.rollouts_per_sample,
            max_new_tokens=rollout.max_new_tokens,
            temperature=rollout.temperature,
            top_p=rollout.top_p,
            top_k=rollout.top_k,
            seed=self.config.run.seed,
        )

    # --- 2, 3: collect and score ---------------------------------------------------------------

    def _collect(self, claimed: Claimed) -> tuple[dict[str, RolloutGroup], dict[str, Scored]]:
        groups: dict[str, RolloutGroup] = {}
        scores: dict[str, Scored] = {}
        if self.config.objective.divergence == "cross_entropy":
            return self._given(claimed), scores
        pending = list(claimed.calls)
        while pending:
            call = pending.pop(
                self.runtime.wait([c.ref for c in pending], self.config.rollout.timeout_seconds)
            )
            fresh = call.ref.get(self.config.rollout.timeout_seconds)
            self._check(claimed, call.sample_ids, fresh)
            groups |= {group.sample_id: group for group in fresh}
            if self.teacher is None:
                continue
            ref = self.teacher.score([_request(claimed.contexts[group.sample_id], group) for group in fresh])
            contrast = self._contrast(claimed, fresh)
            scores |= {
                group.sample_id: Scored(ref=ref, index=at, contrast=contrast)
                for at, group in enumerate(fresh)
            }
        return groups, scores

    def _contrast(self, claimed: Claimed, groups: Sequence[RolloutGroup]) -> Ref[list[GroupScore]] | None:
        if self.config.objective.contrast is None or self.teacher is None:
            return None
        contexts = [self.book.second_context(claimed.samples[group.sample_id]) for group in groups]
        return self.teacher.score(
            [_request(context, group) for context, group in zip(contexts, groups, strict=True)]
        )

    def _given(self, claimed: Claimed) -> dict[str, RolloutGroup]:
        return supervised_groups(
            claimed.step,
            self.version,
            claimed.samples,
            claimed.prompts,
            self.book.renderer,
            self.config.objective.supervised,
        )

    def _check(self, claimed: Claimed, asked: Sequence[str], groups: Sequence[RolloutGroup]) -> None:
        given = [group.sample_id for group in groups]
        if given != list(asked):
            raise StaleRollout(f"step {claimed.step}: asked for samples {list(asked)}, got {given}")
        oldest = self.version - self.config.rollout.max_policy_lag
        for group in groups:
            require_same_media(
                claimed.prompts[group.sample_id].rendered.media_use,
                group.media_use,
                station="rollout",
                sample_id=group.sample_id,
            )
            for rollout in group.rollouts:
                if not oldest <= rollout.policy_version <= self.version:
                    raise StaleRollout(
                        f"{rollout.rollout_id}: sampled from version {rollout.policy_version}, the student is at "
                        f"{self.version} and rollout.max_policy_lag is {self.config.rollout.max_policy_lag}"
                    )

    # --- 4, 5, 6: train ---------------------------------------------------------------------------

    def _train(
        self,
        claimed: Claimed,
        groups: dict[str, RolloutGroup],
        scores: dict[str, Scored],
        signals: Signals,
    ) -> StepResult:
        learner, train_truncated = self.config.learner, self.config.objective.train_truncated
        order = list(claimed.samples)
        lengths = [
            group_lengths(
                claimed.prompts[s].rendered,
                groups[s],
                train_truncated=train_truncated,
                signals=signals.get(s, ()),
            )
            for s in order
        ]
        plan = plan_step(
            claimed.step,
            lengths,
            learner.ranks,
            learner.max_pack_tokens,
            learner.micro_batches,
            seed=self.config.run.seed,
        )
        inputs = {
            at: GroupInput(
                prompt=claimed.refs[s],
                rollouts=groups[s],
                scores=scores[s].ref if s in scores else None,
                score_index=scores[s].index if s in scores else 0,
                contrast_scores=scores[s].contrast if s in scores else None,
                contexts=self._own_contexts(claimed, s),
                signals=signals.get(s, ()),
            )
            for at, s in enumerate(order)
        }
        return self.learner.step(plan, inputs)

    def _own_contexts(self, claimed: Claimed, sample_id: str) -> tuple[Ref[PrivilegedContext], ...]:
        """What a colocated teacher scores under; nothing where a pool has scored."""
        if self.teacher is not None or not self.config.objective.has_teacher:
            return ()
        contexts = [claimed.contexts[sample_id]]
        if self.config.objective.contrast is not None:
            contexts.append(self.book.second_context(claimed.samples[sample_id]))
        return tuple(self.runtime.put(context) for context in contexts)

    def _inspect(self, claimed: Claimed, groups: dict[str, RolloutGroup]) -> Inspection:
        """Extra scores of this step, by teachers that have not seen its update."""
        if self._inspector is None:
            return Inspection()
        return self._inspector.look(claimed.step, claimed.samples, claimed.prompts, groups)

    # --- 7: push ----------------------------------------------------------------------------------

    def _push(self, step: int) -> float | None:
        teacher = self.teacher
        follow = teacher is not None and self.refresh.due(step)
        update = self._published(follow)
        receipts = teacher.push(update) if teacher is not None and update and follow else []
        self._give_engines(update)
        if teacher is not None and update and receipts:
            teacher.confirm(receipts, update, self.config.weights.timeout_seconds)
        self.version = step
        return self._compare(step)

    def _observe(self, claimed: Claimed, groups: dict[str, RolloutGroup]) -> None:
        rollouts = [rollout for group in groups.values() for rollout in group.rollouts]
        texts = [self.book.renderer.decode(rollout.response_ids) for rollout in rollouts]
        labels = [claimed.samples[rollout.sample_id].labels for rollout in rollouts]
        rewards = [judge(text, own).correct for text, own in zip(texts, labels, strict=True)]
        self.refresh.observe(rewards, [len(rollout.response_ids) for rollout in rollouts])

    def _published(self, follow: bool) -> WeightUpdate | None:
        """The new weights in shared memory; None when nobody reads them there."""
        if self.config.weights.transport == "nccl" and not follow:
            return None
        return self.learner.publish(follow=follow)

    def _give_engines(self, update: WeightUpdate | None) -> None:
        if update is None or self.config.weights.transport == "nccl":
            self.learner.broadcast()
        else:
            if self.config.runtime.colocate == ROLLOUT_LEARNER:
                self.learner.release_memory()
            self.rollout.push(update)

    def _compare(self, step: int) -> float | None:
        """The probe: one fixed prompt and text, scored by every engine and by the learner."""
        if step % self.config.weights.probe_every:
            return None
        prompt, response = self._probe
        expected = self.learner.probe(prompt.rendered, response, 1.0)
        return self.rollout.require_probe(prompt, response, expected, self.version)


def _request(context: PrivilegedContext, group: RolloutGroup) -> ScoreRequest:
    return ScoreRequest(
        context=context,
        rollout_ids=tuple(rollout.rollout_id for rollout in group.rollouts),
        responses=tuple(rollout.response_ids for rollout in group.rollouts),
    )
