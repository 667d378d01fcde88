"""Gold labels of a set from the official label file, checked row by row."""

from __future__ import annotations

from pathlib import Path

from omniopsd.bench.datasets import BenchSet

Gold = str | float  # a class name or a label list (text), or a sentiment value


class LabelsError(ValueError):
    """A label file with faults; the message names the file and the clips."""


def read_labels(bench_set: BenchSet, path: str | Path) -> dict[str, Gold]:
    """Clip name -> class name, label list or sentiment value, for the scored clips, in the file's order.

    Integers become class names; an empty OV-MERD+ list becomes "neutral", as the official loader does.
    Raises LabelsError, NpzError.
    """
    raise NotImplementedError
