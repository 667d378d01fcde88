"""`omniopsd bench prepare` and `omniopsd bench run`: arguments in, one thin call out."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omniopsd.arguments import whole_number

if TYPE_CHECKING:
    from omniopsd.bench.run_options import Llm

BENCHMARKS = ("mer-unibench", "mer-mini")


class OptionError(ValueError):
    """Options that do not go together."""


def add_running(parts: Any) -> None:
    """Add both to the `bench` command."""
    _add_prepare(parts)
    _add_run(parts)


def _add_prepare(parts: Any) -> None:
    text = "check your copies of the nine sets, decode every clip once, write the samples"
    command = parts.add_parser("prepare", help=text, description=f"{text[0].upper()}{text[1:]}.")
    command.set_defaults(run=_prepare)
    command.add_argument("benchmark", choices=BENCHMARKS)
    command.add_argument(
        "--root", required=True, metavar="DIR", help="folder with the sets' official folders"
    )
    command.add_argument(
        "--out", metavar="DIR", help="folder to write (default data/BENCHMARK, or -val behind it)"
    )
    _word_arguments(command)
    _set_names(command)
    command.add_argument(
        "--split",
        choices=("test", "val"),
        default="test",
        help="val: clips to choose checkpoints on (six sets)",
    )
    command.add_argument(
        "--question", metavar="FILE", help="YAML with the prompt that the model was trained on"
    )
    command.add_argument(
        "--allow-broken",
        action="store_true",
        help="leave clips without usable media out; they count as wrong",
    )
    command.add_argument(
        "--workers", type=whole_number(1), metavar="N", help="decoding threads (default: all CPUs)"
    )


def _add_run(parts: Any) -> None:
    text = "answer the prepared clips, extract labels, score, and write the reports"
    command = parts.add_parser("run", help=text, description=f"{text[0].upper()}{text[1:]}.")
    command.set_defaults(run=_run)
    command.add_argument("benchmark", choices=BENCHMARKS)
    command.add_argument("--model", required=True, metavar="RUN_OR_MODEL", help="run folder or model folder")
    command.add_argument(
        "--out", required=True, metavar="DIR", help="folder of the results; goes on where it was"
    )
    command.add_argument("--data", metavar="DIR", help="folder of `bench prepare` (default data/BENCHMARK)")
    _word_arguments(command)
    _set_names(command)
    command.add_argument(
        "--samples", type=whole_number(1), metavar="N", help="only the first N clips of each set (marked)"
    )
    command.add_argument(
        "--chunk", type=whole_number(1), default=32, metavar="N", help="clips of one engine call (default 32)"
    )
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override one key of the run config; repeatable",
    )
    _llm_arguments(command)


def _llm_arguments(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("extraction of labels and polarity")
    group.add_argument(
        "--no-llm", action="store_true", help="fixed rules instead of a language model (marked)"
    )
    group.add_argument(
        "--llm", metavar="NAME", help="model folder for a local engine, or the endpoint's model name"
    )
    group.add_argument("--endpoint", metavar="URL", help="OpenAI-compatible address, with its /v1")
    key = group.add_mutually_exclusive_group()
    key.add_argument("--api-key-env", metavar="NAME", help="environment variable with the API key")
    key.add_argument("--api-key-file", metavar="FILE", help="file with the API key (chmod 600)")
    group.add_argument(
        "--concurrency", type=whole_number(1), metavar="N", help="requests out at once (default 8)"
    )
    group.add_argument(
        "--requests-per-minute", type=whole_number(1), metavar="N", help="limit of the endpoint"
    )
    group.add_argument(
        "--prompts",
        metavar="PATH",
        help="official release (folder or qwen.py) or a YAML with labels and polarity",
    )
    group.add_argument(
        "--step-a-reads",
        choices=("whole", "answer"),
        help="the whole reply (official) or its <answer> (default whole)",
    )
    group.add_argument(
        "--repetition-penalty",
        type=float,
        metavar="X",
        help="default 1.05 (official); write 1 for an endpoint that does not know it (marked)",
    )


def _word_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--wheel", metavar="DIR", help="the official folder emotion_wheel")
    command.add_argument(
        "--wheel-version", metavar="NAME", help="affectgpt (default; the same as mer2025) or mer2026"
    )


def _set_names(command: argparse.ArgumentParser) -> None:
    command.add_argument("--sets", metavar="A,B", help="only these sets, by name, for example MER2023,MOSI")


def _prepare(options: argparse.Namespace) -> None:
    from omniopsd.bench.prepare import PrepareOptions, prepare

    suffix = "-val" if options.split == "val" else ""
    prepare(
        PrepareOptions(
            benchmark=options.benchmark,
            root=Path(options.root),
            out=Path(options.out or f"data/{options.benchmark}{suffix}"),
            wheel=options.wheel,
            words_version=options.wheel_version or "affectgpt",
            sets=_names(options.sets),
            split=options.split,
            question=options.question,
            allow_broken=options.allow_broken,
            workers=options.workers,
        )
    )


def _run(options: argparse.Namespace) -> None:
    llm = _llm(options)
    from omniopsd.bench.run import run
    from omniopsd.bench.run_options import RunOptions

    run(
        RunOptions(
            benchmark=options.benchmark,
            model=options.model,
            out=Path(options.out),
            data=Path(options.data or f"data/{options.benchmark}"),
            llm=llm,
            wheel=options.wheel,
            words_version=options.wheel_version,
            sets=_names(options.sets),
            samples=options.samples,
            prompts=options.prompts,
            passed=options.step_a_reads or "whole",
            overrides=options.set,
            chunk=options.chunk,
        )
    )


def _llm(options: argparse.Namespace) -> Llm | None:
    """The extraction model that the options name. Raises OptionError."""
    endpoint_only = ("api_key_env", "api_key_file", "concurrency", "requests_per_minute")
    llm_only = ("llm", "endpoint", *endpoint_only, "prompts", "step_a_reads", "repetition_penalty")
    if options.no_llm:
        _refuse(options, llm_only, "--no-llm asks no language model")
        return None
    if options.llm is None:
        raise OptionError(
            "bench run: which language model extracts the labels? write --llm FOLDER, --endpoint URL --llm NAME, "
            "or --no-llm for fixed rules"
        )
    from dataclasses import replace

    from omniopsd.bench.run_options import OFFICIAL_SAMPLING, Llm

    penalty = options.repetition_penalty
    if penalty is not None and not 0 < penalty <= 2:
        raise OptionError(f"--repetition-penalty {penalty:g}: write a number above 0 and up to 2")
    sampling = (
        OFFICIAL_SAMPLING if penalty is None else replace(OFFICIAL_SAMPLING, repetition_penalty=penalty)
    )
    if options.endpoint is None:
        _refuse(options, endpoint_only, "a local engine has no endpoint")
        return Llm(folder=options.llm, sampling=sampling)
    from rationale_cache.config import EndpointConfig

    endpoint = EndpointConfig(
        model=options.llm,
        base_url=options.endpoint,
        api_key_env=options.api_key_env,
        api_key_file=options.api_key_file,
        max_concurrency=options.concurrency or 8,
        requests_per_minute=options.requests_per_minute,
    )
    return Llm(endpoint=endpoint, sampling=sampling)


def _refuse(options: argparse.Namespace, names: tuple[str, ...], why: str) -> None:
    given = [f"--{name.replace('_', '-')}" for name in names if getattr(options, name) is not None]
    if given:
        raise OptionError(f"{', '.join(given)}: no effect, {why}; leave it out")


def _names(text: str | None) -> list[str] | None:
    if text is None:
        return None
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise OptionError("--sets is empty; name sets such as MER2023,MOSI, or leave it out")
    return names
