"""Samples: the rows of a JSONL or Parquet file.

    {"id": "clip-0001", "messages": [{"role": "user", "content": "<video>\\nWhat does he feel?"}],
     "videos": ["clips/a.mp4"], "audio_in_video": true, "labels": ["happy"],
     "rationale": "He smiles.", "dataset": "mer-mini"}

Only `id` and `messages` are needed (a cold start also needs a `response` to learn). What the student may
see is `Sample.inputs`; labels, rationale, response and data set name stay outside of it, so code that
gets a `SampleInputs` cannot leak them.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from rollout.media import MediaError, MediaPaths, resolve_path
from rollout.messages import Message, MessageError, media_kinds, parse_messages

KEYS = (
    "id",
    "messages",
    "videos",
    "audios",
    "images",
    "audio_in_video",
    "labels",
    "rationale",
    "response",
    "dataset",
)
MOST_ERRORS = 20


class SampleError(ValueError):
    """A data file with faults; the message lists up to 20 of them, each with its line or row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleInputs:
    """What the student is asked: nothing privileged."""

    sample_id: str
    messages: tuple[Message, ...]
    paths: MediaPaths
    audio_in_video: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One row. `where` is "file:line" (JSONL) or "file:row n" (Parquet), for later errors.

    `rationale_key` names a rationale that came from a cache; empty for one of the data file.
    """

    inputs: SampleInputs
    labels: tuple[str, ...]
    rationale: str | None
    response: str | None
    dataset: str
    where: str
    rationale_key: str = ""

    @property
    def sample_id(self) -> str:
        """The id, unique in its file."""
        return self.inputs.sample_id


def read_samples(path: str | Path) -> tuple[Sample, ...]:
    """All samples of a file, in its order. Raises SampleError with all its faults (up to 20)."""
    path = Path(path)
    faults: list[str] = []
    samples: list[Sample] = []
    seen: dict[str, str] = {}
    for where, row in file_rows(path, faults):
        sample = _sample(row, where, path.parent, faults)
        if sample is None:
            continue
        first = seen.setdefault(sample.sample_id, where)
        if first != where:
            faults.append(
                f"{where}: id {sample.sample_id!r} is already that of {first}; give each row its own"
            )
        samples.append(sample)
    if not samples and not faults:
        faults.append(f"{path}: the file has no rows; write one sample for each line")
    raise_faults(path, faults)
    return tuple(samples)


def raise_faults(path: Path, faults: list[str]) -> None:
    """Raises SampleError when there are faults, naming the first of them."""
    if not faults:
        return
    more = f", the first {MOST_ERRORS}" if len(faults) > MOST_ERRORS else ""
    head = f"{path}: {len(faults)} fault{'s' if len(faults) > 1 else ''}{more}:"
    raise SampleError("\n".join([head, *(f"  {fault}" for fault in faults[:MOST_ERRORS])]))


def file_rows(path: Path, faults: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a JSONL or Parquet file, each with where it stands; rows that cannot be read are added to `faults`."""
    if not path.is_file():
        raise SampleError(f"{path}: no such file; write the path of a .jsonl or .parquet file")
    if path.suffix == ".jsonl":
        return _json_rows(path, faults)
    if path.suffix == ".parquet":
        return _parquet_rows(path)
    raise SampleError(f"{path}: the ending {path.suffix!r} is not known; give a .jsonl or .parquet file")


def _json_rows(path: Path, faults: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            where = f"{path}:{number}"
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8"))
            except UnicodeDecodeError as error:
                faults.append(f"{where}: not UTF-8 at byte {error.start}; save the file as UTF-8")
                continue
            except (json.JSONDecodeError, RecursionError) as error:
                faults.append(f"{where}: broken JSON ({error}); write one object for each line")
                continue
            if isinstance(row, dict):
                yield where, row
            else:
                faults.append(f"{where}: a {type(row).__name__}, not an object; write {{...}} on each line")


def _parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as table:
            for batch in table.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}:row {number}", row
    except (pyarrow.ArrowException, OSError) as error:
        raise SampleError(f"{path}: not a Parquet file that can be read ({error}); write it anew") from error


