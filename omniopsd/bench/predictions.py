"""Predictions of a set: official `...-openset.npz` and `...-openset-sentiment.npz`, JSON objects or CSV files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from omniopsd.bench.lists import Labels


class PredictionsError(ValueError):
    """A prediction file with faults; the message names the file and the clips."""


def read_predictions(path: str | Path) -> dict[str, Labels]:
    """Clip name -> label list (text or list) or polarity. Raises PredictionsError, NpzError."""
    raise NotImplementedError


def write_predictions(path: str | Path, predictions: Mapping[str, str]) -> None:
    """Write the official form: an npz with `filenames` and `fileitems`, both plain text arrays."""
    raise NotImplementedError


def require_names(names: Sequence[str], predictions: Mapping[str, Labels], *, where: str) -> list[str]:
    """The clips of `names` without prediction. Raises PredictionsError on predictions of unknown clips."""
    raise NotImplementedError
