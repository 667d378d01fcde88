"""The endpoint client against a real server that plays every fault of the way."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import pickle
import random
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from rationale_cache.completion import MalformedCompletion, read_completion
from rationale_cache.config import EndpointConfig
from rationale_cache.endpoint import Answer, Endpoint, Failure
from rationale_cache.gate import EndpointStopped
from rationale_cache.rate import MARGIN, RequestBucket, TokenBucket
from rationale_cache.retry import Breaker, backoff, retry_after
from rationale_cache.secret import Secret, SecretError, read_secret
from tests.model_server import ModelServer, Play, Script, completion

CANARY = "sk-canary-8301"
MESSAGES = [{"role": "user", "content": "What does he feel?"}]
GOOD = Play(body=completion("He smiles."))


class FakeClock:
    """Sleeping takes no time; the clock moves instead."""

    def __init__(self) -> None:
        self.time, self.slept = 1000.0, 0.0

    def now(self) -> float:
        return self.time

    def utc(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.time)

    async def sleep(self, seconds: float) -> None:
        self.time += seconds
        self.slept += seconds
        await asyncio.sleep(0)


def ask(
    script: Script, rows: int = 1, clock: FakeClock | None = None, **settings: Any
) -> tuple[list[Answer | Failure | BaseException], ModelServer, Endpoint]:
    """Ask `rows` times at once."""

    async def go(url: str) -> tuple[list[Any], Endpoint]:
        config = EndpointConfig(model="observer-1", base_url=url, **settings)
        async with Endpoint(config, clock=clock or FakeClock(), rng=random.Random(0)) as endpoint:
            calls = (endpoint.ask(MESSAGES, {"max_tokens": 9}, tokens=50) for _ in range(rows))
            return await asyncio.gather(*calls, return_exceptions=True), endpoint

    with ModelServer(script) as server:
        outcomes, endpoint = asyncio.run(go(server.url))
    return outcomes, server, endpoint


def then_good(*plays: Play) -> Script:
    """These replies first, in the order of the requests, then good ones."""
    return lambda number, _: plays[number] if number < len(plays) else GOOD


def test_an_answer_is_the_body_as_it_came() -> None:
    outcomes, server, _ = ask(lambda *_: GOOD)
    answer = outcomes[0]
    assert isinstance(answer, Answer) and answer.body == GOOD.body and answer.calls == 1
    assert read_completion(answer.body).text == "He smiles."
    assert server.seen[0].body == {"messages": MESSAGES, "model": "observer-1", "max_tokens": 9}


@pytest.mark.parametrize(
    ("play", "kind"),
    [
        (Play(status=429, body="{}"), "rate_limited"),
        (Play(status=429, body="{}", headers={"retry-after": "7"}), "rate_limited"),
        (Play(status=500, body="oops"), "server_error"),
        (Play(status=529, body="{}"), "server_error"),
        (Play(reset=True), "connection"),
        (Play(body=completion("slow"), trickle=0.01), "timeout"),
    ],
)
def test_what_fails_on_the_way_is_asked_again(play: Play, kind: str) -> None:
    outcomes, server, endpoint = ask(then_good(play, play), request_timeout_seconds=0.3)
    assert isinstance(outcomes[0], Answer) and outcomes[0].calls == len(server.seen) == 3
    assert dict(endpoint.faults) == {kind: 2}


@pytest.mark.parametrize("status", [401, 402, 403, 404, 301])
def test_what_cannot_get_better_stops_every_row(status: int) -> None:
    play = Play(status=status, body='{"error": {"message": "no"}}', headers={"location": "http://x/"})
    outcomes, server, _ = ask(lambda *_: play, rows=40, max_concurrency=4)
    assert all(isinstance(outcome, EndpointStopped) for outcome in outcomes)
    assert f"status {status}" in str(outcomes[0]) and len(server.seen) <= 4


def test_an_empty_account_that_says_429_stops_too() -> None:
    play = Play(status=429, body='{"error": {"message": "pay", "code": "insufficient_quota"}}')
    outcomes, server, _ = ask(lambda *_: play)
    assert isinstance(outcomes[0], EndpointStopped) and len(server.seen) == 1


def test_a_rejected_row_fails_alone_and_five_in_a_row_stop() -> None:
    bad = Play(status=400, body='{"error": {"message": "image too large"}}')
    outcomes, server, _ = ask(then_good(bad), rows=3, max_concurrency=1)
    assert isinstance(outcomes[0], Failure) and outcomes[0].kind == "rejected"
    assert "image too large" in outcomes[0].detail and len(server.seen) == 3
    outcomes, server, _ = ask(lambda *_: bad, rows=40, max_concurrency=1)
    assert len(server.seen) == 5 and isinstance(outcomes[-1], EndpointStopped)


def test_a_refusal_by_the_providers_filter_is_the_rows_own() -> None:
    body = '{"error": {"message": "filtered", "code": "content_filter"}}'
    outcomes, server, _ = ask(lambda *_: Play(status=400, body=body), rows=9)
    assert {outcome.kind for outcome in outcomes if isinstance(outcome, Failure)} == {"refused"}
    assert len(outcomes) == len(server.seen) == 9


def test_an_outage_of_ten_minutes_costs_few_requests_and_no_row() -> None:
    clock = FakeClock()
    outage = 600.0

    def script(number: int, _: dict[str, Any]) -> Play:
        return Play(status=503, body="down") if clock.time < 1000 + outage else GOOD

    outcomes, server, _ = ask(script, rows=300, clock=clock)
    assert all(isinstance(outcome, Answer) for outcome in outcomes)
    assert len(server.seen) <= 1.1 * 300
    assert clock.time >= 1000 + outage


def test_a_storm_of_429_costs_few_requests_and_no_row() -> None:
    clock = FakeClock()
    outcomes, server, _ = ask(
        lambda *_: Play(status=429, body="{}") if clock.time < 1600 else GOOD, rows=300, clock=clock
    )
    assert all(isinstance(outcome, Answer) for outcome in outcomes)
    assert len(server.seen) <= 1.1 * 300


def test_an_endpoint_that_stays_away_ends_the_run() -> None:
    outcomes, server, _ = ask(lambda *_: Play(status=500, body="down"), rows=20, give_up_seconds=300)
    assert any(isinstance(outcome, EndpointStopped) for outcome in outcomes)
    assert not any(isinstance(outcome, Answer) for outcome in outcomes) and len(server.seen) < 60


def test_a_row_has_a_deadline_and_a_number_of_attempts() -> None:
    outcomes, server, _ = ask(lambda *_: Play(status=500, body="x"), max_attempts=3)
    assert isinstance(outcomes[0], Failure) and len(server.seen) == 3
    outcomes, server, _ = ask(lambda *_: Play(status=500, body="x"), deadline_seconds=2)
    assert isinstance(outcomes[0], Failure) and len(server.seen) == 3  # 0.25..0.5 + 0.5..1 + 1..2 s


def test_retry_after_holds_for_every_row() -> None:
    clock = FakeClock()
    times: list[float] = []

    def script(number: int, _: dict[str, Any]) -> Play:
        times.append(clock.time)
        return Play(status=429, body="{}", headers={"retry-after": "20"}) if number == 0 else GOOD

    ask(script, rows=4, clock=clock, max_concurrency=1)
    assert times[0] == 1000 and min(times[1:]) >= 1020


def test_a_wait_beyond_patience_stops() -> None:
    play = Play(status=429, body="{}", headers={"retry-after": "86400"})
    outcomes, server, _ = ask(lambda *_: play, rows=3, max_concurrency=1)
    assert "86400" in str(outcomes[1]) and len(server.seen) == 1


def test_a_stop_wakes_those_that_wait() -> None:
    async def go(url: str) -> float:
        config = EndpointConfig(model="observer-1", base_url=url)
        async with Endpoint(config) as endpoint:
            waiting = [asyncio.create_task(endpoint.ask(MESSAGES, {}, tokens=1)) for _ in range(3)]
            await asyncio.sleep(0.5)
            begin = time.monotonic()
            endpoint.stop("enough")
            outcomes = await asyncio.gather(*waiting, return_exceptions=True)
            assert [str(outcome) for outcome in outcomes] == ["enough"] * 3
            return time.monotonic() - begin

    with ModelServer(lambda *_: Play(status=429, body="{}", headers={"retry-after": "100"})) as server:
        assert asyncio.run(go(server.url)) < 5


def test_an_endless_body_is_cut() -> None:
    outcomes, _, _ = ask(then_good(Play(body=b"x" * (5 * 2**20))))
    assert isinstance(outcomes[0], Failure) and outcomes[0].kind == "too_large"


def test_requests_keep_the_rate() -> None:
    clock = FakeClock()
    times: list[float] = []

    def script(number: int, _: dict[str, Any]) -> Play:
        times.append(clock.time)
        return GOOD

    # one at a time: the clock stands still between leaving and arriving
    ask(script, rows=60, clock=clock, requests_per_minute=30, max_concurrency=1)
    gaps = [after - before for before, after in zip(times, times[1:], strict=False)]
    assert min(gaps) >= 2.0 and clock.time < 1000 + 59 * 2 * MARGIN + 1


def test_no_more_requests_are_out_than_allowed() -> None:
    lock, out, most = threading.Lock(), 0, 0

    def script(number: int, _: dict[str, Any]) -> Play:
        nonlocal out, most
        with lock:
            out += 1
            most = max(most, out)
        time.sleep(0.02)
        with lock:
            out -= 1
        return GOOD

    ask(script, rows=20, max_concurrency=3)
    assert most == 3


# --- the parts -------------------------------------------------------------------------------------


def in_any_minute(times: list[tuple[float, int]]) -> int:
    return max(sum(size for at, size in times if start <= at < start + 60) for start, _ in times)


def test_tokens_of_any_minute_stay_below_the_limit() -> None:
    rng, bucket, now = random.Random(1), TokenBucket(1000), 0.0
    sent: list[tuple[float, int]] = []
    for _ in range(300):
        size = rng.randint(1, 400)
        now += bucket.delay(now, size)
        assert bucket.delay(now, size) <= 1e-9
        bucket.take(now, size)
        sent.append((now, size))
        now += rng.random()
    assert in_any_minute(sent) <= 1000 and now < 300 * 200 / 1000 * 60 * 1.3


def test_a_reply_corrects_the_estimate() -> None:
    bucket = TokenBucket(100)
    entry = bucket.take(0.0, 90)
    assert bucket.delay(1.0, 50) > 0
    bucket.settle(entry, 40)
    assert bucket.delay(1.0, 50) == 0 and not bucket.fits(101)


def test_no_limit_is_no_wait() -> None:
    bucket = RequestBucket(None)
    bucket.take(0.0)
    assert bucket.delay(0.0) == TokenBucket(None).delay(0.0, 10**9) == 0


def test_backoff_doubles_within_its_bounds() -> None:
    rng = random.Random(0)
    for attempt, whole in enumerate((1, 2, 4, 8, 10, 10), start=1):
        waits = [backoff(attempt, first=1, longest=10, rng=rng) for _ in range(50)]
        assert whole / 2 <= min(waits) < max(waits) <= whole


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "12"}, 12),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "-3"}, 0),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
        ({}, None),
    ],
)
def test_retry_after_in_seconds(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, datetime.now(UTC)) == seconds


def test_retry_after_as_a_date_is_read_against_the_servers_clock() -> None:
    now = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
    later = {"retry-after": format_datetime(now + timedelta(seconds=30), usegmt=True)}
    assert retry_after(later, now) == 30
    assert retry_after(later | {"date": format_datetime(now, usegmt=True)}, now - timedelta(hours=9)) == 30
    assert retry_after(later, now + timedelta(hours=1)) == 0


def test_the_breaker_lets_one_probe_through() -> None:
    breaker = Breaker(threshold=2, cooldown=4, longest=60, rng=random.Random(0))
    breaker.failure(0, probe=False)
    assert breaker.delay(0) == 0
    breaker.failure(0, probe=False)
    wait = breaker.delay(0)
    assert 2 <= wait <= 4
    breaker.failure(1, probe=False)  # was out when the circuit opened
    assert breaker.delay(wait) == 0 and breaker.leave() and breaker.delay(wait) == float("inf")
    breaker.failure(10, probe=True)
    assert 4 <= breaker.delay(10) <= 8
    breaker.leave()
    breaker.success()
    assert breaker.delay(10) == 0 and not breaker.is_open


@pytest.mark.parametrize(
    "body",
    ["", "null", "[]", "{}", "<html>", '{"choices": []}', '{"choices": [1]}', "[" * 99999, "1" * 5000]
    + [
        '{"choices": [{"message": {"content": [1]}}]}',
        '{"choices": [{"message": "x"}]}',
        completion("x")[:-9],
    ],
)
def test_a_body_that_is_no_completion_says_so(body: str) -> None:
    with pytest.raises(MalformedCompletion):
        read_completion(body)


# --- the key ---------------------------------------------------------------------------------------


def test_the_key_comes_from_a_variable_or_a_closed_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", f" {CANARY}\n")
    file = tmp_path / "key"
    file.write_text(CANARY + "\n")
    file.chmod(0o600)
    assert read_secret("KEY", None).reveal() == read_secret(None, str(file)).reveal() == CANARY
    file.chmod(0o644)
    with pytest.raises(SecretError, match="chmod 600"):
        read_secret(None, str(file))
    with pytest.raises(SecretError, match="MISSING"):
        read_secret("MISSING", None)
    monkeypatch.setenv("KEY", f"{CANARY} and more")
    with pytest.raises(SecretError) as error:
        read_secret("KEY", None)
    assert CANARY not in str(error.value)


def test_a_secret_shows_itself_to_nobody() -> None:
    secret = Secret(CANARY)
    shown = [repr(secret), str(secret), f"{secret}", f"{secret!r:>9}", repr([secret])]
    assert not any(CANARY in text for text in shown)
    with pytest.raises(SecretError):
        pickle.dumps(secret)
    with pytest.raises(TypeError):
        json.dumps(secret)
    assert secret.hide(f"key {CANARY}!") == "key ***!"


@pytest.mark.parametrize(
    "script",
    [
        lambda *_: Play(body=completion(f"your key is {CANARY}")),
        lambda *_: Play(status=401, body=json.dumps({"error": {"message": f"wrong key {CANARY}"}})),
        lambda *_: Play(status=500, body=CANARY),
        lambda *_: Play(status=429, body=CANARY, headers={"x-key": CANARY}),
        lambda *_: Play(reset=True),
    ],
)
def test_the_key_is_in_the_header_and_nowhere_else(
    script: Script, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OMNIOPSD_TEST_KEY", CANARY)
    monkeypatch.setenv("OPENAI_LOG", "debug")
    caplog.set_level(logging.DEBUG)
    for name in ("openai", "httpx2", "httpcore2", "asyncio"):
        caplog.set_level(logging.DEBUG, logger=name)
    outcomes, server, endpoint = ask(script, api_key_env="OMNIOPSD_TEST_KEY", max_attempts=2)
    assert server.seen[0].headers["authorization"] == f"Bearer {CANARY}"
    said: list[Callable[[], str] | str] = [repr(outcomes), str(outcomes), repr(endpoint.config), caplog.text]
    assert not any(CANARY in str(text) for text in said)
    assert CANARY not in Path(f"/proc/{os.getpid()}/cmdline").read_text()
    assert CANARY not in endpoint.config.model_dump_json()
