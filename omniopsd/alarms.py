"""Alarms: what the metrics of a run so far say against going on. Pure functions of the rows of metrics.jsonl.

They keep no state of their own, so a resumed run judges as the first one did.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Any

from omniopsd.telemetry_config import (
    Action,
    AlarmsConfig,
    FormatAlarm,
    GainAlarm,
    LeakAlarm,
    LengthAlarm,
    SpikeAlarm,
)

Row = Mapping[str, Any]
Rows = Sequence[Row]
RUNNING = 2
LEAK_STEPS = 3
SPIKE_STEPS, SPIKE_LEAST = 20, 5


class AlarmStop(ValueError):
    """An alarm whose action is `stop`; the run has a checkpoint of this step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """One alarm that holds now, and one sentence with the numbers."""

    name: str
    action: Action
    sentence: str


class Watch:
    """Judges every step of a run; says an alarm when it begins to hold, not again while it does."""

    def __init__(self, config: AlarmsConfig, rows: Rows) -> None:
        """`rows` are the steps that an earlier attempt has done."""
        self.config, self.rows = config, list(rows)
        self._held = {alarm.name for alarm in alarms(self.rows, config)} if rows else set()

    def see(self, row: Row, say: Callable[[str], None]) -> str | None:
        """Take in a finished step; the reason to stop, if there is one."""
        self.rows.append(row)
        held = alarms(self.rows, self.config)
        for alarm in held:
            if alarm.name not in self._held:
                say(f"alarm at step {row['step']}: {alarm.sentence} (alarms.{alarm.name})")
        self._held = {alarm.name for alarm in held}
        stops = [f"{alarm.sentence} (alarms.{alarm.name})" for alarm in held if alarm.action == "stop"]
        return stops[0] if stops else None


def alarms(rows: Rows, config: AlarmsConfig) -> list[Alarm]:
    """Those that hold at the last of `rows` (oldest first, every step so far) and are not off."""
    checks = {
        "format": lambda: format_drop(rows, config.format, config.first_steps),
        "length": lambda: length_tail(rows, config.length, config.first_steps),
        "leak": lambda: leak(rows, config.leak),
        "spike": lambda: spike(rows, config.spike),
        "gain": lambda: no_gain(rows, config.gain),
    }
    held = []
    for name, check in checks.items():
        action: Action = getattr(config, name).action
        if action != "off" and (sentence := check()):
            held.append(Alarm(name=name, action=action, sentence=sentence))
    return held


def format_drop(rows: Rows, config: FormatAlarm, first: int) -> str | None:
    """Against the mean of the first steps; two steps running, because one bad batch is no collapse."""
    base, last = _first(rows, "format_rate", first), _last(rows, "format_rate", first)
    if base is None or not all(value <= base - config.drop for value in last):
        return None
    return f"format_rate is {last[-1]:.2f} and was {base:.2f} in the first {first} steps: answers lose their form"


def length_tail(rows: Rows, config: LengthAlarm, first: int) -> str | None:
    """Against the mean of the first steps; two steps running."""
    base, last = _first(rows, "response_length_p95", first), _last(rows, "response_length_p95", first)
    if base is None or not all(value > base * config.factor for value in last):
        return None
    return (
        f"response_length_p95 is {last[-1]:.0f} tokens and was {base:.0f} in the first {first} steps: "
        "the longest answers grow"
    )


def leak(rows: Rows, config: LeakAlarm) -> str | None:
    """Mean over the last three steps."""
    values = list(_values(rows, "leak_rate"))[-LEAK_STEPS:]
    if len(values) < LEAK_STEPS or mean(values) <= config.above:
        return None
    return (
        f"leak_rate was {mean(values):.2f} over the last {LEAK_STEPS} steps: answers speak of evidence that "
        "the student cannot see (telemetry.leak_phrases)"
    )


def spike(rows: Rows, config: SpikeAlarm) -> str | None:
    """Against the median of the twenty steps before."""
    values = list(_values(rows, "divergence"))
    before = values[:-1][-SPIKE_STEPS:]
    if len(before) < SPIKE_LEAST or median(before) <= 0 or values[-1] <= config.factor * median(before):
        return None
    return (
        f"divergence is {values[-1]:.3g} nats and had a median of {median(before):.3g} in the {len(before)} steps "
        "before: teacher and student have come apart"
    )


def no_gain(rows: Rows, config: GainAlarm) -> str | None:
    """Only a step that measured it can raise or end it; between two measurements the last verdict holds."""
    values = [row["reference_gain"]["with_evidence"] for row in rows if "reference_gain" in row]
    last = values[-config.times :]
    if len(last) < config.times or any(value > config.below for value in last):
        return None
    return (
        f"reference_gain.with_evidence was {last[-1]:.3g} nats per token, {config.times} measurements running at or "
        f"below {config.below:g}: the teacher with its evidence knows the answer no better than the student"
    )


def _values(rows: Rows, name: str) -> Iterator[float]:
    return (row[name] for row in rows if name in row)


def _first(rows: Rows, name: str, first: int) -> float | None:
    """Mean of the first steps; None until `RUNNING` more are there."""
    values = list(_values(rows, name))
    return mean(values[:first]) if len(values) >= first + RUNNING else None


def _last(rows: Rows, name: str, first: int) -> list[float]:
    return list(_values(rows, name))[first:][-RUNNING:]
