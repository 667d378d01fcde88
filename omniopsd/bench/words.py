"""The word table: label -> its cluster on each of the five emotion wheels, compiled from a wheel folder.

The project ships neither the official files nor a table made from them: it reads the user's copy of the folder
(`wheel1..5.xlsx`, `synonym.xlsx`, `format.csv`) and knows the compiled table by its hash.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

Level = Literal[1, 2]
WHEELS = 5
Row = tuple[str, ...]


class WordsError(ValueError):
    """A wheel folder that cannot be read, or holds another version than the one asked for."""


@dataclass(frozen=True, kw_only=True)
class WordTable:
    """`rows`: form -> its level-1 cluster on wheels 1..5, then its level-2 clusters; "" where it has none.

    `version` is "affectgpt", "mer2026", "own", or "unknown" for a folder that is neither official one.
    """

    version: str
    rows: Mapping[str, Row]

    def clusters(self, label: str, level: Level = 1) -> Row:
        """The label's clusters on wheels 1..5, "" where it has none. Case and outer spaces count."""
        raise NotImplementedError

    def __contains__(self, label: str) -> bool:
        return label in self.rows

    @cached_property
    def sha256(self) -> str:
        """Hash of the table as JSON: keys sorted by code point, no spaces, ASCII only."""
        text = json.dumps(dict(self.rows), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode("ascii")).hexdigest()


def read_words(folder: str | Path, version: str = "affectgpt") -> WordTable:
    """The table of a wheel folder, verified by its hash. Raises WordsError: unreadable, or another version."""
    raise NotImplementedError


def compile_folder(folder: str | Path) -> WordTable:
    """The table of any wheel folder, its version told by its hash. Raises WordsError with the file and row."""
    raise NotImplementedError
