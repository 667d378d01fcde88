"""The subcommands of `omniopsd rationales`: arguments in, one thin call out."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from omniopsd.rationales.making_commands import add_making

CACHE = "cache folder, or a run config with rationale_cache.path"


def add_commands(commands: Any) -> None:
    """Add `rationales` and its subcommands."""
    text = "look into a rationale cache, check it, fill it"
    top = commands.add_parser("rationales", help=text, description=f"{text[0].upper()}{text[1:]}.")
    verbs = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_compact(verbs)
    add_making(verbs)


def _compact(options: argparse.Namespace) -> None:
    from rationale_cache.writer import CacheWriter

    with CacheWriter(options.cache) as cache:
        cache.compact()


def _add_compact(verbs: Any) -> None:
    command = _verb(verbs, "compact", _compact, "merge the cache's segments into as few as there need be")
    command.add_argument("cache", metavar="CACHE", help=CACHE)


def _verb(
    verbs: Any, name: str, run: Callable[[argparse.Namespace], None], text: str
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = verbs.add_parser(
        name, help=text, description=f"{text[0].upper()}{text[1:]}."
    )
    command.set_defaults(run=run)
    return command
