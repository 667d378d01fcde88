"""Making rationales: every row that the cache lacks is asked for, judged, and kept, good or bad, once.

    job -> ask -> raw reply to the write-ahead log, fsynced -> judge -> record -> commit
                        ^------ asked again, `max_asks` in all ------'

Killed at any moment and run again, only rows without a record and without a logged reply are asked for. A row
that failed on the way (outage, deadline) has no record: the next run asks for it again.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime

from rationale_cache.clock import Clock, SystemClock
from rationale_cache.config import RationaleCacheConfig
from rationale_cache.endpoint import Endpoint, Failure
from rationale_cache.gate import EndpointStopped
from rationale_cache.job import Job
from rationale_cache.near_duplicates import NearDuplicates
from rationale_cache.payload import Payload
from rationale_cache.prompt import sampling
from rationale_cache.reader import CacheReader
from rationale_cache.reply import Accepted, Rejected
from rationale_cache.row import Row
from rationale_cache.spend import Spend
from rationale_cache.tally import Tally
from rationale_cache.types import RationaleRecord
from rationale_cache.wal import RawReply
from rationale_cache.writer import CacheWriter

COMMIT_SECONDS = 30.0
READY = 2
"""Rows whose media are prepared while all slots of the endpoint are taken."""


class Maker:
    """Makes the missing rows of one data set; one at a time for each cache (the writer's lock)."""

    def __init__(
        self,
        config: RationaleCacheConfig,
        cache: CacheWriter,
        endpoint: Endpoint,
        *,
        clock: Clock | None = None,
        on_change: Callable[[Tally], None] = lambda tally: None,
    ) -> None:
        self.config, self.cache, self.endpoint = config, cache, endpoint
        self.tally = Tally(cost=None if config.prices is None else 0.0)
        self._clock, self._on_change = clock or SystemClock(), on_change
        self._spend = Spend(config.budget, config.prices)
        self._earlier: dict[str, list[RawReply]] = defaultdict(list)
        self._duplicates: NearDuplicates | None = None
        self._requests_before = 0
        self._held: list[tuple[RationaleRecord, str]] = []
        self._committing = asyncio.Lock()
        self._committed_at = self._clock.now()

    async def run(self, jobs: Iterable[Job]) -> Tally:
        """Settle every job, or stop with what there is. Raises CacheFull; what is committed stays."""
        unique = {job.key: job for job in jobs}  # two samples with the same request are one flight
        self.tally.rows = len(unique)
        missing = [job for job in unique.values() if job.key not in self.cache]
        self.tally.known = len(unique) - len(missing)
        self._look_back()
        if (most := self.config.budget.max_requests) is not None:
            self.endpoint.most_calls = max(0, most - self._requests_before)
        queue = iter(missing)
        try:
            async with asyncio.TaskGroup() as workers:
                for _ in range(min(len(missing), self.config.max_concurrency + READY)):
                    workers.create_task(self._work(queue))
            if self.endpoint.why_stopped is None:
                self._keep_held()
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            await self._commit()
        return self.tally

    def stop(self, why: str) -> None:
        """Take no new row; replies that are out are waited for and kept."""
        self.endpoint.stop(why)

    # --- one row -------------------------------------------------------------------------------

    async def _work(self, queue: Iterator[Job]) -> None:
        for job in queue:
            if self.endpoint.why_stopped is not None:
                return
            try:
                await self._settle(job)
            except EndpointStopped:
                return
            finally:
                self._on_change(self.tally)
            if self.cache.pending >= self.config.commit_every or self._late():
                await self._commit()

    async def _settle(self, job: Job) -> None:
        """Ask until the row has a record, or fails on the way."""
        row = Row(job.labels, job.kinds, self.config)
        outcome: Accepted | Rejected | None = None
        for reply in self._earlier.pop(job.key, ()):
            outcome = self._judged(job, row, row.take(reply))
            self._spend.add(row.last_usage, row.last_cost)
            if isinstance(outcome, Accepted):
                break
        while not isinstance(outcome, Accepted) and row.asks < self.config.max_asks:
            outcome = await self._ask(job, row)
            if outcome is None:
                return
        assert outcome is not None
        self._keep(job, row, outcome)

    async def _ask(self, job: Job, row: Row) -> Accepted | Rejected | None:
        """One more reply, judged; None when there is none to be had now."""
        try:
            payload = await asyncio.to_thread(job.payload)
        except (ValueError, OSError) as error:
            self._fail("media", str(error))
            return None
        held = self._spend.reserve(payload.tokens, self.config.max_completion_tokens)
        if isinstance(held, str):
            self.endpoint.stop(held)
            raise EndpointStopped(held)
        try:
            return await self._answered(job, row, payload)
        finally:  # only now, when what it cost is counted: else another row could spend the same money
            self._spend.release(held)

    async def _answered(self, job: Job, row: Row, payload: Payload) -> Accepted | Rejected | None:
        tokens = payload.tokens + self.config.max_completion_tokens
        answer = await self.endpoint.ask(payload.messages, self._sampling(row.asks), tokens=tokens)
        if isinstance(answer, Failure):
            return self._no_answer(job, row, answer)
        reply = RawReply(
            key=job.key,
            sample_id=job.sample_id,
            attempt=row.asks + 1,
            body=answer.body,
            latency=answer.latency,
            received_at=datetime.now(UTC),
            detail=json.dumps({"seconds": payload.seconds, "prompt_tokens": payload.tokens}),
        )
        # A cancelled run still writes down what it has paid for.
        await asyncio.shield(asyncio.to_thread(self.cache.log_reply, reply))
        outcome = self._judged(job, row, row.take(reply))
        self._count(row, payload.tokens)
        return outcome

    def _sampling(self, asks: int) -> dict[str, object]:
        """The same for every row; a repeat has the next seed, since the same seed would repeat the fault."""
        values = sampling(self.config)
        return values | ({"seed": self.config.seed + asks} if self.config.seed is not None else {})

    def _judged(self, job: Job, row: Row, outcome: Accepted | Rejected) -> Accepted | Rejected:
        """The row's outcome beside all other rows: near-duplicates are found here."""
        if isinstance(outcome, Accepted) and self._duplicates is not None:
            outcome = row.beside(outcome, self._duplicates.find(outcome.text, job.sample_id))
        if isinstance(outcome, Rejected):
            self.tally.asked_again[outcome.fault] += 1
        self._see_model(row.model_answered)
        return outcome

    def _no_answer(self, job: Job, row: Row, failure: Failure) -> Rejected | None:
        if failure.kind in ("refused", "too_large"):  # answered, and paid for
            fault = {"refused": "refusal", "too_large": "over_long"}[failure.kind]
            self.tally.asked_again[fault] += 1
            return row.without_body(Rejected(fault=fault, detail=failure.detail))
        self._fail(failure.kind, f"{job.sample_id}: {failure.detail}")
        return None

    # --- what an outcome changes ---------------------------------------------------------------

    def _keep(self, job: Job, row: Row, outcome: Accepted | Rejected) -> None:
        record = row.record(
            outcome, key=job.key, request=job.request, sample_id=job.sample_id, dataset=job.dataset
        )
        if isinstance(outcome, Rejected):
            self._hold(record, outcome.fault)
            return
        self._keep_held()
        self.cache.put(record)
        self.tally.made += 1
        if self._duplicates is not None:
            self._duplicates.add(outcome.text, job.sample_id)

    def _hold(self, record: RationaleRecord, fault: str) -> None:
        """A row without rationale waits for the next good one: many in a row are the request's fault, not theirs.

        When the run stops for that, they get no record; their replies stay in the log, and the next run, with
        mended filters, judges them anew before it asks.
        """
        self._held.append((record, fault))
        if len(self._held) >= self.config.stop_after:
            faults = Counter(fault for _, fault in self._held)
            listed = ", ".join(f"{count} {name}" for name, count in faults.most_common())
            self.endpoint.stop(
                f"{len(self._held)} rows in a row gave no rationale ({listed}): mend prompt, model or filters "
                "(rationale_cache.stop_after)"
            )

    def _keep_held(self) -> None:
        for record, fault in self._held:
            self.cache.put(record)
            self.tally.none[fault] += 1
        self._held.clear()

    def _count(self, row: Row, estimate: int) -> None:
        self.tally.replies += 1
        self._spend.add(row.last_usage, row.last_cost, estimate)
        self.tally.tokens += row.last_usage.total
        if self.tally.cost is not None:
            self.tally.cost += row.last_cost or 0.0

    def _fail(self, kind: str, detail: str) -> None:
        self.tally.failed[kind] += 1
        if self.tally.failed[kind] == 1:
            self.tally.notes.append(detail)

    def _see_model(self, model: str) -> None:
        """A provider may change the model under a name: rationales of two models must not mix unnoticed."""
        if not model or model in self.tally.models:
            self.tally.models[model] += bool(model)
            return
        others = sorted(self.tally.models)
        self.tally.models[model] += 1
        if others:
            said = f"{self.config.model} answers as {model}, and as {', '.join(others)} before"
            self.tally.notes.append(said)
            if self.config.on_model_change == "fail":
                self.endpoint.stop(f"{said} (on_model_change: fail)")

    def _look_back(self) -> None:
        """What earlier runs paid for: records of this model, and replies that were never judged."""
        if self.config.filters.near_duplicate is not None:
            self._duplicates = NearDuplicates(self.config.filters.near_duplicate)
        with CacheReader(self.cache.path) as reader:
            for record in reader.records():
                if record.request.model == self.config.model:
                    self._remember(record)
        for reply in self.cache.unsettled():
            self._earlier[reply.key].append(reply)

    def _remember(self, record: RationaleRecord) -> None:
        self._spend.add(record.usage, record.cost)
        self._requests_before += record.attempts
        if record.model_answered:
            self.tally.models[record.model_answered] += 1
        if self._duplicates is not None and record.text is not None:
            self._duplicates.add(record.text, record.sample_id)

    def _late(self) -> bool:
        return self.cache.pending > 0 and self._clock.now() - self._committed_at > COMMIT_SECONDS

    async def _commit(self) -> None:
        async with self._committing:
            self._committed_at = self._clock.now()
            await asyncio.shield(asyncio.to_thread(self.cache.commit))
