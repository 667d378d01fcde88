"""Run one experiment: every arm under every seed that has no raw JSON yet, one after the other.

    python -m benchmarks.experiments benchmarks/experiments/1-table.yaml

Seed by seed, so that a broken-off experiment has whole tables of fewer seeds. A run is one JSON below
`--out`; runs that are there are skipped, so the same command goes on. `python -m
benchmarks.experiments.evidence` makes docs/evidence.md of all that is there.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path

from pydantic import ValidationError

from benchmarks.experiments.spec import Experiment, ExperimentError, read_experiment
from omniopsd.config_file import ConfigError
from omniopsd.durable import write_durably

OUT = "benchmarks/results/experiments"


def main() -> int:
    options = _arguments()
    try:
        experiments = [read_experiment(Path(path)) for path in options.experiments]
        return run_all(experiments, Path(options.out), Path(options.root), options.seeds, options.arms)
    except (ExperimentError, ConfigError, ValidationError) as error:
        print(f"experiments: error: {error}", file=sys.stderr)
        return 2


def run_all(
    experiments: list[Experiment], out: Path, root: Path, seeds: int | None, arms: list[str] | None
) -> int:
    """All missing runs, seed-major over all experiments; gives the number of failed runs (0 or 1)."""
    todo = missing_runs(experiments, out, seeds, arms)
    print(f"{len(todo)} runs to do", flush=True)
    if not todo:
        return 0
    from benchmarks.experiments.arm import ArmRunner  # torch and all engines

    runners = {experiment.name: ArmRunner(experiment, root) for experiment in experiments}
    begin = time.monotonic()
    for done, (experiment, arm, seed) in enumerate(todo, start=1):
        result = runners[experiment.name].run(arm, seed)
        path = result_path(out, experiment, arm, seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, json.dumps(result).encode())
        _say(done, len(todo), begin, f"{experiment.name} {arm} seed {seed}", result)
    return 0


def missing_runs(
    experiments: list[Experiment], out: Path, seeds: int | None, arms: list[str] | None
) -> list[tuple[Experiment, str, int]]:
    """Seed-major. Raises ExperimentError on an arm that no experiment has."""
    known = {arm for experiment in experiments for arm in experiment.arms}
    if unknown := set(arms or ()) - known:
        raise ExperimentError(
            f"--arms {', '.join(sorted(unknown))}: write some of {', '.join(sorted(known))}"
        )
    last = max(seeds or experiment.seeds for experiment in experiments)
    return [
        (experiment, arm, seed)
        for seed in range(last)
        for experiment in experiments
        for arm in experiment.arms
        if seed < (seeds or experiment.seeds)
        and (not arms or arm in arms)
        and not result_path(out, experiment, arm, seed).exists()
    ]


def result_path(out: Path, experiment: Experiment, arm: str, seed: int) -> Path:
    """Where the raw JSON of one run is."""
    return out / experiment.name / f"{arm}.{seed}.json"


def _say(done: int, runs: int, begin: float, what: str, result: dict[str, object]) -> None:
    left = (time.monotonic() - begin) / done * (runs - done)
    end = datetime.now() + timedelta(seconds=left)
    tests = result["tests"]
    assert isinstance(tests, dict)
    rates = "  ".join(f"{name} {test['measures']['accuracy']:.3f}" for name, test in tests.items())
    print(f"{done}/{runs}  {what}: {rates}  {result['seconds']:.0f} s  end about {end:%H:%M}", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.experiments",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("experiments", nargs="+", metavar="YAML", help="one experiment each")
    parser.add_argument("--out", default=OUT, metavar="DIR", help=f"raw JSON (default {OUT})")
    parser.add_argument("--root", default="runs/experiments", metavar="DIR", help="clips and run folders")
    parser.add_argument("--seeds", type=int, metavar="N", help="fewer or more seeds than the YAML says")
    parser.add_argument("--arms", nargs="+", metavar="ARM", help="these arms alone")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
