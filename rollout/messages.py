"""Chat messages as parts: text, and places where a medium goes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from rollout.types import Modality

Role = Literal["system", "user", "assistant"]
PLACEHOLDER = re.compile("<(" + "|".join(get_args(Modality)) + ")>")


class MessageError(ValueError):
    """A row whose messages are not a list of roles and texts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPart:
    """Text, never empty."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaPart:
    """The place of the next medium of this kind."""

    kind: Modality


Part = TextPart | MediaPart


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of the chat."""

    role: Role
    parts: tuple[Part, ...]


def parse_messages(rows: Sequence[Mapping[str, Any]], *, where: str) -> tuple[Message, ...]:
    """Messages from `{"role": ..., "content": ...}` rows, split at `<video>`, `<audio>`, `<image>`.

    `where` names the row in errors. Raises MessageError. The placeholders cannot be escaped: a text
    that must show one has to spell it differently.

        >>> parse_messages([{"role": "user", "content": "<audio>Who?"}], where="x:1")[0].parts
        (MediaPart(kind='audio'), TextPart(text='Who?'))
    """
    if isinstance(rows, (str, bytes, Mapping)) or not isinstance(rows, Sequence) or not rows:
        raise MessageError(f"{where}: messages is {_shown(rows)}; give a list with at least one message")
    return tuple(_message(row, f"{where}: messages[{index}]") for index, row in enumerate(rows))


def media_kinds(messages: Sequence[Message]) -> tuple[Modality, ...]:
    """The kinds of all media parts, in the order of the prompt."""
    return tuple(p.kind for m in messages for p in m.parts if isinstance(p, MediaPart))


def _message(row: object, where: str) -> Message:
    if not isinstance(row, Mapping) or set(row) != {"role", "content"}:
        raise MessageError(f'{where} is {_shown(row)}; write {{"role": "user", "content": "..."}}')
    role, content = row["role"], row["content"]
    if role not in get_args(Role):
        raise MessageError(f"{where}: role is {_shown(role)}; write one of {', '.join(get_args(Role))}")
    if not isinstance(content, str) or not content:
        raise MessageError(f"{where}: content is {_shown(content)}; write a text that is not empty")
    return Message(role=cast(Role, role), parts=_parts(content))


def _parts(content: str) -> tuple[Part, ...]:
    pieces = PLACEHOLDER.split(content)  # text, kind, text, kind, ..., text
    parts: list[Part] = []
    for index, piece in enumerate(pieces):
        if index % 2:
            parts.append(MediaPart(kind=cast(Modality, piece)))
        elif piece:
            parts.append(TextPart(text=piece))
    return tuple(parts)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
