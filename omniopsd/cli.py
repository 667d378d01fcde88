"""The `omniopsd` command: arguments in, one thin call out.

Heavy imports happen inside the subcommands, so `omniopsd --help` answers at once. A user's error is
one line and exit code 2; OMNIOPSD_DEBUG=1 shows the traceback. Anything else is a traceback and 1.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from cluster.output_guard import guard_output
from cluster.runtime import RuntimeFault
from omniopsd.arguments import whole_number
from omniopsd.bench.commands import add_commands as add_bench_commands
from omniopsd.planning.commands import add_commands as add_plan_commands
from omniopsd.rationales.commands import add_commands as add_rationale_commands
from omniopsd.stop import STOPPED, Stopped

USER_ERROR, INTERRUPTED = 2, 130
# What the engines' libraries print at every start says nothing about the run; set a variable to see it.
QUIET = {"TRANSFORMERS_VERBOSITY": "error", "TQDM_DISABLE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; the exit code."""
    guard_output()
    return execute(parser().parse_args(arguments))


def execute(options: argparse.Namespace) -> int:
    """Call `options.run(options)`, and turn a user's error into one line; the exit code."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        from omniopsd.own_packages import check_own_packages

        check_own_packages()
        run: Callable[[argparse.Namespace], None] = options.run
        run(options)
    except (ValueError, RuntimeFault) as error:
        return _user_error(error)
    except Stopped as stopped:
        print(f"omniopsd: {stopped}", file=sys.stderr)
        return STOPPED
    except KeyboardInterrupt:
        print("omniopsd: interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0


def parser() -> argparse.ArgumentParser:
    """All subcommands and their arguments."""
    top = argparse.ArgumentParser(
        prog="omniopsd", description="On-policy self-distillation for omni-modal models."
    )
    top.add_argument("--version", action="version", version=f"omniopsd {_version()}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_train(commands)
    _add_check(commands)
    _add_eval(commands)
    _add_export(commands)
    _add_data(commands)
    _add_coldstart(commands)
    _add_demo(commands)
    add_bench_commands(commands)
    add_rationale_commands(commands)
    add_plan_commands(commands)
    return top


def _train(options: argparse.Namespace) -> None:
    from omniopsd.config_file import load_config

    config = load_config(options.config, options.set)
    from omniopsd.workdir import enter_workdir

    enter_workdir(options.workdir, config)
    from omniopsd.train import train

    train(config, resume=options.resume)


def _check(options: argparse.Namespace) -> None:
    from omniopsd.config_file import load_config

    config = load_config(options.config, options.set)
    from omniopsd.check import check

    check(config, limit=options.limit)


def _eval(options: argparse.Namespace) -> None:
    from omniopsd.evaluate import run_eval

    run_eval(options.source, options.data, overrides=options.set, out=options.out)


def _export(options: argparse.Namespace) -> None:
    from omniopsd.export import export_run

    export_run(options.source, options.out)


def _mer_mini(options: argparse.Namespace) -> None:
    from omniopsd.mer_mini.write import write_mer_mini

    write_mer_mini(options.out, clips=options.clips, seed=options.seed, looks=options.looks)


def _mer_mini_bench(options: argparse.Namespace) -> None:
    from omniopsd.mer_mini.bench_sets import write_mini_bench

    folder = write_mini_bench(
        options.out, options.clips, options.val_clips, options.seed, faces=options.faces
    )
    print(f"{folder}: nine miniature sets, {options.clips} scored clips each")


def _coldstart(options: argparse.Namespace) -> None:
    if options.config is None:
        from omniopsd import mini_coldstart

        mini_coldstart.run(options.out, steps=options.steps, seed=options.seed)
        return
    from omniopsd.config_file import load_config

    config = load_config(options.config, options.set)
    from omniopsd.coldstart import coldstart

    coldstart(config, options.out)


def _demo(options: argparse.Namespace) -> None:
    from omniopsd import demo

    demo.run(root=options.root, seed=options.seed)


def _add_train(commands: Any) -> None:
    command = _command(commands, "train", _train, "run the training that a YAML describes")
    _config_arguments(command)
    command.add_argument("--resume", action="store_true", help="go on from the run folder's last checkpoint")
    command.add_argument(
        "--workdir", metavar="DIR", help="where relative paths of the YAML start (default: here)"
    )


def _add_check(commands: Any) -> None:
    text = "check config, data, model folder and token budget; start nothing"
    command = _command(commands, "check", _check, text)
    _config_arguments(command)
    command.add_argument(
        "--limit",
        type=whole_number(1),
        default=64,
        metavar="N",
        help="samples of each data file whose media are decoded (default 64)",
    )


def _add_eval(commands: Any) -> None:
    command = _command(commands, "eval", _eval, "answer the samples of a data file and count the right ones")
    command.add_argument("source", metavar="RUN_OR_MODEL", help="run folder or model folder")
    command.add_argument("data", metavar="DATA", help="JSONL or Parquet file of samples with labels")
    _set_argument(command)
    command.add_argument("--out", metavar="FILE", help="write the answers and the table here too")


def _add_export(commands: Any) -> None:
    command = _command(commands, "export", _export, "write a run's newest weights as a model folder")
    command.add_argument("source", metavar="RUN", help="run folder")
    command.add_argument("out", metavar="OUT", help="folder to make; must not exist")


def _add_data(commands: Any) -> None:
    data = commands.add_parser("data", help="make data sets", description="Make data sets.")
    sets = data.add_subparsers(title="data sets", metavar="SET", required=True)
    command = _command(sets, "mer-mini", _mer_mini, "drawn and spoken clips with labels and rationales")
    command.add_argument("--out", required=True, metavar="DIR", help="folder to make")
    command.add_argument("--clips", required=True, type=whole_number(1), metavar="N", help="number of clips")
    command.add_argument(
        "--seed", type=whole_number(0), default=0, metavar="N", help="decides every clip (default 0)"
    )
    command.add_argument(
        "--looks", choices=("train", "test"), default="train", help="how the clips are drawn and spoken"
    )
    text = "nine miniature sets in the folder layout of MER-UniBench"
    command = _command(sets, "mer-mini-bench", _mer_mini_bench, text)
    command.add_argument("--out", required=True, metavar="DIR", help="folder to make")
    command.add_argument(
        "--clips",
        type=whole_number(1),
        default=128,
        metavar="N",
        help="scored clips of each set (default 128)",
    )
    command.add_argument(
        "--val-clips",
        type=whole_number(1),
        default=32,
        metavar="N",
        help="validation clips where a set has them (default 32)",
    )
    command.add_argument(
        "--seed", type=whole_number(0), default=0, metavar="N", help="decides every clip (default 0)"
    )
    command.add_argument(
        "--faces", action="store_true", help="also write openface_face/*.npy (600 kB a clip)"
    )


def _add_coldstart(commands: Any) -> None:
    text = "supervised training before distillation; without a YAML, the demo's student from nothing"
    command = _command(commands, "coldstart", _coldstart, text)
    command.add_argument("config", metavar="RUN_YAML", nargs="?", help="config whose data has responses")
    _set_argument(command)
    command.add_argument("--out", required=True, metavar="DIR", help="model folder to make")
    command.add_argument(
        "--steps", type=whole_number(1), metavar="N", help="steps of the demo's student (default 600)"
    )
    command.add_argument(
        "--seed", type=whole_number(0), default=0, metavar="N", help="seed of the demo's student"
    )


def _add_demo(commands: Any) -> None:
    text = "data, starting model, training and the before/after table, on this machine"
    command = _command(commands, "demo", _demo, text)
    command.add_argument("--root", default="runs", metavar="DIR", help="where to put it all (default runs)")
    command.add_argument(
        "--seed", type=whole_number(0), default=0, metavar="N", help="decides everything (default 0)"
    )


def _command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], None], text: str
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=f"{text[0].upper()}{text[1:]}."
    )
    command.set_defaults(run=run)
    return command


def _config_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("config", metavar="RUN_YAML", help="the run config")
    _set_argument(command)


def _set_argument(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override one key, for example --set learner.lr=1e-6; may be repeated",
    )


def _user_error(error: Exception) -> int:
    if os.environ.get("OMNIOPSD_DEBUG") == "1":
        raise error
    lines = str(error).splitlines() or [type(error).__name__]
    print(f"omniopsd: error: {lines[0] if len(lines) == 1 else ''}".rstrip(), file=sys.stderr)
    for line in lines if len(lines) > 1 else []:
        print(f"  {line}", file=sys.stderr)
    # A plain ValueError comes from a library, and its text may not say where.
    if type(error) is ValueError:
        print("  (OMNIOPSD_DEBUG=1 shows where it came from)", file=sys.stderr)
    return USER_ERROR


def _version() -> str:
    try:
        return importlib.metadata.version("omniopsd")
    except importlib.metadata.PackageNotFoundError:  # a bare clone on PYTHONPATH
        return "(not installed)"


if __name__ == "__main__":
    sys.exit(main())
