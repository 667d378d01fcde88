"""Settings of what a run measures beside its loss, and of the alarms over it. Importable without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

SECTION = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
Action = Literal["off", "warn", "stop"]


class TelemetryConfig(BaseModel):
    """What is measured beside the loss. Only the keys that end in `_every` cost forward passes."""

    model_config = SECTION

    leak_phrases: tuple[str, ...] = (
        "rationale",
        "reference answer",
        "reference solution",
        "expert observer",
        "the hint",
        "provided evidence",
        "given label",
    )
    """An answer with one of these (in any case) speaks of what the student cannot see: `leak_rate`."""
    samples: int = Field(default=4, ge=1)
    """Samples of a step that the measurements below use: the first ones, with all of their rollouts."""
    reference_every: int | None = Field(default=10, ge=1)
    """Steps between two measurements of `reference_gain`: teacher less student log-prob on the reference answer
    (`response`, else the label in the answer form; its tokens from `<answer>` on), with and without evidence."""
    plain_every: int | None = Field(default=None, ge=1)
    """Steps between two scorings of the rollouts by the teacher without evidence: `gain_without_evidence` and
    `teacher_student_drift`, which is what the weights alone make of the difference."""
    answer_driven_every: int | None = Field(default=None, ge=1)
    """Steps between two measurements of `answer_driven_share` (PALR, arXiv 2606.19120): how much of the teacher's
    say over reasoning tokens hangs on the evidence rather than on the media. Two scorings more: once with the
    evidence of a sample with other labels, once with the media of one."""


class FormatAlarm(BaseModel):
    """The form of the answers falls apart (a live teacher did that within 40 steps in every seed)."""

    model_config = SECTION

    action: Action = "warn"
    """Say nothing, say it, or end the run after a checkpoint."""
    drop: float = Field(default=0.3, gt=0, le=1)
    """`format_rate` this far below its mean over the first steps, for 2 steps running."""


class LengthAlarm(BaseModel):
    """The upper tail of answer lengths grows: it leads a collapse by tens of steps (arXiv 2606.03532)."""

    model_config = SECTION

    action: Action = "warn"
    """Say nothing, say it, or end the run after a checkpoint."""
    factor: float = Field(default=1.5, gt=1)
    """`response_length_p95` this many times its mean over the first steps, for 2 steps running."""


class LeakAlarm(BaseModel):
    """Answers speak of evidence that the student cannot see."""

    model_config = SECTION

    action: Action = "warn"
    """Say nothing, say it, or end the run after a checkpoint."""
    above: float = Field(default=0.05, ge=0, lt=1)
    """Mean `leak_rate` of the last 3 steps."""


class SpikeAlarm(BaseModel):
    """The divergence jumps."""

    model_config = SECTION

    action: Action = "warn"
    """Say nothing, say it, or end the run after a checkpoint."""
    factor: float = Field(default=4.0, gt=1)
    """`divergence` this many times the median of the 20 steps before."""


class GainAlarm(BaseModel):
    """The teacher knows no more than the student: there is nothing to learn from it."""

    model_config = SECTION

    action: Action = "warn"
    """Say nothing, say it, or end the run after a checkpoint."""
    below: float = 0.0
    """`reference_gain.with_evidence` at or below this (nats per token), for `times` measurements running."""
    times: int = Field(default=2, ge=1)
    """Measurements running."""


class AlarmsConfig(BaseModel):
    """Alarms over `metrics.jsonl`; each has an action of its own: `off`, `warn` or `stop`."""

    model_config = SECTION

    first_steps: int = Field(default=5, ge=1)
    """Steps at the start whose mean `format` and `length` compare with."""
    format: FormatAlarm = FormatAlarm()
    """The form of the answers falls apart."""
    length: LengthAlarm = LengthAlarm()
    """The upper tail of answer lengths grows."""
    leak: LeakAlarm = LeakAlarm()
    """Answers speak of the evidence."""
    spike: SpikeAlarm = SpikeAlarm()
    """The divergence jumps."""
    gain: GainAlarm = GainAlarm()
    """The teacher knows no more than the student; needs `telemetry.reference_every`."""
