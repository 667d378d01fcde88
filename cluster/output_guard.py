"""Keeps secrets out of what this process prints, logs and raises, whoever prints it. Importable without Ray.

Three doors, one list of secrets: the text streams (prints, tracebacks, warnings, every log handler that writes
there), the log records (handlers that write to files), and the errors that leave an actor. What native code
writes to its descriptors by itself is not seen here.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cloudpickle

SHOWN = "***"
SHORTEST = 8
"""Shorter values are words, which an output without them could not be read any more."""
LARGEST_FILE = 4096
SECRET_NAME = re.compile(r"KEY|TOKEN(?!IZERS)|SECRET|PASSW|CREDENTIAL|AUTH(?!OR(_|$))")
NO_SECRET = re.compile(r"(PATH|FILE|DIR|SOCK|MODE|FDS?|HOST|URL|AUTHORITY)$")
TOKEN_FILE = "RAY_AUTH_TOKEN_PATH"

_known: dict[str, str] = {}
_pattern: re.Pattern[str] | None = None
_variables: set[str] = set()


class HiddenError(RuntimeError):
    """An error whose own form held a secret: its type and text, without it."""


def looks_secret(name: str) -> bool:
    """Whether an environment variable of this name holds something that nobody else may read."""
    return bool(SECRET_NAME.search(name)) and not NO_SECRET.search(name)


def secrets_in(environment: Mapping[str, str], named: Iterable[str] = ()) -> dict[str, str]:
    """The secrets of an environment, each with the words for where it stands: of the variables that look
    like secrets, of those `named`, and of the file with Ray's token."""
    wanted = {name for name in environment if looks_secret(name)} | {*named}
    found = {
        environment[name].strip(): f"the environment variable {name}"
        for name in sorted(wanted)
        if name in environment
    }
    if token := _content(environment.get(TOKEN_FILE, "")):
        found[token] = f"the file behind {TOKEN_FILE}"
    return {text: where for text, where in found.items() if len(text) >= SHORTEST}


def learn_secret(text: str, where: str = "a secret") -> None:
    """From now on `text` is hidden in this process, also as a URL, JSON, Python or base64 writes it."""
    global _pattern
    text = text.strip()
    if len(text) < SHORTEST or text in _known:
        return
    for form in (text, quote(text, safe=""), json.dumps(text)[1:-1], repr(text)[1:-1], _base64(text)):
        _known[form] = where
    # the longest first: a secret may begin with another one
    _pattern = re.compile("|".join(map(re.escape, sorted(_known, key=len, reverse=True))))


def hide_secrets(text: str) -> str:
    """`text` with *** in place of every secret that this process knows."""
    return _pattern.sub(SHOWN, text) if _pattern else text


def learn_variables(named: Iterable[str]) -> None:
    """Hide the values of these variables, whatever their names look like, here and in actors started later."""
    _variables.update(named)
    for text, where in secrets_in(os.environ, _variables).items():
        learn_secret(text, where)


def secret_variables() -> tuple[str, ...]:
    """Names that `learn_variables` was told; an actor's process has values of its own under them."""
    return tuple(sorted(_variables))


def guard_output(named: Iterable[str] = ()) -> None:
    """Hide the secrets of this process's environment in its streams and log records; may be called again."""
    learn_variables(named)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, GuardedStream):
            setattr(sys, name, GuardedStream(stream))
    factory = logging.getLogRecordFactory()
    if not getattr(factory, "hides_secrets", False):
        logging.setLogRecordFactory(_RecordFactory(factory))


def without_secrets(error: BaseException) -> BaseException:
    """The error with its secrets hidden, of the same type where its arguments can be mended.

    An error that still shows or carries one becomes a HiddenError with the hidden text of its traceback.
    """
    if _pattern is None or not _carries(error):
        return error
    for one in _chain(error):
        one.args = tuple(hide_secrets(arg) if isinstance(arg, str) else arg for arg in one.args)
        if notes := getattr(one, "__notes__", None):
            notes[:] = [hide_secrets(note) for note in notes]
    if not _carries(error):
        return error
    return HiddenError(hide_secrets("".join(traceback.format_exception(error)).strip()))


class GuardedStream:
    """A text stream that writes *** for secrets; everything else is the stream's own."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """As the stream's own; gives the length of what was asked for, as callers count on."""
        self._stream.write(hide_secrets(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """As the stream's own."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._stream)


class _RecordFactory:
    """Makes log records whose message and traceback hold no secret.

    Records without one keep their template and arguments: some formatters read these.
    """

    hides_secrets = True

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __call__(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        record: logging.LogRecord = self._inner(*args, **kwargs)
        try:
            text = record.getMessage()
        except Exception:  # a wrong template: logging reports it on stderr, through the guarded stream
            return record
        if (hidden := hide_secrets(text)) != text:
            record.msg, record.args = hidden, None
        if record.exc_info and record.exc_info[1] is not None:
            # formatters take this text when it is there
            record.exc_text = hide_secrets("".join(traceback.format_exception(record.exc_info[1])).rstrip())
        if record.stack_info:
            record.stack_info = hide_secrets(record.stack_info)
        return record


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        waiting += [one.__cause__, one.__context__]


def _carries(error: BaseException) -> bool:
    """Whether a secret is in what is shown of an error, or in the bytes that would be sent of it."""
    shown = "".join(traceback.format_exception(error))
    if hide_secrets(shown) != shown:
        return True
    try:
        sent = cloudpickle.dumps(error)
    except Exception:  # Ray will say so itself
        return False
    return any(form.encode() in sent for form in _known)


def _content(path: str) -> str:
    try:
        with open(Path(path), encoding="ascii") as file:
            return file.read(LARGEST_FILE).strip()
    except (OSError, ValueError):
        return ""


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
