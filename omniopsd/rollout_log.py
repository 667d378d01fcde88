"""Logged rollouts: one Parquet file for a step, with what each model said of each token."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from omniopsd.durable import sync_path

SCHEMA = pa.schema(
    [
        ("sample_id", pa.string()),
        ("rollout_id", pa.string()),
        ("step", pa.int64()),
        ("dataset", pa.string()),
        ("policy_version", pa.int64()),
        ("teacher_version", pa.int64()),
        ("finish", pa.string()),
        ("prompt_ids", pa.list_(pa.int32())),
        ("response_ids", pa.list_(pa.int32())),
        ("rollout_logprobs", pa.list_(pa.float32())),
        ("student_logprobs", pa.list_(pa.float32())),
        ("teacher_logprobs", pa.list_(pa.float32())),
        ("divergence", pa.list_(pa.float32())),
        ("tokens", pa.list_(pa.string())),
        ("prompt_text", pa.string()),
        ("text", pa.string()),
        ("labels", pa.list_(pa.string())),
        ("correct", pa.bool_()),
        ("privilege", pa.string()),
        ("evidence_id", pa.string()),
        ("evidence", pa.string()),
        ("rationale_key", pa.string()),
        ("videos", pa.list_(pa.string())),
        ("audios", pa.list_(pa.string())),
        ("images", pa.list_(pa.string())),
    ],
    metadata={"omniopsd_rollouts": "1"},
)
PER_TOKEN = ("rollout_logprobs", "student_logprobs", "teacher_logprobs", "divergence", "tokens")


class RolloutLogError(ValueError):
    """A rollout that cannot be logged, or a file that is not a rollout log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedRollout:
    """One rollout with all that was said of it, T response tokens.

    `prompt_ids` int32 [P] and `response_ids` int32 [T] as trained; `rollout_logprobs`,
    `student_logprobs`, `teacher_logprobs`, `divergence` float32 [T], natural log, the last three None
    where no such pass was made. `tokens` is each response token as text, for people to read.
    `evidence_id` names the row whose rationale or label the teacher read, `evidence` is that text,
    `rationale_key` its key: in the cache, or (for one of the data file) the hash of its content.
    `correct` is None when the answer was not judged. Media paths are those that were decoded.
    """

    sample_id: str
    rollout_id: str
    step: int
    dataset: str
    policy_version: int
    teacher_version: int | None
    finish: str
    prompt_ids: np.ndarray
    response_ids: np.ndarray
    rollout_logprobs: np.ndarray
    student_logprobs: np.ndarray | None = None
    teacher_logprobs: np.ndarray | None = None
    divergence: np.ndarray | None = None
    tokens: tuple[str, ...] | None = None
    prompt_text: str = ""
    text: str
    labels: tuple[str, ...] = ()
    correct: bool | None = None
    privilege: str = "none"
    evidence_id: str = ""
    evidence: str | None = None
    rationale_key: str = ""
    videos: tuple[str, ...] = ()
    audios: tuple[str, ...] = ()
    images: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in PER_TOKEN:
            values = getattr(self, name)
            if values is not None and len(values) != len(self.response_ids):
                raise RolloutLogError(
                    f"{self.rollout_id}: {len(values)} {name}, {len(self.response_ids)} response_ids"
                )


def write_rollouts(path: Path, rollouts: Sequence[LoggedRollout]) -> None:
    """Write one step's rollouts; the file is there whole or not at all. Replaces an older one."""
    columns = {name: [_plain(getattr(rollout, name)) for rollout in rollouts] for name in SCHEMA.names}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    # The page checksums let a reader tell a damaged file from a surprising one.
    pq.write_table(pa.table(columns, schema=SCHEMA), temporary, compression="zstd", write_page_checksum=True)
    sync_path(temporary)
    os.replace(temporary, path)
    sync_path(path.parent)


def read_rollouts(path: Path) -> tuple[LoggedRollout, ...]:
    """All rollouts of one file, checksums verified. Raises RolloutLogError on a damaged or other file."""
    try:
        table = pq.read_table(path, page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        raise RolloutLogError(
            f"{path}: cannot be read ({error}); delete it, the report does without"
        ) from error
    if "rationale_key" not in table.column_names:  # a log from before there were keys
        table = table.append_column("rationale_key", pa.array([""] * len(table), pa.string()))
    missing = [name for name in SCHEMA.names if name not in table.column_names]
    if missing:
        raise RolloutLogError(f"{path}: not a rollout log, the columns {missing} are missing")
    return tuple(_rollout(row) for row in table.select(SCHEMA.names).to_pylist())


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _rollout(row: dict[str, Any]) -> LoggedRollout:
    return LoggedRollout(
        **{field.name: _typed(field.name, row[field.name]) for field in fields(LoggedRollout)}
    )


def _typed(name: str, value: Any) -> Any:
    if not isinstance(value, list):
        return value
    kind = SCHEMA.field(name).type.value_type
    return tuple(value) if kind == pa.string() else np.asarray(value, kind.to_pandas_dtype())
