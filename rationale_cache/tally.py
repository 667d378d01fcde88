"""How a run of making stands: counts for people and for its end."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True, kw_only=True)
class Tally:
    """How a run stands; rows are made, without rationale (by fault), failed (by kind), or still to come."""

    rows: int = 0
    known: int = 0
    """Rows that the cache had before."""
    made: int = 0
    none: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    asked_again: Counter[str] = field(default_factory=Counter)
    """Replies that could not be used, by fault."""
    replies: int = 0
    tokens: int = 0
    cost: float | None = None
    models: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    @property
    def done(self) -> int:
        """Rows that this run has settled."""
        return self.made + self.none.total()

    @property
    def missing(self) -> int:
        """Rows without a record."""
        return self.rows - self.known - self.done
