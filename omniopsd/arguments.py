"""Types of command line arguments, whose refusals say what was expected."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def whole_number(least: int) -> Callable[[str], int]:
    """A type for argparse: a whole number from `least`."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"expected a whole number from {least}, found {text!r}")
        return int(text)

    return read


def whole_numbers(least: int) -> Callable[[str], tuple[int, ...]]:
    """A type for argparse: whole numbers from `least`, with commas between them."""
    one = whole_number(least)
    return lambda text: tuple(one(part.strip()) for part in text.split(","))


def positive(text: str) -> float:
    """A finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, found {text!r}")
    return value
