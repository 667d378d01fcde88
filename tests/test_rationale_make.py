"""Making rationales against a real server: faults, garbage, budgets, kills."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rationale_cache.config import RationaleCacheConfig
from rationale_cache.endpoint import Endpoint
from rationale_cache.errors import CacheFull
from rationale_cache.job import Job
from rationale_cache.keys import key_of, make_request
from rationale_cache.make import Maker
from rationale_cache.payload import Payload
from rationale_cache.prompt import sampling
from rationale_cache.reader import CacheReader
from rationale_cache.tally import Tally
from rationale_cache.types import RationaleRecord
from rationale_cache.wal import RawReply
from rationale_cache.writer import CacheWriter
from tests.model_server import ModelServer, Play, Script, asked_text, completion, evidence

TEXT = "He tells of his exam and says that all went well, row {}."


def config(path: Path, url: str, **settings: Any) -> RationaleCacheConfig:
    return RationaleCacheConfig.model_validate(
        {"path": str(path), "model": "observer-1", "base_url": url, "backoff_seconds": 0.01} | settings
    )


def jobs(settings: RationaleCacheConfig, rows: int, kinds: tuple[str, ...] = ()) -> list[Job]:
    return [job(settings, number, kinds) for number in range(rows)]


def job(settings: RationaleCacheConfig, number: int, kinds: tuple[str, ...] = ()) -> Job:
    text = f"row {number}"
    request = make_request(
        media=(), messages=text, prompt="p", model=settings.model, sampling=sampling(settings), mode="blind"
    )
    messages = [{"role": "user", "content": text}]
    return Job(
        key=key_of(request),
        request=request,
        sample_id=f"s{number}",
        dataset="d",
        labels=("happy",),
        kinds=frozenset(kinds),  # type: ignore[arg-type]
        payload=lambda: Payload(messages=messages, tokens=50, seconds=2.0),
    )


def make(settings: RationaleCacheConfig, work: list[Job]) -> Tally:
    async def go() -> Tally:
        async with Endpoint(settings, rng=random.Random(0)) as endpoint:
            return await Maker(settings, cache, endpoint).run(work)

    with CacheWriter(settings.path) as cache:
        return asyncio.run(go())


def made(path: Path, script: Script, rows: int = 1, **settings: Any) -> tuple[Tally, ModelServer]:
    with ModelServer(script) as server:
        chosen = config(path, server.url, **settings)
        return make(chosen, jobs(chosen, rows)), server


def records(path: Path) -> dict[str, RationaleRecord]:
    with CacheReader(path) as cache:
        return {record.sample_id: record for record in cache.records()}


def good(_: int, body: dict[str, Any]) -> Play:
    return Play(body=completion(evidence(TEXT.format(asked_text(body)))))


def test_a_row_is_made_once_with_its_provenance(tmp_path: Path) -> None:
    prices = {"input": 2.0, "output": 10.0}
    tally, server = made(tmp_path, good, rows=5, prices=prices)
    assert (tally.made, tally.missing, len(server.seen)) == (5, 0, 5)
    record = records(tmp_path)["s3"]
    assert record.text == TEXT.format("row 3") and record.cues[0].modality == "text"
    assert record.model_answered == "observer-1" and record.finish_reason == "stop" and record.attempts == 1
    assert record.cost == pytest.approx((100 * 2 + 20 * 10) / 1e6) and record.usage.total == 120
    names = [verdict.filter for verdict in record.verdicts]
    assert {"refusal", "contradicting", "escape", "label_mention"} <= set(names)
    assert server.seen[0].body["response_format"]["json_schema"]["strict"] is True
    again, server = made(tmp_path, good, rows=5, prices=prices)
    assert (again.known, again.made, len(server.seen)) == (5, 0, 0)


def test_samples_with_the_same_request_are_one_flight(tmp_path: Path) -> None:
    with ModelServer(good) as server:
        chosen = config(tmp_path, server.url)
        tally = make(chosen, [job(chosen, 1) for _ in range(9)])
        assert (tally.rows, len(server.seen)) == (1, 1)


FORM = {"cues": [], "rationale": "He says that it went well.", "answer": "happy"}
LONG = "x " * 2000


def form(**changes: Any) -> str:
    return completion(json.dumps(FORM | changes))


def cue(**changes: Any) -> str:
    return form(cues=[{"modality": "text", "text": "says so", "start": 0.5, "end": 1.0} | changes])


GARBAGE: dict[str, str | bytes] = {
    "nothing": "",
    "blanks": "  \n ",
    "null": "null",
    "a number": "7",
    "an array": "[]",
    "an empty object": "{}",
    "a web page": "<!DOCTYPE html><html><body>502</body></html>",
    "half a body": form()[:-20],
    "two bodies": form() * 2,
    "bytes": b"\xff\xfe\x00garbage",
    "a megabyte": "x" * 1_000_000,
    "deep brackets": "[" * 50_000,
    "an endless number": '{"choices": ' + "9" * 6000 + "}",
    "an error with status 200": '{"error": {"message": "overloaded"}}',
    "no choice": '{"choices": [], "model": "observer-1"}',
    "two choices": json.dumps({"choices": [json.loads(form())["choices"][0]] * 2}),
    "a choice without a message": '{"choices": [{"index": 0, "finish_reason": "stop"}]}',
    "content null": completion(None),
    "content empty": completion(""),
    "content blank": completion("\n \t"),
    "content a list": json.dumps({"choices": [{"message": {"content": ["x"]}, "finish_reason": "stop"}]}),
    "content a number": json.dumps({"choices": [{"message": {"content": 3}, "finish_reason": "stop"}]}),
    "truncated": completion(json.dumps(FORM), finish="length"),
    "truncated in the middle": completion(json.dumps(FORM)[:30], finish="length"),
    "a content filter": completion(json.dumps(FORM), finish="content_filter"),
    "a tool call": completion(json.dumps(FORM), finish="tool_calls"),
    "a refusal in its field": completion(None, refusal="I can't help with that."),
    "a refusal in the text": completion("I'm sorry, but I can't assist with identifying people."),
    "a refusal in the form": form(rationale="I'm sorry, I cannot analyze this recording of a person."),
    "no media seen": form(rationale="No audio was provided, so the tone cannot be judged at all."),
    "plain text": completion("He says that it went well, and laughs."),
    "broken JSON": completion('{"cues": [], "rationale": "He says'),
    "JSON of another form": completion('{"emotion": "happy"}'),
    "a list": completion("[1, 2]"),
    "a JSON string": completion('"He says that it went well."'),
    "python in place of JSON": completion(str(FORM)),
    "words before the JSON": completion("Sure! " + json.dumps(FORM)),
    "no rationale": form(rationale=""),
    "a blank rationale": form(rationale="   "),
    "a rationale that is a list": form(rationale=["He says"]),
    "a rationale that is null": form(rationale=None),
    "too short": form(rationale="Happy."),
    "over-long": form(rationale=LONG),
    "one word for ever": form(rationale="well " * 100),
    "punctuation": form(rationale="!!!! ???? .... ---- 0101 0101"),
    "only marks": form(rationale="<><><><><><><><><><><>"),
    "no answer": completion(json.dumps({k: v for k, v in FORM.items() if k != "answer"})),
    "another answer": form(answer="sad"),
    "an answer that is no word": form(answer=""),
    "cues missing": completion(json.dumps({k: v for k, v in FORM.items() if k != "cues"})),
    "a cue of no modality": cue(modality="smell"),
    "a cue of media that were not sent": cue(modality="audio"),
    "a cue without words": cue(text="  "),
    "a cue that ends before it starts": cue(start=1.5, end=1.0),
    "a cue before the start": cue(start=-1.0),
    "a cue beyond the end": cue(start=1.0, end=90.0),
    "a cue at a text": cue(start="soon"),
    "a thousand cues": form(cues=[{"modality": "text", "text": "x", "start": None, "end": None}] * 1000),
    "a voice that nobody heard": form(rationale="His tone of voice is warm, and he says that it went well."),
    "a face that nobody saw": form(rationale="His facial expression is warm; he says that it went well."),
}


def test_no_garbage_is_kept_as_good_and_no_row_is_lost(tmp_path: Path) -> None:
    names = list(GARBAGE)
    assert len(names) >= 40

    def script(number: int, body: dict[str, Any]) -> Play:
        return Play(body=GARBAGE[names[int(asked_text(body).removeprefix("row "))]])

    tally, server = made(tmp_path, script, rows=len(names), max_asks=2, stop_after=1000)
    found = records(tmp_path)
    kept = {names[int(sample[1:])]: r.text for sample, r in found.items() if r.text is not None}
    assert kept == {}
    assert len(found) == len(names) and tally.missing == 0 and len(server.seen) == 2 * len(names)
    reasons = {names[int(sample[1:])]: str(r.reason).partition(":")[0] for sample, r in found.items()}
    assert reasons["a refusal in its field"] == reasons["a content filter"] == "refusal"
    assert reasons["truncated"] == "truncated" and reasons["content null"] == "empty"
    assert reasons["another answer"] == "contradicting" and reasons["over-long"] == "over_long"
    assert reasons["a web page"] == reasons["broken JSON"] == "malformed"
    assert reasons["a voice that nobody heard"] == "absent_media"
    assert all(record.attempts == 2 for record in found.values())


def test_rows_without_end_stop_the_run_and_mended_filters_judge_their_replies_anew(tmp_path: Path) -> None:
    def calm(number: int, body: dict[str, Any]) -> Play:
        return Play(body=completion(evidence(TEXT.format(asked_text(body)), answer="calm")))

    tally, server = made(tmp_path, calm, rows=40, max_asks=1, stop_after=10, max_concurrency=1)
    bought = len(server.seen)
    assert 10 <= bought <= 13 and tally.missing == 40 and not records(tmp_path)
    lenient = {"filters": {"agreement": False}, "max_asks": 1, "stop_after": 10}
    tally, server = made(tmp_path, calm, rows=40, **lenient)
    assert tally.made == 40 and len(server.seen) == 40 - bought


def test_garbage_once_is_asked_again_and_the_good_reply_counts(tmp_path: Path) -> None:
    names, asked = list(GARBAGE), Counter[str]()
    lock = threading.Lock()

    def script(number: int, body: dict[str, Any]) -> Play:
        text = asked_text(body)
        with lock:
            asked[text] += 1
            first = asked[text] == 1
        return Play(body=GARBAGE[names[int(text.removeprefix("row "))]]) if first else good(number, body)

    tally, server = made(tmp_path, script, rows=len(names), seed=7)
    assert tally.made == len(names) and len(server.seen) == 2 * len(names)
    assert {seen.body["seed"] for seen in server.seen} == {7, 8}  # a repeat is no copy
    assert {record.attempts for record in records(tmp_path).values()} == {2}


def test_every_fault_of_the_way_at_once_loses_no_row(tmp_path: Path) -> None:
    rng, lock = random.Random(3), threading.Lock()
    faults = [
        Play(status=429, body="{}", headers={"retry-after": "0.05"}),
        Play(status=429, body="{}"),
        Play(status=500, body="oops"),
        Play(status=503, body="<html>"),
        Play(reset=True),
        Play(body=form(), trickle=0.05),
        Play(body=completion("")),
    ]
    bad = 0

    def script(number: int, body: dict[str, Any]) -> Play:
        nonlocal bad
        with lock:
            chosen = rng.choice(faults) if rng.random() < 0.05 else None
            bad += chosen is not None
        return chosen or good(number, body)

    rows = 400
    tally, server = made(tmp_path, script, rows=rows, request_timeout_seconds=3, max_concurrency=16)
    assert tally.made == rows and not tally.failed
    assert (
        bad > 5 and rows + bad <= len(server.seen) <= 1.1 * rows
    )  # on a busy machine good ones time out too


def test_the_rate_holds_at_the_server(tmp_path: Path) -> None:
    _, server = made(tmp_path, good, rows=40, requests_per_minute=1500)
    times = sorted(seen.at for seen in server.seen)
    most = max(sum(start <= at < start + 1 for at in times) for start in times)
    assert most <= 1500 / 60 + 1 and times[-1] - times[0] > 39 * 60 / 1500


@pytest.mark.parametrize("status", [401, 402, 403, 404])
def test_an_auth_error_in_mid_run_stops_and_keeps_what_there_is(tmp_path: Path, status: int) -> None:
    def script(number: int, body: dict[str, Any]) -> Play:
        return good(number, body) if number < 20 else Play(status=status, body='{"error": {"message": "no"}}')

    with ModelServer(script) as server:
        chosen = config(tmp_path, server.url, max_concurrency=4)
        with CacheWriter(tmp_path) as cache:

            async def go() -> tuple[Tally, str | None]:
                async with Endpoint(chosen) as endpoint:
                    return await Maker(chosen, cache, endpoint).run(jobs(chosen, 60)), endpoint.why_stopped

            tally, why = asyncio.run(go())
    assert why is not None and f"status {status}" in why
    assert tally.made == len(records(tmp_path)) == 20 and tally.missing == 40
    assert len(server.seen) <= 20 + 4


def test_a_model_that_changes_in_mid_run_is_said_and_can_stop(tmp_path: Path) -> None:
    def script(number: int, body: dict[str, Any]) -> Play:
        model = "observer-1-2026-01" if number < 10 else "observer-1-2026-09"
        return Play(body=completion(evidence(TEXT.format(number)), model=model))

    tally, _ = made(tmp_path / "a", script, rows=20)
    assert len(tally.models) == 2 and "observer-1-2026-09" in tally.notes[0]
    assert {r.model_answered for r in records(tmp_path / "a").values()} == set(tally.models)
    tally, server = made(tmp_path / "b", script, rows=60, on_model_change="fail", max_concurrency=2)
    assert tally.missing > 0 and len(server.seen) <= 14


@pytest.mark.parametrize(
    ("budget", "most"),
    [({"max_requests": 7}, 7), ({"max_tokens": 7000}, 7), ({"max_cost": 0.05}, 50)],
)
def test_a_budget_is_never_passed_and_a_restart_starts_no_new_one(
    tmp_path: Path, budget: dict[str, float], most: int
) -> None:
    prices = {"input": 1.0, "output": 1.0}
    total = 0
    for _ in range(2):
        tally, server = made(
            tmp_path,
            good,
            rows=600,
            budget=budget,
            prices=prices,
            max_completion_tokens=100,
            max_concurrency=4,
        )
        total += len(server.seen)
    spent = sum(record.cost or 0 for record in records(tmp_path).values())
    tokens = sum(record.usage.total for record in records(tmp_path).values())
    assert total == len(records(tmp_path)) > 0 and tally.missing > 0
    assert spent <= budget.get("max_cost", 1) and tokens <= budget.get("max_tokens", 10**9)
    assert total <= budget.get("max_requests", 10**9)
    assert total >= most * 0.8  # and it is used


def test_a_full_disk_is_one_clear_error_and_keeps_what_is_committed(tmp_path: Path) -> None:
    class Full(CacheWriter):
        def log_reply(self, *replies: RawReply) -> None:
            if replies[0].sample_id == "s7":
                raise CacheFull("no space left")
            super().log_reply(*replies)

    with ModelServer(good) as server:
        chosen = config(tmp_path, server.url, commit_every=2, max_concurrency=1)

        async def go() -> None:
            async with Endpoint(chosen) as endpoint:
                await Maker(chosen, cache, endpoint).run(jobs(chosen, 20))

        with pytest.raises(CacheFull, match="no space left"), Full(tmp_path) as cache:
            asyncio.run(go())
    assert 5 <= len(records(tmp_path)) <= 9


def test_a_reply_that_was_paid_for_is_judged_and_not_bought_again(tmp_path: Path) -> None:
    with ModelServer(good) as server:
        chosen = config(tmp_path, server.url)
        work = jobs(chosen, 3)

        class Torn(CacheWriter):
            def put(self, record: RationaleRecord) -> bool:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt), Torn(tmp_path) as cache:

            async def go() -> None:
                async with Endpoint(chosen) as endpoint:
                    await Maker(chosen, cache, endpoint).run(work[:1])

            asyncio.run(go())
        assert len(server.seen) == 1
        tally = make(chosen, work)
        assert tally.made == 3 and len(server.seen) == 3


RUN = """
import sys
from pathlib import Path
from tests.test_rationale_make import config, jobs, make
chosen = config(Path(sys.argv[1]), sys.argv[2], max_concurrency=8, commit_every=50)
make(chosen, jobs(chosen, int(sys.argv[3])))
"""


@pytest.mark.slow
def test_killed_at_random_moments_only_the_missing_rows_are_asked(tmp_path: Path) -> None:
    rows, rng = 2000, random.Random(11)
    with ModelServer(good) as server:
        for _ in range(3):
            before = len(server.seen)
            child = subprocess.Popen([sys.executable, "-c", RUN, str(tmp_path), server.url, str(rows)])
            target = before + rng.randint(20, 400)
            while len(server.seen) < target and child.poll() is None:
                time.sleep(0.002)
            time.sleep(rng.random() * 0.05)
            assert child.poll() is None, "the run ended before it was killed: nothing was tested"
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
        subprocess.run([sys.executable, "-c", RUN, str(tmp_path), server.url, str(rows)], check=True)
        calls = Counter(asked_text(seen.body) for seen in server.seen)
        assert len(records(tmp_path)) == rows == len(calls)
        assert sum(calls.values()) <= rows + 3 * 8  # what was out when it was killed, at most
        done = len(server.seen)
        subprocess.run([sys.executable, "-c", RUN, str(tmp_path), server.url, str(rows)], check=True)
        assert len(server.seen) == done
