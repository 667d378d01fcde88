"""`omniopsd plan ...`: arguments in, one thin call out."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from omniopsd.arguments import positive, whole_number, whole_numbers

if TYPE_CHECKING:
    from omniopsd.config import RunConfig
    from omniopsd.planning.calibration import Calibration
    from omniopsd.planning.situation import Situation
    from omniopsd.planning.workload import Workload
    from omniopsd.prompts import PromptBook

CALIBRATE = "calibrate"


class PlanCommandError(ValueError):
    """Arguments that do not go together."""


class DoesNotFit(ValueError):
    """A run that these machines cannot hold; one line for each problem."""


def add_commands(commands: Any) -> None:
    """Add `plan` to the program's commands."""
    text = "tell what a run needs and how long its steps take; start nothing"
    command = commands.add_parser(
        "plan",
        help=text,
        description=f"{text[0].upper()}{text[1:]}. `plan calibrate RUN_YAML` measures the constants it needs.",
    )
    command.set_defaults(run=_plan)
    command.add_argument("words", nargs="+", metavar="[calibrate] RUN_YAML", help="the run config")
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override one key, for example --set learner.ranks=8; may be repeated",
    )
    command.add_argument(
        "--cluster", metavar="FILE", help="cluster YAML (default: one node that is large enough)"
    )
    command.add_argument("--gpu", metavar="KIND", help="kind of the GPUs, for example h100")
    command.add_argument("--hardware", metavar="FILE", help="YAML of prices, other GPUs and assumptions")
    command.add_argument(
        "--price", type=positive, metavar="N", help="price of a GPU (or a node without) per hour"
    )
    command.add_argument("--calibration", metavar="FILE", help="constants that `plan calibrate` has measured")
    command.add_argument(
        "--answer-tokens", type=positive, metavar="N", help="mean length of an answer (default: its limit)"
    )
    command.add_argument(
        "--limit",
        type=whole_number(1),
        default=64,
        metavar="N",
        help="samples whose media are decoded (default 64)",
    )
    _add_simulation(command)
    _add_calibration(command)
    command.add_argument(
        "-o", "--output", choices=("text", "json"), default="text", help="form of the answer"
    )


def _add_simulation(command: Any) -> None:
    group = command.add_argument_group("what if (with --simulate)")
    group.add_argument("--simulate", action="store_true", help="play the loop as discrete events")
    group.add_argument(
        "--gpus", type=whole_numbers(1), metavar="N,N", help="GPU counts to scale roles and batch to"
    )
    group.add_argument(
        "--batch", choices=("scaled", "fixed"), default="scaled", help="with --gpus: samples_per_step"
    )
    group.add_argument("--lag", type=whole_numbers(0), metavar="N,N", help="values of rollout.max_policy_lag")
    group.add_argument(
        "--stragglers", type=_share, default=0.0, metavar="S", help="every actor is slower by exp(|N(0, S)|)"
    )
    group.add_argument(
        "--jitter", type=_share, default=0.0, metavar="S", help="sigma of each task's lognormal factor"
    )
    group.add_argument(
        "--failures", type=positive, metavar="HOURS", help="mean time between failures of one GPU"
    )
    group.add_argument(
        "--restart-seconds", type=positive, default=300.0, metavar="N", help="from a failure on (300)"
    )
    group.add_argument(
        "--save-seconds", type=positive, default=30.0, metavar="N", help="of one checkpoint (30)"
    )
    group.add_argument(
        "--seed", type=whole_number(0), default=0, metavar="N", help="of everything random (0)"
    )


def _add_calibration(command: Any) -> None:
    group = command.add_argument_group("calibrate")
    group.add_argument("--out", metavar="FILE", help="calibration file to write")
    group.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="wall: seconds; cpu: processor seconds, for a machine with one thread a role that others use too",
    )
    group.add_argument(
        "--repeats", type=whole_number(1), default=3, metavar="N", help="measurements of each call (3)"
    )


def _plan(options: argparse.Namespace) -> None:
    from omniopsd.config_file import load_config

    path = _target(options)
    one, book = _situation(load_config(path, options.set), options)
    if options.words[0] == CALIBRATE:
        _calibrate(one, book, options)
    elif options.simulate:
        _simulate(one, options)
    else:
        _tell(one, options)


def _tell(one: Situation, options: argparse.Namespace) -> None:
    from omniopsd.planning.plan import make_plan
    from omniopsd.planning.tables import as_json, lines

    plan = make_plan(one)
    _print(options, as_json(plan), lines(plan))
    if plan.problems:
        raise DoesNotFit("\n".join(plan.problems))


