"""From a language model's reply to a list of labels: the official clean-up and the official split.

Both are kept with their oddities, which decide scores: `[happy, sad].` loses `sad`, a semicolon or a Chinese
comma does not split, an apostrophe does.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

Labels = str | Sequence[str] | None
PREFIXES = (
    "\u8f93\u5165",  # "input"
    "\u8f93\u51fa",  # "output"
    "\u7ffb\u8bd1",  # "translation"
    "\u8ba9\u6211\u4eec\u6765\u7ffb\u8bd1\u4e00\u4e0b\uff1a",  # "let us translate:"
    "output",
    "Output",
    "input",
    "Input",
)
SEPARATORS = re.compile("['\",]")


class LoneBracketError(ValueError):
    """The text is one opening bracket and nothing else: the official parser stops there with an IndexError."""


def clean_reply(reply: str) -> str:
    """The official clean-up of an extraction reply: one pass over the prefixes, then a colon, then newlines."""
    text = reply.strip()
    for prefix in PREFIXES:
        text = text.removeprefix(prefix)
    text = text.strip().removeprefix(":").removeprefix("\uff1a").strip()
    return text.replace("\n", "").strip()


def parse_list(labels: Labels) -> list[str]:
    """The labels of a reply; a list is returned as it is, nothing (None, "", NaN) as []. Case is kept.

    Raises LoneBracketError on "[".
    """
    if labels is None or (isinstance(labels, float) and math.isnan(labels)):
        return []
    if not isinstance(labels, str):
        return list(labels)
    if labels == "[":
        raise LoneBracketError('the reply is a lone "["')
    pieces = SEPARATORS.split(labels.removeprefix("[").removesuffix("]"))
    return [piece.strip() for piece in pieces if piece.strip()]


def normal_labels(labels: Labels) -> list[str]:
    """`parse_list`, every label in lower case and trimmed: what the word table is asked for."""
    return [label.lower().strip() for label in parse_list(labels)]
