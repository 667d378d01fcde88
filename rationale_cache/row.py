"""One row while it is made: its replies so far, and the record that comes of them. Pure."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from rationale_cache.completion import Completion
from rationale_cache.config import Kind, RationaleCacheConfig
from rationale_cache.filters import Asked
from rationale_cache.keys import digest
from rationale_cache.reply import Accepted, Rejected, judge, read_body
from rationale_cache.spend import cost_of, used
from rationale_cache.types import RationaleRecord, Request, Usage, Verdict
from rationale_cache.wal import RawReply


class Row:
    """Sums over the replies of one row. `asks` counts them, those of earlier runs included."""

    def __init__(self, labels: tuple[str, ...], kinds: frozenset[Kind], config: RationaleCacheConfig) -> None:
        self.asks = 0
        self.model_answered = ""
        self.last_usage, self.last_cost = Usage(), None if config.prices is None else 0.0
        self._labels, self._kinds, self._config = labels, kinds, config
        self._usage, self._latency = Usage(), 0.0
        self._cost = None if config.prices is None else 0.0
        self._finish, self._reply_hash, self._made_at = "", "", datetime.now(UTC)

    def take(self, reply: RawReply) -> Accepted | Rejected:
        """Judge one more reply and count what it cost."""
        self.asks += 1
        detail = json.loads(reply.detail)
        read = read_body(reply.body)
        completion = read if isinstance(read, Completion) else None
        self._pay(completion, reply, int(detail.get("prompt_tokens", 0)))
        self._finish = completion.finish_reason if completion else ""
        self._reply_hash, self._made_at = digest(reply.body), reply.received_at
        if isinstance(read, Rejected):
            return read
        self.model_answered = read.model
        asked = Asked(
            labels=self._labels,
            kinds=self._kinds,
            seconds=float(detail.get("seconds", 0.0)),
            mode=self._config.mode,
        )
        return judge(read, asked, self._config)

    def without_body(self, outcome: Rejected) -> Rejected:
        """Count a reply that had no body to keep."""
        self.asks += 1
        self._made_at = datetime.now(UTC)
        return outcome

    def beside(self, outcome: Accepted, twin: tuple[str, float] | None) -> Accepted | Rejected:
        """The outcome with the verdict on near-duplicates; `twin` is the other sample and the similarity."""
        said = f"{twin[1]:.2f} as {twin[0]!r}" if twin else ""
        found = (*outcome.verdicts, Verdict(filter="near_duplicate", passed=twin is None, detail=said))
        if twin is not None:
            return Rejected(fault="near_duplicate", detail=said, verdicts=found)
        return Accepted(text=outcome.text, cues=outcome.cues, verdicts=found)

    def record(
        self, outcome: Accepted | Rejected, *, key: str, request: Request, sample_id: str, dataset: str
    ) -> RationaleRecord:
        """What the cache keeps of this row."""
        good = isinstance(outcome, Accepted)
        return RationaleRecord(
            key=key,
            sample_id=sample_id,
            dataset=dataset,
            request=request,
            text=outcome.text if isinstance(outcome, Accepted) else None,
            reason=None if good else outcome.reason,  # type: ignore[union-attr]
            cues=outcome.cues if isinstance(outcome, Accepted) else (),
            model_answered=self.model_answered,
            usage=self._usage,
            cost=self._cost,
            latency=self._latency,
            finish_reason=self._finish,
            attempts=max(1, self.asks),
            reply_hash=self._reply_hash,
            made_at=self._made_at,
            verdicts=outcome.verdicts,
        )

    def _pay(self, completion: Completion | None, reply: RawReply, estimate: int) -> None:
        usage = used(completion, estimate, len(reply.body) // 4)
        audio = completion.audio_tokens if completion else 0
        self.last_usage, self.last_cost = usage, cost_of(usage, self._config.prices, audio_tokens=audio)
        self._latency += reply.latency
        self._usage = Usage(
            prompt_tokens=self._usage.prompt_tokens + usage.prompt_tokens,
            completion_tokens=self._usage.completion_tokens + usage.completion_tokens,
            reasoning_tokens=self._usage.reasoning_tokens + usage.reasoning_tokens,
            cached_tokens=self._usage.cached_tokens + usage.cached_tokens,
        )
        if self._cost is not None:
            self._cost += self.last_cost or 0.0
