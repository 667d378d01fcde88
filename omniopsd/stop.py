"""SIGTERM ends a run in order: the running step is finished, its checkpoint written, exit code 143.

Ray's job API, SLURM, Kubernetes and spot instances all announce the end this way. Outside of a step there
is nothing to lose and the run ends at once; so it does at the second signal.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

STOPPED = 143
"""128 + SIGTERM: what a shell reports for a program that the signal ended."""


class Stopped(Exception):
    """The run was asked to stop and did; the text says where it stands."""


class StopRequest:
    """Holds SIGTERM while a run lasts. Make it after Ray has started: `ray.init` sets a handler of its own."""

    def __init__(self) -> None:
        self.asked = False
        self._finishing = False
        self._before: Any = None

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    @contextmanager
    def finish_first(self) -> Iterator[None]:
        """What runs inside is finished before the first signal takes effect."""
        self._finishing = True
        try:
            yield
        finally:
            self._finishing = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked or not self._finishing:
            raise Stopped("stopped outside of a step; the newest checkpoint is as it was")
        self.asked = True
