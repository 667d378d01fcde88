"""A small word table of the project's own, for mer-mini and the tests. Scores on it are not MER-UniBench scores."""

from __future__ import annotations

from omniopsd.bench.words import WordTable


def own_table() -> WordTable:
    """The table, version "own"."""
    raise NotImplementedError
