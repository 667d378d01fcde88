"""The API key: read from the environment or a file, shown as ***, never pickled."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import NoReturn

from cluster.output_guard import SHOWN, learn_secret


class SecretError(ValueError):
    """A key that cannot be read, or that would have left its process."""


class Secret:
    """A text that no log, error, repr, dataclass dump or pickle shows; `reveal` gives it to the HTTP client."""

    __slots__ = ("__text",)

    def __init__(self, text: str) -> None:
        self.__text = text

    def reveal(self) -> str:
        """The text itself."""
        return self.__text

    def hide(self, text: str) -> str:
        """`text` with every occurrence of the secret replaced, such as an error that a server sent back."""
        return text.replace(self.__text, SHOWN) if self.__text else text

    def __repr__(self) -> str:
        return SHOWN

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(SHOWN, spec)

    def __reduce__(self) -> NoReturn:
        # A pickle would carry the key into Ray's object store and job records.
        raise SecretError("a secret does not leave its process: read it where it is used")


def read_secret(env: str | None, file: str | None) -> Secret:
    """The key from an environment variable or a file's first line; empty when neither is named.

    Raises SecretError (which never shows the key) when it is missing, empty, of several lines, or in a
    file that others may read.
    """
    if env is not None:
        return _checked(os.environ.get(env), f"the environment variable {env}")
    if file is not None:
        return _checked(_content(Path(file)), f"the file {file}")
    return Secret("")


def _checked(text: str | None, where: str) -> Secret:
    if text is None or not text.strip():
        raise SecretError(f"{where} has no API key: set it, and start again")
    key = text.strip()
    if len(key.split()) > 1 or not key.isascii() or not key.isprintable():
        raise SecretError(f"{where} holds more than an API key: one line, no blanks, ASCII")
    learn_secret(key, where)
    return Secret(key)


def _content(path: Path) -> str:
    try:
        mode = path.stat().st_mode
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise SecretError(f"{path}: others can read the API key; run chmod 600 {path}")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SecretError(f"{path}: the API key cannot be read ({type(error).__name__})") from None
