"""What a run leaves behind of each step: metrics, a sample of rollouts, and the lines on the terminal."""

from __future__ import annotations

import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from learner.statistics import POSITION_BINS
from omniopsd.answers import judge
from omniopsd.breakdown import SeenRollout, breakdown, leak_rate, length_tail
from omniopsd.config import RunConfig
from omniopsd.inspection import inspection_metrics
from omniopsd.loop import StepOutcome
from omniopsd.metrics import MetricsLog
from omniopsd.prompts import PromptBook
from omniopsd.rollout_log import LoggedRollout, write_rollouts
from omniopsd.run_folder import RunFolder
from omniopsd.signals import answer_start
from rollout.messages import media_kinds
from rollout.types import Rollout, RolloutGroup

MEANS = (
    "divergence",
    "student_entropy",
    "teacher_entropy",
    "topk_overlap",
    "importance_clipped",
    "clipped",
    "clip_removed",
    "entropy_gate",
    "ratio_clipped",
)


class Recorder:
    """Writes one step at a time; nothing here changes what is trained."""

    def __init__(self, config: RunConfig, folder: RunFolder, book: PromptBook, metrics: MetricsLog) -> None:
        self.config, self.folder, self.book, self.metrics = config, folder, book, metrics

    def record(self, outcome: StepOutcome) -> dict[str, Any]:
        """Write a finished step; gives its metrics."""
        texts = {
            rollout.rollout_id: self.book.renderer.decode(rollout.response_ids)
            for group in outcome.groups
            for rollout in group.rollouts
        }
        values = step_metrics(outcome, texts) | self._telemetry(outcome, texts)
        self.metrics.append(outcome.step, values)
        kept = outcome.groups[: self.config.run.log_rollouts]
        if kept:
            logged = [entry for group in kept for entry in self._logged(outcome, group, texts)]
            write_rollouts(self.folder.rollout_path(outcome.step), logged)
        return values

    def _telemetry(self, outcome: StepOutcome, texts: Mapping[str, str]) -> dict[str, Any]:
        """What docs/telemetry.md names: parts of the step, tails, leaks, and the measurements that were due."""
        renderer, result = self.book.renderer, outcome.result
        starts = {
            rollout.rollout_id: answer_start(rollout.response_ids, renderer)
            for group in outcome.groups
            for rollout in group.rollouts
        }
        seen = [
            seen_rollout(outcome, rollout, texts[rollout.rollout_id], starts[rollout.rollout_id])
            for group in outcome.groups
            for rollout in group.rollouts
        ]
        tails = {
            "response_length_p95": length_tail(seen),
            "leak_rate": leak_rate(seen, self.config.telemetry.leak_phrases),
        }
        return breakdown(seen) | tails | inspection_metrics(outcome.inspection, result, starts)

    def _logged(
        self, outcome: StepOutcome, group: RolloutGroup, texts: Mapping[str, str]
    ) -> list[LoggedRollout]:
        sample, renderer = outcome.samples[group.sample_id], self.book.renderer
        evidence = self.book.evidence.of(group.sample_id)
        paths, result = sample.inputs.paths, outcome.result
        return [
            LoggedRollout(
                sample_id=group.sample_id,
                rollout_id=rollout.rollout_id,
                step=outcome.step,
                dataset=sample.dataset,
                policy_version=rollout.policy_version,
                teacher_version=result.teacher_versions.get(rollout.rollout_id),
                finish=rollout.finish,
                prompt_ids=outcome.prompts[group.sample_id].rendered.token_ids,
                response_ids=rollout.response_ids,
                rollout_logprobs=rollout.rollout_logprobs,
                student_logprobs=result.student_logprobs[rollout.rollout_id],
                teacher_logprobs=result.teacher_logprobs.get(rollout.rollout_id),
                divergence=result.divergence[rollout.rollout_id],
                tokens=tuple(renderer.decode_tokens(rollout.response_ids)),
                text=texts[rollout.rollout_id],
                labels=sample.labels,
                correct=judge(texts[rollout.rollout_id], sample.labels).correct if sample.labels else None,
                privilege=self.book.evidence.privilege,
                evidence_id=evidence.source_id if evidence else "",
                evidence=evidence.text if evidence else None,
                rationale_key=evidence.rationale_key if evidence else "",
                videos=_absolute(paths.root, paths.videos),
                audios=_absolute(paths.root, paths.audios),
                images=_absolute(paths.root, paths.images),
            )
            for rollout in group.rollouts
        ]


