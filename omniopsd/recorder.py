"""What a run leaves behind of each step: metrics, a sample of rollouts, and the lines on the terminal."""

from __future__ import annotations

import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from learner.statistics import POSITION_BINS
from omniopsd.answers import judge
from omniopsd.config import RunConfig
from omniopsd.loop import StepOutcome
from omniopsd.metrics import MetricsLog
from omniopsd.prompts import PromptBook
from omniopsd.rollout_log import LoggedRollout, write_rollouts
from omniopsd.run_folder import RunFolder
from rollout.types import RolloutGroup


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
        values = step_metrics(outcome, texts)
        self.metrics.append(outcome.step, values)
        kept = outcome.groups[: self.config.run.log_rollouts]
        if kept:
            logged = [entry for group in kept for entry in self._logged(outcome, group, texts)]
            write_rollouts(self.folder.rollout_path(outcome.step), logged)
        return values

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
                teacher_version=result.teacher_versions[rollout.rollout_id],
                finish=rollout.finish,
                prompt_ids=outcome.prompts[group.sample_id].rendered.token_ids,
                response_ids=rollout.response_ids,
                rollout_logprobs=rollout.rollout_logprobs,
                student_logprobs=result.student_logprobs[rollout.rollout_id],
                teacher_logprobs=result.teacher_logprobs[rollout.rollout_id],
                divergence=result.divergence[rollout.rollout_id],
                tokens=tuple(renderer.decode_tokens(rollout.response_ids)),
                text=texts[rollout.rollout_id],
                labels=sample.labels,
                correct=judge(texts[rollout.rollout_id], sample.labels).correct if sample.labels else None,
                privilege=self.config.teacher.privilege,
                evidence_id=evidence.source_id if evidence else "",
                evidence=evidence.text if evidence else None,
                rationale_key=evidence.rationale_key if evidence else "",
                videos=_absolute(paths.root, paths.videos),
                audios=_absolute(paths.root, paths.audios),
                images=_absolute(paths.root, paths.images),
            )
            for rollout in group.rollouts
        ]


def step_metrics(outcome: StepOutcome, texts: Mapping[str, str]) -> dict[str, Any]:
    """One line of `metrics.jsonl`: see docs/architecture.md for what each name means."""
    rollouts = [rollout for group in outcome.groups for rollout in group.rollouts]
    verdicts = [judge(texts[r.rollout_id], outcome.samples[r.sample_id].labels) for r in rollouts]
    result, means, seconds = outcome.result, outcome.result.means, outcome.seconds
    lengths = [len(rollout.response_ids) for rollout in rollouts]
    versions = set(result.teacher_versions.values())
    probe = {} if outcome.probe_difference is None else {"probe_difference": outcome.probe_difference}
    return probe | {
        "loss": result.loss,
        "grad_norm": result.grad_norm,
        "divergence": means["divergence"],
        "teacher_gain": means["teacher_gain"],
        "student_entropy": means["student_entropy"],
        "importance_clipped": means["importance_clipped"],
        "rollout_learner_difference": means["logprob_gap"],
        "divergence_by_position": [means.get(f"divergence_bin_{n}", 0.0) for n in range(POSITION_BINS)],
        "response_length": sum(lengths) / len(lengths),
        "response_length_max": max(lengths),
        "truncated": means["truncated"],
        "trained_tokens": result.tokens,
        "format_rate": sum(verdict.format_valid for verdict in verdicts) / len(verdicts),
        "accuracy_train": sum(verdict.correct for verdict in verdicts) / len(verdicts),
        "policy_version": result.version,
        "teacher_version": max(versions),
        "staleness_max": result.version - 1 - min(rollout.policy_version for rollout in rollouts),
        "seconds": seconds | {"teacher": result.teacher_seconds},
        "tokens_per_second": {
            "rollout": sum(lengths) / seconds["rollout"],
            "teacher": (outcome.context_tokens + sum(lengths)) / max(result.teacher_seconds, 1e-9),
            "learner": (outcome.prompt_tokens + sum(lengths)) / seconds["learner"],
        },
        "peak_bytes": {
            "driver": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "learner": result.peak_bytes,
        },
    }


def _absolute(root: str, paths: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(str((Path(root) / path).resolve()) for path in paths)
