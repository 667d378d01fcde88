"""`omniopsd rationales make`: fill the cache with what a run's samples lack."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Sequence

from rich.console import Console

from omniopsd.config import RunConfig
from omniopsd.rationales.lookup import RationaleError, needs_rationales, one_source, require_labels
from omniopsd.rationales.progress import MakeProgress, summary
from omniopsd.rationales.requests import RequestBook
from omniopsd.samples import Sample, read_samples
from rationale_cache.config import RationaleCacheConfig
from rationale_cache.endpoint import Endpoint
from rationale_cache.errors import CacheLocked
from rationale_cache.job import Job
from rationale_cache.keys import IMPORTED
from rationale_cache.make import Maker
from rationale_cache.tally import Tally
from rationale_cache.writer import CacheWriter

SIGNALS = (signal.SIGINT, signal.SIGTERM)
WAIT_SECONDS = 2.0


class MakeError(ValueError):
    """Rows that are still missing, and why."""


def make(config: RunConfig, *, wait: bool = False) -> Tally:
    """Make every missing rationale of the run's samples. Raises MakeError when some are still missing.

    Held-out samples are made too where the teacher answers them. With `wait` another process that
    writes to the cache is waited for; else CacheLocked is raised.
    """
    cache = section(config)
    if cache.model.startswith(IMPORTED):
        raise RationaleError(f"rationale_cache.model is {cache.model!r}: imported rationales cannot be made")
    book = RequestBook(cache, config.data.media)
    jobs = book.jobs(samples_to_make(config))
    console = Console()
    with _writer(cache, console, wait) as writer:
        for notice in writer.notices:
            console.print(notice, markup=False, highlight=False)
        try:
            tally, why = asyncio.run(_make(cache, writer, jobs, console))
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
    console.print(summary(tally, cache), markup=False, highlight=False, soft_wrap=True)
    if tally.missing:
        raise MakeError(_still_missing(tally, why))
    return tally


def make_missing(config: RunConfig) -> None:
    """Make what a run lacks before it starts, where it reads rationales at all. Raises MakeError."""
    if needs_rationales(config):
        make(config, wait=True)


def section(config: RunConfig) -> RationaleCacheConfig:
    """The run's cache section. Raises RationaleError without one."""
    if config.rationale_cache is None:
        raise RationaleError("the config has no section rationale_cache; write one with path and model")
    return config.rationale_cache


def samples_to_make(config: RunConfig) -> list[Sample]:
    """The training samples, and the held-out ones that the teacher is to answer."""
    cache = section(config)
    samples = list(read_samples(config.data.train))
    if config.data.test is not None and config.eval.teacher:
        samples += read_samples(config.data.test)[: config.eval.samples]
    require_labels(cache, samples)
    return [sample for sample in one_source(cache, samples) if sample.rationale is None]


async def _make(
    config: RationaleCacheConfig, writer: CacheWriter, jobs: Sequence[Job], console: Console
) -> tuple[Tally, str | None]:
    async with Endpoint(config) as endpoint:
        with MakeProgress(console) as progress:
            maker = Maker(config, writer, endpoint, on_change=progress.show)
            _on_signal(maker)
            return await maker.run(jobs), endpoint.why_stopped


def _on_signal(maker: Maker) -> None:
    """The first signal lets replies that are out come in, the second ends at once; nothing is lost either way."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    seen: list[signal.Signals] = []

    def stop(number: signal.Signals) -> None:
        if seen:
            task.cancel()
        seen.append(number)
        maker.stop(f"interrupted by {number.name}")

    for number in SIGNALS:
        loop.add_signal_handler(number, stop, number)


def _writer(config: RationaleCacheConfig, console: Console, wait: bool) -> CacheWriter:
    said = False
    while True:
        try:
            return CacheWriter(config.path)
        except CacheLocked as error:
            if not wait:
                raise
            if not said:
                console.print(f"waiting: {error}", markup=False, highlight=False)
            said = True
            time.sleep(WAIT_SECONDS)


def _still_missing(tally: Tally, why: str | None) -> str:
    lines = [f"{tally.missing} of {tally.rows} rows have no record yet; what was made is kept"]
    if why is not None:
        lines.append(f"stopped: {why}")
    lines += [f"failed on the way: {count} {kind}" for kind, count in tally.failed.most_common()]
    lines += [f"first: {note}" for note in tally.notes[:3]]
    lines.append("run it again to ask for the missing rows alone")
    return "\n".join(lines)
