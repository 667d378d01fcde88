"""Asking a model behind an OpenAI-compatible API, so that every fault of the way has a name.

    async with Endpoint(config) as endpoint:
        answer = await endpoint.ask(messages, {"max_tokens": 512}, tokens=1500)

gives an `Answer` (the reply's bytes as text, not yet looked at) or a `Failure` (this row has none now).
401, 402, 403, 404 and an empty account stop the endpoint: that call and all others raise
`EndpointStopped`. `rationale_cache.completion` reads the answer.

The `openai` library talks HTTP; its own retries are off, because they know neither our rate limits nor
the row's deadline (it gives up on `Retry-After` above 120 s, and waits up to 600 s for a byte).
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import httpx2
import openai

from rationale_cache.clock import Clock, SystemClock
from rationale_cache.completion import total_tokens
from rationale_cache.config import EndpointConfig
from rationale_cache.gate import EndpointStopped, Gate, Ticket
from rationale_cache.retry import backoff, retry_after
from rationale_cache.secret import Secret, read_secret

FailureKind = Literal[
    "rate_limited", "server_error", "timeout", "connection", "too_large", "rejected", "refused"
]
Message = Mapping[str, Any]

LONGEST_BACKOFF = 60.0
MOST_BYTES = 4 * 2**20
MOST_REJECTED = 5
STOPS = {
    401: "the API key is not accepted",
    402: "the account has no credit",
    403: "the API key may not use this model",
    404: "there is no such model or address",
}
# 400 by a provider's own content filter: the row is the reason, not the request
REFUSALS = {"content_filter", "content_policy_violation", "ResponsibleAIPolicyViolation"}
RETRIED = {408, 409, 425, 429}
QUIET = ("openai", "httpx2", "httpcore2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A reply with status 200: `body` as it came (at most 4 MiB), `latency` in seconds, requests that it took."""

    body: str
    latency: float
    calls: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """No reply for this row: the last fault, in words for people, and requests that it took."""

    kind: FailureKind
    detail: str
    calls: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fault:
    """One request that failed; `wait` is what the server asked for."""

    kind: FailureKind
    detail: str
    wait: float | None = None
    again: bool = True


