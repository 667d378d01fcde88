"""`omniopsd bench ...`: arguments in, one thin call out."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from omniopsd.bench.run_commands import add_running

OFFICIAL_FOLDER = "emotion_wheel folder of the official release"


def add_commands(commands: Any) -> None:
    """Add `bench` and its subcommands to the program's."""
    bench = commands.add_parser("bench", help="MER-UniBench", description="MER-UniBench.")
    parts = bench.add_subparsers(title="bench commands", metavar="COMMAND", required=True)
    add_score(parts)
    add_cases(parts)
    add_running(parts)


def add_score(parts: Any) -> None:
    """`bench score`: existing predictions of one set."""
    command = parts.add_parser(
        "score", help="score a set's predictions", description="Score the predictions of one set."
    )
    command.set_defaults(run=_score)
    command.add_argument("--dataset", required=True, metavar="SET", help="one of the nine sets, e.g. mer2023")
    command.add_argument("--labels", required=True, metavar="FILE", help="the set's official label file")
    command.add_argument(
        "--predictions", required=True, metavar="FILE", help="label lists: -openset.npz, .json or .csv"
    )
    command.add_argument(
        "--sentiment",
        metavar="FILE",
        help="polarities of a sentiment set (default: the -openset-sentiment.npz beside the predictions)",
    )
    command.add_argument("--wheel", metavar="DIR", help=OFFICIAL_FOLDER)
    command.add_argument(
        "--wheel-version",
        default="affectgpt",
        metavar="NAME",
        help="word table: affectgpt (same as mer2025; the default), mer2026, or own (built in, no folder)",
    )
    command.add_argument(
        "--allow-missing", action="store_true", help="count clips without prediction as wrong"
    )
    command.add_argument("--out", metavar="FILE", help="write the score as JSON here too")


def add_cases(parts: Any) -> None:
    """`bench cases`: worked cases."""
    text = "run a file of worked cases; exit code 1 if any differs"
    command = parts.add_parser("cases", help=text, description=f"{text[0].upper()}{text[1:]}.")
    command.set_defaults(run=_cases)
    command.add_argument("file", metavar="FILE", help="cases as JSON")
    command.add_argument(
        "--wheel", metavar="DIR", help=f"{OFFICIAL_FOLDER} (default: emotion_wheel beside FILE)"
    )
    command.add_argument(
        "--wheel-2026",
        metavar="DIR",
        help="the MER2026 folder (default: made from the other by its known correction, checked by hash)",
    )
    command.add_argument(
        "--released", metavar="DIR", help="released outputs by set (default: released beside FILE)"
    )


def _score(options: argparse.Namespace) -> None:
    from omniopsd.bench.score import ScoreError
    from omniopsd.bench.score_files import score_files, score_lines
    from omniopsd.durable import write_durably

    if options.out is not None and not Path(options.out).parent.is_dir():
        raise ScoreError(f"--out {options.out}: no such folder: {Path(options.out).parent}")
    score = score_files(
        options.dataset,
        labels=options.labels,
        predictions=options.predictions,
        sentiment=options.sentiment,
        wheel=options.wheel,
        wheel_version=options.wheel_version,
        allow_missing=options.allow_missing,
    )
    print("\n".join(score_lines(score)))
    if options.out is not None:
        write_durably(Path(options.out), json.dumps(score.as_json(), indent=1).encode("utf-8"))


def _cases(options: argparse.Namespace) -> None:
    from omniopsd.bench.case_run import run_cases
    from omniopsd.bench.cases import CaseTables

    beside = Path(options.file).parent
    tables = CaseTables(
        wheel=Path(options.wheel or beside / "emotion_wheel"),
        released=Path(options.released or beside / "released"),
        wheel_2026=options.wheel_2026 and Path(options.wheel_2026),
    )
    report = run_cases(options.file, tables)
    for line in (*report.unchecked, *report.mismatches):
        print(line)
    for group, number in report.compared.items():
        wrong = sum(line.startswith(f"{group}: ") for line in report.mismatches)
        print(f"{group}: {number} compared, {wrong} differ")
    print(
        f"{sum(report.compared.values())} compared, {len(report.mismatches)} differ, "
        f"{len(report.unchecked)} not checked"
    )
    if report.mismatches:
        raise SystemExit(1)
