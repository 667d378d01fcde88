"""The subcommands of `omniopsd rationales` that ask a model: arguments in, one thin call out."""

from __future__ import annotations

import argparse
from typing import Any

from omniopsd.arguments import whole_number


def add_making(verbs: Any) -> None:
    """Add `make`, `audit` and `prompt`."""
    _add_make(verbs)
    _add_audit(verbs)
    _add_prompt(verbs)


def _make(options: argparse.Namespace) -> None:
    from omniopsd.config_file import load_config
    from omniopsd.rationales.make import make

    make(load_config(options.config, options.set))


def _audit(options: argparse.Namespace) -> None:
    from omniopsd.config_file import load_config
    from omniopsd.rationales.audit import audit

    audit(load_config(options.config, options.set), samples=options.samples, out=options.out)


def _prompt(options: argparse.Namespace) -> None:
    from rationale_cache.prompt import PROMPTS

    print(PROMPTS[options.mode])


def _add_make(verbs: Any) -> None:
    text = "write the rationales that a run's samples lack, by asking the configured model"
    command = verbs.add_parser("make", help=text, description=f"{text[0].upper()}{text[1:]}.")
    _config(command)
    command.set_defaults(run=_make)


def _add_audit(verbs: Any) -> None:
    text = "measure, before any training, what the evidence is worth to the configured student"
    command = verbs.add_parser("audit", help=text, description=f"{text[0].upper()}{text[1:]}.")
    _config(command)
    command.add_argument(
        "--samples",
        type=whole_number(2),
        metavar="N",
        help="ask about N samples, spread over the file (default: all)",
    )
    command.add_argument("--out", metavar="DIR", help="folder for audit.json and audit.html")
    command.set_defaults(run=_audit)


def _add_prompt(verbs: Any) -> None:
    text = "print a built-in prompt, to start an own one from"
    command = verbs.add_parser("prompt", help=text, description=f"{text[0].upper()}{text[1:]}.")
    command.add_argument("mode", choices=("blind", "label_conditioned"), nargs="?", default="blind")
    command.set_defaults(run=_prompt)


def _config(command: argparse.ArgumentParser) -> None:
    command.add_argument("config", metavar="RUN_YAML", help="the run config")
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override one key, for example --set rationale_cache.budget.max_cost=5; may be repeated",
    )