def _sample(row: Mapping[str, Any], where: str, root: Path, faults: list[str]) -> Sample | None:
    before = len(faults)
    # Parquet has every column in every row: null means absent
    row = {key: value for key, value in row.items() if value is not None}
    faults.extend(_unknown_keys(row, where))
    sample_id = row.get("id")
    if not isinstance(sample_id, str) or not sample_id.strip():
        faults.append(f"{where}: id is {sample_id!r}; write a text that names this row alone")
    messages = _messages(row, where, faults)
    sound = len(faults)
    paths = _paths(row, where, root, faults)
    audio_in_video = row.get("audio_in_video", False)
    if not isinstance(audio_in_video, bool):
        faults.append(f"{where}: audio_in_video is {audio_in_video!r}; write true or false")
    if messages and len(faults) == sound:
        faults.extend(_media_faults(messages, paths, audio_in_video is True, where))
    labels = _texts(row, "labels", where, faults)
    texts = {key: _text(row, key, where, faults) for key in ("rationale", "response", "dataset")}
    if len(faults) > before:
        return None
    inputs = SampleInputs(
        sample_id=str(sample_id), messages=messages, paths=paths, audio_in_video=audio_in_video
    )
    dataset = texts["dataset"] or ""
    return Sample(
        inputs=inputs,
        labels=labels,
        rationale=texts["rationale"],
        response=texts["response"],
        dataset=dataset,
        where=where,
    )


def _unknown_keys(row: Mapping[str, Any], where: str) -> Iterator[str]:
    for key in sorted(set(row) - set(KEYS)):
        near = difflib.get_close_matches(key, KEYS, n=1)
        advice = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(KEYS)}"
        yield f"{where}: unknown key {key!r}; {advice}"


def _messages(row: Mapping[str, Any], where: str, faults: list[str]) -> tuple[Message, ...]:
    if "messages" not in row:
        faults.append(f'{where}: messages is missing; write [{{"role": "user", "content": "..."}}]')
        return ()
    try:
        messages = parse_messages(row["messages"], where=where)
    except MessageError as error:
        faults.append(str(error))
        return ()
    if messages[-1].role != "user":
        faults.append(f"{where}: the last message is from the {messages[-1].role}; end with one of the user")
    return messages


def _paths(row: Mapping[str, Any], where: str, root: Path, faults: list[str]) -> MediaPaths:
    lists = {key: _texts(row, key, where, faults) for key in ("videos", "audios", "images")}
    for key, texts in lists.items():
        for text in texts:
            try:
                resolve_path(str(root), text, f"{where}: {key[:-1]} {text!r}")
            except MediaError as error:
                faults.append(str(error))
    return MediaPaths(**lists, root=str(root))


def _media_faults(
    messages: tuple[Message, ...], paths: MediaPaths, audio_in_video: bool, where: str
) -> Iterator[str]:
    kinds = media_kinds(messages)
    for kind in ("video", "audio", "image"):
        found, given = kinds.count(kind), len(paths.of(kind))
        if found != given:
            yield f"{where}: the messages have {found} <{kind}> and {kind}s lists {given}; make them equal"
    if audio_in_video and "audio" in kinds:
        yield f"{where}: audio_in_video does not go with <audio>; leave one of them out"
    if audio_in_video and "video" not in kinds:
        yield f"{where}: audio_in_video needs a <video>; add one or write false"


def _texts(row: Mapping[str, Any], key: str, where: str, faults: list[str]) -> tuple[str, ...]:
    value = row.get(key, [])
    if not isinstance(value, list) or any(not isinstance(item, str) or not item for item in value):
        faults.append(f'{where}: {key} is {value!r}; write a list of texts, such as ["..."]')
        return ()
    return tuple(value)


def _text(row: Mapping[str, Any], key: str, where: str, faults: list[str]) -> str | None:
    value = row.get(key)
    if value is not None and (not isinstance(value, str) or not value.strip()):
        faults.append(f"{where}: {key} is {value!r}; write a text that is not empty, or leave it out")
        return None
    return value
