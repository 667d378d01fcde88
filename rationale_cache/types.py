"""The rationale: evidence about one sample, written beforehand by a stronger model.

It is read by the teacher only. Its key is a hash of its content, so that a logged key always names
the very text that was used.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Rationale:
    """One text of evidence; `key` hex, 16 bytes."""

    key: str
    text: str

    @classmethod
    def of(cls, text: str) -> Rationale:
        """A rationale with its content key. Raises ValueError for an empty text."""
        if not text.strip():
            raise ValueError("a rationale without any text: leave the field out, or give a text")
        return cls(key=hashlib.blake2b(text.encode(), digest_size=16).hexdigest(), text=text)