def _simulate(one: Situation, options: argparse.Namespace) -> None:
    from omniopsd.planning.simulation import Failures, Noise
    from omniopsd.planning.what_if import as_rows, table, what_if

    failures = options.failures and Failures(
        mtbf_hours=options.failures,
        restart_seconds=options.restart_seconds,
        save_seconds=options.save_seconds,
        every=one.config.checkpoint.every,
    )
    found = what_if(
        one,
        gpus=options.gpus or (),
        lags=options.lag or (one.config.rollout.max_policy_lag,),
        scale_batch=options.batch == "scaled",
        noise=Noise(stragglers=options.stragglers, jitter=options.jitter, seed=options.seed),
        failures=failures or None,
    )
    _print(options, as_rows(found), table(found))


def _calibrate(one: Situation, book: PromptBook, options: argparse.Namespace) -> None:
    from omniopsd.planning.calibrate import calibrate
    from omniopsd.planning.calibration import save_calibration

    found = calibrate(one, book, clock=options.clock, repeats=options.repeats)
    save_calibration(options.out, found)
    print(
        f"{options.out}: measured on {found.host} ({found.gpu or f'{found.cores} CPU cores'}), {found.clock} clock"
    )
    for role, rates in found.rates.items():
        fixed = ", ".join(f"{name} {1000 * value:.3g} ms" for name, value in rates.seconds.items() if value)
        print(f"{role}: {rates.flops / 1e9:,.4g} GFLOP/s, {rates.bytes_per_second / 1e9:.3g} GB/s; {fixed}")
    print(f"next: omniopsd plan {options.words[1]} --calibration {options.out}")


def _print(options: argparse.Namespace, values: Any, text: Iterable[str]) -> None:
    if options.output == "json":
        json.dump(values, sys.stdout, indent=1)
        print()
    else:
        print("\n".join(text))


def _target(options: argparse.Namespace) -> str:
    *verb, path = options.words
    if verb not in ([], [CALIBRATE]) or path == CALIBRATE:
        raise PlanCommandError(
            f"omniopsd plan {' '.join(options.words)}: expected RUN_YAML or calibrate RUN_YAML"
        )
    if verb and not options.out:
        raise PlanCommandError("omniopsd plan calibrate: write --out FILE, the calibration file to make")
    for name in ("gpus", "lag", "stragglers", "jitter", "failures"):
        if getattr(options, name) and not options.simulate:
            raise PlanCommandError(f"--{name} is a what-if; add --simulate")
    return str(path)


def _situation(config: RunConfig, options: argparse.Namespace) -> tuple[Situation, PromptBook]:
    """What a plan is made from, and the samples."""
    from cluster.cluster_file import load_cluster
    from omniopsd.planning.calibration import load_calibration
    from omniopsd.planning.hardware import load_hardware, machines
    from omniopsd.planning.model_shape import read_shape
    from omniopsd.planning.situation import Situation
    from omniopsd.planning.what_if import gpus_of

    hardware = load_hardware(options.hardware)
    if options.price is not None:
        prices = {"price_per_gpu_hour": options.price, "price_per_node_hour": options.price}
        hardware = hardware.model_copy(update=prices)
    cluster = load_cluster(options.cluster) if options.cluster else None
    calibration = load_calibration(options.calibration) if options.calibration else None
    workload, book = _workload(config, options, calibration)
    one = Situation(
        config=config,
        shape=read_shape(config.model.path),
        workload=workload,
        machines=machines(cluster, hardware, options.gpu, gpus_of(config)),
        calibration=calibration,
    )
    return one, book


def _workload(
    config: RunConfig, options: argparse.Namespace, calibration: Calibration | None
) -> tuple[Workload, PromptBook]:
    from omniopsd.check import require_sound
    from omniopsd.planning.workload import answers, measure
    from omniopsd.prompts import make_book
    from rollout.features import FeatureExtractor

    renderer, samples, _ = require_sound(config)
    book = make_book(config, samples, renderer)
    lengths = answers(config, options.answer_tokens, calibration)
    return measure(config, book, FeatureExtractor(config.model.path), lengths, options.limit), book


def _share(text: str) -> float:
    value = 0.0 if text.strip() == "0" else positive(text)
    if value > 2:
        raise argparse.ArgumentTypeError(f"expected a sigma up to 2, found {text!r}")
    return value
