"""Rate limits that hold in every window of a minute, not only on average. Pure: the time is an argument."""

from __future__ import annotations

from collections import deque

MINUTE = 60.0
# Requests leave here evenly and arrive a little unevenly; the server's count must hold too.
MARGIN = 1.02


class RequestBucket:
    """A token bucket of depth one: requests leave evenly, at most `per_minute` in any minute."""

    def __init__(self, per_minute: int | None) -> None:
        self._interval = MARGIN * MINUTE / per_minute if per_minute else 0.0
        self._next = 0.0

    def delay(self, now: float) -> float:
        """Seconds until one more request may leave."""
        return max(0.0, self._next - now) if self._interval else 0.0

    def take(self, now: float) -> None:
        """One request leaves."""
        self._next = now + self._interval


class TokenBucket:
    """Tokens of the last minute: each request reserves an estimate, and its reply corrects it."""

    def __init__(self, per_minute: int | None) -> None:
        self._limit = per_minute
        self._taken: deque[list[float]] = deque()  # [time, tokens], oldest first

    def fits(self, tokens: int) -> bool:
        """Whether a request of so many tokens can ever leave."""
        return self._limit is None or tokens <= self._limit

    def delay(self, now: float, tokens: int) -> float:
        """Seconds until `tokens` more fit into the last minute. What was used above the limit is waited off."""
        if self._limit is None:
            return 0.0
        window = MINUTE * MARGIN
        while self._taken and self._taken[0][0] <= now - window:
            self._taken.popleft()
        excess = sum(size for _, size in self._taken) + tokens - self._limit
        freed = now
        for time, size in self._taken:
            if excess <= 0:
                break
            excess -= size
            freed = time + window
        return max(0.0, freed - now)

    def take(self, now: float, tokens: int) -> list[float]:
        """Reserve; gives the entry for `settle`."""
        entry = [now, float(tokens)]
        if self._limit is not None:
            self._taken.append(entry)
        return entry

    @staticmethod
    def settle(entry: list[float], tokens: int) -> None:
        """Put what was really used in place of the estimate."""
        entry[1] = float(tokens)
