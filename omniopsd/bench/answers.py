"""Greedy answers of the model under test to many clips: sharded over the pool, kept one chunk at a time."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from cluster.runtime import Ref, Runtime, start_runtime
from omniopsd.bench.journal import Journal, content_key
from omniopsd.bench.pace import Pace
from omniopsd.bench.prepared import PreparedError, PreparedSet, file_sha256
from omniopsd.config import RunConfig
from omniopsd.prompts import PromptBook, make_book
from omniopsd.samples import Sample
from rollout.media import resolve_path
from rollout.messages import Message, TextPart
from rollout.pool import RolloutPool
from rollout.renderer import Renderer
from rollout.types import Modality, Prompt
from rollout.worker import RolloutWorker

DECODERS = 8
QUEUED = 2
"""Calls that wait at one engine, so that it never stands idle while the driver decodes."""
KINDS: tuple[Modality, ...] = ("video", "audio", "image")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Samples, each with the key of its reply."""

    samples: tuple[Sample, ...]
    keys: tuple[str, ...]


def asked(sets: Sequence[PreparedSet], config: RunConfig, model_sha256: str) -> Asked:
    """All samples of some sets; the keys cover model, prompt, media files and every setting that decides a reply."""
    samples = tuple(sample for one in sets for sample in one.samples)
    settings = {
        "model": model_sha256,
        "dtype": config.model.dtype,
        "engine": config.rollout.engine,
        "max_new_tokens": config.rollout.max_new_tokens,
        "max_context": config.model.max_context,
        "media": config.data.media.model_dump(mode="json", exclude={"cache_bytes", "decoders"}),
    }
    with ThreadPoolExecutor(DECODERS) as threads:
        keys = threads.map(lambda sample: content_key({**settings, **_sample_facts(sample)}), samples)
        return Asked(samples=samples, keys=tuple(keys))


def answer_all(
    todo: Asked, config: RunConfig, journal: Journal, chunk: int, console: Console
) -> dict[str, str]:
    """The reply of every sample by its id; those in the journal are not asked again.

    Engines start only when something is left to ask.
    """
    open_ = [pair for pair in zip(todo.samples, todo.keys, strict=True) if journal.get(pair[1]) is None]
    if open_:
        keys = {sample.sample_id: key for sample, key in open_}
        console.print(f"starting {config.rollout.replicas} engine(s) on {config.model.path}", highlight=False)
        from omniopsd.build import groups_of  # brings the learner's libraries

        runtime = start_runtime(config.runtime)
        try:
            runtime.reserve(groups_of(config, ("rollout",)))
            pool = RolloutPool(runtime, config.model, config.rollout, config.weights)
            pool.wait_ready()
            rest = [sample for sample, _ in open_]
            book = answer_book(config, rest, Renderer(config.model.path))
            done = len(todo.samples) - len(open_)
            pace = Pace("answers", len(todo.samples), before=done, console=console)
            for part in greedy_answers(pool, runtime, book, rest, config.rollout.max_new_tokens, chunk):
                journal.add((keys[id_], text, {"clip": id_, "cut": cut}) for id_, text, cut in part)
                pace.add(len(part))
        finally:
            runtime.shutdown()
    texts = {}
    for sample, key in zip(todo.samples, todo.keys, strict=True):
        text = journal.get(key)
        assert text is not None  # greedy_answers gave all of them
        texts[sample.sample_id] = text
    return texts


def answer_book(config: RunConfig, samples: Sequence[Sample], renderer: Renderer) -> PromptBook:
    """Prompts of a benchmark: nothing privileged, and no clip left out."""
    teacher = config.teacher.model_copy(update={"privilege": "none", "missing": "fail"})
    return make_book(config, samples, renderer, teacher)


def greedy_answers(
    pool: RolloutPool,
    runtime: Runtime,
    book: PromptBook,
    samples: Sequence[Sample],
    max_new_tokens: int,
    chunk: int,
) -> Iterator[list[tuple[str, str, bool]]]:
    """(sample id, text, whether it was cut at `max_new_tokens`) of each chunk as an engine returns it.

    An engine takes its next chunk as it gets free.
    """
    size = max(1, min(chunk, -(-len(samples) // len(pool.actors))))
    left = deque(samples[at : at + size] for at in range(0, len(samples), size))
    waiting: list[tuple[Ref[list[np.ndarray]], Sequence[Sample], int]] = []
    with ThreadPoolExecutor(DECODERS) as threads:

        def submit(place: int) -> None:
            if not left:
                return
            part = left.popleft()
            prompts = [runtime.put(prompt) for prompt in _prompts(book, part, threads)]
            ref = pool.actors[place].call(RolloutWorker.greedy, prompts, max_new_tokens)
            waiting.append((ref, part, place))

        for _ in range(QUEUED):
            for place in range(len(pool.actors)):
                submit(place)
        while waiting:
            index = runtime.wait([ref for ref, _, _ in waiting], QUEUED * pool.rollout.timeout_seconds)
            ref, part, place = waiting.pop(index)
            submit(place)
            ids = ref.get(pool.rollout.timeout_seconds)
            end = book.renderer.end_token_id
            yield [
                (one.sample_id, book.renderer.decode(row), int(row[-1]) != end)
                for one, row in zip(part, ids, strict=True)
            ]


def _prompts(book: PromptBook, part: Sequence[Sample], threads: ThreadPoolExecutor) -> Iterator[Prompt]:
    """Media are decoded by several threads into the book's cache, a few clips ahead; rendering is not thread-safe."""
    for at in range(0, len(part), DECODERS):
        few = part[at : at + DECODERS]
        list(threads.map(book.media, few))
        for sample in few:
            yield book.prompt(sample)


def model_sha256(folder: str | Path) -> str:
    """Hash over the names and bytes of a model folder's files."""
    files = sorted(path for path in Path(folder).iterdir() if path.is_file())
    with ThreadPoolExecutor(DECODERS) as threads:
        digests = threads.map(file_sha256, files)
        lines = [f"{path.name} {digest}\n" for path, digest in zip(files, digests, strict=True)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _sample_facts(sample: Sample) -> Mapping[str, Any]:
    inputs = sample.inputs
    files = [
        resolve_path(inputs.paths.root, text, f"{sample.where}: {kind} {text!r}")
        for kind in KINDS
        for text in inputs.paths.of(kind)
    ]
    try:
        digests = [file_sha256(path) for path in files]
    except OSError as error:
        raise PreparedError(
            f"{sample.where}: {error.filename} cannot be read ({error.strerror}); prepare the folder anew"
        ) from error
    return {"messages": [[message.role, _text(message)] for message in inputs.messages], "files": digests}


def _text(message: Message) -> str:
    return "".join(part.text if isinstance(part, TextPart) else f"<{part.kind}>" for part in message.parts)
