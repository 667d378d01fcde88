"""Reading the body of a chat completion. Pure, and strict: a body that is not one has a named fault."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, TypeGuard

from rationale_cache.types import Usage


class MalformedCompletion(ValueError):
    """A body that is not a chat completion with one choice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What a model answered. `refusal` is the API's own field; `usage` None when the server gives none."""

    text: str
    refusal: str
    finish_reason: str
    model: str
    usage: Usage | None
    audio_tokens: int = 0


def read_completion(body: str) -> Completion:
    """Parse the body of a reply. Raises MalformedCompletion, never anything else."""
    try:
        reply = json.loads(body)
    except (ValueError, RecursionError) as error:  # ValueError: also a number of 5,000 digits
        raise MalformedCompletion(f"not JSON ({str(error)[:80]})") from None
    choices = _field(reply, "choices", list)
    if len(choices) != 1:
        raise MalformedCompletion(f"{len(choices)} choices instead of one")
    message = _field(choices[0], "message", dict)
    return Completion(
        text=_text(message, "content"),
        refusal=_text(message, "refusal"),
        finish_reason=_text(choices[0], "finish_reason"),
        model=_text(reply, "model"),
        usage=_usage(reply),
        audio_tokens=_count(_details(reply, "prompt_tokens_details"), "audio_tokens"),
    )


def total_tokens(body: str) -> int | None:
    """Tokens in and out that a body reports; None when it reports none."""
    try:
        usage = _usage(json.loads(body))
    except (ValueError, RecursionError):
        return None
    return usage.total if usage else None


def _field(value: Any, name: str, kind: type) -> Any:
    found = value.get(name) if isinstance(value, dict) else None
    if not isinstance(found, kind):
        raise MalformedCompletion(f"{name} is missing or no {kind.__name__}")
    return found


def _text(value: Any, name: str) -> str:
    found = value.get(name)
    if found is not None and not isinstance(found, str):
        raise MalformedCompletion(f"{name} is a {type(found).__name__}, not a text")
    # a lone surrogate is legal in JSON and has no place in UTF-8
    return (found or "").encode("utf-8", "replace").decode()


def _usage(reply: Any) -> Usage | None:
    usage = reply.get("usage") if isinstance(reply, dict) else None
    if not isinstance(usage, dict) or not _is_count(usage.get("prompt_tokens")):
        return None
    return Usage(
        prompt_tokens=_count(usage, "prompt_tokens"),
        completion_tokens=_count(usage, "completion_tokens"),
        reasoning_tokens=_count(_details(reply, "completion_tokens_details"), "reasoning_tokens"),
        cached_tokens=_count(_details(reply, "prompt_tokens_details"), "cached_tokens"),
    )


def _details(reply: Any, name: str) -> dict[str, Any]:
    usage = reply.get("usage") if isinstance(reply, dict) else None
    found = usage.get(name) if isinstance(usage, dict) else None
    return found if isinstance(found, dict) else {}


def _count(value: dict[str, Any], name: str) -> int:
    found = value.get(name)
    return found if _is_count(found) else 0


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**40
