"""What an answer must look like, and when it is right. Pure.

The form is `<think>reasoning</think><answer>labels</answer>` and nothing else; an answer is right
when its text, cleaned, is one of the sample's labels. A malformed answer is wrong, never skipped.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

FORM = re.compile(r"\s*<think>(?P<think>.*?)</think>\s*<answer>(?P<answer>[^<]*)</answer>\s*", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`format_valid`: the form holds; `correct`: and the answer is one of the labels."""

    format_valid: bool
    correct: bool


def parse_answer(text: str) -> str | None:
    """The cleaned text inside `<answer>`, or None when the form does not hold."""
    match = FORM.fullmatch(text)
    return clean(match["answer"]) if match else None


def clean(text: str) -> str:
    """Lower case, outer spaces and a final stop removed."""
    return text.strip().rstrip(".").strip().lower()


def judge(text: str, labels: Sequence[str]) -> Verdict:
    """Compare one response with the gold labels."""
    answer = parse_answer(text)
    return Verdict(
        format_valid=answer is not None,
        correct=answer is not None and answer in {clean(label) for label in labels},
    )
