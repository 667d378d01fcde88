"""The write-ahead log of raw replies: on the disk before anybody parses them, so nothing is paid twice."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class RawReply:
    """One paid reply as it came. `body` is the reply's JSON text; `detail` is JSON text for its maker.

    `attempt` counts the requests for this key from 1; `latency` in seconds; `received_at` UTC.
    """

    key: str
    sample_id: str
    attempt: int
    body: str
    latency: float
    received_at: datetime
    detail: str = "{}"
