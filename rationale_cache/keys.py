"""Keys: the hash of everything that could change a rationale's text. Pure.

    key = BLAKE2b-128( RFC 8785 canonical JSON of {"version": 1, "media": [...], "messages": ..., ...} )

The JSON is canonical (RFC 8785: sorted names, shortest numbers, no blanks), so that 0.70 and 0.7, or another order
of parameters, are the same request, and any other tool can compute the same key. The version is part of it:
should the rule ever change, old keys stay what they are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import rfc8785

from rationale_cache.types import Mode, RecordError, Request

VERSION = 1
KEY_BYTES = 16
IMPORTED = "imported:"
"""Begins the model's name in a record that was not asked for by this program."""


def canonical(value: Any) -> str:
    """RFC 8785 canonical JSON. Raises RecordError for what JSON cannot say (NaN, bytes, huge integers)."""
    try:
        return rfc8785.dumps(value).decode()
    except (rfc8785.CanonicalizationError, UnicodeError) as error:
        raise RecordError(f"cannot be part of a request ({error}): {value!r:.200}") from error


def digest(value: Any) -> str:
    """Hex BLAKE2b-128 of a text (as UTF-8), of bytes, or else of a value's canonical JSON."""
    if isinstance(value, bytes):
        return _hash(value)
    return _hash((value if isinstance(value, str) else canonical(value)).encode("utf-8", "surrogatepass"))


def make_request(
    *,
    media: Sequence[str],
    messages: Any,
    prompt: str,
    model: str,
    sampling: Mapping[str, Any],
    mode: Mode,
    label: Sequence[str] | None = None,
) -> Request:
    """The request for one sample, long parts hashed. `messages`: any JSON value, as it is sent.

    `prompt` is the template's text, `sampling` the parameters by name. In the mode "blind" the label is
    dropped, since the model does not see it.
    """
    return Request(
        media=tuple(media),
        messages=digest(messages),
        prompt_hash=digest(prompt),
        model=model,
        sampling=canonical(dict(sampling)),
        mode=mode,
        label=tuple(label or ()) if mode == "label_conditioned" else None,
    )


def key_of(request: Request) -> str:
    """The key of a request: 32 hex digits."""
    parts: dict[str, Any] = {
        "version": VERSION,
        "media": list(request.media),
        "messages": request.messages,
        "prompt": request.prompt_hash,
        "model": request.model,
        "sampling": request.sampling,
        "mode": request.mode,
    }
    if request.label is not None:
        parts["label"] = list(request.label)
    return _hash(text_json(parts).encode("utf-8", "surrogatepass"))


def text_json(value: Any) -> str:
    """`canonical` of texts, whole numbers, lists and dicts with ASCII names: the same text, several times faster."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def imported_request(
    source: str, dataset: str, sample_id: str, mode: Mode = "blind", label: Sequence[str] = ()
) -> Request:
    """The request that stands for a rationale made elsewhere: its source, data set, sample and mode.

    The text is not part of it: a second text for the same sample from the same source is refused, and
    wants a source name of its own.
    """
    return make_request(
        media=(),
        messages={"dataset": dataset, "sample_id": sample_id},
        prompt="",
        model=f"{IMPORTED}{source}",
        sampling={},
        mode=mode,
        label=label,
    )


def _hash(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=KEY_BYTES).hexdigest()
