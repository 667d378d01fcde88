"""One row to make."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rationale_cache.config import Kind
from rationale_cache.payload import Payload
from rationale_cache.types import Request


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One row to make. `payload` decodes and encodes its media; it is called in a thread, when it is needed."""

    key: str
    request: Request
    sample_id: str
    dataset: str
    labels: tuple[str, ...]
    kinds: frozenset[Kind]
    payload: Callable[[], Payload]
