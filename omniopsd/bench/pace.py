"""How far a long job is: done, rate, expected time. One live line on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta

from rich.console import Console

EVERY_SECONDS = {True: 0.2, False: 10.0}


class Pace:
    """Counts one job; `before` items were done by an earlier run and do not count for the rate."""

    def __init__(
        self,
        title: str,
        total: int,
        *,
        before: int = 0,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.title, self.total, self.done, self._before = title, total, before, before
        self._console, self._clock = console or Console(), clock
        self._start = clock()
        self._said = self._start
        if before:
            self._console.print(f"{title}: {before} of {total} are there already", highlight=False)

    def add(self, count: int = 1) -> None:
        """Count items that are done; says so when it is time, and at the end."""
        self.done += count
        now, live = self._clock(), self._console.is_terminal
        if self.done < self.total and now - self._said < EVERY_SECONDS[live]:
            return
        self._said = now
        self._console.print(
            self.line(), end="\r" if live and self.done < self.total else "\n", highlight=False, markup=False
        )

    def line(self) -> str:
        """For example "answers: 812/12799, 3.4 per s, 0:58:44 left"."""
        seconds = max(self._clock() - self._start, 1e-9)
        rate = (self.done - self._before) / seconds
        text = f"{self.title}: {self.done}/{self.total}"
        if rate <= 0:
            return text
        left = timedelta(seconds=round((self.total - self.done) / rate))
        return f"{text}, {rate:.2g} per s, " + (f"{left} left" if self.done < self.total else "done")
