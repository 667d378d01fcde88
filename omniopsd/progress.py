"""What the terminal shows while a run goes on: a live line with a bar, or plain lines in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

STEPS = "training"  # the stage whose steps have lines of their own
SMOOTHING = 0.3  # weight of the newest step in the seconds that the remaining time is reckoned from


class StageTimer:
    """Seconds spent in each named stage; stages may overlap, and each counts its own."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time of the block, also when it raises."""
        start = self._clock()
        try:
            yield
        finally:
            self.add(name, self._clock() - start)

    def add(self, name: str, seconds: float) -> None:
        """Count time that was measured elsewhere."""
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    def take(self) -> dict[str, float]:
        """Seconds by stage since the last `take`, which then start again at 0."""
        taken, self._seconds = self._seconds, {}
        return taken


class TrainProgress:
    """Shows the stage and, after each step, the numbers to watch; a context manager.

    On a terminal: one live line with a bar. Elsewhere (CI, a log file): one line for each step.
    """

    def __init__(
        self,
        steps: int,
        *,
        done: int = 0,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.steps = steps
        self.done = done
        self._console = console or Console()
        self._clock = clock
        self._last: float | None = None
        self._step_seconds: float | None = None
        self._bar = _bar(self._console) if self._console.is_terminal else None
        self._task = (
            self._bar.add_task("starting", total=steps, completed=done, numbers="") if self._bar else None
        )

    def __enter__(self) -> TrainProgress:
        self._last = self._clock()
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def stage(self, text: str) -> None:
        """Say what is going on now ("rollout", "saving step 100")."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=escape(text))
        elif text != STEPS:  # a log says so by the line of each step
            self.note(text)

    def note(self, text: str) -> None:
        """Leave a line that stays, above the bar."""
        self._console.print(text, markup=False, highlight=False)

    def step(self, step: int, values: Mapping[str, Any]) -> None:
        """Show a finished step; `values` is its line of metrics.jsonl."""
        self.done = step
        self._measure()
        numbers = self._numbers(values)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=step, numbers=numbers)
        else:
            self.note(f"step {step}/{self.steps}  {numbers}")

    def _measure(self) -> None:
        now = self._clock()
        if self._last is not None:
            took = now - self._last
            before = took if self._step_seconds is None else self._step_seconds
            self._step_seconds = (1 - SMOOTHING) * before + SMOOTHING * took
        self._last = now

    def _numbers(self, values: Mapping[str, Any]) -> str:
        parts = [
            _part("loss", values.get("loss"), ".4f"),
            _part("gain", values.get("teacher_gain"), "+.3f"),
            _part("accuracy", values.get("accuracy_train"), ".1%"),
        ]
        if self._step_seconds is not None:
            left = timedelta(seconds=round(self._step_seconds * max(0, self.steps - self.done)))
            parts += [f"{self._step_seconds:.1f} s/step", f"{left} left"]
        return "  ".join(part for part in parts if part)


def _part(name: str, value: Any, form: str) -> str:
    return "" if value is None else f"{name} {format(value, form)}"


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:<10}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[numbers]}"),
        console=console,
    )
