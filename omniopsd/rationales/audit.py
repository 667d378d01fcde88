"""`omniopsd rationales audit`: what the evidence is worth to this student, measured before any training.

The student answers greedily from its own prompt and samples rollouts; then the teacher, with the same weights,
answers and scores those same rollouts under every privilege mode. `shuffled` and `none` are the controls: a
gain that they share does not come from the evidence.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from cluster.runtime import Runtime, start_runtime
from omniopsd.build import groups_of
from omniopsd.check import require_sound
from omniopsd.config import RunConfig
from omniopsd.durable import write_durably
from omniopsd.evaluate import Evaluation
from omniopsd.prompts import PromptBook, make_book
from omniopsd.rationales.audit_counts import MODES, Measured, audit_json
from omniopsd.rationales.audit_report import audit_page, audit_table, no_gain, warnings
from omniopsd.samples import Sample
from rollout.evidence import require_same_media
from rollout.pool import RolloutPool
from rollout.renderer import Renderer
from rollout.types import RolloutGroup, SamplingSpec
from teacher.pool import ScoreSpec, TeacherPool
from teacher.types import Privilege, ScoreRequest

SAMPLES_PER_ROUND = 64
LEAST = 2
TABLE_WIDTH = 130
"""Columns of the table where there is no terminal to ask, such as a log: in 80 its numbers are cut off."""
AUDITED = ("label", "rationale", "redacted")
"""Privileges that a run may train with and an audit measures; for another one the rationale stands."""


class AuditError(ValueError):
    """Samples that cannot be audited, or a privilege that is worth nothing."""


def audit(config: RunConfig, *, samples: int | None = None, out: str | None = None) -> dict[str, Any]:
    """Measure all modes on `samples` of the training file, show the table, write JSON and a page to `out`.

    Raises AuditError when there is nothing to audit, and, with `on_no_gain: fail`, when the run's own privilege
    gives no gain.
    """
    console = Console(width=None if sys.stdout.isatty() else TABLE_WIDTH)
    privilege = config.teacher.privilege if config.teacher.privilege in AUDITED else "rationale"
    config = _for_audit(config)
    renderer, train, _ = require_sound(config)
    chosen, left_out = choose(train, samples)
    console.print(
        f"audit of {len(chosen)} samples; {left_out} without label or rationale left out", highlight=False
    )
    runtime = start_runtime(config.runtime)
    try:
        measured = Audit(config, renderer, chosen, runtime, console).measure()
    finally:
        runtime.shutdown()
    result = {
        "model": config.model.path,
        "data": config.data.train,
        "seed": config.run.seed,
        "privilege": privilege,
        "left_out": left_out,
        **audit_json(measured),
    }
    return _tell(config, result, out, console)


def choose(samples: Sequence[Sample], count: int | None) -> tuple[list[Sample], int]:
    """Samples with label and rationale, at most `count` of them, spread over the file; and how many had not both."""
    able = [sample for sample in samples if sample.labels and sample.rationale is not None]
    if len(able) < LEAST:
        raise AuditError(
            f"{len(able)} of {len(samples)} samples have both labels and a rationale, and an audit needs at least "
            f"{LEAST}; run `omniopsd rationales make`, or add them to the data"
        )
    asked = min(count or len(able), len(able))
    chosen = [able[at * len(able) // asked] for at in range(max(LEAST, asked))]
    return chosen, len(samples) - len(able)


class Audit:
    """One audit while it runs."""

    def __init__(
        self,
        config: RunConfig,
        renderer: Renderer,
        samples: Sequence[Sample],
        runtime: Runtime,
        console: Console,
    ) -> None:
        self._config, self._samples, self._runtime, self._console = config, samples, runtime, console
        self._books = {mode: self._book(mode, renderer) for mode in MODES}
        runtime.reserve(groups_of(config, ("rollout", "teacher")))
        spec = ScoreSpec(support="sampled", top_k=1, temperature=1.0)
        self._rollout = RolloutPool(runtime, config.model, config.rollout, config.weights)
        self._teacher = TeacherPool(runtime, config.model, config.teacher, spec)

    def measure(self) -> list[Measured]:
        """Answers and scores of every sample in every mode."""
        self._rollout.wait_ready()
        self._teacher.wait_ready()
        self._say("the student answers")
        student = self._correct(self._evaluation("none").student(self._runtime, self._rollout))
        self._say("the student's rollouts")
        groups = self._groups()
        correct: dict[Privilege, dict[str, bool]] = {}
        logprobs: dict[Privilege, dict[str, np.ndarray]] = {}
        for mode in MODES:
            self._say(f"the teacher, privilege {mode}")
            correct[mode] = self._correct(self._evaluation(mode).teacher(self._teacher))
            logprobs[mode] = self._scores(self._books[mode], groups)
        return [
            Measured(
                sample_id=sample.sample_id,
                dataset=sample.dataset,
                modality=modality(sample),
                student_correct=student[sample.sample_id],
                correct={mode: correct[mode][sample.sample_id] for mode in MODES},
                logprobs={mode: logprobs[mode][sample.sample_id] for mode in MODES},
            )
            for sample in self._samples
        ]

    def _book(self, mode: Privilege, renderer: Renderer) -> PromptBook:
        teacher = self._config.teacher.model_copy(update={"privilege": mode})
        return make_book(self._config, self._samples, renderer, teacher)

    def _evaluation(self, mode: Privilege) -> Evaluation:
        return Evaluation(self._books[mode], self._samples, self._config.rollout.max_new_tokens)

    @staticmethod
    def _correct(results: Mapping[str, Any]) -> dict[str, bool]:
        return {answer["id"]: answer["correct"] for answer in results["answers"]}

    def _groups(self) -> dict[str, RolloutGroup]:
        rollout, book = self._config.rollout, self._books["none"]
        spec = SamplingSpec(
            rollouts=rollout.rollouts_per_sample,
            max_new_tokens=rollout.max_new_tokens,
            temperature=rollout.temperature,
            top_p=rollout.top_p,
            top_k=rollout.top_k,
            seed=self._config.run.seed,
        )
        groups: dict[str, RolloutGroup] = {}
        for part in _rounds(self._samples):
            prompts = {sample.sample_id: book.prompt(sample) for sample in part}
            refs = {sample_id: self._runtime.put(prompt) for sample_id, prompt in prompts.items()}
            for call in self._rollout.submit(refs, spec, 0):
                for group in call.ref.get(rollout.timeout_seconds):
                    require_same_media(
                        prompts[group.sample_id].rendered.media_use,
                        group.media_use,
                        station="rollout",
                        sample_id=group.sample_id,
                    )
                    groups[group.sample_id] = group
        return groups

    def _scores(self, book: PromptBook, groups: Mapping[str, RolloutGroup]) -> dict[str, np.ndarray]:
        scores: dict[str, np.ndarray] = {}
        for part in _rounds(self._samples):
            requests = [
                ScoreRequest(
                    context=book.context(sample),
                    rollout_ids=tuple(r.rollout_id for r in groups[sample.sample_id].rollouts),
                    responses=tuple(r.response_ids for r in groups[sample.sample_id].rollouts),
                )
                for sample in part
            ]
            for found in self._teacher.score(requests).get(self._config.teacher.timeout_seconds):
                scores[found.sample_id] = np.concatenate([score.logprobs for score in found.scores])
        return scores

    def _say(self, text: str) -> None:
        self._console.print(text, style="dim", highlight=False)


def modality(sample: Sample) -> str:
    """The media of a sample, such as `video+audio`; `text` for none."""
    paths = sample.inputs.paths
    kinds = [kind for kind, found in (("video", paths.videos), ("image", paths.images)) if found]
    if paths.audios or sample.inputs.audio_in_video:
        kinds.append("audio")
    return "+".join(kinds) or "text"


def _for_audit(config: RunConfig) -> RunConfig:
    """The run with what an audit needs: a teacher of rationales whose weights stay, and no held-out samples."""
    objective = config.objective.model_copy(update={"divergence": "jsd"})
    teacher = config.teacher.model_copy(update={"privilege": "rationale", "weights": "frozen"})
    data = config.data.model_copy(update={"test": None})
    return config.model_copy(update={"objective": objective, "teacher": teacher, "data": data})


def _tell(config: RunConfig, result: dict[str, Any], out: str | None, console: Console) -> dict[str, Any]:
    console.print(audit_table(result))
    if out is not None:
        folder = Path(out)
        folder.mkdir(parents=True, exist_ok=True)
        write_durably(folder / "audit.json", json.dumps(result, indent=1).encode())
        write_durably(folder / "audit.html", audit_page(result).encode())
        console.print(f"{folder / 'audit.html'}\n{folder / 'audit.json'}", highlight=False, soft_wrap=True)
    for line in warnings(result):
        console.print(f"[bold red]WARNING[/bold red] {line}", highlight=False, soft_wrap=True)
    why = no_gain(result["modes"], result["privilege"])
    if why and config.rationale_cache is not None and config.rationale_cache.on_no_gain == "fail":
        raise AuditError(f"{why} (rationale_cache.on_no_gain: fail)")
    return result


def _rounds(samples: Sequence[Sample]) -> list[Sequence[Sample]]:
    return [samples[at : at + SAMPLES_PER_ROUND] for at in range(0, len(samples), SAMPLES_PER_ROUND)]
