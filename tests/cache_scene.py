"""Small rationale caches for the tests of the store."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

from rationale_cache.keys import digest, key_of, make_request
from rationale_cache.types import Cue, RationaleRecord, Usage, Verdict
from rationale_cache.wal import RawReply
from rationale_cache.writer import CacheWriter

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)


@cache
def a_record(number: int, *, text: str | None = None, reason: str | None = None) -> RationaleRecord:
    """Record `number`: always the same key; every tenth is without a rationale."""
    request = make_request(
        media=[digest(f"clip {number}")],
        messages=[{"role": "user", "content": f"What does speaker {number} feel?"}],
        prompt="Describe what you see and hear.",
        model="frontier-1",
        sampling={"temperature": 0.7, "max_tokens": 400},
        mode="blind",
    )
    if text is None and reason is None:
        reason = "refusal" if number % 10 == 9 else None
        text = None if reason else f"Speaker {number} smiles at {number % 7} s, then looks away. " * 3
    return RationaleRecord(
        key=key_of(request),
        sample_id=f"clip-{number:04d}",
        dataset="even" if number % 2 == 0 else "odd",
        request=request,
        text=text,
        reason=reason,
        cues=(Cue(modality="video", text="a smile", start=0.5, end=1.25),) if reason is None else (),
        model_answered="frontier-1-2026-05",
        usage=Usage(prompt_tokens=1000 + number, completion_tokens=120),
        cost=0.01,
        latency=1.5,
        finish_reason="stop",
        reply_hash=digest(f"reply {number}"),
        made_at=NOON + timedelta(seconds=number),
        verdicts=(Verdict(filter="length", passed=True),),
    )


def a_reply(number: int, attempt: int = 1) -> RawReply:
    """The raw reply that record `number` was parsed from."""
    return RawReply(
        key=a_record(number).key,
        sample_id=f"clip-{number:04d}",
        attempt=attempt,
        body=f'{{"text": "raw {number}"}}',
        latency=1.5,
        received_at=NOON,
    )


def make_cache(path: Path, *commits: range) -> Path:
    """A cache with these records, one commit for each range."""
    with CacheWriter(path) as writer:
        for numbers in commits:
            writer.put_all(a_record(number) for number in numbers)
            writer.commit()
    return path
