"""The gate that every request passes: rate limits, pauses that the server asked for, the circuit breaker."""

from __future__ import annotations

import asyncio
import math
import random
from dataclasses import dataclass

from rationale_cache.clock import Clock
from rationale_cache.config import EndpointConfig
from rationale_cache.rate import RequestBucket, TokenBucket
from rationale_cache.retry import Breaker

COOLDOWN, LONGEST = 5.0, 60.0


class EndpointStopped(ValueError):
    """An endpoint that must not be asked again in this run: the message says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """The leave to send one request; given back with its outcome."""

    probe: bool
    tokens: list[float]


class Gate:
    """Lets requests through one at a time, in the order in which they came."""

    def __init__(self, config: EndpointConfig, clock: Clock, rng: random.Random) -> None:
        self._clock = clock
        self._requests = RequestBucket(config.requests_per_minute)
        self._tokens = TokenBucket(config.tokens_per_minute)
        self._breaker = Breaker(
            threshold=config.breaker_failures, cooldown=COOLDOWN, longest=LONGEST, rng=rng
        )
        self._patience = config.give_up_seconds
        self._limit = config.tokens_per_minute
        self._pause_until = -math.inf
        self._answered: float | None = None
        self._turn = asyncio.Lock()
        self._settled = asyncio.Event()
        self._stopped = asyncio.Event()
        self._why_stopped: str | None = None

    async def enter(self, tokens: int) -> Ticket:
        """Wait for the leave to send. Raises EndpointStopped."""
        async with self._turn:
            self._check(tokens)
            while (wait := self._delay(tokens)) > 0:
                await self._wait(wait)
                self._check(tokens)
            now = self._clock.now()
            self._requests.take(now)
            if self._answered is None:
                self._answered = now
            return Ticket(probe=self._breaker.leave(), tokens=self._tokens.take(now, tokens))

    def success(self, ticket: Ticket, tokens: int | None) -> None:
        """The server answered; `tokens` is what the answer cost, None when it does not say."""
        self._breaker.success()
        self._answered = self._clock.now()
        if tokens is not None:
            self._tokens.settle(ticket.tokens, tokens)
        self._settled.set()

    def failure(self, ticket: Ticket) -> None:
        """The request failed on the way."""
        now = self._clock.now()
        self._breaker.failure(now, probe=ticket.probe)
        self._tokens.settle(ticket.tokens, 0)
        self._settled.set()
        if self._breaker.is_open and self._answered is not None and now - self._answered > self._patience:
            self.stop(f"no answer for {now - self._answered:.0f} s (give_up_seconds); run again later")

    def forget(self, ticket: Ticket) -> None:
        """The request was given up by us."""
        self._breaker.forget(probe=ticket.probe)
        self._settled.set()

    def pause(self, seconds: float) -> None:
        """Nobody sends for so long: the server asked for it."""
        if seconds > self._patience:
            self.stop(
                f"the endpoint asks to wait {seconds:.0f} s, more than give_up_seconds; run again later"
            )
        self._pause_until = max(self._pause_until, self._clock.now() + seconds)

    def stop(self, why: str) -> None:
        """Nothing is sent any more."""
        self._why_stopped = self._why_stopped or why
        self._settled.set()
        self._stopped.set()

    async def sleep(self, seconds: float) -> None:
        """Let `seconds` pass, or less when everything stops meanwhile."""
        both = [asyncio.ensure_future(wait) for wait in (self._clock.sleep(seconds), self._stopped.wait())]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in both:
                one.cancel()

    @property
    def why_stopped(self) -> str | None:
        """Why nothing is sent any more; None while it is."""
        return self._why_stopped

    def _check(self, tokens: int) -> None:
        if self._why_stopped is not None:
            raise EndpointStopped(self._why_stopped)
        if not self._tokens.fits(tokens):
            raise EndpointStopped(
                f"one request needs about {tokens} tokens and tokens_per_minute is {self._limit}: raise it, or "
                "send fewer frames"
            )

    def _delay(self, tokens: int) -> float:
        now = self._clock.now()
        return max(
            self._pause_until - now,
            self._breaker.delay(now),
            self._requests.delay(now),
            self._tokens.delay(now, tokens),
        )

    async def _wait(self, seconds: float) -> None:
        if math.isinf(seconds):  # a probe is out
            self._settled.clear()
            await self._settled.wait()
        else:
            await self.sleep(seconds)
