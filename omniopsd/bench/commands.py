"""`omniopsd bench ...`: arguments in, one thin call out."""

from __future__ import annotations

import argparse
from typing import Any


def add_commands(commands: Any) -> None:
    """Add `bench` and its subcommands to the program's."""
    bench = commands.add_parser("bench", help="MER-UniBench", description="MER-UniBench.")
    parts = bench.add_subparsers(title="bench commands", metavar="COMMAND", required=True)
    add_scoring(parts)


def add_scoring(parts: Any) -> None:
    """`bench score` and `bench cases`."""
    score = parts.add_parser("score", help="score a set's predictions", description="Score a set.")
    score.set_defaults(run=_score)
    cases = parts.add_parser("cases", help="run a file of worked cases", description="Run worked cases.")
    cases.set_defaults(run=_cases)


def _score(options: argparse.Namespace) -> None:
    raise NotImplementedError


def _cases(options: argparse.Namespace) -> None:
    raise NotImplementedError
