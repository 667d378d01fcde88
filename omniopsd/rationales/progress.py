"""What the terminal shows while rationales are made, and what it says at the end."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.text import Text

from rationale_cache.config import RationaleCacheConfig
from rationale_cache.tally import Tally

LINE_SECONDS = 30.0
MINUTE = 60.0


class MakeProgress:
    """On a terminal one live line; elsewhere a line every 30 seconds."""

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._begin = self._said = clock()
        self._notes = 0
        self._live = (
            Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None
        )

    def __enter__(self) -> MakeProgress:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def show(self, tally: Tally) -> None:
        """Show how it stands now."""
        now = self._clock()
        for note in tally.notes[self._notes :]:
            self._console.print(f"note: {note}", markup=False, highlight=False)
        self._notes = len(tally.notes)
        if self._live:
            self._live.update(Text(progress_line(tally, now - self._begin)))
        elif now - self._said >= LINE_SECONDS:
            self._said = now
            self._console.print(progress_line(tally, now - self._begin), markup=False, highlight=False)


def progress_line(tally: Tally, seconds: float) -> str:
    """`120/2000 rows  48.0 rows/min  39m10s left  14.4k tokens  $0.31 of about $5.17  again: 3 empty`. Pure."""
    parts = [f"{tally.known + tally.done}/{tally.rows} rows"]
    if tally.done and seconds > 0:
        rate = tally.done / seconds
        left = timedelta(seconds=round(tally.missing / rate))
        parts += [f"{rate * MINUTE:.1f} rows/min", f"{left} left"]
    parts.append(f"{_thousands(tally.tokens)} tokens")
    if tally.cost is not None:
        expected = tally.cost * (tally.done + tally.missing) / tally.done if tally.done else None
        parts.append(f"${tally.cost:.2f}" + ("" if expected is None else f" of about ${expected:.2f}"))
    for name, counts in (("again", tally.asked_again), ("none", tally.none), ("failed", tally.failed)):
        if counts:
            parts.append(f"{name}: {_counted(counts)}")
    return "  ".join(parts)


def summary(tally: Tally, config: RationaleCacheConfig) -> str:
    """The end of a run in a few lines. Pure."""
    cost = "" if tally.cost is None else f", ${tally.cost:.4f}"
    lines = [
        f"{config.path}: {tally.rows} rows, {tally.known} known before, {tally.made} made, "
        f"{tally.none.total()} without rationale, {tally.missing} missing",
        f"{tally.replies} replies, {tally.tokens} tokens{cost}; answered by {_counted(tally.models) or 'nobody'}",
    ]
    if tally.none:
        lines.append(f"no rationale: {_counted(tally.none)}")
    if tally.asked_again:
        lines.append(f"replies that could not be used: {_counted(tally.asked_again)}")
    return "\n".join(lines)


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.most_common())


def _thousands(count: int) -> str:
    return f"{count / 1000:.1f}k" if count >= 1000 else str(count)
