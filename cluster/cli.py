"""The `omniopsd-cluster` command: arguments in, one thin call out.

A user's error is one line and exit code 2, a cluster's failure one line and 1; OMNIOPSD_DEBUG=1 shows the
traceback.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from cluster.output_guard import guard_output

FAILED, USER_ERROR, INTERRUPTED = 1, 2, 130
ROLES = ("rollout", "teacher", "learner", "decoder", "driver")
PROVIDERS = ("local", "ssh", "aws", "gcp", "azure", "kuberay", "slurm")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; the exit code."""
    guard_output()
    options = parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], int | None] = options.run
    try:
        return run(options) or 0
    except ValueError as error:
        return _say(error, USER_ERROR)
    except (RuntimeError, OSError) as error:
        return _say(error, FAILED)
    except KeyboardInterrupt:
        return INTERRUPTED


def parser() -> argparse.ArgumentParser:
    """All verbs and their arguments."""
    top = argparse.ArgumentParser(
        prog="omniopsd-cluster", description="Machines for omniopsd, from one YAML."
    )
    top.add_argument("--version", action="version", version=f"omniopsd-cluster {_version()}")
    verbs = top.add_subparsers(title="verbs", metavar="VERB", required=True)
    _add_init(verbs)
    _verb(verbs, "check", _check, "check the cluster YAML; start nothing")
    _add_up_and_down(verbs)
    _add_jobs(verbs)
    command = _verb(verbs, "exec", _exec, "run a command on the head")
    command.add_argument("command", nargs="*", metavar="-- COMMAND", help="the command and its arguments")
    _verb(verbs, "dashboard", _dashboard, "open a way to the dashboard")
    return top


def _add_init(verbs: Any) -> None:
    command = _verb(verbs, "init", _init, "write a commented cluster YAML")
    command.add_argument("provider", choices=PROVIDERS, help="where the machines come from")


def _add_up_and_down(verbs: Any) -> None:
    command = _verb(verbs, "up", _up, "show the plan, ask, start the nodes")
    command.add_argument("-y", "--yes", action="store_true", help="do not ask")
    command.add_argument("--dry-run", action="store_true", help="print what would be written and run")
    command = _verb(verbs, "down", _down, "list what up made, ask, remove it")
    command.add_argument("-y", "--yes", action="store_true", help="do not ask")
    command = _verb(verbs, "status", _status, "nodes, what is used, jobs")
    command.add_argument(
        "-o", "--output", choices=("table", "json"), default="table", help="form of the answer"
    )
    command.add_argument("--watch", action="store_true", help="again every 2 seconds")


def _add_jobs(verbs: Any) -> None:
    command = _verb(verbs, "submit", _submit, "start a run on the cluster")
    command.add_argument("run_yaml", metavar="RUN_YAML", help="the run config")
    command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override one key")
    command.add_argument("--follow", action="store_true", help="print its output until it ends")
    command.add_argument("--resume", action="store_true", help="go on from the run's last checkpoint")
    command = _verb(verbs, "logs", _logs, "what a run wrote")
    _job_argument(command)
    command.add_argument("--role", choices=ROLES, default="driver", help="whose output (default driver)")
    command.add_argument("--follow", action="store_true", help="until the job ends")
    command = _verb(verbs, "stop-job", _stop_job, "let a run finish its step and write a checkpoint")
    _job_argument(command)


def _init(options: argparse.Namespace) -> None:
    from cluster.init_yaml import write_template

    write_template(options.provider, options.file)


def _check(options: argparse.Namespace) -> None:
    from rich.console import Console

    from cluster.cluster_file import load_cluster
    from cluster.tables import plan_table

    Console(highlight=False).print(plan_table(load_cluster(options.file)), "no problem found")


def _up(options: argparse.Namespace) -> None:
    from cluster.verbs import up

    up(options.file, yes=options.yes, dry_run=options.dry_run)


def _down(options: argparse.Namespace) -> None:
    from cluster.verbs import down

    down(options.file, yes=options.yes)


def _status(options: argparse.Namespace) -> None:
    from cluster.watch import status

    status(options.file, json_output=options.output == "json", watch=options.watch)


def _submit(options: argparse.Namespace) -> int:
    from cluster.watch import submit

    return submit(options.file, options.run_yaml, options.set, follow=options.follow, resume=options.resume)


def _logs(options: argparse.Namespace) -> int:
    from cluster.watch import logs

    return logs(options.file, options.job, role=options.role, follow=options.follow)


def _stop_job(options: argparse.Namespace) -> None:
    from cluster.watch import stop_job

    stop_job(options.file, options.job)


def _exec(options: argparse.Namespace) -> int:
    from cluster.watch import execute

    return execute(options.file, options.command)


def _dashboard(options: argparse.Namespace) -> None:
    from cluster.watch import dashboard

    dashboard(options.file)


def _verb(
    verbs: Any, name: str, run: Callable[[argparse.Namespace], int | None], text: str
) -> argparse.ArgumentParser:
    verb: argparse.ArgumentParser = verbs.add_parser(
        name, help=text, description=f"{text[0].upper()}{text[1:]}."
    )
    verb.set_defaults(run=run)
    verb.add_argument(
        "-f", "--file", default="cluster.yaml", metavar="FILE", help="the cluster YAML (default cluster.yaml)"
    )
    return verb


def _job_argument(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("job", nargs="?", metavar="JOB", help="its id (default: the newest)")


def _say(error: Exception, code: int) -> int:
    if os.environ.get("OMNIOPSD_DEBUG") == "1":
        raise error
    lines = str(error).splitlines() or [type(error).__name__]
    print(f"omniopsd-cluster: error: {lines[0] if len(lines) == 1 else ''}".rstrip(), file=sys.stderr)
    for line in lines if len(lines) > 1 else []:
        print(f"  {line}", file=sys.stderr)
    return code


def _version() -> str:
    try:
        return importlib.metadata.version("omniopsd")
    except importlib.metadata.PackageNotFoundError:  # a bare clone on PYTHONPATH
        return "(not installed)"


if __name__ == "__main__":
    sys.exit(main())
