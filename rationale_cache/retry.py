"""When to ask again: backoff, `Retry-After`, and the circuit breaker. Pure: time and chance are arguments."""

from __future__ import annotations

import email.utils
import math
import random
from collections.abc import Mapping
from datetime import UTC, datetime


def backoff(attempt: int, *, first: float, longest: float, rng: random.Random) -> float:
    """Seconds before attempt `attempt` + 1: doubled each time, the upper half of it by chance.

    Chance keeps clients that failed together from coming back together.
    """
    whole = min(longest, first * 2.0 ** min(attempt - 1, 32))
    return whole / 2 + rng.uniform(0, whole / 2)


def retry_after(headers: Mapping[str, str], utc: datetime) -> float | None:
    """Seconds that a reply asks to wait (RFC 9110: seconds or a date); None without a usable word.

    A date is read against the reply's own `Date`, so that a wrong clock here does no harm.
    """
    text = headers.get("retry-after", "").strip()
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        then = _date(text)
        if then is None:
            return None
        seconds = (then - (_date(headers.get("date", "")) or utc)).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _date(text: str) -> datetime | None:
    try:
        value = email.utils.parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError):
        return None
    return value if value.tzinfo else value.replace(tzinfo=UTC)


class Breaker:
    """The circuit breaker: after `threshold` failures without a success it lets one probe through at a time.

    closed --failures--> open --cooldown--> probe --success--> closed
                          ^-------- failure, cooldown doubled ---'
    """

    def __init__(self, *, threshold: int, cooldown: float, longest: float, rng: random.Random) -> None:
        self._threshold, self._cooldown, self._longest, self._rng = threshold, cooldown, longest, rng
        self._failures = 0
        self._trips = 0
        self._open_until: float | None = None
        self._probing = False

    @property
    def is_open(self) -> bool:
        """Whether calls are held back."""
        return self._open_until is not None

    def delay(self, now: float) -> float:
        """Seconds until a call may leave; infinite while a probe is out."""
        if self._open_until is None:
            return 0.0
        return math.inf if self._probing else max(0.0, self._open_until - now)

    def leave(self) -> bool:
        """A call leaves; whether it is the probe."""
        self._probing = self.is_open
        return self._probing

    def success(self) -> None:
        """A call was answered: the way is free."""
        self._failures, self._trips, self._open_until, self._probing = 0, 0, None, False

    def failure(self, now: float, *, probe: bool) -> None:
        """A call failed. Calls that were out when the circuit opened change nothing any more."""
        self._failures += 1
        if not probe and (self.is_open or self._failures < self._threshold):
            return
        self._trips += 1
        self._probing = False
        self._open_until = now + backoff(
            self._trips, first=self._cooldown, longest=self._longest, rng=self._rng
        )

    def forget(self, *, probe: bool) -> None:
        """A call ended without telling anything (it was cancelled)."""
        self._probing = self._probing and not probe