def seen_rollout(outcome: StepOutcome, rollout: Rollout, text: str, start: int) -> SeenRollout:
    """One rollout of a finished step, for the breakdown."""
    sample, result = outcome.samples[rollout.sample_id], outcome.result
    verdict, name = judge(text, sample.labels), rollout.rollout_id
    teacher = result.teacher_logprobs.get(name)
    return SeenRollout(
        dataset=sample.dataset,
        modalities="+".join(dict.fromkeys([*media_kinds(sample.inputs.messages), "text"])),
        format_valid=verdict.format_valid,
        correct=verdict.correct if sample.labels else None,
        answer_start=start,
        divergence=result.divergence[name],
        gain=None if teacher is None else teacher - result.student_logprobs[name],
        text=text,
    )


def step_metrics(outcome: StepOutcome, texts: Mapping[str, str]) -> dict[str, Any]:
    """One line of `metrics.jsonl`: see docs/architecture.md for what each name means."""
    rollouts = [rollout for group in outcome.groups for rollout in group.rollouts]
    verdicts = [judge(texts[r.rollout_id], outcome.samples[r.sample_id].labels) for r in rollouts]
    result, means, seconds = outcome.result, outcome.result.means, outcome.seconds
    lengths = [len(rollout.response_ids) for rollout in rollouts]
    speed = {
        "rollout": sum(lengths) / seconds["rollout"],
        "learner": (outcome.prompt_tokens + sum(lengths)) / seconds["learner"],
    }
    known = _of_teacher(outcome)
    if known:
        speed["teacher"] = (outcome.context_tokens + sum(lengths)) / max(result.teacher_seconds, 1e-9)
    if outcome.sampled and "logprob_gap" in means:
        known["rollout_learner_difference"] = means["logprob_gap"]
    if outcome.probe_difference is not None:
        known["probe_difference"] = outcome.probe_difference
    known |= _of_rewards(outcome)
    # a step whose weights were all 0 has means of nothing
    known |= {name: means[name] for name in MEANS if name in means}
    return known | {
        "loss": result.loss,
        "grad_norm": result.grad_norm,
        "divergence_by_position": [means.get(f"divergence_bin_{n}", 0.0) for n in range(POSITION_BINS)],
        "response_length": sum(lengths) / len(lengths),
        "response_length_max": max(lengths),
        "truncated": means.get("truncated", 0.0),
        "trained_tokens": result.tokens,
        "format_rate": sum(verdict.format_valid for verdict in verdicts) / len(verdicts),
        "accuracy_train": sum(verdict.correct for verdict in verdicts) / len(verdicts),
        "policy_version": result.version,
        "staleness_max": result.version - 1 - min(rollout.policy_version for rollout in rollouts),
        "seconds": seconds | {"teacher": result.teacher_seconds},
        "tokens_per_second": speed,
        "peak_bytes": {
            "driver": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "learner": result.peak_bytes,
        },
    }


def _of_teacher(outcome: StepOutcome) -> dict[str, Any]:
    """What only a step with a teacher has."""
    versions, means = set(outcome.result.teacher_versions.values()), outcome.result.means
    if not versions:
        return {}
    gain = {"teacher_gain": means["teacher_gain"]} if "teacher_gain" in means else {}
    return gain | {"teacher_version": max(versions)}


def _of_rewards(outcome: StepOutcome) -> dict[str, float]:
    """Means over the step's rollouts; nothing without a reward term."""
    signals = [signal for group in outcome.signals.values() for signal in group]
    rewards = [signal.reward for signal in signals if signal.reward is not None]
    sizes = [abs(signal.advantage) for signal in signals if signal.advantage is not None]
    if not rewards:
        return {}
    return {"reward": sum(rewards) / len(rewards), "advantage_size": sum(sizes) / len(sizes)}


def _absolute(root: str, paths: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(str((Path(root) / path).resolve()) for path in paths)
