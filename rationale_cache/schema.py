"""The Parquet schema of a segment, and records as its rows. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC
from typing import Any

import pyarrow as pa

from rationale_cache.types import Cue, RationaleRecord, RecordError, Request, Usage, Verdict

CUE = pa.struct(
    [("modality", pa.string()), ("text", pa.string()), ("start", pa.float64()), ("end", pa.float64())]
)
VERDICT = pa.struct([("filter", pa.string()), ("passed", pa.bool_()), ("detail", pa.string())])
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("dataset", pa.string()),
        ("sample_id", pa.string()),
        ("text", pa.string()),
        ("reason", pa.string()),
        ("cues", pa.list_(CUE)),
        ("mode", pa.string()),
        ("label", pa.list_(pa.string())),
        ("media", pa.list_(pa.string())),
        ("messages", pa.string()),
        ("prompt_hash", pa.string()),
        ("model_asked", pa.string()),
        ("model_answered", pa.string()),
        ("sampling", pa.string()),
        ("prompt_tokens", pa.int64()),
        ("completion_tokens", pa.int64()),
        ("reasoning_tokens", pa.int64()),
        ("cached_tokens", pa.int64()),
        ("cost", pa.float64()),
        ("latency", pa.float64()),
        ("finish_reason", pa.string()),
        ("attempts", pa.int64()),
        ("reply_hash", pa.string()),
        ("made_at", pa.timestamp("us", tz="UTC")),
        ("verdicts", pa.list_(VERDICT)),
    ],
    metadata={"omniopsd_rationales": "1"},
)
NAMES = tuple(SCHEMA.names)
CUES, VERDICTS = NAMES.index("cues"), NAMES.index("verdicts")
CUE_NAMES, VERDICT_NAMES = tuple(field.name for field in CUE), tuple(field.name for field in VERDICT)
OPTIONAL = {"text", "reason", "label", "cost"}


def to_row(record: RationaleRecord) -> dict[str, Any]:
    """A record as the values of one row, in the order of the schema."""
    request, usage = record.request, record.usage
    return {
        "key": record.key,
        "dataset": record.dataset,
        "sample_id": record.sample_id,
        "text": record.text,
        "reason": record.reason,
        "cues": [
            {"modality": c.modality, "text": c.text, "start": c.start, "end": c.end} for c in record.cues
        ],
        "mode": request.mode,
        "label": None if request.label is None else list(request.label),
        "media": list(request.media),
        "messages": request.messages,
        "prompt_hash": request.prompt_hash,
        "model_asked": request.model,
        "model_answered": record.model_answered,
        "sampling": request.sampling,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "cached_tokens": usage.cached_tokens,
        "cost": record.cost,
        "latency": record.latency,
        "finish_reason": record.finish_reason,
        "attempts": record.attempts,
        "reply_hash": record.reply_hash,
        "made_at": record.made_at,
        "verdicts": [{"filter": v.filter, "passed": v.passed, "detail": v.detail} for v in record.verdicts],
    }


def from_row(row: Mapping[str, Any]) -> RationaleRecord:
    """The record of one row. Raises RecordError, or KeyError and TypeError for a row of another schema."""
    return from_values(to_values(row))


def to_values(row: Mapping[str, Any]) -> list[Any]:
    """A row without its names: values in the order of the schema, structs as lists of theirs."""
    values = [row[name] for name in NAMES]
    values[CUES] = [[cue[name] for name in CUE_NAMES] for cue in row["cues"]]
    values[VERDICTS] = [[verdict[name] for name in VERDICT_NAMES] for verdict in row["verdicts"]]
    return values


def from_values(values: Sequence[Any]) -> RationaleRecord:
    """The record of `to_values`. Raises RecordError, or ValueError and TypeError for values of another schema."""
    (
        key, dataset, sample_id, text, reason, cues, mode, label, media, messages, prompt_hash, asked, answered,
        sampling, prompt_tokens, completion_tokens, reasoning_tokens, cached_tokens, cost, latency, finish_reason,
        attempts, reply_hash, made_at, verdicts,
    ) = values  # fmt: skip
    return RationaleRecord(
        key=key,
        sample_id=sample_id,
        dataset=dataset,
        request=Request(
            media=tuple(media),
            messages=messages,
            prompt_hash=prompt_hash,
            model=asked,
            sampling=sampling,
            mode=mode,
            label=None if label is None else tuple(label),
        ),
        text=text,
        reason=reason,
        cues=tuple([Cue(modality=kind, text=said, start=start, end=end) for kind, said, start, end in cues]),
        model_answered=answered,
        usage=Usage(
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            reasoning_tokens=reasoning_tokens,
            cached_tokens=cached_tokens,
        ),
        cost=cost,
        latency=latency,
        finish_reason=finish_reason,
        attempts=attempts,
        reply_hash=reply_hash,
        made_at=made_at if made_at.tzinfo is UTC else made_at.astimezone(UTC),
        verdicts=tuple([Verdict(filter=name, passed=passed, detail=told) for name, passed, told in verdicts]),
    )


def to_table(records: Sequence[RationaleRecord]) -> pa.Table:
    """Records as one table, in their order. Raises RecordError for what the schema cannot hold."""
    rows = [to_row(record) for record in records]
    try:
        return pa.Table.from_pylist(rows, schema=SCHEMA)
    except (pa.ArrowException, UnicodeError, OverflowError, TypeError) as error:
        raise RecordError(f"a record does not fit the schema of the cache: {error}") from error


def check_table(table: pa.Table) -> None:
    """Raises RecordError unless the table has this schema and nothing is missing that a record needs."""
    if not table.schema.equals(SCHEMA):
        raise RecordError("the columns are not those of a rationale segment")
    table.validate(full=True)
    empty = [name for name in table.column_names if name not in OPTIONAL and table[name].null_count]
    if empty:
        raise RecordError(f"empty values in the columns {', '.join(empty)}")