class Endpoint:
    """One client; all its calls share the limits, the pauses and the circuit breaker. For one event loop."""

    def __init__(
        self,
        config: EndpointConfig,
        *,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        most_calls: int | None = None,
    ) -> None:
        """Reads the API key. Raises SecretError. After `most_calls` requests the endpoint stops."""
        self.config, self.most_calls = config, most_calls
        self.faults: Counter[str] = Counter()
        """Requests that failed, by kind."""
        self.calls = 0
        """Requests that left."""
        self._clock, self._rng = clock or SystemClock(), rng or random.Random()
        self._secret = read_secret(config.api_key_env, config.api_key_file)
        self._gate = Gate(config, self._clock, self._rng)
        self._slots = asyncio.Semaphore(config.max_concurrency)
        self._client = _client(config, self._secret)
        self._rejected = 0

    async def ask(
        self, messages: Sequence[Message], sampling: Mapping[str, Any], *, tokens: int
    ) -> Answer | Failure:
        """One row: requests until there is an answer. `tokens`: estimate, in and out.

        Raises EndpointStopped, for this row and every later one.
        """
        spent, calls = 0.0, 0
        while True:
            calls += 1
            begin, outcome = await self._attempt(messages, sampling, tokens)
            elapsed = self._clock.now() - begin
            if isinstance(outcome, str):
                return Answer(body=outcome, latency=elapsed, calls=calls)
            wait = backoff(calls, first=self.config.backoff_seconds, longest=LONGEST_BACKOFF, rng=self._rng)
            spent += elapsed + wait
            if not outcome.again or calls >= self.config.max_attempts or spent > self.config.deadline_seconds:
                return Failure(kind=outcome.kind, detail=outcome.detail, calls=calls)
            if (
                outcome.kind == "rate_limited"
            ):  # the limit is everybody's, whether it says for how long or not
                self._gate.pause(wait)
            await self._gate.sleep(wait)

    def stop(self, why: str) -> None:
        """Send nothing any more; what is out may still come back."""
        self._gate.stop(why)

    @property
    def why_stopped(self) -> str | None:
        """Why this endpoint is not asked any more; None while it is."""
        return self._gate.why_stopped

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def __aenter__(self) -> Endpoint:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # --- one request ---------------------------------------------------------------------------

    async def _attempt(
        self, messages: Sequence[Message], sampling: Mapping[str, Any], tokens: int
    ) -> tuple[float, str | _Fault]:
        """When the request left, and the body of its reply or its fault."""
        async with self._slots:  # first the slot, then the leave: requests leave as they are counted
            ticket = await self._gate.enter(tokens)
            if self.most_calls is not None and self.calls >= self.most_calls:
                self._gate.forget(ticket)
                self._gate.stop(f"the limit of {self.most_calls} requests is reached")
                raise EndpointStopped(self._gate.why_stopped)
            self.calls += 1
            begin = self._clock.now()
            try:
                outcome = await self._outcome(messages, sampling)
            except BaseException:
                self._gate.forget(ticket)
                raise
        self._settle(ticket, outcome)
        return begin, outcome

    async def _outcome(self, messages: Sequence[Message], sampling: Mapping[str, Any]) -> str | _Fault:
        try:
            async with asyncio.timeout(self.config.request_timeout_seconds):  # a trickle resets read timeouts
                return await self._send(messages, sampling)
        except TimeoutError:
            return _Fault(
                kind="timeout", detail=f"no whole reply in {self.config.request_timeout_seconds:g} s"
            )
        except openai.APIStatusError as error:
            return self._status(error)
        except openai.APITimeoutError:
            return _Fault(kind="timeout", detail="the connection timed out")
        except (openai.APIConnectionError, httpx2.HTTPError, OSError) as error:
            return _Fault(kind="connection", detail=_cause(error))

    async def _send(self, messages: Sequence[Message], sampling: Mapping[str, Any]) -> str | _Fault:
        create = self._client.chat.completions.with_streaming_response.create
        # extra_body takes every server's own parameters; the library sends them as they are
        async with create(
            model=self.config.model, messages=cast(Any, messages), extra_body=dict(sampling)
        ) as response:
            content = bytearray()
            async for piece in response.iter_bytes():
                content += piece
                if len(content) > MOST_BYTES:
                    return _Fault(kind="too_large", detail=f"a reply above {MOST_BYTES} bytes", again=False)
        return self._secret.hide(content.decode("utf-8", "replace"))

    def _status(self, error: openai.APIStatusError) -> _Fault:
        status, said = error.status_code, self._secret.hide(_said(error))
        wait = retry_after(error.response.headers, self._clock.utc())
        if status == 429 and error.code == "insufficient_quota":
            status = 402
        if status in STOPS or status < 400:
            self._gate.stop(self._why(status, said))
            return _Fault(kind="rejected", detail=self._why(status, said), again=False)
        if status in RETRIED or status >= 500:
            kind: FailureKind = "rate_limited" if status == 429 else "server_error"
            return _Fault(kind=kind, detail=f"status {status}: {said}", wait=wait)
        refused = error.code in REFUSALS
        return _Fault(
            kind="refused" if refused else "rejected", detail=f"status {status}: {said}", again=False
        )

    def _why(self, status: int, said: str) -> str:
        reason = STOPS.get(status, "the address leads elsewhere; write the final one")
        return f"{self.config.base_url} ({self.config.model}): status {status}, {reason}: {said}"

    # --- what an outcome changes ---------------------------------------------------------------

    def _settle(self, ticket: Ticket, outcome: str | _Fault) -> None:
        if isinstance(outcome, str):
            self._rejected = 0
            self._gate.success(ticket, total_tokens(outcome))
            return
        self.faults[outcome.kind] += 1
        if self._gate.why_stopped is not None:
            raise EndpointStopped(self._gate.why_stopped)
        if outcome.again:
            self._gate.failure(ticket)
        else:  # it is there and it answers
            self._gate.success(ticket, 0)
        if outcome.kind == "rejected":
            self._count_rejected(outcome.detail)
        if outcome.wait is not None:
            self._gate.pause(outcome.wait)

    def _count_rejected(self, detail: str) -> None:
        self._rejected += 1
        if self._rejected >= MOST_REJECTED:  # the request is wrong, not the row
            self._gate.stop(f"{self._rejected} requests in a row were rejected; the last one: {detail}")


def _client(config: EndpointConfig, secret: Secret) -> openai.AsyncOpenAI:
    for name in QUIET:  # at DEBUG they show requests, media and headers
        logging.getLogger(name).setLevel(logging.WARNING)
    http = openai.DefaultAsyncHttpxClient(
        follow_redirects=False,
        timeout=config.request_timeout_seconds,
        limits=httpx2.Limits(max_connections=config.max_concurrency),
    )
    return openai.AsyncOpenAI(
        api_key=secret.reveal() or "none",
        base_url=config.base_url,
        max_retries=0,
        timeout=config.request_timeout_seconds,
        http_client=http,
    )


def _said(error: openai.APIStatusError) -> str:
    """The server's own sentence, short."""
    body = error.body
    message = body.get("message") if isinstance(body, dict) else body
    text = message if isinstance(message, str) else json.dumps(message, default=str)
    return " ".join(text.split())[:300]


def _cause(error: BaseException) -> str:
    """The innermost error of a chain, whose text says more than `Connection error`."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"[:300]
